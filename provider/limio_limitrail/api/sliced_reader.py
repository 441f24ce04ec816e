# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Walk through a window of time slice by slice: one slice after another, or several at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Protocol

from limio_limitrail.api.client import ApiClient
from limio_limitrail.api.errors import CursorRefusedError, RequestContext
from limio_limitrail.api.list_reader import Walk
from limio_limitrail.api.page import Page
from limio_limitrail.api.pagination import Cursor
from limio_limitrail.api.resource import Resource
from limio_limitrail.api.retry import RetryLimits
from limio_limitrail.api.slice_cursors import NoPlaceError, Place, Places, read_places
from limio_limitrail.api.time_slices import Slice
from limio_limitrail.concurrency.interleave import Ending, interleave


class MakeWalk(Protocol):
    """Makes the walk through one slice."""

    def __call__(
        self,
        *,
        since: datetime,
        until: datetime,
        page_size: int,
        cursor: Cursor | None,
        seen: int,
        total: int | None,
        limits: RetryLimits | None,
        sleep: Callable[[float], None] | None,
    ) -> Walk: ...


@dataclass(kw_only=True)
class SlicedListReader:
    """One walk through a resource, in slices of time. It gives each slice's pages in order.

    Its cursors name the slices that are left, and the place in those that pages have come of. It goes on from any of them,
    however many slices it or its forerunner walks through at once. A slice's last page comes after the slice's own walk has
    ended well, so that what it announced has been checked.

    :param client: sends the requests.
    :param resource: what to walk through.
    :param path: the resource's path, filled in.
    :param since: where the window begins.
    :param until: where it ends.
    :param window: how long a slice is.
    :param page_size: records to ask for a page; it may be halved on the way, and stays so for slices that begin later.
    :param make_walk: makes the walk through one slice.
    :param cursor: where to go on; the first slice where it is left out.
    :param parallel: how many slices are walked through at once, each in a thread of its own where it is more than one.
    """

    client: ApiClient
    resource: Resource
    path: str
    since: datetime
    until: datetime
    window: timedelta
    page_size: int
    make_walk: MakeWalk
    cursor: Cursor | None = None
    parallel: int = 1
    total: int | None = field(default=None, init=False)
    """None: what an API announces is about one slice."""
    server_time: datetime | None = field(default=None, init=False)
    """When the API began to answer, by its own clock."""
    _keeps_place: bool = field(default=False, init=False, repr=False)
    _cursors_change: bool = field(default=False, init=False, repr=False)
    _noting: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def keeps_place(self) -> bool:
        """True as soon as it is known that the API keeps the place in a slice itself."""
        return self._keeps_place or self.resource.paging.cursor_repeats or not self.resource.paging.resumable

    def pages(self) -> Iterator[Page]:
        """Give the pages as they come. `Page.ends_slice` tells where a slice ends and none is left in its middle.

        :raises CursorRefusedError: a cursor was refused, or records went missing on the way and a new walk may find them.
        :raises ApiError: a request failed, or an answer breaks the contract.
        """
        places = self._places()
        resumed = bool(places.inside)
        for number, step in enumerate(self._steps(places), start=1):
            places = places.after(step.since, step.place)
            yield replace(
                step.page,
                following=places.cursor(),
                number=number,
                ends_slice=self._ends_part(step, places),
                resumable=not places.inside or (not self.keeps_place and (resumed or self._cursors_change)),
            )

    def _steps(self, places: Places) -> Iterator[_Step]:
        if self.parallel == 1:
            return chain.from_iterable(self._through(piece, place, limits=None, sleep=None) for piece, place in places.left())
        ending = Ending()
        # They share what the API grants, so that each is refused that much more often.
        limits = replace(self.client.limits, rate_limit_attempts=self.client.limits.rate_limit_attempts * self.parallel)
        rows = (self._through(piece, place, limits=limits, sleep=ending.sleep) for piece, place in places.left())
        return interleave(rows, threads=self.parallel, ending=ending)

    def _through(
        self, piece: Slice, place: Place, *, limits: RetryLimits | None, sleep: Callable[[float], None] | None
    ) -> Iterator[_Step]:
        """Walk through one slice."""
        walk = self.make_walk(
            since=piece.since,
            until=piece.until,
            page_size=self.page_size,
            cursor=place.page,
            seen=place.seen,
            total=place.total,
            limits=limits,
            sleep=sleep,
        )
        pages = walk.pages()
        try:
            for page in pages:
                if page.following is None:
                    next(pages, None)  # lets the walk compare what came with what was announced
                self._note(walk)
                after = None if page.following is None else Place(page=page.following, seen=walk.seen, total=walk.total)
                yield _Step(since=piece.since, page=page, place=after)
        finally:
            self._note(walk)

    def _note(self, walk: Walk) -> None:
        with self._noting:
            self._keeps_place = self._keeps_place or walk.keeps_place
            self._cursors_change = self._cursors_change or walk.cursors_change
            self.page_size = min(self.page_size, walk.page_size)
            times = [time for time in (self.server_time, walk.server_time) if time is not None]
            self.server_time = min(times, default=None)

    def _ends_part(self, step: _Step, places: Places) -> bool:
        """Tell whether a page ends a slice, and with it a stretch of the list that is worth a part of its own.

        Side by side, small slices end faster than parts can be written; there it takes a place that the API keeps itself, which
        leads on only where no slice is in its middle.
        """
        if step.place is not None:
            return False
        return self.parallel == 1 or (self.keeps_place and not places.inside)

    def _places(self) -> Places:
        try:
            return read_places(self.cursor, since=self.since, until=self.until, window=self.window)
        except NoPlaceError:
            call = RequestContext(api=self.client.api, method="GET", path=self.path, resource=self.resource.name)
            reason = "the place to go on from lies in no slice of this window"
            raise CursorRefusedError(replace(call, reason=reason)) from None


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A page of a slice.

    :param since: where the slice begins.
    :param place: where it goes on in the slice; none at its end.
    """

    since: datetime
    page: Page
    place: Place | None
