# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How many requests may be under way: fewer after a refusal, more while all is well, and never none."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.usage.concurrency_limit import DEFAULT_PAUSE, INITIAL_LIMIT, LONGEST_PAUSE, AdaptiveConcurrencyLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def enter(limiter: AdaptiveConcurrencyLimiter) -> bool:
    """Get in at once."""
    try:
        limiter.acquire().send(None)
    except StopIteration as entered:
        return entered.value
    raise AssertionError("it had to be waited for")


def may_enter(limiter: AdaptiveConcurrencyLimiter, clock: Clock) -> bool:
    """Tell whether one would get in at once."""
    return not limiter._stopped and clock.now >= limiter._not_before and limiter.in_flight < limiter.limit


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
    limiter = AdaptiveConcurrencyLimiter(most, clock=clock)
    under_way: list[float] = []
    not_before, halved_at = 0.0, float("-inf")
    for step, *details in steps:
        before = limiter._limit
        if step == "enter":
            if may_enter(limiter, clock):
                assert enter(limiter)
                assert clock.now >= not_before, "let in during a pause"
                under_way.append(clock.now)
            assert len(under_way) <= most
        elif step == "wait":
            clock.now += details[0]
        elif under_way:
            began = under_way.pop(details[0] % len(under_way))
            if step == "leave":
                limiter.answered(began=began)
            elif step == "lost":
                limiter.unanswered()
            else:
                limiter.rate_limited(began=began, retry_after=details[1])
                not_before = max(not_before, clock.now + (details[1] or 0.0))
            if limiter._limit < before:
                assert began > halved_at, "halved twice in a round"
                assert limiter._limit >= before / 2
                halved_at = clock.now
        assert 1 <= limiter.limit <= most
        assert limiter.in_flight == len(under_way)
        assert limiter._not_before <= max(not_before, clock.now + LONGEST_PAUSE)


@given(most=st.integers(1, 64), refusals=st.integers(0, 30))
def test_it_grows_again_to_the_most(most, refusals):
    clock = Clock()
    limiter = AdaptiveConcurrencyLimiter(most, clock=clock)
    for _ in range(refusals):
        clock.now = max(clock.now, limiter._not_before) + 1
        assert enter(limiter)
        began, clock.now = clock.now, clock.now + 0.1
        limiter.rate_limited(began=began, retry_after=None)
    assert limiter.limit == (min(INITIAL_LIMIT, most) if refusals == 0 else 1)
    clock.now = max(clock.now, limiter._not_before) + 1
    for _ in range(most * most):
        assert enter(limiter)
        began, clock.now = clock.now, clock.now + 0.1
        limiter.answered(began=began)
    assert limiter.limit == most


def test_it_doubles_with_each_round_until_it_is_halved():
    clock = Clock()
    limiter = AdaptiveConcurrencyLimiter(64, clock=clock)

    def answer_a_round():
        began = [clock.now for _ in range(limiter.limit) if enter(limiter)]
        clock.now += 0.1
        for start in began:
            limiter.answered(began=start)
        return limiter.limit

    assert [answer_a_round() for _ in range(6)] == [4, 8, 16, 32, 64, 64]
    assert enter(limiter)
    began, clock.now = clock.now, clock.now + 0.1
    limiter.rate_limited(began=began, retry_after=0.1)
    clock.now += 0.2
    assert [answer_a_round() for _ in range(3)] == [32, 33, 34], "what was too much once is approached slowly"


def test_refusals_of_one_round_halve_once():
    clock = Clock()
    limiter = AdaptiveConcurrencyLimiter(64, clock=clock)
    limiter._limit = 16.0
    began = [clock.now for _ in range(16) if enter(limiter)]
    clock.now += 1
    for start in began:
        limiter.rate_limited(began=start, retry_after=0.0)
    assert limiter.limit == 8


def test_a_pause_holds_for_everybody():
    clock = Clock()
    limiter = AdaptiveConcurrencyLimiter(8, clock=clock)
    assert enter(limiter)
    assert enter(limiter)
    limiter.rate_limited(began=clock.now, retry_after=30.0)
    limiter.answered(began=clock.now)
    clock.now += 29.9
    assert not may_enter(limiter, clock)
    clock.now += 0.2
    assert may_enter(limiter, clock)


def test_a_shorter_pause_does_not_cut_a_longer_one():
    clock = Clock()
    limiter = AdaptiveConcurrencyLimiter(8, clock=clock)
    assert enter(limiter)
    assert enter(limiter)
    limiter.rate_limited(began=clock.now, retry_after=100.0)
    limiter.rate_limited(began=clock.now, retry_after=1.0)
    clock.now += 50
    assert not may_enter(limiter, clock)


def test_pauses_that_the_api_does_not_tell_grow():
    clock = Clock()
    limiter = AdaptiveConcurrencyLimiter(1, clock=clock)
    pauses = []
    for _ in range(8):
        clock.now = max(clock.now, limiter._not_before) + 1
        assert enter(limiter)
        began, clock.now = clock.now, clock.now + 0.1
        limiter.rate_limited(began=began, retry_after=None)
        pauses.append(round(limiter._not_before - clock.now, 6))
    assert pauses[:5] == [DEFAULT_PAUSE * 2**n for n in range(5)]
    assert max(pauses) == LONGEST_PAUSE


def test_no_pause_at_all_is_none_that_the_api_asks_for():
    """A Retry-After of 0, or a date that has passed: the same request at once would be refused again, for ever."""
    clock = Clock()
    limiter = AdaptiveConcurrencyLimiter(1, clock=clock)
    pauses = []
    for _ in range(3):
        clock.now = max(clock.now, limiter._not_before) + 1
        assert enter(limiter)
        began, clock.now = clock.now, clock.now + 0.1
        limiter.rate_limited(began=began, retry_after=0.0)
        pauses.append(round(limiter._not_before - clock.now, 6))
    assert pauses == [DEFAULT_PAUSE, DEFAULT_PAUSE * 2, DEFAULT_PAUSE * 4]


def test_rising_latency_means_fewer():
    clock = Clock()
    limiter = AdaptiveConcurrencyLimiter(32, clock=clock)

    def rounds(count, seconds):
        for _ in range(count):
            assert enter(limiter)
            began, clock.now = clock.now, clock.now + seconds
            limiter.answered(began=began)

    rounds(200, 0.1)
    before = limiter.limit
    rounds(5, 3.0)
    assert limiter.limit < before
    rounds(1000, 3.0)
    assert limiter.limit == 32, "an API that is slow for good is held to what it once was"


def test_all_get_through_and_never_too_many_at_once():
    limiter = AdaptiveConcurrencyLimiter(4)
    inside = most_inside = done = 0

    async def work(number):
        nonlocal inside, most_inside, done
        for turn in range(30):
            assert await limiter.acquire()
            began = time.monotonic()
            inside += 1
            most_inside = max(most_inside, inside)
            await asyncio.sleep(0.0001 * (number % 3))
            inside -= 1
            done += 1
            match (number + turn) % 7:
                case 0:
                    limiter.unanswered()
                case 1 if turn < 5:
                    limiter.rate_limited(began=began, retry_after=0.001)
                case _:
                    limiter.answered(began=began)

    async def main():
        await asyncio.wait_for(asyncio.gather(*(work(number) for number in range(12))), timeout=300)

    asyncio.run(main())
    assert done == 12 * 30
    assert 1 < most_inside <= 4


def test_a_pause_that_is_over_lets_those_in_who_wait():
    """Nobody else comes or leaves meanwhile."""
    limiter = AdaptiveConcurrencyLimiter(4)

    async def main():
        began = time.monotonic()
        assert await limiter.acquire()
        limiter.rate_limited(began=began, retry_after=0.2)
        assert await asyncio.wait_for(limiter.acquire(), timeout=300)
        return time.monotonic() - began

    assert asyncio.run(main()) >= 0.2


@pytest.mark.parametrize("leaves", ["leave", "lost", "refused"])
def test_whoever_leaves_lets_the_next_one_in(leaves):
    """Nobody else comes or leaves."""
    limiter = AdaptiveConcurrencyLimiter(1)

    async def main():
        began = time.monotonic()
        assert await limiter.acquire()
        waiting = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        match leaves:
            case "leave":
                limiter.answered(began=began)
            case "lost":
                limiter.unanswered()
            case "refused":
                limiter.rate_limited(began=began, retry_after=0.1)
        assert await asyncio.wait_for(waiting, timeout=300)
        assert limiter.in_flight == 1

    asyncio.run(main())


def test_stop_sends_everybody_home():
    limiter = AdaptiveConcurrencyLimiter(1)

    async def main():
        assert await limiter.acquire()
        waiting = [asyncio.ensure_future(limiter.acquire()) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert not any(one.done() for one in waiting)
        limiter.stop()
        assert await asyncio.wait_for(asyncio.gather(*waiting), timeout=300) == [False] * 3
        assert not await limiter.acquire()

    asyncio.run(main())
