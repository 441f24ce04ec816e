# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load into DuckDB, from Arrow memory."""

from __future__ import annotations

import logging
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import (
    ISO_INSTANT,
    VALUE,
    Dialect,
    DirectLoadSession,
    TableColumn,
    WhilePulling,
    quoted,
)
from limio_limitrail.landing.sql.duckdb_catalog import DuckCatalog
from limio_limitrail.landing.sql.duckdb_connect import database_path, free_settings, opened
from limio_limitrail.landing.sql.duckdb_errors import diagnosis
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, Diagnosis
from limio_limitrail.landing.sql.metadata import values_of
from limio_limitrail.landing.sql.model import LandingError, PartSource
from limio_limitrail.landing.sql.names import TableName, ascii_lower

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from limio_limitrail.landing.sql.duckdb_staging import DuckStagingTables
    from limio_limitrail.landing.sql.duckdb_stream import TableStream
    from limio_limitrail.landing.sql.plan import ColumnPlan, LoadPlan
    from limio_limitrail.landing.sql.statements import LoadStatements

log = logging.getLogger("limio_limitrail.landing.sql")

OPEN_WAIT = 300.0
"""Seconds that a load waits for another process that has the database's file open."""

MEMORY = 512
"""Megabytes that DuckDB may use for a load, unless the connection sets ``memory_limit``."""

COPY_MEMORY = 64
"""Megabytes that DuckDB may use to copy parts into a new table, likewise; it needs no more for that."""

COPY_THREADS = 1
"""Threads that copy them. A second one would wait for the stream that they share, and cost a quarter more of the processor."""

COPY_COLUMN_MEMORY = 2
"""Megabytes for each column, if that is more: all columns are written at the same time."""

MERGE_MEMORY = 112
"""Megabytes that DuckDB may use for a merge into a table that exists, likewise. What is staged beyond that is on its disk."""

MERGE_COLUMN_MEMORY = 1
"""Megabytes for each column; a merge into a table with so many that it would need more may use `MEMORY`."""

LARGE_ROW = 16 * 1024
"""Bytes of a row from which a merge may use `MEMORY`, too, or what `_memory_for` returns."""

MOST_MEMORY = 2048
"""Megabytes that rows of any size may need, and a load that is run again because it needed more than it got."""

_VECTOR_ROWS = 2048
_COPIES = 4

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


def _memory_for(*, rows: int, size: int) -> int:
    """Return the megabytes that DuckDB needs for rows of a size in bytes; 0 if any limit will do.

    A thread holds two thousand rows at a time, and a few copies of them where it parses JSON.
    """
    if size <= LARGE_ROW * rows:
        return 0
    vector = size * min(rows, _VECTOR_ROWS) // rows
    return min(max(MEMORY, _COPIES * vector >> 20), MOST_MEMORY)


_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def _megabytes(limit: str) -> int:
    """Return a size as DuckDB writes it, such as ``18.8 GiB``, in megabytes."""
    number, _, unit = limit.partition(" ")
    return int(float(number) * _UNITS[unit]) // 10**6


_MOTHERDUCK = ("md:", "motherduck:")


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
        self._memory = MEMORY
        self._least_memory = 0
        self._replaces_rows = False
        self._catalog = DuckCatalog(self.query)

    @cached_property
    def _free_settings(self) -> frozenset[str]:
        return free_settings(self.hook)

    @classmethod
    def connect(cls, hook: DbApiHook, *, wait: float | None = None) -> duckdb.DuckDBPyConnection:
        connection = opened(hook, wait=OPEN_WAIT if wait is None else wait)
        session = cls(hook, connection)
        session.execute("SET TimeZone = 'UTC'")
        # The default is four fifths of the machine's memory; beyond this limit DuckDB uses its disk.
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
        return None if database.startswith(_MOTHERDUCK) else Path(database).resolve()

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
        self.execute("BEGIN TRANSACTION")

    def commit(self) -> None:
        self.execute("COMMIT")

    def execute(self, sql: str, *values: object) -> int:
        rows = self.query(sql, *values)
        self._catalog.note(sql)
        return int(rows[0][0]) if rows and isinstance(rows[0][0], int) else 0

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self.guarded(lambda: self._connection.execute(sql.replace(VALUE, "?"), list(values)).fetchall())

    def set(self, name: str, value: str | None) -> None:
        """Change a setting, or reset it, unless the connection sets it."""
        if name in self._free_settings:
            self.execute(f"RESET {name}" if value is None else f"SET {name} = {value}")

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

    def limit_copy(self, *, columns: int, rows: pa.Table | None = None) -> None:
        """Copy parts with little memory, and one thread, until the settings are restored.

        :param rows: the first of the rows, if they are at hand.
        """
        needed = 0 if rows is None else _memory_for(rows=rows.num_rows, size=rows.nbytes)
        self._limit(max(COPY_MEMORY, COPY_COLUMN_MEMORY * columns, needed, self._least_memory))
        self.set("threads", str(COPY_THREADS))
        # The rows of a new table need no order, others have a number, and keeping it costs time.
        self.set("preserve_insertion_order", "false")

    def restore_settings(self) -> None:
        """Give DuckDB the memory and threads of a load."""
        self.set("preserve_insertion_order", "true")
        self.set("threads", None)
        self._limit(self._memory)

    def copy_into(self, plan: LoadPlan, *, parts: Sequence[PartSource]) -> Iterator[int]:
        """Read the parts into the new table, several in one statement; yield the rows of each."""
        from limio_limitrail.landing.sql.duckdb_stream import PartStream

        names = ", ".join(map(quoted, plan.written_names))
        into = f"{self.dialect.qualified(plan.table)} ({names})"
        stored = [self.dialect.stored(column.staged, column.kind) for column in plan.columns]
        selected = ", ".join((*stored, *([VALUE] * len(plan.metadata))))
        self.limit_copy(columns=len(plan.columns))
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
        self._make_room(rows=self._staged[stage][0], size=rows.nbytes * self._staged[stage][0] // rows.num_rows)
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
        self._make_room(rows=rows, size=size)

    def query_rows(self, sql: str) -> pa.Table:
        """Run a query and fetch all its rows as Arrow."""
        return self.guarded(lambda: self._connection.sql(sql).to_arrow_table())

    @classmethod
    def may_take_more_memory(cls, hook: DbApiHook) -> bool:
        return "memory_limit" in free_settings(hook)

    def take_more_memory(self) -> None:
        self._least_memory = MOST_MEMORY
        self._set_memory(MOST_MEMORY)

    def limit_memory(self, *, columns: int) -> None:
        """Let DuckDB keep less of the staged rows in memory."""
        if columns * MERGE_COLUMN_MEMORY <= MERGE_MEMORY:
            self._set_memory(MERGE_MEMORY)

    @contextmanager
    def room_for_any_row(self) -> Iterator[None]:
        """Read rows whose size is not known; then restore the settings."""
        self._limit(MOST_MEMORY)
        yield
        self.restore_settings()

    def _make_room(self, *, rows: int, size: int) -> None:
        if (needed := _memory_for(rows=rows, size=size)) > self._memory:
            self._set_memory(needed)

    def _set_memory(self, megabytes: int) -> None:
        self._memory = max(megabytes, self._least_memory)
        self._limit(self._memory)

    def _limit(self, megabytes: int) -> None:
        # With more than there is, the system would end the process, and no message would say why.
        self.set("memory_limit", f"'{min(megabytes, self._half_of_machine)}MB'")

    @cached_property
    def _half_of_machine(self) -> int:
        """Half of the machine's memory in megabytes, or of what its container may use; the process needs some of its own.

        DuckDB's default is four fifths of it.
        """
        if "memory_limit" not in self._free_settings:
            return MOST_MEMORY
        self.execute("RESET memory_limit")
        [(limit,)] = self.query("SELECT current_setting('memory_limit')")
        return _megabytes(str(limit)) * 5 // 8

    def pair_slices(self, statements: LoadStatements, *, keys: Sequence[ColumnPlan]) -> Sequence[LoadStatements]:
        from limio_limitrail.landing.sql.duckdb_slices import UPDATE_SIZE, pair_slices

        rows, size = self._staged[statements.stage]
        if size <= UPDATE_SIZE:
            return [statements]
        self._replaces_rows = self._catalog.takes_copies(statements.plan.table)
        if not self._replaces_rows:
            self._set_memory(max(self._memory, min(max(MEMORY, _COPIES * size >> 20), MOST_MEMORY)))
        if any(ascii_lower(column.name) == "rowid" for column in self.columns(statements.plan.table) or ()):
            # It hides the identifier of DuckDB's own.
            self._set_memory(max(MEMORY, self._memory))
            return [statements]
        return pair_slices(self, statements, keys=keys, rows=rows, size=size)

    def update(self, statements: LoadStatements, *, keys: Sequence[ColumnPlan], values: Sequence[object]) -> int:
        pair_slice = statements.pair_slice
        if pair_slice is None or not statements.assignments(keys) or not self._replaces_rows:
            return super().update(statements, keys=keys, values=values)
        from limio_limitrail.landing.sql.duckdb_slices import replace_pairs

        return replace_pairs(self, statements, pair_slice=pair_slice, keys=keys, values=values)

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
            self.rewrite_doubles(table=table, column=column.name)
