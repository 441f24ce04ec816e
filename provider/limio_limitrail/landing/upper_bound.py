# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Leaves out records that are newer than a run's time range, where the API has no filter for its upper bound."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from limio_limitrail.landing.nested_paths import NestedPath, NestedPathReader
from limio_limitrail.landing.values import times_of

if TYPE_CHECKING:
    from limio_limitrail.landing.part_builders import RecordPage


@dataclass(frozen=True, kw_only=True)
class _FilteredPage:
    raw_records: list[msgspec.Raw]
    wrapped: bool

    @property
    def records(self) -> bytes:
        return b"[" + b",".join(self.raw_records) + b"]"


class UpperBound:
    """Leaves out the records whose time is not before the bound. A record without a readable time stays.

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
