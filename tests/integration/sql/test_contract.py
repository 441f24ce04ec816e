# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The contract of a table: new columns, wider types, required columns."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import Contract, ContractError, LoadResult, NewColumns, TypeChanges
from tests.support.databases import Database

INT, T, D, J, S, N = Kind.INTEGER, Kind.TEXT, Kind.DOUBLE, Kind.JSON, Kind.TIMESTAMP, Kind.NULL
IGNORE = Contract(new_columns=NewColumns.IGNORE)
FAIL = Contract(new_columns=NewColumns.FAIL)
SAME_TYPES = Contract(type_changes=TypeChanges.FAIL)
MODES = pytest.mark.parametrize("mode", ["merge", "append", "replace"])


@MODES
def test_ignored_columns_are_not_stored_and_named(db: Database, mode: str) -> None:
    db.land("merge", {"id": (INT, [9]), "a": (T, ["x"])})
    before = db.types()
    pulled = {"id": (INT, [1, 2]), "a": (T, ["y", "z"]), "b": (J, ["[1]", None]), "c": (N, [None, None])}
    for _ in range(2):
        result = db.land(mode, pulled, run="run-2", contract=IGNORE)
        assert result.columns_ignored == ("b", "c")
        assert result.columns_added == ()
    assert db.types() == before
    assert [row for row in db.rows() if row["a"] != "x"] == [{"id": 1, "a": "y"}, {"id": 2, "a": "z"}]


def test_rows_that_differ_in_ignored_columns_alone_are_unchanged(db: Database) -> None:
    db.land("merge", {"id": (INT, [1]), "a": (T, ["x"])})
    for value in (1, 2):
        result = db.land("merge", {"id": (INT, [1]), "a": (T, ["x"]), "b": (INT, [value])}, run=f"n{value}", contract=IGNORE)
        assert (result.unchanged, result.columns_ignored) == (1, ("b",))


@pytest.mark.parametrize("contract", [IGNORE, FAIL])
def test_a_new_table_has_all_columns(db: Database, contract: Contract) -> None:
    assert db.land("merge", {"id": (INT, [1]), "a": (T, ["x"])}, contract=contract) == LoadResult(rows=1, inserted=1)
    assert db.rows() == [{"id": 1, "a": "x"}]


@MODES
def test_new_columns_can_fail_the_load(db: Database, mode: str) -> None:
    db.land("merge", {"id": (INT, [1]), "a": (T, ["x"])})
    before = (db.types(), db.rows(own=True))
    with pytest.raises(ContractError, match=r"the table lacks: 'b' \(integer\), 'c' \(json\)\. Nothing was written") as failed:
        db.land(mode, {"id": (INT, [1]), "b": (INT, [1]), "c": (J, ['"secret"'])}, run="run-2", contract=FAIL)
    assert "secret" not in str(failed.value)
    assert (db.types(), db.rows(own=True)) == before
    # Fewer columns are no new ones.
    assert db.land(mode, {"id": (INT, [2])}, run="run-3", contract=FAIL).columns_added == ()


def test_the_loads_own_columns_are_added_whatever_the_contract(db: Database) -> None:
    db.execute("CREATE TABLE subs (id bigint, a varchar)", "INSERT INTO subs VALUES (1, 'x')")
    for contract in (FAIL, IGNORE):
        db.land("merge", {"id": (INT, [1, 2]), "a": (T, ["y", "z"])}, contract=contract)
    assert list(db.types()) == ["id", "a", "_extracted_at", "_run_id"]


def test_neither_key_nor_time_can_be_ignored(db: Database) -> None:
    db.execute("CREATE TABLE subs (id bigint, a varchar)")
    when = datetime(2024, 1, 1, tzinfo=UTC)
    with pytest.raises(ContractError, match="the table has no column 'at', which is part of the primary key or the time column"):
        db.land("merge", {"id": (INT, [1]), "at": (S, [when])}, time="at", contract=IGNORE)
    with pytest.raises(ContractError, match="the table has no column 'part'"):
        db.land("merge", {"id": (INT, [1]), "part": (INT, [1])}, key=("id", "part"), contract=IGNORE)
    assert list(db.types()) == ["id", "a"]


@pytest.mark.parametrize("mode", ["append", "replace"])
def test_records_of_which_nothing_would_be_left_are_refused(db: Database, mode: str) -> None:
    db.land("merge", {"id": (INT, [1]), "a": (T, ["x"])})
    before = (db.types(), db.rows(own=True))
    with pytest.raises(ContractError, match="the table has none of the records' columns: 'b', 'c'"):
        db.land(mode, {"b": (INT, [2]), "c": (INT, [2])}, key=(), run="run-2", contract=IGNORE)
    assert (db.types(), db.rows(own=True)) == before


@pytest.mark.sampled(9)
@MODES
@pytest.mark.parametrize(("old", "new"), [((INT, [1]), (T, ["a"])), ((INT, [1]), (D, [0.5])), ((J, ["[]"]), (T, ["x"]))])
def test_wider_types_can_fail_the_load(db: Database, mode: str, old: Any, new: Any) -> None:
    db.land("merge", {"id": (INT, [1]), "a": old})
    before = (db.types(), db.rows(own=True))
    with pytest.raises(ContractError, match=r"'a' is .* and would become .*Nothing was written, because of type_changes"):
        db.land(mode, {"id": (INT, [2]), "a": new}, run="run-2", contract=SAME_TYPES)
    assert (db.types(), db.rows(own=True)) == before
    assert db.land(mode, {"id": (INT, [2]), "a": old, "b": (INT, [1])}, run="3", contract=SAME_TYPES).columns_added == ("b",)


def test_json_that_the_database_refuses_does_not_widen_either(duck: Database) -> None:
    duck.land("merge", {"id": (INT, [1]), "a": (J, ["{}"])})
    with pytest.raises(ContractError, match="'a' is JSON and would become VARCHAR"):
        duck.land("merge", {"id": (INT, [2]), "a": (J, ["{"])}, contract=SAME_TYPES)
    assert duck.types()["a"] == "json"


@pytest.mark.parametrize("exists", [False, True])
def test_required_columns(db: Database, *, exists: bool) -> None:
    if exists:
        db.land("merge", {"id": (INT, [0]), "email": (T, ["x"])})
    before = db.rows() if exists else None
    contract = Contract(required_columns=("id", "email"))
    for pulled, message in (
        ({"id": (INT, [1])}, "are in no record: 'email'"),
        ({"id": (INT, [1]), "Email": (T, ["x"])}, r"are in no record: 'email' \(they have 'Email'\)"),
        ({"id": (INT, [1, 2]), "email": (N, [None, None])}, "have no value in any record: 'email'"),
        ({"id": (INT, [1]), "email": (T, [None])}, "have no value in any record: 'email'"),
    ):
        with pytest.raises(ContractError, match=message):
            db.land("merge", pulled, run="run-2", contract=contract)
        assert db.exists() is exists
        assert before is None or db.rows() == before
    assert db.land("merge", {"id": (INT, []), "email": (T, [])}, contract=contract).rows == 0
    assert db.land("merge", contract=contract) == LoadResult()
    assert db.land("merge", {"id": (INT, [1, 2]), "email": (T, [None, "x"])}, contract=contract).inserted == 2


def test_a_required_column_that_is_ignored_says_so(db: Database) -> None:
    db.land("merge", {"id": (INT, [1])})
    contract = Contract(new_columns=NewColumns.IGNORE, required_columns=("email",))
    with pytest.raises(ContractError, match="the table lacks it, and new_columns="):
        db.land("merge", {"id": (INT, [1]), "email": (T, ["x"])}, contract=contract)
