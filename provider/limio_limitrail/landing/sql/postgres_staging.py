# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Staging tables in Postgres: unlogged, unless they become the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.dialect import VALUE, quoted
from limio_limitrail.landing.sql.errors import Cause, DatabaseError
from limio_limitrail.landing.sql.names import TableName
from limio_limitrail.landing.sql.postgres_copy import binary_slices
from limio_limitrail.landing.sql.postgres_publications import BY_WHOLE_ROW, publishes_new_tables
from limio_limitrail.landing.sql.staging_table import StagedColumn, StagingTables

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.sql.metadata import MetadataColumn
    from limio_limitrail.landing.sql.postgres import PostgresSession

LOCK_WAIT = 5.0
"""Seconds to wait for a lock on a staging table: a backup that reads it may hold one for hours."""


class PostgresStagingTables(StagingTables):
    """The staging tables that a transaction in Postgres sees.

    :param session: the transaction.
    """

    def __init__(self, session: PostgresSession) -> None:
        self._session = session
        self.dialect = session.dialect

    @contextmanager
    def attempt(self) -> Iterator[None]:
        self._session.execute("SAVEPOINT limio_limitrail_staging")
        try:
            yield
        except Exception as error:
            if not (isinstance(error, DatabaseError) and error.cause is Cause.LOST):
                self._session.execute("ROLLBACK TO SAVEPOINT limio_limitrail_staging")
                self._session.execute("RELEASE SAVEPOINT limio_limitrail_staging")
            raise
        self._session.execute("RELEASE SAVEPOINT limio_limitrail_staging")

    def refused(self, table: TableName, *, becomes_table: bool) -> str | None:
        session = self._session
        [(may_create,)] = session.query(
            f"SELECT coalesce(has_schema_privilege(coalesce({VALUE}, current_schema()::text), 'CREATE'), false)", table.schema
        )
        if not may_create:
            return "the connection's user may not create tables in its schema"
        # Subscribers would receive the rows of a staging table, which they do not have, and stop.
        if becomes_table and publishes_new_tables(session, schema=table.schema):
            return "a publication sends all tables of its schema to subscribers"
        return None

    def comment(self, staging: TableName) -> tuple[str | None] | None:
        found = self._session.query(
            f"SELECT obj_description(oid, 'pg_class') FROM pg_catalog.pg_class WHERE oid = to_regclass({VALUE})",
            self._name(staging),
        )
        return (found[0][0],) if found else None

    def set_comment(self, staging: TableName, *, comment: str) -> None:
        self._session.execute(f"COMMENT ON TABLE {self._name(staging)} IS {_literal(comment)}")

    def create(self, staging: TableName, *, columns: Sequence[StagedColumn], becomes_table: bool) -> None:
        described = ", ".join(f"{quoted(column.name)} {column.type}" for column in columns)
        # An unlogged table is empty after a crash of the server. To log it afterwards costs more than to log it now.
        kind = "TABLE" if becomes_table else "UNLOGGED TABLE"
        self._session.execute(f"CREATE {kind} {self._name(staging)} ({described})")
        for grantee, _ in self._granted(staging):
            self._session.execute(f"REVOKE ALL ON {self._name(staging)} FROM {grantee}")

    def add_columns(self, staging: TableName, *, columns: Sequence[StagedColumn]) -> None:
        if columns:
            added = ", ".join(f"ADD COLUMN {quoted(column.name)} {column.type}" for column in columns)
            self._session.execute(f"ALTER TABLE {self._name(staging)} {added}")

    def lock(self, staging: TableName) -> None:
        with self._brief_waits():
            self._session.execute(f"LOCK TABLE {self._name(staging)} IN SHARE ROW EXCLUSIVE MODE")

    def is_empty(self, staging: TableName) -> bool:
        return not self._session.query(f"SELECT 1 FROM {self._name(staging)} LIMIT 1")

    def count(self, staging: TableName) -> int:
        [(rows,)] = self._session.query(f"SELECT count(*) FROM {self._name(staging)}")
        return int(rows)

    def copy(self, staging: TableName, *, names: Sequence[str], tables: Iterable[pa.Table]) -> int:
        columns = ", ".join(map(quoted, names))
        slices = (rows for table in tables for rows in binary_slices(table))
        return self._session.copy_rows(f"COPY {self._name(staging)} ({columns}) FROM STDIN WITH (FORMAT binary)", slices)

    def analyze(self, staging: TableName, *, columns: Sequence[str]) -> None:
        self._session.execute(f"ANALYZE {self._name(staging)} ({', '.join(map(quoted, columns))})")

    def become(self, staging: TableName, *, table: TableName, metadata: Sequence[MetadataColumn]) -> None:
        types = self._session.dialect.types
        # With a constant default, Postgres does not rewrite the rows, which have the value all the same.
        added = [
            f"ADD COLUMN {quoted(column.name)} {types[column.kind]}"
            + ("" if column.value is None else f" DEFAULT {_literal(column.value)}")
            for column in metadata
        ]
        dropped = [f"ALTER COLUMN {quoted(column.name)} DROP DEFAULT" for column in metadata if column.value is not None]
        with self._brief_waits():
            self._session.execute(f"LOCK TABLE {self._name(staging)} IN ACCESS EXCLUSIVE MODE")
        for changes in (added, [*dropped, BY_WHOLE_ROW]):
            self._session.execute(f"ALTER TABLE {self._name(staging)} {', '.join(changes)}")
        self._session.execute(f"COMMENT ON TABLE {self._name(staging)} IS NULL")
        self._session.execute(f"ALTER TABLE {self._name(staging)} RENAME TO {quoted(table.table)}")
        self._grant_defaults(TableName(schema=staging.schema, table=table.table), like=staging)

    def drop(self, staging: TableName) -> None:
        with self._brief_waits():
            self._session.execute(f"DROP TABLE IF EXISTS {self._name(staging)}")

    def names(self, *, schema: str | None, prefix: str) -> list[tuple[str, str | None]]:
        return [
            (str(name), comment)
            for name, comment in self._session.query(
                f"SELECT relname, obj_description(oid, 'pg_class') FROM pg_catalog.pg_class "
                f"WHERE relkind = 'r' AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = {VALUE}) "
                f"AND starts_with(relname, {VALUE}) AND pg_has_role(relowner, 'USAGE')",
                schema,
                prefix,
            )
        ]

    def _grant_defaults(self, table: TableName, *, like: TableName) -> None:
        """Grant what a table that is created now has of default privileges, which `create` has revoked."""
        # Its name is free: the staging table has just been renamed.
        self._session.execute(f"CREATE TABLE {self._name(like)} ()")
        for grantee, granted in self._granted(like):
            self._session.execute(f"GRANT {granted.replace('*', '')} ON {self._name(table)} TO {grantee}")
            for right in granted.split(", "):
                if right.endswith("*"):
                    self._session.execute(f"GRANT {right[:-1]} ON {self._name(table)} TO {grantee} WITH GRANT OPTION")
        self._session.execute(f"DROP TABLE {self._name(like)}")

    def _granted(self, table: TableName) -> list[tuple[str, str]]:
        """Return to whom what is granted, apart from the owner; what they may pass on is followed by a star."""
        return [
            (str(grantee), str(granted))
            for grantee, granted in self._session.query(
                f"SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END, "
                f"string_agg(privilege_type || CASE WHEN is_grantable THEN '*' ELSE '' END, ', ') "
                f"FROM pg_catalog.pg_class CROSS JOIN LATERAL aclexplode(relacl) "
                f"WHERE pg_class.oid = to_regclass({VALUE}) AND grantee <> relowner GROUP BY grantee",
                self._name(table),
            )
        ]

    @contextmanager
    def _brief_waits(self) -> Iterator[None]:
        """Wait for locks no longer than `LOCK_WAIT`; if one is refused, the savepoint has to be rolled back."""
        [(before,)] = self._session.query("SELECT current_setting('lock_timeout')")
        self._session.execute(f"SET LOCAL lock_timeout = {int(1000 * LOCK_WAIT)}")
        yield
        self._session.execute(f"SET LOCAL lock_timeout = {_literal(str(before))}")

    def _name(self, table: TableName) -> str:
        return self._session.dialect.qualified(table)


def _literal(value: datetime | str | int) -> str:
    if isinstance(value, int):
        return str(value)
    text = value.isoformat() if isinstance(value, datetime) else value
    # Transactions of loads set standard_conforming_strings.
    return "'" + text.replace("'", "''") + "'"
