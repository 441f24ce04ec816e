# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Copy rows into DuckDB and Postgres as Arrow tables, from the parts themselves: without files between.

dlt's package then has one empty file, whose job copies all rows in one transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlt.common.destination.client import HasFollowupJobs, RunnableLoadJob

from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.names import ascii_lower

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("limio_limitrail.landing.dlt")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a load.

    :param tables: reads them, some at a time, in the columns of the table.
    :param table_is_empty: whether they go straight into the table, because it has no rows.
    """

    tables: Callable[[], Iterator[pa.Table]]
    table_is_empty: bool


class RowsCopyJob(RunnableLoadJob, HasFollowupJobs):
    """Copies the rows of a load in one transaction."""

    _lock: str | None = None
    """The statement that keeps others from writing the table until the transaction ends."""

    def __init__(self, file_path: str, rows: Rows) -> None:
        super().__init__(file_path)
        self._rows = rows

    def run(self) -> None:
        client: Any = self._job_client
        sql = client.sql_client
        table = sql.make_qualified_table_name(self.load_table_name)
        with sql.begin_transaction():
            if self._rows.table_is_empty:
                if self._lock is not None:
                    sql.execute_sql(self._lock.format(table=table))
                if sql.execute_sql(f"SELECT 1 FROM {table} LIMIT 1"):
                    raise LandingError(
                        f"{table}: another program wrote rows during this load, which began with an empty table. Nothing was "
                        "written; a retry goes on from the finished parts"
                    )
            self._copy(sql, table=table)

    def _copy(self, sql: Any, *, table: str) -> None:
        raise NotImplementedError


class DuckDbRowsJob(RowsCopyJob):
    """Copies rows into DuckDB, which reads Arrow's memory."""

    def run(self) -> None:
        client: Any = self._job_client
        sql = client.sql_client
        # A stage is read once and dropped: to compress it costs twice what it saves.
        compression = "auto" if self._rows.table_is_empty else "uncompressed"
        sql.execute_sql(f"PRAGMA force_compression = '{compression}'")
        try:
            super().run()
        finally:
            sql.execute_sql("PRAGMA force_compression = 'auto'")

    def _copy(self, sql: Any, *, table: str) -> None:
        connection = sql.native_connection
        names = [ascii_lower(name) for name, *_ in connection.execute(f"SELECT * FROM {table} LIMIT 0").description]
        for rows in self._rows.tables():
            staged = {ascii_lower(name): f"c{at}" for at, name in enumerate(rows.column_names)}
            in_order = ", ".join(staged.get(name, "NULL") for name in names)
            # A registered view would keep the rows in memory until the transaction ends, even after it is unregistered.
            connection.from_arrow(rows.rename_columns(list(staged.values()))).project(in_order).insert_into(table)


class PostgresRowsJob(RowsCopyJob):
    """Copies rows into Postgres in its binary format."""

    _lock = "LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"

    def _copy(self, sql: Any, *, table: str) -> None:
        import pyarrow as pa

        from limio_limitrail.landing.sql.postgres_copy import HEADER, TRAILER, ChunkFile, binary_slices

        tables = self._rows.tables()
        first = next(tables)
        names = ", ".join(map(sql.escape_column_name, first.column_names))

        def chunks() -> Iterator[memoryview | bytes]:
            yield HEADER
            yield from binary_slices(first)
            for rows in tables:
                yield from binary_slices(rows)
                # Arrow would cache the memory of the group.
                pa.default_memory_pool().release_unused()
            yield TRAILER

        source = ChunkFile(chunks())
        with closing(sql.native_connection.cursor()) as cursor:
            cursor.copy_expert(f"COPY {table} ({names}) FROM STDIN WITH (FORMAT BINARY)", source, size=1 << 20)
            if source.error is not None:
                raise source.error


COPY_JOBS: Mapping[str, type[RowsCopyJob]] = {
    "dlt.destinations.duckdb": DuckDbRowsJob,
    "dlt.destinations.postgres": PostgresRowsJob,
}
"""The jobs by dlt's type of the destination. Others are handed files."""
