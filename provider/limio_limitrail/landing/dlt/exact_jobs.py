# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Replaces those of dlt's jobs that would change a value, split a statement, or leave a transaction out.

dlt splits the statements of a merge at each semicolon, also within a name, and in many warehouses runs them without a transaction
if it finds CREATE, ALTER or DROP anywhere, such as in a column ``createdAt``. In Postgres, its CSV loads an empty text as a null:
see `copy_jobs`.
"""

from __future__ import annotations

import copy
import logging
import re
from typing import TYPE_CHECKING, Any

from dlt.common.storages.load_package import ParsedLoadJobFileName
from dlt.destinations.job_client_impl import SqlJobClientBase, SqlLoadJob

from limio_limitrail.landing.dlt.copy_jobs import COPY_JOBS, Rows
from limio_limitrail.landing.dlt.target import MYSQL
from limio_limitrail.landing.sql.model import LandingError, WriteMode

if TYPE_CHECKING:
    from dlt.common.destination import Destination

    from limio_limitrail.landing.dlt.mysql import KeyIndex

log = logging.getLogger("limio_limitrail.landing.dlt")

_DEFINES = re.compile(r"\s*(CREATE|ALTER|DROP)\b", re.IGNORECASE)


class ExactSqlJob(SqlLoadJob):
    """Runs the statements of a merge as they were generated, one a line.

    :param index: the index that the stage needs before.
    """

    def __init__(self, file_path: str, *, index: KeyIndex | None) -> None:
        super().__init__(file_path)
        self._index = index

    def run(self) -> None:
        if self._index is not None:
            self._index.create(self._job_client.sql_client)
        super().run()

    def _string_contains_ddl_statements(self, sql: str) -> bool:
        return any(_DEFINES.match(line) for line in sql.split("\n"))

    def _split_fragments(self, sql: str) -> list[str]:
        return [line.strip().removesuffix(";") for line in sql.split("\n") if line.strip()]


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


def with_exact_jobs(
    destination: Destination[Any, Any], *, rows: Rows | None = None, index: KeyIndex | None = None
) -> Destination[Any, Any]:
    """Return the same destination, with this module's jobs instead of dlt's.

    :param rows: the rows of a load, if a job of `COPY_JOBS` copies them.
    :param index: the index that the stage needs before its rows are merged.
    """
    base, client = type(destination), destination.client_class
    copies = COPY_JOBS.get(destination.destination_type)
    kind = destination.destination_type.rpartition(".")[2]

    def create_load_job(self: Any, table: Any, file_path: str, load_id: str, restore: bool = False) -> Any:
        if SqlLoadJob.is_sql_job(file_path):
            return ExactSqlJob(file_path, index=index)
        if copies is not None and rows is not None and ParsedLoadJobFileName.parse(file_path).file_format == "parquet":
            return copies(file_path, rows)
        return client.create_load_job(self, table, file_path, load_id, restore)

    exact_client = type(client.__name__, (client,), {"create_load_job": create_load_job, "__module__": client.__module__})

    def capabilities(self: Any) -> Any:
        found = base._raw_capabilities(self)  # noqa: SLF001 - what dlt's own subclasses override
        # TRUNCATE commits in some warehouses, and in others readers of an older snapshot find the table empty.
        found.supports_truncate_command = False
        if copies is not None:
            # For Postgres dlt offers Parquet only with a driver that these jobs do not need.
            found.loader_file_format_selector = None  # type: ignore[assignment] # which is its default
        return found

    def adjust_capabilities(_: Any, caps: Any, config: Any, naming: Any) -> Any:
        adjusted = base.adjust_capabilities(caps, config, naming)
        if kind == "sqlalchemy" and config.get_backend_name() in MYSQL:
            from limio_limitrail.landing.dlt.mysql import ExactMysqlTypes

            adjusted.type_mapper = ExactMysqlTypes
        return adjusted

    members = {
        "client_class": property(lambda _: exact_client),
        "_raw_capabilities": capabilities,
        "adjust_capabilities": classmethod(adjust_capabilities),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
    }
    exact = copy.copy(destination)
    exact.__class__ = type(base.__name__, (base,), members)
    return exact
