# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Go through several iterators at the same time, in threads."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

AHEAD = 2
"""Items of one thread that wait to be taken, or are on their way: what waits in memory is bounded by the threads."""


class ConsumerStoppedError(Exception):
    """Ends what a thread is at, once its items are not wanted any more."""


class Ending:
    """Tells threads that their items are not wanted any more."""

    def __init__(self) -> None:
        self._ended = threading.Event()

    @property
    def told(self) -> bool:
        """Whether nobody waits any more."""
        return self._ended.is_set()

    def tell(self) -> None:
        """Let all threads end."""
        self._ended.set()

    def sleep(self, seconds: float) -> None:
        """Wait, but no longer than anybody waits for what comes after.

        :raises ConsumerStoppedError: nobody does.
        """
        if self._ended.wait(seconds):
            raise ConsumerStoppedError


def interleave(rows: Iterator[Iterator[T]], *, threads: int, ending: Ending) -> Iterator[T]:
    """Give the items of all rows as they come. Those of one row stay in order.

    Each thread takes a row, goes through it, and takes the next one. What a row raises is raised here, after the items that came
    before; no row goes on then. Whoever ends early lets each thread end with what it is at, and waits for none.

    :param rows: gives a row when a thread has time for one; one thread asks at a time.
    :param threads: how many rows are gone through at once.
    :param ending: is told at the end, however that comes about.
    """
    found: queue.SimpleQueue[tuple[threading.Semaphore, T | _End]] = queue.SimpleQueue()
    taking = threading.Lock()

    def items() -> Iterator[T]:
        while True:
            with taking:
                row = None if ending.told else next(rows, None)
            if row is None:
                return
            yield from row

    def work(room: threading.Semaphore) -> None:
        own = items()
        try:
            while room.acquire() and not ending.told:
                found.put((room, next(own)))
        except StopIteration:
            found.put((room, _End(None)))
        except BaseException as error:  # noqa: BLE001 - raised where the items are taken
            found.put((room, _End(error)))
            ending.tell()

    rooms = [threading.Semaphore(AHEAD) for _ in range(threads)]
    try:
        for number, room in enumerate(rooms):
            run: Callable[..., None] = contextvars.copy_context().run
            threading.Thread(target=run, args=(work, room), name=f"slices-{number}", daemon=True).start()
        at_work = threads
        while at_work:
            room, item = found.get()
            if isinstance(item, _End):
                at_work -= 1
                if item.error is not None:
                    raise item.error
            else:
                room.release()
                yield item
    finally:
        ending.tell()
        for room in rooms:
            room.release()


class _End:
    """Stands behind a thread's last item.

    :param error: what came instead of another one; none where there is no other.
    """

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
