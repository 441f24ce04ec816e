# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Walk through a list page by page, on guard against lists that never end or end too soon.

Where a list stands is either in its cursor, or with the server. A server that keeps the place moves it on with each request,
whether its answer arrives or not. So such a list is never gone on with in its middle: where an answer is lost, it begins again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from limio_limitrail.api.continuation import Ended, announced_more
from limio_limitrail.api.envelope import EnvelopeReader
from limio_limitrail.api.errors import (
    ApiError,
    CursorRefusedError,
    InvalidRequestError,
    NotFoundError,
    PageTooLargeError,
    ProtocolError,
    RequestContext,
    ServerError,
    TransportError,
)
from limio_limitrail.api.page import Page, split
from limio_limitrail.api.pagination import Cursor
from limio_limitrail.api.redact import repeats_secret
from limio_limitrail.api.resource import Resource
from limio_limitrail.api.retry import Repeat, RetryLimits
from limio_limitrail.api.scrolls import is_scroll, opens_with_nothing
from limio_limitrail.bare_errors import raises_bare

if TYPE_CHECKING:
    from limio_limitrail.api.client import Answer, ApiClient

log = logging.getLogger(__name__)

SMALLEST_PAGE_ON_502 = 50
"""Halving stops here on a 502, which may mean anything (50 is the documented default page); on a 413 it goes down to 1."""

MOST_EMPTY_PAGES = 500
"""So many empty pages in a row, each with a new cursor, are an error: no store filters that much away."""


@dataclass(kw_only=True)
class Walk:
    """One walk through a resource.

    :param client: sends the requests.
    :param resource: what to walk through.
    :param path: the resource's path, filled in.
    :param params: the query that stays the same on every page.
    :param page_size: records to ask for a page; it is halved where the API finds a page too large, and stays so.
    :param cursor: where to go on; the first page where it is left out.
    :param seen: records that came before `cursor`, for the check of the total.
    :param total: the total that the walk began with, where it is resumed.
    :param limits: how patient each request is, instead of the client's patience.
    :param sleep: waits that many seconds between a request's tries, instead of the client's own way to wait.
    """

    client: ApiClient
    resource: Resource
    path: str
    params: Mapping[str, str]
    page_size: int
    cursor: Cursor | None = None
    seen: int = 0
    total: int | None = None
    limits: RetryLimits | None = None
    sleep: Callable[[float], None] | None = None
    server_time: datetime | None = field(default=None, init=False)
    """When the API began to answer, by its own clock."""
    keeps_place: bool = field(default=False, init=False)
    """True as soon as it is known that the API keeps the place in the list itself."""
    _cursors: set[int] = field(default_factory=set, init=False)
    _pages: dict[int, int] = field(default_factory=dict, init=False)
    _warned: set[str] = field(default_factory=set, init=False)
    _total_is_exact: bool = field(default=False, init=False)
    _tried_again: bool = field(default=False, init=False)
    """True where a request with a cursor may have reached the API more than once."""
    _target: str = field(default="", init=False)
    _asked: frozenset[str] = field(default=frozenset(), init=False)
    _envelope: EnvelopeReader = field(init=False)

    def __post_init__(self) -> None:
        self._envelope = EnvelopeReader(self.resource.records)
        paging = self.resource.paging
        self.keeps_place = paging.cursor_repeats or not paging.resumable

    def pages(self) -> Iterator[Page]:
        """Give the pages in order.

        :raises CursorRefusedError: a cursor was refused, a place that the API keeps is lost, or records went missing on the
            way; a new walk may get through.
        :raises ApiError: a request failed, or an answer breaks the contract.
        """
        number = empty = 0
        cursor, resumed = self.cursor, self.cursor is not None
        if cursor is not None:
            if repeats_secret(cursor):
                raise CursorRefusedError(self._call("the cursor to go on from repeats a credential, and is not sent"))
            self.keeps_place = self.keeps_place or is_scroll(cursor)
            if self.keeps_place:
                raise CursorRefusedError(
                    self._call("the API keeps the place in this list itself, so that no cursor leads back into its middle")
                )
            self._cursors.add(_mark_of(cursor))
        while True:
            number += 1
            self._asked = frozenset((cursor or {}).values()) - set(self.resource.paging.first().values())
            came = self._fetch(cursor=cursor, number=number)
            ended = not came.raw_records and self._ends(came, number=number)
            self._look_at_cursor(came, resumed=resumed)
            following = None if ended else came.following
            resumable = following is None or (not self.keeps_place and (resumed or self.cursors_change))
            page = replace(came, following=following, resumable=resumable)
            empty = 0 if page.raw_records else empty + 1
            self._guard(page, empty=empty)
            yield page
            if following is None:
                break
            cursor = following
        if cursor is not None and self._tried_again and not (resumed or self.keeps_place or self.cursors_change):
            raise CursorRefusedError(
                self._call("a page was asked for twice, and an only cursor does not tell whether the API has moved on meanwhile")
            )
        self._check_total(resumed=resumed)
        self._check_announced(came, pages=None if resumed else number)

    @property
    def cursors_change(self) -> bool:
        """True where cursors have changed from page to page.

        A first one does not tell yet: if it stays the same, it leads to where the API stands by the time it is asked again.
        """
        return len(self._cursors) > 1

    def _fetch(self, *, cursor: Cursor | None, number: int) -> Page:
        paging = self.resource.paging
        halved = False
        while True:
            query = dict(self.params) | dict(paging.first() if cursor is None else cursor)
            if paging.page_size_param:
                query[paging.page_size_param] = str(self.page_size)
            # A page that the API has moved on from is gone, whether it arrived or not.
            moves_on = cursor is not None and self.keeps_place
            try:
                return self._ask(query, is_first=cursor is None, once=moves_on, halved=halved, number=number)
            except (PageTooLargeError, ServerError, TransportError) as error:
                smaller = self._halve(error)
                if moves_on and error.failure.reached:
                    raise _lost(error) from error
                if not smaller:
                    if cursor is not None and isinstance(error, ServerError) and error.status == 502:
                        raise CursorRefusedError(error.failure) from error
                    raise
                halved = True
                self._tried_again = self._tried_again or cursor is not None
            except (InvalidRequestError, NotFoundError) as error:
                if cursor is None or error.status is None:
                    raise
                raise CursorRefusedError(error.failure) from error

    @raises_bare
    def _ask(self, query: Mapping[str, str], *, is_first: bool, once: bool, halved: bool, number: int) -> Page:
        answer = self._send(query, is_first=is_first, once=once, halved=halved)
        if self.server_time is None:
            self.server_time = _date_of(answer.headers)
        return split(
            answer,
            resource=self.resource,
            envelope=self._envelope,
            call=self._call(),
            number=number,
            warned=self._warned,
        )

    def _send(self, query: Mapping[str, str], *, is_first: bool, once: bool, halved: bool) -> Answer:
        def note(seconds: float) -> None:  # noqa: ARG001 - that it is tried again is all
            self._tried_again = self._tried_again or not is_first

        self._target = f"{self.path}?{urlencode(query)}"
        return self.client.send(
            path=self.path,
            params=query,
            resource=self.resource.name,
            scope=self.resource.scope,
            credentials=self.resource.credentials,
            # Once a 502 stayed through all tries, a smaller page is the next try: each size needs just one.
            limits=replace(self.limits or self.client.limits, bad_gateway_attempts=1) if halved else self.limits,
            repeat=Repeat.UNDONE if once else None,
            sleep=self.sleep,
            on_retry=note,
        )

    def _ends(self, page: Page, *, number: int) -> bool:
        """Tell whether an empty page ends the list although it may have a cursor: neither is documented to be the end.

        A store that filters what it has read gives empty pages in the middle of a list, each with a new cursor. A scroll ends
        with an empty page, and begins with one if it is a scan.
        """
        if page.following is None:
            return True
        if number == 1 and opens_with_nothing(page.following):
            return False
        return self.keeps_place or is_scroll(page.following) or _mark_of(page.following) in self._cursors

    def _look_at_cursor(self, page: Page, *, resumed: bool) -> None:
        """Find out from a page's cursor whether the API keeps the place: it is a scroll id, or comes again with other records."""
        if page.following is None:
            return
        mark = _mark_of(page.following)
        repeats = mark in self._cursors and bool(page.raw_records)
        self._cursors.add(mark)
        if self.keeps_place or not (repeats or is_scroll(page.following)):
            return
        self.keeps_place = True
        if resumed or (repeats and self._tried_again):
            raise CursorRefusedError(
                self._call("the API keeps the place in this list itself, and may have moved on between two requests for a page")
            )

    def _halve(self, error: ApiError) -> bool:
        """Make the pages smaller where that may help."""
        if self.resource.paging.page_size_param is None:
            return False
        smallest = 1 if isinstance(error, PageTooLargeError) else SMALLEST_PAGE_ON_502
        if not (isinstance(error, PageTooLargeError) or error.status == 502) or self.page_size // 2 < smallest:
            return False
        self.page_size //= 2
        log.warning("%s Asking for %d records a page from here on.", error, self.page_size)
        return True

    def _guard(self, page: Page, *, empty: int) -> None:
        """Note what came, and see that the list comes to an end."""
        if page.raw_records and (self._pages or page.following is not None):
            mark = hash(page.records)
            if mark in self._pages:
                raise ProtocolError(self._call(f"page {page.number} repeats page {self._pages[mark]}: the list would never end"))
            self._pages[mark] = page.number
        if empty >= MOST_EMPTY_PAGES and page.following is not None:
            raise ProtocolError(
                self._call(f"{empty} empty pages came in a row, each with a new cursor: the list would never end")
            )
        if self.total is None:
            self.total, self._total_is_exact = page.total, page.total_is_exact
        self.seen += len(page.raw_records)
        if self.total is not None and self._total_is_exact and self.seen > 2 * self.total + self.page_size and page.following:
            raise ProtocolError(
                self._call(f"{self.seen} records came where the answer announced {self.total}: it runs in circles")
            )

    def _check_total(self, *, resumed: bool) -> None:
        if self.total is None or self.seen >= self.total:
            return
        missing = self._call(
            f"the answer announced {self.total} records and {self.seen} came: {self.total - self.seen} are missing"
        )
        if resumed or self.keeps_place:
            raise CursorRefusedError(missing)
        raise ProtocolError(missing)

    def _check_announced(self, page: Page, *, pages: int | None) -> None:
        own = getattr(self.resource.paging, "cursor_member", None)
        ignored = frozenset({*self.resource.ignored_members, *([] if own is None else [own]), self.resource.total or ""})
        ended = Ended(records=self.seen, pages=pages, target=self._target, asked=self._asked, ignored=ignored)
        found = announced_more(page.meta, page.headers, ended=ended)
        if found is None:
            return
        raise ProtocolError(
            self._call(
                f"{found} announces more than the {self.seen} records that came, and this Resource does not know how to get it. "
                f"{found.advice}; or, if that is not what it means, ignored_members=({found.path!r},)"
            )
        )

    def _call(self, reason: str = "") -> RequestContext:
        return replace(
            RequestContext(api=self.client.api, method="GET", path=self.path, resource=self.resource.name), reason=reason
        )


def _lost(error: ApiError) -> CursorRefusedError:
    why = "no usable answer came, and the API keeps the place in this list itself, so that the page may be gone"
    reason = f"{error.failure.reason}; {why}" if error.failure.reason else why
    return CursorRefusedError(replace(error.failure, reason=reason))


def _mark_of(cursor: Cursor) -> int:
    return hash(tuple(sorted(cursor.items())))


def _date_of(headers: Mapping[str, str]) -> datetime | None:
    try:
        return parsedate_to_datetime(headers["Date"]).astimezone(UTC)
    except (KeyError, ValueError, TypeError, IndexError, OverflowError):
        return None
