# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The ledger's table: its columns, how it is made, and how its rows are read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE, Dialect, Session
from limio_limitrail.landing.sql.errors import during
from limio_limitrail.landing.sql.names import TableName
from limio_limitrail.stored_formats import trouble
from limio_limitrail.usage.ledger.model import Entry, LedgerError, Outcome, State, Worker

if TYPE_CHECKING:
    from limio_limitrail.usage.ledger.transactions import Transactions


class Type(Enum):
    """What a column holds."""

    TEXT = "text"
    NUMBER = "number"
    INSTANT = "instant"

    def of(self, dialect: Dialect) -> str:
        """Give the type's name in a database."""
        return {
            Type.TEXT: dialect.text_type,
            Type.NUMBER: dialect.integer_type,
            Type.INSTANT: dialect.instant_type,
        }[self]


KEY = "idempotency_key"

FORMAT = 3
"""What a row means, as this version writes it. Format 1 lacks the column that says so; format 2 lacks what tells a row under
another key, and since when it has been in doubt."""

FORMAT_COLUMN = "ledger_format"

COLUMNS: dict[str, Type] = {
    KEY: Type.TEXT,
    "state": Type.TEXT,
    "operation": Type.TEXT,
    "row_key": Type.TEXT,
    "http_status": Type.NUMBER,
    "decision": Type.TEXT,
    "reservation_id": Type.TEXT,
    "error_code": Type.TEXT,
    "resource_key": Type.TEXT,
    "trace_id": Type.TEXT,
    "field": Type.TEXT,
    "detail": Type.TEXT,
    "attempts": Type.NUMBER,
    "body_digest": Type.TEXT,
    "conn_id": Type.TEXT,
    "dag_id": Type.TEXT,
    "task_id": Type.TEXT,
    "run_id": Type.TEXT,
    "map_index": Type.NUMBER,
    "try_number": Type.NUMBER,
    "claim_id": Type.TEXT,
    "lease_until": Type.NUMBER,
    "claimed_at": Type.INSTANT,
    "finished_at": Type.INSTANT,
    FORMAT_COLUMN: Type.NUMBER,
    "in_doubt_since": Type.NUMBER,
    "row_identity": Type.TEXT,
    "tenant": Type.TEXT,
    "key_namespace": Type.TEXT,
    "body_members": Type.TEXT,
}

ADDED = frozenset({FORMAT_COLUMN, "in_doubt_since", "row_identity", "tenant", "key_namespace", "body_members"})
"""Columns that ledgers of former formats lack. They come last in a table, because that is where they are added."""

INDEXED = ("row_identity",)
"""Columns that rows are looked up by. DuckDB finds them as fast without an index, and changes an indexed row by deleting it."""

OUTCOME = ("http_status", "decision", "reservation_id", "error_code", "resource_key", "trace_id", "field", "detail")
WORKER = ("dag_id", "task_id", "run_id", "map_index", "try_number", "claim_id")
ENTRY = (KEY, FORMAT_COLUMN, "state", "lease_until", "body_digest", "attempts", "in_doubt_since", *WORKER, *OUTCOME)
_ALWAYS = ("lease_until", "body_digest", "attempts", *WORKER)
_COUNTS = frozenset({"lease_until", "attempts", "map_index", "try_number"})


def read_entry(values: Sequence[Any]) -> tuple[str, Entry]:
    """Read what a query for the columns of `ENTRY` gave; the row's key comes first.

    :raises LedgerError: a newer version has written the row, or it is damaged. It must not be sent then: whether it was is not
        known.
    """
    row = dict(zip(ENTRY, values, strict=True))
    # A version that did not know the column has left it empty.
    format_ = 1 if row[FORMAT_COLUMN] is None else _count(row, FORMAT_COLUMN)
    if (why := trouble(format_, reads=FORMAT)) is not None:
        raise LedgerError(
            f"the ledger's row {row[KEY]} {why}. It is not guessed at: run the version of the package that has written it, "
            "or a later one"
        )
    try:
        state = State(row["state"])
    except ValueError:
        raise LedgerError(
            f"the ledger's row {row[KEY]} has the state {str(row['state'])[:40]!r}; correct it to one of {', '.join(State)}"
        ) from None
    if empty := [name for name in _ALWAYS if row[name] is None]:
        raise LedgerError(f"the ledger's row {row[KEY]} is damaged: {', '.join(empty)} must not be empty")
    row |= {name: _count(row, name) for name in _COUNTS}
    return row[KEY], Entry(
        state=state,
        worker=Worker(**{name: row[name] for name in WORKER}),
        lease_until=row["lease_until"],
        digest=row["body_digest"],
        attempts=row["attempts"],
        outcome=Outcome(state=state, **{name: row[name] for name in OUTCOME}),
        format=format_,
        in_doubt_since=None if row["in_doubt_since"] is None else _count(row, "in_doubt_since"),
    )


def with_times(entry: Entry, *, claimed_at: object, finished_at: object) -> Entry:
    """Add to an entry what its instants say, given as the texts that the database makes of them."""
    since = entry.in_doubt_since
    if since is None:
        # A former version has claimed it. After more than one claim, the last one does not tell when the first was.
        since = (_milliseconds(claimed_at) if entry.attempts == 1 else None) or 0
    return replace(entry, in_doubt_since=since, finished_at=_milliseconds(finished_at))


def _milliseconds(text: object) -> int | None:
    try:
        found = datetime.fromisoformat(str(text))
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def _count(row: Mapping[str, Any], name: str) -> int:
    """Read a whole number, which a database may give as another type."""
    try:
        return int(row[name])
    except (TypeError, ValueError, OverflowError):
        raise LedgerError(f"the ledger's row {row[KEY]} is damaged: {name} is no number") from None


def find_name(text: str, *, dialect: Dialect) -> TableName:
    """Read a table's name as the user wrote it.

    :raises LedgerError: it is none.
    """
    try:
        return dialect.table_name(text)
    except ValueError as wrong:
        raise LedgerError(str(wrong)) from None


def prepare_table(transactions: Transactions, text: str, *, columns: Mapping[str, Type], **about: Any) -> bool:
    """Have a table as `make_table` does; False where it is of a former format.

    A table that is there is only looked at: whoever writes to it, or has it locked, keeps nobody from beginning.

    :param text: the table, as the user wrote it.
    :param columns: its columns, the key first.
    :param about: as `make_table` takes it.
    :raises LedgerError: as `make_table` does, or the connection's user lacks a right.
    """
    unmade = {name: value for name, value in about.items() if name != "indexed"}

    def look(session: Session) -> bool | None:
        table = find_name(text, dialect=session.dialect)
        found = _is_current(session, table, columns=columns, **unmade)
        if found is not None:
            _check_rights(session, table)
        return found

    def make(session: Session) -> bool:
        return make_table(session, find_name(text, dialect=session.dialect), columns=columns, **about)

    found = transactions.read(look)
    return transactions.run(make) if found is None else found


def _is_current(
    session: Session,
    table: TableName,
    *,
    columns: Mapping[str, Type],
    unfit: str,
    parameter: str,
    added: Collection[str] = (),
) -> bool | None:
    """Look at a table, as `make_table` does; None where there is none."""
    found = session.columns(table)
    if found is None:
        return None
    if loose := next((column for column in found if column.name.lower() == KEY and column.confuses(Kind.TEXT)), None):
        raise LedgerError(
            f"the table {table}: its column {loose.name!r} takes different keys for equal (its type is {loose.type}), so rows "
            f"would be mixed up. Give another {parameter}=, or make the column a text with a deterministic collation"
        )
    lacking = set(columns) - {column.name.lower() for column in found}
    if strange := sorted(lacking - set(added)):
        raise LedgerError(
            f"the table {table} {unfit} of this version: it lacks {', '.join(strange)}. "
            f"Give another {parameter}=, or add the columns"
        )
    return not lacking


def _index(session: Session, table: TableName, *, column: str) -> None:
    dialect = session.dialect
    match dialect.name:
        case "Postgres":
            session.execute(f"CREATE INDEX ON {dialect.qualified(table)} ({dialect.quote(column)})")
        case "SQLite":
            name = replace(table, table=f"{table.table}_{column}")
            session.execute(f"CREATE INDEX {dialect.qualified(name)} ON {dialect.quote(table.table)} ({dialect.quote(column)})")


def _check_rights(session: Session, table: TableName) -> None:
    """Find out what Postgres will not let the connection's user do, before anything is sent."""
    if session.dialect.name != "Postgres":
        return
    name = session.dialect.qualified(table)
    lacking = session.query(
        f"SELECT may, current_user FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS may "
        f"WHERE NOT has_table_privilege(CAST(to_regclass({VALUE}) AS oid), may) AND (may = 'DELETE' OR EXISTS ("
        f"SELECT 1 FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass({VALUE}) AND attnum > 0 AND NOT attisdropped "
        f"AND NOT has_column_privilege(attrelid, attnum, may)))",
        name,
        name,
    )
    if lacking:
        rights = ", ".join(right for right, _ in lacking)
        raise LedgerError(
            f"the connection's user {lacking[0][1]!r} may not {rights} in the table {table}. Nothing was sent. "
            f"Have its owner run: GRANT {rights} ON {name} TO {session.dialect.quote(lacking[0][1])}"
        )


def make_table(
    session: Session,
    table: TableName,
    *,
    columns: Mapping[str, Type],
    unfit: str,
    parameter: str,
    added: Collection[str] = (),
    indexed: Collection[str] = (),
) -> bool:
    """Make a table with one row a key, where there is none; False where it is of a former format.

    A table that is there is not locked.

    :param columns: its columns, the key first.
    :param unfit: what to say of a table of that name that lacks some, such as ``is no ledger``.
    :param parameter: the parameter that names it.
    :param added: columns that tables of former formats lack.
    :param indexed: columns that get an index in a table that is made.
    :raises LedgerError: there is a table of that name that lacks others.
    """

    def look() -> bool | None:
        return _is_current(session, table, columns=columns, unfit=unfit, parameter=parameter, added=added)

    found = look()
    if found is None:
        session.lock(table)
        # Another worker may have been faster.
        found = look()
    if found is not None:
        return found
    dialect = session.dialect
    described = [f"{dialect.quote(name)} {type_.of(dialect)}" for name, type_ in columns.items()]
    described[0] += " NOT NULL"
    described.append(f"PRIMARY KEY ({dialect.quote(KEY)})")
    with during(f"while creating {table}"):
        session.execute(f"CREATE TABLE {dialect.qualified(table)} ({', '.join(described)})")
        for name in indexed:
            _index(session, table, column=name)
    return True


def add_columns(session: Session, table: TableName) -> list[str]:
    """Give a ledger of a former format the columns that it lacks, if they are still lacking, and name them.

    In a transaction of its own that holds no lock yet: what has locked a table for less deadlocks with those who read it.
    """
    dialect = session.dialect
    there = {column.name.lower() for column in session.columns(table) or ()}
    lacking = [name for name in COLUMNS if name in ADDED - there]
    for name in lacking:
        session.execute(addition(dialect, table, name))
    return lacking


def addition(dialect: Dialect, table: TableName, name: str) -> str:
    """Write the statement that adds a column to a ledger."""
    return f"ALTER TABLE {dialect.qualified(table)} ADD COLUMN {dialect.quote(name)} {COLUMNS[name].of(dialect)}"
