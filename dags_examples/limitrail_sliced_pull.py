# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pull a day of usage hour by hour, on as many machines as there are workers.

Needs two connections: ``limitrail_default`` and ``warehouse``, a database that takes several writers (Postgres here). ``root`` is
a folder that all workers share: a mounted one, or a bucket.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG, ObjectStoragePath, Param, task

from limio_limitrail.transfers.limitrail_to_object_storage import LimitRailToObjectStorageOperator
from limio_limitrail.transfers.limitrail_to_sql import LimitRailToSqlOperator

LANDED = """
CREATE TABLE IF NOT EXISTS usage_landed (
    "id" text PRIMARY KEY, "externalAccount" text, "operation" text, "amount" text, "committedAt" timestamptz
)
"""

# [START sliced_pull]
with DAG(
    dag_id="limitrail_sliced_pull",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={
        "day": Param("2026-03-01", type="string", format="date"),
        "root": Param("file:///mnt/shared/limitrail", type="string"),
    },
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
    doc_md=__doc__,
) as dag:

    @task
    def hours(params: dict[str, str]) -> list[dict[str, str]]:
        """Cut the day into hours, the same in every retry."""
        day = datetime.fromisoformat(params["day"] + "T00:00:00+00:00")
        starts = [day + timedelta(hours=hour) for hour in range(24)]
        return [{"since": start.isoformat(), "until": (start + timedelta(hours=1)).isoformat()} for start in starts]

    slices = hours()
    pull = {
        "resource": "usage",
        "scope": "limitrail.usage.read",  # a name made up here: LimitRail documents none for lists
        "slice_size": timedelta(minutes=5),
        # One request at a time each: at most eight at once for either task below, on however many workers.
        "max_active_tis_per_dagrun": 8,
    }

    LimitRailToSqlOperator.partial(
        task_id="usage", sql_conn_id="warehouse", table="usage", staging="{{ params.root }}/staging", **pull
    ).expand_kwargs(slices)
    # [END sliced_pull]

    # [START sliced_files]
    land = LimitRailToObjectStorageOperator.partial(
        task_id="land", destination="{{ params.root }}/usage", format="parquet", **pull
    ).expand_kwargs(slices)

    @task
    def load(landed: dict[str, Any]) -> int:
        """Put the parts of an hour into a table. Made again, it puts the same rows in the place of themselves."""
        import pandas as pd
        from airflow.providers.common.sql.hooks.sql import DbApiHook

        folder = ObjectStoragePath(landed["folder"])
        parts = json.loads(ObjectStoragePath(landed["manifest"]).read_text())["parts"]
        columns = ["id", "externalAccount", "operation", "amount", "committedAt"]
        rows: list[list[Any]] = []
        for part in parts:
            with (folder / part["name"]).open("rb") as file:
                rows += pd.read_parquet(file, columns=columns).to_numpy().tolist()
        quoted = [f'"{name}"' for name in columns]
        DbApiHook.get_hook("warehouse").insert_rows(
            "usage_landed", rows, quoted, executemany=True, replace=True, replace_index='"id"'
        )
        return len(rows)

    table = SQLExecuteQueryOperator(task_id="table", conn_id="warehouse", sql=LANDED, autocommit=True)
    table >> load.expand(landed=land.output)
    # [END sliced_files]
