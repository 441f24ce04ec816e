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
from limio_limitrail.parameters.declared import Parameter, ReadsParameters, not_rendered, template_fields
from limio_limitrail.transfers.incremental import RangedPull
from limio_limitrail.transfers.nested_columns import nested_paths

if TYPE_CHECKING:
    import pandas as pd
    from airflow.sdk import Context, ObjectStoragePath

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.hooks.protocol import ResourceHook
    from limio_limitrail.hooks.time_range import TimeRange
    from limio_limitrail.landing.checkpoint import PullState, StateStore
    from limio_limitrail.landing.manifest import Manifest
    from limio_limitrail.landing.nested_paths import NestedPath
    from limio_limitrail.landing.parts import PartFormat
    from limio_limitrail.observability.lineage import Place
    from limio_limitrail.parameters.declared import Templated
    from limio_limitrail.transfers.column_checks import KeyAndTime
    from limio_limitrail.transfers.folders import RunIdentity
    from limio_limitrail.transfers.list_pages import PlacedWalk
    from limio_limitrail.transfers.state import AssetWatermark

DEFAULT_OVERLAP = timedelta(minutes=5)
DEFAULT_MAX_COLUMNS = 1000


@dataclass(frozen=True, kw_only=True)
class Job:
    """One execution's choices, made from parameters, context and watermark.

    :param run: which pull this is.
    :param resource: what is pulled.
    :param window: from when on, and until when.
    :param root: the folder below which runs have their own.
    :param folder: where the parts go.
    :param store: where the pull's state goes.
    :param watermark: where the watermark goes; None where there is none to move.
    :param lost: why the watermark did not count, and was set anew; None where it counted.
    """

    run: RunIdentity
    resource: Resource
    window: TimeRange
    root: ObjectStoragePath
    folder: ObjectStoragePath
    store: StateStore
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
    :param request_params: the path's placeholders, such as ``service``, and further query parameters. (``params`` is Airflow's.)
    :param page_size: records to ask for a page; else the connection's.
    :param since: the lower bound in time, for resources that filter by it: a datetime, or an ISO 8601 text.
    :param incremental: go on from the watermark that the last successful run left in the asset state store of the first outlet
        asset (Airflow 3.3 and later), or from the start of the data interval (before). A run that is made again begins where it
        began.
    :param full_refresh: leave the watermark out of account for this run; it is moved all the same.
    :param overlap: how far an incremental pull goes back behind the watermark: a timedelta, seconds, or an ISO 8601 duration such
        as ``PT1H``.
    :param detail: fetch each record by its id, for lists that hold summaries.
    :param columns: nested values to lift into columns of their own, as column name → path, such as
        ``{"offer_path": "data.offer.path"}``.
    :param drop_columns: columns to leave out: a list, or the name of one.
    :param transform: a function that is called with each part as a pandas frame and returns the frame to land, or its import
        path. No template.
    :param max_columns: the most columns that tables and Parquet parts may get, after which the pull fails: a record's keys become
        columns, and keys that are data, such as ids, would never stop coming. JSON Lines have none and are not counted.
    :param part_rows: records after which a part is full. Memory is bounded by a part.
    """

    # Only an API whose filters have an upper bound makes parameters of these.
    until: datetime | None = None
    window: timedelta | None = None
    parallel: int = 1

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "resource": Parameter(places.resource),
        "request_params": Parameter(readers.query_values),
        "page_size": Parameter(readers.optional(readers.whole_number(least=1))),
        "since": Parameter(readers.optional(times.instant)),
        "incremental": Parameter(readers.switch),
        "full_refresh": Parameter(readers.switch),
        "overlap": Parameter(times.span()),
        "detail": Parameter(readers.switch),
        "columns": Parameter(nested_paths),
        "drop_columns": Parameter(readers.names("columns")),
        "transform": Parameter(readers.optional(places.function), templated=False),
        "part_rows": Parameter(readers.whole_number(least=1)),
        "max_columns": Parameter(readers.whole_number(least=1)),
    }
    template_fields: Sequence[str] = template_fields(parameters)
    ui_color = "#e8f4f2"

    def __init__(
        self,
        *,
        resource: Templated[str | Resource],
        request_params: Templated[Mapping[str, Any]] | None = None,
        page_size: Templated[int] | None = None,
        since: Templated[datetime] | None = None,
        incremental: Templated[bool] = False,
        full_refresh: Templated[bool] = False,
        overlap: Templated[timedelta] = DEFAULT_OVERLAP,
        detail: Templated[bool] = False,
        columns: Templated[Mapping[str, NestedPath]] | None = None,
        drop_columns: Templated[Sequence[str]] = (),
        transform: Callable[[pd.DataFrame], pd.DataFrame] | str | None = None,
        part_rows: Templated[int] = 50_000,
        max_columns: Templated[int] = DEFAULT_MAX_COLUMNS,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.resource: str | Resource = resource
        self.request_params: Mapping[str, Any] | None = request_params
        self.page_size: int | None = page_size
        self.since: datetime | None = since
        self.incremental: bool = incremental
        self.full_refresh: bool = full_refresh
        self.overlap: timedelta = overlap
        self.detail: bool = detail
        self.columns: Mapping[str, NestedPath] | None = columns
        self.drop_columns: Sequence[str] = drop_columns
        self.transform: Any = not_rendered("transform", transform)
        self.part_rows: int = part_rows
        self.max_columns: int = max_columns

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
        from limio_limitrail.api.time_slices import check_parallel
        from limio_limitrail.transfers.folders import RunIdentity, run_folder, safe_name
        from limio_limitrail.transfers.state import asset_watermark, task_state_store

        check_parallel(self.parallel, window=self.window)
        resource = self.hook.find_resource(self.resource)
        stray = sorted(set(resource.placeholders()) & set(context.get("params") or {}) - set(self.request_params or {}))
        if stray:
            self.log.warning(
                "params= is Airflow's own and does not reach the API: to set %s, use request_params=.", ", ".join(stray)
            )
        run = RunIdentity.of(context)
        watermark = None
        if self.incremental:
            params = self.request_params or None
            about = json.dumps([self.api_conn_id, resource.name, params, target], default=str, sort_keys=True)
            key = f"{safe_name(resource.name)}:{hashlib.sha256(about.encode()).hexdigest()[:16]}"
            source = list_source(resource, params=self.request_params, owner=self.hook.owner())
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
            store=task_state_store(context),
            watermark=watermark,
            lost=lost,
        )

    def pull(self, job: Job, *, part_format: PartFormat, columns: Mapping[str, NestedPath]) -> Manifest:
        """Pull into parts.

        :param columns: the nested values to lift.
        """
        from limio_limitrail.landing.pull import PartLimits, Pull, run_pull
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
            params=self.request_params,
            slice_size=self.window,
            detail=self.detail,
            part_format=part_format,
            shaping=shaping,
        )
        manifest = run_pull(
            Pull(
                resource=resource.name,
                run_id=str(job.run),
                signature=signature,
                folder=job.folder,
                part_format=part_format,
                shaping=shaping,
                since=job.window.since,
                until=job.window.until,
                kept_until=job.window.kept_until,
                store=job.store,
                walk=lambda state: self._walk(job, state),
                limits=PartLimits(rows=self.part_rows),
                checks=GivenNames(
                    api=self.hook.client.api,
                    resource=resource.name,
                    dropped=tuple(self.drop_columns),
                    nested=self.columns or {},
                    lifted=tuple(columns),
                    needed=self.needed_columns(job),
                ),
            )
        )
        if manifest.rows and manifest.newest is None and resource.time_column is not None and job.watermark is None:
            self.log.warning("%s: no time could be read from %r in any record.", resource.name, resource.time_column)
        return manifest

    def needed_columns(self, job: Job) -> KeyAndTime | None:  # noqa: ARG002 - for those that load a table
        """Give the columns that a table needs; none where there is no table."""
        return None

    def _walk(self, job: Job, state: PullState) -> PlacedWalk:
        from limio_limitrail.transfers.list_pages import PlacedWalk

        walk = self.hook.walk(
            job.resource,
            params=self.request_params,
            since=job.window.since,
            until=job.window.asked_until,
            window=self.window,
            parallel=self.parallel,
            page_size=state.page_size or self.page_size,
            cursor=state.cursor,
            seen=state.read,
            total=state.total,
        )
        return PlacedWalk(walk, detailed=self.hook.detailed if self.detail else None)

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
