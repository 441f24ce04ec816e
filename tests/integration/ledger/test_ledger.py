# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A ledger in every kind of database: claims that outlive their worker, outcomes, and rows that are given back."""

from __future__ import annotations

import logging
import re
import time
from contextlib import contextmanager

import pytest
from msgspec import structs

from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.usage.ledger import transactions as transactions_module
from limio_limitrail.usage.ledger.leases import LEASE
from limio_limitrail.usage.ledger.ledger import Ledger
from limio_limitrail.usage.ledger.model import Outcome, Worker
from limio_limitrail.usage.ledger.states import LedgerError, State, StoppedError
from limio_limitrail.usage.ledger.table import COLUMNS, KEY
from tests.support.ledgers import (
    PARK,
    REPLAY_PARKED,
    REPLAY_REJECTED,
    RESEND,
    FailingDatabase,
    entries,
    make_ledger,
    make_row,
    make_rows,
    make_worker,
)

pytestmark = pytest.mark.every_driver

ROW = make_row("a")
OTHER_BODY = make_row("a", body=b'{"other":1}')
COMMITTED = Outcome(
    state=State.COMMITTED, http_status=200, decision="ALLOWED", reservation_id="res-1", trace_id="t-1"
)  # fmt: skip
REJECTED = Outcome(
    state=State.REJECTED, http_status=400, error_code="bad", resource_key="r", trace_id="t", field="amount", detail="no"
)
PARKED = Outcome(state=State.PARKED, http_status=504, trace_id="t-9", detail="no answer within the read timeout")


def expire(db, table="ledger"):
    """Let all leases run out."""
    db.execute(f"UPDATE {table} SET lease_until = 1")


def failures_of(ledger) -> list[str]:
    return ledger._database.failures


def only(claims):
    [claim] = claims
    return claim


# -- the table -----------------------------------------------------------------------------------------------------


def test_the_table_is_made_where_there_is_none(db, ledger_in):
    for _ in range(2):
        ledger_in(db)
    assert list(db.types("ledger")) == list(COLUMNS)
    assert entries(db) == {}


def test_two_entries_of_one_key_are_impossible(db, ledger_in):
    ledger_in(db).claim([ROW], policy=PARK)
    columns = ", ".join(COLUMNS)
    with pytest.raises(Exception, match=r"(?i)unique|duplicate|constraint"):
        db.execute(f"INSERT INTO ledger ({columns}) SELECT {columns} FROM ledger")


def test_a_table_that_is_no_ledger_is_refused(db, ledger_in):
    db.execute("CREATE TABLE ledger (idempotency_key VARCHAR(36) PRIMARY KEY, state VARCHAR(20))")
    with pytest.raises(LedgerError, match=r"no ledger of this version.*attempts.*try_number.*ledger_table="):
        ledger_in(db)
    assert len(db.types("ledger")) == 2


@pytest.mark.sampled(1)
def test_a_view_is_refused(db, ledger_in):
    db.execute("CREATE TABLE things (id INTEGER)", "CREATE VIEW ledger AS SELECT * FROM things")
    with pytest.raises(LandingError):
        ledger_in(db)


def test_further_columns_are_no_harm(db, ledger_in):
    ledger_in(db)
    db.execute("ALTER TABLE ledger ADD COLUMN note VARCHAR(10)")
    ledger = ledger_in(db)
    assert only(ledger.claim([ROW], policy=PARK)).granted
    ledger.record({ROW.key: COMMITTED})
    assert entries(db)[ROW.key]["state"] == "committed"


@pytest.mark.parametrize("name", ["duckdb", "psycopg3", "sqlite"])
@pytest.mark.parametrize("kind", ["a copy", "a key of two columns", "no unique index"])
def test_a_table_in_which_a_key_may_stand_twice_is_refused(opened, ledger_in, name, kind):
    """Two workers would be granted the same row."""
    db = opened(name)
    ledger_in(db).claim(make_rows(3), policy=PARK)
    copied = ledger_in(db, table="copied")
    db.execute("DROP TABLE copied", "CREATE TABLE copied AS SELECT * FROM ledger")
    indexed = {"a copy": [], "a key of two columns": ["UNIQUE ", ", run_id"], "no unique index": ["", ""]}[kind]
    if indexed:
        unique, more = indexed
        db.execute(f"CREATE {unique}INDEX of_keys ON copied (idempotency_key{more})")
    refused = r"copied may have the same key twice.*Nothing was sent.*(CREATE UNIQUE INDEX .*)\. More: "
    with pytest.raises(LedgerError, match=refused) as caught:
        ledger_in(db, table="copied")
    with pytest.raises(LedgerError, match=refused):
        copied.check_run(policy=PARK)
    found = re.search(refused, str(caught.value))
    assert found
    db.execute(found[1])
    assert not any(claim.granted for claim in ledger_in(db, "run-2", table="copied").claim(make_rows(3), policy=PARK))


def test_a_table_that_a_crash_of_the_server_empties_is_refused(postgres, ledger_in):
    ledger = ledger_in(postgres)
    postgres.execute("ALTER TABLE ledger SET UNLOGGED")
    with pytest.raises(LedgerError, match=r"is unlogged: .* ALTER TABLE \S+ SET LOGGED"):
        ledger_in(postgres)
    with pytest.raises(LedgerError, match="is unlogged"):
        ledger.check_run(policy=PARK)


@pytest.mark.parametrize(
    ("column", "type_", "why"),
    [
        (KEY, "char(40)", "fills texts up with blanks"),
        (KEY, "uuid USING CAST(idempotency_key AS uuid)", "keys are texts"),
        (KEY, "varchar(32)", "keys have 36 characters"),
        ("state", "char(20)", "fills texts up with blanks"),
    ],
)
def test_a_column_that_does_not_return_a_text_as_it_is_is_refused(postgres, ledger_in, column, type_, why):
    ledger_in(postgres)
    postgres.execute(f"ALTER TABLE ledger ALTER COLUMN {column} TYPE {type_}")
    with pytest.raises(LedgerError, match=f"column '{column}' is .*{why}"):
        ledger_in(postgres)


@pytest.mark.parametrize("type_", ["char(36)", "varchar(36)", "varchar(100)", "varchar", 'text COLLATE "C"'])
def test_other_types_of_keys_are_no_harm(postgres, ledger_in, type_):
    ledger_in(postgres)
    postgres.execute(f"ALTER TABLE ledger ALTER COLUMN idempotency_key TYPE {type_}")
    assert only(ledger_in(postgres).claim([ROW], policy=PARK)).granted
    assert only(ledger_in(postgres, "run-2").claim([ROW], policy=PARK)).waits


@pytest.mark.parametrize("name", ["psycopg3", "standard"])
def test_a_table_that_takes_no_rows_ends_the_claim(opened, ledger_in, name):
    db = opened(name)
    ledger = ledger_in(db)
    db.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER refuse BEFORE INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    with pytest.raises(LedgerError, match=r"takes no entries: 3 rows .* Look for a trigger"):
        ledger.claim(make_rows(3), policy=PARK)
    assert entries(db) == {}


def test_a_name_in_quotes(db, ledger_in):
    for table in ('"Odd ""name"', '"order"', '"with space"', '"per%cent"'):
        ledger = ledger_in(db, table=table)
        claims = ledger.claim(make_rows(3), policy=PARK)
        ledger.record({claims[0].row.key: COMMITTED})
        ledger.release(claims[1:])
        assert [entry["state"] for entry in entries(db, table).values()] == ["committed"]


@pytest.mark.parametrize("name", ["duckdb", "psycopg3", "psycopg2", "standard"])
def test_a_name_with_a_schema(opened, ledger_in, name):
    db = opened(name)
    db.execute('CREATE SCHEMA "Book"')
    table = '"Book".ledger'
    first, second = ledger_in(db, table=table), ledger_in(db, "run-2", table=table)
    assert only(first.claim([ROW], policy=PARK)).granted
    assert only(second.claim([ROW], policy=PARK)).waits
    first.renew([ROW.key])
    first.record({ROW.key: PARKED})
    claim = only(second.claim([ROW], policy=REPLAY_PARKED))
    second.release([claim])
    assert entries(db, table)[ROW.key]["state"] == "parked"


def test_a_name_that_is_none(lite, ledger_in):
    with pytest.raises(LedgerError):
        ledger_in(lite, table="ledger.")


# -- claims, outcomes, release -------------------------------------------------------------------------------------


def test_a_claim_is_there_for_everybody_before_anything_is_sent(db, ledger_in):
    ledger = ledger_in(db)
    claim = only(ledger.claim([ROW], policy=PARK))
    assert claim.granted
    assert claim.entry is None
    entry = entries(db)[ROW.key]
    assert entry["state"] == "sending"
    assert (entry["dag_id"], entry["task_id"], entry["run_id"], entry["map_index"], entry["try_number"]) == (
        "usage", "send", "run-1", -1, 1,
    )  # fmt: skip
    assert entry["claim_id"] == ledger.worker.claim_id
    assert entry["body_digest"] == ROW.digest
    assert (entry["row_key"], entry["operation"], entry["conn_id"]) == (ROW.row_key, "usage.commit", "limitrail")
    assert entry["attempts"] == 1
    assert not entry["finished"]


def test_an_outcome_is_kept_whole(db, ledger_in):
    ledger = ledger_in(db)
    rows = make_rows(3)
    ledger.claim(rows, policy=PARK)
    ledger.record({rows[0].key: COMMITTED, rows[1].key: REJECTED})
    found = entries(db)
    for row, outcome in ((rows[0], COMMITTED), (rows[1], REJECTED)):
        for name in ("http_status", "decision", "reservation_id", "error_code", "resource_key", "trace_id", "field", "detail"):
            assert found[row.key][name] == getattr(outcome, name), name
        assert found[row.key]["state"] == outcome.state.value
        assert found[row.key]["finished"]
    assert found[rows[2].key]["state"] == "sending"
    assert not found[rows[2].key]["finished"]
    assert only(ledger_in(db, "run-2").claim(rows[:1], policy=PARK)).entry.outcome == COMMITTED


def test_no_outcomes_need_no_transaction(db, ledger_in):
    ledger = ledger_in(db)
    before = ledger._database.transactions
    ledger.record({})
    ledger.release([])
    ledger.renew([])
    assert ledger._database.transactions == before


def test_an_answer_that_is_written_stays(db, ledger_in):
    ledger = ledger_in(db)
    ledger.claim([ROW], policy=PARK)
    ledger.record({ROW.key: COMMITTED})
    before = entries(db)
    ledger.record({ROW.key: PARKED})
    ledger.record({ROW.key: REJECTED})
    ledger.renew([ROW.key])
    expire(db)
    for policy in (PARK, RESEND, REPLAY_PARKED, REPLAY_REJECTED):
        claim = only(ledger_in(db, "run-2").claim([OTHER_BODY], policy=policy))
        assert not claim.granted
        assert not claim.waits
        assert claim.entry.state is State.COMMITTED
    assert entries(db)[ROW.key] | {"lease_until": 0} == before[ROW.key] | {"lease_until": 0}


def test_a_row_given_back_is_as_if_it_had_never_been_claimed(db, ledger_in):
    ledger = ledger_in(db)
    rows = make_rows(3)
    claims = ledger.claim(rows, policy=PARK)
    ledger.release(claims[:2])
    assert list(entries(db)) == [rows[2].key]
    assert [claim.granted for claim in ledger_in(db, "run-2").claim(rows, policy=PARK)] == [True, True, False]


@pytest.mark.parametrize(("outcome", "policy"), [(PARKED, REPLAY_PARKED), (REJECTED, REPLAY_REJECTED)])
def test_a_row_taken_again_and_given_back_is_what_it_was(db, ledger_in, outcome, policy):
    first = ledger_in(db)
    # As if the database failed in no transaction, or in one of these ways.
    rows = {failure: make_row(failure) for failure in (None, "unconfirmed", "late", "early")}
    first.claim(list(rows.values()), policy=PARK)
    first.record({row.key: outcome for row in rows.values()})
    before = entries(db)
    second = ledger_in(db, "run-2")
    for failure, row in rows.items():
        changed = make_row(failure, body=b"[1]")
        failures_of(second).extend([failure] if failure else [])
        claim = only(second.claim([changed], policy=policy))
        assert claim.granted
        assert claim.entry.outcome == outcome
        entry = entries(db)[row.key]
        assert (entry["state"], entry["body_digest"]) == ("sending", changed.digest)
        second.release([claim])
    after = entries(db)
    for entry in (*before.values(), *after.values()):
        del entry["finished"]
    assert after == before
    third = ledger_in(db, "run-2", attempt=2)
    assert all(claim.granted for claim in third.claim(list(rows.values()), policy=policy))


def test_a_new_row_whose_claim_failed_once_is_granted_and_given_back(db, ledger_in):
    ledger = ledger_in(db)
    for failure in ("unconfirmed", "late", "early"):
        rows = [make_row((failure, number)) for number in (1, 2)]
        failures_of(ledger).append(failure)
        claims = ledger.claim(rows, policy=PARK)
        assert [(claim.granted, claim.entry) for claim in claims] == [(True, None)] * 2
        failures_of(ledger).append(failure)
        ledger.release(claims[:1])
        failures_of(ledger).append(failure)
        ledger.record({rows[1].key: COMMITTED})
        assert rows[0].key not in entries(db)
        assert entries(db)[rows[1].key]["state"] == "committed"


def test_a_row_that_was_answered_is_not_given_back(db, ledger_in):
    ledger = ledger_in(db)
    claim = only(ledger.claim([ROW], policy=PARK))
    ledger.record({ROW.key: COMMITTED})
    ledger.release([claim])
    assert entries(db)[ROW.key]["state"] == "committed"


def test_nobody_gives_back_the_claim_of_another(db, ledger_in):
    first, second = ledger_in(db), ledger_in(db, "run-2")
    mine = only(first.claim([ROW], policy=PARK))
    expire(db)
    assert only(second.claim([ROW], policy=RESEND)).granted
    first.release([mine])
    entry = entries(db)[ROW.key]
    assert (entry["state"], entry["claim_id"]) == ("sending", second.worker.claim_id)


# -- what may be done with an entry --------------------------------------------------------------------------------


def test_a_row_under_way_is_waited_for(db, ledger_in):
    ledger_in(db).claim([ROW], policy=PARK)
    for policy in (PARK, RESEND, REPLAY_PARKED):
        claim = only(ledger_in(db, "run-2").claim([ROW], policy=policy))
        assert claim.waits
        assert not claim.granted
    assert entries(db)[ROW.key]["state"] == "sending"


@pytest.mark.parametrize("dead_by", ["lease", "next try"])
def test_a_row_of_a_dead_worker_is_parked(db, ledger_in, dead_by):
    dead = ledger_in(db)
    dead.claim([ROW], policy=PARK)
    if dead_by == "lease":
        expire(db)
    next_ = ledger_in(db, "run-2" if dead_by == "lease" else "run-1", attempt=2)
    claim = only(next_.claim([ROW], policy=PARK))
    assert not claim.granted
    assert not claim.waits
    assert claim.entry.state is State.PARKED
    entry = entries(db)[ROW.key]
    assert entry["state"] == "parked"
    assert "ended without writing down an answer" in entry["detail"]
    assert not only(ledger_in(db, "run-3").claim([ROW], policy=PARK)).granted


@pytest.mark.parametrize("dead_by", ["lease", "next try"])
def test_a_row_of_a_dead_worker_is_sent_again_where_that_is_allowed(db, ledger_in, dead_by):
    ledger_in(db).claim([ROW], policy=RESEND)
    if dead_by == "lease":
        expire(db)
    next_ = ledger_in(db, "run-2" if dead_by == "lease" else "run-1", attempt=2)
    claim = only(next_.claim([ROW], policy=RESEND))
    assert claim.granted
    assert claim.entry.state is State.SENDING
    entry = entries(db)[ROW.key]
    assert (entry["claim_id"], entry["attempts"], entry["try_number"]) == (next_.worker.claim_id, 2, 2)


def test_another_body_under_the_key_of_a_doubtful_row_is_parked(db, ledger_in):
    first = ledger_in(db)
    rows = [make_row(name) for name in "ab"]
    first.claim(rows, policy=RESEND)
    first.record({rows[0].key: Outcome(state=State.UNKNOWN, detail="no answer")})
    changed = [make_row(name, body=b"[]") for name in "ab"]
    claims = ledger_in(db, attempt=2).claim(changed, policy=RESEND)
    assert [claim.granted for claim in claims] == [False, False]
    for entry in entries(db).values():
        assert entry["state"] == "parked"
        assert "another body" in entry["detail"]


def test_an_unknown_row_is_sent_again_or_parked(db, ledger_in):
    rows = make_rows(2)
    first = ledger_in(db)
    first.claim(rows, policy=RESEND)
    first.record({row.key: Outcome(state=State.UNKNOWN, detail="no answer") for row in rows})
    assert only(ledger_in(db, attempt=2).claim(rows[:1], policy=RESEND)).granted
    claim = only(ledger_in(db, "run-2").claim(rows[1:], policy=PARK))
    assert not claim.granted
    assert entries(db)[rows[1].key]["state"] == "parked"
    assert entries(db)[rows[1].key]["detail"] == "no answer"


@pytest.mark.parametrize(("outcome", "policy"), [(PARKED, REPLAY_PARKED), (REJECTED, REPLAY_REJECTED)])
def test_a_replay_takes_a_row_once_a_run(db, ledger_in, outcome, policy):
    first = ledger_in(db)
    first.claim([ROW], policy=PARK)
    first.record({ROW.key: outcome})
    assert not only(ledger_in(db, attempt=2).claim([ROW], policy=policy)).granted
    assert not only(ledger_in(db, "run-2").claim([ROW], policy=PARK)).granted
    second = ledger_in(db, "run-2")
    assert only(second.claim([ROW], policy=policy)).granted
    second.record({ROW.key: outcome})
    assert not only(ledger_in(db, "run-2", attempt=2).claim([ROW], policy=policy)).granted
    assert only(ledger_in(db, "run-3").claim([ROW], policy=policy)).granted


def test_a_replay_that_dies_is_not_repeated_by_its_next_try(db, ledger_in):
    first = ledger_in(db)
    first.claim([ROW], policy=PARK)
    first.record({ROW.key: PARKED})
    assert only(ledger_in(db, "run-2").claim([ROW], policy=REPLAY_PARKED)).granted
    for attempt in (2, 3):
        assert not only(ledger_in(db, "run-2", attempt=attempt).claim([ROW], policy=REPLAY_PARKED)).granted
    assert entries(db)[ROW.key]["state"] == "parked"


def test_rows_that_stand_are_told_apart_without_a_claim(db, ledger_in):
    rows = make_rows(6)
    first = ledger_in(db)
    first.claim(rows[:5], policy=PARK)
    first.record({rows[0].key: COMMITTED, rows[1].key: REJECTED, rows[2].key: PARKED})
    first.record({rows[3].key: Outcome(state=State.UNKNOWN)})
    before = entries(db)
    second = ledger_in(db, "run-2")
    assert set(second.settled(rows, policy=PARK)) == {row.key for row in rows[:3]}
    assert set(second.settled(rows, policy=REPLAY_PARKED)) == {row.key for row in rows[:2]}
    assert set(second.settled(rows, policy=REPLAY_REJECTED)) == {rows[0].key, rows[2].key}
    assert second.settled(rows[:1], policy=PARK)[rows[0].key].outcome == COMMITTED
    assert entries(db) == before


# -- workers that were taken for dead ------------------------------------------------------------------------------


def test_the_late_answer_of_a_worker_that_was_taken_for_dead_still_counts(db, ledger_in):
    late = ledger_in(db)
    late.claim([ROW], policy=PARK)
    expire(db)
    ledger_in(db, "run-2").claim([ROW], policy=PARK)
    assert entries(db)[ROW.key]["state"] == "parked"
    late.record({ROW.key: COMMITTED})
    assert entries(db)[ROW.key]["state"] == "committed"


@pytest.mark.parametrize("policy", [RESEND, REPLAY_PARKED])
def test_a_late_answer_does_not_replace_what_another_worker_does(db, ledger_in, caplog, policy):
    late, other = ledger_in(db), ledger_in(db, "run-2")
    late.claim([ROW], policy=PARK)
    expire(db)
    if policy is REPLAY_PARKED:
        ledger_in(db, "run-3").claim([ROW], policy=PARK)
    assert only(other.claim([ROW], policy=policy)).granted
    with caplog.at_level(logging.WARNING):
        late.record({ROW.key: REJECTED})
    assert "1 of 1 outcomes" in caplog.text
    assert entries(db)[ROW.key]["state"] == "sending"
    other.record({ROW.key: COMMITTED})
    late.record({ROW.key: REJECTED})
    assert entries(db)[ROW.key]["state"] == "committed"


def test_a_sign_of_life_moves_the_leases_of_one_worker_only(db, ledger_in):
    mine, other = ledger_in(db), ledger_in(db, "run-2")
    rows = make_rows(3)
    mine.claim(rows[:2], policy=PARK)
    other.claim(rows[2:], policy=PARK)
    mine.record({rows[1].key: COMMITTED})
    expire(db)
    mine.renew([row.key for row in rows])
    found = entries(db)
    assert found[rows[0].key]["lease_until"] > 1
    assert found[rows[1].key]["lease_until"] == found[rows[2].key]["lease_until"] == 1
    assert only(ledger_in(db, "run-3").claim(rows[:1], policy=PARK)).waits


@pytest.mark.parametrize("name", ["duckdb", "sqlite"])
def test_a_lease_ends_by_the_clock(opened, ledger_in, name):
    db = opened(name)
    time = 1_800_000_000.0
    ledger_in(db, clock=lambda: time).claim([ROW], policy=PARK)
    almost, after = time + LEASE - 0.01, time + LEASE
    assert only(ledger_in(db, "run-2", clock=lambda: almost).claim([ROW], policy=RESEND)).waits
    assert only(ledger_in(db, "run-2", clock=lambda: after).claim([ROW], policy=RESEND)).granted


def test_postgres_has_the_time_for_all(postgres, ledger_in):
    ledger_in(postgres, clock=lambda: 0.0).claim([ROW], policy=PARK)
    assert only(ledger_in(postgres, "run-2", clock=lambda: 1e11).claim([ROW], policy=RESEND)).waits


# -- odd values ----------------------------------------------------------------------------------------------------

ODD = [
    'it\'s "quoted" `so` \\ and \\\\ more',
    "%s %(name)s ? :name $1 {}",
    "a\nb\tc\r\nd",
    "naïve 日本語 🙂 \u202e rtl",
    "x" * 100_000,
    "",
    "NULL",
    "\\N",
    ',,"",\'',
]


def test_odd_texts_come_back_as_they_went_in(db, ledger_in):
    ledger = ledger_in(db)
    rows = {make_row(text): text for text in ODD}
    ledger.claim(list(rows), policy=PARK)
    ledger.record(
        {row.key: structs.replace(REJECTED, detail=text, trace_id=text, decision=text, field=text) for row, text in rows.items()}
    )
    found = ledger_in(db, "run-2").settled(list(rows), policy=PARK)
    for row, text in rows.items():
        outcome = found[row.key].outcome
        assert [outcome.detail, outcome.trace_id, outcome.decision, outcome.field] == [text] * 4


def test_a_text_that_a_database_cannot_keep_costs_no_outcome(db, ledger_in):
    ledger = ledger_in(db)
    rows = make_rows(3)
    ledger.claim(rows, policy=PARK)
    details = ["nul \x00 in it", "half \ud800 a pair"]
    refused = {row.key: structs.replace(REJECTED, detail=detail) for row, detail in zip(rows[1:], details, strict=True)}
    ledger.record({rows[0].key: COMMITTED, **refused})
    found = entries(db)
    assert [found[row.key]["state"] for row in rows] == ["committed", "rejected", "rejected"]
    assert [found[row.key]["detail"] for row in rows[1:]] == ["nul \ufffd in it", "half ? a pair"]


def test_many_rows_at_once(db, ledger_in):
    ledger = ledger_in(db)
    rows = make_rows(1000)
    claims = ledger.claim(rows, policy=PARK)
    assert [claim.row for claim in claims] == rows
    assert all(claim.granted for claim in claims)
    ledger.renew([row.key for row in rows])
    ledger.record({row.key: COMMITTED for row in rows[:900]})
    ledger.release(claims[900:])
    assert [entry["state"] for entry in entries(db).values()] == ["committed"] * 900
    assert len(ledger_in(db, "run-2").settled(rows, policy=PARK)) == 900


# -- a database that is not well -----------------------------------------------------------------------------------


def test_a_database_that_fails_three_times_costs_nothing(db, ledger_in):
    ledger = ledger_in(db)
    failures = ["early", "late", "unconfirmed"]
    rows = make_rows(3)
    failures_of(ledger).extend(failures)
    claims = ledger.claim(rows, policy=PARK)
    assert all(claim.granted for claim in claims)
    failures_of(ledger).extend(failures)
    ledger.record({rows[0].key: COMMITTED, rows[1].key: PARKED})
    failures_of(ledger).extend(failures)
    ledger.renew([rows[2].key])
    failures_of(ledger).extend(failures)
    ledger.release(claims[2:])
    assert {key: entry["state"] for key, entry in entries(db).items()} == {rows[0].key: "committed", rows[1].key: "parked"}


def test_a_database_that_stays_away_is_an_error(lite, ledger_in):
    ledger = ledger_in(lite)
    failures_of(ledger).extend(["early"] * 4)
    with pytest.raises(LandingError, match="away"):
        ledger.claim([ROW], policy=PARK)
    assert entries(lite) == {}


def test_a_database_that_has_worked_is_waited_for(lite, ledger_in, monkeypatch):
    ledger = ledger_in(lite)
    failures = failures_of(ledger)
    failures.extend(["away"] * 20)
    assert ledger.claim([ROW], policy=PARK)[0].granted
    # What follows a wait in vain has no more tries than any other failure.
    monkeypatch.setattr(transactions_module, "OUTAGE", 0.0)
    for tries in (4, 4):
        failures.extend(["away"] * tries)
        with pytest.raises(LandingError, match="away"):
            ledger.record({ROW.key: COMMITTED})
        assert failures == []
    ledger.record({ROW.key: COMMITTED})
    assert entries(lite)[ROW.key]["state"] == "committed"


def test_a_database_that_has_never_worked_is_not_waited_for(lite, no_pauses):
    held = FailingDatabase(lite.hook())
    held.failures.extend(["away"] * 4)
    with pytest.raises(LandingError, match="away"):
        make_ledger(held, make_worker()).prepare()


def test_rows_that_vanish_from_the_table_are_added_again(db, ledger_in, caplog):
    """As after a failover to a server that had not received the last transactions."""
    ledger = ledger_in(db)
    rows = make_rows(6)
    ledger.claim(rows, policy=PARK)
    db.execute(f"DELETE FROM ledger WHERE idempotency_key IN ('{rows[0].key}', '{rows[1].key}', '{rows[2].key}')")
    ledger.record({rows[0].key: COMMITTED, rows[3].key: COMMITTED})
    assert "1 rows that this task had recorded were no longer in the table ledger" in caplog.text
    assert "another worker has taken over" not in caplog.text
    ledger.renew([row.key for row in rows[1:3]])
    there = {key: entry["state"] for key, entry in entries(db).items()}
    states = ["committed", "sending", "sending", "committed", "sending", "sending"]
    assert there == {row.key: state for row, state in zip(rows, states, strict=True)}
    # Nobody else sends them, and what is settled or free is not added again.
    assert not any(claim.granted for claim in ledger_in(db, "run-2").claim(rows, policy=PARK))
    ledger.record({row.key: COMMITTED for row in rows[1:3]})
    db.execute("DELETE FROM ledger")
    ledger.record({rows[0].key: COMMITTED})
    ledger.renew([rows[0].key])
    assert entries(db) == {}


def test_a_state_that_is_none_is_named(db, ledger_in):
    ledger = ledger_in(db)
    ledger.claim([ROW], policy=PARK)
    db.execute("UPDATE ledger SET state = 'done by hand'")
    before = ledger._database.transactions
    for ask in (ledger.claim, ledger.settled):
        with pytest.raises(LedgerError, match=rf"{ROW.key}.*'done by hand'.*committed.*parked"):
            ask([ROW], policy=PARK)
    assert ledger._database.transactions == before + 2, "what a person has to mend was tried again"


def test_a_row_that_a_person_has_settled_stays_settled(db, ledger_in):
    first = ledger_in(db)
    first.claim([ROW], policy=PARK)
    first.record({ROW.key: PARKED})
    db.execute("UPDATE ledger SET state = 'committed'")
    for policy in (PARK, RESEND, REPLAY_PARKED, REPLAY_REJECTED):
        claim = only(ledger_in(db, "run-2").claim([ROW], policy=policy))
        assert not claim.granted
        assert claim.entry.state is State.COMMITTED


def test_postgres_writes_to_disk_even_where_it_is_set_not_to(postgres, ledger_in, monkeypatch):
    from limio_limitrail.usage.ledger.sql import LedgerStatements

    postgres.execute(f"ALTER DATABASE {postgres.connection['schema']} SET synchronous_commit = off")
    assert postgres.query("SHOW synchronous_commit") == [("off",)]
    seen = []
    insert = LedgerStatements.insert

    def watched(self, *args, **more):
        added = insert(self, *args, **more)
        seen.extend(self.session.query("SHOW synchronous_commit"))
        return added

    monkeypatch.setattr(LedgerStatements, "insert", watched)
    ledger_in(postgres).claim([ROW], policy=PARK)
    assert seen == [("on",)]


def test_postgres_keeps_a_stricter_setting(postgres, ledger_in):
    postgres.execute(f"ALTER DATABASE {postgres.connection['schema']} SET synchronous_commit = remote_apply")
    ledger = ledger_in(postgres)
    with ledger._database.transaction() as session:
        from limio_limitrail.usage.ledger.sql import LedgerStatements

        LedgerStatements(session=session, database="postgresql", table="ledger", worker=ledger.worker).require_durability()
        assert session.query("SHOW synchronous_commit") == [("remote_apply",)]


def test_an_interruption_is_no_failure_of_the_database(tmp_path, monkeypatch):
    """DuckDB makes a RuntimeError of what a signal handler raises; tried again, a task would outlive its timeout."""
    calls = []

    class Interrupted:
        name = "duckdb"

        @contextmanager
        def transaction(self):
            calls.append(1)
            raise RuntimeError("Query interrupted")
            yield

    worker = Worker(dag_id="d", task_id="t", run_id="r", map_index=-1, try_number=1)
    ledger = Ledger(database=Interrupted(), table="ledger", worker=worker, operation="usage.commit", conn_id="c")
    with pytest.raises(StoppedError, match="execution_timeout"):
        ledger.renew(["k"])
    assert calls == [1]


@pytest.mark.sampled(1)
def test_a_ledger_that_grows_is_not_read_from_end_to_end(postgres, ledger_in):
    """A statement that was planned while the ledger was small must not stay planned for a small one."""
    ledger = ledger_in(postgres)
    rows = make_rows(20_000)
    for at in range(0, len(rows), 200):
        some = rows[at : at + 200]
        assert ledger.settled(some, policy=PARK) == {}
        assert all(claim.granted for claim in ledger.claim(some, policy=PARK))
        ledger.record({row.key: Outcome(state=State.COMMITTED) for row in some})
    ledger._database.close()  # what a connection has read is counted once it ends
    counted = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'ledger' AND n_tup_ins = 20000"
    deadline = time.monotonic() + 30
    while not (found := postgres.query(counted)) and time.monotonic() < deadline:
        time.sleep(0.1)
    [(read,)] = found
    # As long as it is small, that is the quickest way: a quarter of a million rows. Planned once, it was a million.
    assert read < 500_000
