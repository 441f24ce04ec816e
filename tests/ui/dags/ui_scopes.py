# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A commit of usage by a client that may only read."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG

from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator
from limio_limitrail.usage import Column

with DAG("usage_without_scope", schedule=None, start_date=datetime(2026, 1, 1)):
    LimitRailCommitUsageOperator(
        task_id="commit_usage",
        limitrail_conn_id="limitrail_reader",
        sql_conn_id="warehouse",
        sql="SELECT 'one' AS id, 'acme' AS account, 1.5 AS amount",
        key_columns=["id"],
        ledger_table="ledger_without_scope",
        body={"externalAccount": Column("account"), "operation": "API_CALL", "amount": Column("amount"), "currency": "EUR"},
        retries=2,
        retry_delay=timedelta(seconds=1),
    )
