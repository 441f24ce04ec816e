# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Run a user's query in UTC, and fetch its rows in batches. Errors are reported without any value."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from limio_limitrail.landing.sql.dialect import quoted
from limio_limitrail.landing.sql.duckdb_values import is_changed, value_reader
from limio_limitrail.landing.sql.errors import Cause, Diagnosis, before_values, connected, connection_id, log_driver_error
from limio_limitrail.landing.sql.sessions import database_name, session_class_named, session_class_of
from limio_limitrail.troubleshooting import ExplainedError

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

log = logging.getLogger("limio_limitrail.landing.sql")

T = TypeVar("T")
Values = tuple[Any, ...]

BATCH_ROWS = 2000
"""Rows that are fetched at a time."""

_CURSOR = "limitrail_usage"

# The text form of a time, number or interval must not depend on the user or machine: it may become a part of a key.
_POSTGRES_SESSION = (
    "SET LOCAL TIME ZONE 'UTC'; SET LOCAL datestyle = 'ISO'; SET LOCAL intervalstyle = 'postgres'; "
    "SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'"
)
_POSTGRES_TIMES = {
    "date": (1082, 1182), "timestamp": (1114, 1115), "timestamptz": (1184, 1185), "time": (1083, 1183), "timetz": (1266, 1270),
}  # fmt: skip
"""Types with values that Python cannot represent: their oids, and those of their arrays."""

_SQLITE_QUOTES_NO_ROWS = (
    "no such ", "ambiguous column name: ", 'near "', "unrecognized token: ", "misuse of ", "incomplete input", "wrong number of ",
)  # fmt: skip
"""Beginnings of SQLite's messages that quote the query alone; others may quote a row's value, such as a JSON path."""

_PERMANENT = frozenset({"ProgrammingError", "DataError", "NotSupportedError", "IntegrityError"})
"""Classes of PEP 249 for which a retry does not help."""

_DRIVERS = frozenset({"DatabaseError", "InterfaceError"})
_UNREADABLE = (ValueError, ArithmeticError, RecursionError)
"""What drivers raise for a value that Python cannot represent."""

_WRITES = "launched in read-only mode"
"""Part of DuckDB's text for a query that would change data, such as one that deletes rows and returns them."""

_INTERRUPTED = "Query interrupted"
"""DuckDB's error when a signal handler raises, such as that of Airflow's execution_timeout."""


class QueryError(ExplainedError):
    """A query could not be run or fetched to its end; a retry may succeed. The message has no value of the data."""


class WrongQueryError(QueryError):
    """A query cannot succeed as it is: it is wrong, a value does not fit it, or a privilege is missing."""

    permanent = True


@dataclass(frozen=True, kw_only=True)
class QueryResult:
    """The rows of a query, which can be read once.

    :param columns: the names of the columns.
    :param time_zone: the session's own time zone; ``None`` if it is not known.
    :param batches: the rows, as fetched.
    """

    columns: tuple[str, ...]
    time_zone: str | None
    batches: Iterator[Sequence[Values]]


@contextmanager
def run_query(
    hook: DbApiHook, sql: str, *, parse_float: Callable[[str], object], unreadable_time: object
) -> Iterator[QueryResult]:
    """Run a query and fetch its rows; in Postgres and DuckDB the session is in UTC.

    :param parse_float: reads a number with a fraction or an exponent within JSON.
    :param unreadable_time: replaces a time that Python cannot represent, such as infinity.
    :raises QueryError: the query failed, here or while rows are fetched; a retry may succeed.
    :raises WrongQueryError: the query failed, and a retry does not help.
    :raises DatabaseError: the database cannot be reached.
    """
    # Not through its session where the database is DuckDB, which would wait for the file and set limits.
    name = database_name(hook)
    connection = connected(hook, name="the database") if name == "duckdb" else session_class_named(name).connect(hook)
    try:
        guard = partial(_guarded, describe=partial(_describe, connection, hook=hook))
        reader = _reader(connection, parse_float=parse_float, unreadable_time=unreadable_time)
        guard(partial(reader.execute, sql))
        # A server-side cursor has columns only after the first fetch.
        first = guard(reader.fetch)

        def batches() -> Iterator[Sequence[Values]]:
            batch = first
            while batch:
                yield batch
                batch = guard(reader.fetch)

        yield QueryResult(columns=reader.columns, time_zone=reader.time_zone, batches=batches())
    finally:
        # Closing a broken connection must not hide what broke it.
        with suppress(Exception):
            connection.close()


def _guarded(call: Callable[[], T], *, describe: Callable[[Exception], QueryError]) -> T:
    try:
        return call()
    except Exception as error:
        if type(error).__module__.partition(".")[0] == "airflow":
            raise
        log_driver_error(error)
        failure = describe(error)
    # Raised outside of the handler, so that the driver's error, which may quote rows, is not even its context.
    raise failure


class _QueryReader:
    """Runs a query through any driver.

    :param connection: the open database.
    """

    time_zone: str | None = None

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._cursor: Any = None

    def execute(self, sql: str) -> None:
        """Run the query."""
        self._cursor = self._connection.cursor()
        self._cursor.execute(sql)

    def fetch(self) -> Sequence[Values]:
        """Fetch the next rows; empty at the end."""
        rows: Sequence[Values] = self._cursor.fetchmany(BATCH_ROWS)
        return rows

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column[0] for column in self._cursor.description or ())


class _SqliteReader(_QueryReader):
    def execute(self, sql: str) -> None:
        self._connection.row_factory = None  # the hook may return rows of another class
        super().execute(sql)


class _DuckReader(_QueryReader):
    """Runs a query in DuckDB, whose driver changes some values: see `duckdb_values`."""

    def __init__(self, connection: Any, *, unreadable_time: object) -> None:
        super().__init__(connection)
        self._unreadable_time = unreadable_time
        self._sql = ""
        self._types: dict[int, str] | None = None
        self._found: dict[tuple[int, str], bool] = {}

    def execute(self, sql: str) -> None:
        self._sql = sql
        self._cursor = self._connection.cursor()
        [(self.time_zone,)] = self._cursor.execute("SELECT current_setting('TimeZone')").fetchall()
        self._cursor.execute("SET TimeZone = 'UTC'")
        # As in Postgres and SQLite, the query changes nothing: a DELETE ... RETURNING would lose rows that are not sent.
        self._cursor.execute("BEGIN TRANSACTION READ ONLY")
        self._cursor.execute(sql)

    def fetch(self) -> Sequence[Values]:
        rows = super().fetch()
        if self._types is None:
            described = ((index, str(column[1])) for index, column in enumerate(self._cursor.description or ()))
            self._types = {index: type_ for index, type_ in described if is_changed(type_)}
        for index, type_ in self._types.items():
            read = value_reader(type_, holds=partial(self._holds, index), unreadable_time=self._unreadable_time)
            rows = [(*row[:index], read(row[index]), *row[index + 1 :]) for row in rows]
        return rows

    def _holds(self, index: int, condition: str) -> bool:
        """Return whether a condition is true for a value of a column, such as infinity, which the driver returns as another."""
        if (index, condition) not in self._found:
            cursor = self._connection.cursor()
            where = condition.format(name=quoted(self.columns[index]))
            try:
                cursor.execute("SET TimeZone = 'UTC'")
                cursor.execute("BEGIN TRANSACTION READ ONLY")
                cursor.execute(f"SELECT 1 FROM ({self._sql.strip().rstrip(';')}\n) WHERE {where} LIMIT 1")
                self._found[index, condition] = cursor.fetchone() is not None
            except Exception:  # noqa: BLE001 - several statements, or a result that is gone: it may be true
                self._found[index, condition] = True
            finally:
                cursor.close()
        return self._found[index, condition]


class _PostgresReader(_QueryReader):
    """Runs a query in Postgres with a server-side cursor, so that the result need not fit into memory."""

    def __init__(self, connection: Any, *, parse_float: Callable[[str], object], unreadable_time: object) -> None:
        super().__init__(connection)
        self._loads = partial(json.loads, parse_float=parse_float)
        self._unreadable_time = unreadable_time

    def execute(self, sql: str) -> None:
        from psycopg.rows import tuple_row
        from psycopg.types.json import set_json_loads

        self.time_zone = self._connection.info.parameter_status("TimeZone")
        set_json_loads(self._loads, self._connection)
        self._read_times()
        self._begin()
        self._cursor = self._connection.cursor(name=_CURSOR, row_factory=tuple_row)
        self._cursor.execute(sql)

    def _begin(self) -> None:
        """Begin a transaction, which a server-side cursor needs, with settings of its own."""
        if self._connection.autocommit:
            self._connection.autocommit = False
        self._connection.cursor().execute(_POSTGRES_SESSION)

    def _read_times(self) -> None:
        from psycopg import DataError
        from psycopg.adapt import Loader
        from psycopg.pq import Format

        adapters = self._connection.adapters
        unreadable_time = self._unreadable_time

        def guarded(usual: Any) -> type[Loader]:
            class TimeLoader(Loader):
                def __init__(self, oid: int, context: Any = None) -> None:
                    super().__init__(oid, context)
                    self._usual = usual(oid, context)

                def load(self, data: Any) -> Any:
                    try:
                        return self._usual.load(data)
                    except DataError:
                        return unreadable_time

            return TimeLoader

        for name, (oid, _) in _POSTGRES_TIMES.items():
            adapters.register_loader(name, guarded(adapters.get_loader(oid, Format.TEXT)))


class _Psycopg2Reader(_PostgresReader):
    def execute(self, sql: str) -> None:
        from psycopg2 import extensions, extras  # type: ignore[import-untyped]

        self.time_zone = self._connection.get_parameter_status("TimeZone")
        extras.register_default_json(self._connection, loads=self._loads)
        extras.register_default_jsonb(self._connection, loads=self._loads)
        self._read_times()
        self._begin()
        self._cursor = self._connection.cursor(name=_CURSOR, cursor_factory=extensions.cursor)
        self._cursor.execute(sql)

    def _read_times(self) -> None:
        from psycopg2 import Error, extensions

        usual = {
            "date": extensions.PYDATE,
            "timestamp": extensions.PYDATETIME,
            "timestamptz": extensions.PYDATETIMETZ,
            "time": extensions.PYTIME,
            "timetz": extensions.PYTIME,
        }

        def guarded(read: Any) -> Callable[[str | None, Any], object]:
            def load(text: str | None, cursor: Any) -> object:
                if text is None:
                    return None
                # The driver would return the last day of the calendar, and midnight for the end of a day.
                if text.endswith("infinity") or text.startswith("24:"):
                    return self._unreadable_time
                try:
                    return read(text, cursor)
                except (ValueError, OverflowError, Error):
                    return self._unreadable_time

            return load

        for name, (oid, array_oid) in _POSTGRES_TIMES.items():
            one = extensions.new_type((oid,), name, guarded(usual[name]))
            extensions.register_type(one, self._connection)
            extensions.register_type(extensions.new_array_type((array_oid,), f"{name}[]", one), self._connection)


def _reader(connection: Any, *, parse_float: Callable[[str], object], unreadable_time: object) -> _QueryReader:
    module = type(connection).__module__
    if module.startswith("psycopg"):
        kind = _Psycopg2Reader if module.startswith("psycopg2") else _PostgresReader
        return kind(connection, parse_float=parse_float, unreadable_time=unreadable_time)
    if isinstance(connection, sqlite3.Connection):
        return _SqliteReader(connection)
    if module.partition(".")[0] in ("duckdb", "_duckdb"):
        return _DuckReader(connection, unreadable_time=unreadable_time)
    return _QueryReader(connection)


def _describe(connection: Any, error: Exception, *, hook: DbApiHook) -> QueryError:
    """Return the error for a failed query, without any value."""
    found = _diagnose(connection, error)
    permanent = found.cause is not Cause.LOST and _is_permanent(error)
    detail = f": {found.detail.rstrip('.')}" if found.detail else ""
    if found.cause is Cause.RIGHTS:
        advice = "Grant the connection's user SELECT on what the query reads"
    elif _writes(error):
        advice = "Only read in it: what it changes would be lost if the task failed before the rows are sent"
    elif permanent:
        advice = "Correct the query or the value; run it in the database to see the whole message, which may quote rows"
    else:
        advice = "A retry may help"
    raised = WrongQueryError if permanent else QueryError
    return raised(f"the query failed in the database {connection_id(hook)!r}: {found.summary}{detail}. {advice}")


def _classes(error: Exception) -> frozenset[str]:
    return frozenset(base.__name__ for base in type(error).__mro__)


def _writes(error: Exception) -> bool:
    return "TransactionException" in _classes(error) and _WRITES in str(error)


def _is_permanent(error: Exception) -> bool:
    if _classes(error).isdisjoint(_DRIVERS):
        return isinstance(error, _UNREADABLE)
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorname", None) in (None, "SQLITE_ERROR")
    return _writes(error) or not _classes(error).isdisjoint(_PERMANENT)


def _diagnose(connection: Any, error: Exception) -> Diagnosis:
    if str(error) == _INTERRUPTED:
        return Diagnosis(summary="it was interrupted, most likely by the task's execution_timeout", cause=Cause.TIMEOUT)
    if _writes(error):
        return Diagnosis(summary="it changes data")
    if _classes(error).isdisjoint(_DRIVERS):
        what = "could not read a value" if isinstance(error, _UNREADABLE) else "failed"
        return Diagnosis(summary=f"the driver {what} ({type(error).__name__})")
    found = session_class_of(connection).describe(error, connection=connection)
    if getattr(error, "sqlite_errorname", None) == "SQLITE_ERROR" and not found.detail.startswith(_SQLITE_QUOTES_NO_ROWS):
        return replace(found, detail=before_values(found.detail))
    return found
