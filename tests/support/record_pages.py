# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pages as landing sees them, without an API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import msgspec


@dataclass(frozen=True)
class RecordPage:
    """A page of records.

    :param records: the JSON array of records.
    :param next_cursor: the next page's cursor.
    :param ends_slice: whether a part ends with it.
    :param resumable: whether another walk can go on from `next_cursor`.
    """

    records: bytes
    next_cursor: Mapping[str, str] | None = None
    ends_slice: bool = False
    resumable: bool = True

    @cached_property
    def raw_records(self) -> list[msgspec.Raw]:
        return msgspec.json.decode(self.records, type=list[msgspec.Raw])

    @property
    def wrapped(self) -> bool:
        return b"\n" in self.records or b"\r" in self.records
