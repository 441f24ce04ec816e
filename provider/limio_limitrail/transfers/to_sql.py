# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pull a resource, then load it into a table in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from limio_limitrail.airflow_errors import fail_fast_on_permanent_errors
from limio_limitrail.parameters import places, readers
from limio_limitrail.parameters.declared import Parameter, template_fields
from limio_limitrail.transfers.base import Job, ResourcePullOperator, some_of

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import Context, ObjectStoragePath

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.landing.manifest import Manifest
    from limio_limitrail.landing.sql import LoadResult, WriteMode
    from limio_limitrail.transfers.column_checks import KeyAndTime
    from limio_limitrail.transfers.folders import RunIdentity


class ResourceToSqlOperator(ResourcePullOperator):
    """Pull a resource into a table. The base of the operators that people use.

    The pull writes parts into a staging folder; the load moves them into the table in one transaction; then the watermark moves.
    Each step is safe to repeat, and a retry goes on where the last try stopped.

    :param sql_conn_id: the database's connection: DuckDB, Postgres, SQLite, or another database of standard SQL whose hook is a
        ``DbApiHook``.
    :param table: the table, with its schema where it is not the default one: ``analytics.subscriptions``.
    :param mode: ``merge`` replaces rows by primary key and adds new ones; ``append`` adds this run's rows, once however often the
        run is made again; ``replace`` puts the new rows in the place of all old ones.
    :param primary_key: the columns that identify a row: a list, or the name of one; else the resource's.
    :param time_column: the column whose newest value wins where two records have the same key, in one pull or in several; else
        the resource's.
    :param staging: the folder below which parts wait to be loaded: an `ObjectStoragePath`, or its URL. Left out, it is a folder
        on the worker that only its user can read. Give one that all workers share if a retry may run on another worker and
        should go on there.
    """

    sql_conn_id: str
    table: str
    mode: str
    primary_key: Sequence[str] | None
    time_column: str | None
    staging: str | ObjectStoragePath | None

    parameters: ClassVar[Mapping[str, Parameter]] = {
        **ResourcePullOperator.parameters,
        "sql_conn_id": Parameter(readers.text("the id of a connection")),
        "table": Parameter(readers.text("the name of a table")),
        "mode": Parameter(readers.choice("merge", "append", "replace")),
        "primary_key": Parameter(readers.optional(readers.names("columns"))),
        "time_column": Parameter(readers.optional(readers.text("the name of a column"))),
        "staging": Parameter(readers.optional(places.folder)),
    }
    template_fields: Sequence[str] = template_fields(parameters)

    def execute(self, context: Context) -> dict[str, Any]:
        """Pull and load, and give a small summary.

        :raises AirflowFailException: credentials, scope, parameters or a connection are wrong.
        :raises ApiError: the API failed in a way that a retry may get past.
        :raises RecordError: the records cannot be landed as they are.
        :raises LandingError: the table cannot take them; it is as it was before.
        """
        with fail_fast_on_permanent_errors():
            return self._execute(context)

    def _execute(self, context: Context) -> dict[str, Any]:
        from airflow.sdk import ObjectStoragePath

        from limio_limitrail.api.request_stats import Meter
        from limio_limitrail.landing.parts import PartFormat
        from limio_limitrail.landing.sql import WriteMode
        from limio_limitrail.observability.lineage import table_place
        from limio_limitrail.observability.metrics import count, stage
        from limio_limitrail.transfers.folders import default_staging

        self.read_parameters()
        mode = WriteMode(self.mode)
        database = self._database()
        meter = Meter(self.hook.client)
        root = ObjectStoragePath(self.staging or f"file://{default_staging()}")
        job = self.plan(context, root=root, target=f"{self.sql_conn_id}/{self.table}")
        self._check_mode(job, mode)
        self._check_table(job, mode, database=database)
        self.note_pull(job, target=lambda: table_place(database, table=self.table))
        columns = {**job.resource.columns, **(self.nested_columns or {})}
        with stage(f"pull {job.resource.name}", resource=job.resource.name):
            manifest = self.pull(job, part_format=PartFormat.PARQUET, columns=columns)
        self.note_parts(manifest)
        with stage(f"load into {self.table}", table=self.table, rows=manifest.rows):
            result = self._load(job, manifest, database=database, mode=mode)
        watermark = self.move_watermark(job, manifest)
        summary = {
            "resource": manifest.resource,
            "table": self.table,
            "rows": manifest.rows,
            "pages": manifest.pages,
            "parts": len(manifest.parts),
            "inserted": result.inserted,
            "updated": result.updated,
            "unchanged": result.unchanged,
            "outdated": result.outdated,
            "deleted": result.deleted,
            "duplicates": result.duplicates,
            "columns_added": some_of(result.columns_added),
            "columns_widened": some_of(result.columns_widened),
            "columns_not_found": some_of(manifest.not_found),
            **job.window.summary(),
            "watermark": watermark.isoformat() if watermark else None,
            "reason": job.reason,
            **meter.read(),
        }
        self._clean_up(job)
        self.announce(context, summary)
        count(summary, api=self.hook.conn_type, what=manifest.resource)
        self.log.info(
            "%s: %s rows came in %d pages; %s inserted, %s updated, %s unchanged, %s outdated in %s; %d requests, %.1f s.",
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
        return summary

    def own_rows(self) -> bool:
        """Whether each run keeps rows of its own."""
        return self.mode == "append"

    def loss(self, resource: Resource, *, watermark: datetime) -> tuple[str, bool] | None:
        """Find out whether the table has lost what the watermark stands for."""
        from limio_limitrail.hooks.databases import find_database
        from limio_limitrail.landing.shaping import Shaping
        from limio_limitrail.landing.sql.lost_rows import Loss, find_loss

        if resource.time_column is None or self.mode == "replace":
            return None
        shaping = Shaping(
            time_column=resource.time_column,
            time_path=resource.columns.get(resource.time_column, (resource.time_column,)),
            columns={**resource.columns, **(self.nested_columns or {})},
            dropped=self.drop_columns,
        )
        # A transform may leave rows out or change times.
        whole = shaping.lands_time and self.transform is None
        found = find_loss(
            find_database(self.sql_conn_id),
            table=self.table,
            time_column=resource.time_column if whole else None,
            reached=watermark,
        )
        if found is None:
            return None
        what = f"the watermark of {self.table} is {watermark.isoformat()}, and the table {found}"
        return what, found is not Loss.MISSING

    def made_before(self, run: RunIdentity, *, folder: ObjectStoragePath) -> bool:  # noqa: ARG002 - as the base calls it
        """Tell whether the table holds rows of a run."""
        from limio_limitrail.hooks.databases import find_database
        from limio_limitrail.landing.sql.lost_rows import has_rows_of

        return has_rows_of(find_database(self.sql_conn_id), table=self.table, run_id=str(run))

    def _database(self) -> DbApiHook:
        from limio_limitrail.hooks.databases import find_database
        from limio_limitrail.landing.sql.sessions import session_class

        hook = find_database(self.sql_conn_id)
        session_class(hook)  # raises before the pull, and not after it, if nothing can be loaded into this database
        return hook

    def _check_mode(self, job: Job, mode: WriteMode) -> None:
        """Find out before the pull, not after it, that the mode does not go with the rest."""
        from limio_limitrail.api.errors import ParameterError

        if mode == "merge" and not self._key(job):
            raise ParameterError(
                f"mode='merge' needs a primary key, and resource {job.resource.name!r} has none: "
                "give primary_key=[...], or another mode"
            )
        if mode == "replace" and self.incremental and job.resource.time_filter is not None:
            raise ParameterError(
                "mode='replace' with incremental=True would leave nothing in the table but what came since the watermark: "
                "leave incremental out, or merge"
            )

    def _check_table(self, job: Job, mode: WriteMode, *, database: DbApiHook) -> None:
        """Find out before the pull, not after it, that the table cannot be landed in."""
        from limio_limitrail.api.errors import ParameterError
        from limio_limitrail.landing.sql.model import LandingError
        from limio_limitrail.landing.sql.preflight import check_target

        key = self._key(job) if mode == "merge" else ()
        try:
            check_target(hook=database, table=self.table, primary_key=key, max_columns=self.max_columns)
        except LandingError as unfit:
            raise ParameterError(f"table={self.table!r}: {unfit.what}") from None

    def needed_columns(self, job: Job) -> KeyAndTime:
        """Give the columns that the table needs."""
        from limio_limitrail.transfers.column_checks import KeyAndTime

        return KeyAndTime(
            key=self._key(job),
            key_given=self.primary_key is not None,
            merges=self.mode == "merge",
            time_column=self.time_column,
        )

    def _key(self, job: Job) -> tuple[str, ...]:
        return tuple(self.primary_key) if self.primary_key is not None else job.resource.primary_key

    def _load(self, job: Job, manifest: Manifest, *, database: DbApiHook, mode: WriteMode) -> LoadResult:
        from limio_limitrail.landing.parts import ParquetPart
        from limio_limitrail.landing.sql import Target, load

        time_column = self.time_column or job.resource.time_column
        return load(
            hook=database,
            target=Target(
                table=self.table,
                mode=mode,
                primary_key=self._key(job),
                # One that is left out says nothing of what comes, and what the table has of it is from before.
                time_column=None if time_column in self.drop_columns else time_column,
                run_id=str(job.run),
                extracted_at=manifest.started_at,
            ),
            schema=manifest.schema,
            parts=[ParquetPart(folder=job.folder, part=part) for part in manifest.parts],
        )

    def _clean_up(self, job: Job) -> None:
        """Remove what waited to be loaded: it holds customers' data, and is of no use once it is in the table."""
        from limio_limitrail.landing.parts import remove_parts
        from limio_limitrail.transfers.folders import remove_empty

        job.store.clear()
        try:
            remove_parts(job.folder)
            remove_empty(job.folder, root=job.root)
        except Exception as error:  # noqa: BLE001 - the rows are in the table: the task has done what it was asked for
            self.log.warning("The staging folder %s could not be removed (%s).", job.folder, type(error).__name__)
