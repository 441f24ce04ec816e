# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Outcomes that a table does not take as they are: each is written with what can be, and none keeps the others from being."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from limio_limitrail.landing.sql.errors import Cause, DatabaseError
from limio_limitrail.usage.ledger.model import LedgerError, Outcome
from limio_limitrail.usage.ledger.table import OUTCOME

log = logging.getLogger("limio_limitrail.usage.ledger")

Write = Callable[[Mapping[str, Outcome]], int]
"""Writes outcomes, all or none; gives how many found their entries."""

_TEXTS = tuple(name for name in OUTCOME if name != "http_status")

_MOST_IN_VAIN = 8
"""So many outcomes in a row that are not taken in one form, and the next smaller one is tried for all that are left."""

_MOST_AT_FIRST = 4
"""The same as long as none is taken in that form."""


class UnwrittenError(LedgerError):
    """Not even the state of some rows could be written. All others are written.

    :ivar keys: of those rows.
    """

    keys: frozenset[str] = frozenset()


def record_apart(outcomes: Mapping[str, Outcome], *, write: Write, table: str) -> int:
    """Write outcomes together; where the table does not take some, those alone are cut down to what it takes.

    :param outcomes: by key.
    :param write: raises a `DatabaseError` with `Cause.ROWS` where the table does not take them.
    :param table: what the table is called in messages.
    :returns: how many found their entries.
    :raises UnwrittenError: the table does not even take the states of some rows.
    """
    parts = _Parts(write)
    left = parts.write(outcomes)
    if not left:
        return parts.found
    reduced, told = len(left), parts.refusals[-1].what
    example = next(iter(left))
    for form in _FORMS:
        if left:
            left = parts.write_reduced({key: form(outcomes[key]) for key in left})
    if reduced > len(left):
        log.warning(
            "The table %s did not take %d outcomes as they are, such as that of %s (%s). Their states are written, and of the "
            "rest what it takes.",
            table,
            reduced - len(left),
            example,
            told,
        )
    if left:
        key = next(iter(left))
        error = UnwrittenError(
            f"the table {table} does not take the states of {len(left)} rows, such as {outcomes[key].state} for {key} "
            f"({parts.refusals[-1].what}). All others are written. Look for a constraint, a trigger or a type that somebody has "
            f"given the ledger"
        )
        error.keys = frozenset(left)
        raise error
    return parts.found


class _Parts:
    """Writes outcomes in halves of halves, so that each stands with those that the table takes."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._vain = 0
        self.found = 0
        self.refusals: list[DatabaseError] = []

    def write(self, outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
        """Write what is taken, and give the rest."""
        return self._halves(outcomes, most_in_vain=None)

    def write_reduced(self, outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
        """Do the same in a form that may not be taken by any: single ones are tried first."""
        keys = list(outcomes)
        for at, key in enumerate(keys[:_MOST_AT_FIRST], start=1):
            if not self._halves({key: outcomes[key]}, most_in_vain=None):
                left = self._halves({key: outcomes[key] for key in keys[at:]}, most_in_vain=_MOST_IN_VAIN)
                return {key: outcomes[key] for key in keys[: at - 1]} | left
        return dict(outcomes)

    def _halves(self, outcomes: Mapping[str, Outcome], *, most_in_vain: int | None) -> dict[str, Outcome]:
        if not outcomes or (most_in_vain is not None and self._vain >= most_in_vain):
            return dict(outcomes)
        try:
            self.found += self._write(outcomes)
        except DatabaseError as refused:
            if refused.cause is not Cause.ROWS:
                raise
            self.refusals.append(refused)
        else:
            self._vain = 0
            return {}
        if len(outcomes) == 1:
            self._vain += 1
            return dict(outcomes)
        keys = list(outcomes)
        middle = len(keys) // 2
        left: dict[str, Outcome] = {}
        for half in (keys[:middle], keys[middle:]):
            left |= self._halves({key: outcomes[key] for key in half}, most_in_vain=most_in_vain)
        return left


def _plain(outcome: Outcome, *, length: int | None = None, without: Collection[str] = ()) -> Outcome:
    texts: dict[str, Any] = {
        name: None if name in without else value.encode("ascii", errors="replace").decode()[:length]
        for name in _TEXTS
        if (value := getattr(outcome, name)) is not None
    }
    return replace(outcome, **texts)


_FORMS: tuple[Callable[[Outcome], Outcome], ...] = (
    _plain,
    partial(_plain, length=100),
    partial(_plain, length=20),
    *(partial(_plain, without=(name,)) for name in _TEXTS),
    partial(_plain, without=_TEXTS),
    lambda outcome: Outcome(state=outcome.state),
)
"""What is tried, one after the other: plain letters, shorter texts, one text less, none, and the state alone."""
