# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows that stand in doubt in a ledger and that no task of today has: nobody else would ever speak of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.usage.ledger.model import Entry, LedgerError, State
from limio_limitrail.usage.ledger.sql import Statements
from limio_limitrail.usage.ledger.table import ENTRY, KEY, find_name, read_entry

AGES: Mapping[str, int] = {"under_1h": 3_600_000, "under_1d": 86_400_000, "under_7d": 604_800_000}
"""Milliseconds below which a doubt has an age."""

OLDER = "older"
"""The age of all others, and of those that bear no time."""

_CLEAR = (State.COMMITTED, State.DENIED, State.REJECTED, State.GIVEN_UP)
_SKEW = 60_000
"""Milliseconds that a time may lie ahead; what lies further ahead was written by a clock that was wrong."""


@dataclass(frozen=True, kw_only=True)
class LeftInDoubt:
    """Rows of an operation that stand in doubt and are not among a task's rows.

    :param states: how many stand in each state.
    :param ages: how many have been in doubt for how long; see `AGES`.
    :param oldest: the one that has been in doubt longest, in words.
    :param query: the query that shows all that stand in doubt.
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
    sql: Statements,
    *,
    operation: str,
    now: int,
    among: Callable[[Sequence[str]], Collection[str]],
    may_live: Callable[[Entry], bool],
) -> LeftInDoubt:
    """Count the rows of an operation that stand in doubt and are not among a task's rows.

    Rows that a live worker is sending do not stand in doubt, and those of other mapped copies of the task in the same run are
    told of by those.

    :param sql: the statements of the open transaction.
    :param now: the ledger's time, in milliseconds since 1970.
    :param among: gives those of some keys that are among the task's rows.
    :param may_live: tells whether the worker that has claimed a row may still send it.
    """
    reader = _Reader(sql=sql, operation=operation)
    found = reader.unclear() + [row for row in reader.sending() if not _is_alive(row, may_live=may_live)]
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
class _Reader:
    """Reads what stands in doubt: each row with its key, its state and when the doubt began, if that is known."""

    sql: Statements
    operation: str

    def unclear(self) -> list[tuple[Any, ...]]:
        """Read those that no worker has any more."""
        return self._read((), where=f"COALESCE({self._quote('state')}, '') <> '{State.SENDING}'")

    def sending(self) -> list[tuple[Any, ...]]:
        """Read those that a worker has claimed, and their whole entries behind."""
        return self._read(ENTRY, where=f"{self._quote('state')} = '{State.SENDING}'")

    def _read(self, more: Sequence[str], *, where: str) -> list[tuple[Any, ...]]:
        worker, dialect = self.sql.worker, self.sql.session.dialect
        columns = [self._quote(name) for name in (KEY, "state", "in_doubt_since")]
        columns += [dialect.legible(self._quote("claimed_at")), *map(self._quote, more)]
        siblings = {"dag_id": worker.dag_id, "task_id": worker.task_id, "run_id": worker.run_id}
        alike = " AND ".join(f"{self._quote(name)} = {VALUE}" for name in siblings)
        return self.sql.session.query(
            f"SELECT {', '.join(columns)} FROM {self._table} "
            # In the words of the index that the docs advise.
            f"WHERE {self._quote('operation')} = {VALUE} AND {_in_doubt(self._quote('state'))} AND {where} "
            # Also where a damaged row has a null in one of them.
            f"AND CASE WHEN {alike} AND {self._quote('map_index')} <> {VALUE} THEN 1 ELSE 0 END = 0",
            self.operation,
            *siblings.values(),
            worker.map_index,
        )

    def describe(self, key: str, *, since: int | None) -> str:
        """Say what a row is."""
        names = ("row_key", "state", "dag_id", "task_id", "run_id")
        columns = ", ".join(map(self._quote, names))
        [(row_key, state, dag_id, task_id, run_id)] = self.sql.session.query(
            f"SELECT {columns} FROM {self._table} WHERE {self._quote(KEY)} = {VALUE}", key
        )
        when = "" if since is None else f" since {datetime.fromtimestamp(since / 1000, tz=UTC):%Y-%m-%d %H:%M} UTC"
        return f"{row_key} ({state}{when}, of task {task_id} in run {run_id} of Dag {dag_id})"

    @property
    def _table(self) -> str:
        dialect = self.sql.session.dialect
        return dialect.qualified(find_name(self.sql.table, dialect=dialect))

    def _quote(self, name: str) -> str:
        return self.sql.session.dialect.quote(name)


def _in_doubt(state: str) -> str:
    # Whatever is no state that settles a row leaves it in doubt: somebody may have mistyped one.
    return f"({state} IS NULL OR {state} NOT IN ({', '.join(repr(clear.value) for clear in _CLEAR)}))"


def _is_alive(row: tuple[Any, ...], *, may_live: Callable[[Entry], bool]) -> bool:
    try:
        _, entry = read_entry(row[4:])
    except LedgerError:
        # Damaged: whoever was sending it, nobody can tell.
        return False
    return may_live(entry)


def _age(since: object, claimed_at: object, *, now: int) -> int | None:
    """Return for how many milliseconds a row has been in doubt; none where no time says so."""
    try:
        began = _milliseconds(claimed_at) if since is None else int(str(since))
    except (ValueError, OverflowError):
        return None
    age = now - began
    return None if age < -_SKEW else max(age, 0)


def _milliseconds(instant: object) -> int:
    """Read when a row was claimed, as a database or a person has written it."""
    when = instant if isinstance(instant, datetime) else datetime.fromisoformat(str(instant))
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def _bucket(age: int | None) -> str:
    if age is None:
        return OLDER
    return next((name for name, limit in AGES.items() if age < limit), OLDER)
