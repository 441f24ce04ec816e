# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Late usage starts the Dag of its own day, and no other day's."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from limio_limitrail.emulator import EmulatorServer
from tests.support.airflow_whole import WholeAirflow

PRODUCER, CONSUMER = "limitrail_usage_by_day", "limitrail_daily_totals"


def check_late_usage(airflow: WholeAirflow, emulator: EmulatorServer, warehouse: dict[str, Any]) -> None:
    """:param warehouse: a Postgres database, as the fields of a connection."""
    airflow.add_connection("limitrail_of_late_usage", emulator.limitrail_connection_json())
    airflow.add_connection("warehouse_of_late_usage", json.dumps(warehouse))
    airflow.write_example(
        "limitrail_usage_by_day.py",
        ('"warehouse"', '"warehouse_of_late_usage"'),
        ('task_id="usage",', 'task_id="usage", limitrail_conn_id="limitrail_of_late_usage",'),
    )
    noon = datetime.now(tz=UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    days = [noon - timedelta(days=number) for number in (5, 4, 3)]
    emulator.limitrail.add_usage([{"committedAt": day.isoformat(), "amount": "1.50"} for day in days])
    airflow.unpause(CONSUMER)
    airflow.unpause(PRODUCER)

    def pull() -> None:
        run = airflow.trigger(PRODUCER)
        airflow.wait_for(lambda: airflow.runs(PRODUCER)[run] in {"success", "failed"}, "the pull has ended")
        assert airflow.runs(PRODUCER)[run] == "success", airflow.task_log(run, "usage")[-3000:]

    def totals() -> dict[str, str]:
        with psycopg.connect(host=warehouse["host"], user=warehouse["login"], dbname=warehouse["schema"]) as connection:
            return {str(day): str(amount) for day, amount in connection.execute("SELECT day, amount FROM daily_totals")}

    def wait_for(count: int) -> None:
        airflow.wait_for(lambda: list(airflow.runs(CONSUMER).values()) == ["success"] * count, f"{count} days are summed up")

    pull()
    wait_for(3)
    assert totals() == {day.date().isoformat(): "1.50" for day in days}
    pull()  # changes nothing
    emulator.limitrail.add_usage([{"committedAt": (days[1] + timedelta(hours=1)).isoformat(), "amount": "2.25"}])
    pull()
    wait_for(4)
    assert totals() == {day.date().isoformat(): "3.75" if day == days[1] else "1.50" for day in days}
    found = airflow.query("SELECT partition_key FROM asset_event WHERE source_dag_id = %s ORDER BY id", PRODUCER)
    assert sorted(key for (key,) in found[:3]) == sorted(day.date().isoformat() for day in days)
    assert found[3:] == [(days[1].date().isoformat(),)]
