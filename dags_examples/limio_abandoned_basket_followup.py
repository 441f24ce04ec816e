# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Follow up on abandoned baskets as they come: a watch starts this Dag, which fetches them and hands each over once.

Needs two connections: ``limio_default`` (type ``limio``) and ``warehouse`` (DuckDB here). No worker is held while nothing comes:
a triggerer looks. Baskets hold personal data: what goes through Airflow are their ids and times; they themselves go from Limio
into the warehouse.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Asset, AssetWatcher, BaseHook, get_current_context, task

from limio_limitrail.polling import new_events
from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator
from limio_limitrail.triggers.limio import LimioResourceEventTrigger

# Whoever sends the reminders reads this table. Its key makes sure that a basket is handed over once.
FOLLOW_UPS = "CREATE TABLE IF NOT EXISTS basket_follow_ups (id VARCHAR PRIMARY KEY, created TIMESTAMPTZ, noted TIMESTAMPTZ)"
HAND_OVER = """
INSERT INTO basket_follow_ups
SELECT id, created, now() FROM abandoned_baskets WHERE created BETWEEN ? AND ?
ON CONFLICT DO NOTHING
"""

# [START basket_followup]
baskets = Asset(
    "limio/abandoned_baskets",
    watchers=[
        AssetWatcher(
            name="abandoned_baskets",
            trigger=LimioResourceEventTrigger(resource="abandoned_baskets", poke_interval=timedelta(minutes=5)),
        )
    ],
)

with DAG(
    dag_id="limio_abandoned_basket_followup",
    schedule=[baskets],
    start_date=datetime(2026, 1, 1),
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:

    @task.short_circuit(inlets=[baskets])
    def news() -> dict[str, Any] | None:
        """Give the span of time in which the new baskets were left, or nothing where an earlier run had them."""
        found = new_events(get_current_context(), baskets)
        if not found:
            return None
        return {
            "since": min(one.since for one in found),
            "until": max(one.watermark for one in found),
            "count": sum(one.count for one in found),
        }

    fetch = LimioToSqlOperator(
        task_id="fetch",
        resource="abandoned_baskets",
        since="{{ ti.xcom_pull('news')['since'] }}",
        sql_conn_id="warehouse",
        table="abandoned_baskets",
    )

    @task
    def hand_over(span: dict[str, Any]) -> None:
        """Put the new baskets where the reminders are sent from."""
        warehouse = BaseHook.get_hook("warehouse")
        warehouse.run(FOLLOW_UPS, autocommit=True)
        warehouse.run(HAND_OVER, parameters=(span["since"], span["until"]), autocommit=True)

    span = news()
    span >> fetch >> hand_over(span)
# [END basket_followup]
