# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Each row is carried out once, whatever answers get lost and whenever the task is killed."""

from __future__ import annotations

from collections import Counter

from tests.support.tiers import EVERYTHING
from tests.support.usage import SIGKILL, rows_from_environment
from tests.support.usage_troubles import add_troubles, expected_states, kills, mixed_rows


def test_keys_that_are_honoured(place_of):
    rows = mixed_rows(rows_from_environment(5_000 if EVERYTHING else 600))
    place = place_of("pg", rows)
    add_troubles(place.server, seed=1)
    place.write_dag(on_unknown="resend", max_rejected="5%", max_parked="5%", retries=100, retry_delay=0, batch_size=100)
    for kill in kills(20 if EVERYTHING else 5, seed=2, scale=0.5 if EVERYTHING else 0.15):
        outcome = place.attempt(kill=kill)
        assert outcome.code == SIGKILL, (kill, outcome)
        place.agree(doubtful=frozenset({"sending", "unknown", "parked"}))
    for _ in range(6):
        last = place.attempt()
        if last.state == "success":
            break
        assert "UsageUnknownError" in place.output()
    assert last.state == "success"
    ledger = place.agree(doubtful=frozenset({"parked"}))
    # A row that was in doubt and is refused is parked: whether an earlier request of it was carried out, no refusal tells.
    refused = {key for key, entry in ledger.items() if "ghost" in entry["row_key"]}
    assert {ledger[key]["state"] for key in refused} <= {"rejected", "parked"}
    states = Counter("rejected" if key in refused else entry["state"] for key, entry in ledger.items())
    assert states == expected_states(rows)
    assert len(ledger) == len(rows)
    done = {(entry["row_key"]) for entry in ledger.values()}
    assert len(done) == len(rows)
    assert set(place.journal()) == ledger.keys() - refused
    summary = last.summary
    assert summary["unknown"] == 0
    assert Counter(committed=summary["committed"], denied=summary["denied"]) == states - Counter(rejected=states["rejected"])
    assert summary["rejected"] + summary["parked"] == len(refused)
    sent = len(place.sent())
    again = place.attempt("another")
    assert again.state == "success"
    assert again.summary["settled_before"] == len(rows)
    assert len(place.sent()) == sent
