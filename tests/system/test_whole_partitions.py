# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Late usage starts the Dag of its own day in a whole Airflow, and no other day's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from limio_limitrail.emulator import EmulatorServer

if TYPE_CHECKING:
    from tests.support.airflow_whole import WholeAirflow

EXAMPLE = Path(__file__).resolve().parents[2] / "dags_examples" / "limitrail_usage_by_day.py"
PRODUCER, CONSUMER = "limitrail_usage_by_day", "limitrail_daily_totals"


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
@pytest.mark.timeout(900)
def test_a_late_row_runs_its_own_day_again(
    whole_airflow: Callable[..., WholeAirflow],
    limio_emulator_factory: Callable[..., EmulatorServer],
    postgres_connection: dict[str, Any],
) -> None:
    emulator = limio_emulator_factory()
    airflow = whole_airflow()
    airflow.add_connection("limitrail_default", emulator.limitrail_connection_json())
    airflow.add_connection("warehouse", json.dumps(postgres_connection))
    shutil.copy(EXAMPLE, airflow.home.path / "dags")
    noon = datetime.now(tz=UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    days = [noon - timedelta(days=number) for number in (5, 4, 3)]
    emulator.limitrail.add_usage([{"committedAt": day.isoformat(), "amount": "1.50"} for day in days])
    airflow.unpause(CONSUMER)
    airflow.unpause(PRODUCER)

    def pull() -> None:
        run = airflow.trigger(PRODUCER)
        airflow.wait_for(lambda: airflow.runs(PRODUCER)[run] in {"success", "failed"}, "the pull has ended", seconds=120)
        assert airflow.runs(PRODUCER)[run] == "success", airflow.task_log(run, "usage")[-3000:]

    def totals() -> dict[str, str]:
        details = postgres_connection
        with psycopg.connect(host=details["host"], user=details["login"], dbname=details["schema"]) as connection:
            return {str(day): str(amount) for day, amount in connection.execute("SELECT day, amount FROM daily_totals")}

    def wait_for(count: int) -> None:
        airflow.wait_for(
            lambda: list(airflow.runs(CONSUMER).values()) == ["success"] * count, f"{count} days are summed up", seconds=180
        )

    pull()
    wait_for(3)
    assert totals() == {day.date().isoformat(): "1.50" for day in days}
    pull()  # changes nothing
    emulator.limitrail.add_usage([{"committedAt": (days[1] + timedelta(hours=1)).isoformat(), "amount": "2.25"}])
    pull()
    wait_for(4)
    assert totals() == {day.date().isoformat(): "3.75" if day == days[1] else "1.50" for day in days}
    found = airflow.query("SELECT partition_key FROM asset_event ORDER BY id")
    assert sorted(key for (key,) in found[:3]) == sorted(day.date().isoformat() for day in days)
    assert found[3:] == [(days[1].date().isoformat(),)]
