# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Fetch a long history once; the hourly sync of ``hourly_sync.py`` goes on where this ends. Triggered by hand."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Asset, Param

from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator
from limio_limitrail.transfers.limitrail_to_sql import LimitRailToSqlOperator

# [START first_backfill]
with DAG(
    dag_id="first_backfill",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"since": Param("2026-01-01", type="string", format="date")},
    max_active_runs=1,
    default_args={"retries": 5, "retry_delay": timedelta(minutes=10)},
    doc_md=__doc__,
) as dag:
    # No filter by time: one pull of the whole list.
    LimioToSqlOperator(
        task_id="orders", resource="orders", sql_conn_id="warehouse", table="orders", page_size=1000, part_rows=20_000
    )
    # With slices: one request for each day, and a part for each day that has usage.
    LimitRailToSqlOperator(
        task_id="usage",
        resource="usage",
        scope="limitrail.usage.read",  # a name made up here: LimitRail documents none for lists
        sql_conn_id="warehouse",
        table="usage",
        since="{{ params.since }}",
        slice_size=timedelta(days=1),
        incremental=True,
        full_refresh=True,
        outlets=[Asset("warehouse/usage")],
    )
# [END first_backfill]
