# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Replaces those of dlt's jobs that would change a value, split a statement, or leave a transaction out.

dlt splits the statements of a merge at each semicolon, also within a name, and in many warehouses runs them without a transaction
if it finds CREATE, ALTER or DROP anywhere, such as in a column ``createdAt``. In Postgres, its CSV loads an empty text as a null.
"""

from __future__ import annotations

import copy
import logging
import re
from contextlib import closing
from typing import TYPE_CHECKING, Any

from dlt.common.destination.client import HasFollowupJobs, RunnableLoadJob
from dlt.common.storages.load_package import ParsedLoadJobFileName
from dlt.destinations.job_client_impl import SqlJobClientBase, SqlLoadJob

from limio_limitrail.landing.sql.model import LandingError, WriteMode

if TYPE_CHECKING:
    from dlt.common.destination import Destination

log = logging.getLogger("limio_limitrail.landing.dlt")

_DEFINES = re.compile(r"\s*(CREATE|ALTER|DROP)\b", re.IGNORECASE)


class ExactSqlJob(SqlLoadJob):
    """Runs the statements of a merge as they were generated, one a line."""

    def _string_contains_ddl_statements(self, sql: str) -> bool:
        return any(_DEFINES.match(line) for line in sql.split("\n"))

    def _split_fragments(self, sql: str) -> list[str]:
        return [line.strip().removesuffix(";") for line in sql.split("\n") if line.strip()]


class PostgresBinaryCopyJob(RunnableLoadJob, HasFollowupJobs):
    """Copies a Parquet file into Postgres, in the binary format."""

    def run(self) -> None:
        import pyarrow.parquet as pq

        from limio_limitrail.landing.sql.postgres_copy import HEADER, TRAILER, ChunkFile, binary_slices

        client: Any = self._job_client
        sql = client.sql_client
        with pq.ParquetFile(self._file_path) as file:
            names = ", ".join(sql.escape_column_name(name) for name in file.schema_arrow.names)

            def chunks() -> Any:
                yield HEADER
                for number in range(file.num_row_groups):
                    yield from binary_slices(file.read_row_group(number))
                yield TRAILER

            table = sql.make_qualified_table_name(self.load_table_name)
            source = ChunkFile(chunks())
            with sql.begin_transaction(), closing(sql.native_connection.cursor()) as cursor:
                cursor.copy_expert(f"COPY {table} ({names}) FROM STDIN WITH (FORMAT BINARY)", source, size=1 << 20)
                if source.error is not None:
                    raise source.error


def check_capabilities(destination: Destination[Any, Any], *, mode: WriteMode) -> None:
    """Refuse a destination that cannot do what a mode promises; connects to nothing.

    :raises LandingError: it has no SQL, or does not delete and insert, or replace, from a stage.
    """
    capabilities = destination.capabilities()
    kind = destination.destination_type.rpartition(".")[2]
    if not issubclass(destination.client_class, SqlJobClientBase):
        raise LandingError(
            f"dlt's destination {kind!r} is no database of SQL, and a retry could double what an earlier try has written there: "
            "use another, or land files with LimioToObjectStorageOperator or LimitRailToObjectStorageOperator"
        )
    if mode is WriteMode.REPLACE:
        can = "insert-from-staging" in (capabilities.supported_replace_strategies or ())
    else:
        strategy = "scd2" if mode is WriteMode.HISTORY else "delete-insert"
        can = strategy in (capabilities.supported_merge_strategies or ())
    if not can:
        raise LandingError(f"dlt's destination {kind!r} cannot do mode={mode.value!r} by way of a stage: use another mode")
    if not capabilities.supports_transactions:
        log.warning(
            "dlt's destination %s has no transactions: until a load has ended, and after a killed one until its retry, rows that "
            "are being replaced may be missing from the table.",
            kind,
        )


def with_exact_jobs(destination: Destination[Any, Any]) -> Destination[Any, Any]:
    """Return the same destination, with this module's jobs instead of dlt's."""
    base, client = type(destination), destination.client_class
    is_postgres = destination.destination_type == "dlt.destinations.postgres"

    def create_load_job(self: Any, table: Any, file_path: str, load_id: str, restore: bool = False) -> Any:
        if SqlLoadJob.is_sql_job(file_path):
            return ExactSqlJob(file_path)
        if is_postgres and ParsedLoadJobFileName.parse(file_path).file_format == "parquet":
            return PostgresBinaryCopyJob(file_path)
        return client.create_load_job(self, table, file_path, load_id, restore)

    exact_client = type(client.__name__, (client,), {"create_load_job": create_load_job, "__module__": client.__module__})

    def capabilities(self: Any) -> Any:
        found = base._raw_capabilities(self)  # noqa: SLF001 - what dlt's own subclasses override
        if is_postgres:
            # Otherwise dlt offers Parquet only with a driver that this job does not need.
            found.loader_file_format_selector = None  # type: ignore[assignment] # which is its default
        return found

    members = {
        "client_class": property(lambda _: exact_client),
        "_raw_capabilities": capabilities,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
    }
    exact = copy.copy(destination)
    exact.__class__ = type(base.__name__, (base,), members)
    return exact
