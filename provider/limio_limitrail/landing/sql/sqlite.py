# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load into SQLite."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.column_types import Kind, cast
from limio_limitrail.landing.sql.dialect import ISO_INSTANT, VALUE, Dialect, Equality, TableColumn, quoted
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, Diagnosis, connected
from limio_limitrail.landing.sql.generic import GenericSession
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.names import TableName, ascii_lower

if TYPE_CHECKING:
    import pyarrow as pa
    from airflow.providers.common.sql.hooks.sql import DbApiHook

LOCK_WAIT = 300
"""Seconds that a load waits for another writer."""

# A type of SQLite is an affinity: TIMESTAMP and JSON prefer numbers, which no instant and no JSON object or array looks like, so
# both stay texts.
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
    "SQLITE_READONLY_DBMOVED": Cause.MOVED,
    "SQLITE_READONLY": Cause.READ_ONLY,
    "SQLITE_CANTOPEN": Cause.NO_FILE,
    "SQLITE_NOTADB": Cause.NO_FILE,
    "SQLITE_CORRUPT": Cause.NO_FILE,
    "SQLITE_IOERR": Cause.FULL,
    "SQLITE_TOOBIG": Cause.LIMIT,
}


def _kind(type_: str) -> Kind | None:
    declared = type_.upper()
    # SQLite's own rule for text affinity; it ignores lengths.
    if "INT" not in declared and any(word in declared for word in ("CHAR", "CLOB", "TEXT")):
        return Kind.TEXT
    return _KINDS.get(declared)


def _exact(expression: str, kind: Kind) -> str:
    # A column may have a collation without case, which would merge two keys into one.
    return f"{expression} COLLATE BINARY" if kind in (Kind.TEXT, Kind.JSON, Kind.NULL) else expression


def _unreachable(message: str) -> Diagnosis:
    detail = "unable to open database file" if "unable to open" in message else ""
    return Diagnosis(summary="", detail=detail, cause=Cause.NO_FILE)


SQLITE = Dialect(
    name="SQLite",
    same_name=ascii_lower,
    most_columns=2000,
    types=_TYPES,
    text_type="TEXT",
    integer_type="INTEGER",
    instant_type="TIMESTAMP",
    key=_exact,
    exact=_exact,
    to_custom_type=lambda expression, _kind, _type: expression,
    # A column of another type may turn texts into numbers, and shows it only afterwards.
    custom_type_loses=lambda _expression, _kind, _type: "1 = 1",
    distinct="IS NOT",
    strict_types=False,
    # A constraint of the table may say that a row is to be replaced or left out where another has its value.
    insert_verb="INSERT OR ABORT",
    update_verb="UPDATE OR ABORT",
)


class SqliteSession(GenericSession):
    """A transaction in SQLite. It begins as a writer, so there is no other."""

    dialect = SQLITE

    def __init__(self, hook: DbApiHook, connection: sqlite3.Connection) -> None:
        super().__init__(hook, connection)
        self._placeholder = "?"  # the driver knows no other, whatever the connection names for other uses

    @classmethod
    def connect(cls, hook: DbApiHook, *, wait: float | None = None) -> sqlite3.Connection:  # noqa: ARG003
        connection: sqlite3.Connection = connected(hook, name="SQLite", describe=_unreachable)
        if not any(path for _, name, path in connection.execute("PRAGMA database_list").fetchall() if name == "main"):
            connection.close()
            raise LandingError(
                "the SQLite connection names no file, so all that is written would be gone when the task ends; "
                "put the database's path into the connection's host"
            )
        return connection

    @classmethod
    def connect_to_inspect(cls, hook: DbApiHook) -> sqlite3.Connection | None:
        """Open the database's file."""
        return cls.connect(hook)

    @classmethod
    def describe(cls, error: Exception, *, connection: Any) -> Diagnosis:  # noqa: ARG003
        """Describe an error; SQLite's text names tables and columns, that of a trigger or of the driver may quote rows."""
        if not isinstance(error, sqlite3.Error):
            return Diagnosis(summary=f"SQLite's driver refused ({type(error).__name__})", cause=Cause.ROWS)
        code = str(getattr(error, "sqlite_errorname", None) or "")
        cause = next((cause for start, cause in _CAUSES.items() if code.startswith(start)), Cause.OTHER)
        summary = f"SQLite refused ({type(error).__name__}{f', {code}' if code else ''})"
        return Diagnosis(summary=summary, detail="" if code in ("", "SQLITE_CONSTRAINT_TRIGGER") else str(error), cause=cause)

    def begin(self, *, lock_wait: float | None, idle_limit: float | None, read_only: bool) -> None:  # noqa: ARG002
        """Begin a transaction, as a writer unless it only reads."""
        # By default the driver opens no transaction for changes of a table's columns.
        self._connection.isolation_level = None
        self.execute(f"PRAGMA busy_timeout = {int(1000 * (LOCK_WAIT if lock_wait is None else lock_wait))}")
        self.execute("BEGIN DEFERRED" if read_only else "BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.execute("COMMIT")

    def roll_back(self) -> None:
        # The driver's own rollback does nothing on a connection that was opened with autocommit.
        with suppress(Exception):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def file(self) -> Path | None:
        [path] = (path for _, name, path in self._connection.execute("PRAGMA database_list") if name == "main")
        return Path(path) if path else None

    def widen(self, *, table: TableName, column: TableColumn, source: Kind, to: Kind) -> None:
        """Replace a column by a wider one."""
        try:
            super().widen(table=table, column=column, source=source, to=to)
        except DatabaseError as refused:
            # SQLite's text names the view, the index or the trigger.
            refused.cause = Cause.OBSTACLE if refused.cause.about_rows else refused.cause
            raise

    def bound(self, value: object) -> object:
        """Convert instants to text: SQLite has no type for them."""
        if isinstance(value, datetime):
            return value.astimezone(UTC).strftime(ISO_INSTANT)
        return value

    def bindable(self, array: pa.ChunkedArray) -> pa.ChunkedArray:
        """Convert instants to text: SQLite has no type for them."""
        import pyarrow as pa

        if pa.types.is_timestamp(array.type):
            return cast(array, source=Kind.TIMESTAMP, target=Kind.TEXT)
        return array

    def columns(self, table: TableName) -> tuple[TableColumn, ...] | None:
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
            raise LandingError(f"{table} is not a table; a pull can only be loaded into a table")
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
                managed=bool(managed),
                equality=Equality.LOOSE if name in loose else Equality.EXACT,
            )
            for name, type_, managed in described
        )

    @contextmanager
    def reading(self) -> Iterator[None]:
        self.execute("PRAGMA query_only = ON")
        yield
        self.execute("PRAGMA query_only = OFF")

    @contextmanager
    def indexed(self, table: TableName, *, columns: Sequence[str]) -> Iterator[None]:
        """Index columns until the block ends: a lasting index would prevent a column from being widened."""
        name = f"{quoted(table.schema or 'main')}.{quoted(f'_limio_index_{uuid.uuid4().hex}')}"
        indexed = ", ".join(f"{quoted(column)} COLLATE BINARY" for column in columns)
        self.execute(f"CREATE INDEX {name} ON {quoted(table.table)} ({indexed})")
        yield
        # What fails is rolled back, and the index with it.
        self.execute(f"DROP INDEX {name}")

    def may_skip_rows(self, table: TableName) -> bool:
        """Return whether the table has triggers, each of which can leave a row unchanged."""
        schema = quoted(table.schema or "main")
        triggers = " UNION ALL ".join(f"SELECT type, tbl_name FROM {name}.sqlite_master" for name in (schema, "temp"))
        return bool(
            self.query(f"SELECT 1 FROM ({triggers}) WHERE type = 'trigger' AND lower(tbl_name) = lower({VALUE})", table.table)
        )

    def direct_text(self, name: str, source: Kind) -> str | None:
        """Return the expression of a value's text form; ``None`` for doubles, of which SQLite writes only 15 digits."""
        match source:
            case Kind.DOUBLE:
                return None
            case Kind.BOOLEAN:
                return f"CASE {name} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END"
            case Kind.TIMESTAMP | Kind.JSON:
                return name
            case _:
                return f"CAST({name} AS TEXT)"
