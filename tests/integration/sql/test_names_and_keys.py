# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Two tables, two columns and two keys never become one."""

from __future__ import annotations

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import LandingError, LoadResult

pytestmark = pytest.mark.every_driver

INT, T, D, J = Kind.INTEGER, Kind.TEXT, Kind.DOUBLE, Kind.JSON
LONG = "stg_limio_production_europe_customer_subscription_offers_history"


def land_runs(db, *, kind, runs) -> None:
    for run, keys in enumerate(runs):
        db.land("merge", {"id": (kind, keys), "v": (T, ["a"] * len(keys))}, run=str(run))


@pytest.mark.parametrize("name", ["psycopg3", "psycopg2", "standard"])
@pytest.mark.parametrize("table", [f"{LONG}_orders", f'"{LONG}_orders"', f"{LONG}_orders.t", "é" * 32])
def test_a_name_that_would_be_cut_is_refused(opened, name, table):
    db = opened(name)
    with pytest.raises(LandingError, match=r"is \d+ bytes long, and the database keeps 63"):
        db.land("merge", {"id": (INT, [1])}, table=table)
    assert db.query("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'") == [(0,)]


@pytest.mark.parametrize("name", ["duckdb", "sqlite", "psycopg3"])
def test_names_as_long_as_the_database_takes_are_two_tables(opened, name):
    db = opened(name)
    start = "x" * (62 if name == "psycopg3" else 500)
    for end in ("a", "b"):
        db.land("merge", {"id": (T, [end])}, table=start + end)
    assert [db.query(f"SELECT id FROM {start}{end}") for end in ("a", "b")] == [[("a",)], [("b",)]]


@pytest.mark.parametrize("name", ["duckdb", "sqlite", "psycopg3"])
def test_names_that_differ_in_another_letters_case_are_two_tables(opened, name):
    """Databases fold A to Z, and no other letter; asked for by `lower`, DuckDB would mix both tables' columns."""
    db = opened(name)
    for table in ("Été", "éTÉ"):
        for run in ("1", "2"):
            db.land("merge", {"id": (T, [table]), f"v{table[0]}": (INT, [int(run)])}, table=table, run=run)
    tables = "information_schema.tables WHERE table_schema IN ('main', 'public')"
    found = db.query(
        "SELECT name FROM sqlite_master WHERE type = 'table'" if name == "sqlite" else f"SELECT table_name FROM {tables}"
    )
    assert {table for (table,) in found} == ({"Été", "étÉ"} if name == "psycopg3" else {"Été", "éTÉ"})


@pytest.mark.parametrize("name", ["duckdb", "psycopg3", "sqlite"])
def test_a_schema_that_is_not_there(opened, name):
    with pytest.raises(LandingError, match="there is no schema 'nowhere'"):
        opened(name).land("merge", {"id": (INT, [1])}, table="nowhere.subs")


def test_a_duckdb_database_is_no_schema(duck):
    """DuckDB takes "warehouse.subs" for main.subs of the database warehouse: two names of one table."""
    with pytest.raises(LandingError, match="'warehouse' is a database: the connection's own needs no name"):
        duck.land("merge", {"id": (INT, [1])}, table="warehouse.subs")
    duck.execute("CREATE SCHEMA warehouse")
    with pytest.raises(LandingError, match="both a schema and a database"):
        duck.land("merge", {"id": (INT, [1])}, table="warehouse.subs")


@pytest.mark.parametrize("name", ["duckdb", "psycopg3", "psycopg2", "sqlite"])
def test_a_temporary_table_of_the_connection_does_not_swallow_the_rows(opened, name):
    db = opened(name)
    hook = db.hook()
    connect = hook.get_conn

    def get_conn():
        connection = connect()
        (connection if name == "duckdb" else connection.cursor()).execute("CREATE TEMPORARY TABLE subs (id bigint)")
        if name.startswith("psycopg"):
            connection.commit()
        return connection

    hook.get_conn = get_conn
    with pytest.raises(LandingError, match="is a temporary table"):
        db.land("merge", {"id": (INT, [1])}, hook=hook)
    if name == "duckdb":
        # It looks for main.subs among the temporary tables as well.
        with pytest.raises(LandingError, match="is a temporary table"):
            db.land("merge", {"id": (INT, [1])}, hook=hook, table="main.subs")
        return
    schema = "public" if name.startswith("psycopg") else "main"
    assert db.land("merge", {"id": (INT, [1])}, hook=hook, table=f"{schema}.subs").inserted == 1


POSTGRES_TYPES = """
    numeric | 1.10 | 1.1
    dom_numeric | 1.10 | 1.1
    dom_dom_numeric | 1.10 | 1.1
    dom_loose | a | A
    real | 0 | -0
    interval | 1 day | 24:00:00
    jsonb | {"a":1} | {"a": 1}
    numeric[] | {1.10} | {1.1}
    numrange | [1.10,2) | [1.1,2)
    bpchar | a | a_
    char(3) | a | a_
    numeric(10,2) | 1.10 | 1.1
    varchar(3) | abc | abcd
    date | 2024-01-01 | 20240101
    uuid | 0aa0aa0a-0000-0000-0000-00000000000a | 0AA0AA0A-0000-0000-0000-00000000000A
    inet | 10.0.0.1 | 10.0.0.1/32
    int | 1 | 01
    timestamp(0) | 2024-01-01 00:00:00 | 2024-01-01 00:00:00.4
    bytea | \\x61 | a
    name | a | {63}
"""
POSTGRES_CASES = [tuple(cell.strip() for cell in line.split(" | ")) for line in POSTGRES_TYPES.strip().splitlines()]


@pytest.mark.sampled(10)
@pytest.mark.parametrize(("type_", "one", "other"), POSTGRES_CASES, ids=[case[0] for case in POSTGRES_CASES])
@pytest.mark.parametrize("runs", [1, 2])
def test_keys_that_postgres_takes_for_equal(opened, type_, one, other, runs):
    """Refused, or the spelling that differs is refused; never one row for both."""
    db = opened("psycopg3")
    db.execute(
        'CREATE COLLATION loose FROM "C"',
        "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'loose'",
        "CREATE DOMAIN dom_numeric AS numeric",
        "CREATE DOMAIN dom_dom_numeric AS dom_numeric NOT NULL",
        "CREATE DOMAIN dom_loose AS text COLLATE loose",
        f"CREATE TABLE subs (id {type_}, v text)",
    )
    kind = J if type_ == "jsonb" else T
    other = other.replace("_", " ").replace("{63}", "b" * 64)
    keys = [[one, other]] if runs == 1 else [[one], [other]]
    with pytest.raises(LandingError, match="column 'id'"):
        land_runs(db, kind=kind, runs=keys)
    assert len(db.rows()) <= 1


def test_a_type_of_an_extension_is_refused_as_a_key(postgres):
    """Nobody knows what it takes for equal: citext disregards case."""
    postgres.execute(
        "CREATE TYPE strange",
        "CREATE FUNCTION strange_in(cstring) RETURNS strange LANGUAGE internal IMMUTABLE STRICT AS 'textin'",
        "CREATE FUNCTION strange_out(strange) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout'",
        "CREATE TYPE strange (INPUT = strange_in, OUTPUT = strange_out, LIKE = text, CATEGORY = 'S')",
        "CREATE TABLE subs (id strange, v text)",
    )
    with pytest.raises(LandingError, match=r"column 'id' compares different texts as equal .its type is strange"):
        postgres.land("merge", {"id": (T, ["a", "A"])})
    assert postgres.land("append", {"v": (T, ["a"])}, key=()).inserted == 1


@pytest.mark.parametrize(
    ("name", "type_", "kind", "values"),
    [
        ("psycopg3", "numeric", INT, [1, 2]),
        ("psycopg3", "numeric", D, [1.5, 2.5]),
        ("psycopg3", "numeric(38,0)", T, ["123456789012345678901234567890", "2"]),
        ("psycopg3", "uuid", T, ["0aa0aa0a-0000-0000-0000-00000000000a", "0aa0aa0a-0000-0000-0000-00000000000b"]),
        ("psycopg3", "mood", T, ["sad", "ok"]),
        ("psycopg3", "char(3)", T, ["abc", "abd"]),
        ("psycopg3", "varchar(10)", T, ["a", "A"]),
        ("psycopg2", "integer", INT, [1, 2]),
        ("standard", "numeric", INT, [1, 2]),
        ("standard", "varchar(10)", T, ["a", "A"]),
        ("duckdb", "VARCHAR COLLATE NOCASE PRIMARY KEY", T, ["a", "A"]),
        ("duckdb", "UUID", T, ["0aa0aa0a-0000-0000-0000-00000000000a", "0aa0aa0a-0000-0000-0000-00000000000b"]),
        ("duckdb", "DECIMAL(18,2)", T, ["1.10", "1.20"]),
        ("duckdb", "ENUM ('a', 'A')", T, ["a", "A"]),
        ("sqlite", "TEXT COLLATE NOCASE", T, ["a", "A"]),
        ("sqlite", "VARCHAR(20) COLLATE RTRIM", T, ["a", "a "]),
    ],
)
def test_types_that_keep_keys_apart(opened, name, type_, kind, values):
    db = opened(name)
    db.execute(
        *(["CREATE TYPE mood AS ENUM ('sad', 'ok')"] if type_ == "mood" else []), f"CREATE TABLE subs (id {type_}, v TEXT)"
    )
    for run, v in (("1", "x"), ("2", "y")):
        result = db.land("merge", {"id": (kind, values), "v": (T, [v, "same"])}, run=run)
    assert result == LoadResult(rows=2, updated=1, unchanged=1)
    assert len(db.rows()) == 2


@pytest.mark.parametrize(
    ("name", "type_", "values"),
    [
        ("standard", "numeric", ["1.10", "1.1"]),
        ("standard", "interval", ["1 day", "24:00:00"]),
        ("duckdb", "INTERVAL", ["1 day", "24:00:00"]),
        ("duckdb", "FLOAT", ["0.0", "-0.0"]),
        ("duckdb", "DECIMAL(18,2)", ["1.10", "1.1"]),
        ("duckdb", "UUID", ["0aa0aa0a-0000-0000-0000-00000000000a", "0AA0AA0A-0000-0000-0000-00000000000A"]),
        ("sqlite", "TEXT COLLATE NOCASE PRIMARY KEY", ["a", "A"]),
        ("sqlite", "TEXT COLLATE RTRIM UNIQUE", ["a", "a "]),
        ("sqlite", "NUMERIC", ["1.10", "1.1"]),
        ("sqlite", "DECIMAL(10,2)", ["1.10", "1.1"]),
        ("sqlite", "DATETIME", ["01", "1"]),
    ],
)
@pytest.mark.parametrize("runs", [1, 2])
def test_keys_that_other_databases_take_for_equal(opened, name, type_, values, runs):
    db = opened(name)
    db.execute(f"CREATE TABLE subs (id {type_}, v TEXT)")
    with pytest.raises(LandingError, match="column 'id'"):
        land_runs(db, kind=T, runs=[values] if runs == 1 else [values[:1], values[1:]])
    assert len(db.rows()) <= 1


@pytest.mark.parametrize("name", ["duckdb", "sqlite"])
@pytest.mark.parametrize("type_", ["INTEGER", "BIGINT", "DOUBLE"])
def test_a_key_column_of_numbers_becomes_text_where_texts_come(opened, name, type_):
    db = opened(name)
    db.execute(f"CREATE TABLE subs (id {type_}, v TEXT)")
    if (name, type_) == ("duckdb", "INTEGER"):
        with pytest.raises(LandingError, match="column 'id'"):
            db.land("merge", {"id": (T, ["1", "01"]), "v": (T, ["a", "b"])})
        return
    assert db.land("merge", {"id": (T, ["1", "01"]), "v": (T, ["a", "b"])}).inserted == 2
    assert [row["id"] for row in db.rows()] == ["01", "1"]


@pytest.mark.parametrize("name", ["duckdb", "duckdb files", "sqlite"])
def test_the_users_own_column_is_the_records_whatever_its_case(opened, name):
    db = opened(name)
    db.execute(
        'CREATE TABLE subs ("ID" TEXT, "Plan" TEXT, "_EXTRACTED_AT" TIMESTAMP)', "INSERT INTO subs VALUES ('a', 'old', NULL)"
    )
    for run, plan in (("1", "new"), ("2", "newer")):
        result = db.land("merge", {"id": (T, ["a", "b"]), "plan": (T, [plan, "x"])}, run=run)
    assert result == LoadResult(rows=2, updated=1, unchanged=1)
    assert db.query('SELECT "ID", "Plan" FROM subs ORDER BY 1') == [("a", "newer"), ("b", "x")]
    assert len(db.types()) == 4


def test_postgres_tells_names_apart_by_case(postgres):
    postgres.execute('CREATE TABLE subs ("ID" text)')
    postgres.land("merge", {"id": (T, ["a"])})
    assert postgres.query('SELECT "ID" IS NULL, count(*) FROM subs GROUP BY 1') == [(True, 1)]
    assert len(postgres.types()) == 4


@pytest.mark.parametrize("name", ["duckdb", "sqlite"])
def test_two_keys_that_differ_in_case_stay_two_columns(opened, name):
    db = opened(name)
    for run in ("1", "2"):
        db.land("merge", {"id": (T, ["a"]), "ID": (T, ["b"])}, run=run)
    [row] = db.rows()
    assert list(row.values()) == ["a", "b"]


@pytest.mark.parametrize("name", ["duckdb", "sqlite"])
def test_a_key_column_that_two_keys_could_be_is_refused(opened, name):
    """Else the rows that are there would have no key, and all that comes would be new."""
    db = opened(name)
    db.execute('CREATE TABLE subs ("ID" TEXT)', "INSERT INTO subs VALUES ('a')")
    with pytest.raises(LandingError, match="another key that differs from it in case only and has the column 'ID'"):
        db.land("merge", {"id": (T, ["a"]), "ID": (T, ["b"])})
    assert db.rows() == [{"ID": "a"}]


@pytest.mark.parametrize(("name", "most"), [("psycopg3", 1600), ("sqlite", 2000)])
def test_more_columns_than_the_database_takes(opened, name, most):
    db = opened(name)
    db.execute("CREATE TABLE subs (id BIGINT)")
    columns = {"id": (INT, [1]), **{f"c{at}": (INT, [None]) for at in range(most - 2)}}
    with pytest.raises(LandingError, match=f"would have {most + 1} columns, and .* takes {most}: leave some out"):
        db.land("merge", columns)
    assert list(db.types()) == ["id"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["duckdb", "duckdb files", "psycopg3", "sqlite"])
def test_a_thousand_columns_go_through(opened, name):
    db = opened(name)
    columns = {"id": (INT, [1, 2]), **{f"c{at}": (INT, [at, None]) for at in range(999)}}
    db.land("merge", columns)
    columns["c5"] = (INT, [7, None])
    assert db.land("merge", columns, run="2") == LoadResult(rows=2, updated=1, unchanged=1)
