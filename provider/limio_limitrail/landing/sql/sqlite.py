# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Loads into SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind, cast
from limio_limitrail.landing.sql.dialect import VALUE, Dialect, Equality, TableColumn, quoted, unchanged, update_from
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, Refusal, connected, during
from limio_limitrail.landing.sql.generic import GenericSession, same
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.names import TableName, ascii_lower
from limio_limitrail.landing.sql.widening import ISO_INSTANT

if TYPE_CHECKING:
    import pyarrow as pa
    from airflow.providers.common.sql.hooks.sql import DbApiHook

LOCK_WAIT = 300
"""Seconds that a load waits for another writer."""

# SQLite's types only lean towards a class of values: TIMESTAMP and JSON lean towards numbers, which no instant and no JSON
# object or array looks like, so both stay the texts they are.
_TYPES = {
    Kind.NULL: "TEXT",
    Kind.BOOLEAN: "BOOLEAN",
    Kind.INTEGER: "INTEGER",
    Kind.BIGINT: "INTEGER",
    Kind.DOUBLE: "REAL",
    Kind.TIMESTAMP: "TIMESTAMP",
    Kind.TEXT: "TEXT",
    Kind.JSON: "JSON",
}
_KINDS = {
    "BOOLEAN": Kind.BOOLEAN,
    "INTEGER": Kind.BIGINT,
    "BIGINT": Kind.BIGINT,
    "INT": Kind.BIGINT,
    "REAL": Kind.DOUBLE,
    "DOUBLE": Kind.DOUBLE,
    "DOUBLE PRECISION": Kind.DOUBLE,
    "TIMESTAMP": Kind.TIMESTAMP,
    "JSON": Kind.JSON,
}


_CAUSES = {
    "SQLITE_CONSTRAINT": Cause.ROWS,
    "SQLITE_FULL": Cause.FULL,
    "SQLITE_BUSY": Cause.TIMEOUT,
    "SQLITE_LOCKED": Cause.TIMEOUT,
    "SQLITE_READONLY": Cause.READ_ONLY,
    "SQLITE_CANTOPEN": Cause.NO_FILE,
    "SQLITE_NOTADB": Cause.NO_FILE,
    "SQLITE_CORRUPT": Cause.NO_FILE,
    "SQLITE_IOERR": Cause.FULL,
    "SQLITE_TOOBIG": Cause.LIMIT,
}


def _kind(type_: str) -> Kind | None:
    declared = type_.upper()
    # This is SQLite's own rule for which types take texts as they are; it disregards lengths.
    if "INT" not in declared and any(word in declared for word in ("CHAR", "CLOB", "TEXT")):
        return Kind.TEXT
    return _KINDS.get(declared)


def _exact(expression: str, kind: Kind) -> str:
    # A column may have been made to disregard case, which would take two keys for one.
    return f"{expression} COLLATE BINARY" if kind in (Kind.TEXT, Kind.JSON, Kind.NULL) else expression


SQLITE = Dialect(
    name="SQLite",
    quote=quoted,
    fold=unchanged,
    same_name=ascii_lower,
    longest_name=None,
    most_columns=2000,
    types=_TYPES,
    text_type="TEXT",
    integer_type="INTEGER",
    instant_type="TIMESTAMP",
    stored=same,
    distinct=lambda one, other: f"{one} IS NOT {other}",
    key=_exact,
    exact=_exact,
    foreign_value=lambda expression, _kind, _foreign: expression,
    # A column of another type may turn texts into numbers at will, and says so only afterwards.
    foreign_loss=lambda _expression, _kind, _foreign: "1 = 1",
    update=lambda *parts: update_from(*parts).replace("UPDATE", "UPDATE OR ABORT", 1),
    keeps_types=False,
    # A constraint of the table may say that a row is to be replaced or left out where another has its value.
    insert="INSERT OR ABORT",
)


@contextmanager
def sqlite_session(hook: DbApiHook) -> Iterator[SqliteSession]:
    """Open the database for one load, waiting for other writers."""
    connection = open_sqlite(hook)
    try:
        with sqlite_transaction(connection) as session:
            yield session
    finally:
        connection.close()


def open_sqlite(hook: DbApiHook) -> sqlite3.Connection:
    """Open the database's file.

    :raises DatabaseError: it cannot be opened.
    """
    connection: sqlite3.Connection = connected(hook, name="SQLite", describe=_unreachable)
    return connection


def _unreachable(message: str) -> Refusal:
    if "unable to open" in message:
        return Refusal(told="", words="unable to open database file", cause=Cause.NO_FILE)
    return Refusal(told="", cause=Cause.NO_FILE)


@contextmanager
def sqlite_transaction(
    connection: sqlite3.Connection, *, lock_wait: float | None = None, begin: str = "BEGIN IMMEDIATE"
) -> Iterator[SqliteSession]:
    """Open a transaction: committed at the end, rolled back if anything is raised.

    :param lock_wait: seconds to wait for others; none: `LOCK_WAIT`.
    :param begin: how it begins; as it stands, it is a writer's from the start.
    """
    # Left to itself, the driver opens no transaction for changes of a table's columns.
    connection.isolation_level = None
    session = SqliteSession(connection, placeholder="?")
    session.execute(f"PRAGMA busy_timeout = {int(1000 * (LOCK_WAIT if lock_wait is None else lock_wait))}")
    session.execute(begin)
    try:
        yield session
        with during("while committing"):
            session.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class SqliteSession(GenericSession):
    """A transaction in SQLite. It has begun as a writer, so there is no other."""

    dialect = SQLITE

    def describe(self, error: Exception) -> Refusal:
        """Tell what happened; SQLite's own words name tables and columns, those of a trigger or of the driver may quote rows."""
        if not isinstance(error, sqlite3.Error):
            return Refusal(told=f"SQLite's driver refused ({type(error).__name__})", cause=Cause.ROWS)
        code = str(getattr(error, "sqlite_errorname", None) or "")
        cause = next((cause for start, cause in _CAUSES.items() if code.startswith(start)), Cause.OTHER)
        told = f"SQLite refused ({type(error).__name__}{f', {code}' if code else ''})"
        return Refusal(told=told, words="" if code in ("", "SQLITE_CONSTRAINT_TRIGGER") else str(error), cause=cause)

    def widen(self, *, table: TableName, column: TableColumn, source: Kind, to: Kind) -> None:
        """Put a wider column in the place of a column."""
        try:
            super().widen(table=table, column=column, source=source, to=to)
        except DatabaseError as refused:
            # SQLite's words name the view, the index or the trigger.
            refused.cause = Cause.OBSTACLE if refused.cause.about_rows else refused.cause
            raise

    def bound(self, value: object) -> object:
        """Give instants as text: SQLite has no type for them."""
        if isinstance(value, datetime):
            return value.astimezone(UTC).strftime(ISO_INSTANT)
        return value

    def bindable(self, array: pa.ChunkedArray) -> pa.ChunkedArray:
        """Give instants as text: SQLite has no type for them."""
        import pyarrow as pa

        if pa.types.is_timestamp(array.type):
            return cast(array, source=Kind.TIMESTAMP, target=Kind.TEXT)
        return array

    def columns(self, table: TableName) -> tuple[TableColumn, ...] | None:
        """Read what columns a table has."""
        schema = table.schema or "main"
        if not self.query(f"SELECT 1 FROM pragma_database_list WHERE lower(name) = lower({VALUE})", schema):
            raise LandingError(f"{table}: there is no schema {schema!r}; SQLite's own is called main")
        hidden = f"SELECT 1 FROM temp.sqlite_master WHERE lower(name) = lower({VALUE})"
        if table.schema is None and self.query(hidden, table.table):
            raise LandingError(
                f"{table} is a temporary table or view of the connection, which ends with it and hides a table of this name; "
                f"write main.{table}, or choose another name"
            )
        kinds = self.query(f"SELECT type FROM {quoted(schema)}.sqlite_master WHERE lower(name) = lower({VALUE})", table.table)
        if not kinds:
            return None
        if any(kind != "table" for (kind,) in kinds):
            raise LandingError(f"{table} is no table; a pull can only be landed in a table")
        described = self.query(
            f"SELECT name, type, dflt_value IS NULL AND hidden = 0 FROM pragma_table_xinfo({VALUE}, {VALUE}) ORDER BY cid",
            table.table,
            schema,
        )
        # Keys are compared character by character, whatever a column's collation; only a unique index goes by its own.
        loose = {
            name
            for (name,) in self.query(
                f"SELECT part.name FROM pragma_index_list({VALUE}, {VALUE}) AS list, "
                f"pragma_index_xinfo(list.name, {VALUE}) AS part WHERE list.\"unique\" AND part.key AND part.coll <> 'BINARY'",
                table.table,
                schema,
                schema,
            )
        }
        return tuple(
            TableColumn(
                name=name,
                type=type_,
                kind=_kind(type_),
                managed=bool(plain),
                equality=Equality.LOOSE if name in loose else Equality.EXACT,
            )
            for name, type_, plain in described
        )

    def may_skip_rows(self, table: TableName) -> bool:
        """Tell whether the table has triggers, each of which may leave a row as it is."""
        schema = quoted(table.schema or "main")
        triggers = " UNION ALL ".join(f"SELECT type, tbl_name FROM {place}.sqlite_master" for place in (schema, "temp"))
        return bool(
            self.query(f"SELECT 1 FROM ({triggers}) WHERE type = 'trigger' AND lower(tbl_name) = lower({VALUE})", table.table)
        )

    def direct_text(self, name: str, source: Kind) -> str | None:
        """Give the expression of a value's text form; ``None`` for doubles, of which SQLite writes 15 digits only."""
        match source:
            case Kind.DOUBLE:
                return None
            case Kind.BOOLEAN:
                return f"CASE {name} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END"
            case Kind.TIMESTAMP | Kind.JSON:
                return name
            case _:
                return f"CAST({name} AS TEXT)"
