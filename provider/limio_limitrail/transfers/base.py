# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What all pulls share, whichever API they pull from and wherever they land."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from limio_limitrail.api.redact import safe_text
from limio_limitrail.observability.lineage_mixin import LineageMixin
from limio_limitrail.parameters import places, readers, times
from limio_limitrail.parameters.declared import Parameter, ReadsParameters, template_fields
from limio_limitrail.transfers.incremental import RangedPull
from limio_limitrail.transfers.nested_columns import nested_paths

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath

    from limio_limitrail.api.list_reader import Walk
    from limio_limitrail.api.resource import Resource
    from limio_limitrail.api.sliced_reader import SlicedListReader
    from limio_limitrail.hooks.protocol import ResourceHook
    from limio_limitrail.hooks.time_range import TimeRange
    from limio_limitrail.landing.checkpoint import CheckpointStore, PullCheckpoint
    from limio_limitrail.landing.manifest import Manifest
    from limio_limitrail.landing.nested_paths import NestedPath
    from limio_limitrail.landing.parts import PartFormat
    from limio_limitrail.observability.lineage import Place
    from limio_limitrail.transfers.column_checks import KeyAndTime
    from limio_limitrail.transfers.folders import RunIdentity
    from limio_limitrail.transfers.state import AssetWatermark

DEFAULT_OVERLAP = timedelta(minutes=5)
DEFAULT_MAX_COLUMNS = 1000
DEFAULT_PART_ROWS = 50_000


@dataclass(frozen=True, kw_only=True)
class Job:
    """One execution's choices, made from parameters, context and watermark.

    :param run: which pull this is.
    :param resource: what is pulled.
    :param window: from when on, and until when.
    :param root: the folder below which runs have their own.
    :param folder: where the parts go.
    :param store: where the pull's checkpoint goes.
    :param watermark: where the watermark goes; None where there is none to move.
    :param lost: why the watermark did not count, and was set anew; None where it counted.
    """

    run: RunIdentity
    resource: Resource
    window: TimeRange
    root: ObjectStoragePath
    folder: ObjectStoragePath
    store: CheckpointStore
    watermark: AssetWatermark | None
    lost: str | None = None

    @property
    def reason(self) -> str:
        """Where the range of time comes from, for a task's summary."""
        return self.window.reason if self.lost is None else f"{self.lost}: {self.window.reason}"


class ResourcePullOperator(RangedPull, ReadsParameters, LineageMixin, BaseOperator):
    """Pull a resource into part files. The base of the operators that people use.

    All parameters but ``transform`` are templates, and may be XComArgs. They are read and checked when the task runs, before the
    first request: a text that a template gives counts as the number, the list or the time that it is.

    :param resource: a name of the API's table of resources, or a `Resource` of your own.
    :param path_params: values for the placeholders of the resource's path, such as ``service``. (``params`` is Airflow's.)
    :param query_params: further query parameters.
    :param page_size: records to ask for a page; else the connection's.
    :param since: the lower bound in time, for resources that filter by it: a datetime, or an ISO 8601 text.
    :param incremental: go on from the watermark that the last successful run left in the asset state store of the first outlet
        asset (Airflow 3.3 and later), or from the start of the data interval (before). A run that is made again begins where it
        began.
    :param full_refresh: leave the watermark out of account for this run; it is moved all the same.
    :param overlap: how far an incremental pull goes back behind the watermark: a timedelta, seconds, or an ISO 8601 duration such
        as ``PT1H``.
    :param detail: fetch each record by its id, for lists that hold summaries.
    :param nested_columns: nested values to lift into columns of their own, as column name → path, such as
        ``{"offer_path": "data.offer.path"}``.
    :param drop_columns: columns to leave out: a list, or the name of one.
    :param transform: a function that is called with each part as a pandas frame and returns the frame to land, or its import
        path. No template.
    :param max_columns: the most columns that tables and Parquet parts may get, after which the pull fails: a record's keys become
        columns, and keys that are data, such as ids, would never stop coming. JSON Lines have none and are not counted.
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
    transform: Any
    part_rows: int
    max_columns: int
    # Only an API whose filters have an upper bound makes parameters of these.
    until: datetime | None = None
    slice_size: timedelta | None = None
    concurrency: int = 1

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "resource": Parameter(places.resource),
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
        "transform": Parameter(readers.optional(places.function), templated=False),
        "part_rows": Parameter(readers.whole_number(least=1)),
        "max_columns": Parameter(readers.whole_number(least=1)),
    }
    template_fields: Sequence[str] = template_fields(parameters)
    ui_color = "#e8f4f2"

    @property
    @abstractmethod
    def hook(self) -> ResourceHook:
        """The hook of the API's connection."""

    @property
    @abstractmethod
    def api_conn_id(self) -> str:
        """The id of that connection."""

    def page_url(self) -> str:
        """Give the URL of the page that shows the list."""
        what = self.resource if isinstance(self.resource, str) else self.resource.name
        return self.hook.page_url(what, resource=what)

    def plan(self, context: Context, *, root: ObjectStoragePath, target: str) -> Job:
        """Decide what this execution pulls, of what time, and where to.

        :param root: the folder below which the run gets its own.
        :param target: what the watermark is about besides the resource: a table, or a destination.
        :raises ParameterError: a parameter does not fit.
        """
        from limio_limitrail.api.list_identity import list_source
        from limio_limitrail.api.time_slices import check_concurrency
        from limio_limitrail.landing.checkpoint import CheckpointStore
        from limio_limitrail.transfers.folders import RunIdentity, run_folder, safe_name
        from limio_limitrail.transfers.state import asset_watermark

        check_concurrency(self.concurrency, slice_size=self.slice_size)
        resource = self.hook.find_resource(self.resource)
        stray = sorted(set(resource.placeholders()) & set(context.get("params") or {}) - set(self.path_params or {}))
        if stray:
            self.log.warning(
                "params= is Airflow's own and does not reach the API: to set %s, use path_params=.", ", ".join(stray)
            )
        run = RunIdentity.of(context)
        watermark = None
        if self.incremental:
            params = {**(self.path_params or {}), **(self.query_params or {})} or None
            about = json.dumps([self.api_conn_id, resource.name, params, target], default=str, sort_keys=True)
            key = f"{safe_name(resource.name)}:{hashlib.sha256(about.encode()).hexdigest()[:16]}"
            source = list_source(resource, path_params=self.path_params, owner=self.hook.owner())
            watermark = asset_watermark(context, outlets=self.outlets, target=key, source=source)
        folder = run_folder(root, resource=resource.name, run=run)
        lost = self.notice_other_source(context, resource=resource, target=target, watermark=watermark) or self.notice_loss(
            resource, watermark
        )
        chosen = self.choose_range(context, resource=resource, run=run, folder=folder, watermark=watermark)
        self.log.info("%s: pulling %s (%s).", resource.name, chosen, chosen.reason)
        if chosen.warning is not None:
            self.log.warning("%s: %s.", resource.name, chosen.warning)
        return Job(
            run=run,
            resource=resource,
            window=chosen,
            root=root,
            folder=folder,
            store=CheckpointStore(context.get("task_state_store")),
            watermark=watermark,
            lost=lost,
        )

    def pull(self, job: Job, *, part_format: PartFormat, columns: Mapping[str, NestedPath]) -> Manifest:
        """Pull into parts.

        :param columns: the nested values to lift.
        """
        from limio_limitrail.api.errors import CursorRefusedError
        from limio_limitrail.landing.pull import PartLimits, Pull
        from limio_limitrail.landing.shaping import Shaping
        from limio_limitrail.transfers.column_checks import GivenNames
        from limio_limitrail.transfers.folders import prepare_folder
        from limio_limitrail.transfers.pull_identity import pull_signature

        resource = job.resource
        prepare_folder(job.folder, root=job.root)
        time_path = resource.columns.get(resource.time_column, (resource.time_column,)) if resource.time_column else None
        shaping = Shaping(
            time_column=resource.time_column,
            time_path=time_path,
            timestamps=resource.timestamps,
            columns=columns,
            dropped=tuple(self.drop_columns),
            transform=self.transform,
            max_columns=self.max_columns,
        )
        signature = pull_signature(
            job,
            hook=self.hook,
            path_params=self.path_params,
            query_params=self.query_params,
            slice_size=self.slice_size,
            detail=self.detail,
            part_format=part_format,
            shaping=shaping,
        )
        pull = Pull(
            resource=resource.name,
            run_id=str(job.run),
            signature=signature,
            folder=job.folder,
            part_format=part_format,
            shaping=shaping,
            since=job.window.since,
            until=job.window.until,
            upper_bound=job.window.kept_until,
            store=job.store,
            open_list=lambda checkpoint: self._open_list(job, checkpoint),
            restart_on=CursorRefusedError,
            limits=PartLimits(rows=self.part_rows),
            checks=GivenNames(
                api=self.hook.client.api,
                resource=resource.name,
                dropped=tuple(self.drop_columns),
                nested=self.nested_columns or {},
                lifted=tuple(columns),
                needed=self.needed_columns(job),
            ),
        )
        if self.detail:
            pull.pages = self.hook.detailed
        manifest = pull.run()
        if manifest.rows and manifest.newest is None and resource.time_column is not None and job.watermark is None:
            self.log.warning("%s: no time could be read from %r in any record.", resource.name, resource.time_column)
        return manifest

    def needed_columns(self, job: Job) -> KeyAndTime | None:  # noqa: ARG002 - for those that load a table
        """Give the columns that a table needs; none where there is no table."""
        return None

    def _open_list(self, job: Job, checkpoint: PullCheckpoint) -> Walk | SlicedListReader:
        return self.hook.walk(
            job.resource,
            path_params=self.path_params,
            query_params=self.query_params,
            since=job.window.since,
            until=job.window.asked_until,
            slice_size=self.slice_size,
            concurrency=self.concurrency,
            page_size=checkpoint.page_size or self.page_size,
            cursor=checkpoint.cursor,
            seen=checkpoint.read,
            total=checkpoint.total,
        )

    def note_pull(self, job: Job, *, target: Callable[[], Place]) -> None:
        """Note for OpenLineage what the pull is about.

        :param target: names the table or the folder.
        """
        from limio_limitrail.observability.lineage import Flow, list_place

        def flow() -> Flow:
            source = list_place(scheme=self.hook.conn_type, base_url=self.hook.base_url, resource=job.resource.name)
            return Flow(source=source, targets=(target(),))

        self.note_flow(flow)

    def note_parts(self, manifest: Manifest) -> None:
        """Note for OpenLineage what came."""
        self.note_flowed(columns={name: kind.value for name, kind in manifest.schema.items()}, rows=manifest.rows)

    def announce(self, context: Context, summary: Mapping[str, Any]) -> None:
        """Put the summary into the asset event of each outlet."""
        from limio_limitrail.hooks.outlets import announce

        announce(context, outlets=self.outlets, summary=summary)


def some_of(names: Sequence[str]) -> list[str]:
    """Give the first few of what may be hundreds of names, for a summary that stays small."""
    shown = [(safe_text(name) or "")[:60] for name in names[:8]]
    return shown if len(names) <= len(shown) else [*shown, f"and {len(names) - len(shown)} more"]
