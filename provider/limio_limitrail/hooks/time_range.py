# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The time range of a run: one rule for pulls and sensors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.query import EARLIEST, LATEST, in_utc

if TYPE_CHECKING:
    from airflow.sdk import Context

    from limio_limitrail.api.resource import Resource, TimeFilter

_SHORTEST_OVERLAP = timedelta(seconds=1)
_EMPTY = "empty, as Airflow 3 makes them by default"
_MAKE = "Make intervals: schedule=CronDataIntervalTimetable(...), or [scheduler] create_cron_data_intervals = True"


class TimeRange(msgspec.Struct, frozen=True, kw_only=True):
    """The range of time of a run.

    :param since: the lower bound; None for everything.
    :param until: the upper bound, which does not belong to the range; None where there is none.
    :param reason: where the bounds come from, for the log.
    :param cut: True if the API has no upper bound, so that later records must be left out here.
    :param warning: what may surprise the user about it.
    """

    since: datetime | None
    reason: str
    until: datetime | None = None
    cut: bool = False
    warning: str | None = None

    def __str__(self) -> str:
        start = self.since.isoformat() if self.since else "the beginning"
        return f"from {start} on" if self.until is None else f"from {start} to {self.until.isoformat()}"

    @property
    def asked_until(self) -> datetime | None:
        """The upper bound to send to the API."""
        return None if self.cut else self.until

    @property
    def kept_until(self) -> datetime | None:
        """The upper bound to apply to the records that come."""
        return self.until if self.cut else None

    def summary(self) -> dict[str, str | None]:
        """Return the bounds for a task's summary."""
        since = {"since": self.since.isoformat() if self.since else None}
        return since if self.until is None else {**since, "until": self.until.isoformat()}


class RunTimes(msgspec.Struct, frozen=True, kw_only=True):
    """The times of a run, from Airflow.

    :param start: the start of its data interval; None for manual and asset-triggered runs.
    :param due: the time after which it may run.
    :param backfill: True for a run of ``airflow backfill create``.
    """

    start: datetime | None = None
    end: datetime | None = None
    due: datetime | None = None
    backfill: bool = False

    @classmethod
    def of(cls, context: Context) -> RunTimes:
        """Read them out of a task's context."""
        run = context.get("dag_run")
        run_type = getattr(run, "run_type", None)
        return cls(
            start=_maybe_utc(context.get("data_interval_start")),
            end=_maybe_utc(context.get("data_interval_end")),
            due=_maybe_utc(getattr(run, "run_after", None)),
            backfill=getattr(run_type, "value", run_type) == "backfill",
        )

    @property
    def empty(self) -> bool:
        """True for an interval without length, as Airflow 3 makes them by default."""
        return self.start is not None and self.end is not None and self.end <= self.start

    @property
    def own_start(self) -> datetime | None:
        """The start of an interval that is not empty."""
        return None if self.empty else self.start

    @property
    def own_end(self) -> datetime | None:
        """The end of an interval that is not empty."""
        return None if self.empty else self.end


class PastRange(msgspec.Struct, frozen=True, kw_only=True):
    """The time range of an earlier execution of a run."""

    since: datetime | None
    until: datetime | None


class Incremental(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an incremental pull.

    :param overlap: how far to go back behind the watermark.
    :param stored: False where Airflow has no asset state store (before 3.3).
    :param watermark: up to when the target is complete; None before the first load.
    :param past: the range of this very run, where it was made before.
    :param full_refresh: True to leave the watermark out of account.
    """

    overlap: timedelta
    stored: bool = True
    watermark: datetime | None = None
    past: PastRange | None = None
    full_refresh: bool = False


def choose_range(
    resource: Resource,
    *,
    run: RunTimes,
    since: datetime | None = None,
    until: datetime | None = None,
    slice_size: timedelta | None = None,
    incremental: Incremental | None = None,
    own_rows: bool = False,
) -> TimeRange:
    """Choose the time range of a run. A retry or a repeated run has the same range: the clock does not matter.

    The lower bound of an incremental pull is, in this order: where this run began before; the start of the data interval where
    the interval ends before the watermark, as in a backfill; the watermark minus the overlap. Else it is ``since``, else the
    beginning, or the start of the data interval where the API demands a start.

    Where the API has an upper bound and demands it, it is ``until``, else the end of the data interval, else the time after
    which the run was due. Where the API has none, rows that belong to a run (``own_rows``) end where the run ended before, or
    with its interval: what came later belongs to the next run.

    :param slice_size: the longest range of one request, which needs both bounds.
    :param incremental: the state of an incremental pull; None for other pulls.
    :param own_rows: True where each run keeps rows or files of its own, so that another run's records would come twice.
    :raises ParameterError: a bound was given that the resource cannot filter by, none can be found where one is needed, or
        nothing lies between the two.
    """
    time_filter = resource.time_filter
    if time_filter is None:
        _refuse(
            {"since": since, "until": until, "slice_size": slice_size}, f"resource {resource.name!r} cannot be filtered by time"
        )
        return TimeRange(since=None, reason="everything, because the API has no time filter for it")
    if time_filter.until is None:
        _refuse({"until": until, "slice_size": slice_size}, f"resource {resource.name!r} has no upper bound in time")
    demanded = time_filter.until is not None and (time_filter.required or slice_size is not None)
    end, end_reason = _end(run=run, until=until, demanded=demanded, incremental=incremental)
    own_end = until is None and end is not None
    start, reason, warning = _start(
        resource.name,
        time_filter,
        run=run,
        since=since,
        incremental=incremental,
        own_rows=own_rows,
        end=end if own_end else None,
    )
    if end is None and demanded:
        raise ParameterError(f"resource {resource.name!r} needs an end in time ({time_filter.until}): give until=...")
    cut = False
    if end is None and own_rows:
        end, end_reason = _end_of_own_rows(run=run, start=start, incremental=incremental)
        cut = end is not None and time_filter.until is None
    if end is None:
        return TimeRange(since=start, reason=reason, warning=warning)
    if start is not None and start >= end and not cut:
        raise ParameterError(
            f"since={start.isoformat()} ({reason}) is not before until={end.isoformat()} ({end_reason}): nothing lies between "
            "them. Give since= and until= that do"
        )
    return TimeRange(since=start, until=end, cut=cut, reason=f"{reason}; {end_reason}", warning=warning)


def _refuse(given: dict[str, object], what: str) -> None:
    if names := [name for name, value in given.items() if value is not None]:
        raise ParameterError(f"{what}: leave {' and '.join(names)} out")


def _start(
    resource: str,
    time_filter: TimeFilter,
    *,
    run: RunTimes,
    since: datetime | None,
    incremental: Incremental | None,
    own_rows: bool,
    end: datetime | None,
) -> tuple[datetime | None, str, str | None]:
    """Choose the lower bound, and say where it comes from and what may surprise."""
    interval = run.own_start if time_filter.until is None or run.end is not None else None
    if incremental is not None and not incremental.full_refresh:
        if incremental.past is not None:
            return incremental.past.since, "where this run began before", None
        if incremental.watermark is not None:
            return _after_watermark(
                resource,
                time_filter,
                run=run,
                since=since,
                incremental=incremental,
                watermark=incremental.watermark,
                own_rows=own_rows,
                end=end,
            )
        if not incremental.stored and interval is not None and since is None:
            before = _back(interval, incremental.overlap, time_filter)
            return before, f"the data interval's start minus {incremental.overlap}", None
    if since is not None:
        return since, "since=", None
    if not time_filter.required:
        if incremental is None:
            return None, "everything", None
        why = "full_refresh=True" if incremental.full_refresh else "there is no watermark yet"
        return None, f"everything, because {why}", None
    if interval is not None:
        return interval, "the data interval's start", None
    if time_filter.until is None and run.start is not None:
        warning = (
            f"the data interval of this run is {_EMPTY}: only what came since then is asked for. Give since=..., or m{_MAKE[1:]}"
        )
        if incremental is None or incremental.stored:
            return run.start, "the data interval's start", warning
        before = _back(run.start, incremental.overlap, time_filter)
        return before, f"the data interval's start minus {incremental.overlap}", warning
    raise _no_start(resource, time_filter, run=run, incremental=incremental)


def _after_watermark(
    resource: str,
    time_filter: TimeFilter,
    *,
    run: RunTimes,
    since: datetime | None,
    incremental: Incremental,
    watermark: datetime,
    own_rows: bool,
    end: datetime | None,
) -> tuple[datetime | None, str, str | None]:
    """Choose the lower bound of a pull with a watermark."""
    start = _back(watermark, incremental.overlap, time_filter)
    reason = f"the watermark {watermark.isoformat()} minus {incremental.overlap}"
    if run.own_start is not None and run.own_end is not None:
        if run.own_end <= watermark:
            return run.own_start, f"the data interval's start, because it ends before the watermark {watermark.isoformat()}", None
        if run.backfill and (start is None or run.own_start < start):
            return run.own_start, f"the data interval's start, because a backfill loads it again ({reason} is later)", None
        return start, reason, None
    due = run.end or run.due
    if run.backfill and due is not None and due <= watermark:
        if own_rows or (since is None and time_filter.required):
            raise ParameterError(
                f"the data interval of this run of a backfill is {_EMPTY}, so it has no days of {resource!r} to load again "
                f"before the watermark {watermark.isoformat()}. {_MAKE}; or pull the days with a task of its own, with since= "
                "and without incremental"
            )
        reason = f"{'everything' if since is None else 'since='}, because this run of a backfill has an empty data interval"
        warning = f"each run of this backfill asks for more than its days, because its data interval is {_EMPTY}. {_MAKE}"
        return since, reason, warning
    if end is not None and start is not None and end <= start:
        overlap = max(incremental.overlap, _SHORTEST_OVERLAP)
        return (
            _back(end, overlap, time_filter),
            f"{overlap} before its end, because what came until then is loaded already: the watermark is {watermark.isoformat()}",
            None,
        )
    return start, reason, None


def _no_start(resource: str, time_filter: TimeFilter, *, run: RunTimes, incremental: Incremental | None) -> ParameterError:
    if time_filter.until is None:
        return ParameterError(
            f"resource {resource!r} needs a start in time ({time_filter.since}), and this run has neither "
            "a watermark nor a data interval: give since=..."
        )
    found = "an empty one, as Airflow 3 makes them by default" if run.empty else "none"
    return ParameterError(
        f"resource {resource!r} needs a time range ({time_filter.since} and {time_filter.until}), and this run has no "
        f"{'watermark and no ' if incremental is not None else ''}data interval to take it from: it has {found}. "
        "Give since= (and until=) as a template; or, in a pull, incremental=True with since= for the first run. "
        f"{_MAKE}"
    )


def _end(
    *, run: RunTimes, until: datetime | None, demanded: bool, incremental: Incremental | None
) -> tuple[datetime | None, str]:
    """Choose the upper bound that the API is asked for, and say where it comes from."""
    if until is not None:
        return until, "until="
    if not demanded:
        return None, ""
    if incremental is not None and incremental.past is not None and incremental.past.until is not None:
        return incremental.past.until, "where this run ended before"
    if run.end is not None:
        return run.end, "the data interval's end"
    return run.due, "the time after which the run was due"


def _end_of_own_rows(*, run: RunTimes, start: datetime | None, incremental: Incremental | None) -> tuple[datetime | None, str]:
    """Choose where a run's own rows end, where the API demands no end."""
    if incremental is not None and incremental.past is not None and incremental.past.until is not None:
        return incremental.past.until, "where this run ended before"
    if run.own_end is not None and (incremental is not None or (start is not None and start == run.own_start)):
        return run.own_end, "the data interval's end"
    return None, ""


def _back(when: datetime, span: timedelta, time_filter: TimeFilter) -> datetime | None:
    """Go back in time; beyond all times means everything, which an API that demands a start calls the year 1."""
    try:
        return when - span
    except OverflowError:
        return EARLIEST if time_filter.required else None


def shift(when: datetime, by: timedelta) -> datetime:
    """Return a time that much later, or earlier; beyond all times, the first or the last one."""
    try:
        return when + by
    except OverflowError:
        return LATEST if by > timedelta(0) else EARLIEST


def just_after(when: datetime) -> datetime:
    """Return the first time that is later: as an upper bound, which does not belong to a range, it lets the time itself in."""
    return when if when >= LATEST else when + timedelta(microseconds=1)


def _maybe_utc(when: datetime | None) -> datetime | None:
    """Return a plain datetime in UTC: Airflow's own are of a library's type."""
    if when is None:
        return None
    utc = in_utc(when)
    return datetime.combine(utc.date(), utc.time(), tzinfo=UTC)
