# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whole pulls of lists that lose records: into tables, of which rows are marked or deleted, and into files."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from limio_limitrail.emulator import EmulatorServer
from tests.support.airflow_home import AirflowHome
from tests.support.clock import wait_for_another_second
from tests.support.landed import manifest_of

RESOURCES = """
things = Resource(name="things", path="/custom/things", primary_key=("id",))
regions = Resource(name="regions", path="/custom/{region}", primary_key=("id",))
"""


def put(emulator: EmulatorServer, path: str, *ids: str) -> None:
    # Of two runs of one second, the second one marks and deletes nothing.
    wait_for_another_second()
    emulator.put_records(f"custom/{path}", [{"id": name, "updated": "2026-01-01T00:00:00Z"} for name in ids])


def many(count: int) -> list[str]:
    return [f"key-{number:03}" for number in range(count)]


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "warehouse.sqlite") as database:
        return database.execute(query).fetchall()


def test_what_is_gone_is_marked_unless_the_list_shrank(home: AirflowHome, limio_emulator: EmulatorServer, tmp_path: Path) -> None:
    home.write_dag(
        RESOURCES
        + """
LimioToSqlOperator(task_id="load", resource=things, sql_conn_id="lite", table="t", on_missing="mark", retries=1, retry_delay=NOW)
"""
    )
    put(limio_emulator, "things", *many(60))
    assert home.attempt("load", run_id="1").task("load")["xcom"]["missing_checked"]
    put(limio_emulator, "things", *many(55))
    summary = home.attempt("load", run_id="2").task("load")["xcom"]
    assert (summary["marked"], summary["returned"], summary["missing_checked"]) == (5, 0, True)
    before = rows(tmp_path, "SELECT * FROM t")
    put(limio_emulator, "things", *many(20))
    refused = home.attempt("load", run_id="3")
    assert "ShrunkListError('t: 35 of 55 known rows are not in the list any more" in refused.result["error"]
    assert "key-022" in refused.result["error"]
    assert rows(tmp_path, "SELECT * FROM t") == before
    put(limio_emulator, "things", *many(60))
    # The retry asks again, although all parts of the first try were finished.
    summary = home.attempt("load", run_id="3").task("load")["xcom"]
    assert (summary["rows"], summary["returned"], summary["marked"]) == (60, 5, 0)
    assert rows(tmp_path, "SELECT count(*) FROM t WHERE _deleted_at IS NULL") == [(60,)]
    [(text,)] = rows(tmp_path, "SELECT description FROM _limio_scopes")
    assert text.startswith("things (/custom/things) of http://")
    assert text.endswith("by pull/load")


@pytest.mark.exhaustive
def test_mapped_slices_of_one_table(home: AirflowHome, limio_emulator: EmulatorServer, tmp_path: Path) -> None:
    home.write_dag(
        RESOURCES
        + """
LimioToSqlOperator.partial(
    task_id="load", resource=regions, sql_conn_id="lite", table="t", on_missing="delete", max_active_tis_per_dag=1
).expand(path_params=[{"region": "eu"}, {"region": "us"}])
LimioToSqlOperator(task_id="other", resource=things, sql_conn_id="lite", table="t")
"""
    )
    put(limio_emulator, "eu", "eu-1", "both")
    put(limio_emulator, "us", "us-1", "us-2", "both")
    put(limio_emulator, "things", "other", "us-2")
    assert home.run().result["state"] == "success"
    put(limio_emulator, "eu", "eu-1")
    put(limio_emulator, "us", "us-1", "both")
    put(limio_emulator, "things", "new")
    done = home.run()
    assert [done.task(name)["xcom"]["deleted"] for name in ("load[0]", "load[1]", "other")] == [0, 0, 0]
    assert {name for (name,) in rows(tmp_path, "SELECT id FROM t")} == {"eu-1", "us-1", "us-2", "both", "other", "new"}
    put(limio_emulator, "us", "us-1")
    done = home.run()
    assert [done.task(name)["xcom"]["deleted"] for name in ("load[0]", "load[1]", "other")] == [0, 1, 0]
    assert {name for (name,) in rows(tmp_path, "SELECT id FROM t")} == {"eu-1", "us-1", "us-2", "other", "new"}


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
def test_incremental_runs_look_for_nothing(home: AirflowHome, limio_emulator: EmulatorServer, tmp_path: Path) -> None:
    def write(*, full_refresh: bool) -> None:
        home.write_dag(
            f"""
LimioToSqlOperator(
    task_id="load", resource="published_catalog.offers2", sql_conn_id="lite", table="t", on_missing="delete",
    incremental=True, full_refresh={full_refresh}, overlap=0, outlets=[Asset("t")], retries=1, retry_delay=NOW,
)
"""
        )

    def serve(**days: int) -> None:
        wait_for_another_second()
        offers = [{"path": name, "data": {"modified": f"2026-03-{day:02}T00:00:00Z"}} for name, day in days.items()]
        limio_emulator.put_records("published_catalog_items?record_type=offers2", offers)

    def loaded(run_id: str) -> tuple[bool, int, set[str]]:
        summary = home.attempt("load", run_id=run_id).task("load")["xcom"]
        return summary["missing_checked"], summary["deleted"], {name for (name,) in rows(tmp_path, "SELECT path FROM t")}

    write(full_refresh=False)
    serve(a=1, b=2)
    assert loaded("1") == (True, 0, {"a", "b"})
    serve(b=2, c=3)
    assert loaded("2") == (False, 0, {"a", "b", "c"})
    # The parts of an incremental pull are not taken for the whole list by a retry that reads it.
    serve(b=2, c=3, d=4)
    assert home.attempt("load", run_id="3", kill=["before load", 1]).code == -9
    write(full_refresh=True)
    assert loaded("3") == (True, 1, {"b", "c", "d"})


def test_files_of_a_list_that_shrank(home: AirflowHome, limio_emulator: EmulatorServer, tmp_path: Path) -> None:
    root = f"file://{tmp_path}/lake"
    home.write_dag(
        RESOURCES
        + f"""
LimioToObjectStorageOperator(task_id="land", resource=things, destination={root!r}, retries=1, retry_delay=NOW)
"""
    )

    def previous(run_id: str) -> int | None:
        folder = home.attempt("land", run_id=run_id).task("land")["xcom"]["folder"]
        found: int | None = manifest_of(folder)["previous_rows"]
        return found

    put(limio_emulator, "things", *many(40))
    assert previous("1") is None
    put(limio_emulator, "things", *many(45))
    assert previous("2") == 40
    put(limio_emulator, "things", *many(30))
    refused = home.attempt("land", run_id="3")
    assert "things: 15 of 45 known rows are not in the list any more" in refused.result["error"]
    assert not list((tmp_path / "lake").rglob("3/manifest.json"))
    put(limio_emulator, "things", *many(36))
    assert previous("3") == 45


REFUSED = {
    "append": ("things", {"mode": "append"}, "on_missing='mark' needs a merge, and mode is 'append'"),
    "replace": ("things", {"mode": "replace"}, "on_missing='mark' needs a merge, and mode is 'replace'"),
    "query": ("things", {"query_params": {"q": "x"}}, "needs pulls of the whole list, and query_params would leave records out"),
    "since": ("catalog", {"since": "2026-01-01"}, "needs pulls of the whole list, and since would leave records out"),
    "wrong": ("things", {"max_missing": 0.2}, "max_missing must be a whole number of rows"),
    "word": ("things", {"on_missing": "remove"}, "on_missing must be one of keep, mark, delete"),
}


def test_what_is_refused_before_the_first_request(home: AirflowHome, limio_emulator: EmulatorServer) -> None:
    tasks = []
    for name, (resource, given, _) in REFUSED.items():
        options = {"sql_conn_id": "lite", "on_missing": "mark", **given}
        source = "things" if resource == "things" else repr("catalog.offers2")
        tasks.append(f"LimioToSqlOperator(task_id={name!r}, resource={source}, table='t', **{options!r})")
    tasks.append(
        "LimitRailToSqlOperator(task_id='ranged', resource='usage', sql_conn_id='lite', table='t', on_missing='mark', "
        "since='2026-01-01', until='2026-01-02')"
    )
    home.write_dag(RESOURCES + "\n".join(tasks))
    limio_emulator.counters.reset()
    done = home.run()
    output = home.output()
    assert {task["state"] for task in done.result["tasks"].values()} == {"failed"}
    for name, (*_, said) in REFUSED.items():
        assert said in output, name
    assert "resource 'usage' is always asked for a range of time" in output
    assert limio_emulator.counters.requests == 0
