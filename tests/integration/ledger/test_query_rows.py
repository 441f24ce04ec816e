# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows out of every kind of database, exact to the last digit."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.landing.sql.queries import WrongQueryError
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


NANOSECONDS = "TIMESTAMP_NS '2026-11-01 12:00:00.123456{}'"
UNREADABLE = {
    "nanoseconds": NANOSECONDS.format("789"),
    "one nanosecond of ten": NANOSECONDS.format("01"),
    "nanoseconds of a time of day": "TIME_NS '12:00:00.000000001'",
    "nanoseconds in a list": f"[{NANOSECONDS.format('7')}]",
    "nanoseconds in a struct": "{'at': " + NANOSECONDS.format("78") + "}",
    "infinity in a list": "[DATE '2026-11-01', DATE 'infinity']",
    "infinity in a map": "MAP {'until': DATE 'infinity'}",
    "infinity in structs": "[{'until': {'day': DATE 'infinity'}}]",
    "infinity of any type": "CAST([DATE 'infinity'] AS VARIANT)",
}


@pytest.mark.parametrize("value", UNREADABLE.values(), ids=UNREADABLE)
def test_times_that_the_driver_of_duckdb_changes_are_named_by_row_and_column(opened, value):
    template = UsageTemplate(tenant="t", operation="o", path="/p", key_columns=("n",), body={"v": Column("v")})
    rows = read(opened("duckdb"), f"SELECT n, v FROM (VALUES (1, NULL), (2, {value})) AS t (n, v) ORDER BY n")[1]
    assert rows[0]["v"] is None
    with pytest.raises(UsageRowError, match="row 2: column 'v' holds an infinite time, or one that Python cannot hold"):
        template.build(rows[1], number=2)


def test_times_of_duckdb_whose_nanoseconds_are_zeros_are_read(opened):
    at = NANOSECONDS.format("000")
    when = datetime(2026, 11, 1, 12, 0, 0, 123456)
    sql = f"SELECT {at} AS a, [{at}] AS b, TIMESTAMP_NS 'infinity' IS NULL AS c, [DATE '9999-12-31'] AS d, 'infinity' AS e"
    [row] = read(opened("duckdb"), sql)[1]
    assert row == {"a": when, "b": [when], "c": False, "d": [date(9999, 12, 31)], "e": "infinity"}


@pytest.mark.parametrize("number", ["0.1", "1e-7", "16777216", "-3.4e38", "1234567.9"])
def test_a_number_of_32_bits_has_its_own_digits(opened, number):
    [row] = read(opened("duckdb"), f"SELECT CAST({number} AS FLOAT) AS v, CAST({number} AS DOUBLE) AS d")[1]
    assert (row["v"], row["d"]) == (float(number), float(number))
    if number != "1234567.9":
        [row] = read(opened("psycopg3"), f"SELECT CAST({number} AS real) AS v")[1]
        assert row["v"] == float(number)


def test_integers_of_any_size_are_numbers(opened):
    [row] = read(opened("duckdb"), f"SELECT CAST('{10**50}' AS BIGNUM) AS v, CAST('-7' AS BIGNUM) AS w")[1]
    assert row == {"v": 10**50, "w": -7}


@pytest.mark.parametrize("name", ["psycopg3", "psycopg2"])
def test_the_end_of_a_day_with_a_zone_is_no_midnight(opened, name):
    template = UsageTemplate(tenant="t", operation="o", path="/p", key_columns=("n",), body={"v": Column("v")})
    rows = read(opened(name), "SELECT 1 AS n, CAST('24:00:00+02' AS TIME WITH TIME ZONE) AS v")[1]
    with pytest.raises(UsageRowError, match="row 1: column 'v' holds an infinite time, or one that Python cannot hold"):
        template.build(rows[0], number=1)


@pytest.mark.parametrize("name", ["duckdb", "psycopg3", "psycopg2", "standard", "sqlite"])
def test_a_query_changes_nothing(opened, name):
    """The rows that it deletes would be gone if the task failed before they are sent."""
    db = opened(name)
    db.execute("CREATE TABLE kept (id INTEGER)", "INSERT INTO kept VALUES (1), (2)")
    refused = pytest.raises(WrongQueryError, match=r"it changes data\. Only read in it")
    with refused if name == "duckdb" else contextlib.suppress(WrongQueryError):
        read(db, "DELETE FROM kept RETURNING id")
    assert db.query("SELECT count(*) FROM kept") == [(2,)]


@pytest.mark.parametrize("name", ["duckdb", "psycopg3", "psycopg2", "standard"])
def test_the_last_day_of_the_calendar_is_a_day(opened, name):
    assert read(opened(name), "SELECT CAST('9999-12-31' AS DATE) AS v;")[1] == [{"v": date(9999, 12, 31)}]
