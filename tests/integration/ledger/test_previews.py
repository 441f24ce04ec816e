# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Previews: the newest one of each row, in every kind of database."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

import pytest

from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.previews import PREVIEW_COLUMNS, Previews
from limio_limitrail.usage.ledger.states import LedgerError, State
from limio_limitrail.usage.ledger.table import milliseconds
from tests.support.ledgers import PARK, FailingDatabase, make_rows, make_worker


@pytest.fixture
def previews(db):
    database = FailingDatabase(db.hook())
    with contextlib.closing(database):
        made = Previews(database=database, table="previews", worker=make_worker())
        made.failures = database.failures
        yield made


def decided(decision: str) -> Outcome:
    fees = '[{"amount":0.1000}]'
    return Outcome(state=State.COMMITTED, http_status=200, decision=decision, fees=fees, answer='{"it\'s": "naïve %s ?"}')


def test_the_newest_preview_stands(db, previews):
    for _ in range(2):
        previews.prepare()
    assert list(db.types("previews")) == list(PREVIEW_COLUMNS)
    rows = make_rows(3)
    for decision in ("DENIED_BY_POLICY", "ALLOWED"):
        claims = previews.claim(rows, policy=PARK)
        assert all(claim.granted for claim in claims)
        previews.record({row.key: decided(decision) for row in rows})
    found = db.query("SELECT decision, fees, answer, http_status, run_id FROM previews")
    assert found == [("ALLOWED", '[{"amount":0.1000}]', '{"it\'s": "naïve %s ?"}', 200, "run-1")] * 3


def test_a_limit_is_of_rows_and_not_of_requests(previews):
    policy = replace(PARK, limit=2)
    rows = make_rows(3)
    for _ in range(2):
        # A row that is claimed again, such as after a 429, costs nothing.
        assert [claim.left for claim in previews.claim(rows, policy=policy)] == [False, False, True]


def test_a_preview_says_when_it_was_made(db, previews):
    previews.prepare()
    rows = make_rows(1)
    previews.claim(rows, policy=PARK)
    previews.record({row.key: decided("ALLOWED") for row in rows})
    [(when,)] = db.query("SELECT previewed_at FROM previews")
    assert abs(milliseconds(when) / 1000 - time.time()) < 86400


def test_what_could_not_be_written_is_written_later(db, previews, monkeypatch):
    monkeypatch.setattr("limio_limitrail.usage.ledger.transactions.PAUSES", (0.0, 0.0, 0.0))
    previews.prepare()
    rows = make_rows(2)
    previews.claim(rows, policy=PARK)
    outcomes = {row.key: decided("ALLOWED") for row in rows}
    previews.failures.extend(["late"] * 4)
    with pytest.raises(LandingError):
        previews.record(outcomes)
    previews.record(outcomes)
    assert db.query("SELECT count(*) FROM previews") == [(2,)]


def test_a_table_that_holds_no_previews_is_refused(db, previews):
    db.execute("CREATE TABLE previews (idempotency_key VARCHAR(36) PRIMARY KEY)")
    with pytest.raises(LedgerError, match=r"holds no previews.*preview_table="):
        previews.prepare()
