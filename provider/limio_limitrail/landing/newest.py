# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The newest time of a part: what the watermark is made of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from limio_limitrail.landing import tables
from limio_limitrail.landing.lifts import LiftPath, LiftReader
from limio_limitrail.landing.shaping import Shaping
from limio_limitrail.landing.values import newest_instant

if TYPE_CHECKING:
    import pyarrow as pa


class NewestTime:
    """Finds the newest instant at one path, part by part.

    :param path: where the time is in a record.
    """

    def __init__(self, path: LiftPath) -> None:
        self._reader = LiftReader({"time": path})
        self._newest: datetime | None = None

    def see(self, records: bytes) -> None:
        """Look at a page's records."""
        self._note(self._reader.read(records)["time"])

    def see_lines(self, lines: bytes) -> None:
        """Look at a page's records that stand one a line."""
        self._note(self._reader.read_lines(lines)["time"])

    def _note(self, times: Sequence[bytes | None]) -> None:
        value = newest_instant(times)
        if value is not None:
            self._newest = value if self._newest is None else max(self._newest, value)

    def take(self) -> datetime | None:
        """Give what was found, and begin anew."""
        newest, self._newest = self._newest, None
        return newest


class PartTimes:
    """Finds the newest time of a part whose records become columns."""

    def __init__(self, shaping: Shaping) -> None:
        self._column = shaping.time_column
        # A time column that does not land as it came is still what the watermark is read from.
        self._pages = NewestTime(shaping.time_path) if shaping.time_path and not shaping.lands_time else None
        self._newest: datetime | None = None

    def see_page(self, records: bytes) -> None:
        """Look at a page's records."""
        if self._pages is not None:
            self._pages.see(records)

    def see_table(self, rows: pa.Table) -> None:
        """Look at rows that have become columns."""
        value = tables.newest(rows, self._column) if self._pages is None else None
        self._newest = max((time for time in (self._newest, value) if time is not None), default=None)

    def take(self) -> datetime | None:
        """Give what was found, and begin anew."""
        newest, self._newest = self._newest, None
        return newest if self._pages is None else self._pages.take()
