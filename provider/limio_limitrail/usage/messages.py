# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Build the request of a usage row, and read its answer as an outcome."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from limio_limitrail.api.errors import ApiError, ProtocolError, TransportError
from limio_limitrail.api.json_body import meaning_of
from limio_limitrail.api.redact import holds_secret, repeats_piece, safe_text, safe_texts
from limio_limitrail.api.resource import fill_path
from limio_limitrail.api.responses import trace_id_in
from limio_limitrail.usage.body import Row, Text, UsageRowError, as_json, as_text, columns_of, encode, fill, is_missing
from limio_limitrail.usage.conventions import ResponseMapping
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
from limio_limitrail.usage.ledger.changes import by_value, digest_by_value, member_digests
from limio_limitrail.usage.ledger.kept_members import HashKey, keep_members
from limio_limitrail.usage.ledger.model import Outcome, UsageRow
from limio_limitrail.usage.ledger.row_identity import row_identity, shortened
from limio_limitrail.usage.ledger.states import Keep, State

if TYPE_CHECKING:
    from limio_limitrail.api.responses import Response

_quoted = json.encoder.encode_basestring_ascii
_NAMESPACE = uuid.UUID("7f1d8a52-6f0e-5a57-9a0b-0d5a7c3d9e41")
_LEFT_OUT = '"left out: it repeats a credential"'
_TOO_LARGE = '"left out: it is larger than 1 MB"'
_LARGEST_KEPT = 1_000_000
"""Bytes; the search for credentials in all encodings takes a second per megabyte."""

_WHOLE = frozenset({200, 201})
"""Statuses with which the decision of an answer counts."""

_ACCEPTED = 202
"""The request was accepted; whether it is carried out is open unless the answer has a known decision."""


class UndecidedAnswerError(ProtocolError):
    """The API has accepted a request, and its answer has no known decision."""

    permanent: ClassVar[bool] = True
    advice = (
        "Rows that were answered so are parked, and not sent again by themselves. If your API answers like this, say so with "
        "response=ResponseMapping(...), or in the connection's field response."
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

    :param tenant: the tenant in idempotency keys, or the client and host that stand for it.
    :param operation: the operation's name, which stands for the endpoint in idempotency keys.
    :param key_field: the member of the body that carries the idempotency key; None where a header does.
    :param namespace: distinguishes rows of different kinds with the same key columns; None for keys without.
    :param kept_members: members of the body that the ledger keeps, and how.
    :param hash_key: keys their hashes. Default: the tenant alone.
    """

    tenant: str
    operation: str
    path: str
    key_columns: tuple[str, ...]
    body: Mapping[str, Any] | None
    key_field: str | None = None
    namespace: str | None = None
    kept_members: Mapping[str, Keep] = field(default_factory=dict)
    hash_key: HashKey | None = None

    def columns(self) -> frozenset[str]:
        """Return the columns that a row must have."""
        return frozenset(self.key_columns) | columns_of(self.body) | self._columns_of_path

    @cached_property
    def _columns_of_path(self) -> frozenset[str]:
        return columns_of(Text(self.path))

    def build(self, row: Row, *, number: int) -> UsageRow:
        """Return a row that is ready to be sent; one that cannot be sent as it is raises a `UsageRowError`."""
        try:
            return self._build(row, number=number)
        except RecursionError:
            raise UsageRowError(number, "a column holds a value that is nested too deeply") from None

    def _build(self, row: Row, *, number: int) -> UsageRow:
        key = self._idempotency_key(row, number=number)
        values = {name: as_json(row[name], number=number, column=name) for name in self.key_columns}
        row_key = {name: shortened(value) if isinstance(value, str) else value for name, value in values.items()}
        body, content, members, kept = None, None, None, None
        if self.body is not None:
            filled = fill(self.body, row, number=number)
            if self.key_field is not None:
                _put_key(filled, self.key_field, key, number=number)
            body = encode(filled)
            content = by_value(filled)
            members = member_digests(content, salt=key)
            kept = keep_members(content, rules=self.kept_members, key=self.hash_key or HashKey(salt=self.tenant))
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
        about_the_row = {name: value for name, value in in_path.items() if name not in self.key_columns}
        return UsageRow(
            number=number,
            key=key,
            row_key=encode(row_key).decode(),
            path=path,
            body=body,
            digest=digest_by_value(path, content, in_path=about_the_row),
            identity=row_identity(self.operation, values),
            members=members,
            kept=kept,
        )

    def _idempotency_key(self, row: Row, *, number: int) -> str:
        """Return a UUID that is the same for the same row in every retry, re-run and backfill."""
        parts = []
        for name, quoted in self._quoted_key_columns:
            value = row.get(name)
            if is_missing(value):
                raise UsageRowError(number, f"key column {name!r} has no value, and every row needs a key of its own")
            parts.append(f"[{quoted}, {_quoted(_canonical(value, number=number, column=name))}]")
        before, after = self._around_key_columns
        return _uuid5(f"{before}{', '.join(parts)}{after}")

    @cached_property
    def _quoted_key_columns(self) -> tuple[tuple[str, str], ...]:
        return tuple((name, _quoted(name)) for name in sorted(self.key_columns))

    @cached_property
    def _around_key_columns(self) -> tuple[str, str]:
        """Return what stands before and behind the key columns in the JSON of a key, which is that of `json.dumps`."""
        namespace = "" if self.namespace is None else f", {_quoted(self.namespace)}"
        return f"[{_quoted(self.tenant)}, {_quoted(self.operation)}, [", f"]{namespace}]"


def _uuid5(name: str) -> str:
    """Return what `uuid.uuid5` makes of a name in this module's namespace, without the objects that it makes on the way."""
    digest = hashlib.sha1(_NAMESPACE.bytes + name.encode(), usedforsecurity=False).digest()
    value = (int.from_bytes(digest[:16]) & ~(0xF << 76 | 0x3 << 62)) | (0x5 << 76 | 0x2 << 62)
    found = f"{value:032x}"
    return f"{found[:8]}-{found[8:12]}-{found[12:16]}-{found[16:20]}-{found[20:]}"


def _put_key(body: dict[str, Any], field: str, key: str, *, number: int) -> None:
    """Put an idempotency key into the member of a body that takes it."""
    *parents, last = field.split(".")
    for name in parents:
        body = body.setdefault(name, {})
        if not isinstance(body, dict):
            raise UsageRowError(number, f"the body has no object at {name!r} to put the idempotency key into")
    if last in body:
        raise UsageRowError(number, f"the body has a member {field!r} already, where the idempotency key belongs")
    body[last] = key


def _canonical(value: object, *, number: int, column: str) -> str:
    """Write a key's value in one form, whatever its type in a database or a file: 5, 5.0 and 5.00 are one number."""
    exact = as_json(value, number=number, column=column)
    if isinstance(exact, str):
        return f"s:{exact}"
    if isinstance(exact, bool):
        return f"b:{exact}"
    if isinstance(exact, int | float | Decimal):
        digits = format(Decimal(repr(exact)) if isinstance(exact, float) else Decimal(exact), "f")
        digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
        return f"n:{'0' if digits == '-0' else digits}"
    return f"s:{as_text(exact, number=number, column=column)}"


def read_answer(answer: Response, *, response: ResponseMapping, required: bool = True, keep: bool = False) -> Outcome:
    """Return what a 2xx means for its row: ``parked`` unless a JSON object says clearly that it was carried out or denied.

    :param response: where an answer holds what, and what it means.
    :param required: whether an answer without a decision is ``parked``.
    :param keep: whether the outcome keeps the whole answer.
    """
    if not answer.body.strip():
        if answer.status in response.committed_statuses:
            return Outcome(state=State.COMMITTED, http_status=answer.status, answer="" if keep else None)
        way_out = f"say response=ResponseMapping(committed_statuses=({answer.status},))"
        detail = f"the answer is empty; where that means that the row was carried out, {way_out}"
        return Outcome(state=State.PARKED, http_status=answer.status, answer="" if keep else None, detail=detail)
    found = None
    try:
        top, found = read_object(answer.body)
        decision = find_member(top, response.decision_field) if response.decision_field else None
        reservation = _find_optional(top, response.reservation_field)
        fees = _find_optional(top, response.fees_field) if keep else None
    except (NoObjectError, AmbiguousMemberError) as error:
        kept = _kept(answer.body, found=found) if keep else None
        return Outcome(state=State.PARKED, http_status=answer.status, answer=kept, detail=str(error))
    value = decision.value if decision else None
    state = response.states.get(value, State.PARKED) if isinstance(value, str) else State.PARKED
    is_known = state is not State.PARKED
    reserved = str(reservation.value) if reservation and type(reservation.value) in (str, int) else None
    shown, trace_id = safe_texts(reserved, found.get("traceId"))
    kept = _kept(answer.body, found=found) if keep else None
    # What was not masked repeats nothing.
    is_secret = reserved is not None and shown != reserved and holds_secret(reserved)
    outcome = Outcome(
        state=state,
        http_status=answer.status,
        decision=value if is_known else safe_text(value),
        reservation_id=None if is_secret else shown,
        trace_id=trace_id or trace_id_in(answer.headers),
        # What became of the row is known all the same.
        detail="the reservation's id repeats a credential, and is left out" if is_secret else None,
        fees=fees.raw.decode() if fees and kept not in (_LEFT_OUT, _TOO_LARGE) else None,
        answer=kept,
    )
    if (failed := next(failed_members(decision, top=top, denied=state is State.DENIED), None)) is not None:
        said = safe_text(failed)
        detail = f"the answer's member {said!r} says that something failed"
        return msgspec.structs.replace(outcome, state=State.PARKED, detail=detail)
    if value is None and (response.decision_field is None or not required):
        state = State.COMMITTED
        outcome = msgspec.structs.replace(outcome, state=state)
    elif value is None:
        names = ", ".join(sorted(str(safe_text(name))[:40] for name in list(found)[:8])) or "nothing"
        return msgspec.structs.replace(outcome, detail=f"the answer has no {response.decision_field!r}; it has {names}")
    elif not is_known:
        known = ", ".join(response.states)
        what = f"the decision {outcome.decision!r}" if outcome.decision else f"the answer's decision is {kind_of(value)}, and"
        return msgspec.structs.replace(outcome, detail=f"{what} is none of those that are known ({known})")
    means_it = answer.status in _WHOLE or answer.status in response.committed_statuses
    if not means_it and not (answer.status == _ACCEPTED and is_known):
        meaning = meaning_of(answer.status)
        detail = f"status {answer.status} does not say that the row was carried out{f' ({meaning})' if meaning else ''}"
        way_out = f"where it does, say response=ResponseMapping(committed_statuses=({answer.status},))"
        return msgspec.structs.replace(outcome, state=State.PARKED, detail=f"{detail}; {way_out}")
    return outcome


def _find_optional(top: JsonObject, path: str) -> Member | None:
    """Return an optional member; one that is spelt in another case is another one."""
    try:
        return find_member(top, path)
    except OtherCaseError:
        return None


def _kept(body: bytes, *, found: object = None) -> str:
    """Return the text of an answer, unless it is large or repeats a credential, with or without JSON's escapes."""
    if len(body) > _LARGEST_KEPT:
        return _TOO_LARGE
    whole = body.decode("utf-8", "replace").replace("\0", "\ufffd")
    try:
        plain = json.dumps(found, ensure_ascii=False)
    except RecursionError:
        return _LEFT_OUT
    return _LEFT_OUT if repeats_piece(whole) or repeats_piece(plain) else whole


def outcome_of(error: ApiError, *, state: State) -> Outcome:
    """Return an error as the outcome of a row in the state that it means."""
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
    """Check the columns of all rows before the first one is read."""
    if lacking := sorted(needed - set(rows_have)):
        raise UsageRowError(
            0, f"the rows have no column {', '.join(map(repr, lacking))}; they have {', '.join(map(repr, rows_have))}"
        )
