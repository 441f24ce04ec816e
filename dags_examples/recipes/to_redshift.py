# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Land abandoned baskets on S3, and let Redshift merge them.

Needs ``apache-airflow-providers-amazon[s3fs]``, the connections ``limio_default``, ``aws_default`` and ``redshift_default``, and
a table ``abandoned_baskets`` in the schema ``limio``: its columns in lower case, nested values as ``SUPER``.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.amazon.aws.transfers.s3_to_redshift import S3ToRedshiftOperator
from airflow.sdk import DAG, Asset, task

from limio_limitrail.transfers.limio_to_object_storage import LimioToObjectStorageOperator

# [START to_redshift]
with DAG(
    dag_id="to_redshift",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    land = LimioToObjectStorageOperator(
        task_id="land",
        resource="abandoned_baskets",
        destination="s3://aws_default@my-lake/limio",
        format="jsonl",
        drop_columns=["recoveryLink"],
        incremental=True,
        since="2020-01-01",
        overlap=timedelta(days=14),
        outlets=[Asset("lake/abandoned_baskets")],
    )

    @task.short_circuit
    def any_parts(landed: dict[str, Any]) -> bool:
        """Where nothing came, there is nothing to load, and Redshift takes a key without objects for an error."""
        return landed["parts"] > 0

    load = S3ToRedshiftOperator(
        task_id="load",
        schema="limio",
        table="abandoned_baskets",
        s3_bucket="my-lake",
        s3_key="{{ ti.xcom_pull('land')['folder'].removeprefix('s3://aws_default@my-lake/') }}/part-",
        copy_options=["FORMAT AS JSON 'auto ignorecase'", "ZSTD"],
        method="UPSERT",
        upsert_keys=["id"],
    )
    any_parts(land.output) >> load
# [END to_redshift]
