# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read the parameters of a reconciliation: which members of a list's records stand for what in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.parameters.given import is_nothing, plain, unfit
from limio_limitrail.parameters.readers import choice, mapping, text
from limio_limitrail.usage.ledger.states import Keep

LEDGER_COLUMNS = ("idempotency_key", "trace_id", "reservation_id")
"""Columns of the ledger that records can be matched by."""

KEPT = "kept."
ROW_KEY = "row_key."

_PATH = text("the name of a member")
_KEEP = choice(*(word.value for word in Keep))


class LedgerField(msgspec.Struct, frozen=True, kw_only=True):
    """What of a ledger's row a record's member is compared with.

    :param column: one of `LEDGER_COLUMNS`, ``row_key`` or ``kept``.
    :param name: the key column, or the kept member.
    """

    column: str
    name: str = ""

    @classmethod
    def of(cls, word: str) -> LedgerField:
        """Read it as a Dag writes it; a name without a prefix is one of `LEDGER_COLUMNS`, else a key column."""
        if word in LEDGER_COLUMNS:
            return cls(column=word)
        for prefix in (KEPT, ROW_KEY):
            if word.startswith(prefix) and len(word) > len(prefix):
                return cls(column=prefix.rstrip("."), name=word.removeprefix(prefix))
        return cls(column="row_key", name=word)

    def __str__(self) -> str:
        return f"{self.column}.{self.name}" if self.name else self.column


def kept_members(name: str, value: object) -> dict[str, Keep]:
    """Read which members of a body the ledger keeps: member → ``plain`` or ``hash``."""
    given = {} if is_nothing(plain(value)) else mapping(name, value)
    return {_PATH(name, path): Keep(_KEEP(f"{name}[{path!r}]", how)) for path, how in given.items()}


def match(name: str, value: object) -> dict[str, LedgerField]:
    """Read by what records and rows are matched: a record's member → an idempotency key, a key column or a kept member."""
    if not (found := fields(name, value)):
        raise ParameterError(f"{name} must name at least one member, such as {{'idempotencyKey': 'idempotency_key'}}")
    return found


def amount(name: str, value: object) -> dict[str, LedgerField]:
    """Read what holds the amount on both sides: one record's member → what the ledger holds; empty for nothing.

    :raises ParameterError: there are several, or it cannot be a number.
    """
    found = fields(name, value)
    if len(found) > 1 or any(one.column in LEDGER_COLUMNS for one in found.values()):
        raise unfit(name, value, expected="one member and a key column or kept.<member>, such as {'amount': 'kept.amount'}")
    return found


def fields(name: str, value: object) -> dict[str, LedgerField]:
    """Read a mapping of a record's members to what the ledger holds."""
    given = {} if is_nothing(plain(value)) else mapping(name, value)
    return {_PATH(name, path): field(f"{name}[{path!r}]", word) for path, word in given.items()}


def field(name: str, value: object) -> LedgerField:
    """Read what a record's member is compared with.

    :raises ParameterError: it is no text, or a prefix without a name.
    """
    if isinstance(value, LedgerField):
        return value
    word = text("an idempotency_key, a key column, or kept.<member>")(name, value)
    if word in (KEPT, ROW_KEY):
        raise unfit(name, value, expected=f"a name after {word!r}")
    return LedgerField.of(word)


def check_kept(rules: Mapping[str, Keep], *, body: Mapping[str, Any] | None) -> None:
    """Check that a body can have the members that are to be kept.

    :raises ParameterError: it has no such member.
    """
    if lacking := [path for path in rules if not _may_have(body, path)]:
        names = ", ".join(map(repr, lacking))
        raise ParameterError(f"kept_members names {names}, which the body does not have; nested members are named with dots")


def _may_have(tree: Any, path: str) -> bool:
    from limio_limitrail.usage.body import Column

    if isinstance(tree, Column):
        # A column may hold an object.
        return True
    if not isinstance(tree, Mapping):
        return False
    if path in tree:
        return True
    names = path.split(".")
    heads = ((".".join(names[:count]), ".".join(names[count:])) for count in range(1, len(names)))
    return any(head in tree and _may_have(tree[head], rest) for head, rest in heads)
