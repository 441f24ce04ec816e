# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Several tasks at the same rows at the same time."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest

from limio_limitrail.emulator import Fault
from tests.support.ledgers import lease_of
from tests.support.usage import COMMIT, SIGKILL, make_rows

PATIENCE = 120
LEASE = lease_of(8.0)
AN_HOUR = lease_of(3600.0)


def slow(place, *, seconds: float = 0.005) -> None:
    """Have every answer take a while."""
    place.server.faults.clear()
    place.server.faults.add(Fault("latency", COMMIT, times=None, seconds=seconds))


def running(place) -> set[tuple[str, str]]:
    """The runs that have rows under way."""
    return {(entry["dag_id"], entry["run_id"]) for entry in place.database.ledger().values() if entry["state"] == "sending"}


def wait_until_both_send(place) -> None:
    """Wait until each task has requests under way: answers take so long that neither has ended before the other begins."""
    until = time.monotonic() + PATIENCE
    while len(running(place)) < 2:
        assert time.monotonic() < until, "the tasks were not in the middle at the same time"
        time.sleep(0.05)


@pytest.mark.exhaustive
@pytest.mark.parametrize("idempotency", ["header", "off"])
@pytest.mark.parametrize("on_unknown", ["park", "resend"])
def test_two_at_once(place_of, idempotency, on_unknown):
    place = place_of("pg", make_rows(500), idempotency=idempotency)
    slow(place, seconds=2)
    twin = place.twin()
    place.write_dag(on_unknown=on_unknown, batch_size=50)
    twin.write_dag(dag_id="twin", on_unknown=on_unknown, batch_size=50)
    processes = [place.begin("one"), twin.begin("one", dag_id="twin")]
    wait_until_both_send(place)
    slow(place)
    first, second = place.join(processes[0]), twin.join(processes[1])
    for one in (first, second):
        assert one.state == "success", place.home.output()[-3000:]
        assert (one.summary["rows"], one.summary["committed"], one.summary["unknown"]) == (500, 500, 0)
        assert one.summary["sent"] + one.summary["settled_before"] == 500
        assert one.summary["sent"] > 0
    assert first.summary["sent"] + second.summary["sent"] == 500
    assert len(place.sent()) == 500
    ledger = place.agree()
    assert Counter(entry["dag_id"] for entry in ledger.values()) == {
        "usage": first.summary["sent"],
        "twin": second.summary["sent"],
    }


@pytest.mark.exhaustive
@pytest.mark.parametrize(("idempotency", "on_unknown"), [("header", "resend"), ("off", "park"), ("header", "park")])
def test_one_of_two_is_killed(place_of, idempotency, on_unknown):
    place = place_of("pg", make_rows(500), idempotency=idempotency)
    slow(place, seconds=2)
    twin = place.twin()
    for one in (place, twin):
        one.write_dag(on_unknown=on_unknown, batch_size=50, max_parked="50%", retries=5)
    killed = place.begin("one", patch=LEASE)
    lives = twin.begin("two", patch=LEASE)
    wait_until_both_send(place)
    os.kill(killed, signal.SIGKILL)
    slow(place)
    assert place.join(killed).code == SIGKILL
    hung = {key for key, entry in place.database.ledger().items() if entry["state"] == "sending" and entry["run_id"] == "one"}
    assert 0 < len(hung) <= 50 + 2 * 4 * 8
    other = twin.join(lives)
    assert other.state == "success"
    # The killed one's retry finds everything done, or in doubt.
    retry = place.attempt("one", patch=LEASE)
    assert retry.state == "success"
    parked = {key for key, entry in place.database.ledger().items() if entry["state"] == "parked"}
    place.agree(doubtful=frozenset({"parked"}))
    assert parked == (hung if on_unknown == "park" else set())
    assert other.summary["committed"] + other.summary["parked"] == 500
    assert (retry.summary["sent"], retry.summary["parked"]) == (0, len(parked))
    if on_unknown == "resend":
        assert len(place.agree()) == len(place.journal()) == 500


@pytest.mark.sampled(1)
@pytest.mark.parametrize("on_unknown", ["park", "resend"])
def test_the_retry_of_a_killed_task_does_not_wait_for_its_lease(place_of, on_unknown):
    place = place_of("pg", make_rows(300))
    slow(place)
    place.write_dag(on_unknown=on_unknown, max_parked="90%", retries=5, batch_size=50)
    assert place.attempt(kill=["before sending", 100], patch=AN_HOUR).code == SIGKILL
    began = time.monotonic()
    last = place.attempt(patch=AN_HOUR)
    assert last.state == "success"
    assert time.monotonic() - began < PATIENCE
    assert last.summary["committed"] + last.summary["parked"] == 300
    place.agree(doubtful=frozenset({"parked"}))


@pytest.mark.exhaustive
def test_another_run_waits_for_the_lease(place_of):
    place = place_of("pg", make_rows(100))
    place.write_dag(on_unknown="resend", batch_size=10)
    assert place.attempt("one", kill=["after sending", 40], patch=LEASE).code == SIGKILL
    died = time.monotonic()
    hung = [entry for entry in place.database.ledger().values() if entry["state"] == "sending"]
    assert hung
    last = place.attempt("two", patch=LEASE)
    assert last.state == "success"
    assert last.summary["committed"] == 100
    assert time.monotonic() - died > 5
    assert len(place.agree()) == 100
