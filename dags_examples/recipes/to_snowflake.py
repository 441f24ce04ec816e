# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Land subscriptions on S3, and let Snowflake load them.

Needs ``apache-airflow-providers-snowflake`` and ``apache-airflow-providers-amazon[s3fs]``, the connections ``limio_default``,
``aws_default`` and ``snowflake_default``, a table ``subscriptions``, and a stage ``lake`` whose URL is that of ``LAKE``.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.snowflake.transfers.copy_into_snowflake import CopyFromExternalStageToSnowflakeOperator
from airflow.sdk import DAG, ObjectStoragePath, task

from limio_limitrail.transfers.limio_to_object_storage import LimioToObjectStorageOperator

# [START to_snowflake]
LAKE = "s3://aws_default@my-lake/limio"

with DAG(
    dag_id="to_snowflake",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    land = LimioToObjectStorageOperator(
        task_id="land", resource="subscriptions", destination=LAKE, format="jsonl", page_size=1000
    )

    @task.short_circuit
    def files(landed: dict[str, Any]) -> list[str]:
        """Give the run's parts, as the stage names them. Where there are none, nothing is loaded."""
        manifest = json.loads(ObjectStoragePath(landed["manifest"]).read_text())
        folder = landed["folder"].removeprefix(f"{LAKE}/")
        return [f"{folder}/{part['name']}" for part in manifest["parts"]]

    # A truncated table forgets which files it has loaded, so that a run made again loads its files again.
    empty = SQLExecuteQueryOperator(
        task_id="empty", conn_id="snowflake_default", sql="TRUNCATE TABLE subscriptions", autocommit=True
    )
    found = files(land.output)
    load = CopyFromExternalStageToSnowflakeOperator(
        task_id="load",
        table="subscriptions",
        stage="lake",
        files=found,
        file_format="(TYPE = 'JSON' COMPRESSION = 'ZSTD')",
        copy_options="MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE",
    )
    found >> empty >> load
# [END to_snowflake]
