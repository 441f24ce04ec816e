# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Lists whose records a test has put there itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limio_limitrail.emulator.exchange import dumps

if TYPE_CHECKING:
    from collections.abc import Iterable

STYLES = ("objects", "catalog", "baskets")


@dataclass
class Placed:
    """The records of one list: raw bytes are served as they are."""

    style: str
    rows: list[bytes]
    _parsed: list[Any] | None = field(default=None, repr=False)

    def parsed(self) -> list[Any]:
        """The records as values, for filters and reads by id; a row that is no JSON counts as None."""
        if self._parsed is None:
            self._parsed = [_loads(row) for row in self.rows]
        return self._parsed

    def joined(self, start: int, stop: int) -> bytes:
        """Rows start..stop-1 joined by commas."""
        return b",".join(self.rows[start:stop])

    def by_id(self, id_: str) -> bytes | None:
        """The record with an id, as it was put."""
        for row, value in zip(self.rows, self.parsed(), strict=True):
            if isinstance(value, dict) and value.get("id") == id_:
                return row
        return None


def place(path: str, records: Iterable[dict[str, Any] | bytes | str], style: str | None) -> Placed:
    """Make a list of records out of values and raw JSON."""
    if style is None:
        head = path.partition("?")[0]
        catalog = head in ("published_catalog_items", "catalog_items")
        style = "catalog" if catalog else "baskets" if head == "checkout/abandoned" else "objects"
    if style not in STYLES:
        raise ValueError(f"style is {style!r}; choose one of {', '.join(STYLES)}")
    rows = [_raw(record) for record in records]
    return Placed(style, rows)


def _raw(record: dict[str, Any] | bytes | str) -> bytes:
    if isinstance(record, bytes):
        return record
    return record.encode("utf-8", "surrogatepass") if isinstance(record, str) else dumps(record)


def _loads(row: bytes) -> Any:
    try:
        return json.loads(row)
    except ValueError:
        return None
