# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Close the month: send the usage, compare LimitRail's own list with the ledger, and settle what the list is certain about.

Needs two connections: ``limitrail_default`` (type ``limitrail``) and ``warehouse`` (DuckDB here). The names of the request's
members, and those of the list, are assumed: LimitRail's public pages do not show them.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator
from limio_limitrail.operators.limitrail_reconcile import LimitRailReconcileUsageOperator
from limio_limitrail.usage import Column

# Your own query stands here.
USAGE = """
SELECT 'sub-' || n AS subscription_id, '2026-05' AS month, 'acme-' || n % 5 AS account, CAST(n / 4.0 AS DECIMAL(9, 2)) AS amount
FROM range(25) AS numbers(n)
"""

# [START usage_reconcile]
with DAG(
    dag_id="limitrail_usage_reconcile",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    doc_md=__doc__,
) as dag:
    commit_usage = LimitRailCommitUsageOperator(
        task_id="commit_usage",
        sql_conn_id="warehouse",
        sql=USAGE,
        key_columns=["subscription_id", "month"],
        body={"externalAccount": Column("account"), "operation": "API_CALL", "amount": Column("amount")},
        kept_members={"amount": "plain"},
        max_rejected_before=0,
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
        trigger_rule="all_done",
    )
    # Fails the run if the commit has failed, although both sides may agree that nothing was carried out.
    month_is_closed = EmptyOperator(task_id="month_is_closed")

    commit_usage >> reconcile_usage
    [commit_usage, reconcile_usage] >> month_is_closed
# [END usage_reconcile]
