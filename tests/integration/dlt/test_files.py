# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Loads into files by dlt's filesystem end with the same rows as loads into DuckDB by our own code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.dlt.lakes import Lake
from tests.support.airflow_home import AirflowHome
from tests.support.landed import duck
from tests.support.places import Bucket, LocalPlace

DELTA = pytest.param("delta", marks=pytest.mark.needs_table_formats)
ICEBERG = pytest.param("iceberg", marks=pytest.mark.needs_table_formats)
MERGING = (DELTA, ICEBERG)
FORMATS = ("parquet", *MERGING)


@pytest.fixture(params=FORMATS)
def table_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.needs_s3)])
def lake(request: pytest.FixtureRequest, table_format: str, tmp_path: Path) -> Lake:
    where: LocalPlace | Bucket = LocalPlace(tmp_path / "files")
    if request.param == "s3":
        where = Bucket(request.getfixturevalue("s3_server"), tmp_path)
    return Lake(format=table_format, place=where, catalog=tmp_path / "catalog.sqlite")


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
