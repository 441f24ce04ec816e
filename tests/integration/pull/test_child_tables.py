# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Child tables in whole tasks: killed tries, parameters that do not fit, and watermarks."""

from __future__ import annotations

import json

import pytest

from tests.support.landed import duck, duck_rows

LIST = "/api/objects/limio/orders"
STEPS = [("half a part", 2), ("after child part", 4), ("after state", 2), ("after reading", 4), ("after load", 1)]
LOAD = """
    from limio_limitrail.transfers import ChildTable
    LimioToSqlOperator(
        task_id="load", resource="orders", sql_conn_id="duck", table="orders", page_size=4, part_rows=8,
        child_tables={
            "order_items": ChildTable("data.orderItems", key="sku", child_tables={"options": ChildTable("options")}),
            "tags": {"path": ["data", "tags"]},
        },
    )
"""


def orders(round_):
    """Give 30 orders whose lists differ from round to round."""
    return [
        {
            "id": f"o{number:02}",
            "updated": "2026-10-01T00:00:00Z",
            "data": {
                "orderItems": [
                    {"sku": item, "price": 0.1 * item, "options": list(range((number + round_) % 3))}
                    for item in range((number + round_) % 4)
                ],
                "tags": None if number % 5 else f"round {round_}",
            },
        }
        for number in range(30)
    ]


def expected(records):
    items = [(one["id"], item["sku"]) for one in records for item in one["data"]["orderItems"]]
    options = [
        (one["id"], item["sku"], at)
        for one in records
        for item in one["data"]["orderItems"]
        for at in range(len(item["options"]))
    ]  # fmt: skip
    tags = [(one["id"], one["data"]["tags"]) for one in records if one["data"]["tags"]]
    return items, options, tags


@pytest.mark.needs_state_store
@pytest.mark.exhaustive
def test_a_killed_load_is_made_good(home, limio_emulator, tmp_path):
    home.write_dag(LOAD)
    warehouse = tmp_path / "warehouse.duckdb"
    for number, (step, count) in enumerate(STEPS):
        limio_emulator.put_records("objects/limio/orders", orders(number))
        killed = home.attempt("load", run_id=f"run-{number}", kill=[step, count])
        assert killed.code == -9, step
        again = home.attempt("load", run_id=f"run-{number}").task("load")
        assert again["state"] == "success", (step, [line for line in home.output().splitlines() if "rror" in line][-8:])
        items, options, tags = expected(orders(number))
        assert sorted(duck(warehouse, "SELECT _parent_id, sku FROM order_items")) == items, step
        found = duck(warehouse, "SELECT _parent_parent_id, _parent_sku, _position FROM options")
        assert sorted(found) == options, step
        assert sorted(duck(warehouse, "SELECT _parent_id, value FROM tags")) == tags, step
        assert again["xcom"]["child_tables"]["order_items"]["rows"] == len(items), step
        assert [path for path in (home.path / "tmp").rglob("*") if path.is_file()] == [], step
    # A retry with other child tables is another pull, although all of the first one's parts are there.
    assert home.attempt("load", run_id="last", kill=["before load", 1]).code == -9
    home.write_dag(LOAD.replace('"tags"]', '"orderItems"]'))
    limio_emulator.counters.reset()
    assert home.attempt("load", run_id="last").task("load")["state"] == "success"
    assert sum(entry["path"] == LIST for entry in limio_emulator.counters.log) == 8
    assert "What differs: child tables" in home.output()


WRONG = {
    "no_path": ({"child_tables": {"items": {"key": "sku"}}}, "child_tables['items'] must be ChildTable(path)"),
    "empty_path": ({"child_tables": {"items": "data..items"}}, "child_tables['items'] must be ChildTable(path)"),
    "unknown": ({"child_tables": {"items": {"path": "a", "keys": "b"}}}, "child_tables['items'] has no 'keys'"),
    "no_mapping": ({"child_tables": ["items"]}, "child_tables must be a mapping of names to values"),
    "inner": (
        {"child_tables": {"items": {"path": "a", "child_tables": {"deep": {"path": ""}}}}},
        "child_tables['items'].child_tables['deep'] must be ChildTable(path)",
    ),
    "no_key": ({"primary_key": [], "mode": "append", "child_tables": {"items": "a"}}, "child_tables needs a primary key"),
    "transform": ({"transform": "json.loads", "child_tables": {"items": "a"}}, "cannot be combined with transform"),
    "twice": (
        {"child_tables": {"items": {"path": "a", "child_tables": {"items": "b"}}}},
        "child_tables names the table 'items' twice",
    ),
    "parent": ({"child_tables": {"ORDERS": "a"}}, "child_tables['ORDERS']: the table is the same as 'orders'"),
    "one_table": ({"child_tables": {"items": "a", "main.items": "b"}}, "child_tables['main.items']: there is no schema"),
    "clash": (
        {
            "primary_key": ["id"],
            "child_tables": {"items": {"path": "a", "key": "parent_id", "child_tables": {"deep": "b"}}},
        },
        "two of which have one name",
    ),
    "name": ({"child_tables": {"a.b.c": "x"}}, "child_tables['a.b.c']: 'a.b.c' has 3 parts"),
}


def test_what_does_not_fit_ends_the_task_before_the_first_request(home, limio_emulator):
    home.write_dag(
        "\n".join(
            f"LimioToSqlOperator(task_id={name!r}, resource='orders', sql_conn_id='duck', table='orders', retries=2, "
            f"retry_delay=NOW, **{more!r})"
            for name, (more, _) in WRONG.items()
            if name != "one_table"
        )
    )
    limio_emulator.counters.reset()
    done = home.run()
    output = home.output()
    for name, (_, said) in WRONG.items():
        if name != "one_table":
            assert (done.task(name)["state"], done.task(name)["tries"]) == ("failed", 1), name
            assert said in output, name
    assert limio_emulator.counters.requests == 0


def basket(name, *items):
    return {"id": name, "created": f"2026-02-0{name[1:]}T00:00:00Z", "items": list(items)}


@pytest.mark.needs_state_store
def test_a_child_table_that_is_new_or_gone_is_filled_from_the_start(home, limio_emulator, tmp_path):
    load = """
    LimioToSqlOperator(
        task_id="load", resource="abandoned_baskets", sql_conn_id="duck", table="baskets", incremental=True,
        outlets=[Asset("baskets")], since="2026-01-01", overlap="PT0S", {},
    )
    """
    warehouse = tmp_path / "warehouse.duckdb"
    limio_emulator.put_records("checkout/abandoned", [basket("b1", 1), basket("b2", 2)])
    home.write_dag(load.format("drop_columns=['nothing']"))
    assert home.attempt("load", run_id="r1").task("load")["state"] == "success"
    home.write_dag(load.format("child_tables={'basket_items': 'items'}"))
    rows = home.attempt("load", run_id="r2").task("load")["xcom"]
    assert (rows["rows"], rows["child_tables"]["basket_items"]["inserted"]) == (2, 2)
    assert "the child table basket_items is not there" in rows["reason"]
    assert sorted(duck(warehouse, "SELECT _parent_id, value FROM basket_items")) == [("b1", 1), ("b2", 2)]
    limio_emulator.put_records("checkout/abandoned", [basket("b1", 1), basket("b2", 2), basket("b3")])
    again = home.attempt("load", run_id="r3").task("load")["xcom"]
    assert again["rows"] < 3
    assert "is not there" not in again["reason"]
    assert len(duck_rows(warehouse, "basket_items")) == 2


@pytest.mark.needs_state_store
def test_a_child_table_that_is_new_doubles_no_appended_row(home, limio_emulator, tmp_path):
    load = """
    LimioToSqlOperator(
        task_id="load", resource="abandoned_baskets", sql_conn_id="duck", table="baskets", incremental=True, mode="append",
        outlets=[Asset("baskets")], since="2026-01-01", overlap="PT0S", {},
    )
    """
    limio_emulator.put_records("checkout/abandoned", [basket("b1", 1), basket("b2", 2)])
    home.write_dag(load.format("drop_columns=['nothing']"))
    assert home.attempt("load", run_id="r1").task("load")["state"] == "success"
    limio_emulator.put_records("checkout/abandoned", [basket("b1", 1), basket("b2", 2), basket("b3", 3)])
    home.write_dag(load.format("child_tables={'basket_items': 'items'}"))
    for run_id in ("r2", "r3"):
        assert home.attempt("load", run_id=run_id).task("load")["xcom"]["since"] > "2026-02-01"
    # Where the list is asked from, its record comes once more.
    counts = duck(tmp_path / "warehouse.duckdb", "SELECT id, count(*) FROM baskets GROUP BY id ORDER BY id")
    assert counts == [("b1", 1), ("b2", 2), ("b3", 2)]
    assert home.output().count("before have no child rows") == 1


def test_the_summary_and_the_manifest_have_nothing_of_child_tables_without_them(home, limio_emulator, place):
    limio_emulator.put_records("objects/limio/orders", orders(0))
    home.write_dag(
        f"""
        LimioToSqlOperator(task_id="load", resource="orders", sql_conn_id="duck", table="orders")
        LimioToObjectStorageOperator(task_id="land", resource="orders", destination="{place.url}")
        """
    )
    done = home.run()
    assert "child_tables" not in done.task("load")["xcom"]
    [manifest] = place.names("/manifest.json")
    assert "child_tables" not in json.loads(place.read(manifest))
