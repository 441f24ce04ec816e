# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Keep Limio's subscriptions in a Delta table in a bucket.

Needs the extra ``dlt-delta`` and what dlt needs for the bucket (here ``dlt[s3]``), and two connections: ``limio_default`` (type
``limio``) and ``lake`` (type ``aws``).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Asset

from limio_limitrail.transfers.limio_to_dlt import LimioToDltOperator

# [START files]
with DAG(
    dag_id="limio_dlt_files",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={"root": "s3://lake@acme-lake/tables"},
    doc_md=__doc__,
) as dag:
    LimioToDltOperator(
        task_id="subscriptions",
        resource="subscriptions",
        destination="filesystem",
        bucket_url="{{ params.root }}",
        table_format="delta",
        dataset="limio",
        table="subscriptions",
        outlets=[Asset("lake/limio/subscriptions")],
    )
# [END files]
