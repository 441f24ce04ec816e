# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How long until the next look."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.api.errors import RateLimitError
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.polling.poll import JITTER, MAX_BACKOFF, MAX_RETRY_AFTER, PollPolicy, capped

INTERVALS = st.floats(0, 86_400)
ASKED = st.none() | st.floats(0, 1e15) | st.just(float("inf"))


@given(INTERVALS, st.integers(0, 900), ASKED)
def test_bounds(interval, failures, retry_after):
    pause = PollPolicy(poke_interval=interval).pause(failures=failures, retry_after=retry_after)
    retry_after = None if retry_after is None else min(retry_after, MAX_RETRY_AFTER)
    assert pause >= (retry_after or 0)
    assert pause >= interval * min(2**failures, MAX_BACKOFF) * (1 - JITTER) * 0.999
    assert pause <= max(interval * MAX_BACKOFF * (1 + JITTER) * 1.001, retry_after or 0)
    if failures == 0:
        assert pause <= max(interval * (1 + JITTER) * 1.001, retry_after or 0)


@given(st.integers(0, 100_000))
def test_many_failures(failures):
    assert PollPolicy(poke_interval=1).pause(failures=failures) <= MAX_BACKOFF * 1.2


@given(st.floats(1, 100))
def test_waits_spread(interval):
    assert len({PollPolicy(poke_interval=interval).pause() for _ in range(10)}) > 1


def failed(asked):
    error = RateLimitError(RequestContext(api="Limio", status=429, retry_after=asked))
    return PollPolicy(poke_interval=1).failed(error, failures=0)


@given(st.floats(0, 1e15))
def test_no_more_than_a_day_is_waited_because_an_api_asked(asked):
    assert capped(asked) == failed(asked).retry_after == min(asked, 86_400)
    assert ("at most 86400 s" in failed(asked).message) == (asked > 86_400)


def test_an_api_that_did_not_ask():
    assert capped(None) is None
    assert failed(None).retry_after is None
    assert "asked to wait" not in failed(None).message
