# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Commit each night's usage, send a mail if a green run is degraded, and another if it is not done by six o'clock.

Needs three connections: ``limitrail_default`` (type ``limitrail``), ``warehouse`` (DuckDB here) and ``smtp_default``. The names
of the request's members are assumed: LimitRail's public pages do not show them.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import DAG, Asset, AsyncCallback, DeadlineAlert, DeadlineReference

from limio_limitrail.notifications.degraded import DegradedNotifier
from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator
from limio_limitrail.usage import Column

# Your own meters stand here.
USAGE_ROWS = """
CREATE OR REPLACE TABLE nightly_usage AS
SELECT
    'sub-' || n AS subscription_id,
    DATE '{{ dag_run.run_after | ds }}' AS day,
    'acme-' || n % 5 AS account,
    CAST(n / 4.0 AS DECIMAL(9, 2)) AS amount
FROM range(25) AS numbers(n)
"""

# [START deadline]
NOT_BY_SIX = DeadlineAlert(
    reference=DeadlineReference.DAGRUN_LOGICAL_DATE,  # 02:00
    interval=timedelta(hours=4),
    callback=AsyncCallback(
        SmtpNotifier,
        kwargs={"to": "billing@example.com", "subject": "Usage is not committed", "html_content": "Not done by 06:00 UTC."},
    ),
)
# [END deadline]

# [START degraded]
DEGRADED = DegradedNotifier(
    SmtpNotifier(to="billing@example.com", subject="{{ degraded.title }}", html_content="{{ degraded.html }}")
)

with DAG(
    dag_id="limitrail_watched_commit",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    deadline=NOT_BY_SIX,
    doc_md=__doc__,
) as dag:
    usage_rows = SQLExecuteQueryOperator(
        task_id="usage_rows", conn_id="warehouse", sql=USAGE_ROWS, autocommit=True, do_xcom_push=False
    )
    commit_usage = LimitRailCommitUsageOperator(
        task_id="commit_usage",
        sql_conn_id="warehouse",
        sql="SELECT * FROM nightly_usage ORDER BY subscription_id",
        key_columns=["subscription_id", "day"],
        body={"externalAccount": Column("account"), "operation": "API_CALL", "amount": Column("amount")},
        max_rejected="5%",
        warn_rejected=0,
        warn_denied="1%",
        warn_no_rows=True,
        warn_fewer_rows="50%",
        warn_slower="300%",
        on_success_callback=DEGRADED,
        outlets=[Asset("warehouse/limitrail_usage_ledger")],
    )
    usage_rows >> commit_usage
# [END degraded]
