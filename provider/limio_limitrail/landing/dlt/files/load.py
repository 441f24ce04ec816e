# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load the parts of a pull into a table of files.

The table is read as it is at the beginning. Its format refuses to write if another load has written since; then all begins anew.
"""

from __future__ import annotations

import logging
import random
import re
import time as clock
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.dlt.errors import DltError, errors_of_dlt
from limio_limitrail.landing.dlt.files.model import Change, CommitConflictError, dlt_columns
from limio_limitrail.landing.dlt.load import WHAT_IS_LEFT, DltResult, Load
from limio_limitrail.landing.dlt.table_lock import LOCK_WAIT
from limio_limitrail.landing.dlt.table_state import TableState
from limio_limitrail.landing.dlt.target import DltTarget, opened
from limio_limitrail.landing.sql.contract import EVOLVE, Contract
from limio_limitrail.landing.sql.metadata import EXTRACTED_AT
from limio_limitrail.landing.sql.model import LandingError, Target, WriteMode
from limio_limitrail.landing.sql.names import ascii_lower

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.column_parts import ColumnPart
    from limio_limitrail.landing.dlt.files.model import FileTable
    from limio_limitrail.landing.sql.plan import ColumnPlan, LoadPlan

log = logging.getLogger("limio_limitrail.landing.dlt")

FORMATS = ("parquet", "delta", "iceberg")
"""The formats of tables, as dlt names them."""

_PACKAGES: Mapping[str, str] = {"delta": "deltalake", "iceberg": "pyiceberg"}
_NAME = re.compile(r"[^\s/\\?*\[\]{}%#:._-][^/\\?*\[\]{}%#:\x00-\x1f]*")
_LONGEST_PAUSE = 10.0


def check_files(to: DltTarget, *, mode: WriteMode) -> None:
    """Refuse what a table of files cannot do, before a pull. Connects to nothing.

    :raises LandingError: it cannot, or a package is missing.
    """
    from importlib.util import find_spec

    if mode is WriteMode.HISTORY:
        raise LandingError("files have no history: use mode='merge' with table_format='delta' or 'iceberg', or a database")
    if mode is WriteMode.MERGE and to.table_format == "parquet":
        raise LandingError(
            "mode='merge' cannot replace rows within Parquet files: use table_format='delta' or 'iceberg', or mode='append' or "
            "'replace'"
        )
    for what, name in (("dataset", to.dataset), ("table", to.table)):
        if _NAME.fullmatch(name) is None:
            raise LandingError(
                f"{what}={name!r} becomes a folder: it must begin with a letter or digit, and cannot have any of "
                "/ \\ ? * [ ] { } % # : and line breaks"
            )
    if "bucket_url" in to.destination.config_params and "layout" in to.destination.config_params:
        layout = to.destination.config_params["layout"]
        if layout is not None and not layout.startswith("{table_name}/"):
            raise LandingError("the layout of dlt's filesystem must begin with {table_name}/, so that a table has its own folder")
    package = _PACKAGES.get(to.table_format or "")
    if package is not None and find_spec(package) is None:
        raise LandingError(
            f"table_format={to.table_format!r} needs {package} on the workers: "
            f'pip install "airflow-provider-limio-limitrail[dlt-{to.table_format}]"'
        )


@raises_bare
def load_files(
    *, to: DltTarget, target: Target, schema: Mapping[str, Kind], parts: Sequence[ColumnPart], contract: Contract = EVOLVE
) -> DltResult:
    """Write a pull into a table of files; see `load.load` for parameters and errors."""
    start, pause = clock.monotonic(), 0.2
    while True:
        try:
            with errors_of_dlt(f"while loading {to}", outcome=WHAT_IS_LEFT), _table(to, run_id=target.run_id) as (client, table):
                return FilesLoad(
                    to=to, target=target, schema=schema, parts=parts, contract=contract, client=client, table=table
                ).run()
        except AnotherLoadError:
            if clock.monotonic() - start > LOCK_WAIT:
                raise
        log.info("Another load has written %s in the meantime: beginning again with what it left.", to)
        clock.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
        pause = min(pause * 2, _LONGEST_PAUSE)


class AnotherLoadError(DltError):
    """Other loads have written the table again and again, each before this one could."""


@raises_bare
def files_state(
    to: DltTarget,
    *,
    run_id: str,
    time_column: str | None = None,
    reached: datetime | None = None,
    loaded_at: datetime | None = None,
) -> TableState:
    """Return what a table of files has; see `table_state.table_state`."""
    with errors_of_dlt(f"while looking at {to}", outcome="Nothing was pulled"), _table(to, run_id=run_id) as (_, table):
        schema = table.schema
        if schema is None:
            return TableState(exists=False)
        known = dlt_columns(schema)
        times = {name for name, column in known.items() if column.get("data_type") == "timestamp"}
        newest = loaded = None
        if time_column is not None and time_column in times and reached is not None:
            newest = table.reaches(time_column, reached)
        if EXTRACTED_AT in times and loaded_at is not None:
            loaded = table.begins(EXTRACTED_AT, loaded_at)
        has_run = table.count(run_id=run_id) > 0
        return TableState(exists=True, rows=table.count(), has_run=has_run, newest_reached=newest, has_loaded=loaded)


@contextmanager
def _table(to: DltTarget, *, run_id: str) -> Iterator[tuple[Any, FileTable]]:
    """Open the table, with dlt's client of its folder."""
    from limio_limitrail.landing.dlt.files.environment import own_credentials_only

    with opened(to, run_id=run_id) as client, own_credentials_only(client.config.credentials):
        yield client, _opened_table(to, client)


def _opened_table(to: DltTarget, client: Any) -> FileTable:
    folder: str = client.get_table_dir(to.table).rstrip("/")
    if to.table_format == "delta":
        from dlt.common.libs.deltalake import deltalake_storage_options

        from limio_limitrail.landing.dlt.files.delta import DeltaFiles

        options = deltalake_storage_options(client.config.credentials, client.config.deltalake_storage_options)
        return DeltaFiles(client.get_open_table_location("delta", to.table), options=options)
    if to.table_format == "iceberg":
        from limio_limitrail.landing.dlt.files.catalog import open_catalog
        from limio_limitrail.landing.dlt.files.iceberg import IcebergFiles

        def metadata_files() -> list[str]:
            metadata = f"{folder}/metadata"
            client.fs_client.invalidate_cache()
            listed = client.fs_client.ls(metadata, detail=False) if client.fs_client.isdir(metadata) else []
            return [str(path).rpartition("/")[2] for path in listed]

        return IcebergFiles(
            open_catalog(to.catalog or {}, credentials=client.config.credentials),
            name=(to.dataset, to.table),
            location=client.get_open_table_location("iceberg", to.table),
            metadata_files=metadata_files,
        )
    from limio_limitrail.landing.dlt.files.parquet import ParquetFiles

    return ParquetFiles(client.fs_client, folder=folder, is_local=client.is_local_filesystem, work=Path(to.folder))


@dataclass(frozen=True, kw_only=True)
class FilesLoad(Load):
    """A load into a table of files.

    :param table: the table as it was when the load began.
    """

    table: FileTable

    def _same(self, name: str) -> str:
        # Most engines that read such files do not distinguish case.
        return ascii_lower(name)

    def _present(self) -> tuple[bool, Mapping[str, Any]]:
        schema = self.table.schema
        return schema is not None, {} if schema is None else dlt_columns(schema)

    def _fits_double(self, column: str) -> bool:  # noqa: ARG002 - as a database is asked
        return False

    def _can_widen(self, column: ColumnPlan) -> bool:  # noqa: ARG002 - as a database is asked
        # No row is left whose file has the former type.
        return self.target.mode is WriteMode.REPLACE and self.to.table_format != "iceberg"

    def _count(self, plan: LoadPlan) -> int:  # noqa: ARG002 - as a database is asked
        return self.table.count()

    def _keyless_runs(self, plan: LoadPlan) -> list[str]:  # noqa: ARG002 - as a database is asked
        return []

    def _count_after(self, plan: LoadPlan) -> int:  # noqa: ARG002 - as a database is asked
        return _opened_table(self.to, self.client).count()

    def _load(self, plan: LoadPlan, *, keys: tuple[str, ...], time: str | None, dropped: pa.Array) -> None:
        import dlt

        from limio_limitrail.landing.dlt.columns import data_columns
        from limio_limitrail.landing.dlt.files.client import writes_by
        from limio_limitrail.landing.dlt.rows import empty_table, row_tables

        by_key = {column.key: column.name for column in plan.columns}
        change = Change(
            mode=self.target.mode,
            keys=tuple(by_key[key] for key in keys),
            time=None if time is None else by_key[time],
            run_id=self.target.run_id,
        )
        failed: list[Exception] = []

        def write(paths: Sequence[str]) -> None:
            import pyarrow.dataset as ds

            try:
                self.table.write(ds.dataset(list(paths), format="parquet").scanner().to_reader(), change=change)
            except (CommitConflictError, LandingError) as error:
                failed.append(error)
                raise

        def rows() -> Iterator[pa.Table]:
            yield empty_table(plan)
            yield from row_tables(self.parts, plan=plan, dropped=dropped)

        table_format = None if self.to.table_format == "parquet" else self.to.table_format
        hints: Any = {"write_disposition": "append", "table_format": table_format, "columns": data_columns(plan)}
        resource = dlt.resource(rows(), name="rows", table_name=self.to.table, **hints)
        try:
            self._run_dlt(resource, destination=writes_by(self.to.destination, write), file_format="parquet")
        except DltError:
            if not failed:
                raise
        if failed and isinstance(failed[0], CommitConflictError):
            raise AnotherLoadError(
                f"{self.to}: other loads have written the table again and again, each before this one could. {WHAT_IS_LEFT}"
            )
        if failed:
            raise failed[0]
