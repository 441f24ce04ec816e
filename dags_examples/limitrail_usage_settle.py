# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Settle usage rows that need a person: trigger this Dag with the decisions.

They are like ``[{"key": "...", "decision": "committed"}, {"key": "...", "decision": "send"}]``; ``airflow limitrail ledger list``
shows the keys.
"""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, Param

from limio_limitrail.operators.limitrail_ledger import LimitRailSettleUsageOperator

# [START usage_settle]
with DAG(
    dag_id="limitrail_usage_settle",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"decisions": Param([], type="array", items={"type": "object"})},
    doc_md=__doc__,
) as dag:
    LimitRailSettleUsageOperator(
        task_id="settle_usage",
        sql_conn_id="warehouse",
        decisions="{{ params.decisions }}",
        by="{{ dag_run.triggering_user_name or '' }}",
    )
# [END usage_settle]
