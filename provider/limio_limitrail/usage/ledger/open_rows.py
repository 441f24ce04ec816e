# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The rows of a ledger that need a person, read without claiming them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.usage.ledger.changes import CHANGES
from limio_limitrail.usage.ledger.decisions import LedgerRow
from limio_limitrail.usage.ledger.model import Entry, Outcome, describe_outcome
from limio_limitrail.usage.ledger.sql import LedgerStatements
from limio_limitrail.usage.ledger.states import IN_DOUBT, LedgerError, State
from limio_limitrail.usage.ledger.table import ENTRY, KEY, OUTCOME, check_format, find_name, has_table, milliseconds, read_entry

CHANGED = "changed"
DAMAGED = "damaged"

KINDS = ("parked", "unknown", "sending", "rejected", CHANGED, DAMAGED)
"""Why rows need a person: their state; another body than the one that was carried out; a state that is none."""

FREE = State.FREE.value
LISTED = (*KINDS, FREE)
"""Those, and rows that wait for a task that has them."""

_STATES = {kind: State(kind) for kind in LISTED if kind not in (CHANGED, DAMAGED)}
_ORDERS: Mapping[str, Sequence[tuple[str, str]]] = {
    **dict.fromkeys(
        (State.PARKED, State.UNKNOWN),
        (("{since} > 0", "in_doubt_since"), ("({since} IS NULL OR {since} <= 0)", "claimed_at")),
    ),
    State.REJECTED: (("1 = 1", "finished_at"),),
}
"""What `_since` reads, as conditions and columns to order by, of the states that all rows of a run may get."""

WITH_LIMIT = frozenset({"postgresql", "duckdb", "sqlite"})
"""Databases that have a LIMIT clause for certain."""

_INSTANTS = ("claimed_at", "finished_at", "settled_at")
_COLUMNS = (*ENTRY, "operation", "row_key", "body_members", "kept_members", "settled_by", "settlement", *_INSTANTS)

_ENDED = "the worker that sent it ended without writing down an answer"
_MAY_BE_DONE = "an earlier request may have been carried out"


@dataclass(frozen=True, kw_only=True)
class OpenRow:
    """A row that needs a person.

    :param kind: one of `LISTED`.
    :param reason: why, without what is particular to the row.
    :param since: since when, in milliseconds since 1970; None if unknown.
    :param attempts: how often a worker started to send it.
    :param members: of a changed row: the names of the members that differ, as a JSON list; None if unknown.
    :param version: what a decision is made upon; see `RowDecision`.
    :param in_doubt: whether it may have been carried out, also where it was rejected.
    """

    key: str
    operation: str
    row_key: str
    kind: str
    reason: str
    since: int | None
    attempts: int | None
    trace_id: str | None
    dag_id: str | None
    task_id: str | None
    run_id: str | None
    map_index: int | None
    members: str | None
    version: str
    in_doubt: bool


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which rows to list.

    :param kinds: of `LISTED`.
    :param operation: such as ``usage.commit``; None: any, like the next ones.
    :param dag_id: the Dag of the task that wrote the row last.
    :param older_than: seconds for which a row has needed a person at least. One without a time is older.
    :param limit: how many rows at most, the oldest first.
    """

    kinds: Collection[str] = KINDS
    operation: str | None = None
    dag_id: str | None = None
    task_id: str | None = None
    run_id: str | None = None
    older_than: float | None = None
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class StateCount:
    """How many rows of an operation are in a state.

    :param since: when the oldest of them was claimed, in milliseconds since 1970; None if unknown.
    """

    operation: str
    state: str
    rows: int
    since: int | None = None


def find_open(
    sql: LedgerStatements, wanted: Filter, *, changes_table: str, now: int, may_be_alive: Callable[[Entry], bool]
) -> list[OpenRow]:
    """Return the rows that need a person, the oldest first. Rows that a live worker is sending are not among them.

    :param changes_table: where changed rows are listed; it need not exist.
    """
    found = [(_since(row, kind=kind), kind, row) for kind, row in _uncertain(sql, wanted, may_be_alive=may_be_alive)]
    if CHANGED in wanted.kinds:
        found += [(_since(row, kind=CHANGED), CHANGED, row) for row in _changed(sql, wanted, changes_table=changes_table)]
    if wanted.older_than is not None:
        latest = now - int(1000 * wanted.older_than)
        found = [one for one in found if one[0] is None or one[0] <= latest]
    found.sort(key=lambda one: (one[0] is not None, one[0] or 0, one[2][KEY]))
    return [_open_row(row, kind=kind, since=since) for since, kind, row in found[: wanted.limit]]


def _uncertain(
    sql: LedgerStatements, wanted: Filter, *, may_be_alive: Callable[[Entry], bool]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield rows with the kind that each is."""
    quote = sql.session.dialect.quote
    state = quote("state")
    words = [kind for kind in _STATES if kind in wanted.kinds]
    conditions = {kind: f"{state} = '{kind}'" for kind in words}
    if DAMAGED in wanted.kinds:
        known = ", ".join(repr(one.value) for one in State)
        conditions[DAMAGED] = f"{state} IS NULL OR {state} NOT IN ({known})"
    if not conditions:
        return
    where, values = _about(sql, wanted)
    found = f"FROM {sql.qualified_table} WHERE ({' OR '.join(conditions.values())}){where}"
    if wanted.limit is not None and sql.database in WITH_LIMIT:
        oldest = _oldest(sql, conditions, found, limit=wanted.limit)
        found = f"FROM {sql.qualified_table} WHERE {quote(KEY)} IN ({oldest})"
    query = f"SELECT {_columns(sql)} {found}"
    for row in _rows(sql.session.query(query, *values)):
        kind = row["state"] if row["state"] in _STATES else DAMAGED
        if kind != State.SENDING or not _is_alive(row, may_be_alive=may_be_alive):
            yield kind, row


def _oldest(sql: LedgerStatements, conditions: Mapping[str, str], found: str, *, limit: int) -> str:
    """Return the query for the keys of rows, of a state that many may have the oldest only. The table is read once.

    :param conditions: by kind.
    :param found: the rows, from FROM on.
    """
    dialect = sql.session.dialect
    quote = dialect.quote
    key = quote(KEY)
    columns = ", ".join(quote(name) for name in (KEY, "state", "in_doubt_since", "claimed_at", "finished_at"))
    parts = []
    for kind, condition in conditions.items():
        for has_time, time in _ORDERS.get(kind, ()):
            order = f"CASE WHEN {quote(time)} IS NULL THEN 0 ELSE 1 END, {quote(time)}, {dialect.exact(key, Kind.TEXT)}"
            where = f"({condition}) AND {has_time.format(since=quote('in_doubt_since'))}"
            parts.append(f"SELECT {key} FROM (SELECT {key} FROM found WHERE {where} ORDER BY {order} LIMIT {limit:d}) AS one")
    if others := [condition for kind, condition in conditions.items() if kind not in _ORDERS]:
        parts.append(f"SELECT {key} FROM found WHERE {' OR '.join(others)}")
    return f"WITH found AS (SELECT {columns} {found}) {' UNION ALL '.join(parts)}"


def _changed(sql: LedgerStatements, wanted: Filter, *, changes_table: str) -> Iterator[dict[str, Any]]:
    dialect = sql.session.dialect
    quote = dialect.quote
    if not has_table(sql.session, changes_table, CHANGES):
        return
    changes = dialect.qualified(find_name(changes_table, dialect=dialect))
    where, values = _about(sql, wanted, prefix="l.")
    new = ", ".join(f"c.{quote(name)}" for name in ("members", "body_digest"))
    query = (
        f"SELECT {_columns(sql, prefix='l.')}, {new}, {dialect.legible('c.' + quote('seen_at'))} "
        f"FROM {changes} AS c JOIN {sql.qualified_table} AS l ON l.{quote(KEY)} = c.{quote(KEY)} "
        f"WHERE l.{quote('state')} IN ('{State.COMMITTED}', '{State.DENIED}') "
        f"AND c.{quote('body_digest')} <> COALESCE(l.{quote('body_digest')}, ''){where}"
        + (
            ""
            if wanted.limit is None or sql.database not in WITH_LIMIT
            else f" ORDER BY c.{quote('seen_at')} LIMIT {wanted.limit:d}"
        )
    )
    for *values_, members, digest, seen_at in sql.session.query(query, *values):
        [row] = _rows([values_])
        row |= {"changed_to": digest, "members": members, "seen_at": seen_at}
        yield row


def _about(sql: LedgerStatements, wanted: Filter, *, prefix: str = "") -> tuple[str, list[object]]:
    """Return the conditions of a filter, and their values."""
    names = [name for name in ("operation", "dag_id", "task_id", "run_id") if getattr(wanted, name) is not None]
    conditions = "".join(f" AND {prefix}{sql.session.dialect.quote(name)} = {VALUE}" for name in names)
    return conditions, [getattr(wanted, name) for name in names]


def _columns(sql: LedgerStatements, *, prefix: str = "") -> str:
    dialect = sql.session.dialect
    named = {name: prefix + dialect.quote(name) for name in _COLUMNS}
    return ", ".join(dialect.legible(named[name]) if name in _INSTANTS else named[name] for name in _COLUMNS)


def _rows(found: Sequence[Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in found:
        yield dict(zip(_COLUMNS, values, strict=True))


def _is_alive(row: Mapping[str, Any], *, may_be_alive: Callable[[Entry], bool]) -> bool:
    entry = entry_of(row)
    # A damaged entry does not show who sends the row.
    return entry is not None and may_be_alive(entry)


def entry_of(row: Mapping[str, Any]) -> Entry | None:
    """Read a row as an entry; None if it is damaged."""
    try:
        return read_entry([row[name] for name in ENTRY])[1]
    except LedgerError:
        return None


def _reason(row: Mapping[str, Any], *, kind: str) -> str:
    if kind == CHANGED:
        return f"it was {row['state']}, and came again with another body"
    if kind == DAMAGED:
        return f"its state {str(row['state'])[:40]!r} is none of the ledger's"
    if kind == FREE:
        return "it waits for a task that has it"
    outcome = Outcome(state=State(kind), **{name: row[name] for name in OUTCOME})
    said = any(getattr(outcome, name) is not None for name in OUTCOME)
    reason = describe_outcome(outcome)
    if kind == State.SENDING:
        return f"{_ENDED}; before that: {reason}" if said else _ENDED
    if kind == State.REJECTED and row["in_doubt_since"] is not None:
        return f"{reason}; {_MAY_BE_DONE}"
    return reason


def _open_row(row: Mapping[str, Any], *, kind: str, since: int | None) -> OpenRow:
    return OpenRow(
        key=row[KEY],
        operation=row["operation"],
        row_key=row["row_key"],
        kind=kind,
        reason=_reason(row, kind=kind),
        since=since,
        attempts=number(row["attempts"]),
        trace_id=row["trace_id"],
        dag_id=row["dag_id"],
        task_id=row["task_id"],
        run_id=row["run_id"],
        map_index=number(row["map_index"]),
        members=row.get("members"),
        version=ledger_row(row).version,
        in_doubt=kind in (*IN_DOUBT, DAMAGED) or (kind == State.REJECTED and row["in_doubt_since"] is not None),
    )


def _since(row: Mapping[str, Any], *, kind: str) -> int | None:
    if kind == CHANGED:
        return milliseconds(row["seen_at"])
    if kind == State.REJECTED:
        return milliseconds(row["finished_at"])
    if kind == FREE:
        return milliseconds(row["settled_at"])
    return number(row["in_doubt_since"]) or milliseconds(row["claimed_at"])


def number(value: object) -> int | None:
    """Read a whole number; None if it is none."""
    try:
        return int(str(value))
    except ValueError:
        return None


def ledger_row(row: Mapping[str, Any]) -> LedgerRow:
    """Return what a decision about a row is made upon."""
    word = "" if row["state"] is None else str(row["state"])
    return LedgerRow(
        key=row[KEY],
        state=State(word) if word in set(State) else None,
        word=word,
        claim_id=str(row["claim_id"] or ""),
        attempts=number(row["attempts"]),
        digest=str(row["body_digest"] or ""),
        settlement=str(row["settlement"] or ""),
        settled_by=str(row["settled_by"] or ""),
        settled_at=str(row["settled_at"] or ""),
        changed_to=row.get("changed_to"),
        is_listed=bool(row.get("is_listed")),
    )


def read_rows(sql: LedgerStatements, keys: Sequence[str], *, changes_table: str, lock: bool = False) -> dict[str, dict[str, Any]]:
    """Return the columns of some rows by key; of changed ones, what the changes table holds, too.

    :param lock: keep others from changing them until the transaction ends, where the database can.
    :raises LedgerError: another version has written one of them.
    """
    if not keys:
        return {}
    among, values = sql.among(keys)
    # In one order, so that no two wait for each other.
    locked = f" ORDER BY {sql.session.dialect.quote(KEY)} FOR UPDATE" if lock and sql.database == "postgresql" else ""
    query = f"SELECT {_columns(sql)} FROM {sql.qualified_table} WHERE {among}{locked}"
    found = {row[KEY]: row for row in _rows(sql.session.query(query, *values))}
    for row in found.values():
        check_format(row)
    carried_out = [key for key, row in found.items() if row["state"] in (State.COMMITTED, State.DENIED)]
    if not carried_out or not has_table(sql.session, changes_table, CHANGES):
        return found
    dialect = sql.session.dialect
    among, values = sql.among(carried_out)
    changes = find_name(changes_table, dialect=dialect)
    columns = ", ".join(map(dialect.quote, (KEY, "body_digest", "body_members", "members")))
    has_kept = any(column.name.lower() == "kept_members" for column in sql.session.columns(changes) or ())
    kept = dialect.quote("kept_members") if has_kept else "NULL"
    query = f"SELECT {columns}, {kept} FROM {dialect.qualified(changes)} WHERE {among}"
    for key, digest, new_members, members, new_kept in sql.session.query(query, *values):
        row = found[key]
        row["is_listed"] = True
        if digest is not None and digest != (row["body_digest"] or ""):
            row |= {"changed_to": digest, "new_members": new_members, "members": members, "new_kept": new_kept}
    return found


def count_states(sql: LedgerStatements, wanted: Filter) -> list[StateCount]:
    """Count the rows by operation and state."""
    dialect = sql.session.dialect
    where, values = _about(sql, wanted)
    operation, state = dialect.quote("operation"), dialect.quote("state")
    oldest = dialect.legible(f"MIN({dialect.quote('claimed_at')})")
    found = sql.session.query(
        f"SELECT {operation}, {state}, COUNT(*), {oldest} FROM {sql.qualified_table} WHERE 1 = 1{where} "
        f"GROUP BY {operation}, {state} ORDER BY {operation}, {state}",
        *values,
    )
    return [
        StateCount(operation=str(one), state=str(two), rows=int(rows), since=milliseconds(since))
        for one, two, rows, since in found
    ]


def count_reasons(rows: Sequence[OpenRow]) -> list[tuple[str, str, str, int]]:
    """Count rows by operation, kind and reason, the most frequent first."""
    counts = Counter((row.operation, row.kind, row.reason) for row in rows)
    return [(*group, count) for group, count in counts.most_common()]
