# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Keep Limio's subscriptions and customers in a warehouse, and know which are gone.

A subscription that is gone is marked, a customer is deleted. If a list has lost more than a fifth of its rows, nothing is
written; if that is right, trigger the Dag with the configuration ``{"max_missing": "100%"}``.

Needs two connections: ``limio_default`` (type ``limio``) and ``warehouse`` (DuckDB, Postgres or SQLite).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Asset

from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator

# [START deletes]
with DAG(
    dag_id="limio_deletes",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    for resource, on_missing in {"subscriptions": "mark", "customers": "delete"}.items():
        LimioToSqlOperator(
            task_id=resource,
            resource=resource,
            sql_conn_id="warehouse",
            table=f"current_{resource}",
            on_missing=on_missing,
            max_missing="{{ dag_run.conf.get('max_missing', '20%') }}",
            page_size=1000,
            outlets=[Asset(f"warehouse/current_{resource}")],
        )
# [END deletes]
