# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Who may look next. A triggerer is shared: a host that hangs holds up its own looks and no others, and no look holds a thread
before its turn."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

LOOKS_AT_ONCE = 8
"""Looks at one host (scheme, name and port) at once."""

LOOKS_AT_ONE_LIST = LOOKS_AT_ONCE - 2
"""Looks at one list, or one kind of object, at once: where it alone hangs, what else the host has gets the rest."""

THREADS = 32
"""Looks at once in a triggerer process. While there are so many, a host has one look at a time; that one it always has."""


@dataclass(frozen=True, kw_only=True)
class Lane:
    """What waits for the same turns.

    :param place: the host, or what else may hang, such as the module of a predicate.
    :param what: what of it; all of it where it is left out.
    :param whose: tells lanes of the same name apart.
    :param most: turns of this lane at once.
    """

    place: str
    what: str = ""
    whose: Hashable = None
    most: int = LOOKS_AT_ONE_LIST

    def __str__(self) -> str:
        """Name it."""
        return f"{self.what} of {self.place}" if self.what else self.place


@dataclass(frozen=True, kw_only=True, eq=False)
class Turn:
    """A turn that was given, and has to be given back.

    :param began: when, in monotonic seconds.
    """

    lane: Lane
    began: float = field(default_factory=time.monotonic)


class Turns:
    """The turns of one event loop, which alone may call this."""

    def __init__(self) -> None:
        self._given: dict[Lane, list[Turn]] = {}
        self._places: Counter[str] = Counter()
        self._waiting: dict[Lane, dict[int, asyncio.Future[Turn]]] = {}
        self._numbers = itertools.count()

    async def take(self, lane: Lane) -> Turn:
        """Wait for a turn, in the order of those who ask for the same place."""
        number = next(self._numbers)
        coming: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(lane, {})[number] = coming
        self._give()
        try:
            return await coming
        except asyncio.CancelledError:
            if coming.done() and not coming.cancelled():
                self.give_back(coming.result())
            elif (waiting := self._waiting.get(lane)) is not None:
                waiting.pop(number, None)
                self._tidy(lane)
            raise

    def give_back(self, turn: Turn) -> None:
        """End a turn."""
        given = self._given[turn.lane]
        given.remove(turn)
        if not given:
            del self._given[turn.lane]
        self._places[turn.lane.place] -= 1
        if not self._places[turn.lane.place]:
            del self._places[turn.lane.place]
        self._give()

    def why_none(self, lane: Lane) -> str:
        """Say what a lane waits for, as a clause."""
        given, where = self._given.get(lane, []), str(lane)
        if len(given) < lane.most:
            given = [turn for known, turns in self._given.items() if known.place == lane.place for turn in turns]
            where = lane.place
        oldest = max((time.monotonic() - turn.began for turn in given), default=0.0)
        return f"no turn came: {len(given)} others are busy with {where}, the first of them for {oldest:.0f} s"

    def _give(self) -> None:
        """Give turns to those who wait, as far as there are any, first come, first served."""
        while True:
            heads = [(next(iter(waiting)), lane) for lane, waiting in self._waiting.items() if self._is_free(lane)]
            if not heads:
                return
            number, lane = min(heads, key=lambda head: head[0])
            coming = self._waiting[lane].pop(number)
            self._tidy(lane)
            if not coming.done():
                turn = Turn(lane=lane)
                self._given.setdefault(lane, []).append(turn)
                self._places[lane.place] += 1
                coming.set_result(turn)

    def _is_free(self, lane: Lane) -> bool:
        if len(self._given.get(lane, ())) >= lane.most:
            return False
        there = self._places[lane.place]
        return there == 0 or (there < LOOKS_AT_ONCE and self._places.total() < THREADS)

    def _tidy(self, lane: Lane) -> None:
        if not self._waiting[lane]:
            del self._waiting[lane]


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def turns_of_loop() -> Turns:
    """Return the running event loop's turns; a triggerer has one loop."""
    return _turns.setdefault(asyncio.get_running_loop(), Turns())
