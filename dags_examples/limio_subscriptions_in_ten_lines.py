# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The shortest useful Dag: a tenant's subscriptions in a table."""

# [START ten_lines]
from datetime import datetime

from airflow.sdk import DAG

from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator

with DAG("limio_subscriptions", schedule="@daily", start_date=datetime(2026, 1, 1), catchup=False) as dag:
    LimioToSqlOperator(
        task_id="subscriptions", resource="subscriptions", sql_conn_id="warehouse", table="subscriptions", retries=2
    )
# [END ten_lines]
