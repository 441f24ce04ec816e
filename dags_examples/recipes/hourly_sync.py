# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Fetch every hour what is new since the last run that succeeded."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Asset

from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator
from limio_limitrail.transfers.limitrail_to_sql import LimitRailToSqlOperator

# [START hourly_sync]
with DAG(
    dag_id="hourly_sync",
    schedule="@hourly",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    LimioToSqlOperator(
        task_id="offers",
        resource="catalog.offers2",
        sql_conn_id="warehouse",
        table="offers",
        incremental=True,
        outlets=[Asset("warehouse/offers")],
    )
    LimioToSqlOperator(
        task_id="abandoned_baskets",
        resource="abandoned_baskets",
        sql_conn_id="warehouse",
        table="abandoned_baskets",
        drop_columns=["recoveryLink"],
        incremental=True,
        since="2020-01-01",
        overlap=timedelta(days=14),
        outlets=[Asset("warehouse/abandoned_baskets")],
    )
    LimitRailToSqlOperator(
        task_id="usage",
        resource="usage",
        scope="limitrail.usage.read",  # a name made up here: LimitRail documents none for lists
        sql_conn_id="warehouse",
        table="usage",
        incremental=True,
        since="2026-01-01",
        overlap=timedelta(hours=1),
        slice_size=timedelta(days=1),
        outlets=[Asset("warehouse/usage")],
    )
# [END hourly_sync]
