# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A pull whose outlet is a Limio list, and a Dag that begins when it has come."""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, task

from limio_limitrail.assets.uris import create_limio_asset
from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator

SUBSCRIPTIONS = create_limio_asset(host="acme.prod.limio.com", resource="subscriptions")

with DAG("pull_subscriptions", schedule=None, start_date=datetime(2026, 1, 1)):
    LimioToSqlOperator(
        task_id="pull",
        limio_conn_id="limio_pages",
        resource="subscriptions",
        sql_conn_id="warehouse",
        table="landed",
        outlets=[SUBSCRIPTIONS],
    )

with DAG("report_subscriptions", schedule=[SUBSCRIPTIONS], start_date=datetime(2026, 1, 1), is_paused_upon_creation=False):

    @task
    def report() -> str:
        """Do what is to be done when the list has been pulled."""
        return "reported"

    report()
