# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Walk through a window of time slice by slice, for APIs that refuse long windows or answer them slowly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from limio_limitrail.api.client import ApiClient
from limio_limitrail.api.errors import CursorRefusedError, Failure, ParameterError
from limio_limitrail.api.page import Page
from limio_limitrail.api.pagination import Cursor
from limio_limitrail.api.query import time_text, whole_second
from limio_limitrail.api.resource import Resource
from limio_limitrail.api.walk import Walk

_START = "slice.from"
_SEEN = "slice.seen"
_TOTAL = "slice.total"
_PAGE = "page."


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A half-open piece of a window: what lies at its end belongs to the next one.

    :param since: where it begins.
    :param until: where it ends.
    """

    since: datetime
    until: datetime


class MakeWalk(Protocol):
    """Makes the walk through one slice."""

    def __call__(
        self, *, since: datetime, until: datetime, page_size: int, cursor: Cursor | None, seen: int, total: int | None
    ) -> Walk: ...


def slices(*, since: datetime, until: datetime, window: timedelta, start: datetime | None = None) -> Iterator[Slice]:
    """Cut a window into slices, the last of which may be shorter.

    Bounds go out in whole seconds, so that the slices are cut there, too: else two neighbours would overlap.

    :param since: where the first slice begins; rounded down to the second.
    :param until: where the last slice ends; rounded up to the second.
    :param window: how long a slice is: whole seconds, at least one.
    :param start: the slice to begin with, by where it begins; the first one where it is left out.
    """
    end = whole_second(until, up=True)
    begin = whole_second(since) if start is None else start
    while begin < end:
        # Not a sum that is cut: it may lie after the last day that a datetime can hold.
        stop = end if end - begin <= window else begin + window
        yield Slice(since=begin, until=stop)
        begin = stop


def check_slices(
    resource: Resource,
    *,
    params: Mapping[str, object] | None,
    since: datetime | None,
    until: datetime | None,
    window: timedelta,
) -> tuple[datetime, datetime]:
    """Give the bounds of a window that is to be cut into slices.

    :param params: what a caller puts into the query of every slice.
    :param window: how long a slice is to be.
    :raises ParameterError: the resource cannot be cut, a bound is missing or in `params`, or `window` is no whole seconds.
    """
    time_filter = resource.time_filter
    if time_filter is None or time_filter.until is None:
        raise ParameterError(
            f"resource {resource.name!r} has no filter by time with two ends, so it cannot be cut: leave window out"
        )
    bounds = (time_filter.since, time_filter.until)
    if fixed := sorted(set(bounds) & {name for name, value in (params or {}).items() if value is not None}):
        raise ParameterError(
            f"window= sets {' and '.join(bounds)} for each slice: leave {' and '.join(fixed)} out of the parameters"
        )
    if since is None or until is None:
        raise ParameterError("window= cuts the time between since= and until= into slices: give both")
    if window < timedelta(seconds=1) or window.microseconds:
        raise ParameterError(f"window={window} is no span of whole seconds, and the times that go out are to the second")
    return since, until


@dataclass(kw_only=True)
class SlicedWalk:
    """One walk through a resource, in slices of time. It gives the pages of all slices, one slice after another.

    Its cursors name the slice by where it begins, and the page in it. A slice's last page comes after the slice's own walk has
    ended well, so that what it announced has been checked.

    :param client: sends the requests.
    :param resource: what to walk through.
    :param path: the resource's path, filled in.
    :param since: where the window begins.
    :param until: where it ends.
    :param window: how long a slice is.
    :param page_size: records to ask for a page; it may be halved on the way, and stays so.
    :param make_walk: makes the walk through one slice.
    :param cursor: where to go on; the first slice where it is left out.
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
    total: int | None = field(default=None, init=False)
    """None: what an API announces is about one slice."""
    server_time: datetime | None = field(default=None, init=False)
    """When the API began to answer, by its own clock."""

    @property
    def unguarded(self) -> bool:
        """True where it goes on in the middle of a slice, and nobody would notice pages that the API skipped meanwhile."""
        cursor = self.cursor or {}
        inside = any(name.startswith(_PAGE) for name in cursor)
        return inside and not self.resource.paging.resumable and _TOTAL not in cursor

    def pages(self) -> Iterator[Page]:
        """Give the pages in order; `Page.ends_slice` tells the last one of each slice.

        :raises CursorRefusedError: a cursor was refused, or records went missing on the way and a new walk may find them.
        :raises ApiError: a request failed, or an answer breaks the contract.
        """
        number = 0
        start, inner, seen, total = self._place()
        for piece in slices(since=self.since, until=self.until, window=self.window, start=start):
            walk = self.make_walk(
                since=piece.since, until=piece.until, page_size=self.page_size, cursor=inner, seen=seen, total=total
            )
            last_slice = piece.until >= self.until
            pages = walk.pages()
            for page in pages:
                ends = page.following is None
                if ends:
                    next(pages, None)  # lets the walk compare what came with what was announced
                self.page_size = walk.page_size
                self.server_time = self.server_time or walk.server_time
                number += 1
                if page.following is not None:
                    following: Cursor | None = self._inside(piece, walk, page.following)
                else:
                    following = None if last_slice else {_START: time_text(piece.until)}
                yield replace(page, following=following, number=number, ends_slice=ends)
            inner, seen, total = None, 0, None

    def _inside(self, piece: Slice, walk: Walk, following: Cursor) -> Cursor:
        cursor = {_START: time_text(piece.since), _SEEN: str(walk.seen)}
        if walk.total is not None:
            cursor[_TOTAL] = str(walk.total)
        return cursor | {f"{_PAGE}{name}": value for name, value in following.items()}

    def _place(self) -> tuple[datetime | None, Cursor | None, int, int | None]:
        """Read the cursor: where its slice begins, the page in it, and what came of it before."""
        if self.cursor is None:
            return None, None, 0, None
        try:
            start = datetime.fromisoformat(self.cursor[_START]).astimezone(UTC)
            seen = int(self.cursor.get(_SEEN, 0))
            total = int(self.cursor[_TOTAL]) if _TOTAL in self.cursor else None
        except (KeyError, ValueError):
            raise self._lost() from None
        if not whole_second(self.since) <= start < self.until:
            raise self._lost()
        inner = {name.removeprefix(_PAGE): value for name, value in self.cursor.items() if name.startswith(_PAGE)}
        return start, inner or None, seen, total

    def _lost(self) -> CursorRefusedError:
        call = Failure(api=self.client.api, method="GET", path=self.path, resource=self.resource.name)
        return CursorRefusedError(replace(call, reason="the place to go on from lies in no slice of this window"))
