# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The ledger's SQL: what one transaction reads and writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from limio_limitrail.landing.sql.dialect import VALUE, Session
from limio_limitrail.usage.ledger.model import IN_DOUBT, Entry, Outcome, State, UsageRow, Worker
from limio_limitrail.usage.ledger.rules import may_be_done
from limio_limitrail.usage.ledger.table import (
    COLUMNS,
    ENTRY,
    FORMAT,
    FORMAT_COLUMN,
    KEY,
    OUTCOME,
    WORKER,
    find_name,
    read_entry,
    with_times,
)

_STAGE = "_limitrail_outcomes"
_NUMBERS = frozenset({"http_status"})


@dataclass(frozen=True, kw_only=True)
class Statements:
    """The statements of one transaction.

    :param session: the open transaction.
    :param database: what kind of database it is.
    :param table: the ledger's table, as the user wrote it.
    :param worker: who claims rows.
    """

    session: Session
    database: str
    table: str
    worker: Worker

    def entries(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Read the entries that there are."""
        if not keys:
            return {}
        columns = ", ".join(self._quote(name) for name in ENTRY)
        among, values = self._among(keys)
        sql = f"SELECT {columns} FROM {self._place} WHERE {among}"
        found = dict(read_entry(values) for values in self.session.query(sql, *values))
        # Few rows need their instants, which take the longest to read.
        dated = [
            key
            for key, entry in found.items()
            if entry.state is State.PARKED or (entry.state in IN_DOUBT and entry.in_doubt_since is None)
        ]
        if dated:
            times = ", ".join(self.session.dialect.legible(self._quote(name)) for name in ("claimed_at", "finished_at"))
            among, values = self._among(dated)
            for key, claimed_at, finished_at in self.session.query(
                f"SELECT {self._quote(KEY)}, {times} FROM {self._place} WHERE {among}", *values
            ):
                found[key] = with_times(found[key], claimed_at=claimed_at, finished_at=finished_at)
        return found

    def insert(self, rows: Sequence[UsageRow], *, about: Mapping[str, str | None], now: int, lease_until: int) -> frozenset[str]:
        """Add entries in the state ``sending``; a row that another worker has added meanwhile stays as it is.

        :param about: columns that are the same for all of them.
        :returns: the keys of those that were added, as far as the database tells.
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
        names = [KEY, "row_key", "body_digest", "row_identity", "body_members", *fixed]
        columns = ", ".join(self._quote(name) for name in names)
        if self.database == "postgresql":
            bound = ", ".join(self._bound(name) for name in fixed)
            added = self.session.query(
                f"INSERT INTO {self._place} ({columns}) SELECT s.k, s.r, s.d, s.i, s.m, {bound} "
                f"FROM json_to_recordset(CAST({VALUE} AS json)) AS s(k text, r text, d text, i text, m text) "
                f"ON CONFLICT ({self._quote(KEY)}) DO NOTHING RETURNING {self._quote(KEY)}",
                *fixed.values(),
                _json([_told(row) for row in rows]),
            )
            return frozenset(key for (key,) in added)
        values = [value for row in rows for value in (*_about(row), *fixed.values())]
        one = f"({', '.join(self._bound(name) for name in names)})"
        # Where a database has no such clause, two workers at the same row collide, and the transaction is made again.
        known = self.database in ("duckdb", "sqlite")
        otherwise = f" ON CONFLICT ({self._quote(KEY)}) DO NOTHING" if known else ""
        all_values = ", ".join([one] * len(rows))
        self.session.execute(f"INSERT INTO {self._place} ({columns}) VALUES {all_values}{otherwise}", *values)
        return frozenset()

    def take(self, row: UsageRow, *, entry: Entry, now: int, lease_until: int) -> None:
        """Claim a row, unless its entry is no longer the one that was read."""
        values = {
            "state": State.SENDING.value,
            **_worker(self.worker),
            "body_digest": row.digest,
            "row_identity": row.identity or None,
            "body_members": row.members,
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
        values = {
            "state": State.PARKED.value,
            "detail": detail,
            "finished_at": instant(now),
            "in_doubt_since": entry.in_doubt_since,
        }
        self._update(values, where=self._unchanged(row.key, entry))

    def restore(self, row: UsageRow, *, entry: Entry) -> None:
        """Put an entry back that this worker's claim has replaced."""
        values = {
            "state": entry.state.value,
            **_worker(entry.worker),
            "lease_until": entry.lease_until,
            "body_digest": entry.digest,
            "attempts": entry.attempts,
            FORMAT_COLUMN: entry.format,
            "in_doubt_since": entry.in_doubt_since,
            # Those of the body that was sent before are not known any more, unless this is it.
            "body_members": row.members if row.digest == entry.digest else None,
        }
        self._update(values, where={KEY: row.key, **self._mine()})

    def delete(self, keys: Sequence[str]) -> None:
        """Remove entries that this worker has made and not used."""
        condition = " AND ".join(f"{self._quote(name)} = {VALUE}" for name in self._mine())
        among, values = self._among(keys)
        self.session.execute(
            f"DELETE FROM {self._place} WHERE {among} AND {condition}",
            *values,
            *self._mine().values(),
        )

    def renew(self, keys: Sequence[str], *, lease_until: int) -> None:
        """Move the leases of claims that this worker still has."""
        condition = " AND ".join(f"{self._quote(name)} = {VALUE}" for name in self._mine())
        among, values = self._among(keys)
        self.session.execute(
            f"UPDATE {self._place} SET {self._quote('lease_until')} = {VALUE} WHERE {among} AND {condition}",
            lease_until,
            *values,
            *self._mine().values(),
        )

    def record(self, outcomes: Mapping[str, Outcome], *, now: int) -> int:
        """Write outcomes down for rows that are still this worker's; give how many were."""
        if self.database == "postgresql":
            return self._record_at_once(outcomes, now=now)
        import pyarrow as pa

        session, dialect, quote = self.session, self.session.dialect, self._quote
        # The stage's names are its own, so that no condition is ambiguous.
        columns: dict[str, list[object]] = {
            "s_key": list(outcomes),
            "s_state": [outcome.state.value for outcome in outcomes.values()],
            **{f"s_{name}": [_storable(getattr(outcome, name)) for outcome in outcomes.values()] for name in OUTCOME},
        }
        numbers = {f"s_{name}" for name in _NUMBERS}
        arrays = [pa.array(values, pa.int64() if name in numbers else pa.string()) for name, values in columns.items()]
        types = [(quote(name), dialect.integer_type if name in numbers else dialect.text_type) for name in columns]
        session.create_stage(stage=_STAGE, columns=types)
        session.fill(stage=_STAGE, rows=pa.table(arrays, names=list(columns)))
        assignments = [(quote(name), "s." + quote(f"s_{name}")) for name in ("state", *OUTCOME)]
        condition = f"t.{quote(KEY)} = s.{quote('s_key')} AND {self._open('t')}"
        written = session.execute(dialect.update(self._place, quote(_STAGE), assignments, condition))
        session.execute(
            f"UPDATE {self._place} SET {quote('finished_at')} = {self._bound('finished_at')}, "
            f"{quote('in_doubt_since')} = {self._doubt_left(quote('state'), quote('in_doubt_since'))} "
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
        """Write outcomes down in one statement, without a stage: for Postgres a table, however temporary, is dear."""
        names = ("state", *OUTCOME)
        rows = [
            {"k": key, **{name: _storable(value) for name in names if (value := getattr(outcome, name)) is not None}}
            for key, outcome in outcomes.items()
        ]
        columns = ", ".join(f"{self._quote(name)} {COLUMNS[name].of(self.session.dialect)}" for name in names)
        settings = ", ".join(f"{self._quote(name)} = s.{self._quote(name)}" for name in names)
        state, since = self._quote("state"), self._quote("in_doubt_since")
        return self.session.execute(
            f"UPDATE {self._place} AS t SET {settings}, {self._quote('finished_at')} = {self._bound('finished_at')}, "
            f"{since} = {self._doubt_left(f's.{state}', f't.{since}')} "
            f"FROM json_to_recordset(CAST({VALUE} AS json)) AS s(k text, {columns}) "
            f"WHERE t.{self._quote(KEY)} = s.k AND {self._open('t')}",
            instant(now),
            _json(rows),
        )

    def now(self) -> int | None:
        """Give the database's own time in milliseconds since 1970; none where the ledger's workers share a machine's clock."""
        if self.database != "postgresql":
            return None
        [(milliseconds,)] = self.session.query("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)")
        return int(milliseconds)

    def insist_on_durability(self) -> None:
        """Have Postgres write to disk before it says that it has, also where it is set not to."""
        if self.database == "postgresql":
            self.session.query(
                "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
            )

    @property
    def _place(self) -> str:
        return self.session.dialect.qualified(find_name(self.table, dialect=self.session.dialect))

    def _quote(self, name: str) -> str:
        return self.session.dialect.quote(name)

    def _bound(self, name: str) -> str:
        """Write a bound value for a column; Postgres is told its type, because a null alone tells none."""
        return f"CAST({VALUE} AS {COLUMNS[name].of(self.session.dialect)})" if self.database == "postgresql" else VALUE

    def _mine(self) -> dict[str, str]:
        return {"claim_id": self.worker.claim_id, "state": State.SENDING.value}

    def _open(self, table: str) -> str:
        """Write the condition that an entry is this worker's, and that its outcome may still be written down."""
        states = ", ".join(f"'{state.value}'" for state in (State.SENDING, State.UNKNOWN, State.PARKED))
        claim, state = (f"{table}.{self._quote(name)}" for name in ("claim_id", "state"))
        return f"{claim} = '{self.worker.claim_id}' AND {state} IN ({states})"

    @staticmethod
    def _doubt_left(state: str, since: str) -> str:
        """Write since when a row is in doubt after an outcome: a clear one ends the doubt."""
        clear = ", ".join(f"'{one.value}'" for one in State if one not in IN_DOUBT)
        return f"CASE WHEN {state} IN ({clear}) THEN NULL ELSE {since} END"

    def _among(self, keys: Sequence[str]) -> tuple[str, list[object]]:
        """Write the condition that a row has one of several keys, and give what is bound in it."""
        if self.database == "postgresql":
            # One value however many keys: a long list of them takes longer to read than to look up.
            return f"{self._quote(KEY)} = ANY(CAST({VALUE} AS text[]))", [list(keys)]
        return f"{self._quote(KEY)} IN ({_values(keys)})", list(keys)

    def _unchanged(self, key: str, entry: Entry) -> dict[str, object]:
        """Give what an entry must still be for a change to apply."""
        return {
            KEY: key,
            "state": entry.state.value,
            "claim_id": entry.worker.claim_id,
            "lease_until": entry.lease_until,
        }

    def _update(self, values: Mapping[str, object], *, where: Mapping[str, object], more: str = "") -> None:
        settings = ", ".join(f"{self._quote(name)} = {self._bound(name)}" for name in values)
        condition = " AND ".join(f"{self._quote(name)} = {VALUE}" for name in where)
        self.session.execute(f"UPDATE {self._place} SET {settings}{more} WHERE {condition}", *values.values(), *where.values())


def _worker(worker: Worker) -> dict[str, str | int]:
    return {name: getattr(worker, name) for name in WORKER}


def _about(row: UsageRow) -> tuple[str | None, ...]:
    """Give what an entry holds of a row: key, key columns, digest, identity and digests of the members."""
    return row.key, row.row_key, row.digest, row.identity or None, row.members


def _told(row: UsageRow) -> dict[str, str | int | None]:
    return {name: _storable(value) for name, value in zip("krdim", _about(row), strict=True)}


def _storable(value: str | int | None) -> str | int | None:
    """Replace what some databases have no room for in a text: a NUL, and halves of surrogate pairs."""
    return value.replace("\0", "\ufffd").encode(errors="replace").decode() if isinstance(value, str) else value


def _json(rows: Sequence[Mapping[str, str | int | None]]) -> str:
    return msgspec.json.encode(rows).decode()


def _values(items: Iterable[object]) -> str:
    return ", ".join(VALUE for _ in items)


def instant(milliseconds: int) -> datetime:
    """Give a time as databases take it."""
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
