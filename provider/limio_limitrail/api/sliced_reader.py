# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read a list in slices of time: one slice after another, or several at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from limio_limitrail.api.client import ApiClient
from limio_limitrail.api.errors import CursorRefusedError, RequestContext
from limio_limitrail.api.list_reader import ListReader
from limio_limitrail.api.page import Page
from limio_limitrail.api.pagination import Cursor
from limio_limitrail.api.resource import Resource
from limio_limitrail.api.time_slices import Slice, SliceCursor, SliceCursors, read_slice_cursors
from limio_limitrail.concurrency import StopSignal, interleave


@dataclass(kw_only=True)
class SlicedListReader:
    """Reads a list in slices of time: the pages of each slice in order.

    Its cursors name the slices that are left, and the position in those that have been begun. It continues from any of them,
    however many slices it or its predecessor reads at once. A slice's last page is yielded after the slice's own reader has
    checked that the slice is complete.

    :param client: sends the requests.
    :param resource: the list.
    :param path: the resource's path, filled in.
    :param since: the beginning of the time range.
    :param until: its end.
    :param slice_size: the length of a slice.
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
    """None: what an API announces is about one slice."""
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
            raise CursorRefusedError(replace(context, reason="the position to continue from is in no slice of this time range"))
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

    def _all_pages(self, left: SliceCursors) -> Iterator[_SlicePage]:
        if self.concurrency == 1:
            return chain.from_iterable(self._slice_pages(piece, position) for piece, position in left.remaining())
        stop = StopSignal()
        # They share the API's rate limit, so that each is refused that much more often.
        limits = self.client.limits
        limits = replace(limits, rate_limit_attempts=limits.rate_limit_attempts * self.concurrency)
        pages = (self._slice_pages(piece, position, limits=limits, sleep=stop.sleep) for piece, position in left.remaining())
        return interleave(pages, threads=self.concurrency, stop=stop)

    def _slice_pages(self, piece: Slice, position: SliceCursor, **retries: Any) -> Iterator[_SlicePage]:
        reader = replace(
            self.make_reader(piece.since, piece.until),
            page_size=self.page_size,
            cursor=position.page,
            records_read=position.records_read,
            total=position.total,
            **retries,
        )
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


_SlicePage = tuple[datetime, Page, SliceCursor | None]
"""The beginning of a slice, a page of it, and the position after the page; None at the end of the slice."""
