# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Loads into DuckDB: rows go in straight from Arrow memory."""

from __future__ import annotations

import logging
import re
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE, Dialect, Equality, TableColumn, quoted, unchanged, update_from
from limio_limitrail.landing.sql.duckdb_connect import database_path, free_settings, opened
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, Refusal, before_values, during, guarded
from limio_limitrail.landing.sql.model import EXTRACTED_AT, RUN_ID, LandingError, PartSource
from limio_limitrail.landing.sql.names import TableName, ascii_lower
from limio_limitrail.landing.sql.widening import ISO_INSTANT, respell_doubles

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from limio_limitrail.landing.sql.direct_load import DirectLoad

log = logging.getLogger("limio_limitrail.landing.sql")

OPEN_WAIT = 300.0
"""Seconds that a load waits for another process to let go of the database's file."""

MEMORY = "512MB"
"""What DuckDB may use for a load, where the connection's ``memory_limit`` does not say."""

POUR_MEMORY = 64
"""Megabytes that it may use to take part files into a new table, likewise; it needs no more for that."""

POUR_THREADS = 2
"""Threads that do so, each of which writes groups of rows of its own."""

POUR_COLUMN = 2
"""Megabytes for each column, where that is more: all of them are written side by side."""

PARTS_AT_ONCE = 8
"""Part files that it reads in one statement: too few, and its threads have nothing to share."""

# These speak of names and of the database's state; all others may quote the rows they could not store.
_SPEAK_OF_NAMES = frozenset(
    {"BinderException", "CatalogException", "DependencyException", "IOException", "NotImplementedException", "ParserException",
     "PermissionException", "SyntaxException", "OutOfMemoryException"}
)  # fmt: skip

# DuckDB refuses writers of other processes, but lets threads of one process insert the same key side by side.
_WRITERS: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

_TYPES = {
    Kind.NULL: "VARCHAR",
    Kind.BOOLEAN: "BOOLEAN",
    Kind.INTEGER: "BIGINT",
    Kind.BIGINT: "BIGINT",
    Kind.DOUBLE: "DOUBLE",
    Kind.TIMESTAMP: "TIMESTAMP WITH TIME ZONE",
    Kind.TEXT: "VARCHAR",
    Kind.JSON: "JSON",
}
# Types in which values are equal only if their texts are, as long as a text comes back as it went in.
_EXACT_TYPES = frozenset(
    {"BIT", "BLOB", "BOOLEAN", "DATE", "DECIMAL", "DOUBLE", "ENUM", "JSON", "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE",
     "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP_S", "UUID", "VARCHAR", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT",
     "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
)  # fmt: skip
_CAPITALS, _SMALL = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"
_KINDS = {
    "BOOLEAN": Kind.BOOLEAN,
    "BIGINT": Kind.BIGINT,
    "DOUBLE": Kind.DOUBLE,
    "TIMESTAMP WITH TIME ZONE": Kind.TIMESTAMP,
    "VARCHAR": Kind.TEXT,
    "JSON": Kind.JSON,
}


def _stored(expression: str, kind: Kind) -> str:
    return f"CAST({expression} AS JSON)" if kind is Kind.JSON else expression


def _exact(expression: str, kind: Kind) -> str:
    # A column may have been made to disregard case, which would take two keys for one, or be of a type that has no collation.
    return f"CAST({expression} AS VARCHAR) COLLATE C" if kind in (Kind.JSON, Kind.TEXT, Kind.NULL) else expression


def _foreign_value(expression: str, kind: Kind, foreign: str) -> str:
    # A double's text is exact, its direct cast to a decimal is not.
    inner = f"CAST({expression} AS VARCHAR)" if kind is Kind.DOUBLE else expression
    return f"CAST({inner} AS {foreign})"


def _foreign_loss(expression: str, kind: Kind, foreign: str) -> str:
    back = "VARCHAR" if kind is Kind.JSON else _TYPES[kind]
    return f"CAST({_foreign_value(expression, kind, foreign)} AS {back}) IS DISTINCT FROM {expression}"


DUCKDB = Dialect(
    name="DuckDB",
    quote=quoted,
    fold=unchanged,
    same_name=ascii_lower,
    longest_name=None,
    most_columns=None,
    types=_TYPES,
    text_type="VARCHAR",
    integer_type="BIGINT",
    instant_type="TIMESTAMP WITH TIME ZONE",
    stored=_stored,
    distinct=lambda one, other: f"{one} IS DISTINCT FROM {other}",
    key=_exact,
    exact=_exact,
    foreign_value=_foreign_value,
    foreign_loss=_foreign_loss,
    update=update_from,
)


@contextmanager
def duckdb_session(hook: DbApiHook) -> Iterator[DuckSession]:
    """Open the database for one load, waiting for its file if another process has it.

    :raises LandingError: the connection names no lasting database, or another process keeps the file.
    """
    database = database_path(hook)
    with _WRITERS[_same_file(database)]:
        connection = open_duckdb(hook, wait=OPEN_WAIT)
        try:
            with _transaction(connection, free=free_settings(hook)) as session:
                yield session
        finally:
            connection.close()


@contextmanager
def duckdb_transaction(hook: DbApiHook, connection: duckdb.DuckDBPyConnection, *, lock_wait: float) -> Iterator[DuckSession]:
    """Open a transaction on a connection that stays open; other threads of this process wait.

    :param lock_wait: seconds that they wait at most.
    :raises DatabaseError: another thread has been writing for so long.
    """
    writer = _WRITERS[_same_file(database_path(hook))]
    if not writer.acquire(timeout=lock_wait):
        raise DatabaseError(Refusal(told="another thread of this process writes into the DuckDB file", cause=Cause.TIMEOUT))
    try:
        with _transaction(connection) as session:
            yield session
    finally:
        writer.release()


@contextmanager
def _transaction(connection: duckdb.DuckDBPyConnection, *, free: Collection[str] = ()) -> Iterator[DuckSession]:
    session = DuckSession(connection, free=free)
    session.execute("BEGIN TRANSACTION")
    try:
        yield session
        with during("while committing"):
            session.execute("COMMIT")
    except BaseException:
        session.roll_back()
        raise


def open_duckdb(hook: DbApiHook, *, wait: float) -> duckdb.DuckDBPyConnection:
    """Open the database.

    :param wait: seconds to wait for another process to let go of its file.
    :raises LandingError: the connection names no lasting database, or another process keeps the file.
    """
    connection = opened(hook, wait=wait)
    session = DuckSession(connection)
    session.execute("SET TimeZone = 'UTC'")
    if "memory_limit" in free_settings(hook):
        # DuckDB would take four fifths of the machine; beyond this it goes on from disk.
        session.execute(f"SET memory_limit = '{MEMORY}'")
    return connection


def _same_file(database: str) -> str:
    return database if database.startswith("md:") else str(Path(database).resolve())


def describe(error: Exception) -> Refusal:
    """Tell why a statement failed, without any value."""
    kind, message = type(error).__name__, str(error).strip().partition("\n")[0]
    told, cause = f"DuckDB refused ({kind})", Cause.OTHER
    if re.search(r"No space left|Disk quota|max_temp_directory_size", str(error)):
        cause = Cause.FULL
    elif re.search(r"Permission denied|Read-only file system|read-only mode", str(error)):
        cause = Cause.READ_ONLY
    elif kind == "TransactionException":
        cause = Cause.CONFLICT
    elif kind == "OutOfMemoryException":
        cause = Cause.LIMIT
    elif kind in ("ConversionException", "OutOfRangeException"):
        cause = Cause.ROWS
    if kind in _SPEAK_OF_NAMES:
        # An attached database's own refusal, which may quote rows, comes as an error of input and output.
        words = before_values(message) if "ERROR:" in str(error) else message
        return Refusal(told=told, words=words, cause=cause)
    prefix, _, rest = message.partition(": ")
    if rest.startswith("NOT NULL constraint failed"):
        return Refusal(told=told, words=rest, cause=Cause.ROWS)
    if repeated := re.match(r'Duplicate key "(.*?): ', rest):
        # Before the first colon stands a column's name, or its beginning.
        return Refusal(told=told, words=f"a unique constraint on {repeated.group(1)!r} was violated", cause=Cause.ROWS)
    if kind in ("ConstraintException", "TransactionException", "ConnectionException"):
        cause = Cause.ROWS if kind == "ConstraintException" else cause
        return Refusal(told=told, words=before_values(rest or prefix), cause=cause)
    return Refusal(told=told, words="its message is not shown, since it may quote rows", cause=cause)


def _lower(expression: str) -> str:
    # DuckDB disregards the case of A to Z, and of no other letters.
    return f"translate({expression}, '{_CAPITALS}', '{_SMALL}')"


def _is_at(table: str, schema: str) -> str:
    """Compare what two columns of DuckDB's own tables name with a table; binds what `_place` gives."""
    return f"{_lower(table)} = {VALUE} AND {_lower(schema)} = coalesce({VALUE}, {_lower('current_schema()')})"


def _place(table: TableName) -> tuple[str, str | None]:
    return ascii_lower(table.table), None if table.schema is None else ascii_lower(table.schema)


def _equality(type_: str) -> Equality:
    # Collations need no look: keys are compared character by character, and indexes disregard collations.
    if type_ == "FLOAT":
        return Equality.NUMERIC
    plain = type_.partition("(")[0]
    return Equality.EXACT if plain in _EXACT_TYPES and not type_.endswith("]") else Equality.LOOSE


class DuckSession:
    """A transaction in DuckDB.

    :param connection: the open database.
    :param free: settings that nobody else has decided, and that it may change while it fills a new table.
    """

    dialect = DUCKDB

    def __init__(self, connection: duckdb.DuckDBPyConnection, *, free: Collection[str] = ()) -> None:
        self._connection = connection
        self._free = frozenset(free)

    def execute(self, sql: str, *values: object) -> int:
        """Run a statement; answer the number of rows it touched."""
        rows = self.query(sql, *values)
        return int(rows[0][0]) if rows and isinstance(rows[0][0], int) else 0

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a query and fetch all its rows."""
        import duckdb

        return guarded(
            lambda: self._connection.execute(sql.replace(VALUE, "?"), list(values)).fetchall(),
            refused=duckdb.Error,
            describe=describe,
        )

    def roll_back(self) -> None:
        """Undo everything; a transaction that the database has ended already is no reason to hide what ended it."""
        import duckdb

        try:
            self._connection.execute("ROLLBACK")
        except duckdb.Error:
            log.debug("There was no transaction left to roll back")

    def lock(self, table: TableName) -> None:
        """Do nothing: opening the file has locked out every other writer."""

    def columns(self, table: TableName) -> tuple[TableColumn, ...] | None:
        """Read what columns a table has."""
        self._check_schema(table)
        names = _place(table)
        kinds = self.query(
            f"SELECT table_type FROM information_schema.tables WHERE table_catalog = current_database() "
            f"AND {_is_at('table_name', 'table_schema')}",
            *names,
        )
        if not kinds:
            return None
        if any(kind != "BASE TABLE" for (kind,) in kinds):
            raise LandingError(f"{table} is a view; a pull can only be landed in a table")
        described = self.query(
            f"SELECT column_name, data_type, column_default IS NULL FROM duckdb_columns() "
            f"WHERE database_name = current_database() AND {_is_at('table_name', 'schema_name')} ORDER BY column_index",
            *names,
        )
        return tuple(
            TableColumn(name=name, type=type_, kind=_KINDS.get(type_), managed=bool(plain), equality=_equality(type_))
            for name, type_, plain in described
        )

    def _check_schema(self, table: TableName) -> None:
        """Refuse a table that a statement would look for elsewhere: in another database, or among the temporary tables."""
        # Temporary tables have a schema main of their own, which DuckDB looks into first.
        if table.schema is None or ascii_lower(table.schema) == "main":
            hidden = f"SELECT 1 FROM duckdb_tables() WHERE temporary AND {_lower('table_name')} = {VALUE}"
            if self.query(hidden, ascii_lower(table.table)):
                raise LandingError(
                    f"{table} is a temporary table of the connection, which ends with it and hides a table of this name; choose "
                    f"another name, or leave the temporary table out"
                )
        if table.schema is None:
            return
        schema = ascii_lower(table.schema)
        of_databases = f"SELECT 1 FROM duckdb_databases() WHERE {_lower('database_name')} = {VALUE}"
        of_schemas = (
            f"SELECT 1 FROM information_schema.schemata WHERE catalog_name = current_database() "
            f"AND {_lower('schema_name')} = {VALUE}"
        )
        if not self.query(of_schemas, schema):
            also = ""
            if self.query(of_databases, schema):
                also = f"; {table.schema!r} is a database: the connection's own needs no name, and no other can be landed in"
            raise LandingError(f"{table}: there is no schema {table.schema!r}{also}; create it, or write the name of another")
        if self.query(of_databases, schema):
            raise LandingError(
                f"{table}: {table.schema!r} is both a schema and a database, and DuckDB cannot tell which is meant; rename one"
            )

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Undo the whole transaction, where the database refuses something, and begin another."""
        try:
            yield
        except LandingError:
            self.roll_back()
            self._pour_no_more()
            self.execute("BEGIN TRANSACTION")
            raise
        self._pour_no_more()

    def _pour_sparingly(self, *, columns: int) -> None:
        self._set("memory_limit", f"'{max(POUR_MEMORY, POUR_COLUMN * columns)}MB'")
        self._set("threads", str(POUR_THREADS))
        # Only then do they write side by side; no row of a new table has a place of its own.
        self._set("preserve_insertion_order", "false")

    def _pour_no_more(self) -> None:
        self._set("preserve_insertion_order", "true")
        self._set("threads", None)
        self._set("memory_limit", f"'{MEMORY}'")

    def _set(self, name: str, value: str | None) -> None:
        if name in self._free:
            self.execute(f"RESET {name}" if value is None else f"SET {name} = {value}")

    def pour(self, pour: DirectLoad, *, parts: Sequence[PartSource]) -> Iterator[int]:
        """Let DuckDB read the parts' files into the new table, several at once; tell of each how many rows it had."""
        from limio_limitrail.landing.sql.duckdb_parquet import readable

        self._pour_sparingly(columns=len(pour.plan.columns))
        own = (pour.extracted_at, pour.run_id)
        names = ", ".join(quoted(name) for name in (*(column.name for column in pour.plan.columns), EXTRACTED_AT, RUN_ID))
        for at in range(0, len(parts), PARTS_AT_ONCE):
            with ExitStack() as stack:
                sources = [stack.enter_context(readable(part, plan=pour.plan)) for part in parts[at : at + PARTS_AT_ONCE]]
                for (values, _), group in groupby(sources, key=lambda source: (source.values, source.schema)):
                    alike = list(group)
                    poured = self.execute(
                        f"INSERT INTO {self.dialect.qualified(pour.plan.table)} ({names}) "
                        f"SELECT {', '.join((*values, VALUE, VALUE))} "
                        f"FROM read_parquet({VALUE}, hive_partitioning = false)",
                        *own,
                        [str(source.file) for source in alike],
                    )
                    rows = [source.rows for source in alike]
                    if poured != sum(rows):
                        raise LandingError(f"DuckDB read {poured} rows where the part files have {sum(rows)}")
                    yield from rows

    def may_skip_rows(self, table: TableName) -> bool:  # noqa: ARG002
        """Tell that nothing does: DuckDB has no triggers."""
        return False

    def create_stage(self, *, stage: str, columns: Sequence[tuple[str, str]]) -> None:
        """Make a temporary table."""
        self.execute(f"CREATE TEMPORARY TABLE {quoted(stage)} ({', '.join(f'{name} {type_}' for name, type_ in columns)})")

    def fill(self, *, stage: str, rows: pa.Table) -> None:
        """Add rows to a temporary table, read from where they are."""
        import duckdb

        # A registered view would keep the rows in memory until the transaction ends, even after it is unregistered.
        guarded(
            lambda: self._connection.from_arrow(rows).insert_into(stage),
            refused=duckdb.Error,
            describe=describe,
        )

    def ready(self, *, stage: str) -> None:
        """Do nothing: DuckDB knows its temporary tables."""

    def unfit_json(self, *, stage: str, column: str) -> int:
        """Count the values that DuckDB's JSON does not take, such as half of a surrogate pair."""
        [(unfit,)] = self.query(
            f"SELECT count(*) FROM {quoted(stage)} WHERE {column} IS NOT NULL AND TRY_CAST({column} AS JSON) IS NULL"
        )
        return int(unfit)

    def create_table(self, *, table: TableName, columns: Sequence[tuple[str, str]], key: Sequence[str]) -> bool:  # noqa: ARG002
        """Make the table, without a primary key: DuckDB's index is slow and sees rows that the transaction has deleted."""
        described = ", ".join(f"{quoted(name)} {type_}" for name, type_ in columns)
        self.execute(f"CREATE TABLE {self.dialect.qualified(table)} ({described})")
        return False

    def add_key(self, *, table: TableName, columns: Sequence[tuple[str, str]], key: Sequence[str]) -> bool:  # noqa: ARG002
        """Do nothing, for the reasons that `create_table` has."""
        return False

    def widen(self, *, table: TableName, column: TableColumn, source: Kind, to: Kind) -> None:
        """Turn a column into a wider kind."""
        name = quoted(column.name)
        match source, to:
            case Kind.TIMESTAMP, Kind.TEXT:
                using = f"strftime({name}, '{ISO_INSTANT}')"
            case Kind.DOUBLE, Kind.TEXT:
                using = f"regexp_replace(CAST({name} AS VARCHAR), '\\.0$', '')"
            case _:
                using = f"CAST({name} AS {self.dialect.types[to]})"
        alter = f"ALTER TABLE {self.dialect.qualified(table)} ALTER COLUMN {name} SET DATA TYPE"
        # Asked for now: after a refusal DuckDB answers nothing more.
        indexes = self.query(
            f"SELECT index_name FROM duckdb_indexes() WHERE database_name = current_database() "
            f"AND {_is_at('table_name', 'schema_name')}",
            *_place(table),
        )
        try:
            self.execute(f"{alter} {self.dialect.types[to]} USING {using}")
        except DatabaseError as refused:
            if refused.cause.about_rows:
                refused.cause = Cause.OBSTACLE
                refused.obstacles = tuple(f"index {index}" for (index,) in indexes)
            raise
        if source is Kind.DOUBLE and to is Kind.TEXT:
            respell_doubles(session=self, table=table, column=column.name)
