# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Compress and write in a thread, while the next page is read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec

P = ParamSpec("P")

MOST = 1
"""Calls that may be under way or waiting, which bounds what they hold in memory."""


class BackgroundWriter:
    """Makes calls one after another in a thread of its own. What one of them raises is raised by the next `do`, or by `wait`."""

    def __init__(self) -> None:
        # Its thread ends with it: nobody has to close it.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="parts")
        self._calls: deque[Future[object]] = deque()

    def do(self, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have something called, and wait only if too much waits already."""
        while len(self._calls) >= MOST:
            self._calls.popleft().result()
        self._calls.append(self._thread.submit(copy_context().run, lambda: call(*args, **kwargs)))

    def wait(self) -> None:
        """Wait until everything has been done."""
        while self._calls:
            self._calls.popleft().result()
