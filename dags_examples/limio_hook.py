# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Use the hook by itself: a frame, a count, and an endpoint that the table of resources does not know."""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, task

from limio_limitrail.api.resource import Resource
from limio_limitrail.hooks.limio import LimioHook

# [START own_resource]
SCHEDULES_OF_ZUORA = Resource(
    name="zuora_schedules",
    path="/objects/zuora/schedules",
    time_column="updated",
    timestamps=("created", "updated"),
)
# [END own_resource]

with DAG(dag_id="limio_hook", schedule=None, start_date=datetime(2026, 1, 1), doc_md=__doc__) as dag:
    # [START hook]
    @task
    def plans() -> list[tuple[str, int]]:
        hook = LimioHook("limio_default")
        frame = hook.get_df("subscriptions", flatten=True, page_size=1000)
        return [(str(plan), int(rows)) for plan, rows in frame["data.name"].value_counts().items()]

    @task
    def counts() -> dict[str, int]:
        hook = LimioHook()
        return {"offers": hook.count("published_catalog.offers2"), "schedules": hook.count(SCHEDULES_OF_ZUORA)}

    # [END hook]
    plans()
    counts()
