# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The ledger's SQL: what one transaction reads and writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgspec

from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.landing.sql.session import Session
from limio_limitrail.usage.ledger.model import Entry, Outcome, UsageRow, Worker
from limio_limitrail.usage.ledger.rules import may_be_done
from limio_limitrail.usage.ledger.states import IN_DOUBT, State
from limio_limitrail.usage.ledger.table import (
    COLUMNS,
    ENTRY,
    FORMAT,
    FORMAT_COLUMN,
    KEY,
    OUTCOME,
    WORKER,
    find_name,
    milliseconds,
    read_entry,
)

_STAGE = "_limitrail_outcomes"
_STAGED_NUMBERS = frozenset({"s_http_status", "s_attempts", "s_lease_until", "s_in_doubt_since"})


@dataclass(frozen=True, kw_only=True)
class LedgerStatements:
    """The statements of one transaction on the ledger's table, named as the user wrote it."""

    session: Session
    database: str
    table: str
    worker: Worker

    def entries(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the entries of some keys."""
        if not keys:
            return {}
        columns = ", ".join(self._quote(name) for name in ENTRY)
        among, values = self.among(keys)
        sql = f"SELECT {columns} FROM {self.qualified_table} WHERE {among}"
        found = dict(read_entry(values) for values in self.session.query(sql, *values))
        # Few rows need their instants, which take the longest to read.
        if parked := [key for key, entry in found.items() if entry.state is State.PARKED]:
            finished_at = self.session.dialect.legible(self._quote("finished_at"))
            among, values = self.among(parked)
            sql = f"SELECT {self._quote(KEY)}, {finished_at} FROM {self.qualified_table} WHERE {among}"
            for key, instant_ in self.session.query(sql, *values):
                found[key] = replace(found[key], finished_at=milliseconds(instant_))
        return found

    def insert(self, rows: Sequence[UsageRow], *, about: Mapping[str, str | None], now: int, lease_until: int) -> frozenset[str]:
        """Add entries in the state ``sending``; a row that another worker has added meanwhile stays as it is.

        :returns: the keys of those that were added, as far as the database reports them.
        """
        fixed = {
            "state": State.SENDING.value,
            "attempts": 1,
            **about,
            **_worker(self.worker),
            "lease_until": lease_until,
            "claimed_at": instant(now),
            FORMAT_COLUMN: FORMAT,
            "in_doubt_since": now,
        }
        names = [KEY, "row_key", "body_digest", "row_identity", "body_members", "kept_members", *fixed]
        columns = ", ".join(self._quote(name) for name in names)
        if self.database == "postgresql":
            bound = ", ".join(self.bound(name) for name in fixed)
            added = self.session.query(
                f"INSERT INTO {self.qualified_table} ({columns}) SELECT s.k, s.r, s.d, s.i, s.m, s.h, {bound} "
                f"FROM json_to_recordset(CAST({VALUE} AS json)) AS s(k text, r text, d text, i text, m text, h text) "
                f"ON CONFLICT ({self._quote(KEY)}) DO NOTHING RETURNING {self._quote(KEY)}",
                *fixed.values(),
                as_json([_as_record(row) for row in rows]),
            )
            return frozenset(key for (key,) in added)
        if self.database == "duckdb":
            # A list for each column: DuckDB takes half a millisecond to read a row of values that are bound one by one.
            lists = [list(values) for values in zip(*map(_row_values, rows), strict=True)]
            unnested = ", ".join([f"unnest(CAST({VALUE} AS VARCHAR[]))"] * len(lists) + [VALUE] * len(fixed))
            sql = f"INSERT INTO {self.qualified_table} ({columns}) SELECT {unnested} ON CONFLICT ({self._quote(KEY)}) DO NOTHING"
            self.session.execute(sql, *lists, *fixed.values())
            return frozenset()
        values = [value for row in rows for value in (*_row_values(row), *fixed.values())]
        one = f"({', '.join(self.bound(name) for name in names)})"
        # Where a database has no such clause, two workers that insert one row collide, and the transaction is retried.
        otherwise = f" ON CONFLICT ({self._quote(KEY)}) DO NOTHING" if self.database == "sqlite" else ""
        all_values = ", ".join([one] * len(rows))
        self.session.execute(f"INSERT INTO {self.qualified_table} ({columns}) VALUES {all_values}{otherwise}", *values)
        return frozenset()

    def claim(self, row: UsageRow, *, entry: Entry, now: int, lease_until: int) -> None:
        """Claim a row, unless its entry is no longer the one that was read."""
        values = {
            "state": State.SENDING.value,
            **_worker(self.worker),
            "body_digest": row.digest,
            "row_identity": row.identity or None,
            "body_members": row.members,
            "kept_members": row.kept,
            "lease_until": lease_until,
            "claimed_at": instant(now),
            "finished_at": None,
            FORMAT_COLUMN: FORMAT,
            "in_doubt_since": entry.in_doubt_since if may_be_done(entry) else now,
        }
        more = f", {self._quote('attempts')} = {self._quote('attempts')} + 1"
        self._update(values, more=more, where=self._unchanged(row.key, entry))

    def park(self, row: UsageRow, *, entry: Entry, detail: str, now: int) -> None:
        """Park a row, unless its entry is no longer the one that was read."""
        state, since = State.PARKED.value, entry.in_doubt_since
        values = {"state": state, "detail": detail, "finished_at": instant(now), "in_doubt_since": since}
        self._update(values, where=self._unchanged(row.key, entry))

    def restore(self, row: UsageRow, *, entry: Entry) -> None:
        """Restore an entry that this worker's claim has replaced."""
        values = {
            "state": entry.state.value,
            **_worker(entry.worker),
            "lease_until": entry.lease_until,
            "body_digest": entry.digest,
            "attempts": entry.attempts,
            FORMAT_COLUMN: FORMAT,
            "in_doubt_since": entry.in_doubt_since,
            # The claim has overwritten the members of the former body, unless it is the same body.
            "body_members": row.members if row.digest == entry.digest else None,
            "kept_members": row.kept if row.digest == entry.digest else None,
        }
        self._update(values, where={KEY: row.key, **self._mine()})

    def delete(self, keys: Sequence[str]) -> None:
        """Remove entries that this worker has made and not used."""
        among, values = self._among_mine(keys)
        self.session.execute(f"DELETE FROM {self.qualified_table} WHERE {among}", *values)

    def renew(self, keys: Sequence[str], *, lease_until: int) -> int:
        """Extend the leases of claims that this worker still has, its heartbeat; return how many these are."""
        among, values = self._among_mine(keys)
        sql = f"UPDATE {self.qualified_table} SET {self._quote('lease_until')} = {VALUE} WHERE {among}"
        return self.session.execute(sql, lease_until, *values)

    def record(self, outcomes: Mapping[str, Outcome], *, now: int) -> int:
        """Write the outcomes of rows that are still this worker's; return how many were."""
        if self.database == "postgresql":
            return self._record_at_once(outcomes, now=now)
        session, dialect, quote = self.session, self.session.dialect, self._quote
        # Names of their own, so that no condition is ambiguous.
        columns: dict[str, list[object]] = {
            "s_key": list(outcomes),
            "s_state": [outcome.state.value for outcome in outcomes.values()],
            **{f"s_{name}": [storable(getattr(outcome, name)) for outcome in outcomes.values()] for name in OUTCOME},
        }
        self.fill_stage(_STAGE, columns)
        assignments = [(quote(name), "s." + quote(f"s_{name}")) for name in ("state", *OUTCOME)]
        condition = f"t.{quote(KEY)} = s.{quote('s_key')} AND {self._open('t')}"
        written = session.execute(dialect.update(self.qualified_table, quote(_STAGE), assignments, condition))
        session.execute(
            f"UPDATE {self.qualified_table} SET {quote('finished_at')} = {self.bound('finished_at')}, "
            f"{quote('in_doubt_since')} = {self._in_doubt_since(quote('state'), quote('in_doubt_since'))} "
            f"WHERE {quote(KEY)} IN ({_values(list(outcomes))}) AND {quote('claim_id')} = {VALUE} "
            f"AND {quote('state')} <> {VALUE}",
            instant(now),
            *outcomes,
            self.worker.claim_id,
            State.SENDING.value,
        )
        session.execute(f"DROP TABLE {quote(_STAGE)}")
        return written

    def _record_at_once(self, outcomes: Mapping[str, Outcome], *, now: int) -> int:
        """Write outcomes in one statement, without a staging table: a temporary one is slow in Postgres."""
        names = ("state", *OUTCOME)
        rows = [
            {"k": key, **{name: storable(value) for name in names if (value := getattr(outcome, name)) is not None}}
            for key, outcome in outcomes.items()
        ]
        columns = ", ".join(f"{self._quote(name)} {COLUMNS[name].of(self.session.dialect)}" for name in names)
        settings = ", ".join(f"{self._quote(name)} = s.{self._quote(name)}" for name in names)
        state, since = self._quote("state"), self._quote("in_doubt_since")
        return self.session.execute(
            f"UPDATE {self.qualified_table} AS t SET {settings}, {self._quote('finished_at')} = {self.bound('finished_at')}, "
            f"{since} = {self._in_doubt_since(f's.{state}', f't.{since}')} "
            f"FROM json_to_recordset(CAST({VALUE} AS json)) AS s(k text, {columns}) "
            f"WHERE t.{self._quote(KEY)} = s.k AND {self._open('t')}",
            instant(now),
            as_json(rows),
        )

    def count_sent_in_run(self) -> int:
        """Return how many rows the worker's task has claimed in its Dag run, in all tries and mapped copies.

        Another worker that counts them, too, waits until this transaction ends: in Postgres for a lock, in DuckDB and SQLite
        because they have one writer at a time.
        """
        task_run = {name: getattr(self.worker, name) for name in ("run_id", "dag_id", "task_id")}
        if self.database == "postgresql":
            name = f"limio_limitrail {' '.join(task_run.values())}"
            self.session.query(f"SELECT CAST(pg_advisory_xact_lock(hashtextextended({VALUE}, 0)) AS text)", name)
        where = " AND ".join(f"{self._quote(name)} = {VALUE}" for name in task_run)
        [(count,)] = self.session.query(f"SELECT count(*) FROM {self.qualified_table} WHERE {where}", *task_run.values())
        return int(count)

    def now(self) -> int | None:
        """Return the database's time in milliseconds since 1970; None where the ledger's workers share a machine's clock."""
        if self.database != "postgresql":
            return None
        [(milliseconds,)] = self.session.query("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)")
        return int(milliseconds)

    def require_durability(self) -> None:
        """Make Postgres commit to disk, also where ``synchronous_commit`` is off."""
        if self.database == "postgresql":
            self.session.query(
                "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
            )

    def fill_stage(self, stage: str, columns: Mapping[str, Sequence[object]]) -> None:
        """Create a temporary table and fill it; columns that are not in `_STAGED_NUMBERS` are texts."""
        import pyarrow as pa

        dialect = self.session.dialect
        is_number = {name: name in _STAGED_NUMBERS for name in columns}
        types = [(self._quote(name), dialect.integer_type if is_number[name] else dialect.text_type) for name in columns]
        arrays = [pa.array(values, pa.int64() if is_number[name] else pa.string()) for name, values in columns.items()]
        self.session.create_stage(stage=stage, columns=types)
        self.session.fill(stage=stage, rows=pa.table(arrays, names=list(columns)))

    @property
    def qualified_table(self) -> str:
        """The table's name in SQL."""
        return self.session.dialect.qualified(find_name(self.table, dialect=self.session.dialect))

    def _quote(self, name: str) -> str:
        return self.session.dialect.quote(name)

    def bound(self, name: str) -> str:
        """Return the placeholder of a column's value; Postgres needs its type, because a null has none."""
        return f"CAST({VALUE} AS {COLUMNS[name].of(self.session.dialect)})" if self.database == "postgresql" else VALUE

    def _mine(self) -> dict[str, str]:
        return {"claim_id": self.worker.claim_id, "state": State.SENDING.value}

    def _open(self, table: str) -> str:
        """Return the condition that an entry is this worker's, and that its outcome may still be written."""
        # An answer that comes after a settlement is newer than what a person has seen.
        states = ", ".join(f"'{state.value}'" for state in (State.SENDING, State.UNKNOWN, State.PARKED, State.FREE))
        claim, state = (f"{table}.{self._quote(name)}" for name in ("claim_id", "state"))
        return f"{claim} = '{self.worker.claim_id}' AND {state} IN ({states})"

    @staticmethod
    def _in_doubt_since(state: str, since: str) -> str:
        """Return ``in_doubt_since`` after an outcome: a clear one ends the doubt."""
        clear = ", ".join(f"'{one.value}'" for one in State if one not in IN_DOUBT)
        return f"CASE WHEN {state} IN ({clear}) THEN NULL ELSE {since} END"

    def among(self, keys: Sequence[str]) -> tuple[str, list[object]]:
        """Return the condition that a row has one of several keys, and its values."""
        if self.database == "postgresql":
            # One value for all keys: a long list of them takes longer to parse than to look up.
            return f"{self._quote(KEY)} = ANY(CAST({VALUE} AS text[]))", [text_array(keys)]
        return f"{self._quote(KEY)} IN ({_values(keys)})", list(keys)

    def _among_mine(self, keys: Sequence[str]) -> tuple[str, list[object]]:
        """Return the same condition for this worker's claims only."""
        among, values = self.among(keys)
        mine = self._mine()
        return " AND ".join([among, *(f"{self._quote(name)} = {VALUE}" for name in mine)]), [*values, *mine.values()]

    def _unchanged(self, key: str, entry: Entry) -> dict[str, object]:
        """Return what an entry must still be for a change to apply (optimistic locking)."""
        return {KEY: key, "state": entry.state.value, "claim_id": entry.worker.claim_id, "lease_until": entry.lease_until}

    def _update(self, values: Mapping[str, object], *, where: Mapping[str, object], more: str = "") -> None:
        settings = ", ".join(f"{self._quote(name)} = {self.bound(name)}" for name in values)
        condition = " AND ".join(f"{self._quote(name)} = {VALUE}" for name in where)
        self.session.execute(
            f"UPDATE {self.qualified_table} SET {settings}{more} WHERE {condition}", *values.values(), *where.values()
        )


def _worker(worker: Worker) -> dict[str, str | int]:
    return {name: getattr(worker, name) for name in WORKER}


def _row_values(row: UsageRow) -> tuple[str | None, ...]:
    """Return what an entry holds of a row: key, key columns, digest, identity, digests of the members, and kept members."""
    return row.key, row.row_key, row.digest, row.identity or None, row.members, row.kept


def _as_record(row: UsageRow) -> dict[str, str | int | None]:
    return {name: storable(value) for name, value in zip("krdimh", _row_values(row), strict=True)}


def storable(value: str | int | None) -> str | int | None:
    """Replace what some databases cannot store in a text: a NUL, and halves of surrogate pairs."""
    if not isinstance(value, str) or (value.isascii() and "\0" not in value):
        return value
    return value.replace("\0", "\ufffd").encode(errors="replace").decode()


def as_json(rows: Sequence[Mapping[str, str | int | None]]) -> str:
    """Return rows as a JSON text."""
    return msgspec.json.encode(rows).decode()


def text_array(items: Iterable[str]) -> str:
    """Return texts as Postgres reads an array: its drivers take much longer to write a list."""
    escaped = [item.replace("\\", "\\\\").replace('"', '\\"') for item in items]
    return '{"' + '","'.join(escaped) + '"}' if escaped else "{}"


def _values(items: Iterable[object]) -> str:
    return ", ".join(VALUE for _ in items)


def instant(milliseconds: int) -> datetime:
    """Return a time as databases take it."""
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
