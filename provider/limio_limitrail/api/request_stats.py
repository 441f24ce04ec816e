# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What one piece of work costs, on a client that many share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient


class Meter:
    """Counts from its making on.

    :param client: the client.
    """

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._began = time.monotonic()
        self._before = self._counts()

    def _counts(self) -> tuple[float, ...]:
        counters = self._client.counters
        return counters.requests, counters.retries, getattr(self._client.auth, "minted", 0), counters.waited

    def read(self) -> dict[str, int | float]:
        """Give requests, retries, tokens minted, seconds waited between tries, and seconds since the beginning."""
        *counts, waited = (now - before for now, before in zip(self._counts(), self._before, strict=True))
        return {
            **dict(zip(("requests", "retries", "tokens"), map(int, counts), strict=True)),
            "waited": round(waited, 3),
            "seconds": round(time.monotonic() - self._began, 3),
        }
