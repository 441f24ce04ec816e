# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A task that is told to stop writes down what has been answered, and ends in time."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from limio_limitrail.emulator import Fault
from tests.support.usage import COMMIT, Code, make_rows

PATIENCE = 100.0
"""Seconds that no task needs to stop, on however busy a machine, and that are over before the API answers."""


def wait_for(place, requests: int) -> None:
    until = time.monotonic() + 300
    while len(place.sent()) < requests:
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("conn_id", ["duck", "pg"])
@pytest.mark.parametrize("on_unknown", ["park", "resend"])
def test_a_signal(place_of, conn_id, on_unknown):
    place = place_of(conn_id, make_rows(1500))
    # It would need minutes for the rest.
    fault = place.server.faults.add(Fault("latency", COMMIT, seconds=1, after=400, times=None))
    place.write_dag(on_unknown=on_unknown, retries=3)
    process = place.begin()
    wait_for(place, 400)
    os.kill(process, signal.SIGTERM)
    began = time.monotonic()
    last = place.join(process)
    assert time.monotonic() - began < PATIENCE
    assert last.state == "up_for_retry"
    ledger = place.agree()
    done = len(place.journal())
    assert 400 <= done < 1500
    assert len(ledger) == done
    assert re.search(r"stopped after [\d,]+ of 1,500 rows", place.output())
    sent = len(place.sent())
    assert sent == done
    place.server.faults.remove(fault.number)
    last = place.attempt()
    assert (last.state, last.summary["sent"], last.summary["settled_before"]) == ("success", 1500 - done, done)
    assert len(place.agree()) == 1500


@pytest.mark.exhaustive
@pytest.mark.parametrize("on_unknown", ["park", "resend"])
def test_a_signal_while_the_api_does_not_answer(place_of, on_unknown):
    place = place_of("pg", make_rows(300))
    fault = place.server.faults.add(Fault("latency_after", COMMIT, seconds=150, after=100, times=None))
    place.write_dag(on_unknown=on_unknown, retries=3, max_parked=50)
    process = place.begin()
    wait_for(place, 101)
    time.sleep(0.5)
    os.kill(process, signal.SIGTERM)
    began = time.monotonic()
    last = place.join(process)
    assert time.monotonic() - began < PATIENCE
    assert last.state == "up_for_retry"
    doubtful = "parked" if on_unknown == "park" else "unknown"
    states = place.database.states()
    assert set(states) == {"committed", doubtful}
    assert 1 <= states[doubtful] <= 8
    place.server.faults.remove(fault.number)
    last = place.attempt()
    assert last.state == "success"
    assert len(place.journal()) == 300
    assert last.summary["parked"] == (states[doubtful] if on_unknown == "park" else 0)


@pytest.mark.exhaustive
def test_a_signal_while_everybody_waits_for_a_429(place_of):
    place = place_of("duck", make_rows(300))
    place.server.faults.add(Fault("status", COMMIT, status=429, headers={"Retry-After": "150"}, after=100, times=None))
    place.write_dag(retries=3)
    process = place.begin()
    wait_for(place, 101)
    time.sleep(0.5)
    os.kill(process, signal.SIGTERM)
    began = time.monotonic()
    last = place.join(process)
    assert time.monotonic() - began < PATIENCE
    assert last.state == "up_for_retry"
    assert set(place.database.states()) == {"committed"}
    assert len(place.agree()) == len(place.journal())


@pytest.mark.exhaustive
@pytest.mark.parametrize("conn_id", ["duck", "pg"])
def test_a_task_that_takes_too_long(place_of, conn_id):
    place = place_of(conn_id, make_rows(1500))
    # It would need minutes for the rest.
    place.server.faults.add(Fault("latency", COMMIT, seconds=1, after=100, times=None))
    place.write_dag(execution_timeout=Code("timedelta(seconds=10)"), retries=3)
    last = place.attempt()
    assert last.state == "up_for_retry"
    assert "timed out" in place.output()
    ledger = place.agree()
    assert 0 < len(ledger) < 1500
    assert len(place.sent()) == len(ledger)
    assert (last.summary["committed"], last.summary["parked"]) == (len(ledger), 0)
    place.server.faults.clear()
    place.write_dag(retries=3)
    last = place.attempt()
    assert (last.state, last.summary["committed"]) == ("success", 1500)


@pytest.mark.exhaustive
def test_a_signal_while_rows_are_read(place_of):
    place = place_of("duck", make_rows(10))
    body = Code('{"externalAccount": "acme-0", "operation": "PAYMENT", "amount": 1, "metadata": {"day": Column("day")}}')
    place.write_dag(sql="SELECT i AS day FROM range(300000) t(i)", key_columns="day", body=body, retries=3)
    process = place.begin()
    time.sleep(3)
    os.kill(process, signal.SIGTERM)
    last = place.join(process)
    assert last.state == "up_for_retry"
    assert "sending" not in place.database.states()
    assert len(place.database.ledger()) == len(place.journal()) < 300000
