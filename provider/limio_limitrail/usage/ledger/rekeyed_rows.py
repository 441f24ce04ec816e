# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Find rows that the ledger holds under another idempotency key: sending them would carry them out twice."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.usage.ledger.model import PermanentUsageError, State, UsageRow, Worker
from limio_limitrail.usage.ledger.row_identity import describe_change, local_times, read_row_key, row_identity, same_row
from limio_limitrail.usage.ledger.table import KEY

if TYPE_CHECKING:
    from limio_limitrail.usage.ledger.ledger import Ledger
    from limio_limitrail.usage.ledger.sql import LedgerStatements
    from limio_limitrail.usage.row_buffer import RowBuffer

log = logging.getLogger("limio_limitrail.usage.ledger")

PAIRS_A_QUERY = 50_000
"""Rows that one query looks up."""

_STAGE = "_limitrail_identities"
_NUMBERS = ("map_index", "in_doubt_since")
_MAX_REASONS = 3


class RekeyedRowsError(PermanentUsageError):
    """Rows of this task are in the ledger under other idempotency keys. Nothing was sent; a person has to say what they are."""


@dataclass(frozen=True, kw_only=True)
class OtherEntry:
    """An entry of a row under another key; `when` it was settled or claimed, as the database formats it."""

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
    in_doubt_since: int | None
    when: str | None

    @property
    def certainly_refused(self) -> bool:
        """True if the API has refused the row, and it was never in doubt: it may be sent under any key."""
        return self.state == State.REJECTED and self.in_doubt_since is None


_COLUMNS = tuple(field.name for field in fields(OtherEntry) if field.name not in ("key", "when"))


@dataclass(kw_only=True)
class Rekeyed:
    """The rows of a task that the ledger holds under other keys: the other key by the row's, and how often each difference."""

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
        reasons = "; ".join(f"{reason} ({count:,} rows)" for reason, count in self.reasons.most_common(_MAX_REASONS))
        return f"For example {self.example}. The difference: {reasons}"


def find_rekeyed(ledger: Ledger, row_buffer: RowBuffer, *, worker: Worker, zone: ZoneInfo | None, total: int) -> Rekeyed:
    """Find the rows that have no entry under their key, and one under another."""
    found = Rekeyed()
    for pairs in row_buffer.identities(at_once=PAIRS_A_QUERY):
        indexes = {key: index for index, key, _ in pairs}
        wanted = [(key, identity) for _, key, identity in pairs]
        if zone is not None:
            wanted += _local_pairs(row_buffer, pairs, operation=ledger.operation, zone=zone)
        for key, entry in ledger.find_others(wanted):
            if row_buffer.has_key(entry.key):
                continue
            row = row_buffer.row(indexes[key])
            if (reason := why_same(row, entry, ledger=ledger, worker=worker, zone=zone)) is not None:
                found.add(row, entry, reason=reason)
    if found.keys:
        log.warning("%s of %s rows are in the ledger under other keys.", f"{len(found.keys):,}", f"{total:,}")
    return found


def _local_pairs(
    row_buffer: RowBuffer, pairs: Sequence[tuple[int, str, str]], *, operation: str, zone: ZoneInfo
) -> Iterator[tuple[str, str]]:
    """Return the identities that rows have if their times are read in a zone; nothing if the first of them has no times."""
    for index, key, _ in pairs:
        values = local_times(read_row_key(row_buffer.row(index).row_key) or {}, zone)
        if values is None:
            return
        yield key, row_identity(operation, values)


def why_same(row: UsageRow, entry: OtherEntry, *, ledger: Ledger, worker: Worker, zone: ZoneInfo | None) -> str | None:
    """Return how an entry under another key differs from a row; None if it is not the same row."""
    same_task = (entry.dag_id, entry.task_id, entry.map_index) == (worker.dag_id, worker.task_id, worker.map_index)
    if entry.certainly_refused or not (same_task or entry.conn_id == ledger.conn_id):
        return None
    if ledger.tenant and entry.tenant and ledger.tenant != entry.tenant:
        return None
    if ledger.namespace != entry.key_namespace and (not same_task or (ledger.namespace and entry.key_namespace)):
        return None
    now, before = read_row_key(row.row_key), read_row_key(entry.row_key)
    if now is None or before is None or not same_row(now, before, renamed=same_task, zone=zone):
        return None
    if ledger.namespace != entry.key_namespace:
        return f"key_namespace is {ledger.namespace!r}, and was {entry.key_namespace!r}"
    return describe_change(now, before) or "the tenant, or the connection's client id or host, is another"


def default_zone(sql: LedgerStatements) -> ZoneInfo | None:
    """Return the default time zone of the database's sessions; None if it is UTC or unknown."""
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


def find_others(sql: LedgerStatements, wanted: Sequence[tuple[str, str]], *, operation: str) -> list[tuple[str, OtherEntry]]:
    """Return the entries under other keys of rows that have no entry under their own, by the rows' keys."""
    session, dialect = sql.session, sql.session.dialect
    quote, table = dialect.quote, sql.qualified_table
    columns = [f"t.{quote(name)}" for name in (KEY, *_COLUMNS)]
    columns.append(dialect.legible(f"coalesce(t.{quote('finished_at')}, t.{quote('claimed_at')})"))
    keys, identities = [key for key, _ in wanted], [identity for _, identity in wanted]
    if sql.database == "postgresql":
        source = f"unnest(CAST({VALUE} AS text[]), CAST({VALUE} AS text[])) AS s(s_key, s_identity)"
        values: tuple[object, ...] = (keys, identities)
    else:
        sql.fill_stage(_STAGE, {"s_key": keys, "s_identity": identities})
        source, values = f"{quote(_STAGE)} AS s", ()
    found = session.query(
        f"SELECT s.s_key, {', '.join(columns)} FROM {source} "
        f"JOIN {table} AS t ON t.{quote('row_identity')} = s.s_identity "
        f"WHERE t.{quote('operation')} = {VALUE} AND t.{quote(KEY)} <> s.s_key "
        f"AND NOT EXISTS (SELECT 1 FROM {table} AS own WHERE own.{quote(KEY)} = s.s_key)",
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


def refuse_rekeyed(found: Rekeyed, *, operation: str, table: str, total: int) -> RekeyedRowsError:
    """Return the error for them: nothing was sent, and what to do."""
    return RekeyedRowsError(
        f"{operation}: {len(found.keys):,} of {total:,} rows are in the ledger {table} under other idempotency keys. Sending "
        f"them would carry them out twice, so nothing was sent. {found}. Give the key columns back the form that they had (a "
        f"CAST in the query); after a change of the client id, set the connection's tenant to "
        f"'<former client id>@<URL of the API>'. Or run the task with on_rekeyed='settle', which counts these rows as done by "
        f"those entries, or with on_rekeyed='send', which sends them as rows of their own"
    )
