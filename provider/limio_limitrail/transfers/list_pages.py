# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The API's walks, as landing knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limio_limitrail.api.list_reader import Walk
    from limio_limitrail.api.page import Page
    from limio_limitrail.api.sliced_reader import SlicedListReader


class PlacedWalk:
    """A walk whose lost place is told in landing's own words.

    :param walk: the walk.
    :param detailed: gives its pages with whole records in the place of summaries; None for the pages as they come.
    """

    def __init__(
        self, walk: Walk | SlicedListReader, *, detailed: Callable[[Walk | SlicedListReader], Iterator[Page]] | None
    ) -> None:
        self._walk = walk
        self._detailed = detailed

    @property
    def page_size(self) -> int:
        return self._walk.page_size

    @property
    def total(self) -> int | None:
        return self._walk.total

    @property
    def server_time(self) -> datetime | None:
        return self._walk.server_time

    @property
    def keeps_place(self) -> bool:
        return self._walk.keeps_place

    def pages(self) -> Iterator[Page]:
        from limio_limitrail.api.errors import CursorRefusedError
        from limio_limitrail.landing.pull import PlaceLostError

        try:
            yield from self._walk.pages() if self._detailed is None else self._detailed(self._walk)
        except CursorRefusedError as refused:
            raise PlaceLostError(refused, page_size=self._walk.page_size) from refused
