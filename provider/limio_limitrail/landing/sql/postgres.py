# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Loads into Postgres: rows go in by COPY, while a thread reads and writes those that come after them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from limio_limitrail.concurrency import prefetch
from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.binary_copy import HEADER, TRAILER
from limio_limitrail.landing.sql.dialect import VALUE, Dialect, TableColumn, quoted, unchanged, update_from
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, Refusal, connected, during, guarded
from limio_limitrail.landing.sql.model import EXTRACTED_AT, RUN_ID, LandingError, PartSource
from limio_limitrail.landing.sql.names import LONGEST_NAME, TableName, ascii_lower
from limio_limitrail.landing.sql.postgres_copy import ChunkFile, binary_slices, noted, pieces_of
from limio_limitrail.landing.sql.postgres_errors import describe, equality, unreachable
from limio_limitrail.landing.sql.widening import respell_doubles

if TYPE_CHECKING:
    import pyarrow as pa
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from limio_limitrail.landing.sql.direct_load import DirectLoad

_TYPES = {
    Kind.NULL: "text",
    Kind.BOOLEAN: "boolean",
    Kind.INTEGER: "bigint",
    Kind.BIGINT: "bigint",
    Kind.DOUBLE: "double precision",
    Kind.TIMESTAMP: "timestamp with time zone",
    Kind.TEXT: "text",
    # Not jsonb: json keeps the text to the letter, order of keys, forms of numbers and escapes included.
    Kind.JSON: "json",
}
_KINDS = {
    "boolean": Kind.BOOLEAN,
    "bigint": Kind.BIGINT,
    "double precision": Kind.DOUBLE,
    "timestamp with time zone": Kind.TIMESTAMP,
    "text": Kind.TEXT,
    "character varying": Kind.TEXT,
    "json": Kind.JSON,
}
_KINDS_OF_RELATION = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "i": "an index",
    "S": "a sequence",
    "c": "a type",
}


def _stored(expression: str, kind: Kind) -> str:
    return f"CAST({expression} AS json)" if kind is Kind.JSON else expression


def _key(expression: str, kind: Kind) -> str:
    return f"CAST({expression} AS text)" if kind is Kind.JSON else expression


def _exact(expression: str, kind: Kind) -> str:
    # By code points, so that neither the newest of several texts nor a change depends on the database's language.
    return f'CAST({expression} AS text) COLLATE "C"' if kind in (Kind.TEXT, Kind.NULL, Kind.JSON) else expression


def _foreign_value(expression: str, kind: Kind, foreign: str) -> str:
    # A double's text is exact, its direct cast to numeric keeps 15 digits.
    inner = f"CAST({expression} AS text)" if kind is Kind.DOUBLE else expression
    return f"CAST({inner} AS {foreign})"


def _foreign_loss(expression: str, kind: Kind, foreign: str) -> str:
    value = _foreign_value(expression, kind, foreign)
    if kind is Kind.JSON and foreign == "jsonb":
        # Whoever made the column jsonb chose what it keeps; the cast itself still has to succeed.
        return f"{value} IS NULL"
    back = "text" if kind is Kind.JSON else _TYPES[kind]
    return f"CAST({value} AS {back}) IS DISTINCT FROM {expression}"


POSTGRES = Dialect(
    name="Postgres",
    quote=quoted,
    fold=ascii_lower,
    same_name=unchanged,
    longest_name=LONGEST_NAME,
    most_columns=1600,
    types=_TYPES,
    text_type="text",
    integer_type="bigint",
    instant_type="timestamp with time zone",
    stored=_stored,
    distinct=lambda one, other: f"{one} IS DISTINCT FROM {other}",
    key=_key,
    exact=_exact,
    foreign_value=_foreign_value,
    foreign_loss=_foreign_loss,
    update=update_from,
)


@contextmanager
def postgres_session(hook: DbApiHook) -> Iterator[PostgresSession]:
    """Open a connection and a transaction for one load."""
    connection = open_postgres(hook)
    try:
        with postgres_transaction(connection) as session:
            yield session
    finally:
        # Closing rolls back whatever was not committed, on a broken connection too.
        connection.close()


def open_postgres(hook: DbApiHook) -> Any:
    """Open a connection.

    :raises DatabaseError: the server cannot be reached, or does not let the connection in.
    """
    return connected(hook, name="Postgres", describe=unreachable)


@contextmanager
def postgres_transaction(connection: Any, *, limits: str = "") -> Iterator[PostgresSession]:
    """Open a transaction: committed at the end, rolled back if anything is raised.

    :param limits: further settings of the transaction, as statements.
    """
    connection.autocommit = False
    session = PostgresSession(connection)
    _prepare_connection(connection)
    try:
        # Every statement has to see what the load before this one committed while this one waited for its lock.
        session.execute(
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL TIME ZONE 'UTC'; "
            "SET LOCAL extra_float_digits = 1; SET LOCAL standard_conforming_strings = on; SET LOCAL datestyle = 'ISO'" + limits
        )
        yield session
        with during("while committing"):
            session.commit()
    except BaseException:
        # What could not be undone must not hide why it had to be; closing undoes it too.
        with suppress(Exception):
            connection.rollback()
        raise


def _prepare_connection(connection: Any) -> None:
    """Let texts travel as they are, which COPY in the binary format leaves to the connection, and have each statement planned.

    A statement that is planned once is planned for the table as it was then: a small table is read from end to end, and a ledger
    of a hundred thousand rows would be too, for every few rows.
    """
    if type(connection).__module__.startswith("psycopg2"):
        # Through the driver, which would not notice a statement. It sends nothing where the encoding is the same.
        connection.set_client_encoding("UTF8")
        return
    connection.prepare_threshold = None
    if connection.info.encoding != "utf-8":
        connection.execute("SET client_encoding TO 'UTF8'")


def _can_be_key(key: Sequence[str], *, columns: Sequence[tuple[str, str]]) -> bool:
    types = dict(columns)
    return bool(key) and all(types[name] != _TYPES[Kind.JSON] for name in key)


def _primary_key(key: Sequence[str]) -> str:
    return f"PRIMARY KEY ({', '.join(quoted(name) for name in key)})"


class PostgresSession:
    """A transaction in Postgres, through psycopg 2 or 3."""

    dialect = POSTGRES

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        if type(connection).__module__.startswith("psycopg2"):
            import psycopg2  # type: ignore[import-untyped]
            import psycopg2.extensions  # type: ignore[import-untyped]

            # The connection may be set to give rows as dictionaries.
            self._cursor = connection.cursor(cursor_factory=psycopg2.extensions.cursor)
            self.refused: type[Exception] = psycopg2.Error
        else:
            import psycopg
            from psycopg.rows import tuple_row

            self._cursor = connection.cursor(row_factory=tuple_row)
            self.refused = psycopg.Error

    def execute(self, sql: str, *values: object) -> int:
        """Run a statement; answer the number of rows it touched."""
        self._run(sql, values)
        return max(0, int(self._cursor.rowcount))

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a query and fetch all its rows."""
        self._run(sql, values)
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def _run(self, sql: str, values: tuple[object, ...]) -> None:
        if values:
            sql = sql.replace("%", "%%").replace(VALUE, "%s")
        self._guarded(lambda: self._cursor.execute(sql, values or None))

    def _guarded(self, call: Callable[[], object]) -> None:
        guarded(call, refused=self.refused, describe=lambda error: describe(error, lost=bool(self._connection.closed)))

    def commit(self) -> None:
        """Keep what the transaction did."""
        try:
            self._guarded(self._connection.commit)
        except DatabaseError as refused:
            if refused.cause is Cause.LOST:
                refused.cause = Cause.UNCERTAIN
            raise

    def lock(self, table: TableName) -> None:
        """Make other loads into the same table wait, also when the table is yet to be made."""
        # The table's place among the schemas, which two loads may have written differently.
        [(schema,)] = self.query(
            f"SELECT coalesce({VALUE}, (SELECT relnamespace::regnamespace::name FROM pg_catalog.pg_class "
            f"WHERE oid = to_regclass({VALUE})), current_schema())",
            table.schema,
            self.dialect.qualified(table),
        )
        if schema is None:
            raise LandingError(f"{table}: the connection's search_path names no schema that exists; write schema.table")
        self.execute(f"SELECT pg_advisory_xact_lock(hashtextextended({VALUE}, 0))", f"limio_limitrail {schema}.{table.table}")
        if self._relation(table) in ("r", "p"):
            # Other writers wait as well; readers do not.
            self.execute(f"LOCK TABLE {self.dialect.qualified(table)} IN SHARE ROW EXCLUSIVE MODE")

    def _relation(self, table: TableName) -> str | None:
        found = self.query(
            f"SELECT CASE relpersistence WHEN 't' THEN 'temporary' ELSE relkind::text END FROM pg_catalog.pg_class "
            f"WHERE oid = to_regclass({VALUE})",
            self.dialect.qualified(table),
        )
        return str(found[0][0]) if found else None

    def columns(self, table: TableName) -> tuple[TableColumn, ...] | None:
        """Read what columns a table has."""
        relation = self._relation(table)
        if relation is None:
            self._check_schema(table)
            return None
        if relation == "temporary":
            raise LandingError(
                f"{table} is a temporary table of the connection, which ends with it and hides a table of this name; write "
                f"schema.table, or choose another name"
            )
        if relation not in ("r", "p"):
            raise LandingError(f"{table} is {_KINDS_OF_RELATION.get(relation, 'no table')}; a pull can only be landed in a table")
        self._check_rows_are_seen(table)
        described = self.query(
            f"SELECT attname, format_type(atttypid, atttypmod), NOT atthasdef AND attidentity = '' AND attgenerated = '', "
            f"coalesce(collisdeterministic, true), based.typname, based.typtype::text, based.typnamespace::regnamespace::text, "
            f"coalesce(nullif(named.typtypmod, -1), atttypmod) FROM pg_catalog.pg_attribute "
            f"LEFT JOIN pg_catalog.pg_collation ON pg_collation.oid = attcollation "
            f"JOIN pg_catalog.pg_type AS named ON named.oid = atttypid "
            # A domain over a domain over numeric is one over numeric.
            f"CROSS JOIN LATERAL (WITH RECURSIVE below AS (SELECT named.oid, named.typbasetype UNION ALL SELECT base.oid, "
            f"base.typbasetype FROM below JOIN pg_catalog.pg_type AS base ON base.oid = below.typbasetype) "
            f"SELECT typname, typtype, typnamespace FROM pg_catalog.pg_type JOIN below USING (oid) "
            f"WHERE below.typbasetype = 0) AS based "
            f"WHERE attrelid = to_regclass({VALUE}) AND attnum > 0 AND NOT attisdropped "
            f"ORDER BY attnum",
            self.dialect.qualified(table),
        )
        return tuple(
            TableColumn(name=name, type=type_, kind=_KINDS.get(type_), managed=bool(plain), equality=equality(*about))
            for name, type_, plain, *about in described
        )

    def _check_rows_are_seen(self, table: TableName) -> None:
        """Refuse a table some rows of which may be hidden from the connection's user."""
        everything = (
            "polcmd = '*' AND polpermissive AND pg_get_expr(polqual, polrelid) = 'true' AND EXISTS (SELECT 1 "
            "FROM unnest(polroles) AS role WHERE CASE role WHEN 0 THEN true ELSE pg_has_role(role, 'USAGE') END)"
        )
        shown = (
            f"SELECT bool_or({everything}) AND bool_and(polpermissive) FROM pg_catalog.pg_policy WHERE polrelid = pg_class.oid"
        )
        hidden = self.query(
            f"SELECT 1 FROM pg_catalog.pg_class "
            f"WHERE oid = to_regclass({VALUE}) AND row_security_active(oid) AND NOT coalesce(({shown}), false)",
            self.dialect.qualified(table),
        )
        if hidden:
            raise LandingError(
                f"{table}: its row-level security may hide rows from the connection's user, which would be doubled or stay "
                f"behind; load as a user with BYPASSRLS, or give this one a policy FOR ALL USING (true); nothing was written"
            )

    def may_skip_rows(self, table: TableName) -> bool:
        """Tell whether the table, or a partition of it, has triggers or rules, each of which may leave a row as it is."""
        found = self.query(
            f"SELECT 1 FROM pg_catalog.pg_class WHERE (relhastriggers OR relhasrules) "
            f"AND oid IN (SELECT to_regclass({VALUE}) UNION ALL SELECT relid FROM pg_partition_tree(to_regclass({VALUE})))",
            self.dialect.qualified(table),
            self.dialect.qualified(table),
        )
        return bool(found)

    def create_stage(self, *, stage: str, columns: Sequence[tuple[str, str]]) -> None:
        """Make a temporary table."""
        described = ", ".join(f"{name} {type_}" for name, type_ in columns)
        self.execute(f"CREATE TEMPORARY TABLE {quoted(stage)} ({described}) ON COMMIT DROP")

    def fill(self, *, stage: str, rows: pa.Table) -> None:
        """Add rows to a temporary table by COPY."""
        # A load that meets a user's own temporary table of this name would write to that one, hence pg_temp.
        self._copy(f"COPY pg_temp.{quoted(stage)} FROM STDIN WITH (FORMAT binary)", prefetch(binary_slices(rows)))

    def _copy(self, sql: str, rows: Iterable[memoryview | bytes]) -> int:
        """Copy rows; answer how many the database has taken."""
        chunks = chain((HEADER,), rows, (TRAILER,))
        self._guarded(lambda: self._send(sql, chunks))
        return int(self._cursor.rowcount)

    def _send(self, sql: str, chunks: Iterator[memoryview | bytes]) -> None:
        if hasattr(self._cursor, "copy_expert"):
            file = ChunkFile(chunks)
            self._cursor.copy_expert(sql, io.BufferedReader(file, buffer_size=1 << 20), size=1 << 20)
            if file.error is not None:
                raise file.error
            return
        with self._cursor.copy(sql) as copy:
            for chunk in chunks:
                copy.write(chunk)

    def ready(self, *, stage: str) -> None:
        """Tell the planner how many rows there are: nobody else counts those of a temporary table."""
        self.execute(f"ANALYZE pg_temp.{quoted(stage)}")

    def unfit_json(self, *, stage: str, column: str) -> int:  # noqa: ARG002
        """Count nothing: Postgres takes every JSON text into a json column as it is."""
        return 0

    def create_table(self, *, table: TableName, columns: Sequence[tuple[str, str]], key: Sequence[str]) -> bool:
        """Make the table; its primary key serves to find rows, and keeps other writers from doubling them."""
        described = [f"{quoted(name)} {type_}" for name, type_ in columns]
        keyed = _can_be_key(key, columns=columns)
        if keyed:
            described.append(_primary_key(key))
        self.execute(f"CREATE TABLE {self.dialect.qualified(table)} ({', '.join(described)})")
        return keyed

    def add_key(self, *, table: TableName, columns: Sequence[tuple[str, str]], key: Sequence[str]) -> bool:
        """Give a table that has been filled its primary key: the index is made faster at once than row by row."""
        keyed = _can_be_key(key, columns=columns)
        if keyed:
            self.execute(f"ALTER TABLE {self.dialect.qualified(table)} ADD {_primary_key(key)}")
        return keyed

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Undo everything that is done within, where the database refuses something."""
        self.execute("SAVEPOINT limio_limitrail_attempt")
        try:
            yield
        except LandingError as refused:
            if not (isinstance(refused, DatabaseError) and refused.cause is Cause.LOST):
                self.execute("ROLLBACK TO SAVEPOINT limio_limitrail_attempt")
            raise
        self.execute("RELEASE SAVEPOINT limio_limitrail_attempt")

    def pour(self, pour: DirectLoad, *, parts: Sequence[PartSource]) -> Iterator[int]:
        """Add the parts' rows to the new table by COPY; tell after each part how many it had."""
        names = [*(column.name for column in pour.plan.columns), EXTRACTED_AT, RUN_ID]
        columns = ", ".join(quoted(name) for name in names)
        sql = f"COPY {self.dialect.qualified(pour.plan.table)} ({columns}) FROM STDIN WITH (FORMAT binary)"
        # One thread for all parts, which is at the next part already while the end of this one is copied.
        for _, pieces in groupby(prefetch(pieces_of(pour, parts=parts)), key=attrgetter("part")):
            sent: list[int] = []
            copied = self._copy(sql, noted(pieces, sent=sent))
            if copied != sum(sent):
                raise LandingError(f"Postgres copied {copied} rows where {sum(sent)} were sent")
            yield copied

    def widen(self, *, table: TableName, column: TableColumn, source: Kind, to: Kind) -> None:
        """Turn a column into a wider kind."""
        name = quoted(column.name)
        using = f"CAST({name} AS {self.dialect.types[to]})"
        if source is Kind.TIMESTAMP and to is Kind.TEXT:
            using = f"to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        alter = f"ALTER TABLE {self.dialect.qualified(table)} ALTER COLUMN {name} TYPE"
        try:
            with self.attempt():
                self.execute(f"{alter} {self.dialect.types[to]} USING {using}")
        except DatabaseError as refused:
            if refused.cause.about_rows or refused.cause is Cause.OBSTACLE:
                refused.cause = Cause.OBSTACLE
                refused.obstacles = self._dependents(table, column.name)
            raise
        if source is Kind.DOUBLE and to is Kind.TEXT:
            respell_doubles(session=self, table=table, column=column.name)

    def _dependents(self, table: TableName, column: str) -> tuple[str, ...]:
        """Name what depends on a column: views, indexes, policies, triggers, constraints, generated columns."""
        found = self.query(
            f"SELECT DISTINCT regexp_replace(pg_describe_object(classid, objid, objsubid), '^rule .* on ', '') "
            f"FROM pg_catalog.pg_depend WHERE refclassid = 'pg_class'::regclass AND refobjid = to_regclass({VALUE}) "
            f"AND refobjsubid = (SELECT attnum FROM pg_catalog.pg_attribute WHERE attrelid = refobjid AND attname = {VALUE}) "
            f"AND NOT (classid = 'pg_class'::regclass AND objid = refobjid AND objsubid = 0) ORDER BY 1",
            self.dialect.qualified(table),
            column,
        )
        return tuple(name for (name,) in found)

    def _check_schema(self, table: TableName) -> None:
        """Refuse a table that cannot be created: its schema is not there, or belongs to somebody else."""
        found = self.query(
            f"SELECT nspname::text, has_schema_privilege(oid, 'CREATE') FROM pg_catalog.pg_namespace "
            f"WHERE nspname = coalesce({VALUE}, current_schema()::text)",
            table.schema,
        )
        if not found:
            missing = f"there is no schema {table.schema!r}" if table.schema else "the search_path names no schema that exists"
            raise LandingError(f"{table}: {missing}; create it, or write the name of another as schema.table")
        if not found[0][1]:
            raise DatabaseError(
                Refusal(
                    told=f"{table}: there is no such table, and the connection's user may not create one in the schema "
                    f"{found[0][0]!r}; grant CREATE on it, or create the table",
                    cause=Cause.RIGHTS,
                )
            )
