# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Settle rows: list those that need a person, and carry out what was decided about them.

A settlement is compare-and-set: it changes a row only if that is still what the decision was made upon. It may be killed at any
time and made again.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from limio_limitrail.landing.sql.session import Session
from limio_limitrail.usage.ledger.decisions import (
    Decision,
    LedgerRow,
    RowDecision,
    SettlementError,
    Verdict,
    judge,
    read_decision,
)
from limio_limitrail.usage.ledger.leases import LeaseMonitor, ProcessLock
from limio_limitrail.usage.ledger.ledger_scan import ScanFilter, ScannedRow, scan_rows
from limio_limitrail.usage.ledger.model import Worker
from limio_limitrail.usage.ledger.open_rows import (
    CHANGED,
    KINDS,
    LISTED,
    Filter,
    OpenRow,
    StateCount,
    count_states,
    entry_of,
    find_open,
    ledger_row,
    read_rows,
)
from limio_limitrail.usage.ledger.settlement_sql import staged_change, write_settlements
from limio_limitrail.usage.ledger.sql import LedgerStatements, storable
from limio_limitrail.usage.ledger.states import LedgerError, State
from limio_limitrail.usage.ledger.table import KEY, LEDGER, require_table
from limio_limitrail.usage.ledger.transactions import Transactions

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.persistent_connection import PersistentConnection

__all__ = [
    "CHANGED",
    "KINDS",
    "LISTED",
    "Decision",
    "Filter",
    "OpenRow",
    "RowDecision",
    "SettlementError",
    "SettlementResult",
    "Settlements",
    "StateCount",
    "read_decision",
]

log = logging.getLogger("limio_limitrail.usage.ledger")

T = TypeVar("T")

BATCH = 500
"""Rows that one transaction settles."""

MAX_PROBLEMS = 20
"""Problems that a message shows."""

MAX_EXAMPLES = 5

_WATCH_EVERY = 0.5


@dataclass(frozen=True, kw_only=True)
class SettlementResult:
    """What came of decisions.

    :param settled: how many rows were settled, by decision.
    :param already: how many had been settled so before, or were so already.
    :param left: how many were left as they are, as decided.
    :param stale: how many are no longer what the decision was made upon: they stay as they are, and are to be looked at again.
    :param contradicted: how many somebody else has settled otherwise meanwhile; they stay as that one has decided.
    :param examples: a few of the last two, each with what it is now.
    :param to_send: how many rows are free, by the Dag, the task and the run that wrote them last.
    """

    settled: Mapping[str, int] = field(default_factory=dict)
    already: int = 0
    left: int = 0
    stale: int = 0
    contradicted: int = 0
    examples: Sequence[str] = ()
    to_send: Mapping[tuple[str, str, str], int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many rows were settled."""
        return sum(self.settled.values())


class Settlements:
    """Lists and settles the rows of a ledger. For one thread.

    :param database: the ledger's database.
    :param table: the ledger's table, as the user wrote it.
    :param changes_table: where changed rows are listed; it need not exist.
    :param clock: seconds since 1970, for databases without a clock that all workers share.
    """

    def __init__(
        self,
        *,
        database: PersistentConnection,
        table: str = "limitrail_usage_ledger",
        changes_table: str = "limitrail_usage_changes",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.table, self.changes_table = table, changes_table
        self.database = database
        self._transactions = Transactions(database, table=table)
        self._worker = Worker(dag_id="", task_id="", run_id=f"settlement {uuid.uuid4().hex}", map_index=-1, try_number=1)
        self._process_lock = ProcessLock(self._worker.claim_id)
        self._lease_monitor = LeaseMonitor(self._process_lock, has_clock=database.name in ("postgresql", "duckdb", "sqlite"))
        self._clock = clock

    def prepare(self, *, read_only: bool = False) -> None:
        """Check the table, and add columns that an earlier version lacked.

        :param read_only: whether rows are listed only: the privileges to change them are then not checked.
        :raises LedgerError: there is none, or it is no ledger.
        """
        if not require_table(self._transactions, self.table, LEDGER, read_only=read_only):
            raise LedgerError(
                f"there is no table {self.table}: give the ledger_table= and the connection of the task that sends the usage"
            )

    def list_open(self, wanted: Filter | None = None) -> list[OpenRow]:
        """Return the rows that need a person, the oldest first. Rows that a live worker is sending are not among them."""
        wanted = wanted or Filter()
        if unknown := sorted(set(wanted.kinds) - set(LISTED)):
            raise ValueError(f"kinds must be of {', '.join(LISTED)}, got {', '.join(map(repr, unknown))}")

        def find(sql: LedgerStatements) -> list[OpenRow]:
            now = self._now(sql)
            may_be_alive = partial(self._lease_monitor.may_be_alive, me=self._worker, now=now)
            return find_open(sql, wanted, changes_table=self.changes_table, now=now, may_be_alive=may_be_alive)

        return self._transactions.read(lambda session: find(self._statements(session)))

    def count_states(self, wanted: Filter | None = None) -> list[StateCount]:
        """Count all rows of the ledger by operation and state; `wanted` narrows operation, Dag, task and run only."""
        return self._transactions.read(lambda session: count_states(self._statements(session), wanted or Filter()))

    def scan(self, wanted: ScanFilter) -> Iterator[ScannedRow]:
        """Yield all rows of an operation and a tenant, in many small transactions."""
        after: str | None = ""
        while after is not None:

            def read(session: Session, after: str = after) -> tuple[list[ScannedRow], str | None]:
                sql = self._statements(session)
                may_be_alive = partial(self._lease_monitor.may_be_alive, me=self._worker, now=self._now(sql))
                return scan_rows(sql, wanted, after=after, may_be_alive=may_be_alive)

            rows, after = self._transactions.read(read)
            yield from rows

    def now(self) -> int:
        """Return the time in milliseconds since 1970, by the clock of the ledger."""
        return self._transactions.read(lambda session: self._now(self._statements(session)))

    def settle(self, decisions: Iterable[RowDecision], *, by: str, settlement_id: str | None = None) -> SettlementResult:
        """Carry out decisions, in transactions of `BATCH` rows. Made again after any failure, it goes on.

        :param by: who has decided.
        :param settlement_id: which settlement this is, the same in each retry: it settles no row twice. Default: one of its own.
        :raises SettlementError: some decisions fit no row; nothing was settled. The message names them.
        :raises LandingError: the database refused in every try. Some rows may be settled.
        """
        settlement_id = settlement_id or uuid.uuid4().hex
        known = self._without_contradictions(decisions, by=by)
        counts = _Counts()
        leases: dict[str, object] = {}
        wanted = self._check(known, settlement_id=settlement_id, counts=counts, leases=leases)
        for batch in _batches(list(wanted.values())):
            attempted: dict[str, dict[str, Any]] = {}
            step = partial(self._settle, batch, by=by, settlement_id=settlement_id, leases=leases, attempted=attempted)
            counts.add(self._transactions.run(lambda session, step=step: step(self._statements(session))))  # type: ignore[misc]
        return counts.result()

    def _without_contradictions(self, decisions: Iterable[RowDecision], *, by: str) -> dict[str, RowDecision]:
        """Return the decisions by key."""
        problems = [] if by.strip() else ["by must name who has decided"]
        found: dict[str, RowDecision] = {}
        for one in decisions:
            other = found.setdefault(one.key, one)
            if (other.decision, other.version) != (one.decision, one.version):
                problems.append(f"{one.key} has two decisions, {other.decision} and {one.decision}")
            facts = [name for name in ("api_decision", "reservation_id", "trace_id") if getattr(one, name) is not None]
            if facts and one.decision not in (Decision.COMMITTED, Decision.DENIED):
                problems.append(f"{one.key} is to be {one.decision}, and has {', '.join(facts)} of the API")
        _raise_if(problems)
        return found

    def _check(
        self, decisions: Mapping[str, RowDecision], *, settlement_id: str, counts: _Counts, leases: dict[str, object]
    ) -> dict[str, RowDecision]:
        """Return the decisions to carry out, each upon the row's version now; count the others, and note the rows' leases."""
        wanted: dict[str, RowDecision] = {}
        problems: list[str] = []
        for batch in _batches(list(decisions.values())):
            rows, now = self._read(batch)
            for one in batch:
                if one.key not in rows:
                    problems.append(f"{one.key[:100]!r} is not in {self.table}")
                    continue
                row = ledger_row(rows[one.key])
                verdict = judge(row, one, settlement_id=settlement_id, is_alive=self._watch(rows[one.key], now=now))
                match verdict:
                    case Verdict.APPLY:
                        wanted[one.key] = replace(one, version=row.version)
                        leases[one.key] = rows[one.key]["lease_until"]
                    case Verdict.UNFIT:
                        listed = f", and {self.changes_table} lists no other body" if one.decision is Decision.ACCEPT else ""
                        problems.append(f"{row}{listed}: it cannot be settled as {one.decision}")
                    case _:
                        counts.count_unsettled(verdict, one, row)
        _raise_if(problems)
        return wanted

    def _read(self, batch: Sequence[RowDecision]) -> tuple[dict[str, dict[str, Any]], int]:
        """Return the rows of some decisions by key, and the time."""
        # No database finds a key that it cannot store.
        keys = [one.key for one in batch if storable(one.key) == one.key]

        def read(sql: LedgerStatements) -> tuple[dict[str, dict[str, Any]], int]:
            return read_rows(sql, keys, changes_table=self.changes_table), self._now(sql)

        return self._transactions.read(lambda session: read(self._statements(session)))

    def _watch(self, row: Mapping[str, Any], *, now: int) -> bool:
        """Return whether a worker may be sending a row; where a clock was wrong, after its heartbeat was watched for."""
        entry = entry_of(row)
        if entry is None or entry.state is not State.SENDING:
            return False
        if self._lease_monitor.may_be_alive(entry, me=self._worker, now=now):
            return True
        # Whether its lease moves is seen when the row is settled.
        while self._lease_monitor.is_alive(row[KEY], entry, me=self._worker, now=now):
            time.sleep(_WATCH_EVERY)
        return False

    def _settle(
        self,
        batch: Sequence[RowDecision],
        sql: LedgerStatements,
        *,
        by: str,
        settlement_id: str,
        leases: Mapping[str, object],
        attempted: dict[str, dict[str, Any]],
    ) -> _Counts:
        """Settle some rows in one transaction; `attempted` keeps what a try has written whose success may go unnoticed."""
        counts = _Counts()
        rows = read_rows(sql, [one.key for one in batch], changes_table=self.changes_table, lock=True)
        changes: list[dict[str, Any]] = []
        decisions = {one.key: one for one in batch}
        for one in batch:
            if one.key not in rows:
                counts.others[Verdict.STALE] += 1
                counts.add_example(f"{one.key} is no longer in {self.table}; it was to be {one.decision}")
                continue
            row = ledger_row(rows[one.key])
            # A heartbeat since the row was checked: its worker lives.
            is_alive = rows[one.key]["lease_until"] != leases[one.key]
            verdict = judge(row, one, settlement_id=settlement_id, is_alive=is_alive)
            if verdict is Verdict.APPLY:
                changes.append(staged_change(rows[one.key], one, settlement_id=settlement_id))
            elif one.key in attempted and row.settlement == attempted[one.key]["s_settlement"]:
                counts.count_settled(one, rows[one.key])
            else:
                counts.count_unsettled(verdict, one, row)
        if not changes:
            return counts
        attempted.update({change["s_key"]: change for change in changes})
        write_settlements(sql, changes, by=by, now=self._now(sql))
        after = read_rows(sql, [change["s_key"] for change in changes], changes_table=self.changes_table)
        for change in changes:
            one = decisions[change["s_key"]]
            row_now = after.get(one.key)
            if row_now is not None and row_now["settlement"] == change["s_settlement"]:
                counts.count_settled(one, row_now)
            elif row_now is not None:
                found = ledger_row(row_now)
                counts.count_unsettled(judge(found, one, settlement_id=settlement_id, is_alive=True), one, found)
        return counts

    def _now(self, sql: LedgerStatements) -> int:
        shared = sql.now()
        return int(self._clock() * 1000) if shared is None else shared

    def _statements(self, session: Session) -> LedgerStatements:
        self._process_lock.acquire(self.database)
        sql = LedgerStatements(session=session, database=self.database.name, table=self.table, worker=self._worker)
        sql.require_durability()
        return sql


class _Counts:
    """Counts what came of decisions."""

    def __init__(self) -> None:
        self.settled: Counter[str] = Counter()
        self.others: Counter[Verdict] = Counter()
        self.examples: list[str] = []
        self.to_send: Counter[tuple[str, str, str]] = Counter()

    def count_settled(self, decision: RowDecision, row: Mapping[str, Any]) -> None:
        self.settled[decision.decision.value] += 1
        if decision.decision is Decision.SEND:
            self.to_send[str(row["dag_id"]), str(row["task_id"]), str(row["run_id"])] += 1

    def count_unsettled(self, verdict: Verdict, decision: RowDecision, row: LedgerRow) -> None:
        if verdict in (Verdict.APPLY, Verdict.UNFIT):
            # Others have changed the row since it was checked.
            verdict = Verdict.STALE
        self.others[verdict] += 1
        if verdict in (Verdict.STALE, Verdict.CONTRADICTED):
            self.add_example(f"{row}; it was to be settled as {decision.decision}")

    def add_example(self, text: str) -> None:
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(text)

    def add(self, other: _Counts) -> None:
        self.settled += other.settled
        self.others += other.others
        self.to_send += other.to_send
        for example in other.examples:
            self.add_example(example)

    def result(self) -> SettlementResult:
        return SettlementResult(
            settled=dict(self.settled),
            already=self.others[Verdict.ALREADY],
            left=self.others[Verdict.LEAVE],
            stale=self.others[Verdict.STALE],
            contradicted=self.others[Verdict.CONTRADICTED],
            examples=tuple(self.examples),
            to_send=dict(self.to_send),
        )


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for at in range(0, len(items), BATCH):
        yield items[at : at + BATCH]


def _raise_if(problems: Sequence[str]) -> None:
    if problems:
        more = f"; and {len(problems) - MAX_PROBLEMS:,} more" if len(problems) > MAX_PROBLEMS else ""
        raise SettlementError(
            f"{len(problems):,} decisions do not fit, so nothing was settled: {'; '.join(problems[:MAX_PROBLEMS])}{more}"
        )
