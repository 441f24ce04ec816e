# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Every example Dag runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import psycopg
import pytest

from limio_limitrail.emulator import EmulatorServer

if TYPE_CHECKING:
    from tests.support.airflow_home import AirflowHome

EXAMPLES = Path(__file__).resolve().parents[2] / "dags_examples"
DAG_IDS = {
    "limio_warehouse_sync.py": "limio_warehouse_sync",
    "limio_subscriptions_in_ten_lines.py": "limio_subscriptions",
    "limio_guarded_table.py": "limio_guarded_table",
    "limio_deletes.py": "limio_deletes",
    "limio_dlt.py": "limio_dlt",
    "limio_dlt_files.py": "limio_dlt_files",
    "limio_history.py": "limio_history",
    "limio_object_storage.py": "limio_object_storage",
    "limio_masked_customers.py": "limio_masked_customers",
    "limio_hook.py": "limio_hook",
    "limitrail_usage_commit.py": "limitrail_usage_commit",
    "limio_order_items.py": "limio_order_items",
    "limio_order_wait.py": "limio_order_wait",
    "limio_abandoned_basket_followup.py": "limio_abandoned_basket_followup",
    "limio_basket_wait.py": "limio_basket_wait",
    "limitrail_dlt_any_destination.py": "limitrail_dlt_any_destination",
    "limitrail_first_send.py": "limitrail_first_send",
    "limitrail_usage_approve.py": "limitrail_usage_approve",
    "limitrail_watched_commit.py": "limitrail_watched_commit",
    "limitrail_usage_files.py": "limitrail_usage_files",
    "limitrail_usage_reconcile.py": "limitrail_usage_reconcile",
    "limitrail_usage_settle.py": "limitrail_usage_settle",
    "limitrail_usage_watch.py": "limitrail_usage_watch",
    "limitrail_usage_by_day.py": "limitrail_usage_by_day",
    "limitrail_sliced_pull.py": "limitrail_sliced_pull",
    "limitrail_sharded_commit.py": "limitrail_sharded_commit",
}
NEEDS = {"limitrail_usage_commit.py": "limio_warehouse_sync.py"}
"""Examples that use what another one leaves."""
SPREAD = {"limitrail_sliced_pull.py", "limitrail_sharded_commit.py"}
"""Examples for several machines. `tests/cluster` runs them on several workers."""


def test_no_example_is_forgotten() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(DAG_IDS)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("file", [file for file in DAG_IDS if file not in SPREAD])
def test_example(file: str, make_home: Callable[..., AirflowHome], tmp_path: Path, limio_emulator: EmulatorServer) -> None:
    if file == "limio_dlt_files.py":
        # `make test-dlt` runs the example.
        pytest.importorskip("deltalake")
    warehouse = tmp_path / "warehouse.duckdb"
    masking_key = {"conn_type": "generic", "password": "a long random text of the example"}
    home = make_home(limio_emulator, warehouse={"conn_type": "duckdb", "host": str(warehouse)}, masking_key=masking_key)
    shutil.copy(EXAMPLES / file, home.path / "dags")
    root = f"file://{tmp_path}/lake"
    if needed := NEEDS.get(file):
        shutil.copy(EXAMPLES / needed, home.path / "dags")
        assert home.run(DAG_IDS[needed], logical_date="2026-11-01T00:00:00+00:00").result["state"] == "success"
    process = limio_emulator.tenant.ids("process")[0]
    if file == "limitrail_usage_files.py":
        # Of the day before the run, which is due when it is made, and of some hours before: none near either end.
        hours = [datetime.now(tz=UTC) - timedelta(hours=hour, minutes=30) for hour in range(30)]
        limio_emulator.limitrail.add_usage([{"committedAt": hour.isoformat(), "amount": "1.50"} for hour in hours])
    if file == "limitrail_watched_commit.py":
        limio_emulator.limitrail.add_accounts(f"acme-{n}" for n in range(5))
        # Airflow 3.3.2's `dag.test` cannot end a run with a deadline: it looks for the alert of a Dag that is not stored.
        text = (EXAMPLES / file).read_text()
        (home.path / "dags" / file).write_text(text.replace("deadline=NOT_BY_SIX,", ""))
    if file in ("limitrail_usage_reconcile.py", "limitrail_usage_approve.py"):
        limio_emulator.limitrail.add_accounts(f"acme-{number}" for number in range(5))
    conf = {"process_id": process} if file == "limio_order_wait.py" else {"root": root}
    outcome = home.run(DAG_IDS[file], conf=conf, logical_date="2026-11-01T00:00:00+00:00")
    states = {name: task["state"] for name, task in outcome.result["tasks"].items()}
    if file == "limio_abandoned_basket_followup.py":
        # Nothing has started it; `test_whole_airflow` does.
        assert states == {"news": "success", "fetch": "skipped", "hand_over": "skipped"}
        return
    assert set(states.values()) == {"success"}, home.output()[-4000:]
    if file in {"limio_warehouse_sync.py", "limio_subscriptions_in_ten_lines.py"}:
        with duckdb.connect(str(warehouse), read_only=True) as database:
            found = {identity for (identity,) in database.execute("SELECT id FROM subscriptions").fetchall()}
        assert found == set(limio_emulator.tenant.ids("subscriptions"))
    if file == "limio_order_items.py":
        with duckdb.connect(str(warehouse), read_only=True) as database:
            joined = database.execute(
                "SELECT o.id, i.quantity, f.value FROM orders o JOIN order_items i ON i._parent_id = o.id "
                "JOIN order_offers f ON f._parent_id = o.id AND f._position = 0"
            ).fetchall()
            [(products,)] = database.execute(
                "SELECT count(*) FROM abandoned_baskets b JOIN basket_items i ON i._parent_id = b.id "
                "JOIN basket_products p ON p._parent_parent_id = b.id AND p._parent_path = i.path"
            ).fetchall()
            [(baskets,)] = database.execute("SELECT count(*) FROM abandoned_baskets").fetchall()
        assert products == baskets > 0
        orders = limio_emulator.tenant.rows_of("orders")
        assert sorted(joined) == sorted(
            (row["id"], item["quantity"], row["data"]["tracking"]["offers"][0])
            for row in orders
            for item in row["data"]["orderItems"]
        )
    if file == "limio_deletes.py":
        assert outcome.task("customers")["xcom"]["missing_checked"]
        with duckdb.connect(str(warehouse), read_only=True) as database:
            marked = dict(database.execute("SELECT id, CAST(_deleted_at AS VARCHAR) FROM current_subscriptions").fetchall())
        assert marked == dict.fromkeys(limio_emulator.tenant.ids("subscriptions"))
    if file == "limio_object_storage.py":
        manifests = [json.loads(path.read_text()) for path in (tmp_path / "lake").rglob("manifest.json")]
        assert {item["resource"]: item["format"] for item in manifests} == {
            "orders": "jsonl",
            "customers": "parquet",
            "abandoned_baskets": "jsonl",
        }
        customers = next(item for item in manifests if item["resource"] == "customers")
        assert customers["rows"] == limio_emulator.tenant.count("customers")
        assert "name" not in customers["schema"]
    if file == "limio_masked_customers.py":
        with duckdb.connect(str(warehouse), read_only=True) as database:
            customers = database.execute("SELECT * FROM customers").fetchall()
            baskets = database.execute("SELECT * FROM abandoned_baskets").fetchall()
            assert {len(email) for (email,) in database.execute("SELECT email FROM customers").fetchall() if email} == {64}
        assert len(customers) == limio_emulator.tenant.count("customers")
        assert baskets
        assert not [word for word in ("example.com", "firstName", "billingDetails", "recover") if word in f"{customers}{baskets}"]
    if file == "limitrail_usage_commit.py":
        summary = outcome.task("commit_usage")["xcom"]
        journal = limio_emulator.limitrail.journal
        assert summary["rows"] == len(journal) + summary["rejected"] > 5
        assert summary["committed"] + summary["denied"] == len(journal)
        with duckdb.connect(str(warehouse), read_only=True) as database:
            ledger = dict(database.execute("SELECT idempotency_key, decision FROM limitrail_usage_ledger").fetchall())
            listed = {key for (key,) in database.execute('SELECT "idempotencyKey" FROM usage_at_limitrail').fetchall()}
            [(denied,)] = database.execute("SELECT count(*) FROM usage_denied").fetchall()
        assert {entry.key: entry.decision for entry in journal} == {key: word for key, word in ledger.items() if word}
        assert listed == {entry.key for entry in journal if entry.decision != "DENIED_BY_POLICY"}
        assert denied == summary["denied"]
    if file in ("limitrail_usage_reconcile.py", "limitrail_usage_approve.py"):
        reconciled = outcome.task("reconcile_usage")["xcom"]
        assert (reconciled["equal"], reconciled["list_records"]) == (25, 25)
    if file == "limitrail_first_send.py":
        limio_emulator.limitrail.add_accounts(f"acme-{n}" for n in range(5))
        said = outcome.task("first_send")["xcom"]
        assert (said["new"], said["would_be_sent"], said["prevented_by"]) == (25, 25, [])
        assert [json.loads(request["body"])["externalAccount"] for request in said["requests"]] == ["***"] * 3
        for number, (limit, sent) in enumerate(((10, 10), (None, 25)), start=2):
            conf = {"dry_run": False, "limit": limit}
            outcome = home.run(DAG_IDS[file], conf=conf, logical_date=f"2026-11-0{number}T00:00:00+00:00")
            summary = outcome.task("first_send")["xcom"]
            assert (summary["committed"], summary["left_for_later"]) == (sent, 25 - sent)
            assert len(limio_emulator.limitrail.journal) == sent
            assert bool(outcome.task("first_send")["events"]) == (limit is None)
    if file == "limio_order_wait.py":
        found = {"path_type": "process", "id": process, "status": "processed"}
        assert outcome.task("processed")["xcom"] == found
        assert f"{process} is processed" in home.output()
    if file == "limio_basket_wait.py":
        ids = outcome.task("go_on")["xcom"]
        assert len(set(ids)) == len(ids) >= 3
        assert all(is_left(limio_emulator.tenant.record("baskets", identity)) for identity in ids)
    if file == "limitrail_usage_files.py":
        assert outcome.task("land")["xcom"]["rows"] == 24
        assert outcome.task("total")["xcom"] == 36.0
        [manifest] = [json.loads(path.read_text()) for path in (tmp_path / "lake").rglob("manifest.json")]
        assert (manifest["resource"], manifest["format"], manifest["rows"]) == ("usage", "parquet", 24)
    if file == "limitrail_usage_watch.py":
        # Nothing has started it.
        assert outcome.task("how_many")["xcom"] == 0


@pytest.mark.exhaustive
def test_a_pull_in_slices(
    make_home: Callable[..., AirflowHome],
    tmp_path: Path,
    limio_emulator: EmulatorServer,
    postgres_connection: dict[str, Any],
) -> None:
    home = make_home(limio_emulator, warehouse=postgres_connection)
    text = (EXAMPLES / "limitrail_sliced_pull.py").read_text()
    assert "range(24)" in text
    (home.path / "dags" / "limitrail_sliced_pull.py").write_text(text.replace("range(24)", "range(6)"))
    start = datetime(2026, 3, 1, tzinfo=UTC)
    limio_emulator.limitrail.add_usage(
        {"id": f"u{number}", "committedAt": (start + timedelta(minutes=20 * number)).isoformat(), "amount": f"{number}.50"}
        for number in range(-1, 19)
    )
    outcome = home.run("limitrail_sliced_pull", conf={"root": f"file://{tmp_path}/lake"})
    assert {task["state"] for task in outcome.result["tasks"].values()} == {"success"}, home.output()[-4000:]
    assert [outcome.task(f"land[{hour}]")["xcom"]["rows"] for hour in range(6)] == [3] * 6
    with psycopg.connect(host=postgres_connection["host"], user="postgres", dbname=postgres_connection["schema"]) as database:
        for table in ("usage", "usage_landed"):
            found = database.execute(f'SELECT "id", "amount", "committedAt" FROM {table}').fetchall()
            assert sorted(found) == sorted((f"u{n}", f"{n}.50", start + timedelta(minutes=20 * n)) for n in range(18))


@pytest.mark.exhaustive
def test_a_commit_in_shards(
    make_home: Callable[..., AirflowHome], limio_emulator: EmulatorServer, postgres_connection: dict[str, Any]
) -> None:
    home = make_home(limio_emulator, warehouse=postgres_connection)
    shutil.copy(EXAMPLES / "limitrail_sharded_commit.py", home.path / "dags")
    limio_emulator.limitrail.add_accounts(["acme"])
    with psycopg.connect(host=postgres_connection["host"], user="postgres", dbname=postgres_connection["schema"]) as database:
        database.execute(
            "CREATE TABLE usage_of_day AS SELECT 'sub-' || n AS subscription_id, date '2026-03-01' + n % 2 AS day, "
            "'acme' AS account, 'PAYMENT' AS operation, n::numeric AS amount FROM generate_series(1, 200) AS n"
        )
    for settled in (0, 100):
        outcome = home.run("limitrail_sharded_commit", logical_date=f"2026-11-0{1 + settled // 100}T00:00:00+00:00")
        assert {task["state"] for task in outcome.result["tasks"].values()} == {"success"}, home.output()[-4000:]
        shards = [outcome.task(f"commit_usage[{shard}]")["xcom"] for shard in range(16)]
        assert sum(shard["rows"] for shard in shards) == 100
        assert sum(shard["settled_before"] for shard in shards) == settled
    sent = [json.loads(entry.body)["metadata"]["subscription"] for entry in limio_emulator.limitrail.journal]
    assert sorted(sent) == sorted(f"sub-{n}" for n in range(2, 201, 2))


def is_left(basket: dict[str, Any]) -> bool:
    return not basket["completed"] and len(basket["orderItems"]) > 0


@pytest.mark.exhaustive
def test_a_month_whose_commit_has_failed_is_not_closed(
    make_home: Callable[..., AirflowHome], tmp_path: Path, limio_emulator: EmulatorServer
) -> None:
    home = make_home(limio_emulator, warehouse={"conn_type": "duckdb", "host": str(tmp_path / "warehouse.duckdb")})
    shutil.copy(EXAMPLES / "limitrail_usage_reconcile.py", home.path / "dags")
    # LimitRail has none of the accounts, so that both sides agree that nothing was carried out.
    result = home.run("limitrail_usage_reconcile", logical_date="2026-11-01T00:00:00+00:00").result
    states = {name: task["state"] for name, task in result["tasks"].items()}
    assert states == {"commit_usage": "failed", "reconcile_usage": "success", "month_is_closed": "upstream_failed"}
    assert result["state"] == "failed"
