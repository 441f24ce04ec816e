# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How long an API may ask to be left alone: a day, wherever something waits for it. That it asked for longer is said."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSensorTimeout, TaskDeferred

from limio_limitrail.emulator import Fault, Reply
from limio_limitrail.polling.conditions import ObjectCondition, condition_to_json
from limio_limitrail.sensors.limio import LimioObjectSensor
from limio_limitrail.triggers.limio import LimioResourceEventTrigger, LimioWaitTrigger

pytestmark = pytest.mark.usefixtures("connected")

DAY = 86_400.0
MONTH = 40 * DAY
TOO_LONG = ["86402", "999999999999", "9" * 40, "Fri, 31 Dec 9999 23:59:59 GMT", "Wed, 01 Jan 2200 00:00:00 GMT"]
CONTEXT: Any = {"ti": SimpleNamespace(try_number=1, get_first_reschedule_date=lambda context: None)}
SAYS = "of which at most 86400 s are waited"


class Asyncio:
    """Stands for the module ``asyncio`` in a module of triggers: it notes how long somebody wants to sleep, and is quick."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(min(seconds, 0.01))

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    stand_in = Asyncio()
    monkeypatch.setattr("limio_limitrail.triggers.poll_loops.asyncio", stand_in)
    return stand_in.slept


def trigger(**more: Any) -> LimioWaitTrigger:
    given: dict[str, Any] = {
        "limio_conn_id": "limio_default",
        "condition": condition_to_json(ObjectCondition(path_type="orders", object_id="one")),
        "poke_interval": 0.1,
        "deadline": time.time() + MONTH,
        "max_transient_failures": 5,
    }
    return LimioWaitTrigger(**given | more)


def event_of(one: LimioWaitTrigger) -> dict[str, Any]:
    async def run() -> list[dict[str, Any]]:
        return [event.payload async for event in one.run()]

    [event] = asyncio.run(asyncio.wait_for(run(), 60))
    return dict(event)


@pytest.mark.parametrize("asked", TOO_LONG)
@pytest.mark.parametrize("status", [429, 503])
def test_a_trigger_looks_again_after_a_day(script, sleeps, capsys, status, asked):
    script.answers["one"] = [Reply(status, b"{}", {"Retry-After": asked}), "active"]
    assert event_of(trigger())["kind"] == "found"
    assert DAY <= max(sleeps) <= DAY + 1
    assert capsys.readouterr().out.count(SAYS) == 1


@pytest.mark.parametrize("asked", ["100", "86400"])
def test_a_trigger_waits_for_less_as_it_is_told_and_says_nothing_more(script, sleeps, capsys, asked):
    script.answers["one"] = [Reply(429, b"{}", {"Retry-After": asked}), "active"]
    assert event_of(trigger())["kind"] == "found"
    assert max(sleeps) >= float(asked)
    assert SAYS not in capsys.readouterr().out


@pytest.mark.parametrize("asked", TOO_LONG)
def test_a_token_endpoint_that_asks_for_too_long(script, limio_emulator, sleeps, capsys, asked):
    script.answers["one"] = ["active"]
    limio_emulator.faults.add(Fault("status", match="/oauth2", status=429, headers={"Retry-After": asked}))
    assert event_of(trigger())["kind"] == "found"
    assert DAY <= max(sleeps) <= DAY + 1
    assert SAYS in capsys.readouterr().out


@pytest.mark.parametrize("asked", TOO_LONG)
def test_a_wait_that_has_less_than_a_day_left_ends_at_once_and_says_why(script, asked):
    script.answers["one"] = [Reply(429, b"{}", {"Retry-After": asked}), "active"]
    event = event_of(trigger(deadline=time.time() + DAY / 2))
    assert event["kind"] == "timeout"
    assert SAYS in event["message"]


@pytest.mark.parametrize("ahead", [2 * DAY, 1e12, 1e300])
def test_a_trigger_that_is_made_to_begin_too_late_begins_after_a_day(script, sleeps, ahead):
    """As one would be that an older version has made, or where a clock was put right."""
    script.answers["one"] = ["active"]
    assert event_of(trigger(not_before=time.time() + ahead))["kind"] == "found"
    assert DAY <= max(sleeps) <= DAY + 1


@pytest.mark.parametrize("asked", TOO_LONG)
def test_a_watch_looks_again_after_a_day(limio_emulator, sleeps, caplog, asked):
    limio_emulator.faults.add(Fault("status", match="/api", status=429, headers={"Retry-After": asked}))
    watch = LimioResourceEventTrigger(resource="abandoned_baskets", poke_interval=0.05)

    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records if "Polling abandoned_baskets failed" in record.getMessage()]

    async def scenario() -> None:
        async def run() -> None:
            async for _ in watch.run():
                pass

        running = asyncio.create_task(run())
        end = time.monotonic() + 60
        while not (said() and limio_emulator.counters.by_status.get(200, 0) > 2):
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
    [told] = said()
    assert SAYS in told
    assert told.endswith("Retrying in 86400 s.")
    assert DAY <= max(sleeps) <= DAY + 1


# -- on a worker ---------------------------------------------------------------------------------------------------


def sensor(**more: Any) -> LimioObjectSensor:
    given = {"task_id": "wait", "path_type": "orders", "object_id": "one", "poke_interval": 0.1, "timeout": 2 * DAY}
    return LimioObjectSensor(**{**given, **more})


@pytest.mark.parametrize("timeout", [2 * DAY, 1e11])
@pytest.mark.parametrize("asked", TOO_LONG)
def test_a_sensor_is_rescheduled_for_a_day_later(script, capsys, asked, timeout):
    script.answers["one"] = [Reply(429, b"{}", {"Retry-After": asked})]
    with pytest.raises(AirflowRescheduleException) as caught:
        sensor(mode="reschedule", timeout=timeout).execute(CONTEXT)
    later = caught.value.reschedule_date - datetime.now(tz=UTC)
    assert timedelta(hours=23) < later <= timedelta(days=1, seconds=1)
    assert SAYS in capsys.readouterr().out


@pytest.mark.parametrize("asked", TOO_LONG)
def test_a_sensor_that_has_less_than_a_day_left_times_out(script, asked):
    script.answers["one"] = [Reply(429, b"{}", {"Retry-After": asked})]
    with pytest.raises(AirflowSensorTimeout, match="the API asked to wait"):
        sensor(mode="reschedule", timeout=DAY / 2).execute(CONTEXT)


@pytest.mark.parametrize("asked", TOO_LONG)
def test_a_sensor_sleeps_for_no_longer_than_a_day(script, monkeypatch, asked):
    slept: list[float] = []
    monkeypatch.setattr("airflow.sdk.bases.sensor.time", SimpleNamespace(sleep=slept.append, monotonic=time.monotonic))
    script.answers["one"] = [Reply(429, b"{}", {"Retry-After": asked}), "active"]
    assert sensor(mode="poke").execute(CONTEXT)["status"] == "active"
    assert slept == [DAY]


@pytest.mark.parametrize("asked", TOO_LONG)
def test_a_first_look_that_is_asked_to_wait_makes_a_trigger_that_begins_within_a_day(script, asked):
    script.answers["one"] = [Reply(429, b"{}", {"Retry-After": asked})]
    with pytest.raises(TaskDeferred) as caught:
        sensor(deferrable=True).execute(CONTEXT)
    assert 0 < caught.value.trigger.spec.not_before - time.time() <= DAY
