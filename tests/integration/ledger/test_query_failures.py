# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Queries that fail, in every database: what is said holds no value, and whether another try may help is known."""

from __future__ import annotations

import sqlite3

import pytest

from limio_limitrail.landing.sql.queries import QueryError, WrongQueryError
from limio_limitrail.usage.rows import rows_of_query

pytestmark = pytest.mark.every_driver

SECRET = "jane.doe@example.com"


def read(db, sql):
    with rows_of_query(db.hook(), sql) as source:
        return [dict(row) for row in source.rows]


@pytest.fixture
def people(db):
    db.execute("CREATE TABLE people (id INTEGER, mail VARCHAR(100), name VARCHAR(100))")
    db.execute("INSERT INTO people VALUES " + ", ".join(f"({n}, '{n}', 'x')" for n in range(4999)))
    db.execute(f"INSERT INTO people VALUES (4999, '{SECRET}', '{SECRET}')")
    return db


WRONG = {
    "no table": ("SELECT * FROM nothing_here", "nothing_here"),
    "no column": ("SELECT nope FROM people", "nope"),
    "no query": ("SELEC 1 FROM people", None),
    "a value in the query": (f"SELECT '{SECRET}', nope FROM people", "nope"),
    "two rows in the place of one": (
        "SELECT (SELECT mail FROM people WHERE id > 4990 ORDER BY id DESC) + nope FROM people",
        None,
    ),
}
OF_DATABASES = {
    "postgres": [
        "SELECT CAST(mail AS integer) FROM people ORDER BY id",
        "SELECT CAST(mail AS date) FROM people WHERE id = 4999",
        "SELECT CAST(mail AS json) FROM people WHERE id = 4999",
        "SELECT id / (4999 - id) FROM people ORDER BY id",
        "SELECT to_timestamp(mail, 'YYYY') FROM people WHERE id = 4999",
        "SELECT (SELECT mail FROM people WHERE id > 4990)",
        "SELECT CAST(mail AS varchar(3)) || repeat(mail, 2000000000) FROM people",
        "SELECT regexp_replace(mail, '(' || mail, '') FROM people WHERE id = 4999",
        "SELECT told(mail, '42501') FROM people WHERE id = 4999",
        "SELECT told(mail, '42P01') FROM people WHERE id = 4999",
        "SELECT run('SELECT ' || mail) FROM people WHERE id = 4999",
        "SELECT run('SELECT ''' || mail || '''::int') FROM people WHERE id = 4999",
        "SELECT run('SELECT 1 FROM \"' || mail || '\"') FROM people WHERE id = 4999",
        "SELECT CAST('[' || repeat('1', 5000) || ']' AS json)",
    ],
    "duckdb": [
        "SELECT CAST(mail AS INTEGER) FROM people ORDER BY id",
        "SELECT CAST(mail AS DATE) FROM people WHERE id = 4999",
        "SELECT strptime(mail, '%Y') FROM people WHERE id = 4999",
        "SELECT error(mail) FROM people WHERE id = 4999",
        "SELECT json_extract('{}', '$[' || mail) FROM people WHERE id = 4999",
        "SELECT regexp_matches('a', '*' || mail) FROM people WHERE id = 4999",
        "SELECT CAST(mail AS JSON) FROM people WHERE id = 4999",
        "SELECT CAST(mail AS ENUM ('a', 'b')) FROM people WHERE id = 4999",
        "SELECT CAST(9223372036854775807 AS BIGINT) + id FROM people",
    ],
    "sqlite": [
        "SELECT json_extract('{}', mail) FROM people WHERE id = 4999",
        "SELECT json(mail) FROM people WHERE id = 4999",
        "SELECT abs(-9223372036854775807 - 1), mail FROM people",
        f"SELECT CAST(CAST('{SECRET}' AS BLOB) || x'ff' AS TEXT)",
        "SELECT mail FROM people; SELECT 1",
    ],
}  # fmt: skip
FUNCTIONS = (
    (
        "CREATE FUNCTION told(t text, state text) RETURNS int LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'nobody is called %', t USING ERRCODE = state; END $$"
    ),
    "CREATE FUNCTION run(t text) RETURNS int LANGUAGE plpgsql AS $$ DECLARE r int; BEGIN EXECUTE t INTO r; RETURN r; END $$",
)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("case", WRONG, ids=str)
def test_a_wrong_query_is_told_and_not_tried_again(people, case):
    sql, said = WRONG[case]
    with pytest.raises(WrongQueryError, match=r"the query failed in the database '\w+': .*\. Correct the query") as caught:
        read(people, sql)
    text = str(caught.value) + repr(caught.value.__context__) + repr(caught.value.__cause__)
    assert SECRET not in text
    if said and people.name != "standard":
        assert said in str(caught.value)


@pytest.mark.sampled(9)
@pytest.mark.parametrize("number", range(max(map(len, OF_DATABASES.values()))))
def test_a_value_that_does_not_fit_is_never_quoted(people, number):
    kind = "postgres" if people.postgres else people.name
    if number >= len(OF_DATABASES[kind]):
        pytest.skip("this database has fewer cases")
    if people.postgres:
        people.execute(*FUNCTIONS)
    with pytest.raises(QueryError, match="the query failed in the database") as caught:
        read(people, OF_DATABASES[kind][number])
    error = caught.value
    for piece in (SECRET, "jane", "4999"):
        assert piece not in str(error) + repr(error.__context__) + repr(error.__cause__)


def test_a_missing_right_says_what_to_grant(postgres):
    postgres.execute("CREATE TABLE people (id INTEGER)", "DROP ROLE IF EXISTS poor", "CREATE ROLE poor LOGIN")
    try:
        postgres.connection["login"] = "poor"
        with pytest.raises(WrongQueryError, match=r"SQLSTATE 42501.*people.*Grant the connection's user SELECT"):
            read(postgres, "SELECT * FROM people")
    finally:
        postgres.connection["login"] = "postgres"
        postgres.execute("DROP OWNED BY poor", "DROP ROLE poor")


@pytest.mark.parametrize(("end", "said"), [("terminate", "the connection to Postgres ended"), ("cancel", "SQLSTATE 57014")])
def test_a_query_that_somebody_ends_may_be_tried_again(postgres, end, said):
    postgres.execute("CREATE TABLE people AS SELECT n, 'jane' AS name FROM generate_series(1, 9000) AS n")
    sql = f"SELECT n, name, CASE WHEN n = 4001 THEN pg_{end}_backend(pg_backend_pid()) END AS e, pg_sleep(0) FROM people"
    seen: list[int] = []

    def read_slowly():
        with rows_of_query(postgres.hook(), sql) as source:
            seen.extend(row["n"] for row in source.rows)

    with pytest.raises(QueryError, match=f"{said}.*A retry may help") as caught:
        read_slowly()
    assert not isinstance(caught.value, WrongQueryError)
    assert len(seen) >= 4000, "what came before was read"
    assert "jane" not in str(caught.value)


def test_a_query_that_takes_too_long_for_the_database_may_be_tried_again(postgres):
    postgres.execute(f"ALTER DATABASE {postgres.connection['schema']} SET statement_timeout = '200ms'")
    with pytest.raises(QueryError, match=r"SQLSTATE 57014.*A retry may help") as caught:
        read(postgres, "SELECT pg_sleep(60)")
    assert not isinstance(caught.value, WrongQueryError)


def test_a_locked_file_may_be_tried_again(lite):
    lite.execute("CREATE TABLE people (id INTEGER)")
    holder = sqlite3.connect(lite.connection["host"], isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(QueryError, match=r"SQLITE_BUSY.*A retry may help") as caught:
            read(lite, "SELECT * FROM people")
    finally:
        holder.close()
    assert not isinstance(caught.value, WrongQueryError)
