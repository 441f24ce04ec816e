# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pull a resource, then load it into a table in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from limio_limitrail.airflow_errors import fail_fast_on_permanent_errors
from limio_limitrail.parameters import readers
from limio_limitrail.parameters.declared import Parameter, template_fields
from limio_limitrail.transfers.checks import read_checks
from limio_limitrail.transfers.child_tables import (
    ChildTable,
    check_child_lists,
    check_child_tables,
    child_datasets,
    child_lists,
    child_sources,
    read_child_tables,
)
from limio_limitrail.transfers.to_tables import ResourceToTableOperator

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import Context, ObjectStoragePath

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.landing.checks import Check
    from limio_limitrail.landing.child_lists import ChildList
    from limio_limitrail.landing.manifest import Manifest
    from limio_limitrail.landing.nested_paths import NestedPath
    from limio_limitrail.landing.sql import LoadResult, WriteMode
    from limio_limitrail.landing.sql.early_rows import StagedRun
    from limio_limitrail.landing.sql.masked_keys import MaskedKeys
    from limio_limitrail.landing.sql.staging_table import StagingTarget
    from limio_limitrail.transfers.base import PullPlan
    from limio_limitrail.transfers.column_checks import NeededColumns
    from limio_limitrail.transfers.folders import RunIdentity
    from limio_limitrail.transfers.incremental import TargetLoss
    from limio_limitrail.transfers.partitions import TouchedStore
    from limio_limitrail.transfers.summaries import LoadSummary


DEFAULT_MAX_PARTITIONS = 100


class ResourceToSqlOperator(ResourceToTableOperator):
    """Pull a resource into a table. The base of the public operators.

    The pull writes parts into a staging folder, the load moves them into the table in one transaction, then the watermark moves.
    Each step is safe to repeat, and a retry resumes where the last try stopped.

    :param sql_conn_id: the database's connection: DuckDB, Postgres, SQLite, or another database of standard SQL whose hook is a
        ``DbApiHook``.
    :param table: the table, with its schema where it is not the default one: ``analytics.subscriptions``.
    :param child_tables: nested lists whose elements become rows of tables of their own, as table → `ChildTable`, such as
        ``{"order_items": ChildTable("data.items")}``. A table without a schema is in that of ``table``.
    :param on_missing: what happens to rows that a finished pull of the whole list no longer has: ``keep``; ``mark`` sets
        ``_deleted_at``, until the record returns; ``delete``. Only rows that this task's pulls of this list brought are touched.
    :param checks: conditions that the table must meet after the load, or nothing is committed: a list of `Check`, or of mappings
        with its members.
    :param load: when the rows are copied into the database: ``after_pull``; ``while_pulling``, as each part is finished, so that
        only the merge is left in the end (Postgres, or a DuckDB file that nobody else needs during the pull); ``auto``: while
        pulling into Postgres.
    :param dry_run: do all of it and roll back: the summary says what the run would have done. Neither the table nor the watermark
        changes, and no asset event is sent. For DuckDB, Postgres and SQLite.
    :param partition_column: the column whose values in the rows that a load inserts, updates or deletes become partition keys of
        the event of each outlet asset (Airflow 3.3 and later): of a time its day in UTC, otherwise the value. No event is sent
        if no row changes.
    :param max_partitions: the most partitions that a load may touch; with more, nothing is written.
    """

    sql_conn_id: str
    table: str
    child_tables: Mapping[str, ChildTable | NestedPath] | None
    on_missing: str
    checks: Sequence[Check]
    load: str
    partition_column: str | None
    max_partitions: int

    parameters: ClassVar[Mapping[str, Parameter]] = {
        **ResourceToTableOperator.parameters,
        "sql_conn_id": Parameter(readers.text("the id of a connection")),
        "table": Parameter(readers.text("the name of a table")),
        "child_tables": Parameter(read_child_tables),
        "on_missing": Parameter(readers.choice("keep", "mark", "delete")),
        "checks": Parameter(read_checks),
        "load": Parameter(readers.choice("auto", "after_pull", "while_pulling")),
        "dry_run": Parameter(readers.switch),
        "partition_column": Parameter(readers.optional(readers.text("the name of a column"))),
        "max_partitions": Parameter(readers.whole_number(least=1)),
    }
    template_fields: Sequence[str] = template_fields(parameters)
    table_parameters = frozenset({"sql_conn_id", "table"})

    def execute(self, context: Context) -> LoadSummary:
        """Pull and load, and return a small summary.

        :raises AirflowFailException: credentials, scope, parameters or a connection are wrong.
        :raises ApiError: the API failed in a way that a retry may get past.
        :raises FolderInUseError: another try of the run is at work.
        :raises RecordError: the records cannot be stored as they are.
        :raises ContractError: they break the contract of the table, or a check failed; the table is as it was before. A retry
            pulls them again.
        :raises LandingError: the table cannot take them; it is as it was before.
        :raises ShrunkListError: the list lacks more rows than max_missing allows; the table is as it was before.
        """
        with fail_fast_on_permanent_errors(), ExitStack() as held:
            return self._execute(context, held)

    def _execute(self, context: Context, held: ExitStack) -> LoadSummary:
        from limio_limitrail.assets.outlet_events import suppress_outlet_events
        from limio_limitrail.landing.allocators import keep_caches_small
        from limio_limitrail.landing.column_parts import staged_format
        from limio_limitrail.landing.sql import WriteMode
        from limio_limitrail.observability.lineage import table_dataset
        from limio_limitrail.observability.metrics import log_group
        from limio_limitrail.transfers.early_load import loads_early, staged_while_pulling
        from limio_limitrail.transfers.missing import check_on_missing, log_missing
        from limio_limitrail.transfers.summaries import LoadSummary, first_names, load_totals

        keep_caches_small()
        self.read_parameters()
        mode = WriteMode(self.mode)
        database = self._database()
        measured = self.hook.client.measure()
        plan = self.plan(context, root=self.staging_root(), target=f"{self.sql_conn_id}/{self.table}")
        self.check_mode(plan, mode, context=context)
        touched = self._touched_store(context)
        check_on_missing(plan, task=self, on_missing=self.on_missing, mode=self.mode)
        self._check_table(plan, mode, database=database)
        lists = self._child_lists(plan.resource)
        self._check_masks(plan, lists)
        check_child_tables(lists, hook=database, table=self.table, max_columns=self.max_columns)
        columns = {**plan.resource.columns, **(self.nested_columns or {})}
        # A dry run writes nothing; child tables and histories are loaded from the parts.
        wanted = loads_early(self.load, hook=database, conn_id=self.sql_conn_id)
        early = wanted and not (self.dry_run or lists or mode is WriteMode.HISTORY)
        target = self._staging_target(plan) if early else None
        with staged_while_pulling(plan, target=target, conn_id=self.sql_conn_id, context=context) as staging:
            manifest = self.pull(
                plan,
                held=held,
                part_format=staged_format(plan.folder),
                columns=columns,
                target=lambda: table_dataset(database, table=self.table),
                child_lists=lists,
                child_targets=lambda: child_datasets(lists, hook=database, table=self.table),
                early_load=staging,
            )
            with log_group(f"load into {self.table}", table=self.table, rows=manifest.rows), self.asking_again(plan):
                staged = None if staging is None else staging.finish(manifest.parts)
                result = self._load(plan, manifest, database=database, mode=mode, lists=lists, touched=touched, staged=staged)
        self.report_duplicates(plan, duplicates=result.duplicates, rows=manifest.rows)
        partitions = result.partitions if self.dry_run or touched is None else touched.keys()
        summary = LoadSummary(
            **self.totals(plan, manifest, stats=measured()),
            table=self.table,
            **load_totals(result),
            dry_run=self.dry_run,
            partitions=first_names(partitions),
        )
        self.remove_staged(plan)
        if self.dry_run:
            self.update_lineage(targets=(), child_tables={})
        else:
            self.publish_summary(context, summary, partitions=partitions)
        if self.dry_run or (self.partition_column is not None and not partitions):
            suppress_outlet_events(self)
        self.log.info(
            "%s%s: %s rows came in %d pages; %s inserted, %s updated, %s unchanged, %s outdated in %s; %d requests, %.1f s.",
            "Dry run, nothing was written: " if self.dry_run else "",
            manifest.resource,
            f"{manifest.rows:,}",
            manifest.pages,
            f"{result.inserted:,}",
            f"{result.updated:,}",
            f"{result.unchanged:,}",
            f"{result.outdated:,}",
            self.table,
            summary["requests"],
            summary["seconds"],
        )
        if self.on_missing != "keep":
            log_missing(result, table=self.table)
        return summary

    def find_loss(self, resource: Resource, *, watermark: datetime, loaded_at: datetime | None) -> TargetLoss | None:
        """Return what the table has lost of the rows from before the watermark."""
        from limio_limitrail.hooks.databases import find_database
        from limio_limitrail.landing.shaping import Shaping
        from limio_limitrail.transfers.table_losses import find_table_loss

        time_column = resource.time_column
        if time_column is None or self.mode == "replace":
            return None
        shaping = Shaping(
            time_column=time_column,
            time_path=resource.columns.get(time_column, (time_column,)),
            nested_columns={**resource.columns, **(self.nested_columns or {})},
            dropped=self.drop_columns,
        )
        return find_table_loss(
            find_database(self.sql_conn_id),
            table=self.table,
            child_lists=self._child_lists(resource),
            time_column=time_column,
            # A transform may leave rows out or change times.
            is_whole=shaping.stores_time and self.transform is None,
            watermark=watermark,
            loaded_at=loaded_at,
        )

    def has_rows_of_others(self, run: RunIdentity) -> bool:
        """Return whether the table has rows of other runs of the task."""
        from limio_limitrail.hooks.databases import find_database
        from limio_limitrail.landing.sql.table_checks import has_rows_of_others

        task = str(run).removesuffix(run.run_id)
        return has_rows_of_others(find_database(self.sql_conn_id), table=self.table, task=task, run_id=str(run))

    def has_output(self, run: RunIdentity, *, folder: ObjectStoragePath) -> bool:  # noqa: ARG002 - as the base calls it
        """Return whether the table holds rows of a run."""
        from limio_limitrail.hooks.databases import find_database
        from limio_limitrail.landing.sql.table_checks import has_rows_of

        return has_rows_of(find_database(self.sql_conn_id), table=self.table, run_id=str(run))

    def _database(self) -> DbApiHook:
        from limio_limitrail.api.errors import ParameterError
        from limio_limitrail.hooks.databases import find_database
        from limio_limitrail.landing.sql.sessions import session_class

        hook = find_database(self.sql_conn_id)
        # Opens nothing yet, but fails before the pull if this kind of database is not supported.
        kind = session_class(hook)
        if self.dry_run and not kind.dialect.serializes_loads:
            raise ParameterError(
                "dry_run needs a database that undoes everything when a load is rolled back: DuckDB, Postgres or SQLite. Load "
                "into a table of another name instead"
            )
        return hook

    def _check_masks(self, plan: PullPlan, lists: tuple[ChildList, ...]) -> None:
        """Check before the pull that the masks leave what the load needs."""
        from limio_limitrail.api.errors import ParameterError

        if plan.masks is None:
            return
        partition = () if self.partition_column is None else (self.partition_column,)
        nested = {**plan.resource.columns, **(self.nested_columns or {})}
        dropped = plan.masks.dropped((*self.required_columns, *partition), nested=nested)
        # A transform may make a column of the same name.
        if dropped and self.transform is None:
            named = "required_columns" if dropped[0] in self.required_columns else "partition_column"
            raise ParameterError(
                f"mask drops {dropped[0]!r}, which {named} names: take it out of one of them, or mask it with another rule"
            )
        plan.masks.check_child_lists(lists)

    def _check_table(self, plan: PullPlan, mode: WriteMode, *, database: DbApiHook) -> None:
        """Check before the pull that the table can be loaded."""
        from limio_limitrail.api.errors import ParameterError
        from limio_limitrail.landing.sql.model import LandingError, OnMissing
        from limio_limitrail.landing.sql.sessions import session_class
        from limio_limitrail.landing.sql.table_checks import check_target
        from limio_limitrail.transfers.missing import check_database

        check_database(session_class(database).dialect, on_missing=self.on_missing, conn_id=self.sql_conn_id)
        key = self._key(plan) if mode.needs_key else ()
        history = mode == "history"
        try:
            check_target(
                hook=database,
                table=self.table,
                primary_key=key,
                max_columns=self.max_columns,
                history=history,
                on_missing=OnMissing(self.on_missing),
            )
        except LandingError as unfit:
            raise ParameterError(f"table={self.table!r}: {unfit.what}") from None

    def needed_columns(self, plan: PullPlan) -> NeededColumns:
        """Return the columns that the table needs."""
        from limio_limitrail.transfers.column_checks import NeededColumns

        return NeededColumns(
            key=self._key(plan),
            key_given=self.primary_key is not None,
            # The rows of child tables are bound to their parents' by the key.
            merges=self.mode in ("merge", "history") or bool(self.child_tables),
            time_column=self.time_column,
        )

    def _key(self, plan: PullPlan) -> tuple[str, ...]:
        return self.key_columns(plan.resource)

    def _masked_keys(self, plan: PullPlan) -> MaskedKeys:
        """Return the hashes in the primary key."""
        from limio_limitrail.landing.sql.masked_keys import UNMASKED, MaskedKeys

        if plan.masks is None:
            return UNMASKED
        nested = {**plan.resource.columns, **(self.nested_columns or {})}
        return MaskedKeys(columns=plan.masks.hashed(self._key(plan), nested=nested), digest=plan.masks.secret_digest())

    def _touched_store(self, context: Context) -> TouchedStore | None:
        """Return where the touched partitions are kept, once it is checked that they fit the task; None without them."""
        column = self.partition_column
        if column is None:
            return None
        from limio_limitrail.transfers.partitions import TouchedStore, check_partitions

        check_partitions(context, column=column, mode=self.mode, outlets=self.outlets, dropped=tuple(self.drop_columns))
        return TouchedStore(context, about=f"{self.sql_conn_id}/{self.table}/{column}")

    def _child_lists(self, resource: Resource) -> tuple[ChildList, ...]:
        tables = read_child_tables("child_tables", self.child_tables)
        if tables:
            check_child_lists(resource, primary_key=self.key_columns(resource), mode=self.mode, transform=self.transform)
        return child_lists(tables, primary_key=self.key_columns(resource))

    def _load(
        self,
        plan: PullPlan,
        manifest: Manifest,
        *,
        database: DbApiHook,
        mode: WriteMode,
        lists: tuple[ChildList, ...],
        touched: TouchedStore | None,
        staged: StagedRun | None,
    ) -> LoadResult:
        from limio_limitrail.landing.column_parts import ColumnPart
        from limio_limitrail.landing.sql import Partitions, Target, load
        from limio_limitrail.landing.sql.model import OnMissing
        from limio_limitrail.transfers.missing import is_full_scan, pull_scope, shrink_guard

        column = self.partition_column
        return load(
            hook=database,
            target=Target(
                table=self.table,
                mode=mode,
                primary_key=self._key(plan),
                time_column=self._compared_time(plan),
                run_id=str(plan.run),
                extracted_at=manifest.started_at,
                scope=pull_scope(plan, hook=self.hook, path_params=self.path_params),
                on_missing=OnMissing(self.on_missing),
                full_scan=is_full_scan(plan, query_params=self.query_params),
                max_missing=shrink_guard(self.max_missing),
            ),
            schema=manifest.schema,
            parts=[ColumnPart(folder=plan.folder, part=part) for part in manifest.parts],
            child_tables=child_sources(lists, manifest, folder=plan.folder),
            masked_keys=self._masked_keys(plan),
            contract=self.contract(),
            checks=tuple(self.checks),
            partitions=None if column is None else Partitions(column=column, most=self.max_partitions),
            before_commit=None if touched is None else lambda result: touched.add(result.partitions),
            staged=staged,
            dry_run=self.dry_run,
        )

    def _staging_target(self, plan: PullPlan) -> StagingTarget:
        """Return what a staging table of this run is for."""
        from limio_limitrail.landing.sql.staging_table import StagingTarget

        return StagingTarget(
            table=self.table, primary_key=self._key(plan), time_column=self._compared_time(plan), run_id=str(plan.run)
        )

    def _compared_time(self, plan: PullPlan) -> str | None:
        time_column = self.time_column or plan.resource.time_column
        # A dropped column does not compare what comes with what the table has of it from before.
        return None if time_column in self.drop_columns else time_column

    @contextmanager
    def asking_again(self, plan: PullPlan) -> Iterator[None]:
        """Likewise; other keys than those of the table are a matter of ``mask``."""
        from limio_limitrail.api.errors import ParameterError
        from limio_limitrail.landing.sql.masked_keys import MaskedKeyError

        try:
            with super().asking_again(plan):
                yield
        except MaskedKeyError as unfit:
            raise ParameterError(f"mask: {unfit.what}") from None
