# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whole pulls whose slices are fetched side by side: each record once, whatever happens on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from limio_limitrail.api.errors import CredentialsError, ParameterError, ScopeError, ServerError
from limio_limitrail.api.pagination import CursorString
from limio_limitrail.api.resource import Resource, TimeFilter
from limio_limitrail.emulator import Fault
from tests.support.landed import duck, manifest_of, records_of

START = datetime(2026, 3, 1, tzinfo=UTC)
SPAN = {"since": START, "until": START + timedelta(days=2), "slice_size": timedelta(hours=6)}
SIGKILL = -9
PATIENCE = 200
# Eight slices of three pages of two records.
PAGES = 24
PAGED = (
    "Resource(name='paged', path='/v1/usage', "
    "paging=CursorString(page_size_param='limit', cursor_param='cursor', cursor_member='nextCursor'), "
    "time_column='committedAt', timestamps=('committedAt',), "
    "time_filter=TimeFilter(since='from', until='to', field='committedAt', required=True))"
)
paged = eval(PAGED, {"Resource": Resource, "CursorString": CursorString, "TimeFilter": TimeFilter})  # the same, here
WAYS = "since='2026-03-01', until='2026-03-03', slice_size=timedelta(hours=6), page_size=2"


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("slices-"):
            thread.join(PATIENCE)
            assert not thread.is_alive(), thread


@pytest.fixture(autouse=True)
def two_records_a_page(limitrail_emulator):
    limitrail_emulator.configure_limitrail(page_size=2)


def asked(server):
    return sum(entry["path"] == "/v1/usage" for entry in server.counters.log)


def saved_pages(home, run_id):
    """How many pages are in parts that a retry keeps: none as long as the cursors have not been seen to change."""
    found = home.do("state_of", "pull", run_id=run_id).result["task"]
    state = json.loads(found[0][1]) if found else {"resumable": False}
    return state["pages"] if state["resumable"] else 0


STEPS = [
    ("before request", 1), ("before request", 15), ("after request", 17), ("half a part", 4), ("after part", 2),
    ("before state", 4), ("after state", 1), ("after state", 3), ("after state", 5), ("after manifest", 1),
]  # fmt: skip


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
def test_a_killed_pull_goes_on_exactly_with_any_number_at_once(home, write_dag, usage, limitrail_emulator, tmp_path):
    def dag(parallel):
        write_dag(
            f"""
            LimitRailToObjectStorageOperator(
                task_id="land", resource={PAGED}, destination="file://{tmp_path}/out", {WAYS},
                concurrency={parallel}, part_rows=8,
            )
            """
        )

    kept = []
    for number, (step, count) in enumerate(STEPS):
        first, second = [(4, 4), (8, 3), (3, 1), (1, 5), (16, 2)][number % 5]
        run_id = f"run-{number}"
        dag(first)
        assert home.attempt("land", run_id=run_id, kill=[step, count]).code == SIGKILL, step
        kept.append(saved_pages(home, run_id))
        limitrail_emulator.counters.reset()
        dag(second)
        again = home.attempt("land", run_id=run_id).task("land")
        assert again["state"] == "success", home.output()[-4000:]
        assert asked(limitrail_emulator) == PAGES - kept[-1], (step, count)
        assert limitrail_emulator.counters.most_in_flight <= second
        found = records_of(again["xcom"]["folder"])
        assert sorted(row["id"] for row in found) == [row["id"] for row in usage], (step, count)
        assert (again["xcom"]["rows"], again["xcom"]["pages"]) == (48, PAGES)
    assert 0 < sum(0 < pages < PAGES for pages in kept) < len(kept)


LOAD_STEPS = [("before request", 12), ("half a part", 3), ("after part", 4), ("before load", 1), ("after load", 1)]


@pytest.mark.exhaustive
@pytest.mark.parametrize("database", ["duck", "post"])
def test_a_killed_load_is_made_good(make_home, write_dag, usage, limitrail_emulator, tmp_path, database, request):
    connections = {}
    if database == "post":
        connections["post"] = {"conn_type": "postgres", **request.getfixturevalue("postgres_connection")}
    home = make_home(limitrail_emulator, name="load", **connections)
    write_dag(
        f"""
        LimitRailToSqlOperator(
            task_id="load", resource={PAGED}, sql_conn_id={database!r}, table="usage", mode="append", {WAYS}, concurrency=5,
            part_rows=8,
        )
        """,
        into=home,
    )
    for number, (step, count) in enumerate(LOAD_STEPS, start=1):
        assert home.attempt("load", run_id=f"run-{number}", kill=[step, count]).code == SIGKILL, step
        again = home.attempt("load", run_id=f"run-{number}").task("load")
        assert again["state"] == "success", home.output()[-4000:]
        count_of = "SELECT count(*), count(DISTINCT id), count(DISTINCT _run_id) FROM usage"
        if database == "duck":
            counts = duck(tmp_path / "warehouse.duckdb", count_of)
        else:
            counts = request.getfixturevalue("ask_postgres")(count_of)
        assert counts == [(48 * number, 48, number)], step


@pytest.fixture
def ask_postgres(postgres_connection):
    import psycopg

    def ask(sql):
        fields = {"host": "host", "port": "port", "login": "user", "password": "password", "schema": "dbname"}
        details = {fields[name]: value for name, value in postgres_connection.items() if name in fields and value}
        with psycopg.connect(**details) as connection:
            return connection.execute(sql).fetchall()

    return ask


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
def test_a_place_that_one_slice_lost_begins_the_window_again(home, write_dag, usage, limitrail_emulator, tmp_path):
    write_dag(
        f"""
        LimitRailToSqlOperator(
            task_id="load", resource={PAGED}, sql_conn_id="duck", table="usage", {WAYS}, concurrency=4, part_rows=8,
        )
        """
    )
    assert home.attempt("load", kill=["after state", 2]).code == SIGKILL
    state = json.loads(home.do("state_of", "pull", run_id="one").result["task"][0][1])
    spoilt = {name: "long-gone" if ".page." in f".{name}" else text for name, text in state["cursor"].items()}
    if spoilt == state["cursor"]:
        spoilt = {"slice.from": "2026-03-01T12:00:00Z", "slice.seen": "2", "page.cursor": "long-gone"}
    home.do("put_state", "pull", run_id="one", value={**state, "cursor": spoilt})
    again = home.attempt("load").task("load")
    assert again["state"] == "success", home.output()[-4000:]
    assert "the position in the list is lost" in home.output()
    assert duck(tmp_path / "warehouse.duckdb", "SELECT count(*), count(DISTINCT id) FROM usage") == [(48, 48)]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_lists_without_pages_fill_parts_together(home, write_dag, usage, limitrail_emulator, tmp_path, form):
    limitrail_emulator.configure_limitrail(page_size=None)
    limitrail_emulator.faults.add(Fault("latency", "/v1/usage", seconds=0.3, times=4))
    write_dag(
        f"""
        LimitRailToObjectStorageOperator(
            task_id="land", resource="usage", destination="file://{tmp_path}/out", format={form!r}, concurrency=4, {WAYS},
        )
        """
    )
    summary = home.run(logical_date="2026-03-03T00:00:00+00:00").task("land")["xcom"]
    assert (summary["requests"], summary["pages"], summary["rows"], summary["parts"], summary["tokens"]) == (8, 8, 48, 1, 1)
    assert 1 < limitrail_emulator.counters.most_in_flight <= 4
    assert manifest_of(summary["folder"])["watermark"] == usage[-1]["committedAt"]
    if form == "jsonl":
        assert sorted(row["id"] for row in records_of(summary["folder"])) == [row["id"] for row in usage]


def test_what_cannot_be_fetched_side_by_side_fails_before_anything_is_sent(home, write_dag, limitrail_emulator, tmp_path):
    write_dag(
        """
        ways = dict(resource="usage", sql_conn_id="duck", table="t", since="2026-03-01", until="2026-03-03", retries=3)
        LimitRailToSqlOperator(task_id="no_window", concurrency=4, **ways)
        LimitRailToSqlOperator(task_id="too_many", concurrency=17, slice_size=timedelta(hours=6), **ways)
        """
    )
    done = home.run(logical_date="2026-03-03T00:00:00+00:00")
    for name, task in done.result["tasks"].items():
        assert (task["state"], task["tries"]) == ("failed", 1), name
    assert limitrail_emulator.counters.requests == 0
    assert "give slice_size=timedelta(...), or leave concurrency out" in home.output()
    assert "concurrency must be a whole number from 1 to 16, got 17" in home.output()


def test_failures_on_the_way_are_told_in_the_log_and_tried_again(home, write_dag, usage, limitrail_emulator, tmp_path):
    for fault in (
        Fault("status", "/v1/usage", status=429, headers={"Retry-After": "0"}, after=2, times=6),
        Fault("reset", "/v1/usage", after=4, times=1),
        Fault("status", "/v1/usage", status=503, after=9, times=2),
    ):
        limitrail_emulator.faults.add(fault)
    write_dag(
        f"""
        LimitRailToSqlOperator(task_id="load", resource={PAGED}, sql_conn_id="duck", table="usage", {WAYS}, concurrency=8)
        """
    )
    task = home.run(logical_date="2026-03-03T00:00:00+00:00").task("load")
    assert (task["state"], task["tries"]) == ("success", 1), home.output()[-4000:]
    assert task["xcom"]["retries"] == 9
    assert limitrail_emulator.counters.most_in_flight <= 8
    assert duck(tmp_path / "warehouse.duckdb", "SELECT count(*), count(DISTINCT id) FROM usage") == [(48, 48)]
    # What the threads say stands in the task's log, not only in what a process printed.
    logs = "".join(path.read_text() for path in (home.path / "logs").rglob("*.log"))
    assert "Trying again in" in logs + home.output()
    assert limitrail_emulator.limitrail.options.clients[0].client_secret not in logs + home.output()


def test_a_403_on_the_way_ends_the_task_at_once(home, write_dag, usage, limitrail_emulator, tmp_path):
    limitrail_emulator.faults.add(Fault("status", "/v1/usage", status=403, times=None, after=5))
    write_dag(
        f"""
        LimitRailToSqlOperator(
            task_id="load", resource={PAGED}, sql_conn_id="duck", table="usage", {WAYS}, concurrency=8,
            retries=3, retry_delay=NOW,
        )
        """
    )
    task = home.run(logical_date="2026-03-03T00:00:00+00:00").task("load")
    assert (task["state"], task["tries"]) == ("failed", 1)
    assert 5 < asked(limitrail_emulator) <= 5 + 8
    assert limitrail_emulator.counters.tokens_minted == 1
    assert "The scope that it needs is not documented; the token was granted: limitrail." in home.output()


# -- the hook ----------------------------------------------------------------------------------------------------------


WAYS_TO_READ = {
    "iter_records": lambda hook, **ways: [row["id"] for row in hook.iter_records(paged, **ways)],
    "iter_pages": lambda hook, **ways: [row["id"] for page in hook.iter_pages(paged, **ways) for row in json.loads(page.records)],
    "get_df": lambda hook, **ways: list(hook.get_df(paged, **ways)["id"]),
    "count": lambda hook, **ways: hook.count(paged, **ways),
}


@pytest.mark.parametrize("name", WAYS_TO_READ)
def test_the_hook_reads_side_by_side(hook, usage, limitrail_emulator, name):
    limitrail_emulator.faults.add(Fault("latency", "/v1/usage", seconds=0.2, times=4))
    found = WAYS_TO_READ[name](hook, **SPAN, concurrency=4)
    assert found == 48 if name == "count" else sorted(found) == [row["id"] for row in usage]
    assert 1 < limitrail_emulator.counters.most_in_flight <= 4
    assert limitrail_emulator.counters.tokens_minted == 1
    assert limitrail_emulator.counters.connections <= 5
    with pytest.raises(ParameterError, match="leave concurrency out"):
        WAYS_TO_READ[name](hook, since=SPAN["since"], until=SPAN["until"], concurrency=2)


def test_a_token_that_ends_on_the_way_is_renewed_once_for_all(hook, usage, limitrail_emulator):
    limitrail_emulator.configure_limitrail(token_requests=11)
    # On a busy machine, the others must not use a new token up before the one that has asked for it comes back with it.
    limitrail_emulator.faults.add(Fault("latency", "/v1/usage", seconds=0.1, times=None))
    for number in (1, 2, 3):
        assert hook.count(paged, **SPAN, concurrency=4) == 48
        refused = limitrail_emulator.counters.by_status[401]
        assert limitrail_emulator.counters.tokens_minted == -(-PAGES * number // 11), number
    assert refused >= 6


@pytest.mark.parametrize(("status", "error", "tokens"), [(403, ScopeError, 1), (401, CredentialsError, 9), (500, ServerError, 1)])
def test_the_first_failure_is_raised(hook, usage, limitrail_emulator, status, error, tokens):
    limitrail_emulator.faults.add(Fault("status", "/v1/usage", status=status, times=None, after=6))
    with pytest.raises(error) as caught:
        hook.count(paged, **SPAN, concurrency=8)
    assert caught.value.status == status
    assert limitrail_emulator.counters.tokens_minted <= tokens
    assert asked(limitrail_emulator) <= 6 + 8 * (1 + (status == 401))


def test_who_stops_taking_pages_stops_the_requests(hook, usage, limitrail_emulator):
    pages = hook.iter_pages(paged, **SPAN, concurrency=3, page_size=2)
    next(pages)
    pages.close()
    for thread in threading.enumerate():
        if thread.name.startswith("slices-"):
            thread.join(PATIENCE)
    assert asked(limitrail_emulator) <= 1 + 2 * 3


ENDS = """
import signal, sys, threading, time
from datetime import UTC, datetime, timedelta
from tests.support.sliced import PAGED, START, Usage, walk_through

def stop(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(3)

signal.signal(signal.SIGTERM, stop)
api = Usage([START + timedelta(minutes=number) for number in range(300)], paged=True)
under_way = threading.Semaphore(0)

def hang(query):
    under_way.release()
    time.sleep(600)

api.before = hang
pages = walk_through(
    PAGED, client=api.client(), since=START, until=START + timedelta(days=1), slice_size=timedelta(hours=1), concurrency=4
).pages()

def later():
    for _ in range(4):
        under_way.acquire()
    # Not once: it may come just before the main thread begins to wait.
    while True:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
        time.sleep(0.1)

threading.Thread(target=later, daemon=True).start()
next(pages)
"""


def test_a_process_ends_whatever_is_under_way(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    ended = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, timeout=PATIENCE * 3, check=False, env=environment)
    assert ended.returncode == 3, ended.stderr.decode()
