# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load into DuckDB, from Arrow memory."""

from __future__ import annotations

import logging
import re
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import ISO_INSTANT, VALUE, Dialect, TableColumn, quoted
from limio_limitrail.landing.sql.duckdb_catalog import DuckCatalog
from limio_limitrail.landing.sql.duckdb_connect import database_path, free_settings, opened
from limio_limitrail.landing.sql.duckdb_errors import diagnosis
from limio_limitrail.landing.sql.duckdb_settings import DuckSettings
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, Diagnosis
from limio_limitrail.landing.sql.metadata import values_of
from limio_limitrail.landing.sql.model import LandingError, PartSource
from limio_limitrail.landing.sql.names import TableName, ascii_lower
from limio_limitrail.landing.sql.session import DirectLoadSession, WhilePulling

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from limio_limitrail.landing.sql.dialect import Update
    from limio_limitrail.landing.sql.duckdb_staging import DuckStagingTables
    from limio_limitrail.landing.sql.duckdb_stream import TableStream
    from limio_limitrail.landing.sql.plan import ColumnPlan, LoadPlan
    from limio_limitrail.landing.sql.statements import LoadStatements

log = logging.getLogger("limio_limitrail.landing.sql")

OPEN_WAIT = 300.0
"""Seconds that a load waits for another process that has the database's file open."""

PARTS_AT_ONCE = 8
"""Parts in one statement."""

# DuckDB keeps out other processes, but lets the threads of one insert the same key at the same time.
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


def _stored(expression: str, kind: Kind) -> str:
    return f"CAST({expression} AS JSON)" if kind is Kind.JSON else expression


def _exact(expression: str, kind: Kind) -> str:
    # A column may have a collation without case, which would merge two keys into one, or a type without collations.
    return f"CAST({expression} AS VARCHAR) COLLATE C" if kind in (Kind.JSON, Kind.TEXT, Kind.NULL) else expression


def _to_custom_type(expression: str, kind: Kind, type_: str) -> str:
    # A double's text is exact, its direct cast to a decimal is not.
    inner = f"CAST({expression} AS VARCHAR)" if kind is Kind.DOUBLE else expression
    return f"CAST({inner} AS {type_})"


def _custom_type_loses(expression: str, kind: Kind, type_: str) -> str:
    back = "VARCHAR" if kind is Kind.JSON else _TYPES[kind]
    return f"CAST({_to_custom_type(expression, kind, type_)} AS {back}) IS DISTINCT FROM {expression}"


DUCKDB = Dialect(
    name="DuckDB",
    same_name=ascii_lower,
    types=_TYPES,
    text_type="VARCHAR",
    integer_type="BIGINT",
    instant_type="TIMESTAMP WITH TIME ZONE",
    stored=_stored,
    key=_exact,
    exact=_exact,
    utc_day=lambda value: f"strftime(make_timestamp(epoch_us({value})), '%Y-%m-%d')",
    to_custom_type=_to_custom_type,
    custom_type_loses=_custom_type_loses,
)


_MOTHERDUCK = ("md:", "motherduck:")
_ELSEWHERE = re.compile("[a-z]{2,}[a-z0-9]*:", re.IGNORECASE)
"""Begins the names of databases that are no files on this machine, such as those of MotherDuck."""


def _same_file(database: str) -> str:
    return database if database.startswith(_MOTHERDUCK) else str(Path(database).resolve())


class DuckSession(DirectLoadSession):
    """A transaction in DuckDB. Tables get no primary key: its index is slow, and sees rows that the transaction has deleted."""

    dialect = DUCKDB

    def __init__(self, hook: DbApiHook, connection: duckdb.DuckDBPyConnection) -> None:
        import duckdb

        super().__init__(hook, connection)
        self.driver_error = duckdb.Error
        self._staged: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._replaces_rows = False
        self._catalog = DuckCatalog(self.query)
        self.settings = DuckSettings(self)

    @classmethod
    def connect(cls, hook: DbApiHook, *, wait: float | None = None) -> duckdb.DuckDBPyConnection:
        connection = opened(hook, wait=OPEN_WAIT if wait is None else wait)
        session = cls(hook, connection)
        session.execute("SET TimeZone = 'UTC'")
        session.restore_settings()
        return connection

    @classmethod
    def while_pulling(cls, hook: DbApiHook) -> WhilePulling:
        return WhilePulling.REFUSED if database_path(hook).startswith(_MOTHERDUCK) else WhilePulling.ON_REQUEST

    @classmethod
    def hold(cls, hook: DbApiHook) -> duckdb.DuckDBPyConnection:
        """Open the file, and with it keep other processes out; all connections of this process share it."""
        return cls.connect(hook, wait=0.0)

    @classmethod
    def connect_to_inspect(cls, hook: DbApiHook) -> duckdb.DuckDBPyConnection | None:
        """Open the file, which locks it; ``None`` if it does not exist, or another process has it open."""
        if not Path(database_path(hook)).is_file():
            return None
        try:
            return cls.connect(hook, wait=0.0)
        except LandingError:
            return None

    def cut_off(self) -> None:
        """End the statement that another thread runs: there is no server to wait for."""
        self.interrupt()

    @classmethod
    def process_lock(cls, hook: DbApiHook) -> threading.Lock:
        """Return the lock of the threads that write into the file."""
        return _WRITERS[_same_file(database_path(hook))]

    @classmethod
    def describe(cls, error: Exception, *, connection: Any) -> Diagnosis:  # noqa: ARG003
        """Describe an error, without any value."""
        return diagnosis(error)

    def file(self) -> Path | None:
        database = database_path(self.hook)
        return None if _ELSEWHERE.match(database) else Path(database).resolve()

    @contextmanager
    def transaction(
        self, *, lock_wait: float | None = None, idle_limit: float | None = None, read_only: bool = False
    ) -> Iterator[Self]:
        """Run a transaction; with a `lock_wait` it takes the lock of this process's threads, which a load holds already."""
        writer = threading.Lock() if lock_wait is None else self.process_lock(self.hook)
        if not writer.acquire(timeout=lock_wait or 0):
            summary = "another thread of this process writes into the DuckDB file"
            raise DatabaseError(Diagnosis(summary=summary, cause=Cause.TIMEOUT))
        try:
            with super().transaction(idle_limit=idle_limit, read_only=read_only):
                yield self
        finally:
            writer.release()

    def begin(self, *, lock_wait: float | None, idle_limit: float | None, read_only: bool) -> None:  # noqa: ARG002
        self._catalog.forget()
        self.settings.changes = 0
        self.execute("BEGIN TRANSACTION")

    def commit(self) -> None:
        self.execute("COMMIT")

    def execute(self, sql: str, *values: object) -> int:
        rows = self.query(sql, *values)
        self._catalog.note(sql)
        return int(rows[0][0]) if rows and isinstance(rows[0][0], int) else 0

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self.guarded(lambda: self._connection.execute(sql.replace(VALUE, "?"), list(values)).fetchall())

    def exists(self, table: TableName) -> bool:
        return self._catalog.exists(table)

    def columns(self, table: TableName) -> tuple[TableColumn, ...] | None:
        return self._catalog.columns(table)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo the whole transaction if DuckDB refuses something, and begin another: it has no savepoints."""
        try:
            yield
        except LandingError:
            self.begin_again()
            raise
        self.restore_settings()

    def begin_again(self) -> None:
        """Undo the whole transaction, which an error has aborted, and begin another."""
        self.roll_back()
        self.restore_settings()
        self.begin(lock_wait=None, idle_limit=None, read_only=False)

    def restore_settings(self) -> None:
        self.settings.restore()

    def copy_into(self, plan: LoadPlan, *, parts: Sequence[PartSource]) -> Iterator[int]:
        """Read the parts into the new table, several in one statement; yield the rows of each."""
        from limio_limitrail.landing.sql.duckdb_stream import PartStream

        names = ", ".join(map(quoted, plan.written_names))
        into = f"{self.dialect.qualified(plan.table)} ({names})"
        stored = [self.dialect.stored(column.staged, column.kind) for column in plan.columns]
        selected = ", ".join((*stored, *([VALUE] * len(plan.metadata))))
        self.settings.limit_copy(columns=len(plan.columns))
        for at in range(0, len(parts), PARTS_AT_ONCE):
            stream = PartStream(plan, parts=parts[at : at + PARTS_AT_ONCE])
            copied = self.insert(stream, into=into, selected=selected, values=values_of(plan.metadata))
            if copied != sum(stream.rows):
                raise LandingError(f"DuckDB read {copied} rows where the parts have {sum(stream.rows)}")
            yield from stream.rows

    def insert(self, stream: TableStream, *, into: str, selected: str = "*", values: Sequence[object] = ()) -> int:
        """Insert rows into a table; return how many.

        :param into: the table and its columns.
        :param selected: what is inserted of the stream's columns and of the values.
        """
        source = f"_limio_parts_{uuid.uuid4().hex}"
        self.guarded(lambda: self._connection.register(source, stream.reader()))
        try:
            copied = self.execute(f"INSERT INTO {into} SELECT {selected} FROM {source}", *values)
        except DatabaseError:
            # The rollback removes the view, which an aborted transaction does not.
            stream.close()
            if stream.error is not None:
                raise stream.error from None
            raise
        self.guarded(lambda: self._connection.unregister(source))
        return copied

    def fill(self, *, stage: str, rows: pa.Table) -> None:
        """Add rows to a temporary table, straight from Arrow's memory."""
        import pyarrow as pa

        # A registered view would keep the rows in memory until the transaction ends, even after it is unregistered.
        self._staged[stage][0] += rows.num_rows
        self._staged[stage][1] += rows.nbytes
        # DuckDB will hold them together with those before.
        self.settings.allow_rows(rows=self._staged[stage][0], size=rows.nbytes * self._staged[stage][0] // rows.num_rows)
        self.guarded(lambda: self._connection.from_arrow(rows).insert_into(stage))
        # Arrow would keep the memory of the rows before these.
        pa.default_memory_pool().release_unused()

    def staging_tables(self) -> DuckStagingTables:
        """Return the tables in which rows are staged while a pull goes on."""
        from limio_limitrail.landing.sql.duckdb_staging import DuckStagingTables

        return DuckStagingTables(self)

    def note_staged(self, stage: str, *, rows: int, size: int) -> None:
        """Take note of rows that were staged before.

        :param size: their bytes in Arrow's memory.
        """
        self._staged[stage] = [rows, size]
        self.settings.allow_rows(rows=rows, size=size)

    def query_rows(self, sql: str) -> pa.Table:
        """Run a query and fetch all its rows as Arrow."""
        return self.guarded(lambda: self._connection.sql(sql).to_arrow_table())

    @classmethod
    def may_take_more_memory(cls, hook: DbApiHook) -> bool:
        return "memory_limit" in free_settings(hook)

    def take_more_memory(self) -> None:
        self.settings.take_more()

    def limit_memory(self, *, columns: int) -> None:
        self.settings.limit_merge(columns=columns)

    def pair_slices(self, statements: LoadStatements, *, keys: Sequence[ColumnPlan]) -> Sequence[LoadStatements]:
        from limio_limitrail.landing.sql.duckdb_slices import UPDATE_SIZE, pair_slices

        rows, size = self._staged[statements.stage]
        if size <= UPDATE_SIZE:
            return [statements]
        self._replaces_rows = self._catalog.takes_copies(statements.plan.table)
        if not self._replaces_rows:
            self.settings.allow_update(size)
        if any(ascii_lower(column.name) == "rowid" for column in self.columns(statements.plan.table) or ()):
            # It hides the identifier of DuckDB's own.
            self.settings.allow_join()
            return [statements]
        return pair_slices(self, statements, keys=keys, rows=rows, size=size)

    def staged_slices(self, stage: str) -> Sequence[range | None]:
        from limio_limitrail.landing.sql.duckdb_slices import SLICE_SIZE

        rows, size = self._staged[stage]
        if size <= SLICE_SIZE:
            return [None]
        step = -(-rows // -(-size // SLICE_SIZE))
        return [range(start, start + step) for start in range(0, rows, step)]

    def update(self, statements: LoadStatements, *, keys: Sequence[ColumnPlan], values: Sequence[object]) -> int:
        pair_slice = statements.pair_slice
        if pair_slice is None or not statements.assignments(keys) or not self._replaces_rows:
            return super().update(statements, keys=keys, values=values)
        from limio_limitrail.landing.sql.duckdb_slices import replace_pairs

        return replace_pairs(self, statements, pair_slice=pair_slice, keys=keys, values=values)

    def update_rows(self, update: Update, *values: object) -> int:
        from limio_limitrail.landing.sql.duckdb_updates import update_rows

        return update_rows(self, update, values)

    def update_in_place(self, update: Update, *values: object) -> int:
        """Change rows by an UPDATE, with as much memory as loads have; return how many."""
        return super().update_rows(update, *values)

    def may_replace_rows(self, table: TableName, *, memory: int, most: int) -> bool:
        """Return whether an UPDATE of rows would take too much memory, and copies can replace them.

        :param memory: the bytes that it would take.
        :param most: the bytes that all of the transaction's may take.
        """
        return self.settings.changes + memory > most and self._catalog.takes_copies(table)

    @property
    def staged_size(self) -> int:
        """The bytes of the largest staging table."""
        return max((size for _, size in self._staged.values()), default=0)

    def invalid_json(self, *, staged: str, column: str) -> int:
        """Count the values that DuckDB's JSON type refuses, such as half of a surrogate pair."""
        [(invalid,)] = self.query(
            f"SELECT count(*) FROM {staged} WHERE {column} IS NOT NULL AND TRY_CAST({column} AS JSON) IS NULL"
        )
        return int(invalid)

    def widen(self, *, table: TableName, column: TableColumn, source: Kind, to: Kind) -> None:
        name = quoted(column.name)
        match source, to:
            case Kind.TIMESTAMP, Kind.TEXT:
                using = f"strftime({name}, '{ISO_INSTANT}')"
            case Kind.DOUBLE, Kind.TEXT:
                using = f"regexp_replace(CAST({name} AS VARCHAR), '\\.0$', '')"
            case _:
                using = f"CAST({name} AS {self.dialect.types[to]})"
        alter = f"ALTER TABLE {self.dialect.qualified(table)} ALTER COLUMN {name} SET DATA TYPE"
        # Fetched first: after an error the transaction is aborted.
        indexes = self._catalog.indexes(table)
        try:
            self.execute(f"{alter} {self.dialect.types[to]} USING {using}")
        except DatabaseError as refused:
            if refused.cause.about_rows:
                refused.cause = Cause.OBSTACLE
                refused.obstacles = tuple(f"index {index}" for index in indexes)
            raise
        if source is Kind.DOUBLE and to is Kind.TEXT:
            from limio_limitrail.landing.sql.double_texts import rewrite_doubles

            rewrite_doubles(self, table=table, column=column.name)
