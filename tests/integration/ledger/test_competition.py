# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Several workers at the same rows: each row is granted to one of them."""

from __future__ import annotations

import multiprocessing
import random
from collections import Counter

import pytest

from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.sql import LedgerStatements
from limio_limitrail.usage.ledger.states import State
from tests.support.ledgers import PARK, REPLAY_PARKED, RESEND, claim_in_pieces, compete, entries, make_row, make_rows


def test_two_workers_in_turn(db, ledger_in):
    one, other = ledger_in(db), ledger_in(db, "run-2")
    rows = make_rows(20)
    first = [claim.granted for claim in one.claim(rows[:12], policy=PARK)]
    second = [claim.granted for claim in other.claim(rows[8:], policy=PARK)]
    assert first == [True] * 12
    assert second == [False] * 4 + [True] * 8


@pytest.mark.parametrize("name", ["psycopg3", "psycopg2", "sqlite", "duckdb"])
def test_new_rows_are_granted_to_one_of_many_threads(opened, ledger_in, name):
    db = opened(name)
    ledgers = [ledger_in(db, f"run-{number}") for number in range(4)]
    rows = make_rows(60)
    granted = compete(ledgers, rows, policy=PARK, size=5)
    assert Counter(key for _, key in granted) == Counter(row.key for row in rows)
    claims = {ledger.worker.claim_id: number for number, ledger in enumerate(ledgers)}
    assert {(claims[entry["claim_id"]], key) for key, entry in entries(db).items()} == set(granted)


@pytest.mark.parametrize("policy", [RESEND, REPLAY_PARKED], ids=["dead", "parked"])
def test_old_rows_are_granted_to_one_of_many_threads(postgres, ledger_in, policy):
    rows = make_rows(40)
    gone = ledger_in(postgres, "run-0")
    gone.claim(rows, policy=PARK)
    if policy is REPLAY_PARKED:
        gone.record({row.key: Outcome(state=State.PARKED, detail="no answer") for row in rows})
    postgres.execute("UPDATE ledger SET lease_until = 1")
    ledgers = [ledger_in(postgres, f"run-{number}") for number in range(1, 5)]
    # One row at a time, because two that wait for each other's rows would only be told apart by the database, after a second.
    granted = compete(ledgers, rows, policy=policy, size=1)
    assert Counter(key for _, key in granted) == Counter(row.key for row in rows)


def test_rows_are_granted_to_one_of_several_processes(opened, ledger_in):
    db = opened("psycopg3")
    ledger_in(db)
    names = [f"row {number}" for number in range(100)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        waiting = [
            pool.apply_async(claim_in_pieces, (db.connection, random.Random(number).sample(names, len(names)), f"run-{number}"))
            for number in range(2)
        ]
        granted = [name for one in waiting for name in one.get(timeout=600)]
    assert sorted(granted) == sorted(names)


def test_a_row_that_another_worker_gives_back_meanwhile_is_not_sent_without_an_entry(postgres, ledger_in, monkeypatch):
    one, other = ledger_in(postgres), ledger_in(postgres, "run-2")
    row = make_row("a")
    insert = LedgerStatements.insert
    met = []

    def between(self, rows, **more):
        if self.worker is not one.worker or met:
            return insert(self, rows, **more)
        # Between two statements of the first worker, the second one claims the row, and gives it back right after.
        met.append(1)
        claims = other.claim(rows, policy=PARK)
        added = insert(self, rows, **more)
        other.release(claims)
        return added

    monkeypatch.setattr(LedgerStatements, "insert", between)
    [claim] = one.claim([row], policy=PARK)
    assert met
    assert claim.granted
    assert entries(postgres)[row.key]["claim_id"] == one.worker.claim_id


def test_an_entry_that_went_away_between_two_tries_is_not_put_back(db, ledger_in):
    gone, ledger = ledger_in(db), ledger_in(db, "run-2")
    row = make_row("a")
    first = gone.claim([row], policy=PARK)
    db.execute("UPDATE ledger SET lease_until = 1")
    transaction = ledger._database.transaction

    def undone_once():
        ledger._database.failures = ["late"]
        ledger._database.transaction = given_back
        return transaction()

    def given_back():
        gone.release(first)
        ledger._database.transaction = transaction
        return transaction()

    ledger._database.transaction = undone_once
    [claim] = ledger.claim([row], policy=RESEND)
    assert claim.granted
    assert claim.entry is None
    ledger.release([claim])
    assert entries(db) == {}
