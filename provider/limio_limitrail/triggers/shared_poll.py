# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Where those who watch the same list meet the one who looks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from limio_limitrail.api.list_identity import Source
    from limio_limitrail.polling.fingerprints import RecordFingerprint
    from limio_limitrail.polling.watch_filter import PredicateError
    from limio_limitrail.triggers.watch import Watcher


@dataclass(kw_only=True, eq=False)
class PollRound:
    """What one look has shown to each of those who watch.

    :param seen: what each has seen, or that its predicate failed. Who came while the look was under way is not among them.
    :param source: whose list it was.
    :param on_heard: what to do when all events that were made of it are kept by Airflow.
    """

    seen: Mapping[Watcher, tuple[RecordFingerprint, ...] | PredicateError] = field(default_factory=dict)
    source: Source | None = None
    on_heard: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def acknowledge(self) -> None:
        """Tell that Airflow has kept all events that were made of it."""
        while self.on_heard:
            await self.on_heard.pop()()


class SharedPoll:
    """Those who watch one list."""

    def __init__(self) -> None:
        self.watchers: set[Watcher] = set()
        self._occupied = asyncio.Event()

    @contextmanager
    def place(self, watcher: Watcher) -> Iterator[None]:
        """Have a place there."""
        self.watchers.add(watcher)
        self._occupied.set()
        try:
            yield
        finally:
            self.watchers.discard(watcher)
            if not self.watchers:
                self._occupied.clear()

    async def occupied(self) -> None:
        """Wait until there is somebody."""
        await self._occupied.wait()


_desks: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, SharedPoll]] = WeakKeyDictionary()


def shared_poll_of(key: Hashable) -> SharedPoll:
    """Give the running event loop's desk for a list."""
    desks = _desks.setdefault(asyncio.get_running_loop(), {})
    return desks.setdefault(key, SharedPoll())
