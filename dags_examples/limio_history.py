# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Keep each version of Limio's subscriptions, with the times between which it was valid.

A subscription that is not listed any more has no current version. If more than a fifth of them are gone, nothing is written; if
that is right, trigger the Dag with the configuration ``{"max_missing": "100%"}``.

Needs two connections: ``limio_default`` (type ``limio``) and ``warehouse`` (DuckDB, Postgres or SQLite).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Asset

from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator

# [START history]
with DAG(
    dag_id="limio_history",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    LimioToSqlOperator(
        task_id="subscriptions",
        resource="subscriptions",
        sql_conn_id="warehouse",
        table="subscription_versions",
        mode="history",
        on_missing="mark",
        max_missing="{{ dag_run.conf.get('max_missing', '20%') }}",
        nested_columns={"plan": "data.name", "price": "data.price.amount"},
        drop_columns=["data"],
        page_size=1000,
        outlets=[Asset("warehouse/subscription_versions")],
    )
# [END history]
