# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Walk through a list page by page, on guard against lists that never end or end too soon."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import msgspec

from limio_limitrail.api.envelope import EnvelopeReader
from limio_limitrail.api.errors import (
    ApiError,
    CursorRefusedError,
    Failure,
    InvalidRequestError,
    NotFoundError,
    PageTooLargeError,
    ProtocolError,
    ServerError,
)
from limio_limitrail.api.page import Page, split
from limio_limitrail.api.pagination import Cursor
from limio_limitrail.api.resource import Resource
from limio_limitrail.api.retry import RetryLimits

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient

log = logging.getLogger(__name__)

SMALLEST_PAGE_ON_502 = 50
"""Halving stops here on a 502, which may mean anything (50 is the documented default page); on a 413 it goes down to 1."""


MOST_EMPTY_PAGES = 10
"""So many empty pages in a row end a list even if each has a new cursor."""


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
    _marks: set[int] = field(default_factory=set, init=False)
    _envelope: EnvelopeReader = field(init=False)

    def __post_init__(self) -> None:
        self._envelope = EnvelopeReader(self.resource.records)

    @property
    def unguarded(self) -> bool:
        """True where it goes on from a cursor, and nobody would notice pages that the API skipped meanwhile."""
        return self.cursor is not None and not self.resource.paging.resumable and self.total is None

    def pages(self) -> Iterator[Page]:
        """Give the pages in order.

        :raises CursorRefusedError: a cursor was refused, or records went missing on the way and a new walk may find them.
        :raises ApiError: a request failed, or an answer breaks the contract.
        """
        number = 0
        previous: list[msgspec.Raw] = []
        resumed = self.cursor is not None
        cursor = self.cursor
        empty_pages = 0
        while True:
            number += 1
            page = self._fetch(cursor=cursor, number=number)
            empty_pages = 0 if page.raw_records else empty_pages + 1
            if not page.raw_records and self._is_the_end(page, cursor=cursor, empty_pages=empty_pages):
                page = replace(page, following=None)
            self._guard(page=page, cursor=cursor, previous=previous)
            previous = page.raw_records
            if self.total is None:
                self.total = page.total
            self.seen += len(page.raw_records)
            yield page
            if page.following is None:
                break
            cursor = page.following
        self._check_total(resumed=resumed)

    def _fetch(self, *, cursor: Cursor | None, number: int) -> Page:
        paging = self.resource.paging
        halved = False
        while True:
            query = dict(self.params) | dict(paging.first() if cursor is None else cursor)
            if paging.page_size_param:
                query[paging.page_size_param] = str(self.page_size)
            try:
                answer = self.client.send(
                    path=self.path,
                    params=query,
                    resource=self.resource.name,
                    scope=self.resource.scope,
                    credentials=self.resource.credentials,
                    # Once a 502 stayed through all tries, a smaller page is the next try: each size needs just one.
                    limits=replace(self.limits or self.client.limits, bad_gateway_attempts=1) if halved else self.limits,
                    sleep=self.sleep,
                )
            except (PageTooLargeError, ServerError) as error:
                if not self._halve(error):
                    if cursor is not None and isinstance(error, ServerError) and error.status == 502:
                        raise CursorRefusedError(error.failure) from error
                    raise
                halved = True
            except (InvalidRequestError, NotFoundError) as error:
                if cursor is None or error.status is None:
                    raise
                raise CursorRefusedError(error.failure) from error
            else:
                if self.server_time is None:
                    self.server_time = _date_of(answer.headers)
                return split(
                    answer.body,
                    resource=self.resource,
                    envelope=self._envelope,
                    call=self._call(),
                    number=number,
                    secrets=self.client.auth.secrets(),
                )

    def _is_the_end(self, page: Page, *, cursor: Cursor | None, empty_pages: int) -> bool:
        """Tell whether an empty page ends the list although it has a cursor: neither is documented to be the end.

        A store that filters what it has read gives empty pages in the middle of a list, each with a new cursor. A scroll ends
        with an empty page, and its total tells whether anything is missing.
        """
        if page.following is None or self.resource.paging.cursor_repeats:
            return True
        if page.following == cursor or _mark_of(page.following) in self._marks:
            return True
        if empty_pages >= MOST_EMPTY_PAGES:
            log.warning("%s: %d empty pages in a row, each with a new cursor, count as the end.", self.resource.name, empty_pages)
            return True
        return False

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

    def _guard(self, *, page: Page, cursor: Cursor | None, previous: list[msgspec.Raw]) -> None:
        if page.raw_records and page.raw_records == previous:
            raise ProtocolError(self._call(f"page {page.number} repeats page {page.number - 1}: the list would never end"))
        if page.following is None:
            return
        if self.resource.paging.cursor_repeats:
            # The cursor tells nothing here, so that the records must: without a total nothing else would end a circle.
            mark = hash(page.records)
            if mark in self._marks:
                raise ProtocolError(self._call(f"page {page.number} was there before: the list would never end"))
            self._marks.add(mark)
            total = self.total if self.total is not None else page.total
            if total is not None and self.seen > 2 * total + self.page_size:
                raise ProtocolError(
                    self._call(f"{self.seen} records came where the answer announced {total}: it runs in circles")
                )
            return
        mark = _mark_of(page.following)
        if page.following == cursor or mark in self._marks:
            raise ProtocolError(
                self._call(f"page {page.number} leads back to a page that was there before: the list would never end")
            )
        self._marks.add(mark)

    def _check_total(self, *, resumed: bool) -> None:
        if self.total is None or self.seen >= self.total:
            return
        missing = self._call(
            f"the answer announced {self.total} records and {self.seen} came: {self.total - self.seen} are missing"
        )
        if resumed or not self.resource.paging.resumable:
            raise CursorRefusedError(missing)
        raise ProtocolError(missing)

    def _call(self, reason: str = "") -> Failure:
        return replace(Failure(api=self.client.api, method="GET", path=self.path, resource=self.resource.name), reason=reason)


def _mark_of(cursor: Cursor) -> int:
    return hash(tuple(sorted(cursor.items())))


def _date_of(headers: Mapping[str, str]) -> datetime | None:
    try:
        return parsedate_to_datetime(headers["Date"]).astimezone(UTC)
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
