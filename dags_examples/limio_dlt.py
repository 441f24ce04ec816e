# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load Limio's subscriptions into a warehouse by one of dlt's destinations.

Needs the extra ``dlt``, and two connections: ``limio_default`` (type ``limio``) and ``warehouse`` (here DuckDB).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Asset

from limio_limitrail.transfers.limio_to_dlt import LimioToDltOperator

# [START dlt]
with DAG(
    dag_id="limio_dlt",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    LimioToDltOperator(
        task_id="subscriptions",
        resource="subscriptions",
        destination="duckdb",
        destination_conn_id="warehouse",
        dataset="limio",
        table="subscriptions",
        nested_columns={"plan": "data.name", "price": "data.price.amount"},
        drop_columns=["data"],
        page_size=1000,
        outlets=[Asset("warehouse/limio/subscriptions")],
    )
# [END dlt]
