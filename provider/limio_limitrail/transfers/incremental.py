# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which range of time a pull asks for, what it remembers of it, and what it does where the target has lost rows."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from limio_limitrail.api.errors import ParameterError

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.hooks.time_range import Incremental, RunTimes, TimeRange
    from limio_limitrail.landing.manifest import Manifest
    from limio_limitrail.transfers.base import Job
    from limio_limitrail.transfers.folders import RunIdentity
    from limio_limitrail.transfers.state import AssetWatermark, Progress

log = logging.getLogger(__name__)

_MOMENT = timedelta(microseconds=1)


class RangedPull:
    """What a pull does with time. Goes before `BaseOperator`; the parameters are those of `ResourcePullOperator`."""

    incremental: bool
    full_refresh: bool
    overlap: timedelta
    since: datetime | None
    until: datetime | None
    slice_size: timedelta | None

    def own_rows(self) -> bool:
        """Whether each run keeps rows or files of its own, so that another run's records would come twice."""
        return True

    def loss(self, resource: Resource, *, watermark: datetime) -> tuple[str, bool] | None:  # noqa: ARG002 - as it is called
        """Find out whether the target has lost what the watermark stands for.

        :return: what happened to it, and whether it is still there; None where nothing speaks for it.
        """
        return None

    def made_before(self, run: RunIdentity, *, folder: ObjectStoragePath) -> bool:  # noqa: ARG002 - as it is called
        """Tell whether a run has left rows or files."""
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
        """Choose the range of time of this run.

        :raises ParameterError: a parameter does not fit, or what this run asked for before has been forgotten.
        """
        from limio_limitrail.hooks.time_range import RunTimes, choose_range

        times = RunTimes.of(context)
        return choose_range(
            resource,
            run=times,
            since=self.since,
            until=self.until,
            slice_size=self.slice_size,
            incremental=self._going_on(times, run=run, folder=folder, watermark=watermark) if self.incremental else None,
            own_rows=self.own_rows(),
        )

    def _going_on(
        self, times: RunTimes, *, run: RunIdentity, folder: ObjectStoragePath, watermark: AssetWatermark | None
    ) -> Incremental:
        from limio_limitrail.hooks.time_range import Incremental
        from limio_limitrail.transfers.state import mark_of

        progress = self._progress(watermark)
        past = progress.runs.get(mark_of(str(run)))
        may_be_forgotten = progress.forgotten is not None and (times.due is None or times.due <= progress.forgotten)
        if past is None and may_be_forgotten and self.own_rows() and self.made_before(run, folder=folder):
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

    def _progress(self, watermark: AssetWatermark | None) -> Progress:
        from limio_limitrail.transfers.state import Progress

        if watermark is None:
            return Progress()
        try:
            return watermark.read()
        except ParameterError:
            if self.full_refresh:
                # It is set anew in the end.
                return Progress()
            raise

    def notice_other_source(
        self, context: Context, *, resource: Resource, target: str, watermark: AssetWatermark | None
    ) -> str | None:
        """Forget the watermark where it is about the list of another tenant, or another list, and say so.

        It is forgotten before the pull, so that a retry after a load that was not noted reads from the start as well.

        :param target: names where the records land.
        :return: what differs; None where the watermark counts.
        :raises ParameterError: the pull would have to read from the start, and does not know where that is.
        """
        from limio_limitrail.hooks.time_range import RunTimes

        if watermark is None:
            return None
        try:
            differ = watermark.differences()
        except ParameterError:
            if self.full_refresh:
                # It is set anew in the end.
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
            "%s. It is set anew, and the pull reads from %s. Where the records of both must not be together, give this one a "
            "target of its own, or remove the former ones from %s.",
            what,
            "the start" if self.since is None else f"since={self.since.isoformat()}",
            target,
        )
        return what

    def notice_loss(self, resource: Resource, watermark: AssetWatermark | None) -> str | None:
        """Forget the watermark where the target has lost what it stands for, and say so.

        It is forgotten before the pull, so that a retry after a load that was not noted reads from the start as well.

        :return: what was lost; None where the watermark counts.
        :raises ParameterError: the pull would have to read from the start, and does not know where that is.
        """
        if watermark is None or resource.time_filter is None or self.full_refresh:
            return None
        progress = watermark.read()
        if progress.watermark is None:
            return None
        found = self.loss(resource, watermark=progress.watermark)
        if found is None:
            watermark.settle()
            return None
        what, is_there = found
        if is_there and progress.reread:
            log.info(
                "%s. So it was when the watermark was set anew the last time, so this is taken to be meant: the pull goes on "
                "from the watermark. full_refresh=True reads everything.",
                what,
            )
            return None
        if resource.time_filter.required and self.since is None:
            raise ParameterError(
                f"{what}, so the pull has to read from the start, and {resource.name!r} needs one: give since=..., or run once "
                "with full_refresh=True to go on without what was there"
            )
        watermark.reset(reread=is_there)
        log.warning("%s. The watermark is set anew, and the pull reads from the start.", what)
        return what

    def move_watermark(self, job: Job, manifest: Manifest) -> datetime | None:
        """Move the watermark to what the manifest vouches for, never back; return where it stands.

        A pull without newer records leaves it where it is.
        """
        from limio_limitrail.hooks.time_range import PastRange

        if job.watermark is None:
            return manifest.watermark
        if manifest.rows and manifest.watermark is None and job.resource.time_filter is not None:
            log.warning(
                "%s: no time could be read from %r in any record, so the watermark stays where it is.",
                job.resource.name,
                job.resource.time_column,
            )
        past = PastRange(since=job.window.since, until=job.window.until or _end_of(manifest))
        return job.watermark.move(manifest.watermark, run=str(job.run), past=past, started_at=manifest.started_at)


def _end_of(manifest: Manifest) -> datetime | None:
    """Return where a run that asked for no end ends when it is made again: just after the newest time that came.

    What shows up later belongs to the next run, which goes on from there. A time in the future says nothing about that.
    """
    from limio_limitrail.hooks.time_range import just_after

    if manifest.newest is None:
        return None
    return just_after(manifest.newest if manifest.newest <= datetime.now(UTC) else manifest.started_at)
