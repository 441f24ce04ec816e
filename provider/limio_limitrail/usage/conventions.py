# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The usage API: its operations, how it takes idempotency keys, and how it answers. The latter two are set once per connection,
or by a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from datetime import timedelta
from functools import cached_property
from types import MappingProxyType

import msgspec

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.lazy import lazy_pattern
from limio_limitrail.parameters.given import as_native, is_nothing, plain, unfit
from limio_limitrail.parameters.members import read_members
from limio_limitrail.parameters.readers import choice, mapping, optional, text, whole_number
from limio_limitrail.parameters.times import span
from limio_limitrail.usage.ledger.states import RESEND_WITHIN, State

_NEVER_ABOUT_A_ROW = frozenset({401, 403, 407, 408, 429})
"""Statuses about the client, its rate or the request's own speed, and never about an earlier request."""

DECISIONS: Mapping[str, State] = MappingProxyType(
    {
        "ALLOWED": State.COMMITTED,
        "WARNING": State.COMMITTED,
        "FEE_CALCULATED": State.COMMITTED,
        "DENIED_BY_POLICY": State.DENIED,
    }
)
"""The decisions of LimitRail's documentation, and what they mean for a row."""


_HEADER = lazy_pattern(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Idempotency(msgspec.Struct, frozen=True, kw_only=True):
    """How your LimitRail takes idempotency keys.

    :param header: the header that carries the key.
    :param field: a member of the body that carries it instead, with dots between nested names.
    :param resend_within: with ``on_unknown="resend"``: for how long after its first request a row without a clear answer may be
        sent again under its key; a timedelta, seconds, or a text such as ``PT20H``. Less than the API remembers keys; older rows
        are parked.
    """

    header: str = "Idempotency-Key"
    field: str | None = None
    resend_within: timedelta = timedelta(seconds=RESEND_WITHIN)


def _header(name: str, value: object) -> str:
    found = text("the name of a header")(name, value)
    if not _HEADER.fullmatch(found):
        raise unfit(name, value, expected="the name of a header, such as Idempotency-Key")
    return found


_IDEMPOTENCY_READERS = {"header": _header, "field": optional(text("the name of a member")), "resend_within": span()}


def idempotency(name: str, value: object) -> Idempotency:
    """Read an `Idempotency`, or a mapping with its members.

    :raises ParameterError: it is neither, or a member does not fit.
    """
    return read_members(name, value, of=Idempotency, readers=_IDEMPOTENCY_READERS)


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A response that refuses a request.

    :param status: the HTTP status, from 400 to 599.
    :param error_code: ProblemDetails' ``errorCode``, compared exactly; None matches any, and a response without one.
    """

    status: int
    error_code: str | None = None


class ResponseMapping(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """How your LimitRail answers, where that is not what its documentation shows.

    Nested members are named with dots between the names, such as ``"result.decision"``.

    :param decision_field: the member with the decision. None: a response needs no decision to count as carried out; it must be a
        JSON object all the same.
    :param reservation_field: the member with a reservation's id.
    :param fees_field: the member with the fees, which a preview writes into its table.
    :param decisions: what further decisions mean: decision → ``committed`` or ``denied``.
    :param already_committed: refusals which mean that the API knows the idempotency key and has carried its row out: such a row
        is ``committed``. Leave a refusal's error code out only if its status never means anything else.
    :param committed_statuses: statuses from 200 to 299 with which an empty response means that the row was carried out, such as
        204. A response that is not empty is then read as one with status 200.
    """

    decision_field: str | None = "decision"
    reservation_field: str = "reservationId"
    fees_field: str = "fees"
    decisions: Mapping[str, str] = msgspec.field(default_factory=dict)
    already_committed: Sequence[Refusal] = ()
    committed_statuses: Sequence[int] = ()

    @cached_property
    def states(self) -> Mapping[str, State]:
        """All known decisions, and what they mean for a row."""
        return {**DECISIONS, **{decision: State(meaning) for decision, meaning in self.decisions.items()}}

    def is_committed(self, *, status: int | None, error_code: str | None) -> bool:
        """Return whether a refusal means that the row has been carried out."""
        return any(one.status == status and one.error_code in (None, error_code) for one in self.already_committed)


def _items(value: object, *, single: Callable[[object], bool]) -> Sequence[object] | None:
    """Return the items of a list, which may be written out as a text, or be its only item; None where it is no list."""
    found = plain(value)
    if isinstance(found, str):
        found = as_native(found)
    if is_nothing(found):
        return ()
    if single(found):
        return [found]
    return list(found) if isinstance(found, Sequence | Set) and not isinstance(found, str | bytes) else None


def _statuses(name: str, value: object) -> tuple[int, ...]:
    items = _items(value, single=lambda found: isinstance(found, int | float))
    if items is None:
        raise unfit(name, value, expected="a list of statuses from 200 to 299, such as [204]")
    return tuple(sorted(whole_number(least=200, most=299)(f"{name}[{at}]", item) for at, item in enumerate(items)))


def _refusals(name: str, value: object) -> tuple[Refusal, ...]:
    items = _items(value, single=lambda found: isinstance(found, Refusal | Mapping))
    if items is None:
        raise unfit(name, value, expected="a list of refusals, each with a status and perhaps an error_code")
    readers = {"status": _refused_status, "error_code": _error_code}
    return tuple(read_members(f"{name}[{at}]", item, of=Refusal, readers=readers) for at, item in enumerate(items))


def _refused_status(name: str, value: object) -> int:
    status = whole_number(least=400, most=599)(name, value)
    if status in _NEVER_ABOUT_A_ROW:
        raise unfit(name, status, expected="a status that is about the row, such as 409")
    return status


def _error_code(name: str, value: object) -> str | None:
    return None if plain(value) is None else text("an error code")(name, value)


def _decisions(name: str, value: object) -> dict[str, str]:
    meaning = choice(State.COMMITTED.value, State.DENIED.value)
    given = {} if is_nothing(plain(value)) else mapping(name, value)
    return {decision: meaning(f"{name}[{decision!r}]", item) for decision, item in given.items()}


_MEMBER = text("the name of a member")
_RESPONSE_READERS = {
    "decision_field": optional(_MEMBER),
    "reservation_field": _MEMBER,
    "fees_field": _MEMBER,
    "decisions": _decisions,
    "already_committed": _refusals,
    "committed_statuses": _statuses,
}


def response_mapping(name: str, value: object) -> ResponseMapping:
    """Read a `ResponseMapping`, or a mapping with its members.

    :raises ParameterError: it is neither, or a member does not fit.
    """
    return read_members(name, value, of=ResponseMapping, readers=_RESPONSE_READERS)


USAGE_SCOPE = "limitrail.usage.write"
"""What ``/v1/usage/commit`` needs (LimitRail developer console)."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint that takes one usage row per request, by POST.

    :param short_name: the value of the operator's parameter ``operation``.
    :param name: its name in the ledger, the log and the connection's ``paths``. Idempotency keys contain it instead of the path,
        so that correcting a path does not change them.
    :param decides: whether its response must hold a decision.
    :param assumed: what no document confirms.
    """

    short_name: str
    name: str
    path: str
    scope: str = USAGE_SCOPE
    decides: bool = True
    changes: bool = True
    assumed: tuple[str, ...] = ()


_BODIES = "the fields of request and answer"
_UNDOCUMENTED = ("the path", "the scope", _BODIES)
_RESERVATION = "/v1/usage/reservations/{reservation_id}"

_ROWS = (
    Operation(short_name="commit", name="usage.commit", path="/v1/usage/commit", assumed=("the method POST", _BODIES)),
    Operation(short_name="preview", name="usage.preview", path="/v1/usage/preview", changes=False, assumed=_UNDOCUMENTED),
    Operation(short_name="reserve", name="usage.reserve", path="/v1/usage/reserve", assumed=_UNDOCUMENTED),
    *(
        Operation(
            short_name=f"{verb}_reservation",
            name=f"usage.{verb}_reservation",
            path=f"{_RESERVATION}/{verb}",
            decides=False,
            assumed=_UNDOCUMENTED,
        )
        for verb in ("commit", "cancel")
    ),
)

OPERATIONS: Mapping[str, Operation] = MappingProxyType({row.short_name: row for row in _ROWS})
"""Every operation by its short name. That LimitRail previews, reserves, commits and cancels is public (LimitRail docs)."""


def find_operation(short_name: str) -> Operation:
    """Return an operation."""
    try:
        return OPERATIONS[short_name]
    except KeyError:
        raise ParameterError(f"operation={short_name!r} is none of {', '.join(OPERATIONS)}") from None


def require_body(body: Mapping[str, object] | None, *, operation: Operation, keys: Idempotency) -> None:
    """Check that there is a body where the operation or the idempotency key needs one.

    :raises ParameterError: there is none.
    """
    if body is None and (operation.decides or keys.field):
        raise ParameterError(
            f"operation={operation.short_name!r} needs a body: a mapping from the request's members to columns and values"
        )
