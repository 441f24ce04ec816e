# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""An API that does not honour keys: no row is sent twice, and what is in doubt waits for a person."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.tiers import EVERYTHING
from tests.support.usage import SIGKILL, rows_from_environment
from tests.support.usage_troubles import add_troubles, expected_states, kills, mixed_rows

BATCH, CONCURRENCY = 40, 8

MOST_IN_DOUBT = BATCH + 2 * 4 * CONCURRENCY
"""What a kill may leave in doubt: answers that are not written down yet, and what is claimed."""


@pytest.mark.exhaustive
@pytest.mark.parametrize("conn_id", ["duck", "pg"])
def test_keys_that_are_not_honoured(place_of, conn_id):
    rows = mixed_rows(max(500, rows_from_environment(10_000 if EVERYTHING else 3_000) // 5))
    place = place_of(conn_id, rows, idempotency="off")
    add_troubles(place.server, seed=11)
    common = {"max_rejected": "5%", "max_parked": "90%", "batch_size": BATCH, "concurrency": CONCURRENCY}
    place.write_dag(retries=100, retry_delay=0, **common)
    in_doubt: set[str] = set()
    for kill in kills(12 if EVERYTHING else 3, seed=12 + len(conn_id), scale=0.3):
        before = in_doubt | set()
        assert place.attempt(kill=kill).code == SIGKILL, kill
        ledger = place.agree(doubtful=frozenset({"sending", "parked"}))
        in_doubt |= {key for key, entry in ledger.items() if entry["state"] == "sending"}
        assert len(in_doubt - before) <= MOST_IN_DOUBT, kill
    place.output()
    last = place.attempt()
    assert last.state == "success"
    ledger = place.agree(doubtful=frozenset({"parked"}))
    assert len(ledger) == len(rows)
    parked = {key for key, entry in ledger.items() if entry["state"] == "parked"}
    assert last.summary["parked"] == len(parked) > 0
    assert {entry["state"] for entry in ledger.values()} == {"committed", "denied", "rejected", "parked"}
    # Each of them was really in doubt: no answer, an answer that says nothing, or a try that was killed.
    unclear = {key for key, statuses in place.statuses().items() if statuses[-1] in (0, 500)}
    assert parked <= unclear | in_doubt
    output = place.output()
    assert "parked: row " in output
    assert output.count("parked: row ") == 1
    listed = [entry["row_key"] for key, entry in ledger.items() if key in parked and entry["row_key"] in output]
    assert len(listed) >= min(50, len(parked))
    # Further runs send nothing.
    sent = len(place.sent())
    for run_id in ("one", "two"):
        assert place.attempt(run_id).summary["sent"] == 0
    assert len(place.sent()) == sent
    # A run that is asked to sends exactly those, once; whatever a retry of it does, it does not send them again.
    done_before = {entry.key for entry in place.server.limitrail.journal}
    place.server.faults.clear()
    place.write_dag(retries=100, replay="parked", **common)
    seen = len(place.sent())
    half = len(parked) // 2
    assert place.attempt("three", kill=["before sending", half]).code == SIGKILL
    first = {entry["headers"]["idempotency-key"] for entry in place.sent()[seen:]}
    assert first <= parked
    last = place.attempt("three")
    again = [entry["headers"]["idempotency-key"] for entry in place.sent()[seen:]]
    assert len(again) == len(set(again))
    assert set(again) <= parked
    left = {key for key, entry in place.database.ledger().items() if entry["state"] == "parked"}
    assert len(left) <= MOST_IN_DOUBT
    assert set(again) | left == parked
    assert place.attempt("three").summary["sent"] == 0
    # What the kill left in doubt needs to be asked for once more, by yet another run.
    assert place.attempt("four").summary["sent"] == len(left)
    # A row that was in doubt and is refused stays parked: whether an earlier request of it was carried out, no refusal tells.
    ledger = place.database.ledger()
    assert all("ghost" in entry["row_key"] for entry in ledger.values() if entry["state"] == "parked")
    states = place.database.states()
    assert states + Counter(rejected=states["parked"]) - Counter(parked=states["parked"]) == expected_states(rows)
    total = [entry.key for entry in place.server.limitrail.journal]
    assert all(total.count(key) <= 3 for key in parked & done_before)
    assert len([key for key in total if key not in parked]) == len({key for key in total if key not in parked})
