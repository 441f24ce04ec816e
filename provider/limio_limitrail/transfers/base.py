# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The base of all pulls: their parameters, and the pull into parts."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Unpack, cast

import msgspec
from airflow.sdk import BaseOperator

from limio_limitrail.observability.lineage import LineageMixin
from limio_limitrail.parameters import readers, references, times
from limio_limitrail.parameters.declared import Parameter, ReadsParameters, template_fields
from limio_limitrail.transfers.incremental import IncrementalPull
from limio_limitrail.transfers.masking import mask_rules
from limio_limitrail.transfers.nested_columns import nested_paths
from limio_limitrail.transfers.summaries import first_names

if TYPE_CHECKING:
    from contextlib import ExitStack

    from airflow.sdk import Context, ObjectStoragePath

    from limio_limitrail.api.list_reader import ListReader
    from limio_limitrail.api.resource import Resource
    from limio_limitrail.api.time_slices import SlicedListReader
    from limio_limitrail.hooks.base import ApiHook
    from limio_limitrail.hooks.time_range import TimeRange
    from limio_limitrail.landing.checkpoint import CheckpointStore, PullCheckpoint
    from limio_limitrail.landing.child_lists import ChildList
    from limio_limitrail.landing.manifest import Manifest
    from limio_limitrail.landing.nested_paths import NestedPath
    from limio_limitrail.landing.parts import PartFormat
    from limio_limitrail.landing.pull import EarlyLoad
    from limio_limitrail.landing.shrinking import ShrinkGuard
    from limio_limitrail.observability.lineage import LineageDataset
    from limio_limitrail.parameters.operator_arguments import OperatorArguments
    from limio_limitrail.transfers.column_checks import NeededColumns
    from limio_limitrail.transfers.folders import RunIdentity
    from limio_limitrail.transfers.masking import TaskMasks
    from limio_limitrail.transfers.state import AssetWatermark
    from limio_limitrail.transfers.summaries import PullTotals

DEFAULT_OVERLAP = timedelta(minutes=5)
DEFAULT_MAX_COLUMNS = 1000
DEFAULT_PART_ROWS = 50_000
DEFAULT_STAGED_ROWS = 20_000
"""For parts that are loaded into a table: the last of them is copied after the pull, and each is in memory as a whole."""


class PullPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What one execution pulls, decided from parameters, context and watermark.

    :param run: the identity of the run.
    :param resource: the list.
    :param time_range: its time range.
    :param root: the folder below which each run has its own.
    :param folder: the run's folder.
    :param checkpoints: the store of the pull's checkpoint.
    :param watermark: the watermark; None if the pull has none.
    :param watermark_reset: why the watermark was reset; None if it counts.
    :param masks: the masks; None if nothing is masked.
    """

    run: RunIdentity
    resource: Resource
    time_range: TimeRange
    root: ObjectStoragePath
    folder: ObjectStoragePath
    checkpoints: CheckpointStore
    watermark: AssetWatermark | None
    watermark_reset: str | None = None
    masks: TaskMasks | None = None

    @property
    def reason(self) -> str:
        """The origin of the time range, for a task's summary."""
        reason = self.time_range.reason
        return reason if self.watermark_reset is None else f"{self.watermark_reset}: {reason}"


class ResourcePullOperator(IncrementalPull, ReadsParameters, LineageMixin, BaseOperator):
    """Pull a resource into part files. The base of the public operators.

    All parameters except ``transform`` are templates, and may be XComArgs. They are read and checked when the task runs, before
    the first request: a text from a template counts as the number, the list or the time that it is.

    :param resource: a name of the API's table of resources, or a `Resource` of your own.
    :param path_params: values for the placeholders of the resource's path, such as ``service``. (``params`` is Airflow's.)
    :param query_params: further query parameters.
    :param page_size: records to ask for a page; else the connection's.
    :param since: the lower bound in time, for resources that filter by it: a datetime, or an ISO 8601 text.
    :param incremental: continue from the watermark that the last successful run left in the asset state store of the first outlet
        asset (Airflow 3.3 and later), or from the start of the data interval (before). A repeated run has the same time range.
    :param full_refresh: ignore the watermark in this run; it is moved all the same.
    :param overlap: how far before the watermark an incremental pull begins: a timedelta, seconds, or an ISO 8601 duration such
        as ``PT1H``.
    :param detail: fetch each record by its id, for lists that hold summaries.
    :param nested_columns: nested values that become columns, as column name → path, such as
        ``{"offer_path": "data.offer.path"}``.
    :param drop_columns: columns to leave out: a list, or the name of one.
    :param mask: values that are masked before anything is stored, as column or dotted path → ``hmac`` (a keyed hash, the same for
        the same value in every table), ``drop`` (left out) or ``last4`` (all but the last four characters hidden), such as
        ``{"email": "hmac", "data.address": "drop"}``. A name that no record has is an error, unless it ends with a question mark.
    :param mask_conn_id: the connection whose password is the secret of the hashes. It may be of any type.
    :param transform: a function that is called with each part as a pandas frame and returns the frame to store, or its import
        path. Not a template.
    :param max_columns: the most columns of a table or of Parquet parts; with more, the pull fails. A record's keys become
        columns, and keys that are data, such as ids, would add columns for ever. JSON Lines have no columns.
    :param part_rows: records after which a part is full. Memory is bounded by a part.
    """

    resource: str | Resource
    path_params: Mapping[str, Any] | None
    query_params: Mapping[str, Any] | None
    page_size: int | None
    since: datetime | None
    incremental: bool
    full_refresh: bool
    overlap: timedelta
    detail: bool
    nested_columns: Mapping[str, NestedPath] | None
    drop_columns: Sequence[str]
    mask: Mapping[str, str] | None
    mask_conn_id: str | None
    transform: Any
    part_rows: int
    max_columns: int
    # Only an API whose filters have an upper bound makes parameters of these.
    until: datetime | None = None
    slice_size: timedelta | None = None
    concurrency: int = 1
    # Only a load into a table makes a parameter of this. It hides BaseOperator's method of this name, which nothing calls.
    dry_run: bool = False  # type: ignore[assignment]

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "resource": Parameter(references.resource),
        "path_params": Parameter(readers.param_values),
        "query_params": Parameter(readers.param_values),
        "page_size": Parameter(readers.optional(readers.whole_number(least=1))),
        "since": Parameter(readers.optional(times.instant)),
        "incremental": Parameter(readers.switch),
        "full_refresh": Parameter(readers.switch),
        "overlap": Parameter(times.span()),
        "detail": Parameter(readers.switch),
        "nested_columns": Parameter(nested_paths),
        "drop_columns": Parameter(readers.names("columns")),
        "mask": Parameter(mask_rules),
        "mask_conn_id": Parameter(readers.optional(readers.text("the id of a connection"))),
        "transform": Parameter(readers.optional(references.function), templated=False),
        "part_rows": Parameter(readers.whole_number(least=1)),
        "max_columns": Parameter(readers.whole_number(least=1)),
    }
    template_fields: Sequence[str] = template_fields(parameters)
    ui_color = "#e8f4f2"

    def __init__(self, **kwargs: Unpack[OperatorArguments]) -> None:
        # Without an own __init__, Airflow 3.3.2 takes BaseOperator's signature for defaults of mapped tasks: inlets=None.
        super().__init__(**kwargs)

    @property
    @abstractmethod
    def hook(self) -> ApiHook:
        """The hook of the API's connection."""

    @property
    @abstractmethod
    def api_conn_id(self) -> str:
        """The id of that connection."""

    def page_url(self) -> str:
        """Return the URL of the page that shows the list."""
        name = self.resource if isinstance(self.resource, str) else self.resource.name
        return self.hook.page_url(name, resource=name)

    def plan(self, context: Context, *, root: ObjectStoragePath, target: str) -> PullPlan:
        """Decide what this execution pulls.

        :param root: the folder below which each run has its own.
        :param target: the table or destination, which has a watermark of its own.
        :raises ParameterError: a parameter does not fit.
        """
        from limio_limitrail.api.query import MASKS, list_source
        from limio_limitrail.api.time_slices import check_concurrency
        from limio_limitrail.landing.checkpoint import CheckpointStore
        from limio_limitrail.transfers.folders import RunIdentity, run_folder, safe_name
        from limio_limitrail.transfers.masking import task_masks
        from limio_limitrail.transfers.state import asset_watermark

        check_concurrency(self.concurrency, slice_size=self.slice_size)
        resource = self.hook.find_resource(self.resource)
        stray = sorted(set(resource.placeholders()) & set(context.get("params") or {}) - set(self.path_params or {}))
        if stray:
            self.log.warning(
                "params= is Airflow's own and does not reach the API: to set %s, use path_params=.", ", ".join(stray)
            )
        masks = task_masks(
            self.mask or {},
            conn_id=self.mask_conn_id,
            resource=resource.name,
            nested={**resource.columns, **(self.nested_columns or {})},
            key=self.key_columns(resource),
            time_columns=self.time_columns(resource),
        )
        run = RunIdentity.of(context)
        watermark = None
        if self.incremental:
            params = {**(self.path_params or {}), **(self.query_params or {})} or None
            about = json.dumps([self.api_conn_id, resource.name, params, target], default=str, sort_keys=True)
            key = f"{safe_name(resource.name)}:{hashlib.sha256(about.encode()).hexdigest()[:16]}"
            source = list_source(resource, path_params=self.path_params, owner=self.hook.owner())
            if masks is not None and not self.own_rows():
                # Rows that were loaded with other masks are to come again.
                source = {**source, MASKS: masks.signature()}
            watermark = asset_watermark(context, outlets=self.outlets, target=key, source=source, dry_run=self.dry_run)
        folder = run_folder(root, resource=resource.name, run=run)
        reset = self.reset_for_other_source(context, resource=resource, target=target, watermark=watermark)
        reset = reset or self.reset_after_loss(resource, watermark, run=run)
        time_range = self.choose_range(context, resource=resource, run=run, folder=folder, watermark=watermark)
        self.log.info("%s: pulling %s (%s).", resource.name, time_range, time_range.reason)
        if time_range.warning is not None:
            self.log.warning("%s: %s.", resource.name, time_range.warning)
        return PullPlan(
            run=run,
            resource=resource,
            time_range=time_range,
            root=root,
            folder=folder,
            checkpoints=CheckpointStore(context.get("task_state_store"), try_number=context["ti"].try_number),
            watermark=watermark,
            watermark_reset=reset,
            masks=masks,
        )

    def pull(
        self,
        plan: PullPlan,
        *,
        held: ExitStack,
        part_format: PartFormat,
        columns: Mapping[str, NestedPath],
        target: Callable[[], LineageDataset],
        child_lists: tuple[ChildList, ...] = (),
        child_targets: Callable[[], Mapping[str, LineageDataset]] = dict,
        previous_rows: int | None = None,
        shrink_guard: ShrinkGuard | None = None,
        early_load: EarlyLoad | None = None,
    ) -> Manifest:
        """Pull into parts.

        :param held: keeps other tries of the run out of its folder until it ends.
        :param columns: all nested columns: the resource's and the task's.
        :param target: returns the table or the folder, for OpenLineage.
        :param child_lists: the nested lists whose elements become rows of child tables.
        :param child_targets: returns these tables, for OpenLineage.
        :param previous_rows: the records of the last run of the same pull; None if that is not known.
        :param shrink_guard: how many of them may be missing; None for any number.
        :param early_load: loads finished parts while the pull goes on.
        """
        from limio_limitrail.api.errors import CursorRefusedError
        from limio_limitrail.landing.pull import Pull
        from limio_limitrail.landing.shaping import Shaping
        from limio_limitrail.observability.lineage import LineageChildTable, TaskLineage, list_dataset
        from limio_limitrail.observability.metrics import log_group
        from limio_limitrail.transfers.column_checks import ColumnNameChecks
        from limio_limitrail.transfers.folders import hold_folder
        from limio_limitrail.transfers.pull_identity import pull_signature

        resource, time_range = plan.resource, plan.time_range

        def lineage() -> TaskLineage:
            source = list_dataset(scheme=self.hook.conn_type, base_url=self.hook.base_url, resource=resource.name)
            children = {table: LineageChildTable(dataset=dataset) for table, dataset in child_targets().items()}
            return TaskLineage(source=source, targets=(target(),), child_tables=children)

        def open_list(checkpoint: PullCheckpoint) -> ListReader | SlicedListReader:
            return self.hook.open_list(
                resource,
                path_params=self.path_params,
                query_params=self.query_params,
                since=time_range.since,
                until=time_range.asked_until,
                slice_size=self.slice_size,
                concurrency=self.concurrency,
                page_size=checkpoint.page_size or self.page_size,
                cursor=checkpoint.cursor,
                records_read=checkpoint.read,
                total=checkpoint.total,
            )

        self.collect_lineage(lineage)
        held.enter_context(hold_folder(plan.folder, root=plan.root))
        shaping = Shaping(
            time_column=resource.time_column,
            time_path=resource.columns.get(resource.time_column, (resource.time_column,)) if resource.time_column else None,
            timestamps=resource.timestamps,
            nested_columns=columns,
            dropped=tuple(self.drop_columns),
            transform=self.transform,
            max_columns=self.max_columns,
            children=child_lists,
            key=self.key_columns(resource),
            record_key=resource.primary_key,
        )
        pull = Pull(
            resource=resource.name,
            run_id=str(plan.run),
            signature=pull_signature(
                plan,
                hook=self.hook,
                path_params=self.path_params,
                query_params=self.query_params,
                slice_size=self.slice_size,
                detail=self.detail,
                part_format=part_format,
                shaping=shaping,
            ),
            folder=plan.folder,
            part_format=part_format,
            shaping=shaping,
            since=time_range.since,
            until=time_range.until,
            upper_bound=time_range.kept_until,
            store=plan.checkpoints,
            open_list=open_list,
            restart_on=CursorRefusedError,
            part_rows=self.part_rows,
            previous_rows=previous_rows,
            shrink_guard=shrink_guard,
            early_load=early_load,
            checks=ColumnNameChecks(
                api=self.hook.client.api,
                resource=resource.name,
                dropped=tuple(self.drop_columns),
                nested=self.nested_columns or {},
                all_nested=tuple(columns),
                needed=self.needed_columns(plan),
            ),
            masks=plan.masks,
        )
        if self.detail:
            hides_ids = plan.masks is not None and plan.masks.masks_any("id")
            pull.pages = partial(self.hook.detailed_pages, hides_ids=hides_ids)
        with log_group(f"pull {resource.name}", resource=resource.name):
            manifest = pull.run()
        if manifest.rows and manifest.newest is None and resource.time_column is not None and plan.watermark is None:
            self.log.warning("%s: no time could be read from %r in any record.", resource.name, resource.time_column)
        self.update_lineage(columns={name: kind.value for name, kind in manifest.schema.items()}, rows=manifest.rows)
        for child in manifest.child_tables:
            kinds = {name: kind.value for name, kind in child.schema.items()}
            self.update_child_lineage(child.table, columns=kinds, rows=child.rows)
        return manifest

    def key_columns(self, resource: Resource) -> tuple[str, ...]:  # noqa: ARG002 - for those that load a table
        """Return the primary key of the table; nothing if there is no table."""
        return ()

    def time_columns(self, resource: Resource) -> tuple[str, ...]:
        """Return the columns whose times are compared."""
        return () if resource.time_column is None else (resource.time_column,)

    def needed_columns(self, plan: PullPlan) -> NeededColumns | None:  # noqa: ARG002 - for those that load a table
        """Return the columns that a table needs; None if there is no table."""
        return None

    def totals(self, plan: PullPlan, manifest: Manifest, *, stats: Mapping[str, Any]) -> PullTotals:
        """Move the watermark, because what it stands for is safe now, and return what all summaries hold.

        :param stats: counts of requests.
        """
        watermark = self.move_watermark(plan, manifest)
        totals = {
            "resource": manifest.resource,
            "rows": manifest.rows,
            "pages": manifest.pages,
            "parts": len(manifest.parts),
            "columns_not_found": first_names(manifest.not_found),
            **plan.time_range.summary(),
            "watermark": watermark.isoformat() if watermark else None,
            "reason": plan.reason,
            **stats,
        }
        return cast("PullTotals", totals)

    def publish_summary(self, context: Context, summary: Mapping[str, Any], *, partitions: Sequence[str] = ()) -> None:
        """Put the summary into the asset event of each outlet, and its numbers into metrics.

        :param partitions: partition keys, each of which becomes an event of its own.
        """
        from limio_limitrail.assets.outlet_events import add_to_outlet_events
        from limio_limitrail.observability.metrics import send_metrics

        add_to_outlet_events(context, outlets=self.outlets, summary=summary, partitions=partitions)
        send_metrics(summary, api=self.hook.conn_type, what=summary["resource"])
