# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Threads and forks: prefetch items, write in the background, interleave iterators, reset state after a fork.

Imports nothing of this package. Begin with `prefetch`, which reads the next pages while the current one is processed.
"""

from __future__ import annotations

import contextvars
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, Protocol, TypeVar
from weakref import WeakSet

import msgspec

T = TypeVar("T")
P = ParamSpec("P")

MAX_PREFETCHED = 2
"""Items that `prefetch` buffers: its thread goes straight on to the next one, without being woken first."""

MAX_INTERLEAVED = 2
"""Items of one thread of `interleave` that are buffered or being fetched, which bounds memory by the number of threads."""

MAX_CONCURRENCY = 16
"""Slices of a list that are fetched at the same time. Neither a rate limit nor a maximum of connections is documented, so this is
a guess; one process could not parse the pages of many more."""

MAX_PENDING_WRITES = 1
"""Calls of a `BackgroundWriter` that may be running or waiting, which bounds what they hold in memory."""

HEAD_START = 0.0005
"""Seconds for the prefetching thread to request its next item, before the consumer of this one keeps the interpreter busy."""


class ResetsAfterFork(Protocol):
    """An object whose state a forked child must not share: locks, tokens, connections."""

    def after_fork(self) -> None:
        """Reset the state. Called in the child, before anything else runs there."""


_registered: WeakSet[ResetsAfterFork] = WeakSet()


def after_fork(instance: ResetsAfterFork) -> None:
    """Call `instance.after_fork()` in every forked child, for as long as the instance lives."""
    _registered.add(instance)


def _reset_all() -> None:
    for instance in list(_registered):
        instance.after_fork()


os.register_at_fork(after_in_child=_reset_all)


class BackgroundWriter:
    """Run calls one after another in a thread. An error of a call is raised by the next `submit`, or by `wait`."""

    def __init__(self) -> None:
        # Its thread ends with it: nobody has to close it.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="parts")
        self._pending: deque[Future[object]] = deque()

    def submit(self, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Queue a call; block only while `MAX_PENDING_WRITES` others are pending."""
        while len(self._pending) >= MAX_PENDING_WRITES:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(contextvars.copy_context().run, lambda: call(*args, **kwargs)))

    def wait(self) -> None:
        """Wait until all calls are done."""
        while self._pending:
            self._pending.popleft().result()


class _End(msgspec.Struct, frozen=True, kw_only=True):
    """Follows the last item of a thread: the iterator raised an error, has more that the thread does not fetch, or is done."""

    error: BaseException | None = None
    has_more: bool = False


def prefetch(
    items: Iterator[T], *, may_prefetch: Callable[[T], bool] = lambda _: True, ahead: int = MAX_PREFETCHED
) -> Generator[T, None, None]:
    """Yield an iterator's items in order, while a thread fetches the next ones.

    An error of the iterator is raised here, after all items before it. If the consumer stops early, the thread ends after the
    item that it is fetching.

    :param may_prefetch: called with each item; after the first one for which it returns False, no item is fetched before it is
        requested.
    :param ahead: items that are fetched at most before they are requested.
    """
    fetched: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    slots = threading.Semaphore(ahead)
    stopped = False

    def work() -> None:
        try:
            while slots.acquire() and not stopped:
                item = next(items)
                # Called before the item is passed on, because its consumer may request the next one in another thread.
                continues = may_prefetch(item)
                fetched.put(item)
                if not continues:
                    fetched.put(_End(has_more=True))
                    return
        except StopIteration:
            fetched.put(_End())
        except BaseException as error:  # noqa: BLE001 - raised in the consumer's thread
            fetched.put(_End(error=error))

    threading.Thread(target=contextvars.copy_context().run, args=(work,), name="pages", daemon=True).start()
    try:
        while True:
            was_empty = fetched.empty()
            if isinstance(item := fetched.get(), _End):
                end = item
                break
            slots.release()
            if was_empty:
                time.sleep(HEAD_START)
            yield item
        if end.error is not None:
            raise end.error
        if end.has_more:
            yield from items
    finally:
        stopped = True
        slots.release()


class ConsumerStoppedError(Exception):
    """Ends the work of a thread whose items are no longer consumed."""


class StopSignal(threading.Event):
    """Stops the threads of an `interleave` after what they are doing."""

    def sleep(self, seconds: float) -> None:
        """Wait some seconds; raise `ConsumerStoppedError` as soon as the signal is set."""
        if self.wait(seconds):
            raise ConsumerStoppedError


def interleave(iterators: Iterator[Iterator[T]], *, threads: int, stop: StopSignal) -> Iterator[T]:
    """Yield the items of several iterators as they arrive, those of each iterator in order.

    Each thread exhausts one iterator, then takes the next one. An error of an iterator is raised here, after the items that came
    before it, and stops all threads. If the consumer stops early, each thread ends after the item that it is fetching.

    :param iterators: yields an iterator when a thread is free; called by one thread at a time.
    :param threads: how many iterators are consumed at once.
    :param stop: is set at the end, whatever ends it.
    """
    fetched: queue.SimpleQueue[tuple[threading.Semaphore, T | _End]] = queue.SimpleQueue()
    lock = threading.Lock()

    def items() -> Iterator[T]:
        while True:
            with lock:
                iterator = None if stop.is_set() else next(iterators, None)
            if iterator is None:
                return
            yield from iterator

    def work(slots: threading.Semaphore) -> None:
        own = items()
        try:
            while slots.acquire() and not stop.is_set():
                fetched.put((slots, next(own)))
        except StopIteration:
            fetched.put((slots, _End()))
        except BaseException as error:  # noqa: BLE001 - raised in the consumer's thread
            fetched.put((slots, _End(error=error)))
            stop.set()

    all_slots = [threading.Semaphore(MAX_INTERLEAVED) for _ in range(threads)]
    try:
        for number, slots in enumerate(all_slots):
            run: Callable[..., None] = contextvars.copy_context().run
            threading.Thread(target=run, args=(work, slots), name=f"slices-{number}", daemon=True).start()
        running = threads
        while running:
            slots, item = fetched.get()
            if isinstance(item, _End):
                running -= 1
                if item.error is not None:
                    raise item.error
            else:
                slots.release()
                yield item
    finally:
        stop.set()
        for slots in all_slots:
            slots.release()
