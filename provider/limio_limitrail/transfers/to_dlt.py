# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pull a resource, then load it into a warehouse by one of dlt's destinations."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from limio_limitrail.airflow_errors import fail_fast_on_permanent_errors
from limio_limitrail.parameters import readers, references
from limio_limitrail.parameters.declared import Parameter, template_fields
from limio_limitrail.transfers.to_tables import ResourceToTableOperator

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath
    from dlt.common.destination import Destination

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.landing.dlt.load import DltResult
    from limio_limitrail.landing.dlt.table_state import TableState
    from limio_limitrail.landing.dlt.target import DltTarget
    from limio_limitrail.landing.manifest import Manifest
    from limio_limitrail.landing.sql import WriteMode
    from limio_limitrail.transfers.base import PullPlan
    from limio_limitrail.transfers.column_checks import NeededColumns
    from limio_limitrail.transfers.folders import RunIdentity
    from limio_limitrail.transfers.incremental import TargetLoss
    from limio_limitrail.transfers.summaries import DltSummary


class ResourceToDltOperator(ResourceToTableOperator):
    """Pull a resource into a table of a warehouse, by one of dlt's destinations. The base of the public operators.

    The pull writes parts into a staging folder, dlt loads them through a stage of the run's own, then the watermark moves. Each
    step is safe to repeat, and a retry resumes where the last try stopped. Which promises hold where is in *Load with dlt*.

    :param destination: dlt's name of the destination, such as ``duckdb`` or ``postgres``; or a function that returns a
        destination object of dlt's when the task runs, or its import path. Not a template.
    :param destination_conn_id: the warehouse's own Airflow connection; not with a function.
    :param destination_staging: the folder in an object store through which the warehouse loads, where it wants one:
        ``s3://my_connection@bucket/folder``.
    :param dataset: the dataset or schema of the table. It is created if it does not exist.
    :param table: the table in it.
    :param bucket_url: for ``filesystem`` the folder of all datasets: ``s3://my_connection@bucket/folder``, or
        ``file:///folder``.
    :param table_format: for ``filesystem`` what the files of the table are: ``parquet``, ``delta`` or ``iceberg``.
    :param catalog_conn_id: for Iceberg the connection of its catalog: of type ``sqlite``, ``postgres`` or ``iceberg``.
    """

    destination: str | Callable[[], Destination[Any, Any]]
    destination_conn_id: str | None
    destination_staging: str | None
    dataset: str
    table: str
    bucket_url: str | None
    table_format: str
    catalog_conn_id: str | None

    parameters: ClassVar[Mapping[str, Parameter]] = {
        **ResourceToTableOperator.parameters,
        "destination": Parameter(references.name_or_function, templated=False),
        "destination_conn_id": Parameter(readers.optional(readers.text("the id of a connection"))),
        "destination_staging": Parameter(readers.optional(readers.text("the URL of a folder"))),
        "dataset": Parameter(readers.text("the name of a dataset")),
        "table": Parameter(readers.text("the name of a table")),
        "bucket_url": Parameter(readers.optional(readers.text("the URL of a folder"))),
        "table_format": Parameter(readers.choice("parquet", "delta", "iceberg")),
        "catalog_conn_id": Parameter(readers.optional(readers.text("the id of a connection"))),
    }
    template_fields: Sequence[str] = template_fields(parameters)
    table_parameters = frozenset({"destination", "destination_conn_id", "dataset", "table", "bucket_url", "catalog_conn_id"})

    def execute(self, context: Context) -> DltSummary:
        """Pull and load, and return a small summary.

        :raises AirflowFailException: credentials, scope, parameters or a connection are wrong.
        :raises ApiError: the API failed in a way that a retry may get past.
        :raises FolderInUseError: another try of the run is at work.
        :raises RecordError: the records cannot be stored as they are.
        :raises ContractError: they break the contract of the table. A retry pulls them again.
        :raises LandingError: the table cannot take them.
        :raises ShrunkListError: the list lacks more rows than max_missing allows; the table is as it was before.
        """
        with fail_fast_on_permanent_errors(), ExitStack() as held:
            return self._execute(context, held)

    def _execute(self, context: Context, held: ExitStack) -> DltSummary:

        from limio_limitrail.landing.column_parts import staged_format
        from limio_limitrail.landing.sql import WriteMode
        from limio_limitrail.observability.lineage import LineageDataset
        from limio_limitrail.observability.metrics import log_group
        from limio_limitrail.transfers.folders import RunIdentity
        from limio_limitrail.transfers.summaries import DltSummary, first_names

        self.read_parameters()
        mode = WriteMode(self.mode)
        # Before the pull, so that a connection that does not fit fails first.
        to = self._target(RunIdentity.of(context))
        measured = self.hook.client.measure()
        plan = self.plan(context, root=self.staging_root(), target=self._target_name)
        self._check(plan, mode, context=context)
        self._check_destination(to, mode)
        kind = to.destination.destination_type.rpartition(".")[2]
        target = LineageDataset(namespace=f"{kind}://{self.destination_conn_id or ''}", name=str(to))
        manifest = self.pull(
            plan,
            held=held,
            part_format=staged_format(plan.folder),
            columns={**plan.resource.columns, **(self.nested_columns or {})},
            target=lambda: target,
        )
        with log_group(f"load into {to}", table=str(to), rows=manifest.rows), self.asking_again(plan):
            result = self._load(plan, manifest, to=to, mode=mode)
        self.report_duplicates(plan, duplicates=result.duplicates, rows=manifest.rows)
        summary = DltSummary(
            **self.totals(plan, manifest, stats=measured()),
            destination=kind,
            table=str(to),
            duplicates=result.duplicates,
            rows_before=result.rows_before,
            rows_after=result.rows_after,
            columns_added=first_names(result.columns_added),
            columns_widened=first_names(result.columns_widened),
            columns_ignored=first_names(result.columns_ignored),
        )
        self.remove_staged(plan)
        self.publish_summary(context, summary)
        self.log.info(
            "%s: %s rows came in %d pages; %s had %s rows, and has %s; %d requests, %.1f s.",
            manifest.resource,
            f"{manifest.rows:,}",
            manifest.pages,
            to,
            f"{result.rows_before:,}",
            f"{result.rows_after:,}",
            summary["requests"],
            summary["seconds"],
        )
        return summary

    def find_loss(self, resource: Resource, *, watermark: datetime, loaded_at: datetime | None) -> TargetLoss | None:
        """Return what the table has lost of the rows from before the watermark."""
        from limio_limitrail.landing.sql.table_checks import Loss
        from limio_limitrail.transfers.incremental import TargetLoss

        if resource.time_column is None or self.mode == "replace":
            return None
        # A transform, and columns that are left out, may change which times the table has.
        whole = self.transform is None and resource.time_column not in self.drop_columns
        state = self._state("", time_column=resource.time_column if whole else None, reached=watermark, loaded_at=loaded_at)
        if not state.exists:
            found = Loss.MISSING
        elif not state.rows:
            found = Loss.EMPTY
        elif state.newest_reached is False:
            found = Loss.OLDER
        elif state.has_loaded is False:
            found = Loss.REFILLED
        else:
            return None
        return TargetLoss.of(found, table=f"{self.dataset}.{self.table}", watermark=watermark, loaded_at=loaded_at)

    def has_output(self, run: RunIdentity, *, folder: ObjectStoragePath) -> bool:  # noqa: ARG002 - as the base calls it
        """Return whether the table holds rows of a run."""
        return self._state(str(run)).has_run

    def needed_columns(self, plan: PullPlan) -> NeededColumns:
        """Return the columns that the table needs."""
        from limio_limitrail.transfers.column_checks import NeededColumns

        return NeededColumns(
            key=self.key_columns(plan.resource),
            key_given=self.primary_key is not None,
            merges=self.mode in ("merge", "history"),
            time_column=self.time_column,
        )

    @property
    def _target_name(self) -> str:
        destination = self.destination if isinstance(self.destination, str) else getattr(self.destination, "__qualname__", "")
        folder = "" if self.bucket_url is None else f"/{self.bucket_url}"
        return f"{destination}/{self.destination_conn_id}{folder}/{self.dataset}/{self.table}"

    def _target(self, run: RunIdentity | None) -> DltTarget:
        """Return the warehouse's table, with its credentials.

        :raises ParameterError: dlt is not installed, or the destination or its connection does not fit.
        """
        from limio_limitrail.api.errors import ParameterError
        from limio_limitrail.bare_errors import raises_bare
        from limio_limitrail.hooks.destinations.find import find_destination, find_staging
        from limio_limitrail.landing.dlt.target import DltTarget
        from limio_limitrail.transfers.folders import default_staging

        try:
            import dlt  # noqa: F401
        except ImportError:
            raise ParameterError(
                'dlt is not installed: install the extra, as in pip install "airflow-provider-limio-limitrail[dlt]", and what '
                'dlt needs for the warehouse, as in "dlt[snowflake]"'
            ) from None
        given = self.destination
        staging = None
        if isinstance(given, str) and "." not in given:
            staging = None if self.destination_staging is None else find_staging(self.destination_staging)
            destination = find_destination(given, conn_id=self.destination_conn_id, url=self.bucket_url, staging=staging)
        else:
            if self.destination_conn_id is not None or self.destination_staging is not None or self.bucket_url is not None:
                raise ParameterError(
                    "destination_conn_id, destination_staging and bucket_url are for a destination that is given by its name: "
                    "leave them out"
                )
            made = references.import_function("destination", given) if isinstance(given, str) else given
            destination = raises_bare(made)()
            if not hasattr(destination, "client_class"):
                raise ParameterError(
                    f"destination={given!r} returned a {type(destination).__name__}, which is no destination of dlt's"
                )
        is_files = destination.destination_type.rpartition(".")[2] == "filesystem"
        about = json.dumps([str(run), self.dataset, self.table, None if run is not None else uuid.uuid4().hex])
        folder = Path(default_staging()) / f"dlt-{hashlib.sha256(about.encode()).hexdigest()[:16]}"
        return DltTarget(
            destination=destination,
            staging=staging,
            dataset=self.dataset,
            table=self.table,
            folder=folder,
            table_format=self.table_format if is_files else None,
            catalog=self._catalog(is_files=is_files),
        )

    def _catalog(self, *, is_files: bool) -> Mapping[str, Any] | None:
        from limio_limitrail.api.errors import ParameterError
        from limio_limitrail.hooks.destinations.catalogs import find_catalog

        if self.table_format != "parquet" and not is_files:
            raise ParameterError(f"table_format={self.table_format!r} is for destination='filesystem': leave it out")
        if (self.table_format == "iceberg") is not (self.catalog_conn_id is not None):
            raise ParameterError(
                "table_format='iceberg' and catalog_conn_id go together: the catalog keeps which files are the table's, and "
                "lets no two loads write it at once"
            )
        return None if self.catalog_conn_id is None else find_catalog(self.catalog_conn_id)

    def _state(
        self,
        run: str,
        *,
        time_column: str | None = None,
        reached: datetime | None = None,
        loaded_at: datetime | None = None,
    ) -> TableState:
        from limio_limitrail.landing.dlt.files.load import files_state
        from limio_limitrail.landing.dlt.table_state import table_state

        to = self._target(None)
        look = table_state if to.table_format is None else files_state
        return look(to, run_id=run, time_column=time_column, reached=reached, loaded_at=loaded_at)

    def _check(self, plan: PullPlan, mode: WriteMode, *, context: Context) -> None:
        """Check before the pull that mode, resource and masks fit."""
        from limio_limitrail.api.errors import ParameterError

        self.check_mode(plan, mode, context=context)
        key = self.key_columns(plan.resource)
        nested = {**plan.resource.columns, **(self.nested_columns or {})}
        if plan.masks is not None and mode.needs_key and (hashed := plan.masks.hashed(key, nested=nested)):
            raise ParameterError(
                f"mask hashes {hashed[0]!r}, which belongs to the primary key: with dlt nothing keeps which secret the keys of a "
                "table were made with, so that with another one each row would come a second time. Use mode='append' or "
                "'replace', or LimioToSqlOperator or LimitRailToSqlOperator"
            )

    def _check_destination(self, to: DltTarget, mode: WriteMode) -> None:
        """Check before the pull that the warehouse can do what the mode promises."""
        from limio_limitrail.api.errors import ParameterError
        from limio_limitrail.landing.dlt.files.load import check_files
        from limio_limitrail.landing.dlt.table_state import check_target
        from limio_limitrail.landing.sql.model import LandingError

        check = check_target if to.table_format is None else check_files
        try:
            check(to, mode=mode)
        except LandingError as unfit:
            raise ParameterError(f"destination: {unfit.what}") from None

    def _load(self, plan: PullPlan, manifest: Manifest, *, to: DltTarget, mode: WriteMode) -> DltResult:
        from limio_limitrail.landing.column_parts import ColumnPart
        from limio_limitrail.landing.dlt.files.load import load_files
        from limio_limitrail.landing.dlt.load import load
        from limio_limitrail.landing.sql import Target
        from limio_limitrail.transfers.missing import is_full_scan, pull_scope, shrink_guard

        time_column = self.time_column or plan.resource.time_column
        write = load if to.table_format is None else load_files
        return write(
            to=to,
            target=Target(
                table=str(to),
                mode=mode,
                primary_key=self.key_columns(plan.resource),
                time_column=None if time_column in self.drop_columns else time_column,
                run_id=str(plan.run),
                extracted_at=manifest.started_at,
                full_scan=is_full_scan(plan, query_params=self.query_params),
                scope=pull_scope(plan, hook=self.hook, path_params=self.path_params),
                max_missing=shrink_guard(self.max_missing),
            ),
            schema=manifest.schema,
            parts=[ColumnPart(folder=plan.folder, part=part) for part in manifest.parts],
            contract=self.contract(),
        )
