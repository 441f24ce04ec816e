# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load into Postgres by COPY, while a thread prefetches and encodes the next rows."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from limio_limitrail.concurrency import prefetch
from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE, TableColumn, quoted
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, Diagnosis, connected
from limio_limitrail.landing.sql.model import LandingError, PartSource
from limio_limitrail.landing.sql.names import TableName
from limio_limitrail.landing.sql.postgres_copy import HEADER, TRAILER, ChunkFile, binary_slices, copy_chunks, counted
from limio_limitrail.landing.sql.postgres_dialect import KINDS, POSTGRES
from limio_limitrail.landing.sql.postgres_errors import describe, equality, unreachable
from limio_limitrail.landing.sql.postgres_publications import BY_PRIMARY_KEY, BY_WHOLE_ROW, ensure_replica_identity
from limio_limitrail.landing.sql.postgres_staging import PostgresStagingTables
from limio_limitrail.landing.sql.session import DirectLoadSession, WhilePulling

if TYPE_CHECKING:
    import pyarrow as pa
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from limio_limitrail.landing.sql.plan import LoadPlan

_KINDS_OF_RELATION = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "i": "an index",
    "S": "a sequence",
    "c": "a type",
}


def _is_psycopg2(connection: Any) -> bool:
    return type(connection).__module__.startswith("psycopg2")


def _can_be_key(key: Sequence[str], *, columns: Sequence[tuple[str, str]]) -> bool:
    types = dict(columns)
    return bool(key) and all(types[name] != POSTGRES.types[Kind.JSON] for name in key)


def _primary_key(key: Sequence[str]) -> str:
    return f"PRIMARY KEY ({', '.join(quoted(name) for name in key)})"


class PostgresSession(DirectLoadSession):
    """A transaction in Postgres, through psycopg 2 or 3."""

    dialect = POSTGRES

    def __init__(self, hook: DbApiHook, connection: Any) -> None:
        super().__init__(hook, connection)
        # The connection may be set to return rows as dictionaries.
        if _is_psycopg2(connection):
            import psycopg2  # type: ignore[import-untyped]
            import psycopg2.extensions  # type: ignore[import-untyped]

            self._cursor = connection.cursor(cursor_factory=psycopg2.extensions.cursor)
            self.driver_error = psycopg2.Error
        else:
            import psycopg
            from psycopg.rows import tuple_row

            self._cursor = connection.cursor(row_factory=tuple_row)
            self.driver_error = psycopg.Error

    @classmethod
    def connect(cls, hook: DbApiHook, *, wait: float | None = None) -> Any:  # noqa: ARG003
        return connected(hook, name="Postgres", describe=unreachable)

    @classmethod
    def while_pulling(cls, hook: DbApiHook) -> WhilePulling:  # noqa: ARG003
        return WhilePulling.BY_DEFAULT

    @classmethod
    def describe(cls, error: Exception, *, connection: Any) -> Diagnosis:
        """Describe an error, without any value."""
        return describe(error, lost=bool(connection.closed))

    def begin(self, *, lock_wait: float | None, idle_limit: float | None, read_only: bool) -> None:  # noqa: ARG002
        """Begin a transaction in UTC that sees what was committed before each of its statements."""
        self._connection.autocommit = False
        self._prepare_connection()
        limits = {"lock_timeout": lock_wait, "idle_in_transaction_session_timeout": idle_limit}
        # A load has to see what the one before it committed while this one waited for its lock.
        settings = [
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET LOCAL TIME ZONE 'UTC'",
            "SET LOCAL extra_float_digits = 1",
            "SET LOCAL standard_conforming_strings = on",
            "SET LOCAL datestyle = 'ISO'",
            *(f"SET LOCAL {name} = {int(1000 * seconds)}" for name, seconds in limits.items() if seconds is not None),
        ]
        self.execute("; ".join(settings))

    def _prepare_connection(self) -> None:
        """Set UTF-8, which COPY in the binary format leaves to the connection, and have each statement planned.

        A statement that is planned once is planned for the table as it was then: a small table is scanned, and a ledger of a
        hundred thousand rows would be too, for every few rows.
        """
        if _is_psycopg2(self._connection):
            # Through the driver, which would not notice a statement. It sends nothing if the encoding is the same.
            self.guarded(lambda: self._connection.set_client_encoding("UTF8"))
            return
        self._connection.prepare_threshold = None
        if self._connection.info.encoding != "utf-8":
            self.guarded(lambda: self._connection.execute("SET client_encoding TO 'UTF8'"))

    def execute(self, sql: str, *values: object) -> int:
        self._run(sql, values)
        return max(0, int(self._cursor.rowcount))

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        self._run(sql, values)
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def _run(self, sql: str, values: tuple[object, ...]) -> None:
        if values:
            sql = sql.replace("%", "%%").replace(VALUE, "%s")
        self.guarded(lambda: self._cursor.execute(sql, values or None))

    def lock(self, table: TableName) -> None:
        """Make other loads into the same table wait, even if it has yet to be created."""
        # Two loads may have named the same schema in different ways.
        schema = self.schema_of(table)
        if schema is None:
            raise LandingError(f"{table}: the connection's search_path names no schema that exists; write schema.table")
        self.execute(f"SELECT pg_advisory_xact_lock(hashtextextended({VALUE}, 0))", f"limio_limitrail {schema}.{table.table}")
        if self._relation(table) in ("r", "p"):
            # Other writers wait as well; readers do not.
            self.execute(f"LOCK TABLE {self.dialect.qualified(table)} IN SHARE ROW EXCLUSIVE MODE")

    def schema_of(self, table: TableName) -> str | None:
        if table.schema is not None:
            return table.schema
        [(schema,)] = self.query(
            f"SELECT coalesce((SELECT relnamespace::regnamespace::name FROM pg_catalog.pg_class "
            f"WHERE oid = to_regclass({VALUE})), current_schema())",
            self.dialect.qualified(table),
        )
        return None if schema is None else str(schema)

    def _relation(self, table: TableName) -> str | None:
        found = self.query(
            f"SELECT CASE relpersistence WHEN 't' THEN 'temporary' ELSE relkind::text END FROM pg_catalog.pg_class "
            f"WHERE oid = to_regclass({VALUE})",
            self.dialect.qualified(table),
        )
        return str(found[0][0]) if found else None

    def exists(self, table: TableName) -> bool:
        return self._relation(table) is not None

    def columns(self, table: TableName) -> tuple[TableColumn, ...] | None:
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
            raise LandingError(
                f"{table} is {_KINDS_OF_RELATION.get(relation, 'not a table')}; a pull can only be loaded into a table"
            )
        self._check_rows_are_seen(table)
        described = self.query(
            f"SELECT attname, format_type(atttypid, atttypmod), NOT atthasdef AND attidentity = '' AND attgenerated = '', "
            f"NOT attnotnull, "
            f"coalesce(collisdeterministic, true), based.typname, based.typtype::text, based.typnamespace::regnamespace::text, "
            f"coalesce(nullif(named.typtypmod, -1), atttypmod) FROM pg_catalog.pg_attribute "
            f"LEFT JOIN pg_catalog.pg_collation ON pg_collation.oid = attcollation "
            f"JOIN pg_catalog.pg_type AS named ON named.oid = atttypid "
            # Resolve domains over domains.
            f"CROSS JOIN LATERAL (WITH RECURSIVE below AS (SELECT named.oid, named.typbasetype UNION ALL SELECT base.oid, "
            f"base.typbasetype FROM below JOIN pg_catalog.pg_type AS base ON base.oid = below.typbasetype) "
            f"SELECT typname, typtype, typnamespace FROM pg_catalog.pg_type JOIN below USING (oid) "
            f"WHERE below.typbasetype = 0) AS based "
            f"WHERE attrelid = to_regclass({VALUE}) AND attnum > 0 AND NOT attisdropped "
            f"ORDER BY attnum",
            self.dialect.qualified(table),
        )
        return tuple(
            TableColumn(
                name=name,
                type=type_,
                kind=KINDS.get(type_),
                managed=bool(managed),
                equality=equality(*about),
                nullable=bool(nullable),
            )
            for name, type_, managed, nullable, *about in described
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
                f"{table}: its row-level security may hide rows from the connection's user, which would be duplicated or "
                f"left behind; load as a user with BYPASSRLS, or give this one a policy FOR ALL USING (true); nothing was written"
            )

    def may_write(self, table: TableName) -> bool:
        rights = " AND ".join(f"has_table_privilege(to_regclass({VALUE}), '{right}')" for right in ("SELECT", "INSERT", "DELETE"))
        name = self.dialect.qualified(table)
        [(granted,)] = self.query(
            f"SELECT CASE WHEN to_regclass({VALUE}) IS NOT NULL THEN {rights} "
            f"ELSE coalesce(has_schema_privilege(coalesce({VALUE}, current_schema()::text), 'CREATE'), false) END",
            *[name] * 4,
            table.schema,
        )
        return bool(granted)

    def may_skip_rows(self, table: TableName) -> bool:
        """Return whether the table or a partition has triggers or rules, each of which can leave a row unchanged."""
        found = self.query(
            f"SELECT 1 FROM pg_catalog.pg_class WHERE (relhastriggers OR relhasrules) "
            f"AND oid IN (SELECT to_regclass({VALUE}) UNION ALL SELECT relid FROM pg_partition_tree(to_regclass({VALUE})))",
            self.dialect.qualified(table),
            self.dialect.qualified(table),
        )
        return bool(found)

    def create_stage(self, *, stage: str, columns: Sequence[tuple[str, str]]) -> None:
        described = ", ".join(f"{name} {type_}" for name, type_ in columns)
        self.execute(f"CREATE TEMPORARY TABLE {quoted(stage)} ({described}) ON COMMIT DROP")

    def fill(self, *, stage: str, rows: pa.Table) -> None:
        """Add rows to a temporary table by COPY."""
        # In pg_temp, so that no other table of this name is written.
        self.copy_rows(f"COPY pg_temp.{quoted(stage)} FROM STDIN WITH (FORMAT binary)", prefetch(binary_slices(rows)))

    def staging_tables(self) -> PostgresStagingTables:
        """Return the tables in which rows are staged while a pull goes on."""
        return PostgresStagingTables(self)

    def copy_rows(self, sql: str, rows: Iterable[memoryview | bytes]) -> int:
        """Copy rows; return how many the database counts."""
        chunks = chain((HEADER,), rows, (TRAILER,))
        self.guarded(lambda: self._send(sql, chunks))
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

    def analyze(self, *, stage: str) -> None:
        """Collect statistics: autovacuum does not do it for a temporary table."""
        self.execute(f"ANALYZE pg_temp.{quoted(stage)}")

    def create_table(self, *, table: TableName, columns: Sequence[tuple[str, str]], key: Sequence[str]) -> bool:
        """Create the table; its primary key finds rows, prevents duplicates by other writers, and names rows to subscribers."""
        described = [f"{quoted(name)} {type_}" for name, type_ in columns]
        keyed = _can_be_key(key, columns=columns)
        if keyed:
            described.append(_primary_key(key))
        self.execute(f"CREATE TABLE {self.dialect.qualified(table)} ({', '.join(described)})")
        if not keyed:
            self.execute(f"ALTER TABLE {self.dialect.qualified(table)} {BY_WHOLE_ROW}")
        return keyed

    def ensure_replica_identity(self, table: TableName) -> None:
        """Let publications send updates and deletes of a table without a key that an earlier version created."""
        ensure_replica_identity(self, table)

    def add_primary_key(self, *, table: TableName, columns: Sequence[tuple[str, str]], key: Sequence[str]) -> bool:
        """Add the primary key to a filled table: the index is built faster at once than row by row."""
        keyed = _can_be_key(key, columns=columns)
        if keyed:
            self.execute(f"ALTER TABLE {self.dialect.qualified(table)} ADD {_primary_key(key)}, {BY_PRIMARY_KEY}")
        return keyed

    def check_deferred(self) -> None:
        """Check constraints that are deferred until the commit, and run such triggers."""
        self.execute("SET CONSTRAINTS ALL IMMEDIATE")

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo everything that is done within if Postgres refuses something."""
        self.execute("SAVEPOINT limio_limitrail_attempt")
        try:
            yield
        except LandingError as refused:
            if not (isinstance(refused, DatabaseError) and refused.cause is Cause.LOST):
                self.execute("ROLLBACK TO SAVEPOINT limio_limitrail_attempt")
                self.execute("RELEASE SAVEPOINT limio_limitrail_attempt")
            raise
        self.execute("RELEASE SAVEPOINT limio_limitrail_attempt")

    @contextmanager
    def reading(self) -> Iterator[None]:
        # Functions that a query calls could write; what is set here ends with the savepoint.
        self.execute("SAVEPOINT limio_limitrail_reading")
        self.execute("SET LOCAL transaction_read_only = on")
        yield
        self.execute("ROLLBACK TO SAVEPOINT limio_limitrail_reading")
        self.execute("RELEASE SAVEPOINT limio_limitrail_reading")

    def copy_into(self, plan: LoadPlan, *, parts: Sequence[PartSource]) -> Iterator[int]:
        """Copy the parts' rows into the new table by COPY; yield the rows of each part."""
        columns = ", ".join(map(quoted, plan.written_names))
        sql = f"COPY {self.dialect.qualified(plan.table)} ({columns}) FROM STDIN WITH (FORMAT binary)"
        # One thread prefetches all parts: it reads the next one while the end of this one is copied.
        for _, chunks in groupby(prefetch(copy_chunks(plan, parts=parts)), key=attrgetter("part")):
            sent: list[int] = []
            copied = self.copy_rows(sql, counted(chunks, sent=sent))
            if copied != sum(sent):
                raise LandingError(f"Postgres copied {copied} rows where {sum(sent)} were sent")
            yield copied

    def widen(self, *, table: TableName, column: TableColumn, source: Kind, to: Kind) -> None:
        name = quoted(column.name)
        using = f"CAST({name} AS {self.dialect.types[to]})"
        if source is Kind.TIMESTAMP and to is Kind.TEXT:
            using = f"to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        alter = f"ALTER TABLE {self.dialect.qualified(table)} ALTER COLUMN {name} TYPE"
        try:
            with self.savepoint():
                self.execute(f"{alter} {self.dialect.types[to]} USING {using}")
        except DatabaseError as refused:
            if refused.cause.about_rows or refused.cause is Cause.OBSTACLE:
                refused.cause = Cause.OBSTACLE
                refused.obstacles = self._dependents(table, column.name)
            raise
        if source is Kind.DOUBLE and to is Kind.TEXT:
            from limio_limitrail.landing.sql.double_texts import rewrite_doubles

            rewrite_doubles(self, table=table, column=column.name)

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
        """Refuse a table that cannot be created: its schema does not exist, or the user lacks CREATE on it."""
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
                Diagnosis(
                    summary=f"{table}: there is no such table, and the connection's user may not create one in the schema "
                    f"{found[0][0]!r}; grant CREATE on it, or create the table",
                    cause=Cause.RIGHTS,
                )
            )
