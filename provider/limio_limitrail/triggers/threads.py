# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Threads in which triggers do what may take time, so that the event loop never stands still."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import TypeVar

from limio_limitrail.api.deadline import deadline_in
from limio_limitrail.polling.poll import LONGEST_LOOK
from limio_limitrail.triggers.poll_slots import Lane, Turn, Turns, turns_of_loop

T = TypeVar("T")

OVERRUN = 30.0
"""Seconds that a look may go on after its time is up, before nobody waits for it any more: it hangs in somebody else's code."""


class NotInTimeError(Exception):
    """Something did not get its turn, or did not end, in time. It may still go on in its thread."""


async def in_thread(call: Callable[[], T], *, lane: Lane, within: float = math.inf, seconds: float = LONGEST_LOOK) -> T:
    """Call something in a thread of its own, when its turn has come.

    The turn ends when the call does, and not when nobody waits for it any more.

    :param within: seconds that the caller waits for the turn and the end of the call.
    :param seconds: seconds for the requests that the call makes.
    :raises NotInTimeError: it took longer.
    """
    loop, turns = asyncio.get_running_loop(), turns_of_loop()
    end = loop.time() + within
    bound = asyncio.timeout_at(end)
    try:
        async with bound:
            turn = await turns.take(lane)
    except TimeoutError:
        raise NotInTimeError(turns.why_none(lane)) from None
    left = end - loop.time()
    ended: asyncio.Future[T] = loop.create_future()
    try:
        _start(call, partial(_end, turns, turn, ended), loop=loop, seconds=min(seconds, left + 1))
    except BaseException:
        turns.give_back(turn)
        raise
    bound = asyncio.timeout_at(loop.time() + min(left, seconds + OVERRUN))
    try:
        async with bound:
            return await ended
    except TimeoutError:
        if not bound.expired():
            raise
        since = loop.time() - turn.began
        raise NotInTimeError(f"busy with {lane} for {since:.0f} s, and not done") from None
    finally:
        # An error holds this frame. If the frame held the error, both would stay until Python collects its garbage.
        del ended


def _end(turns: Turns, turn: Turn, ended: asyncio.Future[T], result: T | None, error: BaseException | None) -> None:
    turns.give_back(turn)
    if ended.done():
        return
    if error is None:
        ended.set_result(result)  # type: ignore[arg-type] # there is one, where there is no error
    else:
        ended.set_exception(error)


def _start(
    call: Callable[[], T],
    end: Callable[[T | None, BaseException | None], None],
    *,
    loop: asyncio.AbstractEventLoop,
    seconds: float,
) -> None:
    """Start a thread that an ending process does not wait for.

    :param end: called in the event loop, with the result or the error.
    :param seconds: seconds for the requests that the call makes.
    """

    def bounded() -> T:
        with deadline_in(seconds):
            return call()

    def run(end: Callable[[T | None, BaseException | None], None]) -> None:
        result, error = None, None
        try:
            result = (bounded if threads_may_send() else _silent(bounded))()
        except Exception as raised:  # noqa: BLE001 - the caller gets it
            error = _foreign(raised) if isinstance(raised, StopIteration | StopAsyncIteration) else raised
        except BaseException as raised:  # noqa: BLE001 - it would end the whole triggerer, or pass for a cancellation
            error = _foreign(raised)
        # An event loop that has ended wants to know nothing any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(end, result, error)
        # Likewise: they lead to the error.
        del end, error

    threading.Thread(target=run, args=(end,), name="limio-limitrail-look", daemon=True).start()


def _foreign(error: BaseException) -> RuntimeError:
    """Make an error of what means something else to an event loop, and may come out of anything that a predicate does."""
    return RuntimeError(f"SystemExit({error.code!r})" if isinstance(error, SystemExit) else f"{type(error).__name__}()")


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
