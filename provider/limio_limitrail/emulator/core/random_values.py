# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Cheap deterministic random values: everything follows from a seed and a position, and nothing is stored."""

from __future__ import annotations

import hashlib
import random

MASK_64 = (1 << 64) - 1


def mix(value: int) -> int:
    """Return 64 scrambled bits (the finaliser of splitmix64), so that neighbouring values look unrelated."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK_64
    return value ^ (value >> 31)


def hash64(*parts: object) -> int:
    """Return a 64-bit hash that is the same in every process for the same parts."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def pick(population: int, wanted: int, *parts: object) -> list[int]:
    """Return ``wanted`` different positions below ``population``, in rising order, decided by ``parts``."""
    wanted = max(0, min(wanted, population))
    return sorted(random.Random(hash64(*parts)).sample(range(population), wanted))  # nosec B311 # made-up data
