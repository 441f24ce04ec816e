# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read a list page by page, and detect lists that never end or end too soon.

The position in a list is either in its cursor, or kept by the server (a scroll), which advances with each request, whether its
response arrives or not. Such a list is never continued in its middle: if a response is lost, it is read from the beginning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlencode

import msgspec

from limio_limitrail.api.continuation import ListEnd, find_continuation
from limio_limitrail.api.errors import (
    ApiError,
    CursorRefusedError,
    InvalidRequestError,
    NotFoundError,
    PageTooLargeError,
    ProtocolError,
    ServerError,
    TransportError,
)
from limio_limitrail.api.page import EnvelopeReader, Page, parse_page
from limio_limitrail.api.pagination import Cursor, is_scan, is_scroll, page_numbers
from limio_limitrail.api.redact import repeats_secret
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.resource import Resource
from limio_limitrail.api.retry import Repeat, RetryLimits
from limio_limitrail.bare_errors import raises_bare

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient

log = logging.getLogger(__name__)

MIN_PAGE_SIZE_ON_502 = 50
"""Halving stops here on a 502, which may mean anything (50 is the documented default page); on a 413 it goes down to 1."""

MAX_EMPTY_PAGES = 500
"""More empty pages in a row, each with a new cursor, are an error: no store filters that much away."""

_NUMBERED = "the cursor seems to be a page's number, which leads elsewhere where pages have another size"
_LOST = "no usable response came, and the API keeps the position in this list itself, so that the page may be gone"


@dataclass(kw_only=True, eq=False, repr=False)
class ListReader:
    """Reads a list once.

    :param path: the resource's path, filled in.
    :param params: the query parameters that stay the same on every page.
    :param page_size: records a page; it is halved where the API finds a page too large, and stays so.
    :param cursor: where to continue; by default the first page.
    :param records_read: records that came before `cursor`, for the check of the total.
    :param total: the total that the API reported, where reading continues.
    :param limits: retry limits of each request, instead of the client's.
    :param sleep: waits that many seconds between attempts, instead of the client's own.
    """

    client: ApiClient
    resource: Resource
    path: str
    params: Mapping[str, str]
    page_size: int
    cursor: Cursor | None = None
    records_read: int = 0
    total: int | None = None
    limits: RetryLimits | None = None
    sleep: Callable[[float], None] | None = None
    server_time: datetime | None = field(default=None, init=False)
    """When the API began to respond, by its own clock."""
    server_keeps_position: bool = field(default=False, init=False)
    """True as soon as it is known that the API keeps the position in the list itself."""
    _cursor_hashes: set[int] = field(default_factory=set, init=False)
    _page_hashes: dict[int, int] = field(default_factory=dict, init=False)
    _warned: set[str] = field(default_factory=set, init=False)
    _is_total_exact: bool = field(default=False, init=False)
    _cursor_sent_again: bool = field(default=False, init=False)
    """True where a request with a cursor may have reached the API more than once."""
    _target: str = field(default="", init=False)
    _sent_cursor: frozenset[str] = field(default=frozenset(), init=False)
    _envelope: EnvelopeReader = field(init=False)

    def __post_init__(self) -> None:
        self._envelope = EnvelopeReader(self.resource.records, ignored=self.resource.ignored_members)
        paging = self.resource.paging
        self.server_keeps_position = paging.cursor_repeats or not paging.resumable

    def pages(self) -> Iterator[Page]:
        """Yield the pages in order.

        :raises CursorRefusedError: a cursor was refused, a position that the API keeps is lost, or records went missing on the
            way; a new reader may succeed.
        :raises ApiError: a request failed, or a response breaks the contract.
        """
        number = empty = 0
        cursor, resumed = self.cursor, self.cursor is not None
        if cursor is not None:
            if repeats_secret(cursor):
                self._refuse("the cursor to continue from repeats a credential, and is not sent")
            self.server_keeps_position = self.server_keeps_position or is_scroll(cursor)
            if self.server_keeps_position:
                self._refuse("the API keeps the position in this list itself, so no cursor leads back into its middle")
            self._cursor_hashes.add(_hash_of(cursor))
        while True:
            number += 1
            self._sent_cursor = frozenset((cursor or {}).values()) - set(self.resource.paging.first().values())
            received = self._fetch(cursor=cursor, number=number)
            ended = not received.raw_records and self._is_last(received, number=number)
            self._check_cursor(received, resumed=resumed)
            next_cursor = None if ended else received.next_cursor
            resumable = next_cursor is None or (not self.server_keeps_position and (resumed or self.cursors_change))
            page = replace(received, next_cursor=next_cursor, resumable=resumable)
            empty = 0 if page.raw_records else empty + 1
            self._check_progress(page, empty=empty)
            yield page
            if next_cursor is None:
                break
            cursor = next_cursor
        if cursor is not None and self._cursor_sent_again and not (resumed or self.server_keeps_position or self.cursors_change):
            self._refuse("a page was requested twice, and a single cursor does not show whether the API advanced in between")
        self._check_total(resumed=resumed)
        self._check_continuation(received, pages=None if resumed else number)

    @property
    def cursors_change(self) -> bool:
        """True where cursors have changed from page to page.

        A single cursor shows nothing: one that stays the same leads to wherever the API has advanced to.
        """
        return len(self._cursor_hashes) > 1

    def _fetch(self, *, cursor: Cursor | None, number: int) -> Page:
        paging = self.resource.paging
        halved = False
        while True:
            query = dict(self.params) | dict(paging.first() if cursor is None else cursor)
            if paging.page_size_param:
                query[paging.page_size_param] = str(self.page_size)
            # Such a server advances with this request, whether its response arrives or not.
            advances = cursor is not None and self.server_keeps_position
            try:
                return self._request(query, is_first=cursor is None, once=advances, halved=halved, number=number)
            except (PageTooLargeError, ServerError, TransportError) as error:
                smaller = self._halve(error)
                if advances and error.context.reached:
                    reason = f"{error.context.reason}; {_LOST}" if error.context.reason else _LOST
                    raise CursorRefusedError(msgspec.structs.replace(error.context, reason=reason)) from error
                if not smaller:
                    if cursor is not None and isinstance(error, ServerError) and error.status == 502:
                        raise CursorRefusedError(error.context) from error
                    raise
                if cursor is not None:
                    self._check_other_size(cursor, number=number, error=error)
                halved = True
                self._cursor_sent_again = self._cursor_sent_again or cursor is not None
            except (InvalidRequestError, NotFoundError) as error:
                if cursor is None or error.status is None:
                    raise
                raise CursorRefusedError(error.context) from error

    @raises_bare
    def _request(self, query: Mapping[str, str], *, is_first: bool, once: bool, halved: bool, number: int) -> Page:
        def note_retry(seconds: float) -> None:  # noqa: ARG001 - that there is a retry is all
            self._cursor_sent_again = self._cursor_sent_again or not is_first

        self._target = f"{self.path}?{urlencode(query)}"
        response = self.client.send(
            path=self.path,
            params=query,
            resource=self.resource.name,
            scope=self.resource.scope,
            credentials=self.resource.credentials,
            # Once a 502 stayed through all attempts, a smaller page is the next attempt: each size needs just one.
            limits=msgspec.structs.replace(self.limits or self.client.limits, bad_gateway_attempts=1) if halved else self.limits,
            repeat=Repeat.IF_NOT_PROCESSED if once else None,
            sleep=self.sleep,
            on_retry=note_retry,
        )
        if self.server_time is None:
            self.server_time = _date_of(response.headers)
        return parse_page(
            response, resource=self.resource, envelope=self._envelope, context=self._context(), number=number, warned=self._warned
        )

    def check_page_size(self) -> None:
        """Check that `cursor` is of pages of `page_size`, if it is a page's number.

        :raises CursorRefusedError: it does not fit the number of records that came before it.
        """
        if self.cursor is None or self.resource.paging.page_size_param is None:
            return
        numbers = self._resumed_page_numbers(self.cursor)
        if any(self.records_read not in (number * self.page_size, (number - 1) * self.page_size) for number in numbers):
            self._refuse(_NUMBERED)

    def _check_other_size(self, cursor: Cursor, *, number: int, error: ApiError) -> None:
        """Raise `CursorRefusedError` if a cursor leads elsewhere now that pages are smaller, because it is a page's number."""
        known = page_numbers(cursor, paging=self.resource.paging) & {number - 1, number}
        if known if self.cursor is None else self._resumed_page_numbers(cursor):
            reason = f"{_NUMBERED}: read the list from its start with page_size={self.page_size}"
            raise CursorRefusedError(msgspec.structs.replace(error.context, reason=reason)) from error

    def _resumed_page_numbers(self, cursor: Cursor) -> set[int]:
        """Return the numbers in a cursor that may count pages, where it is not known how many came before.

        An offset is as large as the number of records, and ids that ascend are as large, or one less.
        """
        return {number for number in page_numbers(cursor, paging=self.resource.paging) if number < self.records_read - 1}

    def _is_last(self, page: Page, *, number: int) -> bool:
        """Return whether an empty page ends the list although it may have a cursor: neither is documented to be the end.

        A store that filters what it has read returns empty pages in the middle of a list, each with a new cursor. A scroll ends
        with an empty page, and begins with one if it is a scan.
        """
        if page.next_cursor is None:
            return True
        if number == 1 and is_scan(page.next_cursor):
            return False
        return self.server_keeps_position or is_scroll(page.next_cursor) or _hash_of(page.next_cursor) in self._cursor_hashes

    def _check_cursor(self, page: Page, *, resumed: bool) -> None:
        """Detect by a page's cursor that the API keeps the position: it is a scroll id, or comes again with other records."""
        if page.next_cursor is None:
            return
        cursor_hash = _hash_of(page.next_cursor)
        repeats = cursor_hash in self._cursor_hashes and bool(page.raw_records)
        self._cursor_hashes.add(cursor_hash)
        if self.server_keeps_position or not (repeats or is_scroll(page.next_cursor)):
            return
        self.server_keeps_position = True
        if resumed or (repeats and self._cursor_sent_again):
            self._refuse("the API keeps the position in this list itself, and may have advanced between two requests for a page")

    def _halve(self, error: ApiError) -> bool:
        """Halve the page size where that may help; return whether it did."""
        if self.resource.paging.page_size_param is None:
            return False
        min_size = 1 if isinstance(error, PageTooLargeError) else MIN_PAGE_SIZE_ON_502
        if not (isinstance(error, PageTooLargeError) or error.status == 502) or self.page_size // 2 < min_size:
            return False
        self.page_size //= 2
        log.warning("%s Asking for %d records a page from here on.", error, self.page_size)
        return True

    def _check_progress(self, page: Page, *, empty: int) -> None:
        """Count the records; raise `ProtocolError` if the list would never end."""
        if page.raw_records and (self._page_hashes or page.next_cursor is not None):
            page_hash = hash(page.records)
            if page_hash in self._page_hashes:
                repeated = self._page_hashes[page_hash]
                raise ProtocolError(self._context(f"page {page.number} repeats page {repeated}: the list would never end"))
            self._page_hashes[page_hash] = page.number
        if empty >= MAX_EMPTY_PAGES and page.next_cursor is not None:
            reason = f"{empty} empty pages came in a row, each with a new cursor: the list would never end"
            raise ProtocolError(self._context(reason))
        if self.total is None:
            self.total, self._is_total_exact = page.total, page.total_is_exact
        self.records_read += len(page.raw_records)
        limit = 2 * self.total + self.page_size if self.total is not None and self._is_total_exact else None
        if limit is not None and self.records_read > limit and page.next_cursor:
            reason = f"{self.records_read} records came where the response reported {self.total}: it runs in circles"
            raise ProtocolError(self._context(reason))

    def _check_total(self, *, resumed: bool) -> None:
        total, came = self.total, self.records_read
        if total is None or came >= total:
            return
        missing = self._context(f"the response reported {total} records and {came} came: {total - came} are missing")
        if resumed or self.server_keeps_position:
            raise CursorRefusedError(missing)
        raise ProtocolError(missing)

    def _check_continuation(self, page: Page, *, pages: int | None) -> None:
        own = getattr(self.resource.paging, "cursor_member", None)
        ignored = frozenset({*self.resource.ignored_members, *([] if own is None else [own]), self.resource.total or ""})
        end = ListEnd(records=self.records_read, pages=pages, target=self._target, sent_cursor=self._sent_cursor, ignored=ignored)
        found = find_continuation(page.meta, page.headers, end=end)
        if found is None:
            return
        reason = (
            f"{found} reports more than the {self.records_read} records that came, and this Resource does not know how to get "
            f"it. {found.advice}; or, if that is not what it means, ignored_members=({found.path!r},)"
        )
        raise ProtocolError(self._context(reason))

    def _refuse(self, reason: str) -> NoReturn:
        raise CursorRefusedError(self._context(reason))

    def _context(self, reason: str = "") -> RequestContext:
        return RequestContext(api=self.client.api, method="GET", path=self.path, resource=self.resource.name, reason=reason)


def _hash_of(cursor: Cursor) -> int:
    return hash(tuple(sorted(cursor.items())))


def _date_of(headers: Mapping[str, str]) -> datetime | None:
    try:
        return parsedate_to_datetime(headers["Date"]).astimezone(UTC)
    except (KeyError, ValueError, TypeError, IndexError, OverflowError):
        return None
