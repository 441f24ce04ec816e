# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A clock that passes when a test says so: a deadline then comes after what has to come before it, on the busiest machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

PATIENCE = 200.0
"""Real seconds that are far more than what ends soon takes."""

_real_monotonic = time.monotonic


def wait_for_another_second() -> None:
    """Runs are ordered by the server's clock, which has whole seconds."""
    # Its servers look at the clock ten times a second.
    another = int(time.time()) + 1.3
    while (left := another - time.time()) > 0:
        time.sleep(left)


class Clock:
    """The clocks of this process, which can be put forward: the wall clock, the monotonic one, and so those of event loops.

    Whoever waits in a thread, or at a socket, waits for real seconds, but finds its deadline passed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slept: list[float] = []
        self._ahead = 0.0
        wall, monotonic = time.time, time.monotonic
        monkeypatch.setattr(time, "time", lambda: wall() + self._ahead)
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + self._ahead)

    def advance(self, seconds: float) -> None:
        """Let seconds pass at once."""
        self._ahead += seconds

    def advance_to(self, when: float) -> None:
        """Let the time pass until `when`, in seconds since 1970; nothing if that has passed."""
        self.advance(max(0.0, when - time.time()))

    async def sleep(self, seconds: float) -> None:
        """Let seconds pass, in the place of `asyncio.sleep`."""
        self.slept.append(seconds)
        self.advance(seconds)
        await asyncio.sleep(0)


class QuickAsyncio:
    """Stands for the module `asyncio` where sleeping shall take no real time."""

    def __init__(self, clock: Clock) -> None:
        self.sleep = clock.sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


async def until(what: Callable[[], bool], *, seconds: float = PATIENCE) -> None:
    """Wait for a condition, for real seconds at most."""
    end = _real_monotonic() + seconds
    while not what():
        assert _real_monotonic() < end
        await asyncio.sleep(0.02)
