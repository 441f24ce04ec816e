# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What of time a pull asks the API for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.transfers.state import mark_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from limio_limitrail.api.resource import Resource, TimeFilter
    from limio_limitrail.transfers.state import AssetWatermark


@dataclass(frozen=True, kw_only=True)
class Window:
    """What a pull covers in time.

    :param since: the lower bound; None for everything.
    :param until: the upper bound, which does not belong to it; None where the API has none.
    :param why: where the bounds come from, for the log.
    """

    since: datetime | None
    why: str
    until: datetime | None = None

    def __str__(self) -> str:
        start = self.since.isoformat() if self.since else "the beginning"
        return f"from {start} on" if self.until is None else f"from {start} to {self.until.isoformat()}"

    def summary(self) -> dict[str, str | None]:
        """Give the bounds for a task's summary."""
        since = {"since": self.since.isoformat() if self.since else None}
        return since if self.until is None else {**since, "until": self.until.isoformat()}


def choose_window(
    *,
    resource: Resource,
    context: Context,
    incremental: bool,
    full_refresh: bool,
    since: datetime | None,
    overlap: timedelta,
    watermark: AssetWatermark | None,
    run: str,
    until: datetime | None = None,
    window: timedelta | None = None,
) -> Window:
    """Choose what of time to pull.

    An incremental pull goes on from the watermark, minus the overlap; a run that is made again begins where it began before.
    Before there is a watermark, and in a full refresh, ``since`` counts. Where Airflow has no asset state store, the start of
    the data interval stands in for the watermark. A resource that demands a start falls back to the data interval. A resource
    without a time filter is always pulled whole.

    Where the API demands an end, too, it is ``until``, else the data interval's end, else the time after which the run was due:
    never the clock, so that a retry asks for the same.

    :param since: the user's own lower bound.
    :param overlap: how far to go back behind the watermark.
    :param watermark: None where Airflow has no asset state store, or the pull is not incremental.
    :param run: which pull this is.
    :param until: the user's own upper bound.
    :param window: the longest span of one request, which needs both bounds.
    :raises ParameterError: a bound was given that the resource cannot filter by, none can be found where one is needed, or
        nothing lies between the two.
    """
    if resource.time_filter is None:
        given = {"since": since, "until": until, "window": window}
        if names := [name for name, value in given.items() if value is not None]:
            raise ParameterError(f"resource {resource.name!r} cannot be filtered by time: leave {' and '.join(names)} out")
        return Window(since=None, why="everything, because the API has no time filter for it")
    start, why = _start(
        resource.name,
        resource.time_filter,
        context=context,
        incremental=incremental,
        full_refresh=full_refresh,
        since=since,
        overlap=overlap,
        watermark=watermark,
        run=run,
    )
    end, why_end = _end(resource.name, resource.time_filter, context=context, until=until, window=window)
    if end is None:
        return Window(since=start, why=why)
    if start is not None and start >= end:
        raise ParameterError(
            f"since={start.isoformat()} ({why}) is not before until={end.isoformat()} ({why_end}): nothing lies between them. "
            "Give since= and until= that do"
        )
    return Window(since=start, until=end, why=f"{why}; {why_end}")


def _start(
    resource: str,
    time_filter: TimeFilter,
    *,
    context: Context,
    incremental: bool,
    full_refresh: bool,
    since: datetime | None,
    overlap: timedelta,
    watermark: AssetWatermark | None,
    run: str,
) -> tuple[datetime | None, str]:
    """Choose the lower bound, and say where it comes from."""
    interval = _usable_interval_start(context, time_filter)
    if incremental and not full_refresh:
        if watermark is not None:
            progress = watermark.read()
            if (mark := mark_of(run)) in progress.starts:
                return progress.starts[mark], "where this run began before"
            if (reached := progress.watermark) is not None:
                return reached - overlap, f"the watermark {reached.isoformat()} minus {overlap}"
        elif interval is not None and since is None:
            return interval - overlap, f"the data interval's start minus {overlap}"
    if since is not None:
        return since, "since="
    if not time_filter.required:
        return None, "everything, because there is no watermark yet" if incremental else "everything"
    if interval is not None:
        return interval, "the data interval's start"
    if time_filter.until is None:
        raise ParameterError(
            f"resource {resource!r} needs a start in time ({time_filter.since}), and this run has neither "
            "a watermark nor a data interval: give since=..."
        )
    found = "none" if context.get("data_interval_start") is None else "an empty one, as Airflow 3 makes them by default"
    raise ParameterError(
        f"resource {resource!r} needs a window in time ({time_filter.since} and {time_filter.until}), and this run has no "
        f"{'watermark and no ' if incremental else ''}data interval to take it from: it has {found}. "
        "Give since= (and until=) as a template, or incremental=True with since= for the first run; or make intervals: "
        "schedule=CronDataIntervalTimetable(...), or [scheduler] create_cron_data_intervals = True"
    )


def _end(
    resource: str, time_filter: TimeFilter, *, context: Context, until: datetime | None, window: timedelta | None
) -> tuple[datetime | None, str]:
    """Choose the upper bound, and say where it comes from."""
    if time_filter.until is None:
        given = {"until": until, "window": window}
        if names := [name for name, value in given.items() if value is not None]:
            raise ParameterError(f"resource {resource!r} has no upper bound in time: leave {' and '.join(names)} out")
        return None, ""
    if until is not None:
        return until, "until="
    if not time_filter.required and window is None:
        return None, ""
    if (interval_end := context.get("data_interval_end")) is not None:
        return _utc(interval_end), "the data interval's end"
    run_after = getattr(context.get("dag_run"), "run_after", None)
    if run_after is None:
        raise ParameterError(f"resource {resource!r} needs an end in time ({time_filter.until}): give until=...")
    return _utc(run_after), "the time after which the run was due"


def _usable_interval_start(context: Context, time_filter: TimeFilter) -> datetime | None:
    """Give the data interval's start. For a window with two ends an empty interval is none."""
    start, end = context.get("data_interval_start"), context.get("data_interval_end")
    if start is None or (time_filter.until is not None and (end is None or end <= start)):
        return None
    return _utc(start)


def _utc(when: datetime) -> datetime:
    return datetime.fromtimestamp(when.timestamp(), tz=UTC)
