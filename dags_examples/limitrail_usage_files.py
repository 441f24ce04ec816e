# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Wait until LimitRail lists usage of the day, land it as files, and add it up. Needs the connection ``limitrail_default``."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from airflow.sdk import DAG, task

from limio_limitrail.hooks.limitrail import LimitRailHook
from limio_limitrail.sensors.limitrail import LimitRailResourceSensor
from limio_limitrail.transfers.limitrail_to_object_storage import LimitRailToObjectStorageOperator

with DAG(
    dag_id="limitrail_usage_files",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    params={"root": "file:///tmp/limitrail"},
    doc_md=__doc__,
) as dag:
    # [START day]
    # The day before the run, the same in every retry.
    day = {
        "since": "{{ (dag_run.run_after - macros.timedelta(days=1)).isoformat() }}",
        "until": "{{ dag_run.run_after.isoformat() }}",
    }
    # [END day]
    # [START usage_wait]
    listed = LimitRailResourceSensor(
        task_id="listed",
        resource="usage",
        scope="limitrail.usage.read",  # a name made up here: LimitRail documents none for lists
        **day,
        min_records=1,
        poke_interval=60,
        timeout=3600,
        deferrable=True,
    )
    # [END usage_wait]
    # [START usage_files]
    land = LimitRailToObjectStorageOperator(
        task_id="land",
        resource="usage",
        scope="limitrail.usage.read",  # a name made up here: LimitRail documents none for lists
        **day,
        slice_size=timedelta(hours=6),
        destination="{{ params.root }}",
        format="parquet",
    )
    # [END usage_files]

    # [START usage_hook]
    @task
    def total(landed: dict[str, str]) -> str:
        # The scope's name is made up here: LimitRail documents none for lists.
        hook = LimitRailHook("limitrail_default", scope="limitrail.usage.read")
        span = {end: datetime.fromisoformat(landed[end]) for end in ("since", "until")}
        rows = hook.iter_records("usage", slice_size=timedelta(hours=6), **span)
        return str(sum(Decimal(str(row["amount"])) for row in rows))

    # [END usage_hook]
    listed >> land
    total(land.output)
