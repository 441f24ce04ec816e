# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Threads for blocking calls, so that the event loop of a triggerer never waits, and the slots that limit their number.

A triggerer is shared: a host that hangs occupies its own slots and no others, and a poll that waits for a slot needs no thread.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import cache, partial
from typing import TypeVar
from weakref import WeakKeyDictionary

import msgspec

from limio_limitrail.api.retry import deadline_in
from limio_limitrail.polling.poll import LONGEST_POLL, PollTimeoutError

T = TypeVar("T")

SLOTS_PER_HOST = 8
"""Polls of one host (scheme, name and port) at once."""

SLOTS_PER_LIST = SLOTS_PER_HOST - 2
"""Polls of one list, or one kind of object, at once: if it alone hangs, the host's others get the rest."""

MAX_SLOTS = 32
"""Polls at once in a triggerer process. When there are so many, a host has one slot; that one it always has."""

LAST_POLL = 5.0
"""Seconds that a poll which starts at the deadline may take. Whatever takes longer ends at the deadline itself."""

OVERRUN = 30.0
"""Seconds that a call may run past its time limit before it is given up: it hangs in somebody else's code."""


class SlotKey(msgspec.Struct, frozen=True, kw_only=True):
    """What calls share slots.

    :param host: the host, or what else may hang, such as the module of a predicate.
    :param target: what of it; empty for all of it.
    """

    host: str
    target: str = ""
    owner: Hashable = None
    limit: int = SLOTS_PER_LIST

    def __str__(self) -> str:
        return f"{self.target} of {self.host}" if self.target else self.host


class Slot(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A slot in use, to be released."""

    key: SlotKey
    since: float = msgspec.field(default_factory=time.monotonic)


class Slots:
    """The slots of one event loop, which alone may call this."""

    def __init__(self) -> None:
        self._used: dict[SlotKey, list[Slot]] = {}
        self._by_host: Counter[str] = Counter()
        self._waiting: dict[SlotKey, dict[int, asyncio.Future[Slot]]] = {}
        self._numbers = itertools.count()

    async def acquire(self, key: SlotKey) -> Slot:
        """Wait for a slot: first come, first served."""
        number = next(self._numbers)
        future: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, {})[number] = future
        self._grant()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release(future.result())
            elif key in self._waiting:
                self._waiting[key].pop(number, None)
                self._drop_if_empty(key)
            raise

    def release(self, slot: Slot) -> None:
        """Free a slot."""
        used = self._used[slot.key]
        used.remove(slot)
        if not used:
            del self._used[slot.key]
        self._by_host[slot.key.host] -= 1
        if not self._by_host[slot.key.host]:
            del self._by_host[slot.key.host]
        self._grant()

    def why_none(self, key: SlotKey) -> str:
        """Return why no slot is free, as a clause."""
        used, where = self._used.get(key, []), str(key)
        if len(used) < key.limit:
            used = [slot for known, slots in self._used.items() if known.host == key.host for slot in slots]
            where = key.host
        oldest = max((time.monotonic() - slot.since for slot in used), default=0.0)
        return f"no slot became free: {len(used)} others are busy with {where}, the first of them for {oldest:.0f} s"

    def _grant(self) -> None:
        while heads := [(next(iter(waiting)), key) for key, waiting in self._waiting.items() if self._is_free(key)]:
            number, key = min(heads, key=lambda head: head[0])
            future = self._waiting[key].pop(number)
            self._drop_if_empty(key)
            if not future.done():
                slot = Slot(key=key)
                self._used.setdefault(key, []).append(slot)
                self._by_host[key.host] += 1
                future.set_result(slot)

    def _is_free(self, key: SlotKey) -> bool:
        if len(self._used.get(key, ())) >= key.limit:
            return False
        used = self._by_host[key.host]
        return used == 0 or (used < SLOTS_PER_HOST and self._by_host.total() < MAX_SLOTS)

    def _drop_if_empty(self, key: SlotKey) -> None:
        if not self._waiting[key]:
            del self._waiting[key]


_slots: WeakKeyDictionary[asyncio.AbstractEventLoop, Slots] = WeakKeyDictionary()


def slots_of_loop() -> Slots:
    """Return the slots of the running event loop; a triggerer has one loop."""
    return _slots.setdefault(asyncio.get_running_loop(), Slots())


def seconds_left(end: float) -> float:
    """Return the seconds for what starts now: until the deadline, and a little longer if that is near."""
    return max(end - time.monotonic(), LAST_POLL)


async def run_in_thread(call: Callable[[], T], *, key: SlotKey, within: float = math.inf, seconds: float = LONGEST_POLL) -> T:
    """Run a call in a thread of its own, as soon as there is a slot for it.

    The slot is released when the call ends, even if nobody waits for it any more.

    :param within: seconds that the caller waits for the slot and the end of the call.
    :param seconds: seconds for the requests that the call sends.
    :raises PollTimeoutError: it took longer.
    """
    loop, slots = asyncio.get_running_loop(), slots_of_loop()
    end = loop.time() + within
    try:
        async with asyncio.timeout_at(end):
            slot = await slots.acquire(key)
    except TimeoutError:
        raise PollTimeoutError(slots.why_none(key)) from None
    left = end - loop.time()
    ended: asyncio.Future[T] = loop.create_future()
    try:
        _start(call, partial(_end, slots, slot, ended), loop=loop, seconds=min(seconds, left + 1))
    except BaseException:
        slots.release(slot)
        raise
    bound = asyncio.timeout_at(loop.time() + min(left, seconds + OVERRUN))
    try:
        async with bound:
            return await ended
    except TimeoutError:
        if not bound.expired():
            raise
        raise PollTimeoutError(f"still busy with {key} after {loop.time() - slot.since:.0f} s") from None
    finally:
        # An error holds this frame. If the frame held the error, both would stay until Python collects its garbage.
        del ended


async def import_in_thread(module: str, *, within: float = math.inf) -> None:
    """Import a module: the first time, this may take longer than an event loop may wait."""
    await run_in_thread(lambda: importlib.import_module(module), key=SlotKey(host="imports"), within=within)


def _end(slots: Slots, slot: Slot, ended: asyncio.Future[T], result: T | None, error: BaseException | None) -> None:
    slots.release(slot)
    if ended.done():
        return
    if error is None:
        ended.set_result(result)  # type: ignore[arg-type] # there is one if there is no error
    else:
        ended.set_exception(error)


def _start(
    call: Callable[[], T],
    end: Callable[[T | None, BaseException | None], None],
    *,
    loop: asyncio.AbstractEventLoop,
    seconds: float,
) -> None:
    """Start a thread that does not keep the process from ending.

    :param end: called in the event loop, with the result or the error.
    :param seconds: seconds for the requests that the call sends.
    """

    def bounded() -> T:
        with deadline_in(seconds):
            return call()

    def run(end: Callable[[T | None, BaseException | None], None]) -> None:
        result, error = None, None
        try:
            result = (bounded if threads_may_send() else _within_a_loop(bounded))()
        except Exception as raised:  # noqa: BLE001 - the caller gets it
            error = _as_error(raised) if isinstance(raised, StopIteration | StopAsyncIteration) else raised
        except BaseException as raised:  # noqa: BLE001 - it would end the whole triggerer, or pass for a cancellation
            error = _as_error(raised)
        # The event loop may have been closed.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(end, result, error)
        # As above: they lead to the error.
        del end, error

    threading.Thread(target=run, args=(end,), name="limio-limitrail-poll", daemon=True).start()


def _as_error(error: BaseException) -> RuntimeError:
    """Return an error for what has a meaning of its own in an event loop, and may come out of a predicate.

    A text in it may quote a record, and this error goes to Airflow's database.
    """
    code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else ""
    return RuntimeError(f"{type(error).__name__}({code})")


@cache
def threads_may_send() -> bool:
    """Return whether threads of a triggerer may talk to its supervisor, as `mask_secret` does. Airflow 3.2's dies of it."""
    import airflow.sdk.log

    return hasattr(airflow.sdk.log, "amask_secret")


def _within_a_loop(call: Callable[[], T]) -> Callable[[], T]:
    """Run a call where Airflow does not talk to the supervisor: it refuses to while an event loop runs.

    A secret is then masked in this process, which masks all lines before they leave it.
    """

    async def run() -> T:
        return call()

    return lambda: asyncio.run(run())
