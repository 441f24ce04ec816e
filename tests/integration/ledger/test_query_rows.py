# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows out of every kind of database, exact to the last digit."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.usage.body import Column, UsageRowError
from limio_limitrail.usage.messages import UsageTemplate
from limio_limitrail.usage.rows import rows_of_query

pytestmark = pytest.mark.every_driver


def read(db, sql):
    with rows_of_query(db.hook(), sql) as source:
        return source.columns, [dict(row) for row in source.rows]


def test_rows_come_in_order_and_whole(db):
    db.execute("CREATE TABLE things (id INTEGER, name VARCHAR(100))")
    db.execute("INSERT INTO things VALUES " + ", ".join(f"({n}, 'it''s {n} %s ? 日本')" for n in range(4500)))
    columns, rows = read(db, "SELECT id, name FROM things WHERE name LIKE '%日本%' ORDER BY id")
    assert columns == ("id", "name")
    assert rows == [{"id": n, "name": f"it's {n} %s ? 日本"} for n in range(4500)]


def test_no_rows_still_have_columns(db):
    db.execute("CREATE TABLE things (id INTEGER, name VARCHAR(100))")
    assert read(db, "SELECT id, name AS other FROM things") == (("id", "other"), [])


@pytest.mark.parametrize("rows", [0, 1])
def test_two_columns_of_one_name_are_refused(db, rows):
    with pytest.raises(ParameterError, match=r"'a', 'b' more than once: name each column with AS"):
        read(db, f"SELECT 1 AS a, 2 AS b, 3 AS a, 4 AS b, 5 AS c WHERE 1 = {rows}")


def test_empty_values_are_none(db):
    assert read(db, "SELECT NULL AS a, '' AS b")[1] == [{"a": None, "b": ""}]


def test_big_numbers_are_whole(db):
    assert read(db, "SELECT 9223372036854775807 AS big")[1] == [{"big": 2**63 - 1}]


@pytest.mark.parametrize("name", ["duckdb", "psycopg3", "psycopg2", "standard"])
def test_decimals_and_days_are_exact(opened, name):
    found = read(
        opened(name),
        "SELECT CAST('0.1000' AS DECIMAL(10, 4)) AS d, CAST('12345678901234567890.123456789' AS DECIMAL(38, 9)) AS big, "
        "CAST('2026-11-01' AS DATE) AS day, CAST('2026-11-01 12:30:00.000005' AS TIMESTAMP) AS at, TRUE AS yes",
    )[1]
    assert found == [
        {
            "d": Decimal("0.1000"),
            "big": Decimal("12345678901234567890.123456789"),
            "day": date(2026, 11, 1),
            "at": datetime(2026, 11, 1, 12, 30, 0, 5),
            "yes": True,
        }
    ]
    assert str(found[0]["d"]) == "0.1000"


@pytest.mark.parametrize("name", ["psycopg3", "psycopg2", "standard"])
@pytest.mark.parametrize("kind", ["json", "jsonb"])
def test_numbers_within_json_are_exact(opened, name, kind):
    text = '{"a": 0.1000, "b": [123456789012345678901234567890, 1.10], "c": null, "d": "x"}'
    [row] = read(opened(name), f"SELECT CAST('{text}' AS {kind}) AS j, CAST('[2.50]' AS {kind}) AS k")[1]
    assert row["j"] == {"a": Decimal("0.1000"), "b": [123456789012345678901234567890, Decimal("1.10")], "c": None, "d": "x"}
    assert str(row["j"]["a"]) == "0.1000"
    assert str(row["k"][0]) == "2.50"


def test_exact_json_is_for_this_query_alone(postgres):
    read(postgres, "SELECT CAST('{\"a\": 0.5}' AS json) AS j")
    assert postgres.query("SELECT CAST('{\"a\": 0.5}' AS json) AS j") == [({"a": 0.5},)]
    assert type(postgres.query("SELECT CAST('{\"a\": 0.5}' AS json) AS j")[0][0]["a"]) is float


@pytest.mark.parametrize("name", ["psycopg3", "psycopg2", "standard"])
def test_instants_of_postgres_have_a_zone(opened, name):
    [row] = read(opened(name), "SELECT TIMESTAMPTZ '2026-11-01 12:00:00+02' AS at")[1]
    assert row["at"] == datetime(2026, 11, 1, 10, tzinfo=UTC)
    assert row["at"].tzinfo is not None


def test_what_only_duckdb_has(opened):
    [row] = read(
        opened("duckdb"),
        "SELECT CAST('170141183460469231731687303715884105727' AS HUGEINT) AS huge, "
        "{'a': 0.10::DECIMAL(4,2), 'b': [1, NULL]} AS s, "
        "'{\"a\": 0.1000}'::JSON AS j",
    )[1]
    assert row["huge"] == 2**127 - 1
    assert row["s"] == {"a": Decimal("0.10"), "b": [1, None]}
    assert row["j"] == '{"a": 0.1000}'


def test_sqlite_gives_what_it_keeps(lite):
    assert read(lite, "SELECT 0.1 AS f, 'x' AS t, x'00' AS b, 5 AS i")[1] == [{"f": 0.1, "t": "x", "b": b"\0", "i": 5}]


def test_an_error_in_the_query_is_told_and_closes_the_connection(db):
    with pytest.raises(Exception, match=r"(?i)nothing_here"):
        read(db, "SELECT * FROM nothing_here")


TIME = "CAST(CAST('2026-10-25 23:30:00+00' AS TIMESTAMP WITH TIME ZONE) AS {})"


@pytest.mark.parametrize("name", ["duckdb", "psycopg3", "psycopg2", "standard"])
def test_a_query_runs_in_utc_wherever_it_runs(opened, name):
    db = opened(name)
    if db.postgres:
        zone = "Pacific/Auckland"
        schema = db.connection["schema"]
        db.execute(f"ALTER DATABASE {schema} SET timezone = '{zone}'", f"ALTER DATABASE {schema} SET datestyle = 'German'")
        hook = db.hook()
    else:
        hook = db.hook()
        usual = hook.get_conn

        def moved():
            connection = usual()
            connection.execute("SET GLOBAL TimeZone = 'Pacific/Auckland'")
            return connection

        hook.get_conn = moved
    with rows_of_query(hook, f"SELECT {TIME.format('DATE')} AS day, {TIME.format('VARCHAR(40)')} AS told") as source:
        [row] = source.rows
    assert row == {"day": date(2026, 10, 25), "told": "2026-10-25 23:30:00+00"}


@pytest.mark.parametrize("name", ["duckdb", "psycopg3", "psycopg2", "standard"])
@pytest.mark.parametrize(
    "value",
    ["CAST('infinity' AS DATE)", "CAST('-infinity' AS TIMESTAMP)", "CAST('infinity' AS TIMESTAMP WITH TIME ZONE)",
     "CAST('20000-01-01' AS DATE)", "CAST('20000-01-01' AS TIMESTAMP)", "CAST('24:00:00' AS TIME)"],
)  # fmt: skip
def test_times_that_python_cannot_hold_are_named_by_row_and_column(opened, name, value):
    template = UsageTemplate(tenant="t", operation="o", path="/p", key_columns=("n",), body={"v": Column("v")})
    rows = read(opened(name), f"SELECT 1 AS n, {value} AS v")[1]
    with pytest.raises(UsageRowError, match="row 1: column 'v' holds an infinite time, or one that Python cannot hold"):
        template.build(rows[0], number=1)


@pytest.mark.parametrize("name", ["duckdb", "psycopg3", "psycopg2", "standard"])
def test_the_last_day_of_the_calendar_is_a_day(opened, name):
    assert read(opened(name), "SELECT CAST('9999-12-31' AS DATE) AS v;")[1] == [{"v": date(9999, 12, 31)}]
