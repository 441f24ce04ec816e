# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Fallbacks for outcomes that a table does not accept as they are: each is reduced until it is accepted, alone."""

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
"""Writes outcomes, all or none; returns how many found their entries."""

_TEXTS = tuple(name for name in OUTCOME if name != "http_status")

_MAX_REFUSED = 8
"""After so many consecutive refusals of one form, the next smaller one is tried for the rest."""

_MAX_REFUSED_AT_FIRST = 4
"""The same while none is accepted in that form."""


class UnwrittenError(LedgerError):
    """Not even the states of some rows could be written. All others are written.

    :ivar keys: the keys of those rows.
    """

    keys: frozenset[str] = frozenset()


def record_apart(outcomes: Mapping[str, Outcome], *, write: Write, table: str) -> int:
    """Write outcomes together; those that the table does not accept are reduced to what it accepts.

    :param write: raises a `DatabaseError` with `Cause.ROWS` where the table does not accept them.
    :returns: how many found their entries.
    :raises UnwrittenError: the table does not even accept the states of some rows.
    """
    bisection = _Bisection(write)
    left = bisection.write(outcomes)
    if not left:
        return bisection.found
    reduced, reason = len(left), bisection.refusals[-1].what
    example = next(iter(left))
    for form in _FORMS:
        if left:
            left = bisection.write_reduced({key: form(outcomes[key]) for key in left})
    if reduced > len(left):
        log.warning(
            "The table %s did not take %d outcomes as they are, such as that of %s (%s). Their states are written, and of the "
            "rest what it takes.",
            table,
            reduced - len(left),
            example,
            reason,
        )
    if left:
        key = next(iter(left))
        error = UnwrittenError(
            f"the table {table} does not take the states of {len(left)} rows, such as {outcomes[key].state} for {key} "
            f"({bisection.refusals[-1].what}). All others are written. Look for a constraint, a trigger or a type that "
            "somebody has given the ledger"
        )
        error.keys = frozenset(left)
        raise error
    return bisection.found


class _Bisection:
    """Writes outcomes by bisection, to separate those that the table accepts."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._consecutive_refusals = 0
        self.found = 0
        self.refusals: list[DatabaseError] = []

    def write(self, outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
        """Write what is accepted, and return the rest."""
        return self._halves(outcomes, max_refused=None)

    def write_reduced(self, outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
        """Do the same with a form that may not be accepted at all: single outcomes are tried first."""
        keys = list(outcomes)
        for at, key in enumerate(keys[:_MAX_REFUSED_AT_FIRST], start=1):
            if not self._halves({key: outcomes[key]}, max_refused=None):
                left = self._halves({key: outcomes[key] for key in keys[at:]}, max_refused=_MAX_REFUSED)
                return {key: outcomes[key] for key in keys[: at - 1]} | left
        return dict(outcomes)

    def _halves(self, outcomes: Mapping[str, Outcome], *, max_refused: int | None) -> dict[str, Outcome]:
        if not outcomes or (max_refused is not None and self._consecutive_refusals >= max_refused):
            return dict(outcomes)
        try:
            self.found += self._write(outcomes)
        except DatabaseError as refused:
            if refused.cause is not Cause.ROWS:
                raise
            self.refusals.append(refused)
        else:
            self._consecutive_refusals = 0
            return {}
        if len(outcomes) == 1:
            self._consecutive_refusals += 1
            return dict(outcomes)
        keys = list(outcomes)
        middle = len(keys) // 2
        left: dict[str, Outcome] = {}
        for half in (keys[:middle], keys[middle:]):
            left |= self._halves({key: outcomes[key] for key in half}, max_refused=max_refused)
        return left


def _reduced(outcome: Outcome, *, length: int | None = None, without: Collection[str] = ()) -> Outcome:
    texts: dict[str, Any] = {
        name: None if name in without else value.encode("ascii", errors="replace").decode()[:length]
        for name in _TEXTS
        if (value := getattr(outcome, name)) is not None
    }
    return replace(outcome, **texts)


_FORMS: tuple[Callable[[Outcome], Outcome], ...] = (
    _reduced,
    partial(_reduced, length=100),
    partial(_reduced, length=20),
    *(partial(_reduced, without=(name,)) for name in _TEXTS),
    partial(_reduced, without=_TEXTS),
    lambda outcome: Outcome(state=outcome.state),
)
"""The forms to try in turn: ASCII texts, shorter texts, one text less, no texts, the state alone."""
