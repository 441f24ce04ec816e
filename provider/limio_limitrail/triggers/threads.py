# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Threads in which triggers do what may take time, so that the event loop never stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 32
"""Looks at once in a triggerer process; more of them wait for their turn."""


@cache
def looking_threads() -> ThreadPoolExecutor:
    """Give the threads in which all triggers of this process look."""
    return ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="limio-limitrail-look")


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call something in a thread."""
    return await asyncio.get_running_loop().run_in_executor(looking_threads(), lambda: call(*args, **kwargs))
