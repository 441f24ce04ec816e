# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Cut a window of time into slices, for APIs that refuse long windows or answer them slowly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.query import whole_second
from limio_limitrail.api.resource import Resource

MOST_AT_ONCE = 16
"""Slices that are fetched at the same time. Neither a rate limit nor a greatest number of connections is documented, so this is a
guess; one process could not take apart the pages of many more."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A half-open piece of a window: what lies at its end belongs to the next one.

    :param since: where it begins.
    :param until: where it ends.
    """

    since: datetime
    until: datetime


def slices(*, since: datetime, until: datetime, window: timedelta) -> Iterator[Slice]:
    """Cut a window into slices, the last of which may be shorter.

    Bounds go out in whole seconds, so that the slices are cut there, too: else two neighbours would overlap.

    :param since: where the first slice begins; rounded down to the second.
    :param until: where the last slice ends; rounded up to the second.
    :param window: how long a slice is: whole seconds, at least one.
    """
    end = whole_second(until, up=True)
    begin = whole_second(since)
    while begin < end:
        # Not a sum that is cut: it may lie after the last day that a datetime can hold.
        stop = end if end - begin <= window else begin + window
        yield Slice(since=begin, until=stop)
        begin = stop


def check_slices(
    resource: Resource,
    *,
    query_params: Mapping[str, object] | None,
    since: datetime | None,
    until: datetime | None,
    slice_size: timedelta,
) -> tuple[datetime, datetime]:
    """Return the bounds of a time range that is to be cut into slices.

    :param query_params: what a caller puts into the query of every slice.
    :param slice_size: the length of a slice.
    :raises ParameterError: the resource cannot be cut, a bound is missing or in `query_params`, or `slice_size` is not whole
        seconds.
    """
    time_filter = resource.time_filter
    if time_filter is None or time_filter.until is None:
        raise ParameterError(
            f"resource {resource.name!r} has no filter by time with two bounds, so it cannot be cut: leave slice_size out"
        )
    bounds = (time_filter.since, time_filter.until)
    if fixed := sorted(set(bounds) & {name for name, value in (query_params or {}).items() if value is not None}):
        raise ParameterError(
            f"slice_size= sets {' and '.join(bounds)} for each slice: leave {' and '.join(fixed)} out of query_params"
        )
    if since is None or until is None:
        raise ParameterError("slice_size= cuts the time between since= and until= into slices: give both")
    if slice_size < timedelta(seconds=1) or slice_size.microseconds:
        raise ParameterError(f"slice_size={slice_size} is no span of whole seconds, and the times that go out are to the second")
    return since, until


def check_concurrency(concurrency: int, *, slice_size: timedelta | None) -> None:
    """Look whether slices can be fetched at the same time.

    :param concurrency: how many of them.
    :param slice_size: the length of a slice.
    :raises ParameterError: it is no number from 1 to `MOST_AT_ONCE`, or nothing is cut into slices.
    """
    if not isinstance(concurrency, int) or isinstance(concurrency, bool) or not 1 <= concurrency <= MOST_AT_ONCE:
        raise ParameterError(f"concurrency must be a whole number from 1 to {MOST_AT_ONCE}")
    if concurrency > 1 and slice_size is None:
        raise ParameterError(
            f"concurrency={concurrency} fetches the slices of a time range at the same time, and nothing cuts it into slices: "
            "give slice_size=timedelta(...), or leave concurrency out"
        )
