# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A task that loads a table has Arrow return what it has freed to the system."""

from __future__ import annotations

import duckdb

TASK = """
import pyarrow as pa

def note_pool(frame):
    return frame.assign(pool=pa.default_memory_pool().backend_name)

LimioToSqlOperator(task_id="load", resource="subscriptions", sql_conn_id="duck", table="subs", transform=note_pool)
"""


def test_the_pool_of_a_load(home, tmp_path):
    home.write_dag(TASK)
    assert home.run().task("load")["state"] == "success"
    with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT DISTINCT pool FROM subs").fetchall() == [("system",)]
