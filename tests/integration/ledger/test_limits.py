# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A limit is counted by the ledger, together by all tries and mapped copies of a task in a run."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.sql import LedgerStatements
from limio_limitrail.usage.ledger.states import LedgerError, State
from tests.support.ledgers import PARK, REPLAY_REJECTED, RESEND, entries, make_rows

GOOD = Outcome(state=State.COMMITTED, http_status=200)


def limited(policy, limit):
    return replace(policy, limit=limit)


def granted(claims):
    return [claim.row.number for claim in claims if claim.granted]


def left(claims):
    return [claim.row.number for claim in claims if claim.left]


def copy_of(ledger, map_index):
    ledger.worker = replace(ledger.worker, map_index=map_index)
    return ledger


def test_the_first_rows_of_the_input_are_granted(db, ledger_in):
    ledger = ledger_in(db)
    rows = make_rows(9)
    claims = ledger.claim(rows[:4], policy=limited(PARK, 6))
    assert (granted(claims), left(claims)) == ([1, 2, 3, 4], [])
    claims = ledger.claim(rows[4:], policy=limited(PARK, 6))
    assert (granted(claims), left(claims)) == ([5, 6], [7, 8, 9])
    assert all(not claim.waits for claim in claims)
    assert set(entries(db)) == {row.key for row in rows[:6]}
    # A row that comes back unsent leaves room for another.
    ledger.record({row.key: GOOD for row in rows[:5]})
    ledger.release([claim for claim in claims if claim.row.number == 6])
    assert granted(ledger.claim(rows[6:], policy=limited(PARK, 6))) == [7]


def test_what_a_run_has_claimed_once_costs_nothing_again(db, ledger_in):
    rows = make_rows(6)
    ledger_in(db).claim(rows[:3], policy=limited(RESEND, 3))
    retry = ledger_in(db, attempt=2)
    claims = retry.claim(rows[::-1], policy=limited(RESEND, 3))
    assert (sorted(granted(claims)), sorted(left(claims))) == ([1, 2, 3], [4, 5, 6])
    # In another run they count like any others.
    retry.record({row.key: Outcome(state=State.UNKNOWN, detail="no answer") for row in rows[:3]})
    claims = ledger_in(db, "run-2").claim(rows, policy=limited(RESEND, 2))
    assert (granted(claims), left(claims)) == ([1, 2], [3, 4, 5, 6])


def test_what_is_not_sent_costs_nothing(db, ledger_in):
    rows = make_rows(8)
    one = ledger_in(db)
    one.claim(rows[:6], policy=PARK)
    outcomes = (State.COMMITTED, State.DENIED, State.REJECTED, State.PARKED)
    one.record({row.key: Outcome(state=state) for row, state in zip(rows[:4], outcomes, strict=True)})
    db.execute("UPDATE ledger SET lease_until = 1")
    claims = ledger_in(db, "run-2").claim(rows, policy=limited(PARK, 1))
    assert (granted(claims), left(claims)) == ([7], [8])
    # What may have been sent is parked, limit or not.
    assert Counter(entry["state"] for entry in entries(db).values())["parked"] == 3
    claims = ledger_in(db, "run-3").claim(rows[:4], policy=limited(REPLAY_REJECTED, 1))
    assert granted(claims) == [3]


@pytest.mark.parametrize("name", ["psycopg3", "sqlite", "duckdb"])
def test_copies_at_the_same_time_share_a_limit(opened, ledger_in, monkeypatch, name):
    db = opened(name)
    ledgers = [copy_of(ledger_in(db), number) for number in range(4)]
    insert = LedgerStatements.insert

    def slow_insert(self, *args, **kwargs):
        # Long enough for the others to count, if they can.
        time.sleep(0.05)
        return insert(self, *args, **kwargs)

    monkeypatch.setattr(LedgerStatements, "insert", slow_insert)
    rows = make_rows(40)
    ready = threading.Barrier(len(ledgers))

    def claim(number):
        ready.wait(timeout=30)
        own = rows[10 * number : 10 * (number + 1)]
        claims = [claim for at in range(0, 10, 4) for claim in ledgers[number].claim(own[at : at + 4], policy=limited(PARK, 9))]
        return granted(claims)

    with ThreadPoolExecutor(len(ledgers)) as threads:
        found = [number for numbers in threads.map(claim, range(len(ledgers))) for number in numbers]
    assert len(found) == len(set(found)) == len(entries(db)) == 9


def test_other_tasks_and_runs_have_limits_of_their_own(db, ledger_in):
    rows = make_rows(12)
    for number, run in enumerate(("run-1", "run-2", "run-1")):
        ledger = ledger_in(db, run)
        if number == 2:
            ledger.worker = replace(ledger.worker, task_id="another")
        assert len(granted(ledger.claim(rows, policy=limited(PARK, 4)))) == 4
    assert len(entries(db)) == 12


@pytest.mark.every_driver
def test_copies_in_a_database_that_cannot_count_together_are_refused(db, ledger_in):
    ledger = copy_of(ledger_in(db), 0)
    if ledger._database.name in ("postgresql", "duckdb", "sqlite"):
        assert len(granted(ledger.claim(make_rows(5), policy=limited(PARK, 4)))) == 4
        return
    with pytest.raises(LedgerError, match="limit= with a mapped task needs a ledger in Postgres"):
        ledger.claim(make_rows(5), policy=limited(PARK, 4))
    assert entries(db) == {}


@pytest.mark.parametrize("failure", ["late", "unconfirmed"])
def test_a_claim_that_is_tried_again_counts_once(db, ledger_in, failure):
    ledger = ledger_in(db)
    rows = make_rows(8)
    ledger.claim(rows[:1], policy=limited(PARK, 5))
    ledger._database.failures = [failure]
    claims = ledger.claim(rows[1:], policy=limited(PARK, 5))
    assert (granted(claims), left(claims)) == ([2, 3, 4, 5], [6, 7, 8])
    assert len(entries(db)) == 5
