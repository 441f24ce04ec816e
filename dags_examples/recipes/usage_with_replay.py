# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Commit each day's usage once; a run that is triggered with ``{"replay": "rejected"}`` sends again what was rejected.

The warehouse has a table ``usage_rows``: account, day, operation, amount.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Param

from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator
from limio_limitrail.usage import Column

# [START usage_with_replay]
with DAG(
    dag_id="usage_with_replay",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    params={"replay": Param("", enum=["", "rejected", "parked"])},
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    LimitRailCommitUsageOperator(
        task_id="commit_usage",
        sql_conn_id="warehouse",
        sql="SELECT account, day, operation, amount FROM usage_rows",
        key_columns=["account", "day", "operation"],
        body={
            "externalAccount": Column("account"),
            "operation": Column("operation"),
            "amount": Column("amount"),
            "metadata": {"day": Column("day")},
        },
        replay="{{ params.replay }}",
    )
# [END usage_with_replay]
