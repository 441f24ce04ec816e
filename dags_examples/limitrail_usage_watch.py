# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Start a Dag when LimitRail lists usage that was not there before. Needs the connection ``limitrail_default``."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Asset, AssetWatcher, get_current_context, task

from limio_limitrail.polling import new_events
from limio_limitrail.triggers.limitrail import LimitRailResourceEventTrigger

# [START usage_watch]
usage = Asset(
    "limitrail/usage",
    watchers=[
        AssetWatcher(
            name="usage",
            trigger=LimitRailResourceEventTrigger(
                resource="usage",
                scope="limitrail.usage.read",  # a name made up here: LimitRail documents none for lists
                poke_interval=timedelta(minutes=1),
                overlap=timedelta(minutes=10),
            ),
        )
    ],
)

with DAG(
    dag_id="limitrail_usage_watch", schedule=[usage], start_date=datetime(2026, 1, 1), max_active_runs=1, doc_md=__doc__
) as dag:

    @task(inlets=[usage])
    def how_many() -> int:
        """Count what is new."""
        return sum(news.count for news in new_events(get_current_context(), usage))

    how_many()
# [END usage_watch]
