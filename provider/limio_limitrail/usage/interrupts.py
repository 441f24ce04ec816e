# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What comes between two steps of a task: the suspension of the machine, and Airflow's execution timeout."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

LONGEST_DELAY = 20.0
"""The longest delay in seconds: longer than it takes to write outcomes, database failures included."""

_BOOT = getattr(time, "CLOCK_BOOTTIME", None)


class _Uptime:
    def __init__(self) -> None:
        self._ahead = 0.0
        self._apart = time.time() - self._since_boot()

    @staticmethod
    def _since_boot() -> float:
        # Linux stops its monotonic clock with the machine.
        return time.monotonic() if _BOOT is None else time.clock_gettime(_BOOT)

    def __call__(self) -> float:
        """Return monotonic seconds."""
        now = self._since_boot()
        # A virtual machine that its host has suspended can only see that by the time of day.
        self._ahead = max(self._ahead, time.time() - now - self._apart)
        return now + self._ahead


uptime = _Uptime()


@contextmanager
def defer_sigalrm(stop: Callable[[], None], *, at_most: float = LONGEST_DELAY) -> Iterator[None]:
    """Hold back the alarm that ends a task while the block runs; it is raised when the block has ended.

    Airflow's ``execution_timeout`` is a `SIGALRM` whose handler raises, between any two steps of the program: also between a
    claim's commit in the database and its being noted here. The row would then count as sent, though it has never left.

    :param stop: called in the signal handler; the block should then end soon.
    :param at_most: seconds for which the alarm waits; a block that takes longer, such as one whose database hangs, is broken off.
    """
    usual = signal.getsignal(signal.SIGALRM) if hasattr(signal, "SIGALRM") else None
    if not callable(usual) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[FrameType | None] = []

    def wait(number: int, frame: FrameType | None) -> None:
        if came:
            signal.signal(number, usual)
            came.clear()
            usual(number, frame)
            return
        came.append(frame)
        signal.setitimer(signal.ITIMER_REAL, at_most)
        stop()

    signal.signal(signal.SIGALRM, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, usual)
        if came:
            signal.setitimer(signal.ITIMER_REAL, 0)
            usual(signal.SIGALRM, came[0])
