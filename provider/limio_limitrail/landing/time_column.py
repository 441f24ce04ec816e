# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The time column of records: its newest value, of which the watermark is made, and the upper bound of a run's time range."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from limio_limitrail.landing.column_types import Kind, kind_of
from limio_limitrail.landing.nested_paths import NestedPath, NestedPathReader
from limio_limitrail.landing.shaping import Shaping
from limio_limitrail.landing.values import Times, times_in, times_of

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.part_builders import RecordPage

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
        return cls(None if shaping.stores_time else shaping.time_path, column=shaping.time_column)

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


class _FilteredPage(msgspec.Struct, frozen=True, kw_only=True):
    raw_records: list[msgspec.Raw]
    wrapped: bool

    @property
    def records(self) -> bytes:
        return b"[" + b",".join(self.raw_records) + b"]"


class UpperBound:
    """Leaves out the records whose time is not before the bound, for an API without such a filter. Those without a time stay.

    :param path: where the time is in a record.
    :param until: the bound, which is not part of the range.
    """

    def __init__(self, *, path: NestedPath, until: datetime) -> None:
        self._reader = NestedPathReader({"time": path})
        self._until = until
        self.left_out = 0

    def apply(self, page: RecordPage) -> RecordPage:
        """Return the page without the records that are left out, which `left_out` counts."""
        if not page.raw_records:
            return page
        times = self._reader.read(page.records)["time"]
        newest = times_of(times).newest
        if newest is not None and newest < self._until:
            return page
        kept = [raw for raw, time in zip(page.raw_records, times, strict=True) if self._is_within(time)]
        self.left_out += len(page.raw_records) - len(kept)
        return _FilteredPage(raw_records=kept, wrapped=page.wrapped)

    def _is_within(self, time: bytes | None) -> bool:
        when = times_of([time]).newest
        return when is None or when < self._until
