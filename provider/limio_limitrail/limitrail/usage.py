# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A usage row becomes a request, and an answer becomes an outcome."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from limio_limitrail.api.errors import ApiError, Failure, ProtocolError
from limio_limitrail.api.json_body import NestedTooDeeplyError, NotJSONError, decode_json
from limio_limitrail.api.redact import holds_secret, safe_text
from limio_limitrail.api.resource import fill_path
from limio_limitrail.api.secret import Secret
from limio_limitrail.ledger.model import Outcome, State, UsageRow
from limio_limitrail.limitrail.body import Row, Text, UsageRowError, as_json, as_text, columns_of, encode, fill, is_missing

if TYPE_CHECKING:
    from limio_limitrail.api.client import Answer

_NAMESPACE = uuid.UUID("7f1d8a52-6f0e-5a57-9a0b-0d5a7c3d9e41")
_LONGEST_VALUE = 200

_LEFT_OUT = '"left out: it repeats a credential"'
"""What is kept of an answer that does so."""

DECISIONS: Mapping[str, State] = MappingProxyType(
    {
        "ALLOWED": State.COMMITTED,
        "WARNING": State.COMMITTED,
        "FEE_CALCULATED": State.COMMITTED,
        "DENIED_BY_POLICY": State.DENIED,
    }
)
"""The decisions that LimitRail's documentation names, and what they mean for a row."""


class UndecidedAnswerError(ProtocolError):
    """The API has accepted a request, and its answer holds no decision that is known."""

    hopeless: ClassVar[bool] = True
    advice = (
        "Rows that were answered so are parked, and not sent again by themselves. If your API answers like this, say so with "
        "decision_field= and decisions=."
    )


@dataclass(frozen=True, kw_only=True)
class UsageTemplate:
    """How rows become requests.

    :param tenant: what stands for the tenant in idempotency keys.
    :param operation: the operation's name, which stands for the endpoint in them.
    :param path: where requests go; columns may stand in braces.
    :param key: the columns that identify a row.
    :param body: what the JSON is made of; none where there is none.
    :param key_field: the member of the body that takes the idempotency key, with dots between nested names; none where a header
        does.
    """

    tenant: str
    operation: str
    path: str
    key: tuple[str, ...]
    body: Mapping[str, Any] | None
    key_field: str | None = None

    def columns(self) -> frozenset[str]:
        """Name the columns that a row must have."""
        return frozenset(self.key) | columns_of(self.body) | self._columns_of_path

    @cached_property
    def _columns_of_path(self) -> frozenset[str]:
        return columns_of(Text(self.path))

    @cached_property
    def _sorted_key(self) -> list[str]:
        return sorted(self.key)

    def build(self, row: Row, *, number: int) -> UsageRow:
        """Make a row ready to be sent.

        :param number: its place in the input, from 1.
        :raises UsageRowError: it cannot be sent as it is.
        """
        try:
            return self._build(row, number=number)
        except RecursionError:
            raise UsageRowError(number, "a column holds a value that is nested too deeply") from None

    def _build(self, row: Row, *, number: int) -> UsageRow:
        parts = []
        for name in self._sorted_key:
            if is_missing(row.get(name)):
                raise UsageRowError(number, f"key column {name!r} has no value, and every row needs a key of its own")
            parts.append([name, _canonical(row[name], number=number, column=name)])
        key = str(uuid.uuid5(_NAMESPACE, json.dumps([self.tenant, self.operation, parts], ensure_ascii=True)))
        row_key = {name: _shown(row[name], number=number, column=name) for name in self.key}
        body = None
        if self.body is not None:
            filled = fill(self.body, row, number=number)
            if self.key_field is not None:
                _put(filled, self.key_field, key, number=number)
            body = encode(filled)
        in_path = {
            name: as_text(row[name], number=number, column=name)
            for name in self._columns_of_path
            if not is_missing(row.get(name))
        }
        try:
            path = fill_path(self.path, in_path, resource=self.operation)
        except ValueError:
            raise UsageRowError(number, f"the path {self.path!r} needs a value in each of its columns") from None
        return UsageRow(
            number=number,
            key=key,
            row_key=encode(row_key).decode(),
            path=path,
            body=body,
            digest=hashlib.sha256(path.encode() + b"\n" + (body or b"")).hexdigest(),
        )


def _canonical(value: object, *, number: int, column: str) -> str:
    """Write a key's value in one way, however a database or a file gives it: 5, 5.0 and 5.00 are one number."""
    exact = as_json(value, number=number, column=column)
    if isinstance(exact, bool):
        return f"b:{exact}"
    if isinstance(exact, int | float | Decimal):
        digits = format(Decimal(repr(exact)) if isinstance(exact, float) else Decimal(exact), "f")
        digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
        return f"n:{'0' if digits == '-0' else digits}"
    return f"s:{as_text(exact, number=number, column=column)}"


def _shown(value: object, *, number: int, column: str) -> Any:
    plain = as_json(value, number=number, column=column)
    if not isinstance(plain, str) or len(plain) <= _LONGEST_VALUE:
        return plain
    # The digest tells values apart that begin alike.
    mark = f"… ({len(plain):,} characters, SHA-256 {hashlib.sha256(plain.encode()).hexdigest()[:12]})"
    return plain[: _LONGEST_VALUE - len(mark)] + mark


def _put(body: dict[str, Any], place: str, key: str, *, number: int) -> None:
    *parents, last = place.split(".")
    for name in parents:
        body = body.setdefault(name, {})
        if not isinstance(body, dict):
            raise UsageRowError(number, f"the body has no object at {name!r} to put the idempotency key into")
    if last in body:
        raise UsageRowError(number, f"the body has a member {place!r} already, where the idempotency key belongs")
    body[last] = key


@dataclass(frozen=True, kw_only=True)
class AnswerReading:
    """Where an answer says what.

    :param decision_field: the member that holds the decision; none where every success counts as carried out.
    :param reservation_field: the member that holds the reservation's id.
    :param fees_field: the member that holds the fees.
    :param decisions: the decisions that are known, and what they mean.
    :param required: whether an answer without a decision is none.
    """

    decision_field: str | None = "decision"
    reservation_field: str = "reservationId"
    fees_field: str = "fees"
    decisions: Mapping[str, State] = field(default_factory=lambda: DECISIONS)
    required: bool = True


def read_answer(answer: Answer, *, reading: AnswerReading, keep: bool = False, secrets: Iterable[Secret] = ()) -> Outcome:
    """Say what a success means for its row; ``parked`` where it holds no decision that is known.

    :param keep: whether the outcome keeps the whole answer.
    :param secrets: credentials that nothing may repeat.
    """
    secrets = tuple(secrets)
    try:
        found = decode_json(answer.body) if answer.body.strip() else {}
        # As it is without the escapes that JSON may have.
        plain = json.dumps(found, ensure_ascii=False) if keep else ""
    except (NotJSONError, RecursionError) as error:
        found, plain = None, ""
        what = "nested too deeply" if isinstance(error, NestedTooDeeplyError | RecursionError) else "no JSON object"
    else:
        what = "no JSON object"
    members: dict[str, Any] = found if isinstance(found, dict) else {}
    decision = members.get(reading.decision_field) if reading.decision_field else None
    if not (isinstance(decision, str) and decision in reading.decisions):
        decision = safe_text(decision, secrets=secrets)
    reservation = members.get(reading.reservation_field)
    whole = answer.body.decode("utf-8", "replace").replace("\0", "\ufffd") if keep else ""
    echoes = keep and holds_secret(whole + plain, secrets=secrets)
    outcome = Outcome(
        state=State.COMMITTED,
        http_status=answer.status,
        decision=decision,
        reservation_id=safe_text(str(reservation), secrets=secrets) if isinstance(reservation, str | int) else None,
        trace_id=safe_text(members.get("traceId"), secrets=secrets),
        fees=_raw_member(answer.body, reading.fees_field) if keep and not echoes else None,
        answer=(_LEFT_OUT if echoes else whole) if keep else None,
    )
    if decision is None:
        if reading.decision_field is None or not reading.required:
            return outcome
        names = ", ".join(sorted(str(safe_text(name, secrets=secrets))[:40] for name in list(members)[:8])) or "nothing"
        is_object = isinstance(found, dict)
        detail = f"the answer has no {reading.decision_field!r}; it has {names}" if is_object else f"the answer is {what}"
        return replace(outcome, state=State.PARKED, detail=detail)
    if decision not in reading.decisions:
        known = ", ".join(reading.decisions)
        return replace(outcome, state=State.PARKED, detail=f"the decision {decision!r} is none of those that are known ({known})")
    state = reading.decisions[decision]
    return outcome if state is outcome.state else replace(outcome, state=state)


def _raw_member(body: bytes, name: str) -> str | None:
    """Give a member's JSON as it came, every digit of it."""
    try:
        found = msgspec.json.decode(body, type=dict[str, msgspec.Raw]).get(name)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if found is None else bytes(found).decode("utf-8", "replace")


def undecided(outcome: Outcome, *, path: str, operation: str) -> UndecidedAnswerError:
    """Make the error that says that the API accepted a request and did not say what it decided."""
    return UndecidedAnswerError(
        Failure(
            api="LimitRail",
            resource=operation,
            method="POST",
            path=path,
            status=outcome.http_status,
            reason=outcome.detail or "",
            trace_id=outcome.trace_id,
        )
    )


def outcome_of(error: ApiError, *, state: State) -> Outcome:
    """Put what an error says into an outcome.

    :param state: what the error means for the row.
    """
    failure = error.failure
    problem = failure.problem
    said = ": ".join(text for text in (problem.title, problem.message) if text)
    return Outcome(
        state=state,
        http_status=failure.status,
        error_code=problem.error_code,
        resource_key=problem.resource_key,
        trace_id=failure.trace_id,
        field=problem.field,
        detail=said or failure.reason or type(error).__name__,
    )


def check_columns(rows_have: Sequence[str], *, needed: frozenset[str]) -> None:
    """Find out before the first row that the rows lack columns.

    :raises UsageRowError: they do.
    """
    lacking = sorted(needed - set(rows_have))
    if lacking:
        raise UsageRowError(
            0,
            f"the rows have no column {', '.join(repr(name) for name in lacking)}; "
            f"they have {', '.join(repr(name) for name in rows_have)}",
        )
