# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""gzip with a memory: the same page asked for twice is compressed once."""

from __future__ import annotations

import gzip
import hashlib
from collections import OrderedDict


class Compressor:
    """Compresses bodies, and keeps the results up to a number of bytes."""

    def __init__(self, keep_bytes: int = 64 * 1024 * 1024) -> None:
        self._room = keep_bytes
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()

    def gzip(self, body: bytes) -> bytes:
        """The body, compressed quickly rather than well."""
        name = hashlib.sha1(body, usedforsecurity=False).digest()
        packed = self._kept.get(name)
        if packed is not None:
            self._kept.move_to_end(name)
            return packed
        packed = self._kept[name] = gzip.compress(body, 1, mtime=0)
        self._room -= len(packed)
        while self._room < 0 and self._kept:
            _, dropped = self._kept.popitem(last=False)
            self._room += len(dropped)
        return packed
