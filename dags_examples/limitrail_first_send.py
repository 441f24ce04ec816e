# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Send usage for the first time in three steps: look, send ten rows, send the rest.

Needs two connections: ``limitrail_default`` (type ``limitrail``) and ``warehouse`` (DuckDB here). The names of the request's
members are assumed: LimitRail's public pages do not show them.
"""

from __future__ import annotations

from datetime import datetime

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG, Asset, Param

from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator
from limio_limitrail.usage import Column

# Your own meters stand here.
USAGE_ROWS = """
CREATE TABLE IF NOT EXISTS first_usage AS
SELECT
    'sub-' || n AS subscription_id,
    DATE '2026-01-01' AS day,
    'acme-' || n % 5 AS account,
    CAST(n / 4.0 AS DECIMAL(9, 2)) AS amount
FROM range(25) AS numbers(n)
"""

# [START first_send]
with DAG(
    dag_id="limitrail_first_send",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"dry_run": True, "limit": Param(None, type=["null", "integer"], minimum=1)},
    doc_md=__doc__,
) as dag:
    usage_rows = SQLExecuteQueryOperator(
        task_id="usage_rows", conn_id="warehouse", sql=USAGE_ROWS, autocommit=True, do_xcom_push=False
    )
    first_send = LimitRailCommitUsageOperator(
        task_id="first_send",
        sql_conn_id="warehouse",
        sql="SELECT * FROM first_usage ORDER BY subscription_id",
        key_columns=["subscription_id", "day"],
        body={"externalAccount": Column("account"), "operation": "API_CALL", "amount": Column("amount")},
        dry_run="{{ params.dry_run }}",
        mask_members=["externalAccount"],
        limit="{{ params.limit }}",
        outlets=[Asset("warehouse/limitrail_usage_ledger")],
    )
    usage_rows >> first_send
# [END first_send]
