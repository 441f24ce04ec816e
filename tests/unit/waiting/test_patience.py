# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How long until the next look."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.waiting.patience import JITTER, MOST_BACKOFF, Patience

INTERVALS = st.floats(0, 86_400)
ASKED = st.none() | st.floats(0, 1e9)


@given(INTERVALS, st.integers(0, 900), ASKED)
def test_bounds(interval, failures, retry_after):
    pause = Patience(interval=interval).pause(failures=failures, retry_after=retry_after)
    assert pause >= (retry_after or 0)
    assert pause >= interval * min(2**failures, MOST_BACKOFF) * (1 - JITTER) * 0.999
    assert pause <= max(interval * MOST_BACKOFF * (1 + JITTER) * 1.001, retry_after or 0)
    if failures == 0:
        assert pause <= max(interval * (1 + JITTER) * 1.001, retry_after or 0)


@given(st.integers(0, 100_000))
def test_many_failures(failures):
    assert Patience(interval=1).pause(failures=failures) <= MOST_BACKOFF * 1.2


@given(st.floats(1, 100))
def test_waits_spread(interval):
    assert len({Patience(interval=interval).pause() for _ in range(10)}) > 1
