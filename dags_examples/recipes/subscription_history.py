# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Keep what every subscription was like on each day, and make a history with valid_from and valid_to of it (DuckDB's SQL)."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG

from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator

# [START history_sql]
HISTORY = """
CREATE OR REPLACE VIEW subscription_history AS
WITH snapshots AS (
    SELECT _extracted_at AS taken, row_number() OVER (ORDER BY _extracted_at) AS number
    FROM (SELECT DISTINCT _extracted_at FROM subscription_snapshots)
), stretches AS (
    SELECT id, status, plan, price, number,
        number - row_number() OVER (PARTITION BY id, status, plan, price ORDER BY number) AS stretch
    FROM subscription_snapshots JOIN snapshots ON taken = _extracted_at
), versions AS (
    SELECT id, status, plan, price, min(number) AS first, max(number) + 1 AS next
    FROM stretches GROUP BY id, status, plan, price, stretch
)
SELECT id, status, plan, price, began.taken AS valid_from, ended.taken AS valid_to
FROM versions
JOIN snapshots AS began ON began.number = first
LEFT JOIN snapshots AS ended ON ended.number = next
"""
# [END history_sql]

# [START history]
with DAG(
    dag_id="subscription_history",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    snapshot = LimioToSqlOperator(
        task_id="snapshot",
        resource="subscriptions",
        sql_conn_id="warehouse",
        table="subscription_snapshots",
        mode="append",
        nested_columns={"plan": "data.name", "price": "data.price.amount"},
        drop_columns=["data"],
        page_size=1000,
    )
    history = SQLExecuteQueryOperator(task_id="history", conn_id="warehouse", sql=HISTORY, autocommit=True)
    snapshot >> history
# [END history]
