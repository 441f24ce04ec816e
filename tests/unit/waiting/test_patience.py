# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How long until the next look."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.polling.policy import JITTER, LONGEST_ASKED, MOST_BACKOFF, PollPolicy, cap_note, capped

INTERVALS = st.floats(0, 86_400)
ASKED = st.none() | st.floats(0, 1e15) | st.just(float("inf"))


@given(INTERVALS, st.integers(0, 900), ASKED)
def test_bounds(interval, failures, retry_after):
    pause = PollPolicy(interval=interval).pause(failures=failures, retry_after=retry_after)
    retry_after = None if retry_after is None else min(retry_after, LONGEST_ASKED)
    assert pause >= (retry_after or 0)
    assert pause >= interval * min(2**failures, MOST_BACKOFF) * (1 - JITTER) * 0.999
    assert pause <= max(interval * MOST_BACKOFF * (1 + JITTER) * 1.001, retry_after or 0)
    if failures == 0:
        assert pause <= max(interval * (1 + JITTER) * 1.001, retry_after or 0)


@given(st.integers(0, 100_000))
def test_many_failures(failures):
    assert PollPolicy(interval=1).pause(failures=failures) <= MOST_BACKOFF * 1.2


@given(st.floats(1, 100))
def test_waits_spread(interval):
    assert len({PollPolicy(interval=interval).pause() for _ in range(10)}) > 1


@given(st.floats(0, 1e15))
def test_no_more_than_a_day_is_waited_because_an_api_asked(asked):
    assert capped(asked) == min(asked, 86_400)
    assert ("at most 86400 s" in cap_note(asked)) == (asked > 86_400)


def test_an_api_that_did_not_ask():
    assert (capped(None), cap_note(None)) == (None, "")
