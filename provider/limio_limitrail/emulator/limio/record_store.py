# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How many records of a kind there are, their ids, when each was created and changed, and how they refer to each other."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from limio_limitrail.emulator.core.random_values import MASK_64, hash64, mix

if TYPE_CHECKING:
    from collections.abc import Mapping

_STEP = 0x9E3779B97F4A7C15
_LOW = (1 << 32) - 1
_TAIL = (1 << 96) - 1
_SPREAD = 0x9E3779B97F4A7C15F39CC0605  # odd, and wide enough to reach all of the tail


class IdCodec:
    """Ids that look random and encode their position, so that no table of ids is needed."""

    def __init__(self, prefix: str, seed_hash: int, *, dashed: bool = False) -> None:
        self.prefix = prefix
        self._key = seed_hash
        self._factor = (seed_hash | 1) & _LOW
        self._inverse = pow(self._factor, -1, 1 << 32)
        self._shift = (seed_hash >> 32) & _LOW
        self._dashed = dashed

    def at(self, position: int) -> str:
        """Return the id at a position."""
        front = (position * self._factor + self._shift) & _LOW
        front ^= front >> 16
        text = f"{front:08x}{((front ^ self._key) * _SPREAD) & _TAIL:024x}"
        if self._dashed:
            text = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
        return self.prefix + text

    def position(self, text: str) -> int | None:
        """Return the position of an id, or None when it is not an id of this kind."""
        if not text.startswith(self.prefix):
            return None
        try:
            front = int(text[len(self.prefix) : len(self.prefix) + 8], 16)
        except ValueError:
            return None
        front ^= front >> 16
        position = ((front - self._shift) * self._inverse) & _LOW
        return position if self.at(position) == text else None


class _Span(NamedTuple):
    """Records from position ``first`` on (``size`` of them) were created between two instants."""

    first: int
    size: int
    begin: int
    end: int


class RecordStore:
    """The positions 0..count-1 of one kind of record. Costs memory only for what changed.

    The first ``size`` records were created between the instants ``begin`` and ``end``, in milliseconds; with
    ``ordered`` in the order of their positions.
    """

    def __init__(self, name: str, prefix: str, seed: int, *, size: int, begin: int, end: int, ordered: bool = False) -> None:
        self.key = hash64(seed, name)
        self.ids = IdCodec(prefix, hash64(seed, name, "ids"), dashed=ordered)
        self.count = size
        self.changes: dict[int, tuple[int, int]] = {}
        self._spans = [_Span(0, size, begin, end)]
        self._starts = [0]
        self._ordered = ordered

    def grow(self, size: int, begin: int, end: int) -> range:
        """Add records created after one instant and up to another; return their positions."""
        first = self.count
        if size > 0:
            self._spans.append(_Span(first, size, min(begin + 1, end), end))
            self._starts.append(first)
            self.count += size
        return range(first, self.count)

    def change(self, position: int, at: int) -> None:
        """Change the record at a position to a new revision, made at an instant."""
        revision, _ = self.changes.get(position, (0, 0))
        self.changes[position] = (revision + 1, at)

    def bits(self, position: int) -> int:
        """Return the 64 random bits that decide everything about a record."""
        return mix((self.key + position * _STEP) & MASK_64)

    def created(self, position: int, bits: int) -> int:
        """Return when a record was created, in milliseconds."""
        span = self._spans[0]
        if position >= span.size:
            span = self._spans[bisect_right(self._starts, position) - 1]
        if self._ordered:
            # In rising order, so that a binary search finds the first one created after an instant.
            step = (span.end - span.begin) // span.size
            return span.begin + (position - span.first) * step + bits % (step or 1)
        return span.begin + bits % ((span.end - span.begin) or 1)

    def updated(self, position: int, bits: int, created: int) -> tuple[int, int]:
        """Return a record's revision, and when it was last changed."""
        change = self.changes.get(position)
        if change is not None:
            return change
        if bits & 3:
            return 0, created
        end = self._spans[0].end if position < self._spans[0].size else created + 1
        return 0, created + (bits >> 8) % max(1, end - created)

    def position(self, text: str) -> int | None:
        """Return the position of an id that exists, or None."""
        found = self.ids.position(text)
        return found if found is not None and found < self.count else None


class Links:
    """References between the records of one service, whose stores it knows by their kind."""

    def __init__(self, service: str, stores: Mapping[str, RecordStore]) -> None:
        self.service = service
        self._stores = stores
        self._subscriptions = stores["subscriptions"]
        self._ratio = (self._subscriptions.count or 1, stores["customers"].count or 1)

    def link(self, kind: str, position: int) -> str:
        """Return the id of the record of a kind that a subscription (by position) refers to."""
        store = self._stores[kind]
        return store.ids.at(position % store.count if store.count else position)

    def owner(self, subscription: int) -> int:
        """Return the position of the customer who holds a subscription."""
        return subscription * self._ratio[1] // self._ratio[0]

    def subscriptions_of(self, customer: int) -> range:
        """Return the positions of a customer's subscriptions."""
        subscriptions, customers = self._ratio
        first = -(-customer * subscriptions // customers)
        last = -(-(customer + 1) * subscriptions // customers)
        return range(min(first, self._subscriptions.count), min(last, self._subscriptions.count))
