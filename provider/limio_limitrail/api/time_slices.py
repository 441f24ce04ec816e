# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Slices of a time range, for APIs that refuse long ranges or answer them slowly: read one after another, or several at once.

The cursor of a list that is read slice by slice names the slice by its beginning, and the page in it. If several slices are open,
they are numbered, and `_NEXT` holds the beginning of the first slice that is not open.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.api.errors import CursorRefusedError, ParameterError
from limio_limitrail.api.pagination import Cursor
from limio_limitrail.api.query import time_text, whole_second
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.resource import Resource
from limio_limitrail.concurrency import MAX_CONCURRENCY, StopSignal, interleave
from limio_limitrail.lazy import lazy_pattern

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient
    from limio_limitrail.api.list_reader import ListReader
    from limio_limitrail.api.page import Page

_FROM = "slice.from"
_SEEN = "slice.seen"
_TOTAL = "slice.total"
_PAGE = "page."
_NEXT = "slice.next"
_NUMBERED = lazy_pattern(r"([0-9]{1,4})\.(.+)", re.DOTALL)


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """A half-open time range: what lies at its end, `until`, belongs to the next slice."""

    since: datetime
    until: datetime


def slices(*, since: datetime, until: datetime, slice_size: timedelta) -> Iterator[Slice]:
    """Cut a time range into slices of whole seconds, the last of which may be shorter.

    The API gets whole seconds, so that the range is rounded to them, outward: else two neighbours would overlap.
    """
    end = whole_second(until, up=True)
    begin = whole_second(since)
    while begin < end:
        # Not begin + slice_size, which may lie after the last day that a datetime can hold.
        stop = end if end - begin <= slice_size else begin + slice_size
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

    :raises ParameterError: the resource cannot be cut, a bound is missing or in the query, or a slice is not whole seconds.
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
    """Raise `ParameterError` if so many slices cannot be fetched at the same time, or if nothing is cut into slices."""
    if not isinstance(concurrency, int) or isinstance(concurrency, bool) or not 1 <= concurrency <= MAX_CONCURRENCY:
        raise ParameterError(f"concurrency must be a whole number from 1 to {MAX_CONCURRENCY}")
    if concurrency > 1 and slice_size is None:
        raise ParameterError(
            f"concurrency={concurrency} fetches the slices of a time range at the same time, and nothing cuts it into slices: "
            "give slice_size=timedelta(...), or leave concurrency out"
        )


class SliceCursor(msgspec.Struct, frozen=True, kw_only=True):
    """A position in a slice: the next page's cursor, None at the beginning; the records before it; and the reported total."""

    page: Cursor | None = None
    records_read: int = 0
    total: int | None = None


BEGINNING = SliceCursor()


class SliceCursors(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a time range.

    :param end: the end of the range, to the second.
    :param slice_size: the length of a slice.
    :param rest: the beginning of the slices of which no page has come; None where there are no more of them.
    :param open: the slices before these that have not ended, by their beginning, in order.
    """

    end: datetime
    slice_size: timedelta
    rest: datetime | None
    open: Mapping[datetime, SliceCursor] = msgspec.field(default_factory=dict)

    def remaining(self) -> Iterator[tuple[Slice, SliceCursor]]:
        """Yield the slices that are left, in order, with the position in each."""
        for since, position in self.open.items():
            yield self._slice(since), position
        if self.rest is not None:
            for piece in slices(since=self.rest, until=self.end, slice_size=self.slice_size):
                yield piece, BEGINNING

    def after(self, since: datetime, position: SliceCursor | None) -> SliceCursors:
        """Return what is left after a page of the slice that begins at `since`; a `position` of None is its end."""
        opened, rest = dict(self.open), self.rest
        while rest is not None and rest <= since:
            opened[rest] = BEGINNING
            rest = self._after(rest)
        if position is None:
            del opened[since]
        else:
            opened[since] = position
        return msgspec.structs.replace(self, rest=rest, open=opened)

    @property
    def begun(self) -> tuple[SliceCursor, ...]:
        """The positions in slices that have been read in part."""
        return tuple(position for position in self.open.values() if position.page is not None)

    def cursor(self) -> Cursor | None:
        """Return the cursor that `read_slice_cursors` reads; None where nothing is left."""
        written = [_written(since, position) for since, position in self.open.items()]
        if not written:
            return None if self.rest is None else {_FROM: time_text(self.rest)}
        if len(written) == 1 and self.rest == self._after(next(iter(self.open))):
            return written[0]
        rest = {} if self.rest is None else {_NEXT: time_text(self.rest)}
        return rest | {f"{number}.{name}": value for number, one in enumerate(written) for name, value in one.items()}

    def _slice(self, since: datetime) -> Slice:
        return next(slices(since=since, until=self.end, slice_size=self.slice_size))

    def _after(self, since: datetime) -> datetime | None:
        stop = self._slice(since).until
        return stop if stop < self.end else None


def read_slice_cursors(cursor: Cursor | None, *, since: datetime, until: datetime, slice_size: timedelta) -> SliceCursors | None:
    """Return what is left of a time range at a cursor, None being its beginning; None for a cursor that is not of this range."""
    begin = whole_second(since)
    whole = SliceCursors(end=whole_second(until, up=True), slice_size=slice_size, rest=begin)
    if cursor is None:
        return whole
    try:
        rest, opened = _read(cursor)
    except (KeyError, ValueError, OverflowError):
        return None
    starts = [*opened, *([] if rest is None else [rest])]
    if not starts or starts[0] < begin or starts[-1] >= whole.end or any(b - a < slice_size for a, b in pairwise(starts)):
        return None
    if _FROM not in cursor:
        return msgspec.structs.replace(whole, rest=rest, open=opened)
    [(start, position)] = opened.items()
    at_start = msgspec.structs.replace(whole, rest=start)
    return at_start if position == BEGINNING else at_start.after(start, position)


def _written(since: datetime, position: SliceCursor) -> dict[str, str]:
    written = {_FROM: time_text(since)}
    if position.page is None:
        return written
    written[_SEEN] = str(position.records_read)
    if position.total is not None:
        written[_TOTAL] = str(position.total)
    return written | {f"{_PAGE}{name}": value for name, value in position.page.items()}


def _read(cursor: Cursor) -> tuple[datetime | None, dict[datetime, SliceCursor]]:
    if _FROM in cursor:
        return None, dict([_position(cursor)])
    written: dict[int, dict[str, str]] = {}
    for name, value in cursor.items():
        if (found := _NUMBERED.fullmatch(name)) is not None:
            written.setdefault(int(found[1]), {})[found[2]] = value
        elif name != _NEXT:
            raise ValueError
    opened = [_position(written[number]) for number in sorted(written)]
    if len(dict(opened)) < len(opened):
        raise ValueError
    return _time(cursor[_NEXT]) if _NEXT in cursor else None, dict(opened)


def _position(written: Mapping[str, str]) -> tuple[datetime, SliceCursor]:
    page = {name.removeprefix(_PAGE): value for name, value in written.items() if name.startswith(_PAGE)}
    if len(page) + len({_FROM, _SEEN, _TOTAL} & written.keys()) < len(written) or (len(written) > 1 and not page):
        raise ValueError
    since = _time(written[_FROM])
    if not page:
        return since, BEGINNING
    total = int(written[_TOTAL]) if _TOTAL in written else None
    return since, SliceCursor(page=page, records_read=int(written.get(_SEEN, 0)), total=total)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@dataclass(kw_only=True, eq=False, repr=False)
class SlicedListReader:
    """Reads a list in slices of time: the pages of each slice in order.

    Its cursors name the slices that are left, and the position in those that have been begun. It continues from any of them,
    however many slices it or its predecessor reads at once. A slice's last page is yielded after the slice's own reader has
    checked that the slice is complete. What is not described here is as in a `ListReader`.

    :param since: the beginning of the time range.
    :param until: its end.
    :param page_size: records a page; it may be halved on the way, and stays so for slices that begin later.
    :param make_reader: returns the reader of the slice between two times.
    :param cursor: where to continue; by default the first slice.
    :param concurrency: how many slices are read at once, each in a thread of its own if it is more than one.
    """

    client: ApiClient
    resource: Resource
    path: str
    since: datetime
    until: datetime
    slice_size: timedelta
    page_size: int
    make_reader: Callable[[datetime, datetime], ListReader]
    cursor: Cursor | None = None
    concurrency: int = 1
    total: int | None = field(default=None, init=False)
    """None: what an API reports is about one slice."""
    server_time: datetime | None = field(default=None, init=False)
    """When the API began to respond, by its own clock."""
    _is_stateful: bool = field(default=False, init=False, repr=False)
    _cursors_change: bool = field(default=False, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def server_keeps_position(self) -> bool:
        """True as soon as it is known that the API keeps the position in a slice itself."""
        return self._is_stateful or self.resource.paging.cursor_repeats or not self.resource.paging.resumable

    def pages(self) -> Iterator[Page]:
        """Yield the pages as they come. `Page.ends_slice` is True where a slice ends and no other one has been begun.

        :raises CursorRefusedError: a cursor was refused, or records went missing on the way and a new reader may find them.
        :raises ApiError: a request failed, or a response breaks the contract.
        """
        left = read_slice_cursors(self.cursor, since=self.since, until=self.until, slice_size=self.slice_size)
        if left is None:
            context = RequestContext(api=self.client.api, method="GET", path=self.path, resource=self.resource.name)
            raise CursorRefusedError(
                msgspec.structs.replace(context, reason="the position to continue from is in no slice of this time range")
            )
        resumed = bool(left.begun)
        for number, (since, page, position) in enumerate(self._all_pages(left), start=1):
            left = left.after(since, position)
            yield replace(
                page,
                next_cursor=left.cursor(),
                number=number,
                ends_slice=position is None and self._ends_part(left),
                resumable=not left.begun or (not self.server_keeps_position and (resumed or self._cursors_change)),
            )

    def _all_pages(self, left: SliceCursors) -> Iterator[tuple[datetime, Page, SliceCursor | None]]:
        """Yield the beginning of a slice, a page of it, and the position after the page; None at the end of the slice."""
        if self.concurrency == 1:
            return chain.from_iterable(self._slice_pages(piece, position) for piece, position in left.remaining())
        stop = StopSignal()
        # They share the API's rate limit, so that each is refused that much more often.
        limits = self.client.limits
        limits = msgspec.structs.replace(limits, rate_limit_attempts=limits.rate_limit_attempts * self.concurrency)
        pages = (self._slice_pages(piece, position, limits=limits, sleep=stop.sleep) for piece, position in left.remaining())
        return interleave(pages, threads=self.concurrency, stop=stop)

    def _slice_pages(
        self, piece: Slice, position: SliceCursor, **retries: Any
    ) -> Iterator[tuple[datetime, Page, SliceCursor | None]]:
        reader = replace(
            self.make_reader(piece.since, piece.until),
            page_size=self.page_size,
            cursor=position.page,
            records_read=position.records_read,
            total=position.total,
            **retries,
        )
        # Another slice may have got smaller pages after this one had begun.
        reader.check_page_size()
        pages = reader.pages()
        try:
            for page in pages:
                if page.next_cursor is None:
                    next(pages, None)  # lets the reader check whether the slice is complete
                self._note(reader)
                after = SliceCursor(page=page.next_cursor, records_read=reader.records_read, total=reader.total)
                yield piece.since, page, None if page.next_cursor is None else after
        finally:
            self._note(reader)

    def _note(self, reader: ListReader) -> None:
        with self._lock:
            self._is_stateful = self._is_stateful or reader.server_keeps_position
            self._cursors_change = self._cursors_change or reader.cursors_change
            self.page_size = min(self.page_size, reader.page_size)
            times = [time for time in (self.server_time, reader.server_time) if time is not None]
            self.server_time = min(times, default=None)

    def _ends_part(self, left: SliceCursors) -> bool:
        """Return whether the end of a slice should end a part as well.

        Small slices that are read concurrently end faster than parts can be written; there a part ends only if the API keeps the
        position itself, because such a list can be continued only where no slice has been begun.
        """
        return self.concurrency == 1 or (self.server_keeps_position and not left.begun)
