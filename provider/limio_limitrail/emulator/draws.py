# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Cheap made-up values: everything is drawn from a seed and a position, and nothing is remembered."""

from __future__ import annotations

import hashlib
import random

_MASK = (1 << 64) - 1
_LOW = (1 << 32) - 1
_TAIL = (1 << 96) - 1
_SPREAD = 0x9E3779B97F4A7C15F39CC0605  # odd, and wide enough to reach all of the tail


def mix(value: int) -> int:
    """Scramble 64 bits (the finaliser of splitmix64), so that neighbours look unrelated."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def key(*parts: object) -> int:
    """A 64-bit key that is the same in every process for the same parts."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def pick(population: int, wanted: int, *parts: object) -> list[int]:
    """``wanted`` different positions below ``population``, in rising order, decided by ``parts``."""
    wanted = max(0, min(wanted, population))
    return sorted(random.Random(key(*parts)).sample(range(population), wanted))  # nosec B311 # made up data


class Ids:
    """Ids that look random and still tell their position, so that no table of ids is needed."""

    def __init__(self, prefix: str, seed_key: int, *, dashed: bool = False) -> None:
        self.prefix = prefix
        self._key = seed_key
        self._factor = (seed_key | 1) & _LOW
        self._inverse = pow(self._factor, -1, 1 << 32)
        self._shift = (seed_key >> 32) & _LOW
        self._dashed = dashed

    def at(self, position: int) -> str:
        """The id at a position."""
        front = (position * self._factor + self._shift) & _LOW
        front ^= front >> 16
        text = f"{front:08x}{((front ^ self._key) * _SPREAD) & _TAIL:024x}"
        if self._dashed:
            text = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
        return self.prefix + text

    def position(self, text: str) -> int | None:
        """The position an id stands for, or None when it is no id of this kind."""
        if not text.startswith(self.prefix):
            return None
        try:
            front = int(text[len(self.prefix) : len(self.prefix) + 8], 16)
        except ValueError:
            return None
        front ^= front >> 16
        position = ((front - self._shift) * self._inverse) & _LOW
        return position if self.at(position) == text else None
