# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Entries of the ledger that are not under a task's own keys: rows in doubt, which no other task may ever report, and its own
rows under other keys, which sending would carry out twice."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.usage.ledger.model import Entry, UsageRow, Worker
from limio_limitrail.usage.ledger.row_identity import describe_change, local_times, read_row_key, row_identity, same_row
from limio_limitrail.usage.ledger.sql import LedgerStatements, text_array
from limio_limitrail.usage.ledger.states import LedgerError, PermanentUsageError, State
from limio_limitrail.usage.ledger.table import ENTRY, KEY, milliseconds, read_entry

if TYPE_CHECKING:
    from limio_limitrail.usage.ledger.ledger import Ledger
    from limio_limitrail.usage.row_buffer import RowBuffer

log = logging.getLogger("limio_limitrail.usage.ledger")

AGES: Mapping[str, int] = {"under_1h": 3_600_000, "under_1d": 86_400_000, "under_7d": 604_800_000}
"""The upper bound of each age, in milliseconds."""

OLDER = "older"
"""The age of all others, and of those without a time."""

PAIRS_A_QUERY = 50_000
"""Rows that one query looks up."""

_STAGE = "_limitrail_identities"
_NUMBERS = ("map_index", "in_doubt_since")
_MAX_REASONS = 3
_CLEAR = (State.COMMITTED, State.DENIED, State.REJECTED, State.GIVEN_UP)
_SKEW = 60_000
"""Milliseconds that a time may be in the future; beyond that, a clock was wrong."""


@dataclass(frozen=True, kw_only=True)
class LeftInDoubt:
    """Rows of an operation that are in doubt and are not among a task's rows; `query` shows all rows in doubt.

    :param free: how many others are free to be sent, and wait for a task that has them.
    """

    states: Mapping[str, int] = field(default_factory=dict)
    ages: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys((*AGES, OLDER), 0))
    oldest: str = ""
    query: str = ""
    free: int = 0

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
    found = _read(sql, operation=operation, where=f"COALESCE({state}, '') NOT IN ('{State.SENDING}', '{State.FREE}')")
    free = [row[0] for row in _read(sql, operation=operation, where=f"{state} = '{State.FREE}'")]
    claimed = _read(sql, operation=operation, where=f"{state} = '{State.SENDING}'", more=ENTRY)
    found += [row for row in claimed if not _is_alive(row[4:], may_be_alive=may_be_alive)]
    own = among([*(row[0] for row in found), *free])
    waiting = len([key for key in free if key not in own])
    left = [(_age(row[2], row[3], now=now), str(row[1]), row[0]) for row in found if row[0] not in own]
    if not left:
        return LeftInDoubt(free=waiting)
    ages = Counter(_bucket(age) for age, _, _ in left)
    age, _, key = max(left, key=lambda row: (row[0] is None, row[0] or 0))
    return LeftInDoubt(
        states=dict(Counter(state for _, state, _ in left).most_common()),
        ages={name: ages[name] for name in (*AGES, OLDER)},
        oldest=_describe(sql, key, since=None if age is None else now - age),
        query=(
            "SELECT idempotency_key, state, row_key, http_status, error_code, detail, trace_id, claimed_at, dag_id, task_id, "
            f"run_id FROM {sql.table} WHERE operation = '{operation}' AND {_unsettled('state', but=(State.FREE,))} "
            "ORDER BY claimed_at"
        ),
        free=waiting,
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
        f"WHERE {quote('operation')} = {VALUE} AND {_unsettled(quote('state'))} AND {where} "
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


def _unsettled(state: str, *, but: tuple[State, ...] = ()) -> str:
    # An unknown state leaves a row in doubt: a person may have mistyped it.
    return f"({state} IS NULL OR {state} NOT IN ({', '.join(repr(one.value) for one in (*_CLEAR, *but))}))"


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
        values: tuple[object, ...] = (text_array(keys), text_array(identities))
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
    return [(key, _read_other(other)) for key, *other in found]


def _read_other(values: Sequence[Any]) -> OtherEntry:
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
