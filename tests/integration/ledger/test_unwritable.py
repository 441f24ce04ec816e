# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rights that are missing end a task at once, and an outcome that the table does not take keeps no other from being written."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.states import LedgerError, State
from limio_limitrail.usage.ledger.table import COLUMNS, KEY
from limio_limitrail.usage.ledger.transactions import UnwrittenError
from tests.support.ledgers import PARK, entries, make_ledger, make_row, make_rows, make_worker

pytestmark = pytest.mark.every_driver

COMMITTED = Outcome(state=State.COMMITTED, http_status=200, decision="ALLOWED", reservation_id="res-1", trace_id="t-1")
REJECTED = Outcome(state=State.REJECTED, http_status=400, error_code="bad", field="amount", detail="the account is not known")
ROWS = make_rows(40)
NAMES = ("http_status", "decision", "reservation_id", "error_code", "resource_key", "trace_id", "field", "detail")


@pytest.fixture
def clerk(opened):
    """A Postgres, and a role that may log in and read and write an empty ledger."""
    db = opened("psycopg3")
    name = f"clerk_{uuid.uuid4().hex}"
    db.execute(f"CREATE ROLE {name} LOGIN")
    yield db, name
    db.connection["login"] = "postgres"
    db.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@contextlib.contextmanager
def logged_in(db, name):
    db.connection["login"] = name
    yield
    db.connection["login"] = "postgres"


def failures(ledger, call):
    """Give the error of a call, and how many transactions it took."""
    before = ledger._database.transactions
    with pytest.raises(LedgerError) as caught:
        call()
    return str(caught.value), ledger._database.transactions - before


# -- rights ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("granted", "lacking"),
    [
        ("SELECT", "INSERT, UPDATE, DELETE"),
        ("SELECT, UPDATE, DELETE", "INSERT"),
        ("SELECT, INSERT, DELETE", "UPDATE"),
        ("SELECT, INSERT, UPDATE", "DELETE"),
        ("INSERT, UPDATE, DELETE", "SELECT"),
        ("SELECT, INSERT, UPDATE (state), DELETE", "UPDATE"),
    ],
)
def test_a_missing_right_is_named_before_anything_is_sent(clerk, ledger_in, granted, lacking):
    db, name = clerk
    ledger_in(db)
    db.execute(f"GRANT {granted} ON ledger TO {name}")
    with logged_in(db, name), pytest.raises(LedgerError) as caught:
        ledger_in(db)
    assert f"the connection's user '{name}' may not {lacking} in the table ledger. Nothing was sent." in str(caught.value)
    assert f'GRANT {lacking} ON "ledger" TO "{name}"' in str(caught.value)


@pytest.mark.parametrize("granted", ["SELECT, INSERT, UPDATE, DELETE", "DELETE, {columns}"], ids=["table", "columns"])
def test_rights_that_are_enough(clerk, ledger_in, granted):
    db, name = clerk
    ledger_in(db)
    columns = ", ".join(COLUMNS)
    each = ", ".join(f"{right} ({columns})" for right in ("SELECT", "INSERT", "UPDATE"))
    db.execute(f"GRANT {granted.format(columns=each)} ON ledger TO {name}")
    with logged_in(db, name):
        ledger = ledger_in(db)
        claims = ledger.claim(ROWS[:2], policy=PARK)
        ledger.record({ROWS[0].key: COMMITTED})
        ledger.release(claims[1:])
        ledger._database.close()
    assert entries(db)[ROWS[0].key]["state"] == "committed"


def test_who_may_not_make_the_table_is_told_at_once(clerk, ledger_in):
    db, name = clerk
    db.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    with (
        logged_in(db, name),
        pytest.raises(LedgerError, match=r"may not create one in the schema 'public'.*CREATE on the schema"),
    ):
        ledger_in(db)


@pytest.mark.parametrize("right", ["SELECT", "INSERT", "UPDATE", "DELETE"])
def test_a_right_that_is_revoked_meanwhile_is_not_tried_again(clerk, ledger_in, right):
    db, name = clerk
    ledger_in(db)
    db.execute(f"GRANT ALL ON ledger TO {name}")
    with logged_in(db, name):
        ledger = ledger_in(db)
        claims = ledger.claim(ROWS[:2], policy=PARK)
    db.execute(f"REVOKE {right} ON ledger FROM {name}")
    with logged_in(db, name):
        calls = {
            "SELECT": lambda: ledger.settled(ROWS, policy=PARK),
            "INSERT": lambda: ledger.claim(ROWS[2:], policy=PARK),
            "UPDATE": lambda: ledger.record({ROWS[0].key: COMMITTED}),
            "DELETE": lambda: ledger.release(claims),
        }
        message, transactions = failures(ledger, calls[right])
        ledger._database.close()
    assert "permission denied" in message
    assert "Grant the connection's user what it lacks" in message
    assert transactions == 1
    assert {entry["state"] for entry in entries(db).values()} == {"sending"}


def test_standard_sql_without_a_right_is_not_tried_again(opened, ledger_in):
    db = opened("standard")
    ledger = ledger_in(db)
    name = f"clerk_{uuid.uuid4().hex}"
    db.execute(f"CREATE ROLE {name} LOGIN", f"GRANT SELECT ON ledger TO {name}")
    try:
        with logged_in(db, name):
            ledger = ledger_in(db)
            _, transactions = failures(ledger, lambda: ledger.claim(ROWS, policy=PARK))
            ledger._database.close()
    finally:
        db.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")
    assert transactions == 1


@pytest.mark.parametrize("how", ["a connection for reading", "a file for reading"])
def test_a_sqlite_that_can_only_be_read(lite, ledger_in, how):
    ledger_in(lite)._database.close()
    if how == "a file for reading":
        if os.geteuid() == 0:
            pytest.skip("root may write everything")
        Path(lite.connection["host"]).chmod(0o444)
    else:
        lite.connection["extra"] = '{"mode": "ro"}'
    ledger = ledger_in(lite)
    message, transactions = failures(ledger, lambda: ledger.claim(ROWS, policy=PARK))
    assert "Use a connection, a server or a file that may be written" in message
    assert transactions == 1


def test_a_duckdb_that_can_only_be_read(opened, ledger_in):
    db = opened("duckdb")
    ledger_in(db)._database.close()
    db.connection["extra"] = '{"read_only": true}'
    with pytest.raises(LedgerError, match="is read-only"):
        ledger_in(db)


def test_a_postgres_that_can_only_be_read_may_be_promoted(opened, ledger_in):
    db = opened("psycopg3")
    ledger_in(db)
    db.connection["extra"] = '{"options": "-c default_transaction_read_only=on"}'
    ledger = ledger_in(db)
    with pytest.raises(LandingError, match="may be written"):
        ledger.claim(ROWS, policy=PARK)
    assert entries(db) == {}


# -- what a table does not take ---------------------------------------------------------------------------------------


def make_by_hand(db, changes, *, last=""):
    """Make a ledger as somebody would who knows better: with types and constraints of their own."""
    text = {"sqlite": "TEXT", "duckdb": "VARCHAR"}.get(db.name, "text")
    number, instant = ("INTEGER", "TIMESTAMP") if db.name == "sqlite" else ("BIGINT", "TIMESTAMP WITH TIME ZONE")
    types = {"text": text, "number": number, "instant": instant}
    columns = [f"{name} {types[type_.value]} {changes.get(name, '')}" for name, type_ in COLUMNS.items()]
    db.execute(f"CREATE TABLE ledger ({', '.join(columns)}, PRIMARY KEY ({KEY}){last})")


def written(db):
    found = entries(db)
    return {row.key: Outcome(state=State(found[row.key]["state"]), **{n: found[row.key][n] for n in NAMES}) for row in ROWS}


def record_some(db, ledger_in, odd):
    """Write outcomes for all rows; those at the places in `odd` differ."""
    ledger = ledger_in(db)
    ledger.claim(ROWS, policy=PARK)
    outcomes = {row.key: odd.get(number, COMMITTED) for number, row in enumerate(ROWS)}
    ledger.record(outcomes)
    return ledger, {key: outcome for key, outcome in outcomes.items() if outcome is not COMMITTED}


CHECKS = {
    "a short detail": "CHECK (detail IS NULL OR length(detail) <= 20)",
    "no detail": "CHECK (detail IS NULL)",
    "a list of codes": "CHECK (error_code IS NULL OR error_code IN ('good', 'better'))",
    "no word at all": "CHECK (detail IS NULL AND error_code IS NULL AND field IS NULL)",
    "known statuses": "CHECK (http_status IS NULL OR http_status < 300)",
}
LEFT = {
    "a short detail": structs.replace(REJECTED, detail="the account is not k"),
    "no detail": structs.replace(REJECTED, detail=None),
    "a list of codes": structs.replace(REJECTED, error_code=None),
    "no word at all": structs.replace(REJECTED, detail=None, error_code=None, field=None),
    "known statuses": Outcome(state=State.REJECTED),
}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", ["psycopg3", "psycopg2", "sqlite", "duckdb", "standard"])
def test_an_outcome_that_a_constraint_refuses_is_written_as_far_as_it_can_be(opened, ledger_in, caplog, name, check):
    db = opened(name)
    make_by_hand(db, {}, last=f", {CHECKS[check]}")
    with caplog.at_level(logging.WARNING):
        _, odd = record_some(db, ledger_in, {7: REJECTED})
    [key] = odd
    found = written(db)
    assert found.pop(key) == LEFT[check]
    assert set(found.values()) == {COMMITTED}
    assert f"did not take 1 outcomes as they are, such as that of {key}" in caplog.text
    assert REJECTED.detail not in caplog.text


@pytest.mark.parametrize("name", ["psycopg3", "standard"])
def test_texts_that_are_too_long_for_a_column(opened, ledger_in, caplog, name):
    db = opened(name)
    make_by_hand(db, {})
    db.execute("ALTER TABLE ledger ALTER detail TYPE varchar(20), ALTER trace_id TYPE varchar(20)")
    longer = structs.replace(COMMITTED, trace_id="trace-" * 20)
    _, odd = record_some(db, ledger_in, {0: REJECTED, 1: longer, 39: REJECTED, 20: longer})
    found = written(db)
    for key, outcome in odd.items():
        cut = found.pop(key)
        assert cut.state is outcome.state
        assert cut.http_status == outcome.http_status
        assert (cut.detail or "") == (outcome.detail or "")[:20]
        assert cut.trace_id == (outcome.trace_id[:20] if outcome.trace_id else None)
    assert set(found.values()) == {COMMITTED}


def test_letters_that_a_database_has_no_code_for(opened, ledger_in, request):
    import psycopg

    db = opened("psycopg3")
    name = f"latin_{uuid.uuid4().hex}"
    with psycopg.connect(host=db.connection["host"], user="postgres", dbname="postgres", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
        other = replace(db, connection={**db.connection, "schema": name})
        ledger, odd = record_some(other, ledger_in, {3: structs.replace(REJECTED, detail="r\u00e9fus\u00e9 \u65e5\u672c")})
        found = written(other)
        [key] = odd
        assert found.pop(key) == structs.replace(REJECTED, detail="r?fus? ??")
        assert set(found.values()) == {COMMITTED}
        ledger._database.close()
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("name", ["psycopg3", "sqlite", "duckdb", "standard"])
def test_a_state_that_a_constraint_refuses(opened, ledger_in, name):
    db = opened(name)
    make_by_hand(db, {}, last=", CHECK (state IN ('sending', 'committed', 'rejected'))")
    parked = Outcome(state=State.PARKED, detail="no answer")
    with pytest.raises(UnwrittenError, match=r"does not take the states of 2 rows, such as parked for") as caught:
        record_some(db, ledger_in, {5: parked, 6: parked, 7: REJECTED})
    assert caught.value.keys == {ROWS[5].key, ROWS[6].key}
    states = [entries(db)[row.key]["state"] for row in ROWS]
    assert states == ["committed"] * 5 + ["sending"] * 2 + ["rejected"] + ["committed"] * 32


def test_a_trigger_that_refuses_some(opened, ledger_in):
    db = opened("psycopg3")
    make_by_hand(db, {})
    db.execute(
        "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.error_code = 'bad' THEN "
        "RAISE EXCEPTION 'bad codes are not for here'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER guard BEFORE UPDATE ON ledger FOR EACH ROW EXECUTE FUNCTION guard()",
    )
    _, odd = record_some(db, ledger_in, {2: REJECTED})
    [key] = odd
    assert written(db)[key] == structs.replace(REJECTED, error_code=None)


def test_many_that_are_refused_do_not_take_long(opened, ledger_in):
    """When one form is not taken again and again, the next is tried for all that are left at once."""
    db = opened("psycopg3")
    make_by_hand(db, {}, last=", CHECK (detail IS NULL)")
    rows = make_rows(50)
    ledger = ledger_in(db)
    ledger.claim(rows, policy=PARK)
    before = ledger._database.transactions
    ledger.record({row.key: REJECTED for row in rows})
    assert ledger._database.transactions - before < 150
    assert {(entry["state"], entry["error_code"]) for entry in entries(db).values()} == {("rejected", "bad")}


def test_a_failure_that_is_not_about_rows_is_not_split(opened, ledger_in):
    db = opened("psycopg3")
    ledger = ledger_in(db)
    ledger.claim(ROWS, policy=PARK)
    db.execute("DROP TABLE ledger")
    before = ledger._database.transactions
    with pytest.raises(LandingError):
        ledger.record({row.key: COMMITTED for row in ROWS})
    assert ledger._database.transactions - before == 4
    assert make_ledger(ledger._database, make_worker()).prepare() is None


def test_a_row_that_cannot_be_claimed_is_an_error_and_nothing_is_claimed(opened, ledger_in):
    db = opened("psycopg3")
    make_by_hand(db, {}, last=", CHECK (length(row_key) < 20)")
    with pytest.raises(LandingError, match="check constraint"):
        ledger_in(db).claim([*ROWS, make_row("a very long name indeed")], policy=PARK)
    assert entries(db) == {}
