# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Who may look next, against a model that keeps all who wait in one list."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.api.retry import seconds_left
from limio_limitrail.triggers.threads import (
    MAX_SLOTS,
    SLOTS_PER_HOST,
    SLOTS_PER_LIST,
    PollTimeoutError,
    Slot,
    SlotKey,
    Slots,
    run_in_thread,
    slots_of_loop,
)

LANES = [
    *(SlotKey(host=f"host-{place}", target=what) for place in range(12) for what in ("orders", "baskets", "catalog")),
    *(SlotKey(host=f"host-{place}", target="orders with a predicate", limit=1) for place in range(12)),
]


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


class Model:
    """All who wait, in the order in which they came; and who has a turn."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, SlotKey]] = []
        self.given: list[tuple[int, SlotKey]] = []

    def is_free(self, lane: SlotKey) -> bool:
        there = sum(one.host == lane.host for _, one in self.given)
        if sum(one == lane for _, one in self.given) >= lane.limit:
            return False
        return there == 0 or (there < SLOTS_PER_HOST and len(self.given) < MAX_SLOTS)

    def give(self) -> None:
        while one := next((one for one in self.waiting if self.is_free(one[1])), None):
            self.waiting.remove(one)
            self.given.append(one)


# One host is asked for so often that its turns run out.
ANY_LANE = st.one_of(st.integers(0, 2), st.integers(0, len(LANES) - 1))
STEPS = st.lists(
    st.tuples(st.sampled_from(["come", "come", "come", "end", "leave"]), ANY_LANE, st.integers(0, 10**6)),
    max_size=120,
)


@given(STEPS)
def test_turns_are_given_as_the_model_gives_them(steps):
    async def scenario() -> None:
        turns, model = Slots(), Model()
        tasks: dict[int, asyncio.Task[Slot]] = {}
        for number, (step, lane, choice) in enumerate(steps):
            if step == "come":
                tasks[number] = asyncio.create_task(turns.acquire(LANES[lane]))
                model.waiting.append((number, LANES[lane]))
            elif step == "end" and model.given:
                one = model.given.pop(choice % len(model.given))
                turns.release(tasks[one[0]].result())
            elif step == "leave" and model.waiting:
                one = model.waiting.pop(choice % len(model.waiting))
                tasks[one[0]].cancel()
            model.give()
            await settle()
            has = {number for number, task in tasks.items() if task.done() and not task.cancelled()}
            assert {one[0] for one in model.given} <= has
            assert not {one[0] for one in model.waiting} & has
        for task in tasks.values():
            task.cancel()

    asyncio.run(scenario())


@given(st.integers(1, 60), st.integers(0, 2**32))
def test_whoever_leaves_in_any_moment_keeps_no_turn(takers, seed):
    chance = random.Random(seed)

    async def scenario() -> None:
        turns = Slots()

        async def come() -> None:
            turn = await turns.acquire(LANES[0])
            try:
                await asyncio.sleep(0)
            finally:
                turns.release(turn)

        tasks = [asyncio.create_task(come()) for _ in range(takers)]
        while not all(task.done() for task in tasks):
            if chance.random() < 0.3:
                chance.choice(tasks).cancel()
            await asyncio.sleep(0)
        assert not turns._waiting
        assert not turns._used
        assert not turns._by_host

    asyncio.run(scenario())


def test_a_host_has_a_few_turns_at_once_however_many_ask():
    async def scenario() -> None:
        turns = Slots()
        coming = [asyncio.create_task(turns.acquire(lane)) for _ in range(SLOTS_PER_HOST) for lane in LANES[:3]]
        while coming:
            await settle()
            given = [one for one in coming if one.done()]
            assert len(given) == min(SLOTS_PER_HOST, len(coming))
            turns.release(given[0].result())
            coming.remove(given[0])

    asyncio.run(scenario())


def test_a_host_has_one_turn_however_many_others_have():
    async def scenario() -> None:
        turns = Slots()
        lanes = [lane for lane in LANES if lane.limit > 1]
        full = [asyncio.create_task(turns.acquire(lane)) for _ in range(SLOTS_PER_HOST) for lane in lanes[: 3 * 4]]
        await settle()
        assert sum(one.done() for one in full) == MAX_SLOTS
        late = [asyncio.create_task(turns.acquire(lanes[-1])) for _ in range(2)]
        await settle()
        assert [one.done() for one in late] == [True, False]
        turns.release(late[0].result())
        await settle()
        assert late[1].done()

    asyncio.run(scenario())


def test_one_who_is_cancelled_just_when_the_turn_comes_gives_it_back():
    async def scenario() -> None:
        turns = Slots()
        first = [await turns.acquire(LANES[0]) for _ in range(SLOTS_PER_LIST)]
        second, third = asyncio.create_task(turns.acquire(LANES[0])), asyncio.create_task(turns.acquire(LANES[0]))
        await settle()
        turns.release(first.pop())
        # It has the turn, and does not know of it.
        second.cancel()
        await settle()
        assert second.cancelled()
        assert third.done()
        for turn in (*first, third.result()):
            turns.release(turn)
        assert not turns._used
        assert not turns._by_host

    asyncio.run(scenario())


def test_why_no_turn_comes():
    async def scenario() -> list[str]:
        turns = Slots()
        for lane in (*[LANES[0]] * 6, *[LANES[1]] * 2):
            await turns.acquire(lane)
        return [turns.why_none(LANES[0]), turns.why_none(LANES[2])]

    assert asyncio.run(scenario()) == [
        "no slot became free: 6 others are busy with orders of host-0, the first of them for 0 s",
        "no slot became free: 8 others are busy with host-0, the first of them for 0 s",
    ]


# -- in threads ----------------------------------------------------------------------------------------------------


def test_no_more_threads_than_turns():
    most, lock, under_way = Counter[str](), threading.Lock(), Counter[str]()

    def work(place: str) -> str:
        with lock:
            under_way[place] += 1
            most[place] = max(most[place], under_way[place])
            most["all"] = max(most["all"], under_way.total())
        threading.Event().wait(0.005)
        with lock:
            under_way[place] -= 1
        return place

    async def scenario() -> list[str]:
        calls = [
            run_in_thread(lambda lane=lane: work(lane.host), key=lane)  # type: ignore[misc]
            for _ in range(5)
            for lane in LANES
        ]
        return await asyncio.gather(*calls)

    assert len(asyncio.run(scenario())) == 5 * len(LANES)
    assert most.pop("all") <= MAX_SLOTS + 12
    assert max(most.values()) <= SLOTS_PER_HOST


ERRORS = [
    (ValueError("one"), ValueError, "one"),
    (StopIteration(), RuntimeError, r"StopIteration\(\)"),
    (StopAsyncIteration(), RuntimeError, r"StopAsyncIteration\(\)"),
    (SystemExit(3), RuntimeError, r"SystemExit\(3\)"),
    (KeyboardInterrupt(), RuntimeError, r"KeyboardInterrupt\(\)"),
    (asyncio.CancelledError(), RuntimeError, r"CancelledError\(\)"),
    (GeneratorExit(), RuntimeError, r"GeneratorExit\(\)"),
    (TimeoutError("of its own"), TimeoutError, "of its own"),
]


@pytest.mark.parametrize(("raised", "comes", "says"), ERRORS, ids=lambda value: type(value).__name__)
def test_what_a_call_raises(raised, comes, says):
    def call() -> None:
        raise raised

    async def scenario() -> None:
        with pytest.raises(comes, match=says):
            await run_in_thread(call, key=LANES[0], within=60)
        assert not slots_of_loop()._used

    asyncio.run(scenario())


@pytest.mark.parametrize("end", ["cancelled", "late", "too late for any look"])
def test_a_turn_is_given_back_when_the_call_ends(end, monkeypatch):
    monkeypatch.setattr("limio_limitrail.triggers.threads.OVERRUN", 0.05)
    over = threading.Event()
    lane = SlotKey(host="host", target="orders", limit=1)

    async def scenario() -> None:
        bounds: dict[str, Any] = {"late": {"within": 0.1}, "too late for any look": {"seconds": 0.05}}.get(end, {})
        hanging = asyncio.create_task(run_in_thread(over.wait, key=lane, **bounds))
        await asyncio.sleep(0.05)
        if end == "cancelled":
            hanging.cancel()
        with pytest.raises(asyncio.CancelledError if end == "cancelled" else PollTimeoutError):
            await hanging
        with pytest.raises(PollTimeoutError, match="no slot became free: 1 others are busy with orders of host"):
            await run_in_thread(lambda: 1, key=lane, within=0.1)
        over.set()
        assert await run_in_thread(lambda: 1, key=lane, within=60) == 1

    asyncio.run(scenario())


def test_requests_end_with_whoever_waits_for_them():
    async def scenario() -> list[float]:
        return [
            await run_in_thread(seconds_left, key=LANES[0]),
            await run_in_thread(seconds_left, key=LANES[0], seconds=700),
            await run_in_thread(seconds_left, key=LANES[0], within=500),
            await run_in_thread(seconds_left, key=LANES[0], within=500, seconds=200),
        ]

    usual, own, waited, shorter = asyncio.run(scenario())
    assert 1000 < usual <= 1800
    assert 500 < own <= 700
    assert 200 < waited <= 501
    assert shorter <= 200


def test_a_thread_that_cannot_be_started_gives_its_turn_back(monkeypatch):
    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario() -> None:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            await run_in_thread(lambda: 1, key=LANES[0])
        assert not slots_of_loop()._used

    asyncio.run(scenario())


def test_a_loop_that_has_ended_is_told_nothing():
    over, told = threading.Event(), threading.Event()

    def call() -> None:
        over.wait(60)
        told.set()

    async def scenario() -> None:
        with suppress(PollTimeoutError):
            await run_in_thread(call, key=LANES[0], within=0.05)

    asyncio.run(scenario())
    over.set()
    assert told.wait(60)
