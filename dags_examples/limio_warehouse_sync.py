# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Keep a Limio tenant's subscriptions, customers, orders, events, catalog and abandoned baskets in a warehouse, every night.

Needs two connections: ``limio_default`` (type ``limio``) and ``warehouse`` (DuckDB, Postgres or SQLite).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Asset

from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator

# [START warehouse_sync]
with DAG(
    dag_id="limio_warehouse_sync",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    # Limio cannot filter objects by time: every run reads these lists whole, and the merge touches only what changed.
    LimioToSqlOperator(
        task_id="subscriptions",
        resource="subscriptions",
        sql_conn_id="warehouse",
        table="subscriptions",
        nested_columns={"plan": "data.name", "price": "data.price.amount", "currency": "data.price.currency"},
        page_size=1000,
        outlets=[Asset("warehouse/subscriptions")],
    )
    LimioToSqlOperator(
        task_id="customers",
        resource="customers",
        sql_conn_id="warehouse",
        table="customers",
        page_size=1000,
        outlets=[Asset("warehouse/customers")],
    )
    LimioToSqlOperator(
        task_id="orders",
        resource="orders",
        sql_conn_id="warehouse",
        table="orders",
        nested_columns={"country": "data.country", "order_date": "data.orderDate"},
        page_size=1000,
        outlets=[Asset("warehouse/orders")],
    )
    LimioToSqlOperator(
        task_id="events",
        resource="events",
        sql_conn_id="warehouse",
        table="events",
        nested_columns={"event_type": "data.type"},
        page_size=1000,
        outlets=[Asset("warehouse/events")],
    )
    # The catalog can be filtered by time: after the first run only what was modified since comes.
    for record_type, table in {"offers2": "offers", "product": "products", "campaign": "campaigns"}.items():
        LimioToSqlOperator(
            task_id=table,
            resource=f"catalog.{record_type}",
            sql_conn_id="warehouse",
            table=table,
            incremental=True,
            outlets=[Asset(f"warehouse/{table}")],
        )
    # A basket keeps its created time when it is completed later: the overlap reads the last two weeks again.
    LimioToSqlOperator(
        task_id="abandoned_baskets",
        resource="abandoned_baskets",
        sql_conn_id="warehouse",
        table="abandoned_baskets",
        nested_columns={"campaign": "tracking.campaign"},
        drop_columns=["recoveryLink"],  # it lets whoever reads it take over the basket
        page_size=1000,
        incremental=True,
        since="2020-01-01",
        overlap=timedelta(days=14),
        outlets=[Asset("warehouse/abandoned_baskets")],
    )
# [END warehouse_sync]
