# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What the answers of one installation mean, where it is not what the documentation says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.parameters.given import as_native, is_nothing, plain, type_of, unfit
from limio_limitrail.parameters.readers import mapping, text, whole_number

_NEVER_ABOUT_A_ROW = frozenset({401, 403, 407, 408, 429})
"""Statuses that speak of the client, of its pace or of the request's own speed, and never of an earlier request."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An answer that refuses a request.

    :param status: the HTTP status, from 400 to 599.
    :param error_code: ProblemDetails' ``errorCode``, compared exactly; None: whatever it is, and where there is none.
    """

    status: int
    error_code: str | None = None

    def matches(self, *, status: int | None, error_code: str | None) -> bool:
        """Say whether an answer is such a refusal."""
        return status == self.status and self.error_code in (None, error_code)


@dataclass(frozen=True, kw_only=True)
class ResponseMapping:
    """What answers mean beyond what is documented.

    :param already_committed: refusals that mean that the API knows the idempotency key and has carried its row out: such a row is
        ``committed``. An error code tells them from refusals of the row itself; leave it out only where a status never means
        anything else.
    :param committed_statuses: statuses from 200 to 299 with which an empty answer means that the row was carried out, such as
        204, and which count like 200 where the answer is not empty.
    """

    already_committed: Sequence[Refusal] = ()
    committed_statuses: Sequence[int] = ()

    def is_committed(self, *, status: int | None, error_code: str | None) -> bool:
        """Say whether a refusal means that the row has been carried out."""
        return any(refusal.matches(status=status, error_code=error_code) for refusal in self.already_committed)


def response_mapping(name: str, value: object) -> ResponseMapping:
    """Read a `ResponseMapping`, or a mapping with its members, as a template gives it.

    :raises ParameterError: it is neither, or a member does not fit.
    """
    found = plain(value)
    if is_nothing(found):
        return ResponseMapping()
    if isinstance(found, ResponseMapping):
        given = {field.name: getattr(found, field.name) for field in fields(found)}
    else:
        given = _members(name, found, of=ResponseMapping)
    return ResponseMapping(
        already_committed=_refusals(f"{name}['already_committed']", given.get("already_committed")),
        committed_statuses=_statuses(f"{name}['committed_statuses']", given.get("committed_statuses")),
    )


def _statuses(name: str, value: object) -> tuple[int, ...]:
    found = plain(value)
    if isinstance(found, str):
        found = as_native(found)
    if is_nothing(found):
        return ()
    # One status is a list of one.
    items = [found] if isinstance(found, int | float) else found
    if not isinstance(items, Sequence | Set) or isinstance(items, str | bytes):
        raise unfit(name, value, expected="a list of statuses from 200 to 299, such as [204]")
    return tuple(sorted(whole_number(least=200, most=299)(f"{name}[{at}]", item) for at, item in enumerate(items)))


def _refusals(name: str, value: object) -> tuple[Refusal, ...]:
    found = plain(value)
    if isinstance(found, str):
        found = as_native(found)
    if is_nothing(found):
        return ()
    # One refusal is a list of one.
    items = [found] if isinstance(found, Refusal | Mapping) else found
    if not isinstance(items, Sequence) or isinstance(items, str | bytes):
        raise unfit(name, value, expected="a list of refusals, each with a status and perhaps an error_code")
    return tuple(_refusal(f"{name}[{at}]", item) for at, item in enumerate(items))


def _refusal(name: str, value: object) -> Refusal:
    found = plain(value)
    if isinstance(found, Refusal):
        given: Mapping[str, object] = {"status": found.status, "error_code": found.error_code}
    else:
        given = _members(name, found, of=Refusal)
    status = whole_number(least=400, most=599)(f"{name}['status']", given.get("status"))
    if status in _NEVER_ABOUT_A_ROW:
        raise unfit(f"{name}['status']", status, expected="a status that is about the row, such as 409")
    code = plain(given.get("error_code"))
    return Refusal(status=status, error_code=None if code is None else text("an error code")(f"{name}['error_code']", code))


def _members(name: str, value: object, *, of: type) -> dict[str, object]:
    names = [field.name for field in fields(of)]
    if not isinstance(value, Mapping | str):
        raise ParameterError(f"{name} must be a {of.__name__}, or a mapping of {' and '.join(names)}, got {type_of(value)}")
    found = mapping(name, value)
    if strange := sorted(set(found) - set(names)):
        raise ParameterError(f"{name} must be a mapping of {' and '.join(names)}, got the member {strange[0]!r}")
    return found
