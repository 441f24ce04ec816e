# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read decisions about usage rows, as a Dag, a form or a file gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.parameters.given import as_native, is_nothing, plain, shown, type_of
from limio_limitrail.usage.ledger.settlement import Decision, OpenRow, RowDecision, read_decision

WORDS = tuple(word.value for word in Decision)

_MEMBERS = ("key", "decision", "version", "note", "api")
_API = {"decision": "api_decision", "reservation_id": "reservation_id", "trace_id": "trace_id"}
# A row of a list of open rows, with a decision added, is a decision.
_KNOWN = {*_MEMBERS, *(one.name for one in fields(OpenRow)), "state"}
_MOST_SHOWN = 10


class _UnfitError(ValueError):
    """One decision is none."""


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """Decisions about rows, and who has made them, as far as the list says so."""

    rows: tuple[RowDecision, ...] = ()
    by: str | None = None


def decisions(name: str, value: object) -> Decisions:
    """Read decisions: a list of mappings with ``key`` and ``decision``, or a mapping with such ``decisions`` and ``by``.

    Nothing, such as the XCom of a form that nobody has answered, is no decision.

    :raises ParameterError: some are none. The message names all that is wrong.
    """
    if isinstance(value, Decisions):
        return value
    given = as_native(value) if isinstance(value, str) and not is_nothing(value) else plain(value)
    if is_nothing(given):
        return Decisions()
    by = None
    if isinstance(given, Mapping):
        if unknown := sorted(map(str, set(given) - {"decisions", "by"})):
            raise ParameterError(
                f"{name} must be a list of decisions, or a mapping with decisions and by; it has {unknown[0][:60]!r}"
            )
        by, given = given.get("by"), given.get("decisions") or ()
        if not is_nothing(by) and not isinstance(by, str):
            raise ParameterError(f"{name} must have a text as by, got {type_of(by)}")
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise ParameterError(f"{name} must be a list of mappings with a key and a decision, got {type_of(value)}")
    rows: list[RowDecision] = []
    problems: list[str] = []
    for number, item in enumerate(given):
        try:
            rows.append(_row(item))
        except _UnfitError as error:
            problems.append(f"{name}[{number}] {error}")
    if problems:
        more = f"; and {len(problems) - _MOST_SHOWN:,} more" if len(problems) > _MOST_SHOWN else ""
        raise ParameterError("; ".join(problems[:_MOST_SHOWN]) + more)
    return Decisions(rows=tuple(rows), by=None if is_nothing(by) else by)


def _row(item: Any) -> RowDecision:
    """Read one decision.

    :raises _UnfitError: it is none.
    """
    if isinstance(item, RowDecision):
        return item
    if not isinstance(item, Mapping):
        raise _UnfitError(f"must be a mapping with a key and a decision, got {type_of(item)}")
    if unknown := sorted(str(member)[:60] for member in item if member not in _KNOWN):
        raise _UnfitError(f"has the unknown member {unknown[0]!r}; known are {', '.join(_MEMBERS)}")
    key = plain(item.get("key"))
    if not isinstance(key, str) or not key.strip():
        raise _UnfitError(f"needs a key, the row's idempotency key, got {shown(key)}")
    if "decision" not in item:
        raise _UnfitError("has no decision")
    word = plain(item["decision"])
    # A row that nobody has filled in stays as it is.
    decision = Decision.LEAVE if is_nothing(word) else read_decision(word) if isinstance(word, str) else None
    if decision is None:
        raise _UnfitError(f"has a decision that must be one of {', '.join(WORDS)}, got {shown(word)}")
    return RowDecision(
        key=key,
        decision=decision,
        version=_text(item.get("version")),
        note=_text(item.get("note")),
        **_api_facts(item.get("api")),
    )


def _api_facts(given: Any) -> dict[str, str | None]:
    if is_nothing(given):
        return {}
    if not isinstance(given, Mapping) or not set(given) <= set(_API):
        raise _UnfitError(f"has an api that must be a mapping with some of {', '.join(_API)}, got {type_of(given)}")
    return {_API[name]: _text(value) for name, value in given.items()}


def _text(value: object) -> str | None:
    found = plain(value)
    if is_nothing(found):
        return None
    if not isinstance(found, str | int) or isinstance(found, bool):
        raise _UnfitError(f"holds {type_of(found)} where a text belongs")
    return str(found)
