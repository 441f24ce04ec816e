# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How many requests may be under way: fewer after a refusal, more while all is well, and never none."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.usage.concurrency_limit import DEFAULT_PAUSE, FIRST, LONGEST_PAUSE, AdaptiveConcurrencyLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def enter(pace: AdaptiveConcurrencyLimiter) -> bool:
    """Get in at once."""
    try:
        pace.enter().send(None)
    except StopIteration as entered:
        return entered.value
    raise AssertionError("it had to be waited for")


def may_enter(pace: AdaptiveConcurrencyLimiter, clock: Clock) -> bool:
    """Tell whether one would get in at once."""
    return not pace._stopped and clock.now >= pace._not_before and pace._under_way < pace.limit


STEPS = st.lists(
    st.one_of(
        st.just(("enter",)),
        st.tuples(st.just("leave"), st.integers(0, 63)),
        st.tuples(st.just("lost"), st.integers(0, 63)),
        st.tuples(st.just("refused"), st.integers(0, 63), st.none() | st.floats(0, 500)),
        st.tuples(st.just("wait"), st.floats(0.001, 100)),
    ),
    max_size=80,
)


@given(most=st.integers(1, 64), steps=STEPS)
def test_the_limit_stays_within_its_bounds_and_pauses_are_kept(most, steps):
    clock = Clock()
    pace = AdaptiveConcurrencyLimiter(most, clock=clock)
    under_way: list[float] = []
    not_before, halved_at = 0.0, float("-inf")
    for step, *details in steps:
        before = pace._limit
        if step == "enter":
            if may_enter(pace, clock):
                assert enter(pace)
                assert clock.now >= not_before, "let in during a pause"
                under_way.append(clock.now)
            assert len(under_way) <= most
        elif step == "wait":
            clock.now += details[0]
        elif under_way:
            began = under_way.pop(details[0] % len(under_way))
            if step == "leave":
                pace.leave(began=began)
            elif step == "lost":
                pace.lost()
            else:
                pace.refused(began=began, retry_after=details[1])
                not_before = max(not_before, clock.now + (details[1] or 0.0))
            if pace._limit < before:
                assert began > halved_at, "halved twice in a round"
                assert pace._limit >= before / 2
                halved_at = clock.now
        assert 1 <= pace.limit <= most
        assert pace._under_way == len(under_way)
        assert pace._not_before <= max(not_before, clock.now + LONGEST_PAUSE)


@given(most=st.integers(1, 64), refusals=st.integers(0, 30))
def test_it_grows_again_to_the_most(most, refusals):
    clock = Clock()
    pace = AdaptiveConcurrencyLimiter(most, clock=clock)
    for _ in range(refusals):
        clock.now = max(clock.now, pace._not_before) + 1
        assert enter(pace)
        began, clock.now = clock.now, clock.now + 0.1
        pace.refused(began=began, retry_after=None)
    assert pace.limit == (min(FIRST, most) if refusals == 0 else 1)
    clock.now = max(clock.now, pace._not_before) + 1
    for _ in range(most * most):
        assert enter(pace)
        began, clock.now = clock.now, clock.now + 0.1
        pace.leave(began=began)
    assert pace.limit == most


def test_refusals_of_one_round_halve_once():
    clock = Clock()
    pace = AdaptiveConcurrencyLimiter(64, clock=clock)
    pace._limit = 16.0
    began = [clock.now for _ in range(16) if enter(pace)]
    clock.now += 1
    for start in began:
        pace.refused(began=start, retry_after=0.0)
    assert pace.limit == 8


def test_a_pause_holds_for_everybody():
    clock = Clock()
    pace = AdaptiveConcurrencyLimiter(8, clock=clock)
    assert enter(pace)
    assert enter(pace)
    pace.refused(began=clock.now, retry_after=30.0)
    pace.leave(began=clock.now)
    clock.now += 29.9
    assert not may_enter(pace, clock)
    clock.now += 0.2
    assert may_enter(pace, clock)


def test_a_shorter_pause_does_not_cut_a_longer_one():
    clock = Clock()
    pace = AdaptiveConcurrencyLimiter(8, clock=clock)
    assert enter(pace)
    assert enter(pace)
    pace.refused(began=clock.now, retry_after=100.0)
    pace.refused(began=clock.now, retry_after=1.0)
    clock.now += 50
    assert not may_enter(pace, clock)


def test_pauses_that_the_api_does_not_tell_grow():
    clock = Clock()
    pace = AdaptiveConcurrencyLimiter(1, clock=clock)
    pauses = []
    for _ in range(8):
        clock.now = max(clock.now, pace._not_before) + 1
        assert enter(pace)
        began, clock.now = clock.now, clock.now + 0.1
        pace.refused(began=began, retry_after=None)
        pauses.append(round(pace._not_before - clock.now, 6))
    assert pauses[:5] == [DEFAULT_PAUSE * 2**n for n in range(5)]
    assert max(pauses) == LONGEST_PAUSE


def test_rising_latency_means_fewer():
    clock = Clock()
    pace = AdaptiveConcurrencyLimiter(32, clock=clock)

    def rounds(count, seconds):
        for _ in range(count):
            assert enter(pace)
            began, clock.now = clock.now, clock.now + seconds
            pace.leave(began=began)

    rounds(200, 0.1)
    before = pace.limit
    rounds(5, 3.0)
    assert pace.limit < before
    rounds(1000, 3.0)
    assert pace.limit == 32, "an API that is slow for good is held to what it once was"


def test_all_get_through_and_never_too_many_at_once():
    pace = AdaptiveConcurrencyLimiter(4)
    inside = most_inside = done = 0

    async def work(number):
        nonlocal inside, most_inside, done
        for turn in range(30):
            assert await pace.enter()
            began = time.monotonic()
            inside += 1
            most_inside = max(most_inside, inside)
            await asyncio.sleep(0.0001 * (number % 3))
            inside -= 1
            done += 1
            match (number + turn) % 7:
                case 0:
                    pace.lost()
                case 1 if turn < 5:
                    pace.refused(began=began, retry_after=0.001)
                case _:
                    pace.leave(began=began)

    async def main():
        await asyncio.wait_for(asyncio.gather(*(work(number) for number in range(12))), timeout=300)

    asyncio.run(main())
    assert done == 12 * 30
    assert 1 < most_inside <= 4


def test_a_pause_that_is_over_lets_those_in_who_wait():
    """Nobody else comes or leaves meanwhile."""
    pace = AdaptiveConcurrencyLimiter(4)

    async def main():
        began = time.monotonic()
        assert await pace.enter()
        pace.refused(began=began, retry_after=0.2)
        assert await asyncio.wait_for(pace.enter(), timeout=300)
        return time.monotonic() - began

    assert asyncio.run(main()) >= 0.2


@pytest.mark.parametrize("leaves", ["leave", "lost", "refused"])
def test_whoever_leaves_lets_the_next_one_in(leaves):
    """Nobody else comes or leaves."""
    pace = AdaptiveConcurrencyLimiter(1)

    async def main():
        began = time.monotonic()
        assert await pace.enter()
        waiting = asyncio.ensure_future(pace.enter())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        match leaves:
            case "leave":
                pace.leave(began=began)
            case "lost":
                pace.lost()
            case "refused":
                pace.refused(began=began, retry_after=0.1)
        assert await asyncio.wait_for(waiting, timeout=300)
        assert pace.under_way == 1

    asyncio.run(main())


def test_stop_sends_everybody_home():
    pace = AdaptiveConcurrencyLimiter(1)

    async def main():
        assert await pace.enter()
        waiting = [asyncio.ensure_future(pace.enter()) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert not any(one.done() for one in waiting)
        pace.stop()
        assert await asyncio.wait_for(asyncio.gather(*waiting), timeout=300) == [False] * 3
        assert not await pace.enter()

    asyncio.run(main())
