# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Locks that others hold: a ledger that is there is looked at without one, each wait ends, and its holder is named."""

from __future__ import annotations

import contextlib
import logging
import re
import sqlite3
import threading
import uuid

import pytest

from limio_limitrail.landing.sql import persistent_connection as held_module
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.usage.ledger import transactions as transactions_module
from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.states import State
from limio_limitrail.usage.ledger.transactions import LedgerLockedError
from tests.support.ledger_worker import another_worker
from tests.support.ledgers import PARK, RESEND, FailingDatabase, compete, entries, make_row, make_rows

pytestmark = pytest.mark.every_driver

OLD, NEW = make_row("old"), make_row("new")
COMMITTED = Outcome(state=State.COMMITTED, http_status=200)
KEYS = {"old": OLD.key, "new": NEW.key}


@pytest.fixture
def short(monkeypatch):
    """Waits of a moment."""
    monkeypatch.setattr(held_module, "LOCK_WAIT", 0.2)
    monkeypatch.setattr(transactions_module, "LOCK_TIMEOUT", 0.7)


@contextlib.contextmanager
def session(db):
    """Somebody's own session, with a transaction that is open until the end."""
    with contextlib.closing(db.hook().get_conn()) as connection:
        yield connection
        connection.rollback()


@contextlib.contextmanager
def queued(db, statement):
    """Somebody's statement that waits for a lock, and makes others wait behind it."""
    ended = []

    def run():
        with contextlib.closing(db.hook().get_conn()) as connection:
            connection.autocommit = True
            with contextlib.suppress(Exception):
                connection.cursor().execute("SET application_name = 'queued'")
                connection.cursor().execute(statement)
        ended.append(1)

    thread = threading.Thread(target=run)
    thread.start()
    while not db.query("SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'ledger'::regclass"):
        assert not ended
    yield
    db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'queued'")
    thread.join(timeout=300)


LOCKED = {
    "the whole table": "LOCK TABLE ledger IN ACCESS EXCLUSIVE MODE",
    "an index that is being made": "CREATE INDEX ON ledger (state)",
    "a column that is being added": "ALTER TABLE ledger ADD COLUMN note text",
    "everything is being deleted": "TRUNCATE ledger",
    "a person's own writing": "LOCK TABLE ledger IN SHARE ROW EXCLUSIVE MODE",
    "the row is being changed": "UPDATE ledger SET detail = 'x' WHERE idempotency_key = '{old}'",
    "the row is being deleted": "DELETE FROM ledger WHERE idempotency_key = '{old}'",
    "the row is being looked at": "SELECT * FROM ledger WHERE idempotency_key = '{old}' FOR UPDATE",
}
READ_TOO = {"the whole table", "a column that is being added", "everything is being deleted"}


@pytest.mark.parametrize("situation", LOCKED)
def test_a_ledger_that_is_there_is_looked_at_without_a_lock(postgres, ledger_in, short, situation):
    ledger_in(postgres).claim([OLD], policy=PARK)
    with session(postgres) as other:
        other.cursor().execute(LOCKED[situation].format(**KEYS))
        ledger = ledger_in(postgres, "run-2")
        if situation not in READ_TOO:
            assert ledger.settled([OLD, NEW], policy=PARK) == {}


def test_a_ledger_behind_a_queue_is_looked_at_without_a_lock(postgres, ledger_in, short):
    ledger_in(postgres).claim([OLD], policy=PARK)
    for statement in ("ALTER TABLE ledger ADD COLUMN note text", "VACUUM FULL ledger"):
        with session(postgres) as reader:
            reader.cursor().execute("SELECT * FROM ledger")
            with queued(postgres, statement):
                ledger_in(postgres, "run-2")


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_sqlite_ledger_is_looked_at_without_a_lock(lite, ledger_in, short, mode):
    lite.execute(f"PRAGMA journal_mode = {mode}")
    ledger_in(lite).claim([OLD], policy=PARK)
    with session(lite) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE ledger SET detail = 'x'")
        assert ledger_in(lite, "run-2").settled([OLD, NEW], policy=PARK) == {}


def test_previews_that_are_there_are_looked_at_without_a_lock(postgres, short):
    from limio_limitrail.usage.ledger.previews import Previews
    from tests.support.ledgers import make_worker

    with contextlib.closing(FailingDatabase(postgres.hook())) as held:
        Previews(database=held, table="ledger", worker=make_worker()).prepare()
        with session(postgres) as other:
            other.cursor().execute(LOCKED["the whole table"])
            previews = Previews(database=held, table="ledger", worker=make_worker())
            previews.prepare()
            previews.claim([NEW], policy=PARK)
            with pytest.raises(LedgerLockedError, match="pg_terminate_backend"):
                previews.record({NEW.key: COMMITTED})
        previews.record({NEW.key: COMMITTED})
    assert postgres.query("SELECT state FROM ledger") == [("committed",)]


# -- each wait ends, and tells for whom ----------------------------------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.parametrize("situation", LOCKED)
def test_a_lock_is_not_waited_for_for_ever(postgres, ledger_in, short, caplog, situation):
    ledger = ledger_in(postgres)
    ledger.claim([OLD], policy=PARK)
    with session(postgres) as other:
        cursor = other.cursor()
        cursor.execute("SET application_name = 'somebody''s psql'")
        other.commit()
        cursor.execute("SELECT pg_backend_pid()")
        [(pid,)] = cursor.fetchall()
        cursor.execute(LOCKED[situation].format(**KEYS))
        with caplog.at_level(logging.WARNING), pytest.raises(LedgerLockedError) as caught:
            ledger.record({OLD.key: COMMITTED})
        for told in (str(caught.value), caplog.text):
            assert f"process {pid} (application \"somebody's psql\", user 'postgres', idle in transaction since 20" in told
            assert "UPDATE" not in told
        assert "ledgerlockederror" in str(caught.value)
    ledger.record({OLD.key: COMMITTED})
    assert entries(postgres)[OLD.key]["state"] == "committed"


def test_a_row_that_somebody_is_adding_by_hand(postgres, ledger_in, short):
    ledger = ledger_in(postgres)
    ledger.claim([OLD], policy=PARK)
    columns = [name for name in postgres.types("ledger") if name != "idempotency_key"]
    copied = f"INSERT INTO ledger SELECT '{NEW.key}', {', '.join(columns)} FROM ledger"
    with session(postgres) as other:
        other.cursor().execute(copied)
        with pytest.raises(LedgerLockedError, match="held by process"):
            ledger.claim([NEW], policy=PARK)
    [claim] = ledger.claim([NEW], policy=PARK)
    assert claim.granted


def test_a_statement_in_the_queue_and_the_reader_before_it_are_named(postgres, ledger_in, short):
    ledger = ledger_in(postgres)
    ledger.claim([OLD], policy=PARK)
    with session(postgres) as reader:
        cursor = reader.cursor()
        cursor.execute("SELECT pg_backend_pid() FROM ledger")
        [(pid,)] = cursor.fetchall()
        with queued(postgres, "ALTER TABLE ledger ADD COLUMN note text"), pytest.raises(LedgerLockedError) as caught:
            ledger.claim([NEW], policy=PARK)
    told = str(caught.value)
    assert told.index(f"process {pid} (") < told.index("application 'queued'")
    assert "itself waiting for a lock" in told


def test_a_holder_that_may_not_be_looked_at(postgres, ledger_in, short):
    ledger_in(postgres).claim([OLD], policy=PARK)
    clerk = f"clerk_{uuid.uuid4().hex}"
    postgres.execute(f"CREATE ROLE {clerk} LOGIN", f"GRANT SELECT, INSERT, UPDATE, DELETE ON ledger TO {clerk}")
    try:
        with session(postgres) as other:
            other.cursor().execute(LOCKED["the whole table"])
            postgres.connection["login"] = clerk
            ledger = ledger_in(postgres, "run-2")
            postgres.connection["login"] = "postgres"
            with pytest.raises(
                LedgerLockedError, match=r"held by process \d+ .*user 'postgres', what it does is shown to members"
            ):
                ledger.claim([NEW], policy=PARK)
            ledger._database.close()
    finally:
        postgres.connection["login"] = "postgres"
        postgres.execute(f"DROP OWNED BY {clerk}", f"DROP ROLE {clerk}")


def test_a_lock_that_is_let_go_in_time_costs_nothing(postgres, ledger_in, monkeypatch, caplog):
    monkeypatch.setattr(held_module, "LOCK_WAIT", 0.2)
    ledger = ledger_in(postgres)
    ledger.claim([OLD], policy=PARK)
    with session(postgres) as other, caplog.at_level(logging.WARNING):
        other.cursor().execute(LOCKED["the whole table"])

        def let_go() -> None:
            while "is locked" not in caplog.text:
                pass
            other.rollback()

        thread = threading.Thread(target=let_go)
        thread.start()
        ledger.record({OLD.key: COMMITTED})
        thread.join(timeout=300)
    assert entries(postgres)[OLD.key]["state"] == "committed"


def test_a_table_that_somebody_else_is_making(postgres, ledger_in, short):
    with session(postgres) as other:
        other.cursor().execute("CREATE TABLE ledger (note text)")
        with pytest.raises(LedgerLockedError):
            ledger_in(postgres)
    ledger_in(postgres)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_sqlite_file_that_another_process_writes_to(lite, ledger_in, short, caplog, mode):
    lite.execute(f"PRAGMA journal_mode = {mode}")
    ledger = ledger_in(lite)
    ledger.claim([OLD], policy=PARK)
    ledger._database._drop()  # SQLite does not stand a fork while it is open
    with another_worker(lite, "new", stops=True) as stopped:
        with caplog.at_level(logging.WARNING), pytest.raises(LedgerLockedError) as caught:
            ledger.record({OLD.key: COMMITTED})
        for told in (str(caught.value), caplog.text):
            assert f"held by process {stopped.pid} ({stopped.name}" in told
            assert ", stopped)" in told
    ledger.record({OLD.key: COMMITTED})
    assert entries(lite)[OLD.key]["state"] == "committed"


def test_a_sqlite_file_that_a_thread_of_this_process_writes_to(lite, ledger_in, short):
    ledger = ledger_in(lite)
    with contextlib.closing(sqlite3.connect(lite.connection["host"], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerLockedError, match="the holder is not known"):
            ledger.claim([NEW], policy=PARK)
        other.execute("ROLLBACK")
    assert ledger.claim([NEW], policy=PARK)[0].granted


@pytest.mark.other_processes
def test_a_duckdb_file_that_a_stopped_process_has(opened, ledger_in, caplog, monkeypatch):
    monkeypatch.setattr("limio_limitrail.landing.sql.duckdb_connect.LOG_EVERY", 0.0)
    db = opened("duckdb")
    with contextlib.closing(FailingDatabase(db.hook())) as made:
        from tests.support.ledgers import make_ledger, make_worker

        make_ledger(made, make_worker()).prepare()
    with another_worker(db, "new", stops=True) as stopped:
        held = FailingDatabase(db.hook(), duckdb_wait=1.0)
        with (
            caplog.at_level(logging.INFO),
            pytest.raises(LandingError, match=rf"process {stopped.pid} \({re.escape(stopped.name)}.*, stopped\)"),
        ):
            make_ledger(held, make_worker("run-2")).prepare()
        assert caplog.text.count(f"process {stopped.pid} (") > 1


# -- workers that stand still ---------------------------------------------------------------------------------------


def test_postgres_ends_the_transaction_of_a_worker_that_was_stopped(opened, ledger_in, monkeypatch):
    monkeypatch.setattr(held_module, "LOCK_WAIT", 0.5)
    db = opened("psycopg3")
    ledger = ledger_in(db)
    with another_worker(db, "new", stops=True, idle_limit=1.0) as stopped:
        [claim] = ledger.claim([NEW], policy=PARK)
        assert claim.granted
        assert not stopped.has_ended
    assert entries(db)[NEW.key]["claim_id"] == ledger.worker.claim_id


# -- those who meet -------------------------------------------------------------------------------------------------


def test_workers_at_the_same_old_rows_do_not_wait_for_each_other_in_a_circle(postgres, ledger_in, caplog):
    rows = make_rows(40)
    ledger_in(postgres, "run-0").claim(rows, policy=PARK)
    postgres.execute("UPDATE ledger SET lease_until = 1")
    ledgers = [ledger_in(postgres, f"run-{number}") for number in range(1, 5)]
    with caplog.at_level(logging.WARNING):
        granted = compete(ledgers, rows, policy=RESEND, size=20)
    assert sorted(key for _, key in granted) == sorted(row.key for row in rows)
    assert caplog.text == ""


@pytest.mark.parametrize("state", ["40P01", "40001"])
def test_a_transaction_that_met_another_is_made_again(postgres, ledger_in, state):
    ledger = ledger_in(postgres)
    # What a sequence has given is not taken back.
    postgres.execute(
        "CREATE SEQUENCE tries",
        f"CREATE FUNCTION meet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('tries') <= 6 THEN "
        f"RAISE EXCEPTION 'met' USING ERRCODE = '{state}'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER meet BEFORE INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION meet()",
    )
    assert ledger.claim([NEW], policy=PARK)[0].granted
    assert postgres.query("SELECT last_value FROM tries") == [(7,)]
