# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Triggers that other versions have made, in Airflow's own processes."""

from __future__ import annotations

import json
import os
import signal
import textwrap
import time
from typing import Any

import pytest

QUICK = {"AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1"}


@pytest.mark.exhaustive
def test_a_triggerer_that_is_of_another_version_than_the_waits(home, limio_emulator):
    """Older waits go on, newer ones are told as such, and neither stops it."""
    limio_emulator.put_records(
        "objects/limio/orders", [{"id": f"order-{number}", "status": "active", "record_type": "order"} for number in range(4)]
    )
    tasks = {"older": 0, "newer": 1, "comet": 2, "now": 3}
    home.write_dag(
        "\n".join(
            f'LimioObjectSensor(task_id="{name}", path_type="orders", object_id="order-{number}")'
            for name, number in tasks.items()
        )
    )
    home.do("defer_all", "pull", run_id="one", interval=0.5, seconds=240.0)

    def remake(task_id: str, *, without: list[str], **more: Any) -> Any:
        return home.do("remake_trigger", "pull", run_id="one", task_id=task_id, without=without, more=more).result

    remake("older", without=["format_version", "failures", "not_before"])
    remake("newer", without=[], format_version=2)
    made = remake("comet", without=[])
    remake("comet", without=list(made), format_version=2, comet={"tail": 1})

    triggerer = home.service("triggerer", **QUICK)
    try:
        end = time.monotonic() + 120
        while True:
            found = home.do("deferred", "pull", run_id="one").result
            if all(one["state"] != "deferred" for one in found.values()):
                break
            assert time.monotonic() < end, (found, (home.path / "triggerer.log").read_text()[-3000:])
            time.sleep(0.5)
        assert triggerer.poll() is None
    finally:
        os.killpg(triggerer.pid, signal.SIGKILL)
        triggerer.wait(timeout=300)

    for name, number in tasks.items():
        told = json.dumps(found[name]["told"])
        assert found[name]["state"] == "scheduled", (name, found[name])
        if name in ("older", "now"):
            assert '"found"' in told, (name, told)
            assert f'"order-{number}"' in told
        else:
            assert '"no_answer"' in told, (name, told)
            assert "has format 2, and this version reads format 1" in told


def test_airflow_replaces_the_trigger_of_a_watch_that_an_older_version_has_made(home):
    """Where the watch stands is the asset's, under a key that its format has no part in: `test_events_kept` pins it."""
    text = """
        from airflow.sdk import AssetWatcher
        from limio_limitrail.triggers.limio import LimioResourceEventTrigger

        trigger = LimioResourceEventTrigger(resource="abandoned_baskets")
        baskets = Asset("limio/baskets", watchers=[AssetWatcher(name="baskets", trigger=trigger)])
        with DAG("follow_up", schedule=[baskets], start_date=datetime(2026, 1, 1), is_paused_upon_creation=False):

            @task
            def note():
                pass

            note()
        """
    home.write_dag("pass")
    (home.path / "dags" / "watch.py").write_text(
        "from datetime import datetime\nfrom airflow.sdk import DAG, Asset, task\n" + textwrap.dedent(text)
    )
    # Airflow takes watchers in once their Dag is active, which it is after the first time.
    home.do("sync_watches")
    [now] = home.do("sync_watches").result["watched"]
    assert now["format_version"] == 1
    former = {name: value for name, value in now.items() if name != "format_version"}
    home.do("sync_watches", former=[former])
    # Airflow 3.3.2 takes the former one away, and puts the new one there when it reads the Dag file the next time.
    assert home.do("sync_watches").result == {"watched": [now], "all": [now]}
