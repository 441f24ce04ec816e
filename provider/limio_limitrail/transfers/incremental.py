# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Incremental pulls: their time range, their watermark, and what resets it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from limio_limitrail.api.errors import ParameterError

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.hooks.time_range import Incremental, RunTimes, TimeRange
    from limio_limitrail.landing.manifest import Manifest
    from limio_limitrail.landing.sql.table_checks import Loss
    from limio_limitrail.transfers.base import PullPlan
    from limio_limitrail.transfers.folders import RunIdentity
    from limio_limitrail.transfers.state import AssetWatermark, WatermarkState

log = logging.getLogger(__name__)

_MOMENT = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class TargetLoss:
    """What a target has lost.

    :param what: the same in words.
    :param kind: what kind of loss it is.
    :param newest: returns the newest time that each run has in it; None if the target cannot tell.
    """

    what: str
    kind: Loss
    newest: Callable[[], Mapping[str, datetime]] | None = None

    @classmethod
    def of(
        cls,
        kind: Loss,
        *,
        table: str,
        watermark: datetime,
        loaded_at: datetime | None,
        newest: Callable[[], Mapping[str, datetime]] | None = None,
    ) -> TargetLoss:
        """Put a table's loss into words."""
        since = f"the watermark of {table} is {watermark.isoformat()}"
        if kind.name == "REFILLED" and loaded_at is not None:
            since = f"the last pull into {table} began at {loaded_at.isoformat()}"
        return cls(what=f"{since}, and the table {kind}", kind=kind, newest=newest)


class IncrementalPull:
    """The time range and the watermark of a pull. Comes before `BaseOperator`; has the parameters of `ResourcePullOperator`."""

    incremental: bool
    full_refresh: bool
    overlap: timedelta
    since: datetime | None
    until: datetime | None
    slice_size: timedelta | None

    def own_rows(self) -> bool:
        """Return whether each run keeps rows or files of its own, so that another run's records would come twice."""
        return True

    def find_loss(
        self,
        resource: Resource,  # noqa: ARG002 - as it is called
        *,
        watermark: datetime,  # noqa: ARG002
        loaded_at: datetime | None,  # noqa: ARG002
    ) -> TargetLoss | None:
        """Return what the target has lost of the rows from before the watermark; None if nothing is lost.

        :param loaded_at: when the last pull began that was loaded; None if that is not known.
        """
        return None

    def has_rows_of_others(self, run: RunIdentity) -> bool:  # noqa: ARG002 - as it is called
        """Return whether other runs of the task have rows in the target, as far as that is known."""
        return False

    def has_output(self, run: RunIdentity, *, folder: ObjectStoragePath) -> bool:  # noqa: ARG002 - as it is called
        """Return whether a run has left rows or files."""
        from limio_limitrail.landing.parts import MANIFEST_NAME

        return (folder / MANIFEST_NAME).exists()

    def choose_range(
        self,
        context: Context,
        *,
        resource: Resource,
        run: RunIdentity,
        folder: ObjectStoragePath,
        watermark: AssetWatermark | None,
    ) -> TimeRange:
        """Choose the time range of this run.

        :raises ParameterError: a parameter does not fit, or the time range of an earlier execution of this run is forgotten.
        """
        from limio_limitrail.hooks.time_range import RunTimes, choose_range

        times = RunTimes.of(context)
        return choose_range(
            resource,
            run=times,
            since=self.since,
            until=self.until,
            slice_size=self.slice_size,
            incremental=self._incremental(times, run=run, folder=folder, watermark=watermark) if self.incremental else None,
            own_rows=self.own_rows(),
        )

    def _incremental(
        self, times: RunTimes, *, run: RunIdentity, folder: ObjectStoragePath, watermark: AssetWatermark | None
    ) -> Incremental:
        from limio_limitrail.hooks.time_range import Incremental
        from limio_limitrail.transfers.state import mark_of

        progress = self._progress(watermark)
        past = progress.runs.get(mark_of(str(run)))
        may_be_forgotten = progress.forgotten is not None and (times.due is None or times.due <= progress.forgotten)
        if past is None and may_be_forgotten and self.own_rows() and self.has_output(run, folder=folder):
            raise ParameterError(
                "this run was made before, and its range of time is not known any more, because too many runs came after it, or "
                "because it was made of another list or tenant: made again, it would replace what it left by less. Leave it as "
                "it is, or pull its days with a task of its own, with since= and without incremental"
            )
        return Incremental(
            overlap=self.overlap,
            stored=watermark is not None,
            watermark=progress.watermark,
            past=past,
            full_refresh=self.full_refresh,
        )

    def _progress(self, watermark: AssetWatermark | None) -> WatermarkState:
        from limio_limitrail.transfers.state import WatermarkState

        if watermark is None:
            return WatermarkState()
        try:
            return watermark.read()
        except ParameterError:
            if self.full_refresh:
                # It is reset in the end.
                return WatermarkState()
            raise

    def reset_for_other_source(
        self, context: Context, *, resource: Resource, target: str, watermark: AssetWatermark | None
    ) -> str | None:
        """Reset a watermark of another tenant, or of another list.

        It is reset before the pull, so that a retry after a load whose end was not recorded reads from the start as well.

        :param target: the table or the destination.
        :return: what differs; None if the watermark counts.
        :raises ParameterError: the pull would have to read from the start, and does not know where that is.
        """
        from limio_limitrail.hooks.time_range import RunTimes

        if watermark is None:
            return None
        try:
            differ = watermark.differences()
        except ParameterError:
            if self.full_refresh:
                # It is reset in the end.
                return None
            raise
        if not differ:
            return None
        what = f"the watermark of {target} is about another list or tenant (what differs: {', '.join(differ)})"
        time_filter = resource.time_filter
        if time_filter is not None and time_filter.required and self.since is None and not self.full_refresh:
            raise ParameterError(
                f"{what}, so the pull has to read from the start, and {resource.name!r} needs one: give since=..., or run once "
                "with full_refresh=True to go on without what was there"
            )
        due = RunTimes.of(context).due
        watermark.reset(forgotten=None if due is None else due - _MOMENT)
        log.warning(
            "%s. It is reset, and the pull reads from %s. Where the records of both must not be together, give this one a "
            "target of its own, or remove the former ones from %s.",
            what,
            "the start" if self.since is None else f"since={self.since.isoformat()}",
            target,
        )
        return what

    def reset_after_loss(self, resource: Resource, watermark: AssetWatermark | None, *, run: RunIdentity) -> str | None:
        """Reset the watermark if the target has lost rows from before it.

        It is reset before the pull, so that a retry after a load whose end was not recorded reads from the start as well. Where
        each run keeps rows of its own, it is moved back to the newest that is left: from the start, all would come twice.

        :return: what was lost; None if the watermark counts.
        :raises ParameterError: the pull would have to read from the start, and does not know where that is.
        """
        from limio_limitrail.transfers.state import WatermarkState

        if watermark is None or resource.time_filter is None or self.full_refresh:
            return None
        progress = watermark.read()
        if progress.watermark is None:
            if self.own_rows() and progress == WatermarkState() and self.has_rows_of_others(run):
                log.warning(
                    "No watermark is stored, and earlier runs of this task have rows in the table: the pull reads from %s, and "
                    "adds what it has of that list a second time. A watermark belongs to the first asset in outlets=, and to the "
                    "table, the connection and the parameters of the list: one of them may have changed.",
                    "the start" if self.since is None else "since=",
                )
            return None
        found = self.find_loss(resource, watermark=progress.watermark, loaded_at=progress.loaded_at)
        if found is None:
            watermark.settle()
            return None
        from limio_limitrail.landing.sql.table_checks import Loss

        what, is_there = found.what, found.kind not in (Loss.MISSING, Loss.CHILD_MISSING)
        if is_there and progress.reread:
            log.info(
                "%s. It was already so when the watermark was last reset, so this is taken to be intended: the pull continues "
                "from the watermark. full_refresh=True reads everything.",
                what,
            )
            return None
        if self.own_rows() and found.kind is Loss.REFILLED:
            log.warning(
                "%s. If another task has replaced the rows, nothing is missing, and from the start all would come a second time: "
                "the pull continues from the watermark. full_refresh=True reads everything.",
                what,
            )
            return None
        if self.own_rows() and found.kind is Loss.CHILD_MISSING:
            log.warning(
                "%s. From the start all rows would come a second time, so the pull continues from the watermark: rows from "
                "before have no child rows. To load these as well, load into tables of other names.",
                what,
            )
            return None
        if self.own_rows() and found.kind is Loss.OLDER and (newest := _newest_left(found, progress=progress, run=run)):
            watermark.move_back(newest)
            log.warning("%s. The watermark is moved back to the newest row that is left, %s.", what, newest.isoformat())
            return what
        if resource.time_filter.required and self.since is None:
            raise ParameterError(
                f"{what}, so the pull has to read from the start, and {resource.name!r} needs one: give since=..., or run once "
                "with full_refresh=True to go on without what was there"
            )
        watermark.reset(reread=is_there)
        log.warning("%s. The watermark is reset, and the pull reads from the start.", what)
        return what

    def move_watermark(self, plan: PullPlan, manifest: Manifest) -> datetime | None:
        """Move the watermark to where the manifest is complete, never back; return where it is then.

        A pull without newer records does not move it.
        """
        from limio_limitrail.hooks.time_range import PastRange

        if plan.watermark is None:
            return manifest.watermark
        if manifest.rows and manifest.watermark is None and plan.resource.time_filter is not None:
            log.warning(
                "%s: no time could be read from %r in any record, so the watermark stays where it is.",
                plan.resource.name,
                plan.resource.time_column,
            )
        past = PastRange(since=plan.time_range.since, until=plan.time_range.until or _end_of(manifest))
        return plan.watermark.move(manifest.watermark, run=str(plan.run), past=past, started_at=manifest.started_at)


def _newest_left(found: TargetLoss, *, progress: WatermarkState, run: RunIdentity) -> datetime | None:
    """Return the newest time of the rows that runs of the watermark have left; None if they have left none.

    :raises ParameterError: the target cannot tell.
    """
    from limio_limitrail.transfers.state import mark_of

    if found.newest is None:
        raise ParameterError(
            f"{found.what}, and from the start mode='append' would add the rows that are left a second time: find out up to when "
            "the table is complete, and run once with full_refresh=True and since= a little before that"
        )
    # Other Dags share the watermark. The task's runs are known even where their ranges are not.
    task = str(run).removesuffix(run.run_id)
    newest = found.newest().items()
    return max((time for name, time in newest if mark_of(name) in progress.runs or name.startswith(task)), default=None)


def _end_of(manifest: Manifest) -> datetime | None:
    """Return the upper bound of a run without one, for when it is repeated: just after the newest time in its records.

    Later records belong to the next run, which continues from there. A time in the future does not count.
    """
    from limio_limitrail.hooks.time_range import just_after

    if manifest.newest is None:
        return None
    return just_after(manifest.newest if manifest.newest <= datetime.now(UTC) else manifest.started_at)
