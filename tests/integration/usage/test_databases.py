# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Ledgers in files: one that another process has open, one in SQLite, and tables that are no ledgers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from limio_limitrail.emulator import Fault
from tests.support.usage import COMMIT, SIGKILL, make_rows

HOLD = "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]); print('open', flush=True); time.sleep(float(sys.argv[2]))"
SHORT = {"limio_limitrail.operators.usage_commit.DUCKDB_WAIT": 1.0}


def test_a_duckdb_file_that_another_process_has(place_of):
    place = place_of("duck", make_rows(50))
    place.write_dag(retries=3)
    path = place.database.connection["host"]
    with subprocess.Popen([sys.executable, "-c", HOLD, path, "60"], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "open\n"
        last = place.attempt(patch=SHORT)
        holder.terminate()
    assert last.state == "up_for_retry"
    output = place.output()
    assert "LandingError" in output
    assert "another process" in output
    assert "'duck'" in output
    assert place.server.counters.requests == 0
    assert place.attempt().state == "success"
    assert len(place.agree()) == 50


@pytest.mark.exhaustive
def test_a_duckdb_file_that_is_let_go_in_time(place_of):
    place = place_of("duck", make_rows(50))
    place.write_dag()
    path = place.database.connection["host"]
    with subprocess.Popen([sys.executable, "-c", HOLD, path, "4"], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "open\n"
        assert place.attempt().state == "success"
    assert len(place.agree()) == 50


@pytest.mark.exhaustive
def test_a_dry_run_waits_for_a_duckdb_file_as_a_run_does(place_of):
    place = place_of("duck", make_rows(50))
    place.write_dag(dry_run=True)
    path = place.database.connection["host"]
    with subprocess.Popen([sys.executable, "-c", HOLD, path, "4"], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "open\n"
        last = place.attempt()
    assert (last.state, last.summary["would_be_sent"]) == ("success", 50)


@pytest.mark.parametrize(
    ("conn_id", "host", "said"),
    [
        ("duck", "ledger.duckdb", "relative path ('ledger.duckdb')"),
        ("lite", "./ledger.db", "relative path ('./ledger.db')"),
        ("lite", ":memory:", "the SQLite connection names no file"),
        ("lite", "", "the SQLite connection names no file"),
    ],
)
def test_a_ledger_that_the_next_task_would_not_find_sends_nothing(place_of, conn_id, host, said):
    place = place_of(conn_id, make_rows(3))
    place.write_dag(rows=[{"account": "acme-1", "event": "one", "meter": "PAYMENT", "amount": "1"}], sql=None)
    place.home.connect({conn_id: {**place.database.connection, "host": host}})
    assert place.attempt().state in ("failed", "up_for_retry")
    assert said in place.output()
    assert place.server.counters.requests == 0


@pytest.mark.exhaustive
def test_sqlite(place_of):
    rows = [*make_rows(600), ("ghost", "x", "PAYMENT", "1"), ("acme-1", "much", "PAYMENT", "1001")]
    place = place_of("lite", rows)
    place.server.faults.add(Fault("reset_after", COMMIT, times=None, share=0.02, seed=5))
    place.write_dag(on_unknown="resend", max_rejected=1, batch_size=50)
    for kill in (["after claiming", 3], ["before recording", 2], ["after sending", 70], ["seconds", 0.4]):
        assert place.attempt(kill=kill).code == SIGKILL
    last = place.attempt()
    assert last.state == "success"
    assert (last.summary["committed"], last.summary["denied"], last.summary["rejected"]) == (600, 1, 1)
    assert len(place.agree()) == 602


@pytest.mark.sampled(1)
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
def test_a_table_that_is_no_ledger(place_of, conn_id):
    place = place_of(conn_id, make_rows(5))
    before = sorted(map(repr, place.database.query("SELECT * FROM usage")))
    for operation, parameter, said in (
        ("commit", "ledger_table", "is no ledger"),
        ("preview", "preview_table", "holds no previews"),
    ):
        place.write_dag(operation=operation, retries=3, **{parameter: "usage"})
        last = place.attempt(operation)
        assert last.state == "failed"
        assert said in last.error
        assert f"{parameter}=" in last.error
    assert place.server.counters.requests == 0
    assert sorted(map(repr, place.database.query("SELECT * FROM usage"))) == before


def test_a_state_that_is_none(place_of):
    place = place_of("pg", make_rows(5))
    place.write_dag(retries=3)
    assert place.attempt("one").state == "success"
    place.database.execute("UPDATE limitrail_usage_ledger SET state = 'paid' WHERE row_key LIKE '%acme-3%'")
    last = place.attempt("two")
    assert last.state == "failed"
    assert "'paid'" in last.error
    assert len(place.sent()) == 5


def test_a_row_that_a_person_has_looked_up(place_of):
    place = place_of("pg", make_rows(20))
    place.server.faults.add(Fault("reset_after", COMMIT, after=10))
    place.write_dag(max_parked=1)
    assert place.attempt("one").summary["parked"] == 1
    place.database.execute("UPDATE limitrail_usage_ledger SET state = 'committed' WHERE state = 'parked'")
    place.write_dag(replay="parked")
    last = place.attempt("two")
    assert (last.state, last.summary["sent"], last.summary["committed"]) == ("success", 0, 20)
    assert len(place.journal()) == 20


def test_a_schema_and_a_name_that_needs_quotes(place_of):
    place = place_of("pg", make_rows(20))
    place.database.execute("CREATE SCHEMA billing")
    place.write_dag(ledger_table="billing.sent")
    assert place.attempt().summary["committed"] == 20
    assert len(place.database.ledger("billing.sent")) == 20
