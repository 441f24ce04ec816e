# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What OpenLineage is told, by its own provider, of real task runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.lineage import HookLineageCollector

from limio_limitrail.hooks.limio import LimioHook
from limio_limitrail.observability import lineage as flow
from limio_limitrail.observability.lineage import LineageDataset, folder_dataset, list_dataset
from tests.support.airflow_home import environment

pytest.importorskip("airflow.providers.openlineage")


def told(home, emulator, *, dag_id: str = "pull", **more: str) -> list[dict[str, Any]]:
    """Run a Dag in a process of its own, and give what was told of its tasks."""
    events = home.path / "events.jsonl"
    settings = {
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(events), "append": True}),
        "AIRFLOW_CONN_LIMIO_DEFAULT": emulator.airflow_connection_json(),
        "AIRFLOW_CONN_LIMITRAIL_DEFAULT": emulator.limitrail_connection_json(),
        **more,
    }
    command = [sys.executable, "-m", "airflow", "dags", "test", dag_id]
    done = subprocess.run(command, env=environment(home.path, settings), capture_output=True, text=True, timeout=600)
    (home.path / "output.log").write_text(done.stdout + done.stderr)
    return [json.loads(line) for line in events.read_text().splitlines()] if events.exists() else []


def of_task(events: list[dict[str, Any]], name: str, kind: str) -> dict[str, Any]:
    [event] = [event for event in events if event["job"]["name"] == name and event["eventType"] == kind]
    return event


def places(datasets: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["namespace"], one["name"]) for one in datasets]


@pytest.mark.exhaustive
def test_pulls_and_commits_tell_what_flows(make_home, limio_emulator, postgres_connection, tmp_path: Path):
    warehouse = {"conn_type": "postgres", **postgres_connection}
    home = make_home(limio_emulator)
    limio_emulator.limitrail.add_accounts(["acme-1"])
    limio_emulator.put_records("objects/limio/orders", [{"id": f"order-{n}", "items": [{"sku": 1}] * 2} for n in range(7)])
    limio_emulator.put_records("objects/limio/customers", [{"id": f"cus-{n}", "name": "secret name"} for n in range(3)])
    home.write_dag(
        f"""
        LimioToSqlOperator(task_id="duck", resource="orders", sql_conn_id="duck", table="orders")
        LimioToSqlOperator(
            task_id="post", resource="orders", sql_conn_id="post", table="public.orders",
            child_tables={{"Order_Items": "items", "public.none": "nothing"}},
        )
        LimioToObjectStorageOperator(task_id="files", resource="customers", destination="file://{tmp_path}/lake")
        LimioToSqlOperator(
            task_id="bad", resource="orders", sql_conn_id="lite", table="orders", nested_columns={{"id": "data.x"}}
        )
        LimitRailCommitUsageOperator(
            task_id="usage",
            sql_conn_id="lite",
            ledger_table="ledger",
            rows=[{{"id": "one", "account": "acme-1"}}],
            key_columns=["id"],
            body={{"externalAccount": Column("account"), "operation": "API_CALL", "amount": 1}},
        )
        """
    )
    events = told(
        home,
        limio_emulator,
        AIRFLOW_CONN_DUCK=json.dumps({"conn_type": "duckdb", "host": str(tmp_path / "w.duckdb")}),
        AIRFLOW_CONN_LITE=json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "w.sqlite")}),
        AIRFLOW_CONN_POST=json.dumps(warehouse),
    )
    host = limio_emulator.url.removeprefix("http://")
    source = (f"limio://{host}", "orders")

    duck = of_task(events, "pull.duck", "COMPLETE")
    assert places(duck["inputs"]) == [source]
    assert places(duck["outputs"]) == [(f"duckdb://{tmp_path}/w.duckdb", "orders")]
    [table] = duck["outputs"]
    assert table["outputFacets"]["outputStatistics"]["rowCount"] == 7
    fields = {field["name"]: field["type"] for field in table["facets"]["schema"]["fields"]}
    assert {"id", "items"} <= set(fields)

    post = of_task(events, "pull.post", "COMPLETE")
    namespaces, names = zip(*places(post["outputs"]), strict=True)
    assert namespaces[0].startswith("postgres://")
    assert len(set(namespaces)) == 1
    assert names == tuple(f"{postgres_connection['schema']}.public.{table}" for table in ("orders", "order_items", "none"))
    rows = [output["outputFacets"]["outputStatistics"]["rowCount"] for output in post["outputs"]]
    assert rows == [7, 14, 0]
    assert [field["name"] for field in post["outputs"][1]["facets"]["schema"]["fields"]] == ["_parent_id", "_position", "sku"]

    files = of_task(events, "pull.files", "COMPLETE")
    assert places(files["inputs"]) == [(f"limio://{host}", "customers")]
    assert places(files["outputs"]) == [("file", f"{tmp_path}/lake/customers/pull.files")]
    statistics = files["outputs"][0]["outputFacets"]["outputStatistics"]
    assert (statistics["rowCount"], statistics["fileCount"]) == (3, 1)
    assert statistics["size"] > 0

    bad = of_task(events, "pull.bad", "FAIL")
    assert places(bad["inputs"]) == [source]
    assert places(bad["outputs"]) == [(f"sqlite://{tmp_path}/w.sqlite", "orders")]
    assert "RecordError" in bad["run"]["facets"]["errorMessage"]["stackTrace"]

    usage = of_task(events, "pull.usage", "COMPLETE")
    assert places(usage["outputs"]) == [(f"limitrail://{host}", "usage"), (f"sqlite://{tmp_path}/w.sqlite", "ledger")]
    assert usage["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 1

    text = json.dumps(events)
    for hidden in (limio_emulator.client_secret, *limio_emulator.minted_tokens, "secret name"):
        assert hidden not in text


@pytest.mark.exhaustive
def test_where_it_is_not_set_up_nothing_is_looked_up(home, limio_emulator, monkeypatch):
    for name in ("AIRFLOW__OPENLINEAGE__TRANSPORT", "OPENLINEAGE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert not flow.is_lineage_wanted()


def test_where_it_is_not_installed_it_is_silent(monkeypatch):
    monkeypatch.setitem(sys.modules, "airflow.providers.openlineage", None)
    assert not flow.is_lineage_wanted()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> HookLineageCollector:
    found = HookLineageCollector()
    monkeypatch.setattr("airflow.providers.common.compat.lineage.hook.get_hook_lineage_collector", lambda: found)
    return found


@pytest.mark.parametrize(
    "read",
    [
        lambda hook: hook.get_df("orders"),
        lambda hook: list(hook.iter_records("orders")),
        lambda hook: list(hook.iter_pages("orders")),
    ],
    ids=["get_df", "iter_records", "iter_pages"],
)
def test_what_a_hook_reads_is_an_asset(collector, limio_emulator, monkeypatch, read: Callable[[LimioHook], Any]):
    monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", limio_emulator.airflow_connection_json())
    read(LimioHook())
    [info] = collector.collected_assets.inputs
    assert info.asset.uri == f"limio://{limio_emulator.url.removeprefix('http://')}/orders"


def test_a_collector_that_fails_fails_nobody(limio_emulator, monkeypatch, caplog):
    def fails() -> Any:
        raise RuntimeError

    monkeypatch.setattr("airflow.providers.common.compat.lineage.hook.get_hook_lineage_collector", fails)
    monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", limio_emulator.airflow_connection_json())
    assert list(LimioHook().iter_records("orders", page_size=1000))


def test_places():
    from airflow.sdk import ObjectStoragePath

    assert list_dataset(scheme="limio", base_url="https://Acme.prod.limio.com/api", resource="orders") == LineageDataset(
        namespace="limio://acme.prod.limio.com", name="orders"
    )
    assert folder_dataset(ObjectStoragePath("file:///lake/orders")) == LineageDataset(namespace="file", name="/lake/orders")
    assert folder_dataset(ObjectStoragePath("memory://bucket/lake")) == LineageDataset(namespace="memory://bucket", name="lake")
