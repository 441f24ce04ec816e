# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Land subscriptions on Cloud Storage, and let BigQuery load them.

Needs ``apache-airflow-providers-google`` and the connections ``limio_default`` and ``google_cloud_default``.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.google.cloud.transfers.gcs_to_bigquery import GCSToBigQueryOperator
from airflow.sdk import DAG, ObjectStoragePath, task

from limio_limitrail.transfers.limio_to_object_storage import LimioToObjectStorageOperator

if TYPE_CHECKING:
    import pandas as pd

# [START to_bigquery]
LAKE = "gs://google_cloud_default@my-lake"
TYPES = {"id": "STRING", "status": "STRING", "created": "TIMESTAMP", "updated": "TIMESTAMP", "data": "STRING"}


def same_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Give every part the same columns in the same order."""
    return frame.reindex(columns=list(TYPES))


with DAG(
    dag_id="to_bigquery",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    land = LimioToObjectStorageOperator(
        task_id="land",
        resource="subscriptions",
        destination=f"{LAKE}/limio",
        format="parquet",
        transform=same_columns,
        page_size=1000,
    )

    @task.short_circuit
    def files(landed: dict[str, Any]) -> list[str]:
        """Give the run's parts, as the bucket names them. Where there are none, nothing is loaded."""
        manifest = json.loads(ObjectStoragePath(landed["manifest"]).read_text())
        folder = landed["folder"].removeprefix(f"{LAKE}/")
        return [f"{folder}/{part['name']}" for part in manifest["parts"]]

    load = GCSToBigQueryOperator(
        task_id="load",
        bucket="my-lake",
        source_objects=files(land.output),
        source_format="PARQUET",
        destination_project_dataset_table="limio.subscriptions",
        schema_fields=[{"name": name, "type": kind, "mode": "NULLABLE"} for name, kind in TYPES.items()],
        write_disposition="WRITE_TRUNCATE",
    )
# [END to_bigquery]
