# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A cache of byte strings that drops the least recently used ones."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


class LruCache(OrderedDict["Hashable", bytes]):
    """Holds up to ``max_bytes`` of values."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self._free_bytes = max_bytes

    def fetch(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return the value of a key, and make it where it is not cached."""
        value = self.get(key)
        if value is None:
            value = self[key] = make()
            self._free_bytes -= len(value)
            while self._free_bytes < 0 and self:
                self._free_bytes += len(self.popitem(last=False)[1])
        else:
            self.move_to_end(key)
        return value
