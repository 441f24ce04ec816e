# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The newest time of a part, of which the watermark is made."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind, kind_of
from limio_limitrail.landing.nested_paths import NestedPath, NestedPathReader
from limio_limitrail.landing.shaping import Shaping
from limio_limitrail.landing.values import Times, times_in, times_of

if TYPE_CHECKING:
    import pyarrow as pa

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_TIMES = Times(newest=None, unreadable=0)


class MaxTimestamp:
    """Finds the newest time of each part, in its pages or in its typed columns.

    :param path: where the time is in a record; None if `column` is read instead, or if records have no time.
    :param column: the typed column that holds the time.
    """

    def __init__(self, path: NestedPath | None, *, column: str | None = None) -> None:
        self._reader = NestedPathReader({"time": path}) if path else None
        self._column = None if path else column
        self._times = _NO_TIMES

    @classmethod
    def of_columns(cls, shaping: Shaping) -> MaxTimestamp:
        """Make one for records that become columns: the watermark is made of the time as it came, in a column or not."""
        return cls(None if shaping.lands_time else shaping.time_path, column=shaping.time_column)

    def add_page(self, records: bytes) -> None:
        """Read a page's JSON array of records."""
        if self._reader is not None:
            self._add([times_of(self._reader.read(records)["time"])])

    def add_lines(self, lines: bytes) -> None:
        """Read a page's records, one a line."""
        if self._reader is not None:
            self._add([times_of(self._reader.read_lines(lines)["time"])])

    def add_table(self, rows: pa.Table) -> None:
        """Read rows that have become columns."""
        if self._column is not None and self._column in rows.column_names:
            self._add(_column_times(rows, self._column))

    def _add(self, found: Iterable[Times]) -> None:
        for times in found:
            newest = max((time for time in (self._times.newest, times.newest) if time is not None), default=None)
            self._times = Times(newest=newest, unreadable=self._times.unreadable + times.unreadable)

    def take(self) -> Times:
        """Return what was found since the last call."""
        times, self._times = self._times, _NO_TIMES
        return times


def _column_times(table: pa.Table, column: str) -> list[Times]:
    array = table.column(column)
    match kind_of(table.schema.field(column)):
        case Kind.TIMESTAMP:
            return [Times(newest=_newest(array), unreadable=0)]
        case Kind.TEXT:
            return [times_in(chunk) for chunk in array.chunks]
        case _:
            return [Times(newest=None, unreadable=len(array) - array.null_count)]


def _newest(instants: pa.ChunkedArray) -> datetime | None:
    # Arrow's own conversion to a datetime imports pandas.
    import pyarrow.compute as pc

    microseconds: int | None = pc.max(instants).value
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
