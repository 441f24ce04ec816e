# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Elements of nested lists become rows of child tables, and share the fate of the record that has them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limio_limitrail.landing.shaping import RecordError
from limio_limitrail.landing.shrinking import ShrinkGuard, ShrunkListError
from limio_limitrail.landing.sql import LandingError
from limio_limitrail.landing.sql.contract import Contract, ContractError, NewColumns, TypeChanges
from limio_limitrail.landing.sql.model import OnMissing, Scope
from limio_limitrail.transfers import ChildTable
from tests.support.child_rows import Orders
from tests.support.databases import NOON
from tests.support.strategies import examples

ITEMS = {"items": ChildTable("data.items")}
HOUR = timedelta(hours=1)

pytestmark = pytest.mark.every_driver


@pytest.fixture
def orders(db, tmp_path):
    def make(tables=ITEMS, **changes):
        return Orders(db=db, folder=tmp_path, tables=tables, **changes)

    return make


def order(number, *items, **more):
    return {"id": number, "data": {"items": list(items)}, **more}


def test_elements_become_rows_with_their_parents_key_and_position(orders, db):
    landing = orders()
    result = landing.land(
        [order("a", {"sku": "x", "price": 1.5}, {"sku": "y", "more": {"k": [1]}}), order("b")],
        [order("c", {"sku": "z", "price": 2})],
    )
    assert landing.rows("items") == [
        {"_parent_id": "a", "_position": 0, "sku": "x", "price": 1.5, "more": None},
        {"_parent_id": "a", "_position": 1, "sku": "y", "price": None, "more": '{"k": [1]}'},
        {"_parent_id": "c", "_position": 0, "sku": "z", "price": 2.0, "more": None},
    ]
    assert {row["id"] for row in landing.rows("orders")} == {"a", "b", "c"}
    assert {(row["_run_id"], row["_extracted_at"]) for row in landing.rows("items", own=True)} == {
        ("run-1", "2024-05-06T12:00:00.000000Z")
    }
    assert (result.inserted, result.child_tables["items"].rows, result.child_tables["items"].inserted) == (3, 3, 3)
    assert list(db.types("items"))[:2] == ["_parent_id", "_position"]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("null", []),
        ("[]", []),
        ("[1, null, 2]", [(0, "1"), (1, None), (2, "2")]),
        ('["a", "b"]', [(0, "a"), (1, "b")]),
        ("[[1, 2], []]", [(0, "[1, 2]"), (1, "[]")]),
        ("5", [(0, "5")]),
        ('"only"', [(0, "only")]),
        ('{"value": 7}', [(0, "7")]),
        ('[{"value": "x"}, "y", {}]', [(0, "x"), (1, "y"), (2, None)]),
    ],
    ids=str,
)
def test_what_stands_at_the_path(tmp_path, file_database, text, rows):
    landing = Orders(db=file_database("sqlite", folder=tmp_path), folder=tmp_path, tables={"tags": "tags"})
    landing.land(b'[{"id": 1, "tags": ["seed"]}, {"id": 2, "tags": %s}, {"id": 3}]' % text.encode())
    found = landing.rows("tags", "_parent_id", "_position", "value")
    assert [(position, value if value is None else str(value)) for parent, position, value in found if parent == 2] == rows
    assert [row for row in found if row[0] != 2] == [(1, 0, "seed")]


def test_numbers_and_texts_stay_exact(orders):
    landing = orders({"items": "items"})
    landing.land(
        b'[{"id": 1, "items": [{"n": 9007199254740993, "d": 0.1, "e": 1.10, "t": "\\u00e9\\ud83d\\ude00", "j": {"a": 1.0e3}}]}]'
    )
    assert landing.rows("items", "n", "d", "e", "t", "j") == [(9007199254740993, 0.1, 1.1, "é😀", '{"a": 1.0e3}')]
    # A number of more digits than a double has makes the column text, as in parents; what was there keeps its digits.
    landing.land(b'[{"id": 2, "items": [{"d": 0.1234567890123456789}]}]', run="run-2", at=NOON + HOUR)
    assert sorted(row["d"] for row in landing.rows("items")) == ["0.1", "0.1234567890123456789"]


def test_rows_follow_the_list_when_it_changes(orders):
    landing = orders()
    landing.land([order(1, {"s": "a"}, {"s": "b"}, {"s": "c"}), order(2, {"s": "z"})])
    result = landing.land([order(1, {"s": "b"}), order(2, {"s": "z"})], run="run-2", at=NOON + HOUR)
    assert landing.rows("items", "_parent_id", "_position", "s") == [(1, 0, "b"), (2, 0, "z")]
    items = result.child_tables["items"]
    assert (items.inserted, items.deleted, items.unchanged) == (1, 3, 1)
    assert {row["_run_id"] for row in landing.rows("items", own=True) if row["s"] == "z"} == {"run-1"}
    landing.land([order(1), order(2)], run="run-3", at=NOON + 2 * HOUR)
    assert landing.rows("items") == []


def test_the_same_pull_again_changes_nothing(orders):
    landing = orders({"items": ChildTable("data.items", child_tables={"options": "options"})})
    pages = [[order(1, {"s": "a", "options": [1, 2]}, {"s": "b"})], [order(2, {"s": "c", "options": [{"x": 1}]})]]
    landing.land(*pages)
    before = [landing.rows(table, own=True) for table in ("orders", "items", "options")]
    again = landing.land(*pages)
    assert [landing.rows(table, own=True) for table in ("orders", "items", "options")] == before
    assert (again.unchanged, again.updated) == (2, 0)
    assert {(one.inserted, one.deleted) for one in again.child_tables.values()} == {(0, 0)}
    later = landing.land(*pages, run="run-2", at=NOON + HOUR)
    assert [landing.rows(table, own=True) for table in ("orders", "items", "options")] == before
    assert (later.unchanged, later.updated) == (2, 0)


def test_of_a_record_that_comes_twice_only_the_newest_has_rows(orders):
    landing = orders(time="at")
    result = landing.land(
        [order(1, {"s": "old"}, {"s": "older"}, at="2024-01-01T00:00:00Z"), order(1, {"s": "new"}, at="2024-01-03T00:00:00Z")],
        [order(1, {"s": "between"}, at="2024-01-02T00:00:00Z")],
    )
    assert landing.rows("items", "_position", "s") == [(0, "new")]
    assert (result.duplicates, result.child_tables["items"].duplicates) == (2, 3)


def test_an_outdated_record_leaves_the_rows_alone(orders):
    landing = orders(time="at")
    landing.land([order(1, {"s": "new"}, at="2024-01-03T00:00:00Z")])
    result = landing.land([order(1, {"s": "old"}, {"s": "too"}, at="2024-01-02T00:00:00Z")], run="late", at=NOON + HOUR)
    assert result.outdated == 1
    assert landing.rows("items", "s") == [("new",)]


def test_an_older_pull_does_not_bring_back_rows_of_a_list_that_is_not_in_the_parent(orders):
    """The parents do not differ, so nothing but the time of the pull tells which list is newer."""
    landing = orders({"items": "items"}, dropped=("items",))
    landing.land([{"id": 1, "items": [1, 2]}, {"id": 2, "items": [5]}])
    touched = landing.land([{"id": 1, "items": []}, {"id": 2, "items": [5]}], run="run-3", at=NOON + 2 * HOUR)
    assert (touched.updated, touched.unchanged) == (1, 1)
    landing.land([{"id": 1, "items": [1]}, {"id": 2, "items": [5]}], run="run-2", at=NOON + HOUR)
    assert landing.rows("items", "_parent_id", "value") == [(2, 5)]
    landing.land([{"id": 1, "items": [7]}, {"id": 2, "items": [5]}], run="run-4", at=NOON + 3 * HOUR)
    assert landing.rows("items", "_parent_id", "value") == [(1, 7), (2, 5)]


def test_a_late_pull_does_not_bring_back_rows_that_a_newer_one_saw_replaced(orders, db):
    """The parents do not differ, and keep the time of the pull that brought them."""
    landing = orders({"items": "items"}, dropped=("items",))
    whole = {"scope": Scope(digest="1" * 16, text="orders", task="d/t"), "full_scan": True}
    landing.land([{"id": 1, "items": [1]}, {"id": 2, "items": [5]}], **whole)
    landing.land([{"id": 1, "items": [1]}, {"id": 2, "items": [5]}], run="run-3", at=NOON + 2 * HOUR, **whole)
    late = [{"id": 1, "items": [7, 8]}, {"id": 2, "items": [5]}, {"id": 3, "items": [9]}]
    landing.land(late, run="run-2", at=NOON + HOUR, **whole)
    # A database of standard SQL has no memory of pulls.
    seen = [(1, 7), (1, 8)] if db.name == "standard" else [(1, 1)]
    assert landing.rows("items", "_parent_id", "value") == [*seen, (2, 5), (3, 9)]


def test_lists_within_elements(orders):
    tables = {
        "items": ChildTable("items", key="sku", child_tables={"options": ChildTable("choice.options")}),
        "matrix": ChildTable("matrix", child_tables={"cells": "value"}),
    }
    landing = orders(tables)
    first = {
        "id": "a",
        "items": [{"sku": "x", "choice": {"options": ["red", "blue"]}}, {"sku": "y"}, {"sku": "z", "choice": {"options": [3]}}],
        "matrix": [[1, 2], [3]],
    }
    second = {"id": "b", "items": [{"sku": "x", "choice": {"options": ["green"]}}], "matrix": []}
    landing.land([{"id": "0"}, first], [second])
    columns = ("_parent__parent_id", "_parent_sku", "_position", "value")
    names = list(landing.rows("options")[0])
    assert names == ["_parent_parent_id", "_parent_sku", "_position", "value"], columns
    assert landing.rows("options", *names) == [
        ("a", "x", 0, "red"), ("a", "x", 1, "blue"), ("a", "z", 0, "3"), ("b", "x", 0, "green")
    ]  # fmt: skip
    assert landing.rows("cells", "_parent_parent_id", "_parent_position", "_position", "value") == [
        ("a", 0, 0, 1), ("a", 0, 1, 2), ("a", 1, 0, 3)
    ]  # fmt: skip
    # An element that goes takes what was in it along, and one that stays keeps it.
    changed = {**first, "items": [{"sku": "z", "choice": {"options": [3]}}, {"sku": "x"}]}
    landing.land([changed, second], run="run-2", at=NOON + HOUR)
    assert landing.rows("items", "_parent_id", "sku", "_position") == [("a", "x", 1), ("a", "z", 0), ("b", "x", 0)]
    assert landing.rows("options", *names) == [("a", "z", 0, "3"), ("b", "x", 0, "green")]


def test_a_change_in_the_deepest_list_alone_is_a_change(orders):
    landing = orders({"items": ChildTable("items", child_tables={"options": "options"})}, dropped=("items",))
    landing.land([{"id": 1, "items": [{"s": 1, "options": ["a"]}]}])
    result = landing.land([{"id": 1, "items": [{"s": 1, "options": []}]}], run="run-2", at=NOON + HOUR)
    assert landing.rows("options") == []
    assert result.updated == 1
    landing.land([{"id": 1, "items": [{"s": 1, "options": ["a"]}]}], run="late", at=NOON + HOUR / 2)
    assert landing.rows("options") == []


def test_a_key_of_elements_must_tell_them_apart(orders, db):
    landing = orders({"items": ChildTable("items", key=["sku"])})
    for items, message in (
        ([{"sku": 1}, {"sku": 1}], "several elements of one list have the same 'sku'"),
        ([{"sku": 1}, {"other": 1}], "1 rows have no value in 'sku'"),
        ([{"other": 1}], "no row has the record key 'sku'"),
    ):
        with pytest.raises(LandingError, match=message):
            landing.land([{"id": 1, "items": items}])
    assert not db.exists("orders")
    assert not db.exists("items")
    landing.land([{"id": 1, "items": [{"sku": 1}]}, {"id": 2, "items": [{"sku": 1}]}])
    assert landing.rows("items", "_parent_id", "sku") == [(1, 1), (2, 1)]


def test_a_key_whose_members_come_later(orders):
    landing = orders({"items": ChildTable("items", key=["sku"])})
    landing.land([{"id": 1, "items": []}])
    landing.land([{"id": 1, "items": [{"sku": 1}, {"sku": 2}]}], run="run-2", at=NOON + HOUR)
    assert landing.rows("items", "_parent_id", "sku") == [(1, 1), (1, 2)]


@pytest.mark.parametrize(("parents", "child"), [("s.orders", "items"), ("orders", "s.items"), ('s."Or.ders"', '"It""ems"')])
def test_schemas(typed, tmp_path, parents, child):
    typed.execute("CREATE SCHEMA s")
    landing = Orders(db=typed, folder=tmp_path, tables={child: "items"}, table=parents)
    for number in range(2):
        landing.land([{"id": 1, "items": [number, 7]}], run=f"run-{number}", at=NOON + number * HOUR)
    found = typed.query(f"SELECT _parent_id, value FROM s.{child.removeprefix('s.')} ORDER BY _position")
    assert found == [(1, 1), (1, 7)]


def test_append_and_replace(orders):
    landing = orders(mode="append")
    landing.land([order(1, {"s": "a"}), order(2, {"s": "b"}, {"s": "c"})])
    landing.land([order(1, {"s": "a2"})], run="run-2", at=NOON + HOUR)
    landing.land([order(1, {"s": "a3"}), order(1, {"s": "a4"})], run="run-2", at=NOON + 2 * HOUR)
    found = [(row["_run_id"], row["_parent_id"], row["s"]) for row in landing.rows("items", own=True)]
    assert sorted(found) == [("run-1", 1, "a"), ("run-1", 2, "b"), ("run-1", 2, "c"), ("run-2", 1, "a4")]
    landing.mode = "replace"
    result = landing.land([order(9, {"s": "z"}), order(8)], run="run-3")
    assert landing.rows("items", "_parent_id", "s") == [(9, "z")]
    assert result.child_tables["items"].deleted == 4
    landing.land([order(8)], run="run-4")
    assert landing.rows("items") == []


@pytest.mark.parametrize("mode", ["merge", "append", "replace"])
def test_a_pull_of_nothing(orders, db, mode):
    landing = orders(mode=mode)
    landing.land([])
    assert not db.exists("items")
    landing.land([order(1)])
    assert list(db.types("items")) == ["_parent_id", "_position", "_extracted_at", "_run_id"]
    landing.land([order(1, {"s": "a"})], run="run-2", at=NOON + HOUR)
    landing.land([], run="run-3" if mode != "append" else "run-2", at=NOON + 2 * HOUR)
    assert len(landing.rows("items")) == (mode == "merge")


def test_columns_of_elements_evolve_as_those_of_records(orders, db):
    landing = orders({"items": "items"})
    landing.land([{"id": 1, "items": [{"n": 1, "b": True}]}])
    result = landing.land([{"id": 2, "items": [{"n": 1.5, "new": "x", "b": "no"}]}], run="run-2", at=NOON + HOUR)
    assert landing.rows("items", "_parent_id", "n", "b", "new") == [(1, 1.0, "true", None), (2, 1.5, "no", "x")]
    items = result.child_tables["items"]
    assert (items.columns_added, set(items.columns_widened)) == (("new",), {"n", "b"})
    assert db.types("items")["_parent_id"] == db.types("orders")["id"]
    # The parents' key becomes text, and their rows' with it, so that both still join.
    landing.land([{"id": "x", "items": []}], run="run-3", at=NOON + 2 * HOUR)
    landing.land([{"id": 1, "items": [{"n": 9}]}], run="run-4", at=NOON + 3 * HOUR)
    assert db.query("SELECT o.id, i.n FROM orders o JOIN items i ON i._parent_id = o.id ORDER BY 1") == [("1", 9.0), ("2", 1.5)]


def test_the_contract_of_a_table_holds_for_its_child_tables(orders):
    landing = orders({"items": "items"})
    landing.land([{"id": 1, "items": [{"n": 1}]}])
    drifted = [{"id": 1, "items": [{"n": 2, "new": "x"}]}]
    with pytest.raises(ContractError, match=r"items: .*'new'"):
        landing.land(drifted, run="run-2", at=NOON + HOUR, contract=Contract(new_columns=NewColumns.FAIL))
    assert landing.rows("items", "n") == [(1,)]
    # What is required is required of the records, not of the elements.
    contract = Contract(new_columns=NewColumns.IGNORE, type_changes=TypeChanges.FAIL, required_columns=("items",))
    result = landing.land(drifted, run="run-2", at=NOON + HOUR, contract=contract)
    assert result.child_tables["items"].columns_ignored == ("new",)
    assert landing.rows("items") == [{"_parent_id": 1, "_position": 0, "n": 2}]
    with pytest.raises(ContractError, match=r"items: .*'n'"):
        landing.land([{"id": 1, "items": [{"n": "two"}]}], run="run-3", at=NOON + 2 * HOUR, contract=contract)


@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_a_table_of_other_rows_is_refused(orders, db, mode):
    db.execute("CREATE TABLE items (sku BIGINT, name VARCHAR(20))", "INSERT INTO items VALUES (1, 'mine')")
    landing = orders({"items": "items"}, mode=mode)
    with pytest.raises(LandingError, match="items: the table has rows and no column '_parent_id', so it is no child table of"):
        landing.land([{"id": 1, "items": [{"sku": 1}]}])
    assert db.query("SELECT name FROM items") == [("mine",)]
    assert not db.exists("orders")
    db.execute("DELETE FROM items")
    landing.land([{"id": 1, "items": [{"sku": 1}]}])
    assert landing.rows("items", "_parent_id", "sku") == [(1, 1)]


def test_rows_of_another_primary_key_are_refused(orders):
    """They would stay beside the new ones, as rows of a parent that has no region."""
    orders({"items": "items"}).land([{"id": 1, "region": "x", "items": [1, 2]}])
    landing = orders({"items": "items"}, key=("id", "region"))
    with pytest.raises(LandingError, match=r"no column '_parent_region', so .* or was loaded with another primary key"):
        landing.land([{"id": 1, "region": "x", "items": [1, 2]}], run="run-2", at=NOON + HOUR)
    assert landing.rows("items", "_parent_id", "value") == [(1, 1), (1, 2)]


@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_a_list_that_no_record_has_any_more_takes_few_rows_along(orders, mode):
    tables = {"items": ChildTable("items", child_tables={"options": "options"})}
    guard = {"max_missing": ShrinkGuard(most="20%")}
    landing = orders(tables, mode=mode)
    landing.land([{"id": n, "items": [{"options": [1, 2]}]} for n in range(12)], **guard)
    without = {
        "items": [{"id": n, "renamed": []} for n in range(12)],
        "options": [{"id": n, "items": [{"renamed": []}]} for n in range(12)],
    }
    for table, rows in (("items", 12), ("options", 24)):
        with pytest.raises(ShrunkListError, match=f"{table}: no parent has anything at '{table}'.*: {rows} of {rows} known rows"):
            landing.land(without[table], run="run-2", at=NOON + HOUR, **guard)
    assert [len(landing.rows(table)) for table in ("items", "options")] == [12, 24]
    # Lists that are there and empty are what the API says.
    landing.land([{"id": n, "items": [{"options": []}]} for n in range(12)], run="run-3", at=NOON + 2 * HOUR, **guard)
    assert [len(landing.rows(table)) for table in ("items", "options")] == [12, 0]
    landing.land([{"id": n} for n in range(12)], run="run-4", at=NOON + 3 * HOUR, max_missing=ShrinkGuard(most="100%"))
    assert landing.rows("items") == []
    # A few rows may go.
    landing.land([{"id": n, "items": [1]} for n in range(10)], run="run-5", at=NOON + 4 * HOUR, **guard)
    landing.land([{"id": n} for n in range(10)], run="run-6", at=NOON + 5 * HOUR, **guard)
    assert landing.rows("items") == []


def test_members_that_are_named_as_the_tables_own_columns(orders):
    landing = orders({"items": "items"})
    element = {"_position": "p", "_parent_id": "i", "_parent_row": 5, "_extracted_at": "e", "_run_id": "r", "ID": 1, "id": 2}
    landing.land([{"id": 7, "items": [element]}])
    [row] = landing.rows("items", own=True)
    assert (row["_position"], row["_parent_id"], row["_run_id"]) == (0, 7, "run-1")
    assert (row["_element_position"], row["_element_parent_id"], row["_element_parent_row"]) == ("p", "i", 5)
    assert sorted(map(str, row.values()))[-4:] == sorted(["e", "i", "p", "r", "run-1", "7"])[-4:]
    assert sorted(value for name, value in row.items() if name.lower().startswith("id")) == [1, 2]


def test_several_columns_in_the_key_one_of_them_absent_on_a_page(orders):
    landing = orders({"items": "items"}, key=("tenant", "id"))
    landing.land([{"tenant": "a", "id": 1, "items": [1]}], [{"tenant": "b", "id": 1, "items": [2]}])
    landing.land([{"tenant": "a", "id": 1, "items": [3]}], run="run-2", at=NOON + HOUR)
    assert landing.rows("items", "_parent_tenant", "_parent_id", "value") == [("a", 1, 3), ("b", 1, 2)]


def test_parents_that_were_loaded_before_get_their_rows(orders):
    """The child table is new, and the parents are not."""
    orders({}).land([order(1, {"s": "a"}), order(2)])
    landing = orders()
    result = landing.land([order(1, {"s": "a"}), order(2)], run="run-2", at=NOON + HOUR)
    assert landing.rows("items", "_parent_id", "s") == [(1, "a")]
    assert (result.unchanged, result.updated) == (1, 1)


def test_damage_to_the_child_table_is_made_good(orders, db):
    landing = orders({"items": ChildTable("data.items", key="s")})
    landing.land([order(1, {"s": "a"}, {"s": "b"}), order(2, {"s": "c"})])
    db.execute(
        "UPDATE items SET _position = 9 WHERE s = 'a'", "DELETE FROM items WHERE s = 'c'",
    )  # fmt: skip
    landing.land([order(1, {"s": "a"}, {"s": "b"}), order(2, {"s": "c"})], run="run-2", at=NOON + HOUR)
    assert landing.rows("items", "_parent_id", "_position", "s") == [(1, 0, "a"), (1, 1, "b"), (2, 0, "c")]


def test_rows_of_other_parents_stay(orders):
    landing = orders()
    landing.land([order(1, {"s": "a"}), order(2, {"s": "b"})])
    landing.land([order(3, {"s": "c"})], run="run-2", at=NOON + HOUR)
    assert landing.rows("items", "_parent_id", "s") == [(1, "a"), (2, "b"), (3, "c")]


def test_nothing_is_written_where_a_child_table_fails(orders, db):
    landing = orders()
    landing.land([order(1, {"s": "a"})])
    db.execute("DROP TABLE items", "CREATE VIEW items AS SELECT 1 AS one")
    with pytest.raises(LandingError, match=r"items is (a view|not a table)"):
        landing.land([order(1, {"s": "b"}, more=1)], run="run-2", at=NOON + HOUR)
    assert [row["data"] for row in landing.rows("orders")] == ['{"items": [{"s": "a"}]}']
    assert "more" not in db.types("orders")


def test_a_path_that_leads_nowhere_is_named(orders, caplog):
    landing = orders({"items": ChildTable("data.itmes", child_tables={"deep": "x"}), "tags": ChildTable("tags"), "data": "data"})
    landing.land([order(1, {"s": "a"}, tags=None)])
    assert landing.last.not_found == ("items",)
    assert "child_tables= reads 'items' from 'data.itmes'" in caplog.text
    assert landing.rows("data", "_parent_id", "_position") == [(1, 0)]


def test_a_checkpoint_that_lost_its_child_tables_starts_the_pull_over(tmp_path, file_database, caplog):
    landing = Orders(db=file_database("sqlite", folder=tmp_path), folder=tmp_path, tables=ITEMS)
    pages = [[order(number, {"s": number})] for number in range(3)]
    landing.pull(*pages)
    saved = landing.store.stored
    assert len(saved["children"][0]["parts"]) == 3
    for damaged in ({**saved, "children": []}, {name: value for name, value in saved.items() if name != "children"}):
        _, manifest = landing.pull(*pages, stored=damaged)
        assert manifest.child_tables[0].rows == 3
        assert "it lacks child tables" in caplog.text
        caplog.clear()


def test_too_many_members(orders):
    with pytest.raises(RecordError, match=r"child table 'items'.*different keys"):
        orders(max_columns=20).land([order(1, {f"k{number}": 1 for number in range(30)})])


SCAN = {"full_scan": True, "scope": Scope(digest="a" * 16, text="orders", task="sync/orders"), "on_missing": OnMissing.DELETE}


def test_deleted_parents_take_their_rows_along(orders, db):
    if db.name == "standard":
        pytest.skip("no rows are marked or deleted in a database that does not serialize loads")
    landing = orders({"items": ChildTable("items", child_tables={"options": "options"})})
    first, second = ({"id": n, "items": [{"s": n, "options": [n, n]}, {"s": n}]} for n in (1, 2))
    landing.land([first, second], run="sync/orders/1", **SCAN)
    result = landing.land([second], run="sync/orders/2", at=NOON + HOUR, **SCAN)
    assert result.deleted == 1
    assert {table: one.deleted for table, one in result.child_tables.items()} == {"items": 2, "options": 2}
    assert landing.rows("items", "_parent_id", "_position") == [(2, 0), (2, 1)]
    assert landing.rows("options", "_parent_parent_id", "value") == [(2, 2), (2, 2)]
    # An older pull brings none of them back.
    landing.land([first, second], run="sync/orders/0", at=NOON + HOUR / 2, **SCAN)
    assert landing.rows("items", "_parent_id", "_position") == [(2, 0), (2, 1)]
    # The key becomes text in the pull that deletes.
    third = {"id": "x", "items": [5]}
    landing.land([third], run="sync/orders/3", at=NOON + 2 * HOUR, **SCAN)
    assert landing.rows("items", "_parent_id", "value") == [("x", 5)]
    assert landing.rows("options") == []
    landing.land([], run="sync/orders/4", at=NOON + 3 * HOUR, **SCAN)
    assert landing.rows("orders") == landing.rows("items") == []


def test_rows_of_a_marked_parent_stay(orders, db):
    if db.name == "standard":
        pytest.skip("no rows are marked or deleted in a database that does not serialize loads")
    landing = orders()
    mark = {**SCAN, "on_missing": OnMissing.MARK}
    landing.land([order(1, {"s": "a"}), order(2)], run="sync/orders/1", **mark)
    assert landing.land([order(2)], run="sync/orders/2", at=NOON + HOUR, **mark).marked == 1
    assert landing.rows("items", "_parent_id", "s") == [(1, "a")]
    landing.land([order(1), order(2)], run="sync/orders/3", at=NOON + 2 * HOUR, **mark)
    assert landing.rows("items") == []


_ITEM = st.one_of(st.integers(0, 3), st.sampled_from(["a", "b"]), st.fixed_dictionaries({"sku": st.integers(0, 2)}))


@given(data=st.data())
@settings(max_examples=examples(25))
def test_the_newest_version_decides_whatever_the_order_of_the_loads(tmp_path_factory, file_database, data):
    """Versions of few records, in pulls that are loaded in any order, some twice: the rows are those of the newest versions."""
    folder = tmp_path_factory.mktemp("model")
    db = file_database(data.draw(st.sampled_from(["duckdb", "sqlite"])), folder=folder)
    dropped = data.draw(st.sampled_from([(), ("items",)]))
    landing = Orders(db=db, folder=folder, tables={"items": "items"}, time="at", dropped=dropped, part_rows=2)
    versions = {
        (key, number): data.draw(st.lists(_ITEM, max_size=3)) for key in range(3) for number in range(3)
    }  # fmt: skip
    record = lambda key, number: {"id": key, "at": f"2024-01-0{number + 1}T00:00:00Z", "items": versions[key, number]}  # noqa: E731
    pulls = data.draw(st.lists(st.lists(st.sampled_from(sorted(versions)), min_size=1, max_size=4), min_size=1, max_size=4))
    loads = data.draw(st.permutations([*range(len(pulls)), *data.draw(st.lists(st.sampled_from(range(len(pulls))), max_size=2))]))
    for number in loads:
        pages = [[record(*version) for version in pulls[number][at : at + 2]] for at in range(0, len(pulls[number]), 2)]
        landing.land(*pages, run=f"run-{number}", at=NOON + number * HOUR)
    newest = {key: max(version for pull in pulls for other, version in pull if other == key) for pull in pulls for key, _ in pull}
    expected = [
        (key, position, None if isinstance(item, dict) else str(item), item["sku"] if isinstance(item, dict) else None)
        for key, number in newest.items()
        for position, item in enumerate(versions[key, number])
    ]
    found = landing.rows("items")
    assert sorted(
        (row["_parent_id"], row["_position"], None if row.get("value") is None else str(row["value"]), row.get("sku"))
        for row in found
    ) == sorted(expected)
