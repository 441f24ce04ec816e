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

    def plainly() -> T:
        try:
            return call(*args, **kwargs)
        except SystemExit as error:
            # It would end the whole triggerer, and may come out of anything that a predicate's module does.
            raise RuntimeError(f"SystemExit({error.code!r})") from None

    return await asyncio.get_running_loop().run_in_executor(
        looking_threads(), plainly if threads_may_send() else _silent(plainly)
    )


@cache
def threads_may_send() -> bool:
    """Tell whether threads of a triggerer may talk to its supervisor, as `mask_secret` does. Airflow 3.2's ends of it."""
    import airflow.sdk.log

    return hasattr(airflow.sdk.log, "amask_secret")


def _silent(call: Callable[[], T]) -> Callable[[], T]:
    """Keep a call in a thread from talking to the supervisor: Airflow refuses that where an event loop runs.

    A secret is then masked in this process, where all lines are masked before they leave it.
    """

    async def within_a_loop() -> T:
        return call()

    return lambda: asyncio.run(within_a_loop())
