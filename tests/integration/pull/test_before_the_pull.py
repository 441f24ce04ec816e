# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A table that cannot be landed in ends the task before the first request; a database that is away does not."""

from __future__ import annotations

import sqlite3

import duckdb
import psycopg
import pytest

LONG = "stg_limio_production_europe_customer_subscription_offers_history"
CASES = {
    "long_orders": ("orders", "pg", f"{LONG}_orders", {}, "bytes long, and the database keeps 63"),
    "long_schema": ("orders", "pg", f"{LONG}.orders", {}, "bytes long, and the database keeps 63"),
    "three_parts": ("orders", "duck", "warehouse.main.orders", {}, "has 3 parts"),
    "no_schema": ("orders", "pg", "nowhere.orders", {}, "there is no schema 'nowhere'"),
    "no_schema_in_duckdb": ("orders", "duck", "nowhere.orders", {}, "there is no schema 'nowhere'"),
    "no_schema_in_sqlite": ("orders", "lite", "nowhere.orders", {}, "there is no schema 'nowhere'"),
    "a_view": ("orders", "pg", "looked", {}, "looked is a view"),
    "loose_key": ("orders", "pg", "loose", {}, "column 'id' compares different texts as equal (its type is interval)"),
    "loose_key_in_sqlite": ("orders", "lite", "loose", {}, "column 'ID' compares different texts as equal"),
    "too_many_columns": ("orders", "pg", "t", {"max_columns": 1601}, "a table in Postgres has 1600 columns at most"),
    "no_number": ("orders", "lite", "t", {"max_columns": 0}, "max_columns must be a whole number of at least 1, got 0"),
}


@pytest.fixture
def busy_home(make_home, limio_emulator, tmp_path, postgres_connection):
    duckdb.connect(str(tmp_path / "warehouse.duckdb")).close()
    with sqlite3.connect(tmp_path / "warehouse.sqlite") as lite:
        lite.execute("CREATE TABLE loose (ID TEXT COLLATE NOCASE PRIMARY KEY)")
    with psycopg.connect(
        host=postgres_connection["host"], user=postgres_connection["login"], dbname=postgres_connection["schema"]
    ) as pg:
        pg.execute("CREATE VIEW looked AS SELECT 1 AS id")
        pg.execute("CREATE TABLE loose (id interval)")
    away = {"conn_type": "postgres", "host": "127.0.0.1", "port": 1, "login": "nobody", "schema": "nowhere"}
    return make_home(limio_emulator, pg=postgres_connection, away=away)


def write_tasks(home, **tasks) -> None:
    home.write_dag(
        "\n".join(
            f"LimioToSqlOperator(task_id={name!r}, resource={resource!r}, sql_conn_id={conn_id!r}, table={table!r}, retries=2, "
            f"retry_delay=NOW, **{more!r})"
            for name, (resource, conn_id, table, more, *_) in tasks.items()
        )
    )


def test_a_table_that_cannot_be_landed_in(busy_home, limio_emulator):
    write_tasks(busy_home, **CASES)
    limio_emulator.counters.reset()
    done = busy_home.run()
    output = busy_home.output()
    assert {done.task(name)["state"] for name in CASES} == {"failed"}
    assert {done.task(name)["tries"] for name in CASES} == {1}
    for *_, said in CASES.values():
        assert said in output
    assert limio_emulator.counters.requests == 0


def test_a_database_that_is_away_does_not_stop_the_pull(busy_home):
    write_tasks(busy_home, away=("orders", "away", "t", {}))
    tried = busy_home.attempt("away")
    output = busy_home.output()
    assert tried.result["state"] != "success"
    assert (
        "could not be inspected before the pull, which starts anyway. Postgres (connection 'away') could not be opened" in output
    )
    assert "while loading t: no server listens there" in output


def test_a_key_for_each_record(home, limio_emulator):
    limio_emulator.put_records("custom/things", [b'{"id":"%d","key%d":1}' % (at, at) for at in range(3_000)])
    home.write_dag(
        """
        things = Resource(name="things", path="/custom/things", primary_key=("id",))
        LimioToSqlOperator(task_id="table", resource=things, sql_conn_id="duck", table="t", page_size=1000)
        LimioToSqlOperator(task_id="more", resource=things, sql_conn_id="duck", table="more", page_size=1000, max_columns=4000)
        """
    )
    done = home.run()
    assert done.task("table")["state"] == "failed"
    assert "max_columns= allows 1,000" in home.output()
    assert done.task("more")["xcom"]["rows"] == 3_000
