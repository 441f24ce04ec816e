# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Two tries of one run at once: Airflow lost the heartbeat of the first, which goes on, and started the next beside it."""

from __future__ import annotations

import re
import time

import duckdb
import psycopg
import pytest

from limio_limitrail.emulator import Fault
from tests.support.landed import duck_rows

LIST = "/api/objects/limio/subscriptions"
SHORT = {"limio_limitrail.transfers.folders.LOCK_WAIT": 0.5}
DAG = """
LimioToSqlOperator(
    task_id="load", resource="subscriptions", sql_conn_id={conn_id!r}, table="subs", mode="append", page_size=17, part_rows=34
)
"""

pytestmark = pytest.mark.needs_state_store


@pytest.fixture
def slow(limio_emulator):
    """The list, each page of which takes a while."""
    limio_emulator.faults.add(Fault("latency", match=LIST, seconds=0.1, times=None))
    return limio_emulator


def begin(home):
    """Begin a try, and return when it has parts."""
    pid = home.begin("attempt", "pull", task_id="load", run_id="one")
    deadline = time.monotonic() + 600
    while not list((home.path / "tmp").rglob("part-*")):
        assert time.monotonic() < deadline, home.output()[-3000:]
        time.sleep(0.02)
    return pid


def ids(home, tmp_path, connection):
    if connection is None:
        return [row["id"] for row in duck_rows(tmp_path / "warehouse.duckdb", "subs")]
    login = {"host": connection["host"], "user": connection["login"], "dbname": connection["schema"]}
    with psycopg.connect(**login) as database:
        assert not database.execute("SELECT relname FROM pg_class WHERE relname ~ '^_limio_staging'").fetchall()
        return [row for (row,) in database.execute("SELECT id FROM subs").fetchall()]


@pytest.mark.exhaustive
@pytest.mark.parametrize("conn_id", ["duck", "pg"])
def test_the_second_waits_for_the_first(make_home, slow, postgres_connection, tmp_path, conn_id):
    home = make_home(slow, pg=postgres_connection)
    home.write_dag(DAG.format(conn_id=conn_id))
    first = begin(home)
    second = home.begin("attempt", "pull", task_id="load", run_id="one")
    ended = [home.join(pid) for pid in (first, second)]
    assert [one.result["error"] for one in ended] == [None, None], home.output()[-3000:]
    assert "uses file://" in home.output()
    found = ids(home, tmp_path, postgres_connection if conn_id == "pg" else None)
    assert sorted(found) == sorted(row["id"] for row in slow.tenant.rows_of("subscriptions"))
    assert not [path for path in (home.path / "tmp").rglob("*") if path.is_file()]


def test_a_try_that_loads_after_a_later_one_pulls_again(make_home, limio_emulator, tmp_path):
    """On two workers, neither of which sees the other's folder."""
    home = make_home(limio_emulator)
    home.write_dag(DAG.format(conn_id="duck"))
    assert home.attempt("load", run_id="one").result["error"] is None
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as database:
        database.execute("UPDATE subs SET _extracted_at = _extracted_at + INTERVAL 1 HOUR")
    limio_emulator.counters.reset()
    assert "LatePullError" in home.attempt("load", run_id="one").result["error"]
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as database:
        database.execute("UPDATE subs SET _extracted_at = _extracted_at - INTERVAL 1 HOUR")
    pages = limio_emulator.counters.requests
    assert home.attempt("load", run_id="one").result["error"] is None
    assert limio_emulator.counters.requests == 2 * pages, "the parts of the late pull were not used"
    assert sorted(ids(home, tmp_path, None)) == sorted(row["id"] for row in limio_emulator.tenant.rows_of("subscriptions"))


def test_the_second_gives_up_before_the_first_ends(make_home, slow, tmp_path):
    home = make_home(slow)
    home.write_dag(DAG.format(conn_id="duck"))
    first = begin(home)
    second = home.attempt("load", run_id="one", patch=SHORT)
    assert re.search(r"FolderInUseError.*earlier try.*fuser -v /", second.result["error"])
    assert home.join(first).result["error"] is None
    assert sorted(ids(home, tmp_path, None)) == sorted(row["id"] for row in slow.tenant.rows_of("subscriptions"))
