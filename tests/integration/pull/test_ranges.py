# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Ranges of time through whole tasks: runs that are made again, backfills, and tables that were lost."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime

import duckdb
import pytest

from tests.support.clock import wait_for_another_second
from tests.support.landed import duck, records_of

pytestmark = pytest.mark.needs_state_store

BASKETS = "checkout/abandoned"
DAYS = [f"2026-03-{day:02}T09:00:00Z" for day in range(1, 10)]


def baskets(*days):
    return [{"id": f"b{day}", "created": DAYS[day - 1], "order": {"total": 1}} for day in days]


def interval(day):
    return {"interval": [f"2026-03-{day:02}T00:00:00+00:00", f"2026-03-{day + 1:02}T00:00:00+00:00"]}


def backfill(day):
    return {**interval(day), "due": interval(day)["interval"][1], "run_type": "backfill"}


@pytest.fixture
def pulls(home, tmp_path):
    home.write_dag(
        f"""
        common = dict(resource="abandoned_baskets", incremental=True, since="2026-01-01")
        LimioToSqlOperator(task_id="merge", sql_conn_id="duck", table="merged", outlets=[Asset("merged")], **common)
        LimioToSqlOperator(task_id="add", sql_conn_id="duck", table="added", mode="append", outlets=[Asset("added")], **common)
        LimioToSqlOperator(
            task_id="shape", sql_conn_id="duck", table="shaped", outlets=[Asset("shaped")], drop_columns=["created"], **common
        )
        LimioToSqlOperator(
            task_id="ever", sql_conn_id="duck", table="ever", outlets=[Asset("ever")],
            **common | dict(overlap=timedelta(days=1_095_000))
        )
        LimioToSqlOperator(
            task_id="no_start", sql_conn_id="duck", table="merged", outlets=[Asset("merged")], **common | dict(since=None)
        )
        LimioToObjectStorageOperator(
            task_id="files", destination="file://{tmp_path}/out", outlets=[Asset("files")], part_rows=2, page_size=2, **common
        )
        LimitRailToSqlOperator(
            task_id="usage", resource="usage", sql_conn_id="duck", table="usage", mode="append", incremental=True,
            since="2026-03-01", outlets=[Asset("usage")],
        )
        """
    )
    return home


def attempt(home, task, run_id, **more):
    done = home.attempt(task, run_id=run_id, **more)
    found = done.task(task)
    assert found["state"] == "success", home.output()[-3000:]
    return found["xcom"]


def added(tmp_path):
    rows = duck(tmp_path / "warehouse.duckdb", "SELECT id, _run_id FROM added ORDER BY 1, 2")
    runs = {}
    for id_, run in rows:
        runs.setdefault(run.rpartition("/")[2], []).append(id_)
    return runs


def merged(tmp_path, table="merged"):
    return [id_ for (id_,) in duck(tmp_path / "warehouse.duckdb", f"SELECT id FROM {table} ORDER BY id")]


def asked(emulator):
    log = [entry["query"] for entry in emulator.counters.log if BASKETS in entry["path"]]
    emulator.counters.reset()
    return [query.split("createdAfter=")[1].split("&")[0].replace("%3A", ":") for query in log]


def watermark(home):
    [(_, stored)] = home.do("state_of", "pull", run_id="-").result["asset"]
    return json.loads(stored)["watermark"]


def test_a_run_that_is_made_again_replaces_its_own_rows(pulls, limio_emulator, tmp_path):
    limio_emulator.put_records(BASKETS, baskets(1, 2))
    attempt(pulls, "add", "1")
    limio_emulator.put_records(BASKETS, baskets(1, 2, 3, 4))
    attempt(pulls, "add", "2")
    limio_emulator.put_records(BASKETS, [*baskets(1, 2, 3, 4, 5), {"id": "odd", "created": None}])
    there = added(tmp_path)
    assert there == {"1": ["b1", "b2"], "2": ["b2", "b3", "b4"]}
    summary = attempt(pulls, "add", "1")
    assert added(tmp_path) == {**there, "1": ["b1", "b2", "odd"]}, "who knows whose a record without a time is"
    assert "where this run ended before" in summary["reason"]
    assert summary["until"] == "2026-03-02T09:00:00.000001+00:00"
    assert "3 records came after" in pulls.output()
    assert watermark(pulls) == "2026-03-04T09:00:00+00:00"
    attempt(pulls, "add", "3")
    assert {"b5"} <= set(added(tmp_path)["3"])


def test_a_record_from_the_future_does_not_give_its_run_what_later_runs_have(pulls, limio_emulator, tmp_path):
    odd = {"id": "odd", "created": "2199-01-01T00:00:00Z"}
    limio_emulator.put_records(BASKETS, [*baskets(1), odd])
    attempt(pulls, "add", "1")
    wait_for_another_second()
    late = {"id": "late", "created": datetime.now(UTC).isoformat()}
    limio_emulator.put_records(BASKETS, [*baskets(1), odd, late])
    attempt(pulls, "add", "2")
    assert "late" in added(tmp_path)["2"]
    attempt(pulls, "add", "1")
    assert "late" not in added(tmp_path)["1"]


@pytest.mark.exhaustive
def test_files_of_a_run_that_is_made_again(pulls, limio_emulator):
    limio_emulator.put_records(BASKETS, baskets(1, 2, 3))
    folder = attempt(pulls, "files", "1")["folder"]
    limio_emulator.put_records(BASKETS, baskets(1, 2, 3, 4, 5, 6, 7))
    attempt(pulls, "files", "2")
    summary = attempt(pulls, "files", "1")
    assert summary["folder"] == folder
    assert [record["id"] for record in records_of(folder)] == ["b1", "b2", "b3"]
    assert summary["rows"] == 3


@pytest.mark.exhaustive
def test_a_backfill_loads_its_days(pulls, limio_emulator, tmp_path):
    limio_emulator.put_records(BASKETS, baskets(1, 2, 3, 4, 5, 6, 7, 8))
    for task in ("merge", "add"):
        attempt(pulls, task, "1", times=interval(8))
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
        for table in ("merged", "added"):
            connection.execute(f"DELETE FROM {table} WHERE id IN ('b4', 'b5')")
    asked(limio_emulator)
    for day in (5, 4):
        for task in ("merge", "add"):
            summary = attempt(pulls, task, f"backfill-{day}", times=backfill(day))
            assert "the data interval's start" in summary["reason"]
            assert summary["watermark"] == "2026-03-08T09:00:00+00:00", "it never moves back"
    assert asked(limio_emulator) == [f"2026-03-0{day}T00:00:00Z" for day in (5, 5, 4, 4)]
    assert merged(tmp_path) == [f"b{day}" for day in range(1, 9)]
    assert added(tmp_path)["backfill-4"] == ["b4"]
    assert added(tmp_path)["backfill-5"] == ["b5"]


@pytest.mark.exhaustive
def test_runs_with_intervals_take_what_is_theirs_however_late_they_are(pulls, limio_emulator, tmp_path):
    limio_emulator.put_records(BASKETS, baskets(1, 2, 3, 4, 5))
    for day in (1, 2, 3):
        attempt(pulls, "add", str(day), times=interval(day))
    attempt(pulls, "add", "2")
    ids = Counter(id_ for found in added(tmp_path).values() for id_ in found)
    assert {"b1", "b2", "b3"} == set(ids)
    assert added(tmp_path)["3"] == ["b2", "b3"], "from the watermark, whose record comes twice, to the end of its interval"


@pytest.mark.exhaustive
def test_an_old_run_of_a_list_with_both_ends(pulls, limio_emulator, tmp_path):
    limio_emulator.limitrail.add_usage([{"committedAt": "2026-03-01T12:00:00Z"}, {"committedAt": "2026-08-01T12:00:00Z"}])
    day = {"interval": ["2026-03-02T00:00:00+00:00"] * 2, "due": "2026-03-02T00:00:00+00:00", "run_type": "scheduled"}
    later = {"interval": ["2026-09-01T00:00:00+00:00"] * 2, "due": "2026-09-01T00:00:00+00:00", "run_type": "scheduled"}
    assert pulls.attempt("usage", run_id="old", times=day, kill=["before request", 1]).code == -9
    attempt(pulls, "usage", "later", times=later)
    before = duck(tmp_path / "warehouse.duckdb", "SELECT count(*) FROM usage")
    summary = attempt(pulls, "usage", "old")
    assert (summary["since"], summary["until"]) == ("2026-03-01T23:55:00+00:00", "2026-03-02T00:00:00+00:00")
    assert "what came until then is loaded already" in summary["reason"]
    assert duck(tmp_path / "warehouse.duckdb", "SELECT count(*) FROM usage") == before == [(2,)]
    assert watermark(pulls) == "2026-08-01T12:00:00+00:00"


LOSSES = {
    "dropped": ("DROP TABLE merged", "is not there"),
    "emptied": ("DELETE FROM merged", "is empty"),
    "restored": ("DELETE FROM merged WHERE id > 'b5'", "has no row as new as that"),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_watermark_without_its_table(pulls, limio_emulator, tmp_path, loss):
    statement, says = LOSSES[loss]
    limio_emulator.put_records(BASKETS, baskets(*range(1, 10)))
    attempt(pulls, "merge", "1")
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
        connection.execute(statement)
    # The newest record is gone from the API, too.
    limio_emulator.put_records(BASKETS, baskets(*range(1, 9)))
    asked(limio_emulator)
    assert pulls.attempt("no_start", run_id="2").task("no_start")["state"] == "failed"
    assert f"the table {says}, so the pull has to read from the start" in pulls.output()
    assert asked(limio_emulator) == []
    # Killed after the load, it does not lose what it has put there.
    assert pulls.attempt("merge", run_id="2", kill=["before watermark", 1]).code == -9
    summary = attempt(pulls, "merge", "2")
    assert asked(limio_emulator)[0] == "2026-01-01T00:00:00Z"
    assert merged(tmp_path) == [f"b{day}" for day in range(1, 9)]
    assert summary["watermark"] == watermark(pulls) == "2026-03-08T09:00:00+00:00", "what the whole list vouches for"
    assert f"the watermark of merged is 2026-03-09T09:00:00+00:00, and the table {says}" in pulls.output()
    asked(limio_emulator)
    attempt(pulls, "merge", "3")
    assert asked(limio_emulator) == ["2026-03-08T08:55:00Z"], "once, and then it goes on"


@pytest.mark.exhaustive
def test_a_table_that_is_emptied_after_each_run_is_read_whole_once(pulls, limio_emulator, tmp_path):
    asks = []
    for day in range(1, 5):
        limio_emulator.put_records(BASKETS, baskets(*range(1, day + 1)))
        attempt(pulls, "merge", str(day))
        asks += asked(limio_emulator)
        with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
            connection.execute("DELETE FROM merged")
    start = "2026-01-01T00:00:00Z"
    assert asks == [start, start, "2026-03-02T08:55:00Z", "2026-03-03T08:55:00Z"]
    assert "is taken to be intended" in pulls.output()


def test_a_table_without_its_time_goes_on(pulls, limio_emulator):
    limio_emulator.put_records(BASKETS, baskets(1, 2))
    attempt(pulls, "shape", "1")
    asked(limio_emulator)
    attempt(pulls, "shape", "2")
    assert asked(limio_emulator) == ["2026-03-02T08:55:00Z"]


def test_an_overlap_beyond_all_times_asks_for_everything(pulls, limio_emulator, tmp_path):
    limio_emulator.put_records(BASKETS, [*baskets(1, 2), {"id": "first", "created": "0001-01-01T00:00:00Z"}])
    attempt(pulls, "ever", "1")
    asked(limio_emulator)
    attempt(pulls, "ever", "2")
    assert asked(limio_emulator) == ["0001-01-01T00:00:00Z"]
    assert merged(tmp_path, "ever") == ["b1", "b2", "first"]
