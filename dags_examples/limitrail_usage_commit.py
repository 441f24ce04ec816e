# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Bill a day's usage: make usage rows out of the warehouse, commit each to LimitRail once, compare the ledger with LimitRail's
own list, and collect what was denied.

Needs two connections: ``limitrail_default`` (type ``limitrail``) and ``warehouse`` (DuckDB here), with the table
``subscriptions`` that ``limio_warehouse_sync`` keeps. The names of the request's members and the list's path are assumed:
LimitRail's public pages do not show them.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG, Asset

from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator
from limio_limitrail.operators.limitrail_reconcile import LimitRailReconcileUsageOperator
from limio_limitrail.transfers.limitrail_to_sql import LimitRailToSqlOperator
from limio_limitrail.usage import Column, Text

# What a subscription used in a day would come from your own meters; here it is made up out of its id.
USAGE_ROWS = """
CREATE OR REPLACE TABLE usage_of_day AS
SELECT
    id AS subscription_id,
    DATE '{{ dag_run.run_after | ds }}' AS day,
    customer AS account,
    CASE WHEN n BETWEEN 48 AND 50 THEN 'BULK_CALL' WHEN n % 10 = 3 THEN 'EXPORT' ELSE 'API_CALL' END AS operation,
    CAST(n * n * n / 950.0 AS DECIMAL(12, 2)) AS amount,
    currency,
    plan
FROM (SELECT *, CAST('0x' || substr(md5(id), 1, 8) AS BIGINT) % 100 AS n FROM subscriptions)
WHERE status = 'active' AND plan = 'Digital Monthly'
"""

DENIED = """
CREATE OR REPLACE TABLE usage_denied AS
SELECT u.*, l.decision, l.trace_id, l.finished_at
FROM usage_of_day AS u
JOIN limitrail_usage_ledger AS l
    ON l.row_key->>'subscription_id' = u.subscription_id AND l.row_key->>'day' = CAST(u.day AS VARCHAR)
WHERE l.state = 'denied'
"""

# [START usage_commit]
with DAG(
    dag_id="limitrail_usage_commit",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    usage_rows = SQLExecuteQueryOperator(
        task_id="usage_rows", conn_id="warehouse", sql=USAGE_ROWS, autocommit=True, do_xcom_push=False
    )
    commit_usage = LimitRailCommitUsageOperator(
        task_id="commit_usage",
        sql_conn_id="warehouse",
        sql="SELECT * FROM usage_of_day ORDER BY subscription_id",
        key_columns=["subscription_id", "day"],
        body={
            "externalAccount": Column("account"),
            "operation": Column("operation"),
            "amount": Column("amount"),
            "currency": Column("currency", required=False),
            "metadata": {"subscription": Column("subscription_id"), "label": Text("{plan} on {day}"), "source": "warehouse"},
        },
        max_rejected="10%",
        max_parked="10%",  # reconcile_usage settles those that LimitRail's list has, and fails if others are left
        kept_members={"amount": "plain"},
        outlets=[Asset("warehouse/limitrail_usage_ledger")],
    )
    # [END usage_commit]
    # [START usage_list]
    # What LimitRail itself says it has: from a day before the run to a day after, the same in every retry.
    usage_at_limitrail = LimitRailToSqlOperator(
        task_id="usage_at_limitrail",
        resource="usage",
        sql_conn_id="warehouse",
        table="usage_at_limitrail",
        scope="limitrail.usage.read",  # a name made up here: LimitRail documents none for lists
        since="{{ (dag_run.run_after - macros.timedelta(days=1)).isoformat() }}",
        until="{{ (dag_run.run_after + macros.timedelta(days=1)).isoformat() }}",
        slice_size=timedelta(hours=6),
        outlets=[Asset("warehouse/usage_at_limitrail")],
    )
    # [END usage_list]
    reconcile_usage = LimitRailReconcileUsageOperator(
        task_id="reconcile_usage",
        sql_conn_id="warehouse",
        scope="limitrail.usage.read",
        since="{{ (dag_run.run_after - macros.timedelta(days=1)).isoformat() }}",
        until="{{ (dag_run.run_after + macros.timedelta(days=1)).isoformat() }}",
        match={"idempotencyKey": "idempotency_key"},
        compare={"amount": "kept.amount"},
        amount={"amount": "kept.amount"},
        settle=True,
        listed_after=timedelta(hours=6),
    )
    usage_denied = SQLExecuteQueryOperator(
        task_id="usage_denied", conn_id="warehouse", sql=DENIED, autocommit=True, do_xcom_push=False
    )

    usage_rows >> commit_usage >> usage_at_limitrail >> reconcile_usage >> usage_denied
