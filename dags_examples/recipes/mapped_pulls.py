# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One task for many lists, and one list in many slices of time."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, task

from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator
from limio_limitrail.transfers.limitrail_to_sql import LimitRailToSqlOperator

with DAG(
    dag_id="mapped_pulls",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"since": "2026-03-01", "until": "2026-04-01"},
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    # [START table_each]
    LISTS = {"customers": "customers", "events": "events", "catalog.product": "products"}
    LimioToSqlOperator.partial(
        task_id="lists", sql_conn_id="warehouse", page_size=1000, map_index_template="{{ task.table }}"
    ).expand_kwargs([{"resource": resource, "table": table} for resource, table in LISTS.items()])
    # [END table_each]

    # [START one_table]
    @task
    def weeks(params: dict[str, str]) -> list[dict[str, str]]:
        """Cut the time into weeks."""
        since, until = (datetime.fromisoformat(params[end] + "T00:00:00+00:00") for end in ("since", "until"))
        starts = [since + timedelta(days=day) for day in range(0, (until - since).days, 7)]
        return [{"since": start.isoformat(), "until": min(start + timedelta(days=7), until).isoformat()} for start in starts]

    LimitRailToSqlOperator.partial(
        task_id="usage",
        resource="usage",
        scope="limitrail.usage.read",  # a name made up here: LimitRail documents none for lists
        sql_conn_id="warehouse",
        table="usage",
        max_active_tis_per_dag=4,
    ).expand_kwargs(weeks())
    # [END one_table]
