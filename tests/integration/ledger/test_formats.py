# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Ledgers of other versions, in every kind of database: an older one is taken over with all of its rows, and a newer row is
never guessed at. The files in ``formats`` are what former versions made."""

from __future__ import annotations

import logging
import re
import threading
import uuid
from contextlib import closing
from dataclasses import replace

import pytest

from limio_limitrail.usage.ledger import ledger as ledger_module
from limio_limitrail.usage.ledger.ledger import Ledger
from limio_limitrail.usage.ledger.model import LedgerError, Outcome, State
from limio_limitrail.usage.ledger.table import COLUMNS, FORMAT, addition
from tests.support.ledgers import PARK, REPLAY_PARKED, RESEND, FailingDatabase, entries, make_ledger, make_row, make_worker
from tests.support.old_ledgers import FORMATS, old_insert, old_rows, old_table

COMMITTED = Outcome(state=State.COMMITTED, http_status=200, decision="ALLOWED")
RESEND_FOR_EVER = replace(RESEND, resend_within=10**9)
ROWS = {name: make_row(name) for name in ("committed", "denied", "rejected", "unknown", "parked", "dead", "alive", "new")}


@pytest.fixture(params=range(1, FORMAT), ids="format {}".format)
def number(request):
    """Every former format in turn."""
    return request.param


@pytest.fixture
def old(db, number):
    """A database with a ledger of a former version, and a row in each state in it."""
    db.execute(old_table(db.name, number=number), old_insert(old_rows(number)))
    return db


def told(db):
    """Give state and format of each row by its name."""
    names = {row.key: name for name, row in ROWS.items()}
    return {names[key]: (entry["state"], entry["ledger_format"]) for key, entry in entries(db).items()}


def by_name(claims):
    names = {row.key: name for name, row in ROWS.items()}
    return {names[claim.row.key]: claim for claim in claims}


def test_every_database_has_a_file_of_every_former_format():
    found = {path.name for path in FORMATS.glob("*")}
    kinds = ("duckdb", "postgres", "sqlite", "standard")
    assert found == {
        name
        for number in range(1, FORMAT)
        for name in (f"rows_{number}.json", *(f"ledger_{number}_{kind}.sql" for kind in kinds))
    }


# -- older ones ----------------------------------------------------------------------------------------------------


def test_an_older_ledger_is_taken_over_with_its_rows(old, number, ledger_in, caplog):
    types = old.types("ledger")
    assert ("ledger_format" in types) is (number > 1)
    before = {row["idempotency_key"]: row for row in old_rows(number)}
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            ledger_in(old)
    assert caplog.text.count("made by an older version") == 1
    assert list(old.types("ledger")) == list(COLUMNS)
    assert {name: type_ for name, type_ in old.types("ledger").items() if name in types} == types
    after = entries(old)
    assert after.keys() == before.keys()
    for key, row in before.items():
        assert {name: value for name, value in row.items() if name not in ("claimed_at", "finished_at")} == {
            name: value for name, value in after[key].items() if name in row
        }
        assert after[key]["finished"] == (row["finished_at"] is not None)
        assert after[key]["ledger_format"] == row.get("ledger_format")


@pytest.mark.parametrize("policy", [PARK, RESEND, RESEND_FOR_EVER], ids=["park", "resend", "resend for ever"])
def test_what_an_older_ledger_says_of_its_rows_stands(old, number, ledger_in, policy):
    ledger = ledger_in(old, "run-2")
    settled = ledger.settled(list(ROWS.values()), policy=policy)
    assert {entry.state.value for entry in settled.values()} == {"committed", "denied", "rejected", "parked"}
    assert settled[ROWS["committed"].key].outcome == Outcome(
        state=State.COMMITTED, http_status=200, decision="ALLOWED", reservation_id="res-1", trace_id="t-1"
    )
    claims = by_name(ledger.claim(list(ROWS.values()), policy=policy))
    # The other one was claimed twice, and when it was first is not known.
    # Whoever has a DuckDB file is alone: nobody else lives.
    dead = {"dead", "alive"} if old.name == "duckdb" else {"dead"}
    again = dead if policy is RESEND_FOR_EVER else set()
    assert {name for name, claim in claims.items() if claim.granted} == {"new"} | again
    assert {name for name, claim in claims.items() if claim.waits} == {"alive"} - dead
    ledger.record({claim.row.key: COMMITTED for claim in claims.values() if claim.granted})
    former = old_rows(number)[0].get("ledger_format")
    assert told(old) == {
        "committed": ("committed", former),
        "denied": ("denied", former),
        "rejected": ("rejected", former),
        "parked": ("parked", former),
        "alive": ("sending", former),
        "unknown": ("parked", former),
        **dict.fromkeys(dead, ("committed", FORMAT) if again else ("parked", former)),
        "new": ("committed", FORMAT),
    }


def test_an_older_row_that_is_given_back_is_what_it_was(old, number, ledger_in):
    ledger = ledger_in(old, "run-2")
    before = entries(old)[ROWS["parked"].key]
    [claim] = ledger.claim([ROWS["parked"]], policy=REPLAY_PARKED)
    assert claim.granted
    assert told(old)["parked"] == ("sending", FORMAT)
    ledger.release([claim])
    assert entries(old)[ROWS["parked"].key] == {**before, "finished": 0, "ledger_format": number}


def test_workers_of_both_versions_at_one_ledger(old, number, ledger_in):
    """A worker of the former version goes on with the columns that it knows."""
    ledger = ledger_in(old, "run-2")
    late, later = ({**old_rows(number)[at], "idempotency_key": make_row(f"late {at}").key} for at in (0, 6))
    old.execute(old_insert([late, later]))
    settled, waiting = ledger.claim([make_row("late 0"), make_row("late 6")], policy=PARK)
    assert (settled.granted, settled.waits, waiting.granted, waiting.waits) == (False, False, False, old.name != "duckdb")
    [claim] = ledger.claim([ROWS["new"]], policy=PARK)
    names = list(old_rows(number)[0])
    found = old.query(f"SELECT {', '.join(names)} FROM ledger WHERE idempotency_key = '{claim.row.key}'")
    assert dict(zip(names, found[0], strict=True))["state"] == "sending"


def test_many_workers_take_an_older_ledger_over_at_once(old, no_pauses):
    ready, errors = threading.Barrier(6), []

    def work(number: int) -> None:
        with closing(FailingDatabase(old.hook(), duckdb_wait=30.0)) as held:
            ledger = make_ledger(held, make_worker(f"run-{number}"))
            try:
                ready.wait(timeout=300)
                ledger.prepare()
                [claim] = ledger.claim([make_row(number)], policy=PARK)
                assert claim.granted
            except BaseException as error:  # noqa: BLE001 - told below
                errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=600)
    assert errors == []
    assert len(entries(old)) == len(old_rows()) + 6


def test_a_worker_that_was_faster(old, ledger_in, monkeypatch):
    take_over = Ledger._upgrade

    def beaten(self):
        monkeypatch.setattr(Ledger, "_upgrade", take_over)
        ledger_in(old, "faster")

        def add_blindly(session, table):
            """What this worker has seen of the columns is older than what the other has done."""
            session.execute(addition(session.dialect, table, "ledger_format"))

        monkeypatch.setattr(ledger_module, "add_columns", add_blindly)
        take_over(self)

    monkeypatch.setattr(Ledger, "_upgrade", beaten)
    ledger = ledger_in(old)
    assert ledger.settled([ROWS["committed"]], policy=PARK)


def test_a_reader_does_not_lock_a_worker_out_for_ever(opened, ledger_in):
    """Whoever has read the ledger and is about to write to it holds a lock that the new column must wait for."""
    db = opened("psycopg3")
    db.execute(old_table(db.name), old_insert(old_rows()))
    failed = []

    def take_over() -> None:
        try:
            ledger_in(db)
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    with closing(db.hook().get_conn()) as other:
        cursor = other.cursor()
        cursor.execute("SELECT count(*) FROM ledger")
        thread = threading.Thread(target=take_over)
        thread.start()
        asked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'ledger'::regclass"
        while db.query(asked) == [(0,)] and thread.is_alive():
            pass
        cursor.execute(old_insert([{**old_rows()[0], "idempotency_key": str(uuid.uuid4())}]))
        other.commit()
    thread.join(timeout=600)
    assert failed == []
    assert "ledger_format" in db.types("ledger")
    assert len(entries(db)) == len(old_rows()) + 1


def test_a_worker_that_may_not_add_columns(opened, ledger_in):
    db = opened("psycopg3")
    clerk = f"clerk_{uuid.uuid4().hex}"
    db.execute(old_table(db.name), old_insert(old_rows()), f"CREATE ROLE {clerk} LOGIN", f"GRANT ALL ON ledger TO {clerk}")
    db.connection["login"] = clerk
    try:
        with pytest.raises(LedgerError, match=r'ALTER TABLE "ledger" ADD COLUMN "ledger_format" bigint') as caught:
            ledger_in(db)
        assert "made by an older version" in str(caught.value)
    finally:
        db.connection["login"] = "postgres"
    db.execute(*re.findall(r"ALTER TABLE [^;.]*", str(caught.value)))
    db.connection["login"] = clerk
    try:
        assert len(ledger_in(db).settled(list(ROWS.values()), policy=PARK)) == 4
    finally:
        db.connection["login"] = "postgres"
        db.execute(f"DROP OWNED BY {clerk}", f"DROP ROLE {clerk}")


# -- newer and damaged ones ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["committed", "sending", "settled-by-a-word-of-its-own"])
def test_a_row_of_a_newer_version_is_refused(db, ledger_in, state):
    ledger = ledger_in(db)
    ledger.claim([ROWS["committed"], ROWS["new"]], policy=PARK)
    db.execute(f"UPDATE ledger SET ledger_format = 4, state = '{state}' WHERE idempotency_key = '{ROWS['committed'].key}'")
    before = entries(db)
    other = ledger_in(db, "run-2")
    asked = [ROWS["denied"], ROWS["committed"]]
    for ask in (other.settled, other.claim):
        with pytest.raises(LedgerError, match=r"has format 4, and this version reads formats 1 to 3") as caught:
            ask(asked, policy=RESEND)
        assert ROWS["committed"].key in str(caught.value)
        assert "or a later one" in str(caught.value)
        assert entries(db) == before
    [claim] = other.claim([ROWS["denied"]], policy=PARK)
    assert claim.granted
    assert told(db)["denied"] == ("sending", FORMAT)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("ledger_format = 0", "no format but '0'"),
        ("ledger_format = -1", "no format but '-1'"),
        ("lease_until = NULL", "lease_until must not be empty"),
        ("claim_id = NULL, run_id = NULL", "run_id, claim_id must not be empty"),
        ("state = NULL", "the state 'None'"),
        ("state = 'paid'", "the state 'paid'"),
    ],
)
def test_a_row_that_is_damaged_is_refused(db, ledger_in, change, says):
    ledger = ledger_in(db)
    ledger.claim([ROWS["new"]], policy=PARK)
    db.execute(f"UPDATE ledger SET {change}")
    for ask in (ledger.settled, ledger.claim):
        with pytest.raises(LedgerError, match=says) as caught:
            ask([ROWS["new"]], policy=RESEND)
        assert ROWS["new"].key in str(caught.value)


@pytest.mark.parametrize("name", ["ledger_format", "lease_until", "attempts", "try_number"])
def test_a_text_where_a_number_belongs(lite, ledger_in, name):
    """SQLite keeps what it is given."""
    ledger = ledger_in(lite)
    ledger.claim([ROWS["new"]], policy=PARK)
    lite.execute(f"UPDATE ledger SET {name} = 'much'")
    with pytest.raises(LedgerError, match=f"{name} is no number"):
        ledger.claim([ROWS["new"]], policy=PARK)
