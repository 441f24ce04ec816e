# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The newest time of a part: what the watermark is made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from limio_limitrail.landing import arrow_tables as tables
from limio_limitrail.landing.nested_paths import NestedPath, NestedPathReader
from limio_limitrail.landing.shaping import Shaping
from limio_limitrail.landing.values import Times, times_of

if TYPE_CHECKING:
    import pyarrow as pa

NOTHING = Times(newest=None, unreadable=0)


def together(several: Iterable[Times]) -> Times:
    """Tell what several parts of a column say together."""
    told = list(several)
    newest = max((times.newest for times in told if times.newest is not None), default=None)
    return Times(newest=newest, unreadable=sum(times.unreadable for times in told))


class NewestTime:
    """Finds the newest instant at one path, part by part.

    :param path: where the time is in a record.
    """

    def __init__(self, path: NestedPath) -> None:
        self._reader = NestedPathReader({"time": path})
        self._times = NOTHING

    def see(self, records: bytes) -> None:
        """Look at a page's records."""
        self._times = together((self._times, times_of(self._reader.read(records)["time"])))

    def see_lines(self, lines: bytes) -> None:
        """Look at a page's records that stand one a line."""
        self._times = together((self._times, times_of(self._reader.read_lines(lines)["time"])))

    def take(self) -> Times:
        """Give what was found, and begin anew."""
        times, self._times = self._times, NOTHING
        return times


class PartTimes:
    """Finds the newest time of a part whose records become columns."""

    def __init__(self, shaping: Shaping) -> None:
        self._column = shaping.time_column
        # A time column that does not land as it came is still what the watermark is read from.
        self._pages = NewestTime(shaping.time_path) if shaping.time_path and not shaping.lands_time else None
        self._times = NOTHING

    def see_page(self, records: bytes) -> None:
        """Look at a page's records."""
        if self._pages is not None:
            self._pages.see(records)

    def see_table(self, rows: pa.Table) -> None:
        """Look at rows that have become columns."""
        if self._pages is None:
            self._times = together((self._times, *tables.times(rows, self._column)))

    def take(self) -> Times:
        """Give what was found, and begin anew."""
        times, self._times = self._times, NOTHING
        return times if self._pages is None else self._pages.take()
