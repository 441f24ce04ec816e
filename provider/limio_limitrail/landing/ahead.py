# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Fetch the next page while this one is landed."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Give an iterator's items in order, while a thread is at the next one already; never at more than one.

    What the iterator raises is raised here, after all items before it. Whoever ends early lets the thread end with what it is at.
    """
    found: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    room = threading.Semaphore(1)
    ended = False

    def work() -> None:
        try:
            while room.acquire() and not ended:
                found.put(next(items))
        except StopIteration:
            found.put(_End(None))
        except BaseException as error:  # noqa: BLE001 - raised where the items are taken
            found.put(_End(error))

    threading.Thread(target=contextvars.copy_context().run, args=(work,), name="pages", daemon=True).start()
    try:
        while not isinstance(item := found.get(), _End):
            room.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        ended = True
        room.release()


class _End:
    """Stands behind the last item.

    :param error: what came instead of another one; none where there is no other.
    """

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
