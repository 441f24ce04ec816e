# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A real triggerer, killed in the middle of a hundred waits: another one takes them over, and all end right."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable

import pytest

WAITS = 100
QUICK = {
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "4",
    "AIRFLOW__TRIGGERER__DEFAULT_CAPACITY": "200",
}


def orders(numbers):
    return [{"id": f"order-{number}", "status": "active", "record_type": "order"} for number in numbers]


def until(what: Callable[[], bool], *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


@pytest.mark.exhaustive
def test_a_killed_triggerer_loses_no_wait(home, limio_emulator):
    limio_emulator.put_records("objects/limio/orders", [])
    home.write_dag(
        f"""
        for number in range({WAITS}):
            LimioObjectSensor(
                task_id=f"wait_{{number}}", path_type="orders", object_id=f"order-{{number}}", target_statuses=["ACTIVE"]
            )
        """
    )
    home.do("defer_all", "pull", run_id="one", interval=1.0, seconds=240.0)
    tokens = limio_emulator.counters.snapshot()["tokens_minted"]

    def states():
        return home.do("deferred", "pull", run_id="one").result

    def ended():
        return [name for name, found in states().items() if found["state"] != "deferred"]

    def looked():
        return limio_emulator.counters.snapshot()["by_status"].get("404", 0)

    triggerer = home.service("triggerer", **QUICK)
    try:
        log = home.path / "triggerer.log"
        assert until(lambda: looked() >= WAITS, seconds=90), log.read_text()[-3000:]
        assert ended() == []
        limio_emulator.put_records("objects/limio/orders", orders(range(0, WAITS, 2)))
        assert until(lambda: len(ended()) >= WAITS // 5, seconds=60), log.read_text()[-3000:]
        os.killpg(triggerer.pid, signal.SIGKILL)
        triggerer.wait(timeout=300)
        limio_emulator.put_records("objects/limio/orders", orders(range(WAITS)))
        triggerer = home.service("triggerer", **QUICK)
        assert until(lambda: len(ended()) == WAITS, seconds=120), log.read_text()[-3000:]
    finally:
        os.killpg(triggerer.pid, signal.SIGKILL)
        triggerer.wait(timeout=300)

    for name, found in states().items():
        number = name.removeprefix("wait_")
        told = json.dumps(found["told"])
        assert found["state"] == "scheduled", (name, found)
        assert '"found"' in told, (name, told)
        assert f'"order-{number}"' in told
        for token in limio_emulator.minted_tokens:
            assert token not in told
    # One token for each triggerer process, however many waits.
    assert limio_emulator.counters.snapshot()["tokens_minted"] - tokens <= 2
    text = (home.path / "triggerer.log").read_text()
    assert "Connection pool is full" not in text
    assert not any(token in text for token in limio_emulator.minted_tokens)
    assert limio_emulator.client_secret not in text
