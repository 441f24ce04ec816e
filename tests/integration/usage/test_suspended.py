# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A worker that is suspended in the middle for longer than its lease, and goes on beside the one that has taken over."""

from __future__ import annotations

import os
import signal
import time

import pytest

from limio_limitrail.emulator import Fault
from tests.support.ledgers import lease_of
from tests.support.usage import COMMIT, make_rows

PATIENCE = 300
LEASE = lease_of(8.0)


@pytest.mark.exhaustive
def test_no_row_is_committed_twice(place_of):
    """Although the API does not know the keys."""
    place = place_of("pg", make_rows(300), idempotency="off")
    place.server.faults.add(Fault("latency", COMMIT, times=None, seconds=0.3))
    twin = place.twin()
    for one in (place, twin):
        one.write_dag(on_unknown="park", batch_size=50, max_parked="90%", retries=5)
    first = place.begin("one", patch=LEASE)
    until = time.monotonic() + PATIENCE
    while len(place.sent()) < 60:
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(first, signal.SIGSTOP)
    try:
        other = twin.attempt("two", patch=LEASE)
    finally:
        os.kill(first, signal.SIGCONT)
    suspended = place.join(first)
    assert (suspended.state, other.state) == ("success", "success"), place.output()[-3000:]
    ledger = place.agree(doubtful=frozenset({"parked"}))
    assert len(ledger) == 300
    assert len(place.sent()) <= 300
    # What was in flight is in doubt, unless its answer came in the end.
    assert 0 < other.summary["parked"] < 150
    assert suspended.summary["settled_before"] > 0
