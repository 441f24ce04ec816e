# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load orders into a table that reports depend on: its columns stay as they are, and a load that looks wrong changes nothing."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Asset

from limio_limitrail.transfers import Check
from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator

with DAG(
    dag_id="limio_guarded_table",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    params={"dry_run": False},
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    # [START contract]
    LimioToSqlOperator(
        task_id="orders",
        resource="orders",
        sql_conn_id="warehouse",
        table="orders",
        nested_columns={"country": "data.country"},
        new_columns="ignore",
        type_changes="fail",
        required_columns=["id", "country"],
        outlets=[Asset("warehouse/orders")],
    )
    # [END contract]
    # [START checks]
    LimioToSqlOperator(
        task_id="customers",
        resource="customers",
        sql_conn_id="warehouse",
        table="customers",
        checks=[
            Check("rows_between", least=1),
            Check("unique", columns=["id"]),
            Check("not_null", columns=["id", "created"]),
            Check(sql="SELECT count(*) = 0 FROM {table} WHERE updated < created", name="updated after created"),
        ],
    )
    # [END checks]
    # [START dry_run]
    # Run the Dag with {"dry_run": true} to see what a load would do.
    LimioToSqlOperator(
        task_id="subscriptions",
        resource="subscriptions",
        sql_conn_id="warehouse",
        table="subscriptions",
        dry_run="{{ params.dry_run }}",
        outlets=[Asset("warehouse/subscriptions")],
    )
    # [END dry_run]
