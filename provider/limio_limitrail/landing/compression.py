# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Zstandard, from Python's own library where that has it: a pull of JSON Lines does not load Arrow only to compress."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdCompressor
else:
    from backports.zstd import ZstdCompressor

LEVEL = 1
"""The quickest of the levels that do not save on the search for repetitions, which records are full of."""


class Packer:
    """Compresses what is written to it."""

    def __init__(self) -> None:
        self._compressor = ZstdCompressor(level=LEVEL)
        self._packed: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Add bytes."""
        self._packed.append(self._compressor.compress(data))

    def finish(self) -> bytes:
        """Give all that was written as one frame."""
        return b"".join((*self._packed, self._compressor.flush()))
