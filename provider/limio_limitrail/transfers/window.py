# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""From when on a pull asks the API for records."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.transfers.state import mark_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from limio_limitrail.api.resource import Resource
    from limio_limitrail.transfers.state import AssetWatermark


@dataclass(frozen=True, kw_only=True)
class Window:
    """The start of a pull in time.

    :param since: the lower bound; None for everything.
    :param why: where the bound comes from, for the log.
    """

    since: datetime | None
    why: str


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
) -> Window:
    """Choose from when on to pull.

    An incremental pull goes on from the watermark, minus the overlap; a run that is made again begins where it began before.
    Before there is a watermark, and in a full refresh, ``since`` counts. Where Airflow has no asset state store, the start of
    the data interval stands in for the watermark. A resource that demands a start falls back to the data interval. A resource
    without a time filter is always pulled whole.

    :param since: the user's own lower bound.
    :param overlap: how far to go back behind the watermark.
    :param watermark: None where Airflow has no asset state store, or the pull is not incremental.
    :param run: which pull this is.
    :raises ParameterError: a start was given that the resource cannot filter by, or none can be found where one is needed.
    """
    if resource.time_filter is None:
        if since is not None:
            raise ParameterError(f"resource {resource.name!r} cannot be filtered by time: leave since out")
        return Window(since=None, why="everything, because the API has no time filter for it")
    interval_start = context.get("data_interval_start")
    if incremental and not full_refresh:
        if watermark is not None:
            progress = watermark.read()
            if (mark := mark_of(run)) in progress.starts:
                return Window(since=progress.starts[mark], why="where this run began before")
            if (reached := progress.watermark) is not None:
                return Window(since=reached - overlap, why=f"the watermark {reached.isoformat()} minus {overlap}")
        elif interval_start is not None and since is None:
            return Window(since=_utc(interval_start) - overlap, why=f"the data interval's start minus {overlap}")
    if since is not None:
        return Window(since=since, why="since=")
    if not resource.time_filter.required:
        return Window(since=None, why="everything, because there is no watermark yet" if incremental else "everything")
    if interval_start is None:
        raise ParameterError(
            f"resource {resource.name!r} needs a start in time ({resource.time_filter.since}), and this run has neither "
            "a watermark nor a data interval: give since=..."
        )
    return Window(since=_utc(interval_start), why="the data interval's start")


def parse_since(value: str | datetime | None) -> datetime | None:
    """Read the ``since`` parameter, which may come out of a template.

    :raises ParameterError: it is no time with a zone.
    """
    # A template that gives nothing gives the text "None".
    if value is None or (isinstance(value, str) and value.strip() in {"", "None"}):
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ParameterError(f"since={value!r} is no ISO 8601 time, such as 2026-01-01T00:00:00Z") from None
    if value.tzinfo is None:
        # A date alone means its midnight in UTC, the zone of everything else here.
        value = value.replace(tzinfo=UTC)
    return value.astimezone(UTC)


def parse_switch(name: str, value: bool | str) -> bool:
    """Read a switch that may come out of a template as a text.

    :raises ParameterError: it is neither true nor false.
    """
    word = str(value).strip().lower()
    if word in {"true", "1", "yes"}:
        return True
    if word in {"false", "0", "no", "none", ""}:
        return False
    raise ParameterError(f"{name}={value!r} is neither true nor false")


def _utc(when: datetime) -> datetime:
    return datetime.fromtimestamp(when.timestamp(), tz=UTC)
