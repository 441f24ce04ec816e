# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A user's own code, with every public class in it once: `make lint` has mypy --strict read it, and a test imports it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Asset, AssetWatcher, get_current_context, task

from limio_limitrail.api.errors import ApiError, ParameterError, RateLimitError
from limio_limitrail.api.pagination import CursorString
from limio_limitrail.api.resource import Resource, TimeFilter
from limio_limitrail.assets.uris import create_limio_asset, create_limitrail_asset
from limio_limitrail.emulator import EmulatorServer, Fault
from limio_limitrail.hooks.limio import LimioHook
from limio_limitrail.hooks.limitrail import LimitRailHook
from limio_limitrail.limio.resources import RESOURCES
from limio_limitrail.notifications.degraded import DegradedNotifier
from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator
from limio_limitrail.operators.limitrail_approve import LimitRailApproveUsageOperator
from limio_limitrail.operators.limitrail_ledger import LimitRailSettleUsageOperator
from limio_limitrail.operators.limitrail_reconcile import LimitRailReconcileUsageOperator
from limio_limitrail.polling import ChangeEvent, new_events
from limio_limitrail.retry_policy import ApiRetryPolicy
from limio_limitrail.sensors.limio import LimioObjectSensor, LimioResourceSensor
from limio_limitrail.sensors.limitrail import LimitRailResourceSensor
from limio_limitrail.transfers import Check
from limio_limitrail.transfers.limio_to_dlt import LimioToDltOperator
from limio_limitrail.transfers.limio_to_object_storage import LimioToObjectStorageOperator
from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator
from limio_limitrail.transfers.limitrail_to_dlt import LimitRailToDltOperator
from limio_limitrail.transfers.limitrail_to_object_storage import LimitRailToObjectStorageOperator
from limio_limitrail.transfers.limitrail_to_sql import LimitRailToSqlOperator
from limio_limitrail.triggers.limio import LimioResourceEventTrigger
from limio_limitrail.triggers.limitrail import LimitRailResourceEventTrigger
from limio_limitrail.usage import Column, Json, Text

if TYPE_CHECKING:
    import pandas as pd
    from dlt.common.destination import Destination

DAY = datetime(2026, 1, 1, tzinfo=UTC)
SCHEDULES = Resource(
    name="zuora_schedules",
    path="/objects/zuora/schedules",
    paging=CursorString(),
    primary_key=("id",),
    time_column="updated",
    time_filter=TimeFilter(since="from", field="updated"),
    timestamps=("created", "updated"),
)
OFFERS = replace(RESOURCES["catalog.offers2"], path="/items")


def is_large(record: Mapping[str, Any]) -> bool:
    """Say which baskets are worth a reminder."""
    return len(record.get("items", ())) > 2


def lakehouse() -> Destination[Any, Any]:
    """Return a destination that Airflow has no connection of."""
    from dlt.destinations import duckdb

    return duckdb("lake.duckdb")


def without_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out what nobody may see."""
    return frame.drop(columns=["name"], errors="ignore")


baskets = Asset(
    "limio/abandoned_baskets",
    watchers=[
        AssetWatcher(
            name="baskets",
            trigger=LimioResourceEventTrigger(
                resource="abandoned_baskets", poke_interval=timedelta(minutes=5), limio_conn_id="limio"
            ),
        )
    ],
)
usage = Asset(
    "limitrail/usage",
    watchers=[
        AssetWatcher(name="usage", trigger=LimitRailResourceEventTrigger(resource="usage", poke_interval=60, scope="usage.read"))
    ],
)

with DAG(
    dag_id="user_dag",
    schedule=[baskets, usage],
    start_date=DAY,
    default_args={"retries": 2, "retry_policy": ApiRetryPolicy()},
) as dag:

    @task(inlets=[baskets])
    def news() -> int:
        found: list[ChangeEvent] = new_events(get_current_context(), baskets)
        return sum(one.count for one in found)

    @task
    def own_calls() -> dict[str, Any]:
        limio = LimioHook("limio_default")
        limitrail = LimitRailHook("limitrail_default", scope=["usage.read"])
        try:
            frame: pd.DataFrame = limio.get_df(SCHEDULES, since=DAY, page_size=100)
            ids = [str(record["id"]) for record in limitrail.iter_records("usage", since=DAY, until=DAY + timedelta(days=1))]
        except RateLimitError as error:
            return {"wait": error.retry_after}
        except (ApiError, ParameterError) as error:
            return {"why": str(error)}
        works, why = limio.test_connection()
        return {"rows": len(frame), "ids": ids, "offers": limio.count(OFFERS), "works": works, "why": why}

    processed = LimioObjectSensor(
        task_id="processed",
        path_type="process",
        object_id="process_event-1",
        target_statuses=["processed"],
        failed_statuses="failed",
        timeout=3600,
        deferrable=True,
    )
    published = LimioResourceSensor(task_id="published", resource=OFFERS, min_records=3, predicate=is_large, poke_interval=30)
    metered = LimitRailResourceSensor(
        task_id="metered", resource="usage", since="2026-01-01", until="2026-01-02", scope="usage.read", mode="reschedule"
    )
    files = LimioToObjectStorageOperator(
        task_id="files", resource=SCHEDULES, destination="file:///tmp/schedules", format="parquet", transform=without_names
    )
    table = LimioToSqlOperator(
        task_id="table",
        resource="subscriptions",
        sql_conn_id="warehouse",
        table="subscriptions",
        mode="merge",
        incremental=True,
        new_columns="ignore",
        checks=[Check("rows_between", least=1), Check(sql="SELECT count(*) > 0 FROM {table}", name="not empty")],
        outlets=[create_limio_asset(host="acme.prod.limio.com", resource="subscriptions")],
    )
    usage_files = LimitRailToObjectStorageOperator(
        task_id="usage_files", resource="usage", destination="file:///tmp/usage", slice_size=timedelta(hours=6)
    )
    LimioToDltOperator(task_id="lake", resource="orders", destination="duckdb", destination_conn_id="w", dataset="d", table="t")
    LimitRailToDltOperator(task_id="usage_lake", resource="usage", destination=lakehouse, dataset="d", table="t")
    usage_table = LimitRailToSqlOperator(
        task_id="usage_table",
        resource="usage",
        sql_conn_id="warehouse",
        table="usage",
        since="2026-01-01",
        until="2026-01-02",
        outlets=[create_limitrail_asset(host="api.limitrail.com", resource="usage")],
    )
    commit = LimitRailCommitUsageOperator(
        task_id="commit",
        sql_conn_id="warehouse",
        sql="SELECT * FROM usage",
        key_columns=["id", "day"],
        body={"account": Column("account"), "metadata": {"label": Text("{plan} on {day}"), "more": Json("more")}},
        max_rejected="10%",
        warn_slower=timedelta(hours=1),
        on_success_callback=DegradedNotifier(print, warnings=["slower"]),
    )
    reconcile = LimitRailReconcileUsageOperator(
        task_id="reconcile",
        sql_conn_id="warehouse",
        match={"idempotencyKey": "idempotency_key"},
        since="2026-01-01",
        until=datetime(2026, 2, 1, tzinfo=UTC),
        listed_after=timedelta(hours=1),
        max_only_theirs="1%",
        warn_only_theirs=0,
    )
    approve = LimitRailApproveUsageOperator(task_id="approve", sql_conn_id="warehouse", older_than=timedelta(hours=1))
    settle = LimitRailSettleUsageOperator(
        task_id="settle", sql_conn_id="warehouse", decisions=[{"key": "k", "decision": "send", "note": "not there"}], by="ada"
    )

    news() >> own_calls() >> [processed, published, metered] >> table
    table >> [files, usage_files, usage_table] >> commit >> reconcile >> approve >> settle


def with_misspelt_parameters() -> None:
    """`mypy --strict` complains of an ignore that it does not need: it refuses each of these."""
    LimioToSqlOperator(task_id="a", resource="orders", sql_conn_id="w", table="t", nested_colums={})  # type: ignore[call-arg]
    LimitRailToSqlOperator(task_id="b", resource="usage", sql_conn_id="w", table="t", window=60)  # type: ignore[call-arg]
    LimioToObjectStorageOperator(task_id="c", resource="orders", destination="file:///t", until="now")  # type: ignore[call-arg]
    LimitRailToObjectStorageOperator(task_id="d", resource="usage", destination="file:///t", retrys=2)  # type: ignore[call-arg]
    LimitRailCommitUsageOperator(task_id="e", sql_conn_id="w", sql="SELECT 1", key_columns="id", mode="commit")  # type: ignore[call-arg]
    LimitRailReconcileUsageOperator(task_id="e1", sql_conn_id="w", match={}, settle_after=1)  # type: ignore[call-arg]
    LimitRailApproveUsageOperator(task_id="e3", sql_conn_id="w", rows=1)  # type: ignore[call-arg]
    LimitRailSettleUsageOperator(task_id="e2", sql_conn_id="w", decision=[])  # type: ignore[call-arg]
    LimioObjectSensor(task_id="f", path_type="orders", object_id="x", target_status="done")  # type: ignore[call-arg]
    LimioResourceSensor(task_id="g", resource="orders", interval=60)  # type: ignore[call-arg]
    LimitRailResourceSensor(task_id="h", resource="usage", scopes="a")  # type: ignore[call-arg]
    LimioHook().iter_records("orders", params={})  # type: ignore[call-arg]


def test_of_ones_own(limio_emulator: EmulatorServer, limio_emulator_factory: Callable[..., EmulatorServer]) -> None:
    """Use the fixtures of ``limio_limitrail.emulator.pytest_plugin``."""
    busy = limio_emulator_factory(client_id="me", port=0)
    busy.faults.add(Fault(kind="status", match="/api/objects", status=429, headers={"Retry-After": "0"}, times=2))
    connection: str = limio_emulator.airflow_connection_json()
    assert connection
