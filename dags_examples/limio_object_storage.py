# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Land Limio records as files: for a warehouse's own bulk loader, or to keep what came each night."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow.sdk import DAG, Asset

from limio_limitrail.transfers.limio_to_object_storage import LimioToObjectStorageOperator

if TYPE_CHECKING:
    import pandas as pd


# [START transform]
def without_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep who a customer is out of the files."""
    return frame.drop(columns=["name", "data"])


# [END transform]

with DAG(
    dag_id="limio_object_storage",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    params={"root": "file:///tmp/limio"},
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    # [START jsonl]
    LimioToObjectStorageOperator(
        task_id="orders",
        resource="orders",
        destination="{{ params.root }}",
        format="jsonl",
        page_size=1000,
    )
    # [END jsonl]
    # [START parquet]
    LimioToObjectStorageOperator(
        task_id="customers",
        resource="customers",
        destination="{{ params.root }}",
        format="parquet",
        transform=without_names,
        page_size=1000,
    )
    # [END parquet]
    # [START baskets]
    LimioToObjectStorageOperator(
        task_id="abandoned_baskets",
        resource="abandoned_baskets",
        destination="{{ params.root }}",
        incremental=True,
        since="2026-01-01T00:00:00Z",
        overlap=timedelta(days=1),
        outlets=[Asset("lake/abandoned_baskets")],
    )
    # [END baskets]
