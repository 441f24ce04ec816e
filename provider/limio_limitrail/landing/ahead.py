# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Fetch the next pages while this one is landed."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


MOST = 2
"""Items that may wait to be taken: the thread goes straight on to the next one, without being woken first."""

HEAD_START = 0.0005
"""Seconds for the thread to ask for its next item, before whoever waited for this one keeps the interpreter busy."""


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Give an iterator's items in order, while a thread is at the next ones already, never at more than `MOST`.

    What the iterator raises is raised here, after all items before it. Whoever ends early lets the thread end with what it is at.
    """
    found: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    room = threading.Semaphore(MOST)
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
        while True:
            late = found.empty()
            if isinstance(item := found.get(), _End):
                break
            room.release()
            if late:
                time.sleep(HEAD_START)
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
