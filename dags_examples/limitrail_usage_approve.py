# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Commit usage, let LimitRail's own list settle what it is certain about, ask a person in Airflow about the rest, and carry
the decisions out.

Needs two connections: ``limitrail_default`` (type ``limitrail``) and ``warehouse`` (DuckDB here). The names of the request's
members, and those of the list, are assumed: LimitRail's public pages do not show them.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator
from limio_limitrail.operators.limitrail_approve import LimitRailApproveUsageOperator
from limio_limitrail.operators.limitrail_ledger import LimitRailSettleUsageOperator
from limio_limitrail.operators.limitrail_reconcile import LimitRailReconcileUsageOperator
from limio_limitrail.usage import Column

# Your own meters stand here.
USAGE_ROWS = """
CREATE TABLE IF NOT EXISTS usage_to_approve AS
SELECT
    'sub-' || n AS subscription_id,
    DATE '2026-01-01' AS day,
    'acme-' || n % 5 AS account,
    CAST(n / 4.0 AS DECIMAL(9, 2)) AS amount
FROM range(25) AS numbers(n)
"""

# [START usage_approve]
with DAG(
    dag_id="limitrail_usage_approve",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    doc_md=__doc__,
) as dag:
    usage_rows = SQLExecuteQueryOperator(
        task_id="usage_rows", conn_id="warehouse", sql=USAGE_ROWS, autocommit=True, do_xcom_push=False
    )
    commit_usage = LimitRailCommitUsageOperator(
        task_id="commit_usage",
        sql_conn_id="warehouse",
        sql="SELECT * FROM usage_to_approve ORDER BY subscription_id",
        key_columns=["subscription_id", "day"],
        body={"externalAccount": Column("account"), "operation": "API_CALL", "amount": Column("amount")},
        kept_members={"amount": "plain"},
        # The tasks below are about these rows, so that they fail no task here.
        max_parked="100%",
        max_rejected="100%",
        max_changed="100%",
    )
    reconcile_usage = LimitRailReconcileUsageOperator(
        task_id="reconcile_usage",
        sql_conn_id="warehouse",
        scope="limitrail.usage.read",  # a name made up here: LimitRail documents none for lists
        since="{{ dag_run.run_after - macros.timedelta(days=31) }}",
        until="{{ dag_run.run_after + macros.timedelta(days=1) }}",
        match={"idempotencyKey": "idempotency_key"},
        compare={"amount": "kept.amount"},
        amount={"amount": "kept.amount"},
        settle=True,
        listed_after=timedelta(hours=6),
        max_uncertain=None,  # The form asks about what the list cannot settle.
        trigger_rule="all_done",
    )
    approve_usage = LimitRailApproveUsageOperator(
        task_id="approve_usage",
        sql_conn_id="warehouse",
        trigger_rule="all_done",
        response_timeout=timedelta(hours=20),
    )
    settle_usage = LimitRailSettleUsageOperator(task_id="settle_usage", sql_conn_id="warehouse", decisions=approve_usage.output)
    # Fails the run if the commit has failed, or if both sides differ, whatever the person answers.
    both_agree = EmptyOperator(task_id="both_agree")

    usage_rows >> commit_usage >> reconcile_usage >> approve_usage >> settle_usage
    [commit_usage, reconcile_usage] >> both_agree
# [END usage_approve]
