# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Wait for baskets that somebody left with something in them, and go on with their ids. Needs ``limio_default``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from airflow.sdk import DAG, Param, task

from limio_limitrail.sensors.limio import LimioResourceSensor

# [START basket_wait]


def is_left(record: Mapping[str, Any]) -> bool:
    """Say which baskets count."""
    return not record["completed"] and bool(record["orderItems"])


with DAG(
    dag_id="limio_basket_wait",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"since": Param("2026-01-01", type="string", format="date")},
    doc_md=__doc__,
) as dag:
    left = LimioResourceSensor(
        task_id="left",
        resource="abandoned_baskets",
        since="{{ params.since }}",
        predicate=is_left,
        min_records=3,
        mode="reschedule",
        poke_interval=300,
        timeout=6 * 3600,
    )

    @task
    def go_on(found: dict[str, Any]) -> list[str]:
        """Do something with them."""
        return found["ids"]

    go_on(left.output)
# [END basket_wait]
