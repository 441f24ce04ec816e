# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Keep the items of Limio's orders and abandoned baskets in tables of their own, beside the orders and baskets, every night.

Needs two connections: ``limio_default`` (type ``limio``) and ``warehouse`` (DuckDB, Postgres or SQLite).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Asset

from limio_limitrail.transfers import ChildTable
from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator

with DAG(
    dag_id="limio_order_items",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    # [START order_items]
    LimioToSqlOperator(
        task_id="orders",
        resource="orders",
        sql_conn_id="warehouse",
        table="orders",
        child_tables={
            "order_items": ChildTable("data.orderItems"),
            "order_offers": ChildTable("data.tracking.offers"),
        },
        page_size=1000,
        outlets=[Asset("warehouse/orders"), Asset("warehouse/order_items")],
    )
    # [END order_items]
    # [START basket_products]
    LimioToSqlOperator(
        task_id="abandoned_baskets",
        resource="abandoned_baskets",
        sql_conn_id="warehouse",
        table="abandoned_baskets",
        child_tables={
            "basket_items": ChildTable(
                "orderItems", key="path", child_tables={"basket_products": ChildTable("products", key="productCode")}
            ),
        },
        drop_columns=["recoveryLink", "orderItems"],  # the items are in their own table
        since="2020-01-01",
        outlets=[Asset("warehouse/abandoned_baskets")],
    )
    # [END basket_products]
