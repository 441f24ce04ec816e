# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The links that Airflow shows beside a task: where they lead, however the task has ended."""

from __future__ import annotations

import json
import re
import sqlite3
from urllib.parse import parse_qs, urlsplit

import pytest

TASKS = """
    LimioToSqlOperator(task_id="pull", resource="orders", sql_conn_id="lite", table="orders")
    LimioToObjectStorageOperator(task_id="files", resource="customers", destination="file://{folder}/lake")
    LimitRailToObjectStorageOperator(
        task_id="runtime", resource="usage", destination="file://{folder}/lake",
        since="2026-01-01T00:00:00Z", until="2026-01-02T00:00:00Z",
    )
    LimioObjectSensor(task_id="object", path_type="orders", object_id="order-1", timeout=20, poke_interval=1)
    LimioResourceSensor(task_id="list", resource="orders", timeout=20, poke_interval=1)
    LimioToSqlOperator(task_id="lost", limio_conn_id="nowhere", resource="orders", sql_conn_id="lite", table="orders")
    LimitRailCommitUsageOperator(
        task_id="usage",
        sql_conn_id="lite",
        ledger_table="ledger",
        rows=[{{"id": "one", "account": "acme-1"}}, {{"id": "two", "account": "nobody's"}}],
        key_columns=["id"],
        body={{"externalAccount": Column("account"), "operation": "API_CALL", "amount": 1}},
    )
    LimitRailCommitUsageOperator.partial(
        task_id="shards", sql_conn_id="lite", ledger_table="ledger", key_columns=["id"],
        body={{"externalAccount": Column("account"), "operation": "API_CALL", "amount": 1}},
    ).expand(rows=[[{{"id": "three", "account": "acme-1"}}], [{{"id": "four", "account": "acme-1"}}]])
    LimitRailCommitUsageOperator(
        task_id="early", sql_conn_id="lite", key_columns=["id"], rows=[{{"id": "five"}}], body={{}}, concurrency=1000,
    )
"""


def xcoms(home) -> dict[str, dict[str, str]]:
    """All that tasks have left in Airflow's database, by task and key."""
    found: dict[str, dict[str, str]] = {}
    database = sqlite3.connect(home.path / "airflow.db")
    for task, index, key, value in database.execute("SELECT task_id, map_index, key, value FROM xcom"):
        found.setdefault(task if index < 0 else f"{task}[{index}]", {})[key] = json.loads(value)
    database.close()
    return found


def with_pages(text: str, **pages: str) -> str:
    fields = json.loads(text)
    extra = fields.get("extra") or {}
    fields["extra"] = {**(json.loads(extra) if isinstance(extra, str) else extra), "pages": pages}
    return json.dumps(fields)


def fill(emulator) -> None:
    emulator.limitrail.add_accounts(["acme-1"])
    emulator.put_records("objects/limio/orders", [{"id": "order-1", "status": "active"}])
    emulator.put_records("objects/limio/customers", [{"id": "cus-1"}])


def ask(tmp_path, query: str) -> list[tuple[str, str]]:
    """Run the query that a task has left; give keys and states."""
    database = sqlite3.connect(tmp_path / "warehouse.sqlite")
    database.row_factory = sqlite3.Row
    rows = [(json.loads(row["row_key"])["id"], row["state"]) for row in database.execute(query)]
    database.close()
    return rows


@pytest.mark.exhaustive
def test_without_pages_of_ones_own_links_lead_to_the_front_and_to_the_query(make_home, limio_emulator, tmp_path):
    home = make_home(limio_emulator)
    fill(limio_emulator)
    home.write_dag(TASKS.format(folder=tmp_path))
    run = home.run().result
    left = xcoms(home)
    app, console = f"{limio_emulator.url}/", f"{limio_emulator.url}/developer-console"
    for task in ("pull", "files", "object", "list"):
        assert left[task]["_link_LimioAppLink"] == app, task
    for task in ("runtime", "usage", "shards[0]", "early"):
        assert left[task]["_link_LimitRailConsoleLink"] == console, task

    assert run["tasks"]["lost"]["state"] == "failed"
    assert left["lost"]["_link_LimioAppLink"] == ""
    assert run["tasks"]["early"]["state"] == "failed"
    assert left["early"]["_link_LedgerQueryLink"] == ""

    assert run["tasks"]["usage"]["state"] == "failed"
    assert ask(tmp_path, left["usage"]["ledger_query"]) == [("one", "committed"), ("two", "rejected")]
    assert ask(tmp_path, left["shards[0]"]["ledger_query"]) == [("three", "committed")]
    page = urlsplit(left["usage"]["_link_LedgerQueryLink"])
    assert page.path.endswith("/tasks/usage/xcom")
    assert page.path.startswith("/dags/pull/runs/")
    assert urlsplit(left["shards[1]"]["_link_LedgerQueryLink"]).path.endswith("/tasks/shards/mapped/1/xcom")
    assert "Failed to push an xcom" not in home.output()


@pytest.mark.exhaustive
def test_links_lead_to_the_pages_that_the_connections_name(make_home, limio_emulator, tmp_path):
    home = make_home(
        limio_emulator,
        limio_default=with_pages(
            limio_emulator.airflow_connection_json(),
            orders="/orders/{id}",
            customers="https://crm.example.com/{resource}?all=1",
            **{"*": "/lists/{resource}"},
        ),
        limitrail_default=with_pages(
            limio_emulator.limitrail_connection_json(),
            ledger="https://sql.example.com/new?db=billing&q={query}&run={run_id}",
            usage="https://console.example.com/usage",
        ),
    )
    fill(limio_emulator)
    home.write_dag(TASKS.format(folder=tmp_path))
    home.run()
    left = xcoms(home)
    base = limio_emulator.url
    assert left["object"]["_link_LimioAppLink"] == f"{base}/orders/order-1"
    # A list has no id: its own page cannot be filled in.
    assert left["pull"]["_link_LimioAppLink"] == f"{base}/lists/orders"
    assert left["files"]["_link_LimioAppLink"] == "https://crm.example.com/customers?all=1"
    assert left["runtime"]["_link_LimitRailConsoleLink"] == "https://console.example.com/usage"
    assert left["usage"]["_link_LimitRailConsoleLink"] == f"{base}/developer-console"
    page = parse_qs(urlsplit(left["usage"]["_link_LedgerQueryLink"]).query)
    assert page["q"] == [left["usage"]["ledger_query"]]
    assert page["db"] == ["billing"]


def test_a_failure_leads_to_the_page_that_explains_it(home, tmp_path):
    home.write_dag('LimioToSqlOperator(task_id="pull", resource="no such", sql_conn_id="lite", table="t")')
    home.run()
    assert re.search(r"More: file:///\S+/docs/how-to/troubleshooting\.md#parametererror", home.output())
    home.forget_output()
    home.set("AIRFLOW__LIMIO_LIMITRAIL__DOCS_URL", "https://docs.example.com/limio")
    home.run()
    assert "More: https://docs.example.com/limio/how-to/troubleshooting.html#parametererror" in home.output()
