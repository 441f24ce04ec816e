# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows that the ledger holds under another idempotency key: to send them would carry them out twice."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.troubleshooting import ExplainedError
from limio_limitrail.usage.ledger.model import State, UsageRow, Worker
from limio_limitrail.usage.ledger.row_identity import (
    describe_change,
    identity_of_entry,
    local_times,
    read_row_key,
    row_identity,
    same_row,
)
from limio_limitrail.usage.ledger.table import FORMAT_COLUMN, KEY, find_name

if TYPE_CHECKING:
    from limio_limitrail.usage.ledger.ledger import Ledger
    from limio_limitrail.usage.ledger.sql import Statements
    from limio_limitrail.usage.row_buffer import RowBuffer

log = logging.getLogger("limio_limitrail.usage.ledger")

PAIRS_A_QUERY = 50_000
"""Rows that are looked up in one query."""

FILLED_AT_ONCE = 50_000
"""Entries of former versions that get their identities in one transaction."""

_STAGE = "_limitrail_identities"
_COLUMNS = ("row_key", "state", "conn_id", "dag_id", "task_id", "run_id", "map_index", "tenant", "key_namespace", "attempts",
            "in_doubt_since", FORMAT_COLUMN)  # fmt: skip
_NUMBERS = ("map_index", "attempts", "in_doubt_since", FORMAT_COLUMN)
_MOST_REASONS = 3
_FIRST_PROVING_FORMAT = 3
_PROGRESS_EVERY = 5.0


class RekeyedRowsError(ExplainedError):
    """Rows of this task stand in the ledger under other idempotency keys. Nothing was sent; a person has to say what they are."""


@dataclass(frozen=True, kw_only=True)
class OtherEntry:
    """What the ledger holds of a row under another key.

    :param key: that key.
    :param when: when it was settled or claimed, as the database writes it.
    """

    key: str
    row_key: str | None
    state: str
    conn_id: str | None
    dag_id: str | None
    task_id: str | None
    run_id: str | None
    map_index: int | None
    tenant: str | None
    key_namespace: str | None
    attempts: int | None
    in_doubt_since: int | None
    ledger_format: int | None
    when: str | None

    @property
    def certainly_refused(self) -> bool:
        """True where the API has refused the row and was never in doubt about it: it may be sent under any key."""
        # Versions before this format called a row rejected, too, that may have been carried out by an earlier request.
        proven = (self.ledger_format or 1) >= _FIRST_PROVING_FORMAT or (self.attempts or 0) <= 1
        return self.state == State.REJECTED and proven and self.in_doubt_since is None


@dataclass(frozen=True, kw_only=True)
class Sender:
    """Who is about to send, and under which keys.

    :param worker: the task.
    :param conn_id: its connection.
    :param tenant: the tenant that the connection names; none where its client and host stand for one.
    :param namespace: its ``key_namespace``.
    :param zone: in which the database's sessions read times without a zone, unless told otherwise; none for UTC.
    """

    worker: Worker
    conn_id: str
    tenant: str | None
    namespace: str | None
    zone: ZoneInfo | None = None


@dataclass(kw_only=True)
class Rekeyed:
    """The rows of a task that the ledger holds under other keys.

    :param keys: by the row's key the one under which the ledger holds it.
    :param reasons: how often each difference was found.
    :param example: one of them, in words.
    """

    keys: dict[str, str] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    example: str = ""

    def add(self, row: UsageRow, entry: OtherEntry, *, reason: str) -> None:
        """Count a row, once however many entries it has."""
        if row.key in self.keys:
            return
        self.keys[row.key] = entry.key
        self.reasons[reason] += 1
        if not self.example:
            by = f"{entry.dag_id}.{entry.task_id} in the run {entry.run_id}"
            self.example = (
                f"{row} has the key {row.key}; the ledger holds it as {entry.row_key} under {entry.key}: "
                f"{entry.state} by {by}{f' at {entry.when}' if entry.when else ''}"
            )

    def __str__(self) -> str:
        reasons = "; ".join(f"{reason} ({count:,} rows)" for reason, count in self.reasons.most_common(_MOST_REASONS))
        return f"For example {self.example}. The difference: {reasons}"


def find_rekeyed(ledger: Ledger, row_buffer: RowBuffer, *, sender: Sender, total: int) -> Rekeyed:
    """Find the rows that have no entry under their key, and one under another.

    :param ledger: the ledger.
    :param row_buffer: all rows of the task.
    :param sender: who is about to send them.
    :param total: how many there are, for the log.
    """
    found = Rekeyed()
    zone = sender.zone
    for pairs in row_buffer.identities(at_once=PAIRS_A_QUERY):
        indexes = {key: index for index, key, _ in pairs}
        wanted = [(key, identity) for _, key, identity in pairs]
        if zone is not None:
            wanted += _local_pairs(row_buffer, pairs, operation=ledger.operation, zone=zone)
        for key, entry in ledger.find_others(wanted):
            if row_buffer.has_key(entry.key):
                continue
            row = row_buffer.row(indexes[key])
            if (reason := why_same(row, entry, sender=sender)) is not None:
                found.add(row, entry, reason=reason)
    if found.keys:
        log.warning("%s of %s rows stand in the ledger under other keys.", f"{len(found.keys):,}", f"{total:,}")
    return found


def _local_pairs(
    row_buffer: RowBuffer, pairs: Sequence[tuple[int, str, str]], *, operation: str, zone: ZoneInfo
) -> Iterator[tuple[str, str]]:
    """Give the identities that rows have where their times are read in a zone; nothing where the first of them has no times."""
    for index, key, _ in pairs:
        values = local_times(read_row_key(row_buffer.row(index).row_key) or {}, zone)
        if values is None:
            return
        yield key, row_identity(operation, values)


def why_same(row: UsageRow, entry: OtherEntry, *, sender: Sender) -> str | None:
    """Say in what an entry under another key differs from a row; none where it is not the same row.

    :param row: the row.
    :param entry: an entry of the same identity.
    :param sender: who is about to send the row.
    """
    mine = sender.worker
    same_task = (entry.dag_id, entry.task_id, entry.map_index) == (mine.dag_id, mine.task_id, mine.map_index)
    if entry.certainly_refused or not (same_task or entry.conn_id == sender.conn_id):
        return None
    if sender.tenant and entry.tenant and sender.tenant != entry.tenant:
        return None
    if sender.namespace != entry.key_namespace and (not same_task or (sender.namespace and entry.key_namespace)):
        return None
    now, before = read_row_key(row.row_key), read_row_key(entry.row_key)
    if now is None or before is None or not same_row(now, before, renamed=same_task, zone=sender.zone):
        return None
    if sender.namespace != entry.key_namespace:
        return f"key_namespace is {sender.namespace!r}, and was {entry.key_namespace!r}"
    return describe_change(now, before) or "the tenant, or the connection's client id or host, is another"


def default_zone(sql: Statements) -> ZoneInfo | None:
    """Return the zone that a session of the database has unless it is told another; none where it is UTC, or not known."""
    try:
        match sql.database:
            case "postgresql":
                [(name,)] = sql.session.query("SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'TimeZone'")
            case "duckdb":
                [(name,)] = sql.session.query("SELECT current_setting('TimeZone')")
            case _:
                return None
        return None if str(name).upper() in ("UTC", "ETC/UTC", "GMT") else ZoneInfo(str(name))
    except (ValueError, OSError):
        return None


def find_others(sql: Statements, wanted: Sequence[tuple[str, str]], *, operation: str) -> list[tuple[str, OtherEntry]]:
    """Read the entries under other keys of rows that have no entry under their own.

    :param wanted: keys and identities of rows.
    :param operation: what is done with them.
    """
    session, dialect = sql.session, sql.session.dialect
    quote, place = dialect.quote, _place(sql)
    columns = [*(f"t.{quote(name)}" for name in (KEY, *_COLUMNS)),
               dialect.legible(f"coalesce(t.{quote('finished_at')}, t.{quote('claimed_at')})")]  # fmt: skip
    if sql.database == "postgresql":
        source = f"unnest(CAST({VALUE} AS text[]), CAST({VALUE} AS text[])) AS s(s_key, s_identity)"
        values: tuple[object, ...] = ([key for key, _ in wanted], [identity for _, identity in wanted])
    else:
        _fill_stage(sql, wanted)
        source, values = f"{quote(_STAGE)} AS s", ()
    found = session.query(
        f"SELECT s.s_key, {', '.join(columns)} FROM {source} "
        f"JOIN {place} AS t ON t.{quote('row_identity')} = s.s_identity "
        f"WHERE t.{quote('operation')} = {VALUE} AND t.{quote(KEY)} <> s.s_key "
        f"AND NOT EXISTS (SELECT 1 FROM {place} AS own WHERE own.{quote(KEY)} = s.s_key)",
        *values,
        operation,
    )
    if sql.database != "postgresql":
        session.execute(f"DROP TABLE {quote(_STAGE)}")
    return [(key, _read(other)) for key, *other in found]


def _read(values: Sequence[Any]) -> OtherEntry:
    row = dict(zip(("key", *_COLUMNS, "when"), values, strict=True))
    row |= {name: None if row[name] is None else int(row[name]) for name in _NUMBERS}
    row["when"] = None if row["when"] is None else str(row["when"])
    return OtherEntry(**row)


def _fill_stage(sql: Statements, rows: Sequence[tuple[str, str]]) -> None:
    import pyarrow as pa

    dialect = sql.session.dialect
    names = ("s_key", "s_identity")
    sql.session.create_stage(stage=_STAGE, columns=[(name, dialect.text_type) for name in names])
    columns = [pa.array([row[at] for row in rows], pa.string()) for at in range(2)]
    sql.session.fill(stage=_STAGE, rows=pa.table(columns, names=list(names)))


def lacks_identities(sql: Statements, *, operation: str) -> bool:
    """Tell whether there are entries that a former version has written."""
    quote = sql.session.dialect.quote
    found = sql.session.query(
        f"SELECT 1 FROM {_place(sql)} WHERE {quote('row_identity')} IS NULL AND {quote('operation')} = {VALUE} {_first(sql, 1)}",
        operation,
    )
    return bool(found)


def fill_identities(sql: Statements, *, operation: str, after: str) -> tuple[int, str | None]:
    """Give entries of former versions their identities, as far as they tell them.

    :param operation: what was done with their rows.
    :param after: the last key that was looked at; empty at first.
    :returns: how many were looked at, and the last of their keys.
    """
    session, quote, place = sql.session, sql.session.dialect.quote, _place(sql)
    found = session.query(
        f"SELECT {quote(KEY)}, {quote('row_key')} FROM {place} WHERE {quote('row_identity')} IS NULL "
        f"AND {quote('operation')} = {VALUE} AND {quote(KEY)} > {VALUE} ORDER BY {quote(KEY)} {_first(sql, FILLED_AT_ONCE)}",
        operation,
        after,
    )
    if not found:
        return 0, None
    rows = [(str(key), identity_of_entry(operation, row_key)) for key, row_key in found]
    if sql.database == "postgresql":
        session.execute(
            f"UPDATE {place} AS t SET {quote('row_identity')} = s.i "
            f"FROM unnest(CAST({VALUE} AS text[]), CAST({VALUE} AS text[])) AS s(k, i) "
            f"WHERE t.{quote(KEY)} = s.k AND t.{quote('row_identity')} IS NULL",
            *([row[at] for row in rows] for at in range(2)),
        )
    else:
        _fill_stage(sql, rows)
        condition = f"t.{quote(KEY)} = s.s_key AND t.{quote('row_identity')} IS NULL"
        session.execute(session.dialect.update(place, quote(_STAGE), [(quote("row_identity"), "s.s_identity")], condition))
        session.execute(f"DROP TABLE {quote(_STAGE)}")
    return len(rows), rows[-1][0]


def fill_all_identities(ledger: Ledger) -> None:
    """Give all entries of this operation that a former version has written their identities, batch by batch."""
    if not ledger.lacks_identities():
        return
    log.info("Entries of an older version in the ledger %s get what tells their rows under another key.", ledger.table)
    done, after, said = 0, "", time.monotonic()
    while True:
        count, last = ledger.fill_identities(after=after)
        if last is None:
            break
        done, after = done + count, last
        if time.monotonic() - said > _PROGRESS_EVERY:
            said = time.monotonic()
            log.info("%s entries have it so far.", f"{done:,}")
    log.info("%s entries have it now.", f"{done:,}")


def _place(sql: Statements) -> str:
    dialect = sql.session.dialect
    return dialect.qualified(find_name(sql.table, dialect=dialect))


def _first(sql: Statements, count: int) -> str:
    known = sql.database in ("postgresql", "duckdb", "sqlite")
    return f"LIMIT {count}" if known else f"FETCH FIRST {count} ROWS ONLY"


def refuse_rekeyed(found: Rekeyed, *, operation: str, table: str, total: int) -> RekeyedRowsError:
    """Make the error that says that nothing was sent, and what to do."""
    return RekeyedRowsError(
        f"{operation}: {len(found.keys):,} of {total:,} rows stand in the ledger {table} under other idempotency keys. Sending "
        f"them would carry them out twice, so nothing was sent. {found}. Give the key columns back the form that they had (a "
        f"CAST in the query); after a change of the client id, set the connection's tenant to "
        f"'<former client id>@<URL of the API>'. Or run the task with on_rekeyed='settle', which counts these rows as done by "
        f"what stands there, or with on_rekeyed='send', which sends them as rows of their own"
    )
