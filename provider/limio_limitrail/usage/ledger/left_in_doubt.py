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
    """Rows of an operation that are in doubt and are not among a task's rows; `query` shows all rows in doubt."""

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
    """Count the rows of an operation that are in doubt and are not the task's own, which `among` finds in some keys.

    Rows that a live worker is sending are not in doubt, and those of other mapped copies of the task in the same run are
    counted by those.
    """
    state = sql.session.dialect.quote("state")
    found = _read(sql, operation=operation, where=f"COALESCE({state}, '') <> '{State.SENDING}'")
    claimed = _read(sql, operation=operation, where=f"{state} = '{State.SENDING}'", more=ENTRY)
    found += [row for row in claimed if not _is_alive(row[4:], may_be_alive=may_be_alive)]
    own = among([row[0] for row in found])
    left = [(_age(row[2], row[3], now=now), str(row[1]), row[0]) for row in found if row[0] not in own]
    if not left:
        return LeftInDoubt()
    ages = Counter(_bucket(age) for age, _, _ in left)
    age, _, key = max(left, key=lambda row: (row[0] is None, row[0] or 0))
    return LeftInDoubt(
        states=dict(Counter(state for _, state, _ in left).most_common()),
        ages={name: ages[name] for name in (*AGES, OLDER)},
        oldest=_describe(sql, key, since=None if age is None else now - age),
        query=(
            "SELECT idempotency_key, state, row_key, http_status, error_code, detail, trace_id, claimed_at, dag_id, task_id, "
            f"run_id FROM {sql.table} WHERE operation = '{operation}' AND {_in_doubt('state')} ORDER BY claimed_at"
        ),
    )


def _read(sql: LedgerStatements, *, operation: str, where: str, more: Sequence[str] = ()) -> list[tuple[Any, ...]]:
    """Read rows in doubt: key, state, the time since when they are in doubt, that of their claim, and more columns."""
    worker, dialect = sql.worker, sql.session.dialect
    quote = dialect.quote
    columns = [*map(quote, (KEY, "state", "in_doubt_since")), dialect.legible(quote("claimed_at")), *map(quote, more)]
    siblings = {"dag_id": worker.dag_id, "task_id": worker.task_id, "run_id": worker.run_id}
    alike = " AND ".join(f"{quote(name)} = {VALUE}" for name in siblings)
    return sql.session.query(
        f"SELECT {', '.join(columns)} FROM {sql.qualified_table} "
        # As in the index that the docs recommend.
        f"WHERE {quote('operation')} = {VALUE} AND {_in_doubt(quote('state'))} AND {where} "
        # Also if a damaged row has a null in one of these columns.
        f"AND CASE WHEN {alike} AND {quote('map_index')} <> {VALUE} THEN 1 ELSE 0 END = 0",
        operation,
        *siblings.values(),
        worker.map_index,
    )


def _describe(sql: LedgerStatements, key: str, *, since: int | None) -> str:
    """Return what a row is."""
    quote = sql.session.dialect.quote
    columns = ", ".join(map(quote, ("row_key", "state", "dag_id", "task_id", "run_id")))
    [(row_key, state, dag_id, task_id, run_id)] = sql.session.query(
        f"SELECT {columns} FROM {sql.qualified_table} WHERE {quote(KEY)} = {VALUE}", key
    )
    when = "" if since is None else f" since {datetime.fromtimestamp(since / 1000, tz=UTC):%Y-%m-%d %H:%M} UTC"
    return f"{row_key} ({state}{when}, of task {task_id} in run {run_id} of Dag {dag_id})"


def _in_doubt(state: str) -> str:
    # An unknown state leaves a row in doubt: a person may have mistyped it.
    return f"({state} IS NULL OR {state} NOT IN ({', '.join(repr(clear.value) for clear in _CLEAR)}))"


def _is_alive(values: Sequence[Any], *, may_be_alive: Callable[[Entry], bool]) -> bool:
    try:
        _, entry = read_entry(values)
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
