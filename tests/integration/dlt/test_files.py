# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Loads into files by dlt's filesystem end with the same rows as loads into DuckDB by our own code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.dlt.lakes import OWN, Lake
from tests.support.airflow_home import ROOT, AirflowHome
from tests.support.clock import wait_for_another_second
from tests.support.landed import duck
from tests.support.places import SECRET_KEY, SESSION_TOKEN, Bucket, LocalPlace
from tests.support.secrets_left import forms_of

SIGKILL = -9
DELTA = pytest.param("delta", marks=pytest.mark.needs_table_formats)
ICEBERG = pytest.param("iceberg", marks=pytest.mark.needs_table_formats)
MERGING = (DELTA, ICEBERG)
FORMATS = ("parquet", *MERGING)
S3 = pytest.param("s3", marks=pytest.mark.needs_s3)

in_a_folder = pytest.mark.parametrize("where", ["folder"], indirect=True)


@pytest.fixture(params=FORMATS)
def table_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["folder", S3])
def where(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lake(request: pytest.FixtureRequest, table_format: str, where: str, tmp_path: Path) -> Lake:
    place: LocalPlace | Bucket = LocalPlace(tmp_path / "files")
    if where == "s3":
        place = Bucket(request.getfixturevalue("s3_server"), tmp_path)
    return Lake(format=table_format, place=place, catalog=tmp_path / "catalog.sqlite")


@pytest.fixture
def lake_home(make_home: Callable[..., AirflowHome], limio_emulator: Any, lake: Lake) -> AirflowHome:
    return make_home(limio_emulator, **lake.connections)


def modes_of(table_format):
    return ("append", "replace") if table_format == "parquet" else ("merge", "append", "replace")


def loaded(home, task_id="load", **kwargs):
    outcome = home.attempt(task_id, **kwargs)
    assert outcome.task(task_id)["state"] == "success", home.output()[-6000:]
    return outcome.task(task_id)["xcom"]


def failed(home, task_id="load", **kwargs):
    outcome = home.attempt(task_id, **kwargs)
    assert outcome.task(task_id)["state"] == "failed", outcome.result
    return outcome.result["error"]


def working_folders(home):
    return [path for path in (home.path / "tmp").rglob("*") if path.name.startswith("dlt-")]


@pytest.mark.exhaustive
def test_the_rows_are_those_of_our_own_loads(lake_home, limio_emulator, lake, tmp_path):
    lake_home.write_dag(
        f"""
        common = dict(resource="subscriptions", page_size=40, part_rows=80, nested_columns={{"offerPath": "data.offer.path"}})
        for mode in {modes_of(lake.format)}:
            LimioToDltOperator(task_id="dlt_" + mode, table="Subs_" + mode, mode=mode, {lake.parameters}, **common)
            LimioToSqlOperator(task_id="sql_" + mode, sql_conn_id="duck", table="subs_" + mode, mode=mode, **common)
        """
    )
    for _ in range(2):
        done = lake_home.run()
        assert done.result["state"] == "success", lake_home.output()[-6000:]
        for mode in modes_of(lake.format):
            names = [name for [name] in duck(tmp_path / "warehouse.duckdb", f"SELECT column_name FROM (DESCRIBE subs_{mode})")]
            assert sorted(lake.read(f"Subs_{mode}").column_names) == sorted(names)
            listed = ", ".join(f'CAST("{name}" AS varchar)' for name in sorted(names) if name not in ("_run_id", "_extracted_at"))
            truth = duck(tmp_path / "warehouse.duckdb", f"SELECT {listed} FROM subs_{mode} ORDER BY ALL")
            assert lake.rows(f"Subs_{mode}") == sorted(truth, key=lambda row: [(value is not None, value) for value in row])
        limio_emulator.advance(60, changed=20, added=10)
    assert working_folders(lake_home) == []
    assert done.task("dlt_append")["xcom"]["rows_before"] == 200
    assert done.task("dlt_append")["xcom"]["rows_after"] == 410


# fmt: off
ODD = [
    {
        "id": "1", "t": "2026-01-01T00:00:00Z", "n": 9007199254740993, "u": "\u00e9\U0001f600 \0", "createdAt": "",
        "a;b": {"b": 1.50, "a": [2]}, "Id": "other", "dotted.key": True, 'q"q': 0.1, "{braces}": "x", "_run_id": "theirs",
    },
    {
        "id": "2", "t": "2026-01-01T00:00:00Z", "n": None, "u": 'it\'s \\ "quoted"\n\t,', "a;b": [], "dotted.key": False,
        'q"q': 1e300,
    },
    {"id": "1", "t": "2026-01-02T00:00:00Z", "n": -1, "u": "newer", "a;b": None},
    {"id": "2", "t": "2025-01-02T00:00:00Z", "n": 7, "u": "older"},
]
# fmt: on


@pytest.mark.exhaustive
@in_a_folder
def test_values_and_names_are_stored_as_they_came(lake_home, limio_emulator, lake, tmp_path):
    limio_emulator.put_records("custom/things", [json.dumps(record).encode() for record in ODD])
    modes = [mode for mode in modes_of(lake.format) if mode != "append"]
    lake_home.write_dag(
        f"""
        plain = Resource(name="things", path="/custom/things", primary_key=("id",), time_column="t", timestamps=("t",))
        for mode in {modes}:
            LimioToDltOperator(
                task_id="dlt_" + mode, table="Things-" + mode, {lake.parameters}, resource=plain, page_size=1, part_rows=2,
                mode=mode,
            )
            LimioToSqlOperator(
                task_id="sql_" + mode, sql_conn_id="duck", table="things_" + mode, resource=plain, part_rows=2, mode=mode
            )
        """
    )
    for _ in range(2):
        done = lake_home.run()
        assert done.result["state"] == "success", lake_home.output()[-6000:]
        for mode in modes:
            described = duck(tmp_path / "warehouse.duckdb", f"SELECT column_name FROM (DESCRIBE things_{mode})")
            names = sorted(name for [name] in described if name not in OWN)
            listed = ", ".join('CAST("' + name.replace('"', '""') + '" AS varchar)' for name in names)
            truth = duck(tmp_path / "warehouse.duckdb", f"SELECT {listed} FROM things_{mode} ORDER BY ALL")
            assert sorted(name for name in lake.read(f"Things-{mode}").column_names if name not in OWN) == names
            assert lake.rows(f"Things-{mode}") == truth
    assert done.task(f"dlt_{modes[0]}")["xcom"]["duplicates"] == 2


STEPS = (
    "after dlt extract",
    "before dlt write",
    "before iceberg metadata",
    "after iceberg metadata",
    "after dlt write",
    "after dlt load",
    "after watermark",
)


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
def test_a_killed_load_is_made_good(lake_home, limio_emulator, lake):
    modes = modes_of(lake.format)
    lake_home.write_dag(
        f"""
        for mode in {modes}:
            LimioToDltOperator(
                task_id=mode, resource="subscriptions", {lake.parameters}, table=mode, mode=mode, page_size=50, part_rows=100,
                incremental=mode != "replace", outlets=[Asset("subs_" + mode)],
            )
        """
    )
    truth = sorted(row["id"] for row in limio_emulator.tenant.rows_of("subscriptions"))
    steps = [step for step in STEPS if lake.format == "iceberg" or "iceberg" not in step]
    for mode in modes:
        for number, step in enumerate(steps if mode == modes[0] else ("before dlt write", "after dlt write"), start=1):
            run_id = f"run-{number}"
            for time in (1, 2) if "iceberg" in step else (1,):
                killed = lake_home.attempt(mode, run_id=run_id, kill=[step, time])
                assert killed.code == SIGKILL or time == 2, step
            done = lake_home.attempt(mode, run_id=run_id)
            assert done.task(mode)["state"] == "success", (step, lake_home.output()[-6000:])
            assert lake.values(mode, "id") == sorted(truth * (number if mode == "append" else 1)), (mode, step)
            if lake.format == "parquet":
                assert not [name for name in lake.names() if name.rpartition("/")[2].startswith(".")]
    assert [path for path in (lake_home.path / "tmp").rglob("*") if "limio" in str(path.parent)] == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("table_format", MERGING, indirect=True)
@in_a_folder
def test_a_late_run_makes_no_row_older(lake_home, limio_emulator, lake):
    lake_home.write_dag(
        f"""
        LimioToDltOperator(task_id="load", resource="subscriptions", {lake.parameters}, table="subs")
        LimioToDltOperator(task_id="truth", resource="subscriptions", {lake.parameters}, table="truth", mode="replace")
        """
    )
    lake_home.attempt("load", run_id="late", kill=["before dlt extract", 1])
    limio_emulator.advance(60, changed=50, added=10)
    for task in ("load", "truth"):
        loaded(lake_home, task, run_id="on_time")
    loaded(lake_home, run_id="late")
    assert lake.rows("subs") == lake.rows("truth")


@pytest.mark.exhaustive
def test_two_runs_at_once(lake_home, limio_emulator, lake):
    modes = [mode for mode in modes_of(lake.format) if mode != "replace"]
    lake_home.write_dag(
        f"""
        for mode in {modes}:
            LimioToDltOperator(task_id=mode, resource="subscriptions", {lake.parameters}, table=mode, mode=mode)
        """
    )
    tries = [(mode, run_id) for mode in modes for run_id in ("one", "two", "three")]
    for mode, run_id in tries:
        lake_home.attempt(mode, run_id=run_id, kill=["before request", 1])
    begun = [(mode, lake_home.begin("attempt", "pull", task_id=mode, run_id=run_id)) for mode, run_id in tries]
    for mode, pid in begun:
        assert lake_home.join(pid).task(mode)["state"] == "success", lake_home.output()[-6000:]
    assert [lake.count(mode) for mode in modes] == [200 if mode == "merge" else 600 for mode in modes]


@pytest.mark.exhaustive
@in_a_folder
def test_columns_that_come_later(lake_home, limio_emulator, lake):
    limio_emulator.put_records("custom/things", [b'{"id":"1","n":1,"old":true}'])
    ways = ("add", "ignore", "fail")
    modes = modes_of(lake.format)
    lake_home.write_dag(
        f"""
        things = Resource(name="things", path="/custom/things", primary_key=("id",))
        for way in {ways}:
            for mode in {modes}:
                LimioToDltOperator(
                    task_id=way + "_" + mode, {lake.parameters}, table=way + "_" + mode, resource=things, new_columns=way,
                    mode=mode, type_changes="fail" if way == "fail" else "widen", max_missing="100%",
                )
        """
    )
    tasks = [f"{way}_{mode}" for way in ways for mode in modes]
    for task in tasks:
        loaded(lake_home, task, run_id="one")
    limio_emulator.put_records("custom/things", [b'{"id":"1","n":2,"newKey":7}'])
    for mode in modes:
        assert loaded(lake_home, f"add_{mode}", run_id="two")["columns_added"] == ["newKey"]
        assert lake.values(f"add_{mode}", "newKey") == ([7, None] if mode == "append" else [7])
        assert lake.values(f"add_{mode}", "old") == ([None, True] if mode == "append" else [None])
        assert loaded(lake_home, f"ignore_{mode}", run_id="two")["columns_ignored"] == ["newKey"]
        assert "newKey" in failed(lake_home, f"fail_{mode}", run_id="two")
    limio_emulator.put_records("custom/things", [b'{"id":"1","n":"text"}'])
    for mode in modes:
        assert "is bigint and would become text" in failed(lake_home, f"fail_{mode}", run_id="three")
        if mode == "replace" and lake.format != "iceberg":
            assert loaded(lake_home, f"add_{mode}", run_id="three")["columns_widened"] == ["n"]
            assert lake.values(f"add_{mode}", "n") == ["text"]
            assert lake.values(f"add_{mode}", "newKey") == [None]
        else:
            assert "the column 'n' is bigint, and values came that need text" in failed(lake_home, f"add_{mode}", run_id="three")
            assert lake.values(f"add_{mode}", "n") == ([1, 2] if mode == "append" else [2])


@pytest.mark.exhaustive
@in_a_folder
def test_nothing_shrinks_unasked_and_a_repeated_run_takes_back(lake_home, limio_emulator, lake):
    limio_emulator.put_records("custom/things", [b'{"id":"%d"}' % at for at in range(40)])
    lake_home.write_dag(
        f"""
        things = Resource(name="things", path="/custom/things", primary_key=("id",))
        for mode, most in (("replace", "20%"), ("replace", "100%"), ("append", "20%")):
            LimioToDltOperator(
                task_id=mode + most.strip("%"), {lake.parameters}, table=mode, resource=things, mode=mode, max_missing=most,
            )
        """
    )
    for task in ("replace20", "append20"):
        loaded(lake_home, task, run_id="one")
    limio_emulator.put_records("custom/things", [])
    assert "40 of 40 known rows" in failed(lake_home, "replace20", run_id="two")
    assert lake.count("replace") == 40
    for task in ("replace100", "append20"):
        loaded(lake_home, task, run_id="one")
    assert (lake.count("replace"), lake.count("append")) == (0, 0)


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
@in_a_folder
def test_rows_that_the_table_has_lost_are_pulled_again(lake_home, limio_emulator, lake):
    mode = modes_of(lake.format)[0]
    lake_home.write_dag(
        f"""
        for task, more in (("load", {{}}), ("twin", {{"query_params": {{"region": "us"}}}})):
            LimioToDltOperator(
                task_id=task, resource="abandoned_baskets", {lake.parameters}, table="baskets", incremental=True, mode={mode!r},
                outlets=[Asset("baskets")], since="2026-01-01", **more,
            )
        """
    )
    baskets = [{"id": str(day), "created": f"2026-03-0{day}T00:00:00.000Z", "order": {"total": day}} for day in (1, 2, 3)]
    limio_emulator.put_records("checkout/abandoned", [json.dumps(basket).encode() for basket in baskets])
    assert loaded(lake_home, run_id="one")["rows"] == 3
    assert loaded(lake_home, run_id="two")["rows"] == 1
    lake.drop("baskets")
    assert loaded(lake_home, run_id="three")["rows"] == 3
    assert lake.count("baskets") == 3
    lake.drop("baskets")
    wait_for_another_second()
    assert loaded(lake_home, "twin", run_id="four")["rows"] == 3
    # In an append, the rows that are there would come a second time.
    assert loaded(lake_home, run_id="four")["rows"] == (1 if mode == "append" else 3)
    assert "filled again by others" in lake_home.output()


@pytest.mark.exhaustive
@pytest.mark.parametrize("where", [S3], indirect=True)
def test_no_file_log_or_error_holds_a_secret(lake_home, limio_emulator, lake):
    mode = modes_of(lake.format)[0]
    lake_home.write_dag(
        f"""
        LimioToDltOperator(task_id="load", resource="subscriptions", {lake.parameters}, table="subs", mode={mode!r})
        """
    )
    # deltalake would take these for what it is not told.
    for name, value in {
        "AWS_S3_LOCKING_PROVIDER": "dynamodb",
        "AWS_S3_ALLOW_UNSAFE_RENAME": "true",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_PROXY_URL": "http://127.0.0.1:9",
    }.items():
        lake_home.set(name, value)
    secrets = (SECRET_KEY, SESSION_TOKEN)
    for number, step in enumerate(("after dlt extract", "before dlt write", "after dlt write", None)):
        outcome = lake_home.attempt("load", run_id=f"run-{number}", kill=None if step is None else [step, 1])
        assert step is not None or outcome.task("load")["state"] == "success", lake_home.output()[-6000:]
        kept = [path.read_bytes() for path in lake_home.path.rglob("*") if path.is_file()]
        kept += [lake.place.read(name) for name in lake.names()]
        if lake.catalog.exists():
            kept.append(lake.catalog.read_bytes())
        for secret in secrets:
            assert not [content for content in kept if any(form in content for form in forms_of(secret))], step
    names = {name.split("/")[1] for name in lake.names()}
    assert {"_dlt_loads", "_dlt_version", "init", "subs"} <= names


@pytest.mark.parametrize("table_format", ["parquet"], indirect=True)
@in_a_folder
def test_what_files_cannot_do_is_refused_before_the_pull(lake_home, limio_emulator, lake):
    lake_home.write_dag(
        f"""
        common = dict(resource="subscriptions", {lake.parameters})
        delta = {{**common, "table_format": "delta"}}
        LimioToDltOperator(task_id="merge", table="subs", **common)
        LimioToDltOperator(task_id="history", table="subs", mode="history", **delta)
        LimioToDltOperator(task_id="away", table="../subs", mode="append", **common)
        LimioToDltOperator(task_id="hidden", table="_subs", mode="append", **common)
        LimioToDltOperator(task_id="catalog", table="subs", **{{**common, "table_format": "iceberg"}})
        LimioToDltOperator(task_id="no_catalog", table="subs", **delta, catalog_conn_id="catalog")
        LimioToDltOperator(task_id="nowhere", table="subs", **{{**common, "bucket_url": None}})
        LimioToDltOperator(
            task_id="database", resource="subscriptions", destination="duckdb", destination_conn_id="duck", dataset="lake",
            table="subs", table_format="delta",
        )
        """
    )
    assert "mode='merge' cannot replace rows within Parquet files" in failed(lake_home, "merge")
    assert "files have no history" in failed(lake_home, "history")
    assert "table='../subs' becomes a folder" in failed(lake_home, "away")
    assert "table='_subs' becomes a folder" in failed(lake_home, "hidden")
    assert "table_format='iceberg' and catalog_conn_id go together" in failed(lake_home, "catalog")
    assert "table_format='iceberg' and catalog_conn_id go together" in failed(lake_home, "no_catalog")
    assert "needs the URL of a folder" in failed(lake_home, "nowhere")
    assert "table_format='delta' is for destination='filesystem'" in failed(lake_home, "database")
    assert limio_emulator.counters.log == []
    assert lake.names() == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("table_format", ["parquet"], indirect=True)
@in_a_folder
def test_modes_do_not_mix_in_parquet(lake_home, limio_emulator, lake):
    lake_home.write_dag(
        f"""
        for mode in ("append", "replace"):
            LimioToDltOperator(task_id=mode, resource="subscriptions", {lake.parameters}, table="subs", mode=mode)
        """
    )
    loaded(lake_home, "append", run_id="one")
    assert "the table's folder has files of another mode" in failed(lake_home, "replace", run_id="two")
    assert lake.count("subs") == 200


@in_a_folder
@pytest.mark.parametrize("table_format", [DELTA], indirect=True)
def test_the_example(lake_home, limio_emulator, lake):
    shutil.copy(ROOT / "dags_examples" / "limio_dlt_files.py", lake_home.path / "dags")
    for _ in range(2):
        done = lake_home.run("limio_dlt_files", conf={"root": f"{lake.place.url}/lake"})
        assert done.result["state"] == "success", lake_home.output()[-6000:]
    assert lake.values("limio/subscriptions", "id") == sorted(limio_emulator.tenant.ids("subscriptions"))
