# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Fetch the next pages while this one is landed."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


MOST = 2
"""Items that may wait to be taken: the thread goes straight on to the next one, without being woken first."""

HEAD_START = 0.0005
"""Seconds for the thread to ask for its next item, before whoever waited for this one keeps the interpreter busy."""


def prefetch(items: Iterator[T], *, may_go_on: Callable[[T], bool] = lambda _: True) -> Iterator[T]:
    """Give an iterator's items in order, while a thread is at the next ones already, never at more than `MOST`.

    What the iterator raises is raised here, after all items before it. Whoever ends early lets the thread end with what it is at.

    :param items: the iterator.
    :param may_go_on: told each item; after the first one that it is False for, no item is fetched before it is asked for.
    """
    found: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    room = threading.Semaphore(MOST)
    ended = False

    def work() -> None:
        try:
            while room.acquire() and not ended:
                item = next(items)
                # Asked before the item is given, because whoever takes it may ask for the next one in another thread.
                goes_on = may_go_on(item)
                found.put(item)
                if not goes_on:
                    found.put(_End(None, takes_over=True))
                    return
        except StopIteration:
            found.put(_End(None))
        except BaseException as error:  # noqa: BLE001 - raised where the items are taken
            found.put(_End(error))

    threading.Thread(target=contextvars.copy_context().run, args=(work,), name="pages", daemon=True).start()
    try:
        while True:
            late = found.empty()
            if isinstance(item := found.get(), _End):
                end = item
                break
            room.release()
            if late:
                time.sleep(HEAD_START)
            yield item
        if end.error is not None:
            raise end.error
        if end.takes_over:
            yield from items
    finally:
        ended = True
        room.release()


class _End:
    """Stands behind the last item.

    :param error: what came instead of another one; none where there is no other.
    :param takes_over: True where others may follow, which the thread does not fetch.
    """

    def __init__(self, error: BaseException | None, *, takes_over: bool = False) -> None:
        self.error = error
        self.takes_over = takes_over
