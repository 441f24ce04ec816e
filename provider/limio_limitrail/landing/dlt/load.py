# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load the parts of a pull into a table of a warehouse, by one of dlt's destinations.

The steps are dlt's: *extract* writes the rows into the working folder, *normalize* moves them into a load package, *load* copies
them into a stage of the run's own in the warehouse, and then writes the table in one transaction. A retry begins again with the
parts, an empty working folder and an empty stage, so it does not matter where an earlier try was killed.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.dlt.errors import errors_of_dlt
from limio_limitrail.landing.dlt.target import SCHEMA, DltTarget, database_kind, opened
from limio_limitrail.landing.dlt.versions import ROW_VERSION
from limio_limitrail.landing.shrinking import shrunk
from limio_limitrail.landing.sql.contract import EVOLVE, Contract
from limio_limitrail.landing.sql.history_statements import VALID_FROM, VALID_TO
from limio_limitrail.landing.sql.metadata import RUN_ID, MetadataColumn, run_columns
from limio_limitrail.landing.sql.model import LandingError, Target, WriteMode
from limio_limitrail.landing.sql.names import TableName, ascii_lower
from limio_limitrail.landing.sql.new_keys import check_columns, check_runs

if TYPE_CHECKING:
    import pyarrow as pa
    from dlt.common.destination import Destination

    from limio_limitrail.landing.column_parts import ColumnPart
    from limio_limitrail.landing.dlt.conditions import SqlWords
    from limio_limitrail.landing.dlt.table_lock import LoadLocks
    from limio_limitrail.landing.sql.plan import ColumnPlan, LoadPlan

log = logging.getLogger("limio_limitrail.landing.dlt")

_RETRY = "The table is as it was, or has all rows of this run; a retry goes on from the finished parts"
WHAT_IS_LEFT = "Nothing was written; a retry goes on from the finished parts"


@dataclass(frozen=True, kw_only=True)
class DltResult:
    """What a load did.

    :param rows: rows that came, including duplicates.
    :param duplicates: rows dropped because the pull had a newer one of the same key.
    :param rows_before: rows of the table before the load.
    :param rows_after: rows of the table after it.
    :param columns_added: columns that an existing table gained.
    :param columns_widened: columns of an existing table whose type became wider.
    :param columns_ignored: record keys that were left out.
    """

    rows: int
    duplicates: int
    rows_before: int
    rows_after: int
    columns_added: tuple[str, ...] = ()
    columns_widened: tuple[str, ...] = ()
    columns_ignored: tuple[str, ...] = ()


@raises_bare
def load(
    *, to: DltTarget, target: Target, schema: Mapping[str, Kind], parts: Sequence[ColumnPart], contract: Contract = EVOLVE
) -> DltResult:
    """Write a pull into a table of a warehouse.

    :param to: the warehouse and its table.
    :param target: how to write to it.
    :param schema: record key → the widest kind of all parts, in order.
    :param parts: the parts in order.
    :param contract: what may change of the columns, and what the pull must bring.
    :raises ContractError: the pull breaks the contract. Nothing was written.
    :raises ShrunkListError: the pull would replace many more rows than it has. Nothing was written.
    :raises LandingError: the pull does not fit, or the warehouse refused it.
    """
    from limio_limitrail.landing.dlt.table_lock import locks, one_load_at_a_time

    step = f"while loading {to}"
    with errors_of_dlt(step, outcome=WHAT_IS_LEFT), opened(to, run_id=target.run_id) as client:
        kind = database_kind(to, client)
        if not locks(kind):
            log.warning("Loads into %s do not wait for each other in %s: give its tasks a pool of one slot.", to, kind)
        with one_load_at_a_time(client, kind=kind, table=str(to)) as load_locks:
            return Load(
                to=to, target=target, schema=schema, parts=parts, contract=contract, client=client, locks=load_locks
            ).run()


@dataclass(frozen=True, kw_only=True)
class Load:
    """A load whose table is locked. See `load`; `files.load` is that into files.

    :param client: dlt's client of the destination, connected.
    :param locks: the locks of the load; None into files.
    """

    to: DltTarget
    target: Target
    schema: Mapping[str, Kind]
    parts: Sequence[ColumnPart]
    contract: Contract
    client: Any
    locks: LoadLocks | None = None

    def run(self) -> DltResult:
        from limio_limitrail.landing.dlt.part_checks import check_required
        from limio_limitrail.landing.dlt.rows import find_duplicates

        plan = self._plan()
        rows_before = self._count(plan)
        keys, time = self._keys(plan), self._time(plan)
        if rows_before and self.target.mode.needs_key:
            check_columns(plan, keys=keys)
            if self.target.scope is not None:
                check_runs(plan, keys=keys, runs=self._keyless_runs(plan), task=self.target.scope.task)
        rows = sum(part.part.rows for part in self.parts)
        if rows:
            check_required(self.parts, plan=plan, contract=self.contract)
        dropped = find_duplicates(self.parts, plan=plan, keys=keys, time=time)
        self._guard(rows - len(dropped), known=rows_before)
        if rows or (plan.exists and self.target.mode in (WriteMode.APPEND, WriteMode.REPLACE)):
            self._load(plan, keys=keys, time=time, dropped=dropped)
        new = [column.name for column in plan.columns if column.existing is None] if plan.exists else []
        result = DltResult(
            rows=rows,
            duplicates=len(dropped),
            rows_before=rows_before,
            rows_after=self._count_after(plan) if rows or plan.exists else 0,
            columns_added=tuple(new),
            columns_widened=tuple(column.name for column in plan.columns if column.widens),
            columns_ignored=plan.ignored,
        )
        log.info(
            "Loaded into %s by dlt (%s): %d rows came, %d duplicates dropped; the table had %d rows, and has %d",
            self.to,
            self.target.mode,
            result.rows,
            result.duplicates,
            result.rows_before,
            result.rows_after,
        )
        return result

    @property
    def _metadata(self) -> tuple[MetadataColumn, ...]:
        """The columns that the load itself writes; dlt fills those of a history's times."""
        own = run_columns(extracted_at=self.target.extracted_at, run_id=self.target.run_id)
        if self.target.mode is not WriteMode.HISTORY:
            return own
        times = (MetadataColumn(name=name, kind=Kind.TIMESTAMP, value=None) for name in (VALID_FROM, VALID_TO))
        return (*own, *times, MetadataColumn(name=ROW_VERSION, kind=Kind.TEXT, value=None))

    @property
    def _kind(self) -> str:
        return database_kind(self.to, self.client)

    @property
    def _table(self) -> str:
        return str(self.client.sql_client.make_qualified_table_name(self.to.table))

    @property
    def _words(self) -> SqlWords:
        from limio_limitrail.landing.dlt.conditions import SqlWords

        quote = self.client.sql_client.escape_column_name
        if self._kind == "mysql":
            from limio_limitrail.landing.dlt import mysql

            return SqlWords(quote=quote, literal=mysql.literal, same=mysql.same_bytes, not_in=mysql.not_in)
        literal = self.client.capabilities.escape_literal
        return SqlWords(quote=quote, literal=literal or (lambda text: "'" + text.replace("'", "''") + "'"))

    def _same(self, name: str) -> str:
        exact = self.client.capabilities.has_case_sensitive_identifiers and self._kind != "mysql"
        return name if exact else ascii_lower(name)

    def _plan(self) -> LoadPlan:
        from limio_limitrail.landing.dlt.columns import fit, make_plan

        exists, present = self._present()
        history = self.target.mode is WriteMode.HISTORY
        if exists and history is not (ROW_VERSION in present and VALID_TO in present):
            raise LandingError(
                f"{self.to}: the table is {'no history' if history else 'a history'}, and mode={self.target.mode.value!r} needs "
                f"{'one' if history else 'another'}: load into a table of another name. Nothing was written"
            )
        plan = make_plan(
            table=TableName(schema=self.to.dataset, table=self.to.table),
            present=present,
            schema=self.schema,
            metadata=self._metadata,
            same=self._same,
            fits_double=self._fits_double,
        )
        if self._kind == "mysql":
            from limio_limitrail.landing.dlt.mysql import check_names

            check_names(plan)
        time = [] if self.target.time_column is None else [self.target.time_column]
        needed = [*self.target.primary_key, *time]
        return fit(plan, contract=self.contract, needed=needed, can_widen=self._can_widen)

    def _present(self) -> tuple[bool, Mapping[str, Any]]:
        """Return whether the table exists, and its columns as dlt describes them."""
        exists, present = self.client.get_storage_table(self.to.table)
        return bool(exists), present

    def _fits_double(self, column: str) -> bool:
        from limio_limitrail.landing.dlt.widening import fits_double

        return fits_double(self.client.sql_client, table=self._table, column=column)

    def _can_widen(self, column: ColumnPlan) -> bool:
        from limio_limitrail.landing.dlt.widening import can_widen

        return can_widen(column, kind=self._kind)

    def _count(self, plan: LoadPlan) -> int:
        if not plan.exists and not self.client.get_storage_table(self.to.table)[0]:
            return 0
        return int(self.client.sql_client.execute_sql(f"SELECT count(*) FROM {self._table}")[0][0])

    def _is_empty(self, plan: LoadPlan) -> bool:
        return not plan.exists or not self.client.sql_client.execute_sql(f"SELECT 1 FROM {self._table} LIMIT 1")

    def _count_after(self, plan: LoadPlan) -> int:
        return self._count(plan)

    def _keys(self, plan: LoadPlan) -> tuple[str, ...]:
        keys = self.target.primary_key
        if not self.schema or all(plan.column(key) is not None for key in keys):
            return keys if self.schema else ()
        if self.target.mode.needs_key:
            missing = next(key for key in keys if plan.column(key) is None)
            raise LandingError(f"{self.to}: no record has the column {missing!r} of the primary key. Nothing was written")
        return ()

    def _keyless_runs(self, plan: LoadPlan) -> list[str]:
        """Return the runs that have rows in the table without a value in a column of the key."""
        columns = [column for key in self.target.primary_key if (column := plan.column(key)) is not None]
        if not columns or any(column.name == RUN_ID for column in plan.missing_metadata):
            return []
        quote = self.client.sql_client.escape_column_name
        empty = " OR ".join(f"{quote(column.name)} IS NULL" for column in columns)
        found = self.client.sql_client.execute_sql(f"SELECT DISTINCT {quote(RUN_ID)} FROM {self._table} WHERE {empty}")
        return [str(run) for (run,) in found or ()]

    def _time(self, plan: LoadPlan) -> str | None:
        from limio_limitrail.landing.dlt.columns import COMPARABLE

        column = None if self.target.time_column is None else plan.column(self.target.time_column)
        if column is None:
            return None
        if self.target.mode.needs_key and column.kind not in COMPARABLE:
            raise LandingError(
                f"{self.to}: the time column {column.key!r} is {column.kind} in the records, because not all of its values are "
                "times with a zone and at most microseconds, and a warehouse does not compare such values as times. Nothing was "
                "written: name another time_column=, convert it with transform=, or use another mode"
            )
        return column.key

    def _guard(self, came: int, *, known: int) -> None:
        guard = self.target.max_missing
        missing = max(0, known - came)
        if (
            self.target.mode is WriteMode.REPLACE
            and guard is not None
            and guard.refuses(missing=missing, known=known, empty=not came)
        ):
            raise shrunk(str(self.to), missing=missing, known=known, guard=guard, consequence="nothing was replaced")

    def _load(self, plan: LoadPlan, *, keys: tuple[str, ...], time: str | None, dropped: pa.Array) -> None:
        from limio_limitrail.landing.dlt.widening import widen

        for column in plan.columns:
            if column.widens:
                widen(self.client.sql_client, table=self._table, column=column, kind=self._kind)
        try:
            self._write(plan, keys=keys, time=time, dropped=dropped)
        finally:
            self._drop_stage()

    def _write(self, plan: LoadPlan, *, keys: tuple[str, ...], time: str | None, dropped: pa.Array) -> None:
        import dlt

        from limio_limitrail.landing.dlt.columns import data_columns
        from limio_limitrail.landing.dlt.conditions import APPEND, disposition
        from limio_limitrail.landing.dlt.copy_jobs import COPY_JOBS, Rows
        from limio_limitrail.landing.dlt.exact_jobs import with_exact_jobs
        from limio_limitrail.landing.dlt.rows import empty_table, row_tables

        sql = self.client.sql_client
        by_key = {column.key: column.name for column in plan.columns}
        copies = self.to.destination.destination_type in COPY_JOBS
        # Into an empty table rows need no stage, because one transaction copies them. A history's times are written from a stage.
        straight = copies and self._is_empty(plan) and self.target.mode is not WriteMode.HISTORY
        writes = (
            APPEND
            if straight
            else disposition(
                self.target.mode,
                table=self._table,
                staged=sql.get_qualified_table_names(self.to.table)[1],
                keys=[by_key[key] for key in keys],
                time=None if time is None else by_key[time],
                run_id=self.target.run_id,
                extracted_at=self.target.extracted_at,
                sql=self._words,
            )
        )

        def rows() -> Iterator[pa.Table]:
            # Without any rows a table of this run's rows has to become empty all the same.
            yield empty_table(plan)
            yield from row_tables(self.parts, plan=plan, dropped=dropped)

        copied = Rows(tables=rows, table_is_empty=straight) if copies else None
        hints: Any = {"write_disposition": writes, "columns": data_columns(plan)}
        resource = dlt.resource(
            rows() if copied is None else iter([empty_table(plan)]), name="rows", table_name=self.to.table, **hints
        )
        if not self._is_known(plan):
            # The dataset and dlt's own tables may be created, which loads into other tables must not do at the same time.
            if self.locks is not None:
                self.locks.lock_dataset(self.to.dataset)
            # dlt looks at a table only if it has not seen its schema before, and it may have been dropped or changed since.
            resource.apply_hints(additional_table_hints={"x-limio-change": uuid.uuid4().hex})
        index = None
        if self._kind == "mysql" and self.target.mode is WriteMode.MERGE:
            from limio_limitrail.landing.dlt.mysql import KeyIndex

            index = KeyIndex(table=self.to.table, keys=[column for column in plan.columns if column.key in keys])
        exact = with_exact_jobs(self.to.destination, rows=copied, index=index)
        self._run_dlt(resource, destination=exact, file_format=self._file_format())

    def _run_dlt(self, resource: Any, *, destination: Destination[Any, Any], file_format: Any) -> None:
        import dlt

        from limio_limitrail.landing.dlt.staging_bucket import folder_of_run, remove_folder

        schema = dlt.Schema(SCHEMA)
        source = dlt.source(lambda: resource, schema=schema)()
        stage = self.to.stage(self.target.run_id)
        staging = None if self.to.staging is None else folder_of_run(self.to.staging, stage=stage)
        pipeline = dlt.pipeline(
            pipeline_name=SCHEMA,
            pipelines_dir=str(self.to.folder / "pipelines"),
            destination=destination,
            staging=staging,
            dataset_name=self.to.dataset,
        )
        # Rows are written into the table in the last of the steps only.
        with errors_of_dlt(f"while preparing the rows for {self.to}", outcome=WHAT_IS_LEFT):
            pipeline.extract(source, loader_file_format=file_format)
            pipeline.normalize()
        try:
            with errors_of_dlt(f"while loading {self.to}", outcome=_RETRY):
                pipeline.load()
        finally:
            if staging is not None:
                remove_folder(staging, dataset=self.to.dataset)

    def _file_format(self) -> Any:
        capabilities = self.client.capabilities
        formats = (
            capabilities.supported_staging_file_formats
            if self.to.staging is not None
            else capabilities.supported_loader_file_formats
        )
        return "parquet" if "parquet" in (formats or ()) else None

    def _is_known(self, plan: LoadPlan) -> bool:
        if not plan.exists or plan.missing_metadata or any(column.existing is None for column in plan.columns):
            return False
        own = [self.client.schema.loads_table_name, self.client.schema.version_table_name]
        return all(columns for _, columns in self.client.get_storage_tables(own))

    def _drop_stage(self) -> None:
        sql = self.client.sql_client
        try:
            with sql.with_staging_dataset():
                if sql.has_dataset():
                    sql.drop_dataset()
        except Exception as error:  # noqa: BLE001 - the rows are in the table
            stage = self.to.stage(self.target.run_id)
            log.warning("The stage %s of this run could not be dropped (%s): a retry drops it.", stage, type(error).__name__)
