# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pull usage every hour, and sum up again the days whose usage has changed, and no other.

Needs two connections: ``limitrail_default`` and ``warehouse`` (Postgres here), and Airflow 3.3 or later.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG, Asset, PartitionedAssetTimetable

from limio_limitrail.transfers.limitrail_to_sql import LimitRailToSqlOperator

# [START usage_by_day]
usage_by_day = Asset("warehouse/usage_by_day")

with DAG(
    dag_id="limitrail_usage_by_day",
    schedule="@hourly",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    # Usage can arrive days late: each run reads the last week, and the merge touches only what changed.
    LimitRailToSqlOperator(
        task_id="usage",
        resource="usage",
        sql_conn_id="warehouse",
        table="usage_by_day",
        scope="limitrail.usage.read",  # a name made up here: LimitRail documents none for lists
        since="{{ (dag_run.run_after - macros.timedelta(days=7)).isoformat() }}",
        until="{{ dag_run.run_after.isoformat() }}",
        partition_column="committedAt",
        outlets=[usage_by_day],
    )

with DAG(
    dag_id="limitrail_daily_totals",
    schedule=PartitionedAssetTimetable(assets=usage_by_day),
    start_date=datetime(2026, 1, 1),
    max_active_runs=1,
) as totals:
    # The partition key is a day in UTC, such as 2026-05-01.
    SQLExecuteQueryOperator(
        task_id="total",
        conn_id="warehouse",
        sql=[
            "CREATE TABLE IF NOT EXISTS daily_totals (day date PRIMARY KEY, amount numeric)",
            """
            INSERT INTO daily_totals
            SELECT %(day)s::date, sum("amount"::numeric) FROM usage_by_day
            WHERE ("committedAt" AT TIME ZONE 'UTC')::date = %(day)s::date
            ON CONFLICT (day) DO UPDATE SET amount = excluded.amount
            """,
        ],
        parameters={"day": "{{ partition_key }}"},
    )
# [END usage_by_day]
