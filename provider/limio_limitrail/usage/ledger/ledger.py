# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The ledger: a table that records each row before it is sent, and what came of it after."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from limio_limitrail.landing.sql.errors import Cause
from limio_limitrail.landing.sql.session import Session
from limio_limitrail.usage.ledger.changes import CHANGES, write_changes
from limio_limitrail.usage.ledger.claims import Claim
from limio_limitrail.usage.ledger.leases import LEASE, LeaseMonitor, ProcessLock
from limio_limitrail.usage.ledger.model import Entry, Outcome, UsageRow, Worker
from limio_limitrail.usage.ledger.other_rows import LeftInDoubt, OtherEntry, default_zone, find_left, find_others
from limio_limitrail.usage.ledger.rules import (
    Action,
    Policy,
    next_action,
    parking_reason,
    replay_refusal,
    resolve,
    settled_under_another_key,
)
from limio_limitrail.usage.ledger.sql import LedgerStatements
from limio_limitrail.usage.ledger.states import LedgerError, State
from limio_limitrail.usage.ledger.table import (
    LEDGER,
    check_writable,
    prepare_table,
    require_table,
    table_exists,
)
from limio_limitrail.usage.ledger.transactions import Transactions, record_apart
from limio_limitrail.usage.ledger.vanished import add_vanished, log_vanished

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from limio_limitrail.landing.sql.persistent_connection import PersistentConnection

log = logging.getLogger("limio_limitrail.usage.ledger")

T = TypeVar("T")

_MAX_INSERTS = 20
"""How often rows are inserted that are not there afterwards, because others have released them meanwhile."""


class Ledger:
    """One worker's view of a ledger table. For one thread.

    :param read_only: whether it only looks: it takes no lock, and its `claim` must not be called.
    :param clock: seconds since 1970, for databases without a clock that all workers share.
    """

    def __init__(
        self,
        *,
        database: PersistentConnection,
        table: str,
        worker: Worker,
        operation: str,
        conn_id: str,
        tenant: str | None = None,
        namespace: str | None = None,
        read_only: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.table = table
        self.worker = worker
        self.operation, self.conn_id, self.tenant, self.namespace = operation, conn_id, tenant, namespace
        self._database = database
        self._elsewhere: dict[str, str] = {}
        self._about = {"operation": operation, "conn_id": conn_id, "tenant": tenant, "key_namespace": namespace}
        self._transactions = Transactions(database, table=table)
        self._read_only = read_only
        self._process_lock = ProcessLock(worker.claim_id)
        # All workers of a DuckDB or SQLite file are on one machine.
        self._lease_monitor = LeaseMonitor(self._process_lock, has_clock=database.name in ("postgresql", "duckdb", "sqlite"))
        self._clock = clock
        self._in_doubt: set[str] = set()
        self._claimed: dict[str, UsageRow] = {}
        self._logged_reasons: set[str] = set()

    def prepare(self) -> None:
        """Create the table if it does not exist. One of that name that is no ledger raises a `LedgerError`."""
        prepare_table(self._transactions, self.table, LEDGER)

    def exists(self) -> bool:
        """Return whether the table exists. One of that name that is no ledger raises a `LedgerError`."""
        return table_exists(self._transactions, self.table, LEDGER)

    def check_run(self, *, policy: Policy) -> None:
        """Check that a run could create and change the table as it must, and count rows for a limit; nothing is changed.

        :raises LedgerError: it could not.
        """
        check_writable(self._transactions, self.table, LEDGER)
        if policy.limit is not None:
            self._check_limit()

    def forecast(self, rows: Sequence[UsageRow], *, policy: Policy) -> dict[str, tuple[Action, Entry]]:
        """Return what a worker would do now with those rows that have an entry, and the entries; nothing is changed."""

        def read(sql: LedgerStatements) -> dict[str, tuple[Action, Entry]]:
            now = self._now(sql)
            found = sql.entries([row.key for row in rows])
            elsewhere = self._settled_elsewhere(sql, [row for row in rows if row.key not in found])
            actions = {key: (Action.KEEP, entry) for key, entry in elsewhere.items()}
            for row in rows:
                if entry := found.get(row.key):
                    alive = self._lease_monitor.may_be_alive(entry, me=self.worker, now=now)
                    action = next_action(entry, digest=row.digest, me=self.worker, now=now, policy=policy, alive=alive)
                    actions[row.key] = action, entry
            return actions

        return self._read(read)

    def count_sent_in_run(self) -> int:
        """Return how many rows the worker's task has claimed in its Dag run, in all tries and mapped copies."""
        return self._read(self._count_sent)

    def settled(self, rows: Sequence[UsageRow], *, policy: Policy) -> dict[str, Entry]:
        """Return the entries of those rows that are settled, and not to be sent."""

        def read(sql: LedgerStatements) -> dict[str, Entry]:
            now = self._now(sql)
            found = sql.entries([row.key for row in rows])
            actions = {
                row.key: self._next_action(row, found[row.key], now=now, policy=policy) for row in rows if row.key in found
            }
            elsewhere = self._settled_elsewhere(sql, [row for row in rows if row.key not in found])
            return elsewhere | {key: found[key] for key, action in actions.items() if action is Action.KEEP}

        settled = self._read(read)
        if policy.replay is not None:
            for row in rows:
                if (entry := settled.get(row.key)) and (why := replay_refusal(entry, policy=policy)):
                    self._log_replay_refusal(row, entry, why=why)
        return settled

    def _log_replay_refusal(self, row: UsageRow, entry: Entry, *, why: str) -> None:
        """Log once per reason why a replay does not send rows."""
        if why in self._logged_reasons:
            return
        self._logged_reasons.add(why)
        if entry.state is State.PARKED:
            advice = "Look it up in the API, then trigger another run"
        else:
            advice = (
                f"Look it up in the API, and settle it in {self.table} with 'airflow limitrail ledger settle {row.key}' and "
                "--decision committed if it is there, else --decision send"
            )
        log.warning("%s is %s, and is not replayed: %s. %s. The same goes for others like it.", row, entry.state, why, advice)

    # -- rows under other keys -------------------------------------------------------------------------------------

    def settle_elsewhere(self, keys: Mapping[str, str]) -> None:
        """Count rows as settled by entries under other keys, by the rows' keys."""
        self._elsewhere = dict(keys)

    def _settled_elsewhere(self, sql: LedgerStatements, rows: Sequence[UsageRow]) -> dict[str, Entry]:
        keys = {row.key: self._elsewhere[row.key] for row in rows if row.key in self._elsewhere}
        found = sql.entries(list(keys.values()))
        # Bodies may hold the key, and are not compared.
        return {
            row.key: replace(settled_under_another_key(found[keys[row.key]]), digest=row.digest)
            for row in rows
            if keys.get(row.key) in found
        }

    def find_others(self, wanted: Sequence[tuple[str, str]]) -> list[tuple[str, OtherEntry]]:
        """Return the entries under other keys of rows that have none under their own; `wanted` has keys and identities."""
        return self._read(lambda sql: find_others(sql, wanted, operation=self.operation))

    def default_zone(self) -> ZoneInfo | None:
        """Return the default time zone of the database's sessions; None if it is UTC or unknown."""
        return self._read(default_zone)

    # -- claims ----------------------------------------------------------------------------------------------------

    def claim(self, rows: Sequence[UsageRow], *, policy: Policy) -> list[Claim]:
        """Claim rows to send them; once this has returned, the claims outlive this process.

        :raises LandingError: the database refused in every try; nothing may be sent.
        """
        # A claim that is retried after an unnoticed success finds its own entries; the former ones must not be lost.
        before: dict[str, Entry] = {}
        claims = self._write(lambda sql: self._claim(sql, rows, policy=policy, before=before))
        self._claimed |= {claim.row.key: claim.row for claim in claims if claim.granted}
        return claims

    def _claim(self, sql: LedgerStatements, rows: Sequence[UsageRow], *, policy: Policy, before: dict[str, Entry]) -> list[Claim]:
        now = self._now(sql)
        lease_until = now + int(LEASE * 1000)
        # Counted first: what is read after it is what the other workers of this task have left.
        room = None if policy.limit is None else max(0, policy.limit - self._count_sent(sql))
        found = sql.entries([row.key for row in rows])
        beyond = [] if room is None else self._beyond(rows, found=found, room=room, now=now, policy=policy)
        left = {row.key: Claim(row=row, granted=False, entry=found.pop(row.key, None), left=True) for row in beyond}
        rows = [row for row in rows if row.key not in left]
        # All workers claim rows in the same order, so that no two wait for each other.
        ordered = sorted(rows, key=lambda row: row.key)
        new = [row for row in ordered if row.key not in found]
        for row in new:
            before.pop(row.key, None)
        rounds = 0
        while new:
            if (rounds := rounds + 1) > _MAX_INSERTS:
                raise LedgerError(
                    f"the table {self.table} takes no entries: {len(new):,} rows were inserted and are gone, such as {new[0]}. "
                    "None was sent. Look for a trigger, a rule or a policy that somebody has given the ledger"
                )
            added = sql.insert(new, about=self._about, now=now, lease_until=lease_until)
            new = [row for row in new if row.key not in added]
            # Another worker may have inserted some of them first, and may have released some of those again.
            there = sql.entries([row.key for row in new])
            found |= {key: entry for key, entry in there.items() if not self._is_mine(entry)}
            new = [row for row in new if row.key not in there]
        before |= {key: entry for key, entry in found.items() if not self._is_mine(entry)}
        actions: dict[str, Action] = {}
        for row in ordered:
            if entry := found.get(row.key):
                action = actions[row.key] = self._next_action(row, entry, now=now, policy=policy)
                if action is Action.CLAIM:
                    sql.claim(row, entry=entry, now=now, lease_until=lease_until)
                elif action is Action.PARK:
                    why = parking_reason(entry, digest=row.digest, now=now, policy=policy)
                    sql.park(row, entry=entry, detail=why, now=now)
        settled = sql.entries([key for key, action in actions.items() if action in (Action.CLAIM, Action.PARK)])
        claims = []
        for row in rows:
            entry_now = settled.get(row.key, found.get(row.key))
            granted = entry_now is None or (actions[row.key] is Action.CLAIM and self._is_mine(entry_now))
            claims.append(Claim(row=row, granted=granted, entry=before.get(row.key) if granted else entry_now))
        # A row that is claimed once more by the same worker stays in doubt.
        self._in_doubt |= {claim.row.key for claim in claims if claim.granted and claim.in_doubt}
        self._lease_monitor.log_waits([claim.entry for claim in claims if claim.waits and claim.entry is not None])
        return [*claims, *left.values()]

    def _count_sent(self, sql: LedgerStatements) -> int:
        self._check_limit()
        return sql.count_sent_in_run()

    def _check_limit(self) -> None:
        has_one_writer = self._database.name == "postgresql" or self._database.file is not None
        if self.worker.map_index >= 0 and not has_one_writer:
            raise LedgerError(
                "limit= with a mapped task needs a ledger in Postgres, in a DuckDB file or in a SQLite file: in other databases "
                "the copies of the task cannot count together. Nothing was sent"
            )

    def _beyond(
        self, rows: Sequence[UsageRow], *, found: Mapping[str, Entry], room: int, now: int, policy: Policy
    ) -> list[UsageRow]:
        """Return the rows that would be sent if there were room for them; the first ones of the input have it."""
        beyond = []
        for row in rows:
            entry = found.get(row.key)
            if entry is not None and (
                # What this run has claimed is counted already.
                entry.worker.same_run(self.worker) or self._next_action(row, entry, now=now, policy=policy) is not Action.CLAIM
            ):
                continue
            if room:
                room -= 1
            else:
                beyond.append(row)
        return beyond

    def _next_action(self, row: UsageRow, entry: Entry, *, now: int, policy: Policy) -> Action:
        alive = entry.state is State.SENDING and self._lease_monitor.is_alive(row.key, entry, me=self.worker, now=now)
        return next_action(entry, digest=row.digest, me=self.worker, now=now, policy=policy, alive=alive)

    def record(self, outcomes: Mapping[str, Outcome]) -> None:
        """Record the outcomes of rows that this worker has claimed, by key.

        :raises UnwrittenError: the table does not take some outcomes at all; all others are written.
        """
        if not outcomes:
            return
        # The caller resolves them too; no path to the table may skip it.
        outcomes = {key: resolve(outcome, in_doubt=key in self._in_doubt) for key, outcome in outcomes.items()}
        written = record_apart(outcomes, write=self._record, table=self.table)
        # Also fewer if a try whose success went unnoticed had written the same outcomes.
        if written < len(outcomes):
            self._record_missed(outcomes)
        self._forget_claims(outcomes)

    def _record_missed(self, outcomes: Mapping[str, Outcome]) -> None:
        """Record the outcomes of rows that have vanished from the table, and log those that another worker has taken over."""
        if vanished := self._add_vanished(outcomes):
            record_apart({key: outcomes[key] for key in vanished}, write=self._record, table=self.table)
        there = self._write(lambda sql: sql.entries(list(outcomes)))
        lost = sum(key not in there or there[key].worker.claim_id != self.worker.claim_id for key in outcomes)
        if lost:
            log.warning(
                "%d of %d outcomes were not written: another worker has taken over their rows, because this one seemed dead.",
                lost,
                len(outcomes),
            )

    def _add_vanished(self, keys: Collection[str]) -> list[str]:
        """Add the entries of claimed rows again that are no longer in the table; return their keys."""

        def add(sql: LedgerStatements) -> list[UsageRow]:
            now = self._now(sql)
            lease_until = now + int(LEASE * 1000)
            return add_vanished(sql, keys, claimed=self._claimed, about=self._about, now=now, lease_until=lease_until)

        vanished = self._write(add)
        log_vanished(vanished, table=self.table)
        return [row.key for row in vanished]

    def _forget_claims(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._in_doubt.discard(key)
            self._claimed.pop(key, None)

    def _record(self, outcomes: Mapping[str, Outcome]) -> int:
        return self._write(lambda sql: sql.record(outcomes, now=self._now(sql)), at_once=frozenset({Cause.ROWS}))

    def release(self, claims: Iterable[Claim]) -> None:
        """Release claims whose rows have certainly not been sent: the ledger is then as it was before."""
        granted = [claim for claim in claims if claim.granted]
        new = [claim.row.key for claim in granted if claim.entry is None]

        def release(sql: LedgerStatements) -> None:
            if new:
                sql.delete(new)
            for claim in granted:
                if claim.entry is not None:
                    sql.restore(claim.row, entry=claim.entry)

        if granted:
            self._write(release)
            self._forget_claims(claim.row.key for claim in granted)

    def renew(self, keys: Sequence[str]) -> None:
        """Send the heartbeat of this worker: extend the leases of rows in flight."""
        if not keys:
            return
        renewed = self._write(lambda sql: sql.renew(keys, lease_until=self._now(sql) + int(LEASE * 1000)))
        if renewed < len(keys):
            self._add_vanished(keys)

    def left_in_doubt(self, among: Callable[[Sequence[str]], Collection[str]]) -> LeftInDoubt:
        """Count the rows of this operation that are in doubt; `among` returns which of some keys are the task's own rows."""

        def find(sql: LedgerStatements) -> LeftInDoubt:
            now = self._now(sql)
            may_be_alive = partial(self._lease_monitor.may_be_alive, me=self.worker, now=now)
            return find_left(sql, operation=self.operation, now=now, among=among, may_be_alive=may_be_alive)

        return self._read(find)

    def list_changes(self, rows: Sequence[UsageRow], *, table: str, with_bodies: bool) -> None:
        """List rows that were carried out with other bodies. Another table of that name raises a `LedgerError`."""

        # A table of an earlier version gets its later columns.
        require_table(self._transactions, table, CHANGES)
        write = partial(write_changes, rows=rows, operation=self.operation, table=table, with_bodies=with_bodies)
        self._write(lambda sql: write(sql, now=self._now(sql)))

    def _is_mine(self, entry: Entry) -> bool:
        return entry.worker.claim_id == self.worker.claim_id and entry.state is State.SENDING

    def _now(self, sql: LedgerStatements) -> int:
        """Return the time in milliseconds since 1970, by a clock that all workers share if there is one."""
        shared = sql.now()
        return int(self._clock() * 1000) if shared is None else shared

    def _write(self, step: Callable[[LedgerStatements], T], *, at_once: Collection[Cause] = frozenset()) -> T:
        """Run a transaction, and retry it if it fails. Each step is idempotent, because an unnoticed success is repeated."""
        return self._transactions.run(lambda session: step(self._statements(session)), at_once=at_once)

    def _read(self, step: Callable[[LedgerStatements], T]) -> T:
        return self._transactions.read(lambda session: step(self._statements(session)))

    def _statements(self, session: Session) -> LedgerStatements:
        if self._read_only:
            self._process_lock.observe(self._database)
        else:
            self._process_lock.acquire(self._database)
        if self._process_lock.claim_id != self.worker.claim_id:
            self.worker = replace(self.worker, claim_id=self._process_lock.claim_id)
        sql = LedgerStatements(session=session, database=self._database.name, table=self.table, worker=self.worker)
        sql.require_durability()
        return sql
