# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A shelf holds the records of one kind: how many there are, when each was made, and which have changed."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from limio_limitrail.emulator.draws import Ids, key, mix

_STEP = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Span:
    """Records from position ``first`` on (``size`` of them) were made between two instants."""

    first: int
    size: int
    begin: int
    end: int


class Shelf:
    """The positions 0..count-1 of one kind. Costs memory only for what changed."""

    def __init__(self, name: str, prefix: str, seed: int, first: Span, *, ordered: bool = False) -> None:
        self.name = name
        self.key = key(seed, name)
        self.ids = Ids(prefix, key(seed, name, "ids"), dashed=ordered)
        self.count = first.size
        self.changes: dict[int, tuple[int, int]] = {}
        self._spans = [first]
        self._starts = [first.first]
        self._ordered = ordered

    def grow(self, size: int, begin: int, end: int) -> range:
        """Add records made after one instant and up to another; the new positions."""
        first = self.count
        begin = min(begin + 1, end)
        if size > 0:
            self._spans.append(Span(first, size, begin, end))
            self._starts.append(first)
            self.count += size
        return range(first, self.count)

    def change(self, position: int, at: int) -> None:
        """The record at a position gets a new revision at an instant."""
        revision, _ = self.changes.get(position, (0, 0))
        self.changes[position] = (revision + 1, at)

    def draw(self, position: int) -> int:
        """The 64 bits everything about a record is drawn from."""
        return mix((self.key + position * _STEP) & _MASK)

    def created(self, position: int, draw: int) -> int:
        """When the record was made, in milliseconds."""
        span = self._spans[0]
        if position >= span.size:
            span = self._spans[bisect_right(self._starts, position) - 1]
        if self._ordered:
            # In rising order, so that a window on creation is found by halving instead of by reading it all.
            step = (span.end - span.begin) // span.size
            return span.begin + (position - span.first) * step + draw % (step or 1)
        return span.begin + draw % ((span.end - span.begin) or 1)

    def updated(self, position: int, draw: int, created: int) -> tuple[int, int]:
        """The record's revision, and when it was last changed."""
        change = self.changes.get(position)
        if change is not None:
            return change
        if draw & 3:
            return 0, created
        end = self._spans[0].end if position < self._spans[0].size else created + 1
        return 0, created + (draw >> 8) % max(1, end - created)

    def position(self, text: str) -> int | None:
        """The position of an id that exists."""
        found = self.ids.position(text)
        return found if found is not None and found < self.count else None
