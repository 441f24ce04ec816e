# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Count the rows in doubt that are not among a task's rows: no other task may ever report them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.usage.ledger.model import Entry, LedgerError, State
from limio_limitrail.usage.ledger.sql import LedgerStatements
from limio_limitrail.usage.ledger.table import ENTRY, KEY, milliseconds, read_entry

AGES: Mapping[str, int] = {"under_1h": 3_600_000, "under_1d": 86_400_000, "under_7d": 604_800_000}
"""The upper bound of each age, in milliseconds."""

OLDER = "older"
"""The age of all others, and of those without a time."""

_CLEAR = (State.COMMITTED, State.DENIED, State.REJECTED, State.GIVEN_UP)
_SKEW = 60_000
"""Milliseconds that a time may be in the future; beyond that, a clock was wrong."""


@dataclass(frozen=True, kw_only=True)
class LeftInDoubt:
    """Rows of an operation that are in doubt and are not among a task's rows.

    :param ages: how many are how old; see `AGES`.
    :param oldest: a description of the oldest.
    :param query: the query that shows all rows in doubt.
    """

    states: Mapping[str, int] = field(default_factory=dict)
    ages: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys((*AGES, OLDER), 0))
    oldest: str = ""
    query: str = ""

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.states.values())


def find_left(
    sql: LedgerStatements,
    *,
    operation: str,
    now: int,
    among: Callable[[Sequence[str]], Collection[str]],
    may_be_alive: Callable[[Entry], bool],
) -> LeftInDoubt:
    """Count the rows of an operation that are in doubt and are not among a task's rows.

    Rows that a live worker is sending are not in doubt, and those of other mapped copies of the task in the same run are
    counted by those.

    :param among: returns which of some keys are among the task's rows.
    :param may_be_alive: returns whether the worker that has claimed a row may still send it.
    """
    reader = _DoubtReader(sql=sql, operation=operation)
    found = reader.unclear() + [row for row in reader.sending() if not _is_alive(row, may_be_alive=may_be_alive)]
    own = among([row[0] for row in found])
    left = [(_age(row[2], row[3], now=now), str(row[1]), row[0]) for row in found if row[0] not in own]
    if not left:
        return LeftInDoubt()
    ages = Counter(_bucket(age) for age, _, _ in left)
    age, _, key = max(left, key=lambda row: (row[0] is None, row[0] or 0))
    return LeftInDoubt(
        states=dict(Counter(state for _, state, _ in left).most_common()),
        ages={name: ages[name] for name in (*AGES, OLDER)},
        oldest=reader.describe(key, since=None if age is None else now - age),
        query=(
            "SELECT idempotency_key, state, row_key, http_status, error_code, detail, trace_id, claimed_at, dag_id, task_id, "
            f"run_id FROM {sql.table} WHERE operation = '{operation}' AND {_in_doubt('state')} ORDER BY claimed_at"
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _DoubtReader:
    """Reads rows in doubt: key, state, and the time since when they are in doubt, if known."""

    sql: LedgerStatements
    operation: str

    def unclear(self) -> list[tuple[Any, ...]]:
        """Read those that no worker has claimed."""
        return self._read((), where=f"COALESCE({self._quote('state')}, '') <> '{State.SENDING}'")

    def sending(self) -> list[tuple[Any, ...]]:
        """Read those that a worker has claimed, followed by their whole entries."""
        return self._read(ENTRY, where=f"{self._quote('state')} = '{State.SENDING}'")

    def _read(self, more: Sequence[str], *, where: str) -> list[tuple[Any, ...]]:
        worker, dialect = self.sql.worker, self.sql.session.dialect
        columns = [self._quote(name) for name in (KEY, "state", "in_doubt_since")]
        columns += [dialect.legible(self._quote("claimed_at")), *map(self._quote, more)]
        siblings = {"dag_id": worker.dag_id, "task_id": worker.task_id, "run_id": worker.run_id}
        alike = " AND ".join(f"{self._quote(name)} = {VALUE}" for name in siblings)
        return self.sql.session.query(
            f"SELECT {', '.join(columns)} FROM {self.sql.qualified_table} "
            # As in the index that the docs recommend.
            f"WHERE {self._quote('operation')} = {VALUE} AND {_in_doubt(self._quote('state'))} AND {where} "
            # Also if a damaged row has a null in one of these columns.
            f"AND CASE WHEN {alike} AND {self._quote('map_index')} <> {VALUE} THEN 1 ELSE 0 END = 0",
            self.operation,
            *siblings.values(),
            worker.map_index,
        )

    def describe(self, key: str, *, since: int | None) -> str:
        """Return what a row is."""
        names = ("row_key", "state", "dag_id", "task_id", "run_id")
        columns = ", ".join(map(self._quote, names))
        [(row_key, state, dag_id, task_id, run_id)] = self.sql.session.query(
            f"SELECT {columns} FROM {self.sql.qualified_table} WHERE {self._quote(KEY)} = {VALUE}", key
        )
        when = "" if since is None else f" since {datetime.fromtimestamp(since / 1000, tz=UTC):%Y-%m-%d %H:%M} UTC"
        return f"{row_key} ({state}{when}, of task {task_id} in run {run_id} of Dag {dag_id})"

    def _quote(self, name: str) -> str:
        return self.sql.session.dialect.quote(name)


def _in_doubt(state: str) -> str:
    # An unknown state leaves a row in doubt: a person may have mistyped it.
    return f"({state} IS NULL OR {state} NOT IN ({', '.join(repr(clear.value) for clear in _CLEAR)}))"


def _is_alive(row: tuple[Any, ...], *, may_be_alive: Callable[[Entry], bool]) -> bool:
    try:
        _, entry = read_entry(row[4:])
    except LedgerError:
        # A damaged entry does not show who sends the row.
        return False
    return may_be_alive(entry)


def _age(since: object, claimed_at: object, *, now: int) -> int | None:
    """Return for how many milliseconds a row has been in doubt; None if unknown."""
    try:
        began = milliseconds(claimed_at) if since is None else int(str(since))
    except ValueError:
        return None
    if began is None:
        return None
    age = now - began
    return None if age < -_SKEW else max(age, 0)


def _bucket(age: int | None) -> str:
    if age is None:
        return OLDER
    return next((name for name, limit in AGES.items() if age < limit), OLDER)
