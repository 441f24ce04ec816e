# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows with one key, of which one is loaded: no row of its own is lost without a word."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.landed import duck

ORDERS = [
    {
        "id": f"o{number}",
        "customer": f"c{number % 2}",
        "total": 1,
        "lines": [1, 2, 3],
        "modified": f"2026-01-0{number + 1}T00:00:00Z",
    }
    for number in range(4)
]
DAG = """
import json
def exploded(frame):
    return frame.assign(line=[json.loads(text) for text in frame["lines"]]).explode("line")
def sums(frame):
    return frame.groupby("customer", as_index=False)["total"].sum()
usual = dict(resource="orders", sql_conn_id="duck", page_size=2, part_rows=2, retries=0)
for mode in ("append", "history"):
    LimioToSqlOperator(task_id=f"{mode}_lost", table=f"{mode}_lost", mode=mode, transform=exploded, **usual)
LimioToSqlOperator(task_id="lines", table="lines", primary_key=["id", "line"], transform=exploded, **usual)
LimioToSqlOperator(task_id="all", table="all_lines", mode="replace", primary_key=[], transform=exploded, **usual)
LimioToSqlOperator(task_id="finer", table="finer", primary_key=["customer", "id"], **usual)
LimioToSqlOperator(task_id="newest", table="newest", primary_key="customer", **usual)
LimioToSqlOperator(task_id="sums", table="sums", primary_key="customer", transform=sums, **usual)
"""
SIGKILL = -9
LEFT_OUT = "orders: 2 of 4 rows have the same customer as a newer row of this pull, and were left out. A record of this list is "


def test_rows_with_one_key(home: Any, limio_emulator: Any, tmp_path: Any) -> None:
    limio_emulator.put_records("objects/limio/orders", ORDERS)
    home.write_dag(DAG)
    done = home.run()
    output = home.output()
    for mode in ("append", "history"):
        assert done.task(f"{mode}_lost")["state"] == "failed"
    assert output.count("transform returned 4 rows more than it was given with the key of another row (id)") == 2
    for table, count in (("lines", 12), ("all_lines", 12), ("finer", 4), ("newest", 2), ("sums", 2)):
        assert duck(tmp_path / "warehouse.duckdb", f"SELECT count(*) FROM {table}") == [(count,)], output[-3000:]
    assert output.count(LEFT_OUT) == 2
    assert output.count("And transform= gets one part at a time") == 1


@pytest.mark.needs_state_store
def test_parts_are_checked_again_with_another_key(home: Any, limio_emulator: Any) -> None:
    limio_emulator.put_records("objects/limio/orders", ORDERS)
    functions = DAG.partition("usual =")[0]
    task = "LimioToSqlOperator(task_id='lines', resource='orders', sql_conn_id='duck', table='lines', page_size=1, part_rows=1, "
    home.write_dag(f"{functions}\n{task}transform=exploded, primary_key=['id', 'line'])")
    assert home.attempt("lines", kill=["after state", 2]).code == SIGKILL
    home.write_dag(f"{functions}\n{task}transform=exploded, primary_key='id')")
    assert home.attempt("lines").task("lines")["state"] == "failed"
    assert "What differs: primary_key" in home.output()


def test_keys_with_half_a_surrogate_pair(home: Any, limio_emulator: Any, tmp_path: Any) -> None:
    limio_emulator.put_records("custom/things", [rb'{"id":"x\ud800","v":1}', rb'{"id":"x\ud801","v":"\udc00"}'])
    home.write_dag(
        f"""
        things = Resource(name="things", path="/custom/things", primary_key=("id",))
        LimioToSqlOperator(task_id="load", resource=things, sql_conn_id="duck", table="things", primary_key=["id"])
        LimioToSqlOperator(task_id="all", resource=things, sql_conn_id="duck", table="all_things", mode="append", primary_key=[])
        LimioToObjectStorageOperator(task_id="files", resource=things, destination="file://{tmp_path}/files")
        """
    )
    done = home.run()
    states = {task: done.task(task)["state"] for task in ("load", "all", "files")}
    assert states == {"load": "failed", "all": "success", "files": "success"}
    assert "2 records have half a surrogate pair in 'id', which belongs to the primary key" in home.output()
    assert duck(tmp_path / "warehouse.duckdb", "SELECT id, v FROM all_things ORDER BY v") == [
        ("x\ufffd", "1"),
        ("x\ufffd", "\ufffd"),
    ]
