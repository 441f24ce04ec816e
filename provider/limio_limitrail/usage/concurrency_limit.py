# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Throttle: how many requests may be in flight. Slow start, then AIMD, as TCP does.

The limit doubles with each round of good answers until the first sign that it is too high. From then on it is one more while the
API answers well, and half when it does not.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

INITIAL_LIMIT = 2

SLOW_FACTOR = 2.0
"""Latency counts as rising above this multiple of the usual one."""

JITTER = 0.05
"""Seconds of latency that never count as rising: the jitter of an API that answers at once."""

_RECENT_WEIGHT = 0.3
"""The weight of the newest latency in the recent one."""

_USUAL_WEIGHT = 0.02
"""The weight of the recent latency in the usual one."""

DEFAULT_PAUSE = 1.0
"""Seconds to wait after a 429 without ``Retry-After``: an exponential backoff, doubled with each consecutive one up to
`LONGEST_PAUSE`."""

LONGEST_PAUSE = 30.0


class AdaptiveConcurrencyLimiter:
    """A limit that adapts: half after a 429 (rate limit) or when latency rises; more while answers are good.

    It doubles with each round of requests before it is halved first, and grows by one a round afterwards.

    For one event loop; only `limit` may be read in other threads.
    """

    def __init__(self, max_limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_limit = max_limit
        self._clock = clock
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._limit = float(min(INITIAL_LIMIT, max_limit))
        self._is_slow_start = True
        self.in_flight = 0
        self._not_before = 0.0
        self._halved_at = float("-inf")
        self._recent: float | None = None
        self._usual: float | None = None
        self._consecutive_429s = 0
        self._stopped = False

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return max(1, int(self._limit))

    async def acquire(self) -> bool:
        """Wait until a request may be sent; return False if `stop` was called instead."""
        if not self._stopped and not self._waiting and self._is_open():
            self.in_flight += 1
            return True
        admitted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(admitted)
        self._admit()
        return await admitted

    def answered(self, *, began: float) -> None:
        """Record an answer other than a 429, to a request that began at a time of the clock."""
        now = self._clock()
        self.in_flight -= 1
        self._consecutive_429s = 0
        latency = now - began
        self._recent = latency if self._recent is None else self._recent + _RECENT_WEIGHT * (latency - self._recent)
        if self._usual is None or self._recent < self._usual:
            self._usual = self._recent
        if self._recent > SLOW_FACTOR * self._usual + JITTER:
            self._halve(began=began, now=now)
        else:
            self._limit = min(float(self._max_limit), self._limit + (1.0 if self._is_slow_start else 1 / self._limit))
        # Slowly, so that an API that has become slower for good is measured by its new latency.
        self._usual += _USUAL_WEIGHT * (self._recent - self._usual)
        self._admit()

    def rate_limited(self, *, began: float, retry_after: float | None) -> None:
        """Record a 429: pause all requests, for as many seconds as the API asked to wait, and lower the limit."""
        now = self._clock()
        self.in_flight -= 1
        if began > self._halved_at:
            self._consecutive_429s += 1
        self._halve(began=began, now=now)
        grown = min(LONGEST_PAUSE, DEFAULT_PAUSE * 2.0 ** min(10, max(0, self._consecutive_429s - 1)))
        # No time at all, or one that has passed, is none that the API asks for.
        pause = retry_after or grown
        self._not_before = max(self._not_before, now + pause)
        self._admit()

    def unanswered(self) -> None:
        """Record a request that got no answer, or was not sent."""
        self.in_flight -= 1
        self._admit()

    def stop(self) -> None:
        """Let no further request be sent."""
        self._stopped = True
        self._admit()

    def _is_open(self) -> bool:
        return self.in_flight < self.limit and self._clock() >= self._not_before

    def _admit(self) -> None:
        """Admit waiting requests up to the limit, in the order in which they came."""
        while self._waiting and (self._stopped or self._is_open()):
            admitted = self._waiting.popleft()
            if not admitted.done():
                self.in_flight += not self._stopped
                admitted.set_result(not self._stopped)
        # Each answer admits the next request; only the end of a pause needs a timer.
        wait = self._not_before - self._clock() if self._waiting else 0.0
        if wait > 0 and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(min(wait, 1.0), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._admit()

    def _halve(self, *, began: float, now: float) -> None:
        # Requests that were in flight at the last halving do not show whether it was enough.
        if began <= self._halved_at:
            return
        self._is_slow_start = False
        self._limit = max(1.0, self._limit / 2)
        self._halved_at = now
        self._recent = None if self._usual is None else self._usual
