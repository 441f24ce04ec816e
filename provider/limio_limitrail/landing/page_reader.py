# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a pull asks of an API's reader of a list."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from limio_limitrail.landing.part_builders import RecordPage


class ListPage(RecordPage, Protocol):
    """A page of a list, as an API's reader returns it."""

    @property
    def next_cursor(self) -> Mapping[str, str] | None:
        """The next page's cursor; None on the last page."""

    @property
    def ends_slice(self) -> bool:
        """True if the page ends a part, because the next page begins another slice of time."""

    @property
    def resumable(self) -> bool:
        """True if another reader can resume from `next_cursor`."""


class PageReader(Protocol):
    """An API's reader of a list."""

    @property
    def page_size(self) -> int:
        """Records a page, which may shrink on the way."""

    @property
    def total(self) -> int | None:
        """The number of records that the API reported, if it did."""

    @property
    def server_time(self) -> datetime | None:
        """The time of the first response, by the server's clock."""

    @property
    def server_keeps_position(self) -> bool:
        """True once it is known that the server keeps the position in the list, and moves it on with each request."""
