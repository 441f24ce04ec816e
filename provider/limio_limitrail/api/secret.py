# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A value that never shows itself."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """Hold a credential so that no log line, traceback, repr, pickle or JSON can carry it by accident."""

    __slots__ = ("__weakref__", "_value")

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Give the value to the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._bytes(), other._bytes())

    def _bytes(self) -> bytes:
        return self._value.encode(errors="surrogatepass")

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret stays in memory: it cannot be pickled, copied into XCom or sent to a trigger")
