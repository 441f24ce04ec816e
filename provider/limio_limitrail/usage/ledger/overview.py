# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Count a ledger's rows for people who look at it. Nothing is written, created, or waited for long."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from limio_limitrail.landing.sql.session import Session
from limio_limitrail.usage.ledger.leases import LeaseMonitor, ProcessLock
from limio_limitrail.usage.ledger.model import Outcome, Worker, describe_outcome
from limio_limitrail.usage.ledger.open_rows import WITH_LIMIT, Filter, OpenRow, find_open
from limio_limitrail.usage.ledger.sql import LedgerStatements, instant
from limio_limitrail.usage.ledger.states import IN_DOUBT, LedgerError, State
from limio_limitrail.usage.ledger.table import LEDGER, lacking_columns

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.persistent_connection import PersistentConnection

T = TypeVar("T")

DAY = 86_400_000

AGES = (3_600_000, DAY, 7 * DAY, 30 * DAY)
"""Bounds between the ages that uncertain rows are counted by, in milliseconds."""

MAX_REASONS = 2000
"""Distinct outcomes, the most frequent first, that reasons are counted from."""

CUT_OFF_AFTER = 5.0
"""Seconds after which a connection is ended over which nothing has come, although its statement was."""

_REASON = ("http_status", "decision", "error_code", "field", "detail")
_WITH_REASON = (State.PARKED, State.UNKNOWN, State.REJECTED, State.DENIED)


@dataclass(frozen=True, kw_only=True)
class DayCount:
    """How many rows of a state were claimed last on a day.

    :param day: the day's beginning in UTC, in milliseconds since 1970; None: before all days that are counted, or unknown.
    """

    state: str
    day: int | None
    rows: int


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """How many rows a ledger has.

    :param days: by state and day.
    :param ages: rows in doubt: one number for each of `AGES` that they are younger than, and one for older ones.
    """

    days: Sequence[DayCount]
    ages: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class ReasonCount:
    """How many rows of a state have a reason."""

    state: str
    reason: str
    rows: int


class LedgerReader:
    """Reads a ledger, in transactions that only read. For one thread.

    :param table: the ledger's table, as the user wrote it.
    :param changes_table: where changed rows are listed; it need not exist.
    :param seconds: how long one call may take in the database; it is then ended.
    :param clock: seconds since 1970, for databases without a clock that all workers share.
    """

    def __init__(
        self,
        *,
        database: PersistentConnection,
        table: str,
        changes_table: str,
        seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._table, self._changes_table = table, changes_table
        self._seconds = seconds
        self._clock = clock
        self._worker = Worker(dag_id="", task_id="", run_id=f"view {uuid.uuid4().hex}", map_index=-1, try_number=1)
        self._process_lock = ProcessLock(self._worker.claim_id)
        self._lease_monitor = LeaseMonitor(self._process_lock, has_clock=database.name in ("postgresql", "duckdb", "sqlite"))

    def require_ledger(self) -> None:
        """Check that the table is a ledger of this version.

        :raises LedgerError: it is none.
        """

        def check(sql: LedgerStatements) -> None:
            lacking = lacking_columns(sql.session, self._table, LEDGER)
            if lacking is None:
                raise LedgerError(f"there is no table {self._table}: no task has sent usage yet, or ledger_table is another one")
            if lacking:
                raise LedgerError(
                    f"the table {self._table} lacks columns of this version: {', '.join(lacking)}. The next run of the task that "
                    "sends the usage adds them"
                )

        self._read(check)

    def count_rows(self, *, days: int) -> RowCounts:
        """Count all rows by state and by the day on which they were claimed last, and those in doubt by age, in one pass.

        Rows whose worker is alive are not in doubt.
        """

        def count(sql: LedgerStatements) -> RowCounts:
            now = self._now(sql)
            today = now // DAY * DAY
            # The first day is the oldest, whose number is 1; 0 are the rows before it, or without a time.
            starts = [today - back * DAY for back in reversed(range(days))]
            day, day_values = _number_of(sql, "claimed_at", starts)
            age, age_values = self._age(sql, now=now)
            found = sql.session.query(
                f"SELECT c.s, c.d, c.a, COUNT(*) FROM (SELECT {sql.session.dialect.quote('state')} AS s, {day} AS d, {age} AS a "
                f"FROM {sql.qualified_table}) AS c GROUP BY c.s, c.d, c.a",
                *day_values,
                *age_values,
            )
            by_day: Counter[tuple[str, int | None]] = Counter()
            ages = [0] * (len(AGES) + 1)
            for word, day_number, age_number, rows in found:
                by_day[str(word or ""), starts[int(day_number) - 1] if day_number else None] += int(rows)
                if age_number is not None:
                    ages[int(age_number)] += int(rows)
            return RowCounts(
                days=[DayCount(state=state, day=start, rows=rows) for (state, start), rows in by_day.items()], ages=ages
            )

        return self._read(count)

    def count_reasons(self, *, limit: int) -> list[ReasonCount]:
        """Count why rows were not committed, the most frequent reasons first."""

        def count(sql: LedgerStatements) -> list[ReasonCount]:
            quote = sql.session.dialect.quote
            names = ", ".join(quote(name) for name in ("state", *_REASON))
            states = ", ".join(f"'{one}'" for one in _WITH_REASON)
            found = sql.session.query(
                f"SELECT {names}, COUNT(*) AS n FROM {sql.qualified_table} WHERE {quote('state')} IN ({states}) "
                f"GROUP BY {names} ORDER BY n DESC" + (f" LIMIT {MAX_REASONS}" if sql.database in WITH_LIMIT else "")
            )
            counts: Counter[tuple[str, str]] = Counter()
            for state, *values, rows in found:
                outcome = Outcome(state=State(state), **dict(zip(_REASON, values, strict=True)))
                counts[state, describe_outcome(outcome)] += int(rows)
            return [ReasonCount(state=state, reason=text, rows=rows) for (state, text), rows in counts.most_common(limit)]

        return self._read(count)

    def list_open(self, wanted: Filter) -> list[OpenRow]:
        """Return the rows that need a person, the oldest first; see `Settlements.list_open`."""

        def find(sql: LedgerStatements) -> list[OpenRow]:
            now = self._now(sql)
            may_be_alive = partial(self._lease_monitor.may_be_alive, me=self._worker, now=now)
            return find_open(sql, wanted, changes_table=self._changes_table, now=now, may_be_alive=may_be_alive)

        return self._read(find)

    def find_dags(self, keys: Collection[str]) -> frozenset[str]:
        """Return the Dags whose tasks wrote some rows last."""

        def find(sql: LedgerStatements) -> frozenset[str]:
            among, values = sql.among(list(keys))
            dag_id = sql.session.dialect.quote("dag_id")
            found = sql.session.query(f"SELECT DISTINCT {dag_id} FROM {sql.qualified_table} WHERE {among}", *values)
            return frozenset(str(one or "") for (one,) in found)

        return self._read(find) if keys else frozenset()

    def _age(self, sql: LedgerStatements, *, now: int) -> tuple[str, list[object]]:
        """Return the number of a row's age in `AGES`, as SQL that is null for a row that is not in doubt, and its values."""
        quote = sql.session.dialect.quote
        since, at, state = (quote(name) for name in ("in_doubt_since", "claimed_at", "state"))
        cases, values = [], list[object]()
        for number, age in enumerate(AGES):
            cases.append(
                f"WHEN {since} > 0 AND {since} >= {now - age} OR ({since} IS NULL OR {since} <= 0) "
                f"AND {at} >= {sql.bound('claimed_at')} THEN {number}"
            )
            values.append(instant(now - age))
        states = ", ".join(f"'{one}'" for one in sorted(IN_DOUBT))
        is_uncertain = f"{state} IN ({states}) OR {state} = '{State.REJECTED}' AND {since} IS NOT NULL"
        is_dead = f"{state} <> '{State.SENDING}' OR {quote('lease_until')} < {now}"
        return f"CASE WHEN ({is_uncertain}) AND ({is_dead}) THEN CASE {' '.join(cases)} ELSE {len(AGES)} END END", values

    def _read(self, step: Callable[[LedgerStatements], T]) -> T:
        with self._database.reading() as session, _ended_after(session, seconds=self._seconds):
            self._process_lock.observe(self._database)
            return step(LedgerStatements(session=session, database=self._database.name, table=self._table, worker=self._worker))

    def _now(self, sql: LedgerStatements) -> int:
        shared = sql.now()
        return int(self._clock() * 1000) if shared is None else shared


def _number_of(sql: LedgerStatements, name: str, starts: Sequence[int]) -> tuple[str, list[object]]:
    """Return how many of some instants, in ascending order, a column has reached, as SQL, and the values.

    It is a tree of comparisons, which mean the same in all databases: of thirty, each row needs five. A null has reached none.
    """
    at, bound = sql.session.dialect.quote(name), sql.bound(name)
    values: list[object] = []

    def tree(low: int, high: int) -> str:
        if low == high:
            return str(low)
        middle = (low + high) // 2
        values.append(instant(starts[middle]))
        reached = tree(middle + 1, high)
        return f"CASE WHEN {at} >= {bound} THEN {reached} ELSE {tree(low, middle)} END"

    return tree(0, len(starts)), values


@contextmanager
def _ended_after(session: Session, *, seconds: float) -> Iterator[None]:
    """End what a session runs when it takes too long, and its connection if the database does not even say that it has ended."""
    is_over, has_ended = threading.Event(), threading.Event()

    def end() -> None:
        is_over.set()
        session.interrupt()
        if not has_ended.wait(CUT_OFF_AFTER):
            session.cut_off()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if is_over.is_set():
            raise LedgerError(
                f"the database did not answer within {seconds:.0f} s, and was told to stop: see the indexes in the docs"
            ) from error
        raise
    finally:
        has_ended.set()
        timer.cancel()
