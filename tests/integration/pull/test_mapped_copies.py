# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Mapped copies that load one table do not delete each other's rows."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.landed import duck

DAG = """
from airflow.sdk import task, task_group
usual = dict(sql_conn_id="duck", mode="replace", retries=0)
partial = LimioToSqlOperator.partial
@task
def two():
    return ["customers", "events"]
@task
def tables():
    return [{"resource": name, "table": f"named_{name}"} for name in ("customers", "events")]
both = ["customers", "events"]
partial(task_id="lists", table="shared", **usual).expand(resource=both)
partial(task_id="dicts", table="shared", **usual).expand_kwargs([{"resource": name} for name in both])
partial(task_id="later", table="shared", **usual).expand(resource=two())
LimioToDltOperator.partial(
    task_id="dlt", table="shared", destination="duckdb", destination_conn_id="duck", dataset="d", mode="replace"
).expand(resource=both)
partial(task_id="one", table="one", **usual).expand(resource=["customers"])
partial(task_id="own", **usual).expand_kwargs([{"resource": name, "table": f"own_{name}"} for name in both])
partial(task_id="named", **usual).expand_kwargs(tables())
partial(task_id="template", table="{{ task.resource }}", **usual).expand(resource=both)
partial(task_id="merged", table="merged", sql_conn_id="duck").expand(resource=both)
@task_group
def group(table):
    LimioToSqlOperator(task_id="grouped", resource="customers", table=table, **usual)
group.expand(table=["group_a", "group_b"])
"""
REFUSED = ["lists", "dicts", "later", "dlt"]


@pytest.mark.exhaustive
def test_replace_by_mapped_copies(home: Any, limio_emulator: Any, tmp_path: Any) -> None:
    for number, name in enumerate(("customers", "events")):
        limio_emulator.put_records(f"objects/limio/{name}", [{"id": f"{number}-{row}"} for row in range(5)])
    home.write_dag(DAG)
    done = home.run()
    output = home.output()
    failed = {name for name, task in done.result["tasks"].items() if task["state"] == "failed"}
    assert failed == {f"{name}[{index}]" for name in REFUSED for index in (0, 1)}
    assert output.count("each of them would delete the rows of the others") >= 8
    for table, count in (("own_events", 5), ("named_events", 5), ("events", 5), ("merged", 10), ("group_a", 5), ("one", 5)):
        assert duck(tmp_path / "warehouse.duckdb", f"SELECT count(*) FROM {table}") == [(count,)]
