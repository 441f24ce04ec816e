# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Keep files on S3, and let loads wait there: a retry then goes on from another worker, too."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG

from limio_limitrail.transfers.limio_to_object_storage import LimioToObjectStorageOperator
from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator

with DAG(
    dag_id="by_way_of_s3",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    # [START by_way_of_s3]
    LimioToObjectStorageOperator(
        task_id="orders",
        resource="orders",
        destination="s3://lake@my-lake/limio",
        format="parquet",
        page_size=1000,
    )
    LimioToSqlOperator(
        task_id="subscriptions",
        resource="subscriptions",
        sql_conn_id="warehouse",
        table="subscriptions",
        staging="s3://lake@my-lake/limio/staging",
        page_size=1000,
    )
    # [END by_way_of_s3]
