# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The ledger: a table that knows of every row what is about to be sent before it is sent, and what came of it after."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from limio_limitrail.landing.sql.errors import Cause
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.usage.ledger.changes import make_changes_table, write_changes
from limio_limitrail.usage.ledger.leases import Liveness
from limio_limitrail.usage.ledger.left_in_doubt import LeftInDoubt, find_left
from limio_limitrail.usage.ledger.model import Entry, LedgerError, Outcome, State, UsageRow, Worker
from limio_limitrail.usage.ledger.process_lock import Presence
from limio_limitrail.usage.ledger.rekeyed_rows import OtherEntry, default_zone, fill_identities, find_others, lacks_identities
from limio_limitrail.usage.ledger.rules import (
    Action,
    Policy,
    may_be_done,
    next_action,
    resolve,
    settled_under_another_key,
    why_kept,
    why_parked,
)
from limio_limitrail.usage.ledger.sql import Statements
from limio_limitrail.usage.ledger.table import ADDED, COLUMNS, FORMAT, INDEXED, add_columns, addition, find_name, prepare_table
from limio_limitrail.usage.ledger.transactions import PAUSES, Transactions
from limio_limitrail.usage.ledger.write_fallbacks import record_apart

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from limio_limitrail.landing.sql.dialect import Session
    from limio_limitrail.landing.sql.persistent_connection import PersistentConnection

log = logging.getLogger("limio_limitrail.usage.ledger")

T = TypeVar("T")

LEASE = 60.0
"""Seconds without a sign of life after which a worker of another task run counts as dead."""

_PAUSES = PAUSES

_ALTER_WAIT = 2.0
"""Seconds that a new column waits for its lock: all others wait behind it for as long."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the ledger said to a row that a worker wants to send.

    :param row: the row.
    :param granted: True where this worker, and no other, may send it now.
    :param entry: what the ledger held of it before, if granted, or holds of it now; none where it was new.
    """

    row: UsageRow
    granted: bool
    entry: Entry | None

    @property
    def in_doubt(self) -> bool:
        """True where an earlier request of the row may have been carried out."""
        return self.entry is not None and may_be_done(self.entry)

    @property
    def waits(self) -> bool:
        """True where another worker is sending it."""
        return not self.granted and self.entry is not None and self.entry.state is State.SENDING


class Ledger:
    """One worker's view of a ledger table. For one thread.

    :param database: where the table is.
    :param table: the table, with its schema where it is not the default one.
    :param worker: who claims rows.
    :param operation: what is done with the rows, such as ``usage.commit``.
    :param conn_id: the API's connection.
    :param tenant: the tenant that the connection names; none where its client and host stand for one.
    :param namespace: what else the idempotency keys are made of; none where nothing is.
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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.table = table
        self.worker = worker
        self._database = database
        self.operation = operation
        self.conn_id = conn_id
        self.tenant = tenant
        self.namespace = namespace
        self._elsewhere: dict[str, str] = {}
        self._about = {"operation": operation, "conn_id": conn_id, "tenant": tenant, "key_namespace": namespace}
        self._transactions = Transactions(database, table=table)
        self._presence = Presence(worker.claim_id)
        # All workers of a file are on one machine.
        self._liveness = Liveness(self._presence, has_clock=database.name in ("postgresql", "duckdb", "sqlite"))
        self._clock = clock
        self._in_doubt: set[str] = set()
        self._told: set[str] = set()

    def prepare(self) -> None:
        """Make the table where there is none; one of a former format gets the columns that it lacks, and keeps its rows.

        :raises LedgerError: there is a table of that name that is no ledger.
        :raises LandingError: the database refused.
        """
        current = prepare_table(
            self._transactions,
            self.table,
            columns=COLUMNS,
            unfit="is no ledger",
            parameter="ledger_table",
            added=ADDED,
            indexed=INDEXED,
        )
        if not current:
            self._upgrade()

    def _upgrade(self) -> None:
        """Bring a ledger of a former format to this one, while workers of a former version may go on with it."""

        def add(session: Session) -> list[str]:
            if self._database.name == "postgresql":
                session.execute(f"SET LOCAL lock_timeout = {int(1000 * _ALTER_WAIT)}")
            return add_columns(session, find_name(self.table, dialect=session.dialect))

        def missing(session: Session) -> list[str]:
            table = find_name(self.table, dialect=session.dialect)
            there = {column.name.lower() for column in session.columns(table) or ()}
            return [addition(session.dialect, table, name) for name in COLUMNS if name in ADDED - there]

        try:
            added = self._transactions.run(add, pauses=(), readers=True)
        except (LandingError, LedgerError) as error:
            # Another worker may have been faster.
            if statements := self._transactions.read(missing):
                raise type(error)(
                    f"the ledger {self.table} was made by an older version, and a column could not be added ({error.what}). "
                    f"Have somebody who may run: {'; '.join(statements)}"
                ) from None
            return
        if added:
            log.info("The ledger %s was made by an older version; it has format %d now, and its rows stand.", self.table, FORMAT)

    def settled(self, rows: Sequence[UsageRow], *, policy: Policy) -> dict[str, Entry]:
        """Give the entries of those rows that are not to be sent, because what the ledger holds of them stands.

        :param rows: rows with different keys.
        :param policy: what to do with those that have an entry.
        :raises LandingError: the database refused in every try.
        """

        def read(sql: Statements) -> dict[str, Entry]:
            now = self._now(sql)
            found = sql.entries([row.key for row in rows])
            actions = {row.key: self._move(row, found[row.key], now=now, policy=policy) for row in rows if row.key in found}
            elsewhere = self._settled_elsewhere(sql, [row for row in rows if row.key not in found])
            return elsewhere | {key: found[key] for key, action in actions.items() if action is Action.KEEP}

        settled = self._read(read)
        if policy.replay is not None:
            for row in rows:
                if (entry := settled.get(row.key)) and (why := why_kept(entry, policy=policy)):
                    self._tell_kept(row, entry, why=why)
        return settled

    def _tell_kept(self, row: UsageRow, entry: Entry, *, why: str) -> None:
        """Say once why a replay does not send rows that it was asked to send."""
        if why in self._told:
            return
        self._told.add(why)
        if entry.state is State.PARKED:
            advice = "Look it up in the API, then trigger another run"
        else:
            advice = (
                f"Look it up in the API. If it is there, set its state in {self.table} to 'committed'. If not, set its state to "
                "'rejected', its in_doubt_since to NULL and its attempts to 1: the next replay sends it"
            )
        log.warning("%s is %s, and is not replayed: %s. %s. The same goes for others like it.", row, entry.state, why, advice)

    # -- rows under other keys -------------------------------------------------------------------------------------

    def settle_elsewhere(self, keys: Mapping[str, str]) -> None:
        """Have rows count as settled by what the ledger holds under other keys.

        :param keys: by the key of a row the other one.
        """
        self._elsewhere = dict(keys)

    def _settled_elsewhere(self, sql: Statements, rows: Sequence[UsageRow]) -> dict[str, Entry]:
        keys = {row.key: self._elsewhere[row.key] for row in rows if row.key in self._elsewhere}
        found = sql.entries(list(keys.values()))
        # Bodies may hold the key, and are not compared.
        return {
            row.key: replace(settled_under_another_key(found[keys[row.key]]), digest=row.digest)
            for row in rows
            if keys.get(row.key) in found
        }

    def find_others(self, wanted: Sequence[tuple[str, str]]) -> list[tuple[str, OtherEntry]]:
        """Read the entries under other keys of rows that have no entry under their own, by the rows' keys.

        :param wanted: keys and identities of rows.
        """
        return self._read(lambda sql: find_others(sql, wanted, operation=self.operation))

    def lacks_identities(self) -> bool:
        """Tell whether there are entries that a former version has written without what tells their rows."""
        return self._read(lambda sql: lacks_identities(sql, operation=self.operation))

    def fill_identities(self, *, after: str) -> tuple[int, str | None]:
        """Give some of those entries what tells their rows; give their number and the last of their keys.

        :param after: the last key that was looked at; empty at first.
        """
        return self._persistently(lambda sql: fill_identities(sql, operation=self.operation, after=after))

    def default_zone(self) -> ZoneInfo | None:
        """Return the zone that sessions of the database have unless they are told another; none where it is UTC or unknown."""
        return self._read(default_zone)

    # -- claims ----------------------------------------------------------------------------------------------------

    def claim(self, rows: Sequence[UsageRow], *, policy: Policy) -> list[Claim]:
        """Claim rows to send them; once this has returned, the claims outlive this process.

        :param rows: rows with different keys.
        :param policy: what to do with those that have an entry.
        :raises LandingError: the database refused in every try; nothing may be sent.
        """
        # Made again after it had succeeded unnoticed, a claim finds its own entries: what was there before must not be lost.
        before: dict[str, Entry] = {}
        return self._persistently(lambda sql: self._claim(sql, rows, policy=policy, before=before))

    def _claim(self, sql: Statements, rows: Sequence[UsageRow], *, policy: Policy, before: dict[str, Entry]) -> list[Claim]:
        now = self._now(sql)
        lease_until = now + int(LEASE * 1000)
        found = sql.entries([row.key for row in rows])
        # All workers take rows in the same order: no two wait for each other.
        ordered = sorted(rows, key=lambda row: row.key)
        new = [row for row in ordered if row.key not in found]
        for row in new:
            before.pop(row.key, None)
        while new:
            added = sql.insert(new, about=self._about, now=now, lease_until=lease_until)
            new = [row for row in new if row.key not in added]
            # Another worker may have been faster with some of them, and may have given some of those up again already.
            there = sql.entries([row.key for row in new])
            found |= {key: entry for key, entry in there.items() if not self._is_mine(entry)}
            new = [row for row in new if row.key not in there]
        before |= {key: entry for key, entry in found.items() if not self._is_mine(entry)}
        actions: dict[str, Action] = {}
        for row in ordered:
            if entry := found.get(row.key):
                action = actions[row.key] = self._move(row, entry, now=now, policy=policy)
                if action is Action.CLAIM:
                    sql.take(row, entry=entry, now=now, lease_until=lease_until)
                elif action is Action.PARK:
                    why = why_parked(entry, digest=row.digest_like(entry.digest), now=now, policy=policy)
                    sql.park(row, entry=entry, detail=why, now=now)
        settled = sql.entries([key for key, action in actions.items() if action in (Action.CLAIM, Action.PARK)])
        claims = []
        for row in rows:
            is_there = settled.get(row.key, found.get(row.key))
            granted = is_there is None or (actions[row.key] is Action.CLAIM and self._is_mine(is_there))
            claims.append(Claim(row=row, granted=granted, entry=before.get(row.key) if granted else is_there))
        # A row that is claimed once more by the same worker stays in doubt.
        self._in_doubt |= {claim.row.key for claim in claims if claim.granted and claim.in_doubt}
        self._liveness.tell([claim.entry for claim in claims if claim.waits and claim.entry is not None], lease=LEASE)
        return claims

    def _move(self, row: UsageRow, entry: Entry, *, now: int, policy: Policy) -> Action:
        alive = entry.state is State.SENDING and self._liveness.is_alive(row.key, entry, me=self.worker, now=now, lease=LEASE)
        digest = row.digest_like(entry.digest)
        return next_action(entry, digest=digest, me=self.worker, now=now, policy=policy, alive=alive)

    def record(self, outcomes: Mapping[str, Outcome]) -> None:
        """Write down what came of rows that this worker has claimed.

        :param outcomes: by key.
        :raises UnwrittenError: the table does not take some outcomes at all; all others are written.
        :raises LandingError: the database refused in every try.
        """
        if not outcomes:
            return
        # Whoever gives the outcomes knows of the doubt as well; this is where no way leads past it.
        outcomes = {key: resolve(outcome, in_doubt=key in self._in_doubt) for key, outcome in outcomes.items()}
        written = record_apart(outcomes, write=self._record, table=self.table)
        self._in_doubt.difference_update(outcomes)
        if written == len(outcomes):
            return
        # Fewer, too, where the same outcomes had been written by a try whose success went unnoticed.
        there = self._persistently(lambda sql: sql.entries(list(outcomes)))
        lost = sum(key not in there or there[key].worker.claim_id != self.worker.claim_id for key in outcomes)
        if lost:
            log.warning(
                "%d of %d outcomes found their entries in the hands of another worker, which took this one for dead.",
                lost,
                len(outcomes),
            )

    def _record(self, outcomes: Mapping[str, Outcome]) -> int:
        return self._persistently(lambda sql: sql.record(outcomes, now=self._now(sql)), at_once=frozenset({Cause.ROWS}))

    def release(self, claims: Iterable[Claim]) -> None:
        """Give up claims whose rows have certainly not been sent: the ledger is then as it was before.

        :raises LandingError: the database refused in every try.
        """
        granted = [claim for claim in claims if claim.granted]
        fresh = [claim.row.key for claim in granted if claim.entry is None]

        def release(sql: Statements) -> None:
            if fresh:
                sql.delete(fresh)
            for claim in granted:
                if claim.entry is not None:
                    sql.restore(claim.row, entry=claim.entry)

        if granted:
            self._persistently(release)
            self._in_doubt.difference_update(claim.row.key for claim in granted)

    def renew(self, keys: Sequence[str]) -> None:
        """Give a sign of life for rows that are still on their way.

        :raises LandingError: the database refused in every try.
        """
        if keys:
            self._persistently(lambda sql: sql.renew(keys, lease_until=self._lease(sql)))

    def left_in_doubt(self, among: Callable[[Sequence[str]], Collection[str]]) -> LeftInDoubt:
        """Count the rows of this operation that stand in doubt and are not among the task's rows.

        :param among: returns those of some keys that are among the task's rows.
        :raises LandingError: the database refused in every try.
        """

        def find(sql: Statements) -> LeftInDoubt:
            now = self._now(sql)

            def may_live(entry: Entry) -> bool:
                return self._liveness.may_live(entry, me=self.worker, now=now, lease=LEASE)

            return find_left(sql, operation=self.operation, now=now, among=among, may_live=may_live)

        return self._read(find)

    def list_changes(self, rows: Sequence[UsageRow], *, table: str, with_bodies: bool) -> None:
        """List rows that were carried out with other bodies.

        :param rows: some of them.
        :param table: the table of changed rows, made where there is none.
        :param with_bodies: whether their new bodies are listed, too.
        :raises LedgerError: there is a table of that name that holds no changed rows.
        :raises LandingError: the database refused in every try.
        """

        def write(sql: Statements) -> None:
            make_changes_table(sql.session, table)
            now = self._now(sql)
            write_changes(sql, rows, operation=self.operation, table=table, with_bodies=with_bodies, now=now)

        self._persistently(write)

    def _is_mine(self, entry: Entry) -> bool:
        return entry.worker.claim_id == self.worker.claim_id and entry.state is State.SENDING

    def _now(self, sql: Statements) -> int:
        """Give the time in milliseconds since 1970, by a clock that all workers of the ledger share."""
        shared = sql.now()
        return int(self._clock() * 1000) if shared is None else shared

    def _lease(self, sql: Statements) -> int:
        return self._now(sql) + int(LEASE * 1000)

    def _persistently(self, step: Callable[[Statements], T], *, at_once: Collection[Cause] = frozenset()) -> T:
        """Run a transaction, and run it again if it fails: each step may be repeated even where it had succeeded unnoticed."""
        return self._transactions.run(lambda session: step(self._statements(session)), pauses=_PAUSES, at_once=at_once)

    def _read(self, step: Callable[[Statements], T]) -> T:
        return self._transactions.read(lambda session: step(self._statements(session)), pauses=_PAUSES)

    def _statements(self, session: Session) -> Statements:
        self._presence.enter(self._database)
        if self._presence.claim_id != self.worker.claim_id:
            self.worker = replace(self.worker, claim_id=self._presence.claim_id)
        sql = Statements(session=session, database=self._database.name, table=self.table, worker=self.worker)
        sql.insist_on_durability()
        return sql
