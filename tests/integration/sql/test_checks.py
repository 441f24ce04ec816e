# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Checks of what a load has written: they see all of it, change nothing, and a failing one undoes the load."""

from __future__ import annotations

from typing import Any

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import ContractError, LandingError
from limio_limitrail.landing.sql.errors import DatabaseError
from limio_limitrail.transfers import Check
from tests.support.databases import Database

INT, T, D, J = Kind.INTEGER, Kind.TEXT, Kind.DOUBLE, Kind.JSON
ROWS = {"id": (INT, [1, 2, 3]), "a": (T, ["x", "X", None]), "d": (D, [0.5, -1.0, None]), "j": (J, ["[1]", "[1]", None])}

PASSING = [
    Check("rows_between", least=3, most=3),
    Check("rows_between", least=0),
    Check("unique", columns=["id"]),
    Check("unique", columns=["a", "j"]),
    Check("unique", columns=["a"]),
    Check("not_null", columns=["id", "_run_id"]),
    Check(sql="SELECT count(*) = 3 FROM {table}"),
    Check(sql="WITH kept AS (SELECT * FROM {table} WHERE d < 0) SELECT count(*) FROM kept -- a comment"),
    Check(sql="SELECT 0.25"),
]
FAILING = [
    (Check("rows_between", least=4), r"'rows_between' \(the table has 3 rows, and must have at least 4\)"),
    (Check("rows_between", most=0, name="small"), r"'small' \(the table has 3 rows, and must have at most 0\)"),
    (Check("unique", columns=["j"]), r"'unique\(j\)' \(2 rows share 1 values\)"),
    (Check("not_null", columns=["a", "d"]), r"'not_null\(a, d\)' \(1 rows have no value\)"),
    (
        Check(sql="SELECT count(*) = 0 FROM {table} WHERE d < 0", name="no refunds"),
        r"'no refunds' \(its query returned (false|0)\)",
    ),
    (Check(sql="SELECT max(d) - 0.5 FROM {table}"), r"'sql' \(its query returned 0\.0\)"),
    (Check(sql="SELECT NULL"), r"'sql' \(its query returned null\)"),
]


@pytest.mark.every_driver
def test_what_passes_is_committed(db: Database) -> None:
    db.land("merge", ROWS, checks=PASSING)
    assert db.land("merge", ROWS, run="run-2", checks=PASSING).unchanged == 3
    assert len(db.rows()) == 3


@pytest.mark.parametrize("exists", [False, True])
def test_what_fails_undoes_the_load(db: Database, *, exists: bool) -> None:
    if exists:
        db.land("merge", {"id": (INT, [1]), "a": (T, ["x"])})
    before = (db.types(), db.rows(own=True)) if exists else None
    for check, message in FAILING:
        with pytest.raises(ContractError, match=rf"1 of 2 checks failed: {message}\. Nothing was written"):
            db.land("merge", ROWS, run="run-2", checks=[PASSING[0], check])
        assert db.exists() is exists
        assert before is None or (db.types(), db.rows(own=True)) == before
    with pytest.raises(ContractError, match="7 of 7 checks failed"):
        db.land("merge", ROWS, checks=[check for check, _ in FAILING])


def test_what_is_no_number_fails(typed: Database) -> None:
    for type_ in ("double precision", "numeric") if typed.postgres else ("double",):
        with pytest.raises(ContractError, match="its query returned nan"):
            typed.land("merge", ROWS, checks=[Check(sql=f"SELECT CAST('NaN' AS {type_})")])


def test_checks_see_the_whole_table_in_each_mode(db: Database) -> None:
    db.land("append", {"id": (INT, [1, 2])}, checks=[Check("rows_between", most=2)])
    with pytest.raises(ContractError, match="the table has 3 rows"):
        db.land("append", {"id": (INT, [3])}, run="run-2", checks=[Check("rows_between", most=2)])
    assert db.land("replace", {"id": (INT, [3])}, run="run-3", checks=[Check("rows_between", most=2)]).deleted == 2
    with pytest.raises(ContractError, match="the table has 0 rows"):
        db.land("replace", {"id": (INT, [])}, run="run-4", checks=[Check("rows_between", least=1)])
    assert [row["id"] for row in db.rows()] == [3]


def test_a_table_that_no_row_has_made_has_no_rows(db: Database) -> None:
    checks = [Check("unique", columns=["id"]), Check("not_null", columns=["id"]), Check(sql="SELECT 1 = 0 FROM {table}")]
    db.land("merge", checks=checks)
    with pytest.raises(ContractError, match="the table has 0 rows, and must have at least 1"):
        db.land("merge", checks=[*checks, Check("rows_between", least=1)])


WRITES = [
    "DELETE FROM {table} RETURNING 1",
    "UPDATE {table} SET a = 'y' RETURNING 1",
    "INSERT INTO {table} (id) VALUES (9) RETURNING 1",
    "WITH gone AS (DELETE FROM {table} RETURNING 1) SELECT count(*) FROM gone",
    "COMMIT",
    "DROP TABLE {table}",
    "SELECT 1) AS a, (DELETE FROM {table} RETURNING 1",
]


@pytest.mark.every_driver
def test_a_check_can_neither_write_nor_commit(db: Database) -> None:
    db.land("merge", {"id": (INT, [1]), "a": (T, ["x"])})
    before = db.rows(own=True)
    for sql in WRITES:
        with pytest.raises(DatabaseError, match="while running the check 'w' of subs"):
            db.land("merge", ROWS, run="run-2", checks=[Check(sql=sql, name="w")])
        assert db.rows(own=True) == before


def test_a_function_of_postgres_cannot_write_either(opened: Any) -> None:
    db = opened("psycopg3")
    db.land("merge", {"id": (INT, [1])})
    db.execute(
        "CREATE FUNCTION sly() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN DELETE FROM subs; RETURN true; END $$",
        "CREATE FUNCTION reads() RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM subs $$",
    )
    with pytest.raises(DatabaseError, match="Postgres refused"):
        db.land("merge", {"id": (INT, [2])}, checks=[Check(sql="SELECT sly()")])
    # What comes after a check writes again.
    assert db.land("merge", {"id": (INT, [2])}, checks=[Check(sql="SELECT reads() = 2")] * 2).inserted == 1
    assert [row["id"] for row in db.rows()] == [1, 2]


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (Check(sql="SELECT 1, 2"), "must return one value, and returned one row with 2 columns"),
        (Check(sql="SELECT id FROM {table}"), "must return one value, and returned more than one row with 1 columns"),
        (Check(sql="SELECT id FROM {table} WHERE id = 0"), "must return one value, and returned no row"),
        (Check(sql="SELECT 'a secret'"), "must return a boolean or a number, and returned a str"),
        (Check("unique", columns=["nothing"]), "names the column 'nothing', which the table does not have"),
    ],
)
def test_checks_that_cannot_be_run(db: Database, check: Check, message: str) -> None:
    with pytest.raises(LandingError, match=message) as refused:
        db.land("merge", ROWS, checks=[check])
    assert "secret" not in str(refused.value)
    assert not isinstance(refused.value, ContractError)
    assert not db.exists()


def test_columns_are_named_by_their_record_key(db: Database) -> None:
    db.land("merge", {"id": (INT, [1]), "xmin": (INT, [1]), "_run_id": (INT, [None])})
    with pytest.raises(ContractError, match=r"not_null\(xmin\)"):
        db.land("merge", {"id": (INT, [1]), "xmin": (INT, [None])}, checks=[Check("not_null", columns=["xmin"])])
