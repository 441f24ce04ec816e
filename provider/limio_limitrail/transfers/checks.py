# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read the checks of a load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.parameters.given import as_native, is_nothing, plain, unfit
from limio_limitrail.parameters.members import read_members
from limio_limitrail.parameters.readers import Reader, choice, names, optional, text, whole_number

if TYPE_CHECKING:
    from limio_limitrail.landing.checks import Check

_KINDS = ("rows_between", "unique", "not_null")


def read_checks(name: str, value: object) -> tuple[Check, ...]:
    """Read checks: a list of `Check`, or of mappings with its members, or one of them; none where nothing is given."""
    from limio_limitrail.landing.checks import Check

    found = plain(value)
    if isinstance(found, str):
        found = as_native(found)
    if is_nothing(found):
        return ()
    if isinstance(found, Check | Mapping):
        return (_check(name, found),)
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise unfit(name, value, expected='a list of checks, such as [Check("unique", columns=["id"])]')
    return tuple(_check(f"{name}[{at}]", item) for at, item in enumerate(found))


def _check(name: str, value: object) -> Check:
    from limio_limitrail.landing.checks import Check

    check = read_members(name, value, of=Check, readers=_READERS)
    if (check.kind is None) is (check.sql is None):
        raise ParameterError(f"{name} must be one of {', '.join(_KINDS)}, or have sql=, and not both")
    counts = check.least is not None or check.most is not None
    if check.kind == "rows_between":
        if not counts or (check.least is not None and check.most is not None and check.least > check.most):
            raise ParameterError(f"{name} must be rows_between with least=, most= or both, and least no more than most")
    elif counts:
        raise ParameterError(f"{name} must be rows_between to have least= or most=")
    if bool(check.columns) is not (check.kind in ("unique", "not_null")):
        raise ParameterError(f"{name} must be unique or not_null with columns=, or another check without")
    return check


def _query(name: str, value: object) -> str:
    query = text("a SELECT")(name, value).rstrip("; \t\r\n")
    if not query or ";" in query or "\0" in query:
        # A semicolon could begin a second statement, such as COMMIT.
        raise ParameterError(f"{name} must be one SELECT, without semicolons, also in texts: write chr(59) or char(59) there")
    return query


_READERS: Mapping[str, Reader[Any]] = {
    "kind": optional(choice(*_KINDS)),
    "least": optional(whole_number(least=0)),
    "most": optional(whole_number(least=0)),
    "columns": names("columns"),
    "sql": optional(_query),
    "name": optional(text("a name")),
}
