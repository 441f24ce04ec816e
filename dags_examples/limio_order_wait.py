# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Wait until an order's processing has ended well, without holding a worker, and fail at once if it has ended badly.

Limio accepts an order before it is processed: only its process event tells how that ended. Needs the connection
``limio_default``. Trigger it with the id of a process event: ``{"process_id": "process_event-..."}``.
"""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, Param, task

from limio_limitrail.sensors.limio import LimioObjectSensor

# [START order_wait]
with DAG(
    dag_id="limio_order_wait",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"process_id": Param(type="string")},
    doc_md=__doc__,
) as dag:
    processed = LimioObjectSensor(
        task_id="processed",
        path_type="process",
        object_id="{{ params.process_id }}",
        target_statuses=["processed"],
        failed_statuses=["failed"],  # Limio's word for it is not documented: look what your tenant says
        poke_interval=30,
        timeout=3600,
        deferrable=True,
    )

    @task
    def hand_over(found: dict[str, str]) -> None:
        """Go on with the order."""
        print(f"{found['id']} is {found['status']}")

    hand_over(processed.output)
# [END order_wait]
