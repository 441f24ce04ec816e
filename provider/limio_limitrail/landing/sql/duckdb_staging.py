# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Staging tables in a DuckDB file that one process holds during the pull."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.dialect import VALUE, quoted
from limio_limitrail.landing.sql.duckdb_stream import TableStream
from limio_limitrail.landing.sql.names import TableName, ascii_lower
from limio_limitrail.landing.sql.staged_rows import SEQUENCE
from limio_limitrail.landing.sql.staging_table import StagedColumn, StagingTables

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.sql.duckdb import DuckSession
    from limio_limitrail.landing.sql.metadata import MetadataColumn

_TEMPORARY = "temp"

_SAMPLES, _SAMPLED_ROWS = 16, 32


class DuckStagingTables(StagingTables):
    """The staging tables that a transaction in DuckDB sees, whose file no other process can open.

    :param session: the transaction.
    """

    def __init__(self, session: DuckSession) -> None:
        self._session = session
        self.dialect = session.dialect

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Undo the whole transaction if anything is raised, and begin another: DuckDB has no savepoints."""
        try:
            yield
        except Exception:
            self._session.begin_again()
            raise

    def refused(self, table: TableName, *, becomes_table: bool) -> str | None:  # noqa: ARG002
        return None

    def located(self, staging: TableName, *, becomes_table: bool) -> TableName:
        # A temporary table is neither compressed nor logged, which is most of the work. It ends with the connection.
        return staging if becomes_table else TableName(schema=_TEMPORARY, table=staging.table)

    def comment(self, staging: TableName) -> tuple[str | None] | None:
        found = [comment for name, comment in self.names(schema=staging.schema, prefix=staging.table) if name == staging.table]
        return (found[0],) if found else None

    def set_comment(self, staging: TableName, *, comment: str) -> None:
        self._session.execute(f"COMMENT ON TABLE {self._name(staging)} IS {_literal(comment)}")

    def create(self, staging: TableName, *, columns: Sequence[StagedColumn], becomes_table: bool) -> None:
        described = ", ".join(f"{quoted(column.name)} {column.type}" for column in columns)
        self._session.execute(f"CREATE {'' if becomes_table else 'TEMPORARY '}TABLE {self._name(staging)} ({described})")

    def add_columns(self, staging: TableName, *, columns: Sequence[StagedColumn]) -> None:
        for column in columns:
            self._session.execute(f"ALTER TABLE {self._name(staging)} ADD COLUMN {quoted(column.name)} {column.type}")

    def lock(self, staging: TableName) -> None:
        """Do nothing: see `DuckSession.process_lock`."""

    def is_empty(self, staging: TableName) -> bool:
        return not self._session.query(f"SELECT 1 FROM {self._name(staging)} LIMIT 1")

    def count(self, staging: TableName) -> int:
        [(rows,)] = self._session.query(f"SELECT count(*) FROM {self._name(staging)}")
        return int(rows)

    def copy(self, staging: TableName, *, names: Sequence[str], tables: Iterable[pa.Table]) -> int:
        rows = iter(tables)
        first = next(rows, None)
        if first is None:
            return 0
        source = TableStream(_again(first, rows), schema=first.schema)
        self._session.settings.limit_copy(columns=len(names), rows=first)
        del first
        copied = self._session.insert(source, into=f"{self._name(staging)} ({', '.join(map(quoted, names))})")
        # What else the process asks of the file meanwhile has its order. The memory stays small, as long as the pull needs some.
        self._session.settings.restore_order()
        return copied

    def analyze(self, staging: TableName, *, columns: Sequence[str]) -> None:  # noqa: ARG002
        """Estimate the size of the rows, which decides how many are merged at a time."""
        rows = self.count(staging)
        starts = sorted({rows * number // _SAMPLES for number in range(_SAMPLES)})
        spans = " OR ".join(f"{SEQUENCE} BETWEEN {start} AND {start + _SAMPLED_ROWS - 1}" for start in starts)
        with self._session.settings.allow_any_row():
            sampled = self._session.query_rows(f"SELECT * FROM {self._name(staging)} WHERE {spans}")
        size = sampled.nbytes * rows // max(1, sampled.num_rows)
        self._session.note_staged(staging.table, rows=rows, size=size)

    def become(self, staging: TableName, *, table: TableName, metadata: Sequence[MetadataColumn]) -> None:
        types, name = self._session.dialect.types, self._name(staging)
        # As for rows that are copied straight into the table; its keys are checked next.
        self._session.settings.limit_copy(columns=len(self._session.columns(staging) or ()))
        for column in metadata:
            default = "" if column.value is None else f" DEFAULT {_literal(column.value)}"
            self._session.execute(f"ALTER TABLE {name} ADD COLUMN {quoted(column.name)} {types[column.kind]}{default}")
        for column in metadata:
            if column.value is not None:
                self._session.execute(f"ALTER TABLE {name} ALTER COLUMN {quoted(column.name)} DROP DEFAULT")
        self._session.execute(f"COMMENT ON TABLE {name} IS NULL")
        self._session.execute(f"ALTER TABLE {name} RENAME TO {quoted(table.table)}")

    def drop(self, staging: TableName) -> None:
        self._session.execute(f"DROP TABLE IF EXISTS {self._name(staging)}")

    def names(self, *, schema: str | None, prefix: str) -> list[tuple[str, str | None]]:
        of_schema = f"database_name = current_database() AND lower(schema_name) = coalesce({VALUE}, lower(current_schema()))"
        where = f"temporary AND {VALUE} IS NOT NULL" if schema == _TEMPORARY else of_schema
        return [
            (str(name), comment)
            for name, comment in self._session.query(
                f"SELECT table_name, comment FROM duckdb_tables() WHERE {where} AND starts_with(table_name, {VALUE})",
                None if schema is None else ascii_lower(schema),
                prefix,
            )
        ]

    def _name(self, table: TableName) -> str:
        return self.dialect.qualified(table)


def _again(first: pa.Table, others: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    del first
    yield from others


def _literal(value: datetime | str | int) -> str:
    if isinstance(value, int):
        return str(value)
    text = value.isoformat() if isinstance(value, datetime) else value
    return "'" + text.replace("'", "''") + "'"
