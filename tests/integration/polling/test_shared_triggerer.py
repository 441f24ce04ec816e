# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A real triggerer with forty waits at a host that drips and forty at a good one: these end, and so does the triggerer."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.support.bad_hosts import bad_host

WAITS = 40
FEW = 8
QUICK = {"AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1", "AIRFLOW__TRIGGERER__DEFAULT_CAPACITY": "200"}


def until(what: Callable[[], bool], *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


@pytest.mark.exhaustive
def test_forty_waits_that_hang_beside_forty_good_ones_in_a_real_triggerer(make_home, limio_emulator):
    with bad_host("a byte at a time") as host:
        known = json.loads(limio_emulator.airflow_connection_json(auth_url=f"{limio_emulator.url}/oauth2/token"))
        home = make_home(limio_emulator, bad={**known, "host": host.url})
        orders = [{"id": f"order-{number}", "status": "active"} for number in range(WAITS)]
        limio_emulator.put_records("objects/limio/orders", [])
        home.write_dag(
            f"""
            for name, conn_id in (("bad", "bad"), ("good", "limio_default")):
                for number in range({WAITS}):
                    LimioObjectSensor(
                        task_id=f"{{name}}_{{number}}", path_type="orders", object_id=f"order-{{number}}", limio_conn_id=conn_id
                    )
            """
        )
        home.write_dag(
            """
            for number in range(3):
                LimioObjectSensor(task_id=f"short_{number}", path_type="orders", object_id="one", limio_conn_id="bad")
            """,
            dag_id="short",
            name="short",
        )
        home.do("defer_all", "pull", run_id="one", interval=1.0, seconds=600.0)
        home.do("defer_all", "short", run_id="one", interval=1.0, seconds=30.0)

        def ended(dag_id: str = "pull") -> list[str]:
            states = home.do("deferred", dag_id, run_id="one").result
            return sorted(name for name, found in states.items() if found["state"] != "deferred")

        triggerer = home.service("triggerer", **QUICK)
        log = home.path / "triggerer.log"
        try:
            assert until(lambda: host.under_way > 0, seconds=90), log.read_text()[-3000:]
            limio_emulator.put_records("objects/limio/orders", orders)
            assert until(lambda: len(ended()) >= WAITS, seconds=90), log.read_text()[-3000:]
            assert ended() == sorted(f"good_{number}" for number in range(WAITS))
            assert 1 <= host.most <= FEW
            # Some that hang, too, had less time.
            assert until(lambda: len(ended("short")) == 3, seconds=90), log.read_text()[-3000:]
            assert len(ended()) == WAITS
            # What hangs does not keep the process from ending.
            os.kill(triggerer.pid, signal.SIGTERM)
            assert until(lambda: triggerer.poll() is not None, seconds=60), log.read_text()[-3000:]
        finally:
            if triggerer.poll() is None:
                os.killpg(triggerer.pid, signal.SIGKILL)
            triggerer.wait(timeout=300)
        states = home.do("deferred", "short", run_id="one").result
        assert all('"timeout"' in json.dumps(one["told"]) for one in states.values())
        states = home.do("deferred", "pull", run_id="one").result
        assert all('"found"' in json.dumps(states[f"good_{number}"]["told"]) for number in range(WAITS))
