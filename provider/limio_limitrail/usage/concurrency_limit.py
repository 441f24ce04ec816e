# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How many requests may be under way at once: more while the API answers well, half when it does not."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

FIRST = 2
"""Requests at once to begin with."""

SLOW = 2.0
"""So many times the usual latency counts as rising."""

SLACK = 0.05
"""Seconds of latency that never count as rising: the jitter of an API that answers at once."""

_QUICK = 0.3
"""How much the newest latency counts in the recent one."""

_LONG = 0.02
"""How much the recent latency moves the usual one."""

DEFAULT_PAUSE = 1.0
"""Seconds to wait after a 429 that does not say how long; doubled with each further one in a row, up to `LONGEST_PAUSE`."""

LONGEST_PAUSE = 30.0


class AdaptiveConcurrencyLimiter:
    """A limit that adapts: one more for each round of good answers, half after a 429 or when latency rises.

    For one event loop; only the limit may be read from elsewhere.

    :param most: the limit's own limit.
    :param clock: monotonic seconds.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._limit = float(min(FIRST, most))
        self._under_way = 0
        self._not_before = 0.0
        self._halved_at = float("-inf")
        self._recent: float | None = None
        self._usual: float | None = None
        self._refusals = 0
        self._stopped = False

    @property
    def limit(self) -> int:
        """How many requests may be under way at once now."""
        return max(1, int(self._limit))

    @property
    def under_way(self) -> int:
        """How many requests are under way."""
        return self._under_way

    async def enter(self) -> bool:
        """Wait for one's turn; False where all has been stopped instead."""
        if not self._stopped and not self._waiting and self._is_open():
            self._under_way += 1
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        return await turn

    def leave(self, *, began: float) -> None:
        """Take note of an answer that was no 429.

        :param began: when its request began, by the clock.
        """
        now = self._clock()
        self._under_way -= 1
        self._refusals = 0
        latency = now - began
        self._recent = latency if self._recent is None else self._recent + _QUICK * (latency - self._recent)
        if self._usual is None or self._recent < self._usual:
            self._usual = self._recent
        if self._recent > SLOW * self._usual + SLACK:
            self._halve(began=began, now=now)
        else:
            self._limit = min(float(self._most), self._limit + 1 / self._limit)
        # Slowly, so that an API that has become slower for good is not held to what it once was.
        self._usual += _LONG * (self._recent - self._usual)
        self._admit()

    def refused(self, *, began: float, retry_after: float | None) -> None:
        """Take note of a 429: everybody waits, and there will be fewer at once.

        :param retry_after: seconds that the API asked to wait.
        """
        now = self._clock()
        self._under_way -= 1
        if began > self._halved_at:
            self._refusals += 1
        self._halve(began=began, now=now)
        grown = min(LONGEST_PAUSE, DEFAULT_PAUSE * 2.0 ** min(10, max(0, self._refusals - 1)))
        pause = grown if retry_after is None else retry_after
        self._not_before = max(self._not_before, now + pause)
        self._admit()

    def lost(self) -> None:
        """Take note of a request that got no answer, or was not sent."""
        self._under_way -= 1
        self._admit()

    def stop(self) -> None:
        """Let nobody in any more."""
        self._stopped = True
        self._admit()

    def _is_open(self) -> bool:
        return self._under_way < self.limit and self._clock() >= self._not_before

    def _admit(self) -> None:
        """Let those in who wait, as far as there is room for them, in the order in which they came."""
        while self._waiting and (self._stopped or self._is_open()):
            turn = self._waiting.popleft()
            if not turn.done():
                self._under_way += not self._stopped
                turn.set_result(not self._stopped)
        # Whoever leaves lets the next one in; only the end of a pause comes by itself.
        wait = self._not_before - self._clock() if self._waiting else 0.0
        if wait > 0 and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(min(wait, 1.0), self._look_again)

    def _look_again(self) -> None:
        self._alarm = None
        self._admit()

    def _halve(self, *, began: float, now: float) -> None:
        # Requests that were under way at the last halving tell nothing about whether it was enough.
        if began <= self._halved_at:
            return
        self._limit = max(1.0, self._limit / 2)
        self._halved_at = now
        self._recent = None if self._usual is None else self._usual
