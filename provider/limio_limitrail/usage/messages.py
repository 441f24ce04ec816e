# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A usage row becomes a request, and an answer becomes an outcome."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from limio_limitrail.api.body_errors import meaning_of
from limio_limitrail.api.errors import ApiError, ProtocolError, RequestContext, TransportError
from limio_limitrail.api.redact import holds_secret, repeats_piece, safe_text
from limio_limitrail.api.resource import fill_path
from limio_limitrail.api.responses import trace_id_in
from limio_limitrail.usage.body import Row, Text, UsageRowError, as_json, as_text, columns_of, encode, fill, is_missing
from limio_limitrail.usage.json_members import (
    AmbiguousMemberError,
    JsonObject,
    Member,
    NoObjectError,
    OtherCaseError,
    failed_members,
    find_member,
    kind_of,
    read_object,
)
from limio_limitrail.usage.ledger.digests import by_value, digest_by_value, member_digests
from limio_limitrail.usage.ledger.model import Outcome, State, UsageRow
from limio_limitrail.usage.ledger.row_identity import row_identity

if TYPE_CHECKING:
    from limio_limitrail.api.responses import Response

_NAMESPACE = uuid.UUID("7f1d8a52-6f0e-5a57-9a0b-0d5a7c3d9e41")
_LONGEST_VALUE = 200

_LEFT_OUT = '"left out: it repeats a credential"'
"""What is kept of an answer that does so."""

_TOO_LARGE = '"left out: it is larger than 1 MB"'
_LARGEST_KEPT = 1_000_000
"""Bytes of an answer that is kept: it is read for credentials in all forms, which takes a second a megabyte."""

DECISIONS: Mapping[str, State] = MappingProxyType(
    {
        "ALLOWED": State.COMMITTED,
        "WARNING": State.COMMITTED,
        "FEE_CALCULATED": State.COMMITTED,
        "DENIED_BY_POLICY": State.DENIED,
    }
)
"""The decisions that LimitRail's documentation names, and what they mean for a row."""

_WHOLE = frozenset({200, 201})
"""Statuses with which an answer means what it says."""

_ACCEPTED = 202
"""Means that a request was taken, and that what becomes of it is open: unless the answer says so itself."""


class UndecidedAnswerError(ProtocolError):
    """The API has accepted a request, and its answer holds no decision that is known."""

    permanent: ClassVar[bool] = True
    advice = (
        "Rows that were answered so are parked, and not sent again by themselves. If your API answers like this, say so with "
        "decision_field=, decisions= and response=."
    )


class MisplacedAnswerError(TransportError):
    """An answer belongs to another request, or may do so: the API, or a proxy before it, sends answers twice."""

    advice = (
        "Whether the row was carried out is not known. Tell whoever runs the API, or the proxy before it, that an answer came "
        "twice on one connection."
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
    :param namespace: goes into the idempotency key, too, to tell rows apart that share their key columns; none for keys without.
    """

    tenant: str
    operation: str
    path: str
    key: tuple[str, ...]
    body: Mapping[str, Any] | None
    key_field: str | None = None
    namespace: str | None = None

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
        named = [self.tenant, self.operation, parts, *(() if self.namespace is None else (self.namespace,))]
        key = str(uuid.uuid5(_NAMESPACE, json.dumps(named, ensure_ascii=True)))
        values = {name: as_json(row[name], number=number, column=name) for name in self.key}
        row_key = {name: _shown(value, number=number, column=name) for name, value in values.items()}
        body, content, members = None, None, None
        if self.body is not None:
            filled = fill(self.body, row, number=number)
            if self.key_field is not None:
                _put(filled, self.key_field, key, number=number)
            body = encode(filled)
            content = by_value(filled)
            members = member_digests(content, salt=key)
        in_path = {
            name: as_text(row[name], number=number, column=name)
            for name in self._columns_of_path
            if not is_missing(row.get(name))
        }
        for name, value in in_path.items():
            if holds_secret(value):
                raise UsageRowError(number, f"column {name!r} repeats a credential, which goes into no path")
        try:
            path = fill_path(self.path, in_path, resource=self.operation)
        except ValueError:
            what = f"the path {self.path!r} needs a value in each of its columns, and none that leads to another path"
            raise UsageRowError(number, what) from None
        return UsageRow(
            number=number,
            key=key,
            row_key=encode(row_key).decode(),
            path=path,
            body=body,
            digest=digest_by_value(path, content, in_path={name: in_path[name] for name in in_path if name not in self.key}),
            identity=row_identity(self.operation, values),
            members=members,
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
    """Where an answer says what. Members of objects in it are named with dots between the names.

    :param decision_field: the member that holds the decision; none where every success counts as carried out.
    :param reservation_field: the member that holds the reservation's id.
    :param fees_field: the member that holds the fees.
    :param decisions: the decisions that are known, and what they mean.
    :param required: whether an answer without a decision is none.
    :param committed_statuses: statuses with which an empty answer means that the row was carried out, and which count like 200
        where the answer is not empty.
    """

    decision_field: str | None = "decision"
    reservation_field: str = "reservationId"
    fees_field: str = "fees"
    decisions: Mapping[str, State] = field(default_factory=lambda: DECISIONS)
    required: bool = True
    committed_statuses: frozenset[int] = frozenset()


def read_answer(answer: Response, *, reading: AnswerReading, keep: bool = False) -> Outcome:
    """Say what a success means for its row; ``parked`` where it does not say so itself, in a JSON object.

    :param keep: whether the outcome keeps the whole answer.
    """
    if not answer.body.strip():
        if answer.status in reading.committed_statuses:
            return Outcome(state=State.COMMITTED, http_status=answer.status, answer="" if keep else None)
        way_out = f"say response=ResponseMapping(committed_statuses=({answer.status},))"
        detail = f"the answer is empty; where that means that the row was carried out, {way_out}"
        return Outcome(state=State.PARKED, http_status=answer.status, answer="" if keep else None, detail=detail)
    found = None
    try:
        top, found = read_object(answer.body)
        decision = find_member(top, reading.decision_field) if reading.decision_field else None
        reservation = _find_well_spelt(top, reading.reservation_field)
        fees = _find_well_spelt(top, reading.fees_field) if keep else None
    except (NoObjectError, AmbiguousMemberError) as error:
        kept = _kept(answer.body, found=found) if keep else None
        return Outcome(state=State.PARKED, http_status=answer.status, answer=kept, detail=str(error))
    value = decision.value if decision else None
    state = reading.decisions.get(value, State.PARKED) if isinstance(value, str) else State.PARKED
    is_known = state is not State.PARKED
    reserved = str(reservation.value) if reservation and type(reservation.value) in (str, int) else None
    shown = safe_text(reserved)
    # What was not masked repeats nothing.
    is_secret = reserved is not None and shown != reserved and holds_secret(reserved)
    outcome = Outcome(
        state=state,
        http_status=answer.status,
        decision=value if is_known else safe_text(value),
        reservation_id=None if is_secret else shown,
        trace_id=safe_text(found.get("traceId")) or trace_id_in(answer.headers),
        # What became of the row is known all the same.
        detail="the reservation's id repeats a credential, and is left out" if is_secret else None,
    )
    if keep:
        kept = _kept(answer.body, found=found)
        outcome = replace(outcome, answer=kept, fees=fees.raw.decode() if fees and kept not in (_LEFT_OUT, _TOO_LARGE) else None)
    if (failed := next(failed_members(decision, top=top, denied=state is State.DENIED), None)) is not None:
        said = safe_text(failed)
        return replace(outcome, state=State.PARKED, detail=f"the answer's member {said!r} says that something failed")
    if value is None and (reading.decision_field is None or not reading.required):
        state = State.COMMITTED
        outcome = replace(outcome, state=state)
    elif value is None:
        names = ", ".join(sorted(str(safe_text(name))[:40] for name in list(found)[:8])) or "nothing"
        return replace(outcome, detail=f"the answer has no {reading.decision_field!r}; it has {names}")
    elif not is_known:
        known = ", ".join(reading.decisions)
        what = f"the decision {outcome.decision!r}" if outcome.decision else f"the answer's decision is {kind_of(value)}, and"
        return replace(outcome, detail=f"{what} is none of those that are known ({known})")
    if answer.status not in _WHOLE | reading.committed_statuses and not (answer.status == _ACCEPTED and is_known):
        meaning = meaning_of(answer.status)
        detail = f"status {answer.status} does not say that the row was carried out{f' ({meaning})' if meaning else ''}"
        way_out = f"where it does, say response=ResponseMapping(committed_statuses=({answer.status},))"
        return replace(outcome, state=State.PARKED, detail=f"{detail}; {way_out}")
    return outcome


def _find_well_spelt(top: JsonObject, path: str) -> Member | None:
    """Find a member that an answer need not have: one in another case is another one.

    :raises AmbiguousMemberError: it is there more than once.
    """
    try:
        return find_member(top, path)
    except OtherCaseError:
        return None


def _kept(body: bytes, *, found: object = None) -> str:
    """Return what is kept of an answer: all, unless it is large or repeats a credential, with or without JSON's escapes."""
    if len(body) > _LARGEST_KEPT:
        return _TOO_LARGE
    whole = body.decode("utf-8", "replace").replace("\0", "\ufffd")
    try:
        plain = json.dumps(found, ensure_ascii=False)
    except RecursionError:
        return _LEFT_OUT
    return _LEFT_OUT if repeats_piece(whole) or repeats_piece(plain) else whole


def undecided(outcome: Outcome, *, path: str, operation: str) -> UndecidedAnswerError:
    """Make the error that says that the API accepted a request and did not say what it decided."""
    return UndecidedAnswerError(
        RequestContext(
            api="LimitRail",
            resource=operation,
            method="POST",
            path=path,
            status=outcome.http_status,
            reason=outcome.detail or "",
            trace_id=outcome.trace_id,
        )
    )


def misplaced(outcome: Outcome, *, path: str, operation: str, reason: str) -> MisplacedAnswerError:
    """Make the error that says that an answer may be another row's.

    :param outcome: what it says.
    :param reason: what shows it.
    """
    return MisplacedAnswerError(
        RequestContext(
            api="LimitRail",
            resource=operation,
            method="POST",
            path=path,
            status=outcome.http_status,
            reason=reason,
            trace_id=outcome.trace_id,
        )
    )


def outcome_of(error: ApiError, *, state: State) -> Outcome:
    """Put what an error says into an outcome.

    :param state: what the error means for the row.
    """
    failure = error.context
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
