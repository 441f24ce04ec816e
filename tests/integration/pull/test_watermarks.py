# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Watermarks through whole tasks: where a pull begins, when the watermark moves, and when it does not."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import duckdb
import pytest

from tests.support.clock import wait_for_another_second
from tests.support.landed import duck, records_of

BASKETS = "checkout/abandoned"
TABLE = "SELECT id FROM baskets ORDER BY id"


def basket(name, created):
    return {"id": name, "created": created, "order": {"total": 1}}


@pytest.fixture
def baskets(home, limio_emulator):
    home.write_dag(
        """
        LimioToSqlOperator(
            task_id="load", resource="abandoned_baskets", sql_conn_id="duck", table="baskets", mode="merge",
            incremental=True, outlets=[Asset("baskets")], since="2026-01-01",
        )
        LimioToSqlOperator(
            task_id="add", resource="abandoned_baskets", sql_conn_id="duck", table="added", mode="append",
            incremental=True, outlets=[Asset("added")], since="2026-01-01",
        )
        LimioToSqlOperator(
            task_id="refresh", resource="abandoned_baskets", sql_conn_id="duck", table="baskets", mode="merge",
            incremental=True, outlets=[Asset("baskets")], since="2026-01-01", full_refresh="{{ 'true' }}",
        )
        LimioToSqlOperator(
            task_id="no_outlet", resource="abandoned_baskets", sql_conn_id="duck", table="baskets", incremental=True,
        )
        LimioToSqlOperator(
            task_id="shrink", resource="abandoned_baskets", sql_conn_id="duck", table="baskets", incremental=True, mode="replace",
            outlets=[Asset("baskets")], since="2026-01-01",
        )
        LimioToSqlOperator(task_id="bare", resource="abandoned_baskets", sql_conn_id="duck", table="bare")
        """
    )
    return home


def watermarks(home):
    stored = home.do("state_of", "pull", run_id="-").result["asset"]
    return [json.loads(value)["watermark"] for _, value in stored]


def asked_since(emulator):
    return [entry["query"].split("createdAfter=")[1].split("&")[0] for entry in emulator.counters.log if BASKETS in entry["path"]]


@pytest.mark.sampled(1)
def test_a_watermark_moves_after_the_load_and_never_back(baskets, limio_emulator, tmp_path):
    limio_emulator.put_records(BASKETS, [basket("a", "2026-03-01T00:00:00.000Z"), basket("b", "2026-03-02T00:00:00.000Z")])
    assert baskets.attempt("load", run_id="1", kill=["before watermark", 1]).code == -9
    assert watermarks(baskets) == []
    assert duck(tmp_path / "warehouse.duckdb", TABLE) == [("a",), ("b",)]
    assert baskets.attempt("load", run_id="1").task("load")["state"] == "success"
    assert watermarks(baskets) == ["2026-03-02T00:00:00+00:00"]
    assert set(asked_since(limio_emulator)) == {"2026-01-01T00%3A00%3A00Z"}

    limio_emulator.counters.reset()
    result = baskets.attempt("load", run_id="2").task("load")
    assert asked_since(limio_emulator) == ["2026-03-01T23%3A55%3A00Z"]
    assert result["events"][0]["watermark"] == "2026-03-02T00:00:00+00:00"
    assert "the watermark 2026-03-02T00:00:00+00:00 minus 0:05:00" in baskets.output()

    # Nothing new, and older things only: it stays.
    limio_emulator.put_records(BASKETS, [])
    baskets.attempt("load", run_id="3")
    limio_emulator.put_records(BASKETS, [basket("c", "2026-03-01T23:58:00Z")])
    baskets.attempt("load", run_id="4")
    assert watermarks(baskets) == ["2026-03-02T00:00:00+00:00"]
    assert duck(tmp_path / "warehouse.duckdb", TABLE) == [("a",), ("b",), ("c",)]

    # A full refresh asks for everything once, and does not move it back.
    limio_emulator.counters.reset()
    baskets.attempt("refresh", run_id="5")
    assert asked_since(limio_emulator) == ["2026-01-01T00%3A00%3A00Z"]
    assert "2026-03-02T00:00:00+00:00" in watermarks(baskets)


@pytest.mark.sampled(1)
def test_a_record_of_the_far_future_makes_no_later_pull_miss_anything(baskets, limio_emulator, tmp_path):
    limio_emulator.put_records(BASKETS, [basket("z", "2099-01-01T00:00:00Z")])
    started = datetime.now().astimezone()
    baskets.attempt("load", run_id="1")
    [reached] = watermarks(baskets)
    assert datetime.fromisoformat(reached) <= datetime.now().astimezone()
    assert datetime.fromisoformat(reached) > started - timedelta(minutes=5)
    soon = datetime.now().astimezone().isoformat()
    limio_emulator.put_records(BASKETS, [basket("z", "2099-01-01T00:00:00Z"), basket("n", soon)])
    baskets.attempt("load", run_id="2")
    assert duck(tmp_path / "warehouse.duckdb", TABLE) == [("n",), ("z",)]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("step", ["after watermark", "after announcement", "none"])
def test_a_run_made_again_begins_where_it_began(baskets, limio_emulator, tmp_path, step):
    old = [basket("a", "2026-03-01T00:00:00Z"), basket("b", "2026-04-01T00:00:00Z")]
    limio_emulator.put_records(BASKETS, old)
    kill = {} if step == "none" else {"kill": [step, 1]}
    baskets.attempt("add", run_id="1", **kill)
    # From its own watermark the second try would find one of the two, and append drops what the first try added.
    assert baskets.attempt("add", run_id="1").task("add")["state"] == "success"
    assert duck(tmp_path / "warehouse.duckdb", "SELECT id FROM added ORDER BY id") == [("a",), ("b",)]
    limio_emulator.put_records(BASKETS, [*old, basket("c", "2026-05-01T00:00:00Z")])
    baskets.attempt("add", run_id="2")
    baskets.attempt("add", run_id="1")
    counts = dict(duck(tmp_path / "warehouse.duckdb", "SELECT _run_id, count(*) FROM added GROUP BY 1"))
    assert counts == {"pull/add/1": 2, "pull/add/2": 2}, "what came after it is another run's"


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("no_outlet", "outlets=[Asset("),
        ("shrink", "mode='replace' with incremental=True"),
    ],
)
def test_what_cannot_be_incremental_says_so_at_once(baskets, limio_emulator, task, words):
    assert baskets.attempt(task).task(task)["state"] == "failed"
    assert words in baskets.output()
    assert limio_emulator.counters.requests == 0


def test_where_the_api_demands_a_start_the_data_interval_gives_it(baskets, limio_emulator):
    assert baskets.attempt("bare").task("bare")["state"] == "success"
    assert "(the data interval's start)" in baskets.output()
    assert len(asked_since(limio_emulator)) == 1


def test_mapped_tasks_keep_to_themselves(home, limio_emulator, tmp_path):
    home.write_dag(
        f"""
        LimioToSqlOperator.partial(
            task_id="load", sql_conn_id="duck", incremental=True, outlets=[Asset("all")], since="{{{{ none }}}}", page_size=10,
            max_active_tis_per_dagrun=1,
        ).expand_kwargs([
            {{"resource": "offers", "table": "offers"}}, {{"resource": "pages", "table": "pages"}},
            {{"resource": "offers", "table": "offers_again"}},
        ])
        LimioToObjectStorageOperator.partial(
            task_id="land", destination="file://{tmp_path}/out", part_rows=20, page_size=10
        ).expand(resource=["customers", "customers", "orders"])
        """
    )
    done = home.run()
    assert done.result["state"] == "success", home.output()[-3000:]
    stored = home.do("state_of", "pull", run_id=done.result["run_id"]).result
    assert len(stored["asset"]) == 3
    assert stored["task"] == []
    folders = [done.task(f"land[{number}]")["xcom"]["folder"] for number in range(3)]
    assert len(set(folders)) == 3
    assert records_of(folders[0]) == records_of(folders[1]) == list(limio_emulator.tenant.rows_of("customers"))
    runs = duck(
        tmp_path / "warehouse.duckdb", "SELECT DISTINCT _run_id FROM offers UNION SELECT DISTINCT _run_id FROM offers_again"
    )
    assert sorted(run for (run,) in runs) == [f"pull/load[0]/{done.result['run_id']}", f"pull/load[2]/{done.result['run_id']}"]


def test_a_table_of_several_tasks_is_filled_again_by_all_of_them(home, limio_emulator, tmp_path):
    home.write_dag(
        """
        for region in ("us", "eu"):
            LimioToSqlOperator(
                task_id=region, resource="abandoned_baskets", query_params={"region": region}, since="2026-01-01",
                sql_conn_id="duck", table="baskets", incremental=True, outlets=[Asset("baskets")],
            )
        """
    )
    path = tmp_path / "warehouse.duckdb"

    def run(region, run_id):
        month = 3 if region == "eu" else 4
        limio_emulator.put_records(BASKETS, [basket(f"{region}{day}", f"2026-0{month}-0{day}T00:00:00Z") for day in (1, 2)])
        done = home.attempt(region, run_id=run_id).task(region)
        assert done["state"] == "success", home.output()[-3000:]
        return done["xcom"]

    for region in ("us", "eu"):
        run(region, "1")
    with duckdb.connect(str(path)) as connection:
        connection.execute("DROP TABLE baskets")
    wait_for_another_second()
    run("us", "2")
    assert "was dropped or emptied, and filled again by others" in run("eu", "2")["reason"]
    for region in ("us", "eu"):
        assert "the watermark 2026-0" in run(region, "3")["reason"]
    assert duck(path, TABLE) == [("eu1",), ("eu2",), ("us1",), ("us2",)]


def test_an_append_adds_no_row_that_is_left(baskets, limio_emulator, tmp_path):
    records = [basket(name, f"2026-03-0{day}T00:00:00Z") for day, name in enumerate("abc", 1)]
    limio_emulator.put_records(BASKETS, records)
    baskets.attempt("add", run_id="1")
    # The newest record changes, and the run is made again, up to where it ended.
    limio_emulator.put_records(BASKETS, [*records[:2], basket("c", "2026-03-05T00:00:00Z")])
    baskets.attempt("add", run_id="1")
    assert duck(tmp_path / "warehouse.duckdb", "SELECT id FROM added ORDER BY id") == [("a",), ("b",)]
    result = baskets.attempt("add", run_id="2").task("add")["xcom"]
    assert result["since"] == "2026-03-01T23:55:00+00:00"
    # The overlap comes twice, and nothing else.
    assert duck(tmp_path / "warehouse.duckdb", "SELECT id FROM added ORDER BY id") == [("a",), ("b",), ("b",), ("c",)]
    assert baskets.attempt("add", run_id="3").task("add")["xcom"]["since"] == "2026-03-04T23:55:00+00:00"


def test_an_append_without_its_watermark_says_so(home, limio_emulator):
    def add(outlets, run_id):
        home.write_dag(
            f"""
            LimioToSqlOperator(
                task_id="add", resource="abandoned_baskets", sql_conn_id="duck", table="added", mode="append",
                incremental=True, outlets=[{outlets}], since="2026-01-01",
            )
            """
        )
        assert home.attempt("add", run_id=run_id).task("add")["state"] == "success"
        return home.output().count("No watermark is stored, and earlier runs of this task have rows in the table")

    limio_emulator.put_records(BASKETS, [basket("a", "2026-03-01T00:00:00Z")])
    assert add('Asset("a")', "1") == 0
    assert add('Asset("a")', "2") == 0
    assert add('Asset("b"), Asset("a")', "3") == 1
    assert add('Asset("b"), Asset("a")', "4") == 1
