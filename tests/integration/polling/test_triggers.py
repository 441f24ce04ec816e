# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Triggers in an event loop of the test's own."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
import types
from typing import Any

import pytest
from airflow.models.trigger import Trigger
from airflow.sdk.execution_time import task_runner
from airflow.sdk.serde import deserialize, serialize
from asgiref.sync import async_to_sync

from limio_limitrail.api.errors import ApiError
from limio_limitrail.api.resource import Resource
from limio_limitrail.emulator import Call, Reply
from limio_limitrail.limio.resources import RESOURCES as LIMIO
from limio_limitrail.limitrail.resources import RESOURCES
from limio_limitrail.polling.conditions import ObjectCondition, RecordsCondition, condition_to_json
from limio_limitrail.sensors.limio import LimioObjectSensor
from limio_limitrail.triggers import connection as clients
from limio_limitrail.triggers import threads
from limio_limitrail.triggers.limio import LimioWaitTrigger
from limio_limitrail.triggers.limitrail import LimitRailWaitTrigger
from limio_limitrail.triggers.threads import SLOTS_PER_HOST
from tests.support.clock import PATIENCE, until
from tests.support.watched import LoopTicks

pytestmark = pytest.mark.usefixtures("connected")


def trigger(id_: str = "one", *, seconds: float = 600, targets: tuple[str, ...] = (), **more: Any) -> LimioWaitTrigger:
    wait = ObjectCondition(
        path_type="orders", object_id=id_, target_statuses=targets, failed_statuses=("failed",) if targets else ()
    )
    given = {
        "limio_conn_id": "limio_default",
        "condition": condition_to_json(wait),
        "poke_interval": 0.05,
        "deadline": time.time() + seconds,
        "max_transient_failures": 2,
    }
    return LimioWaitTrigger(**given | more)


async def events_of(one: Any) -> list[dict[str, Any]]:
    return [event.payload async for event in one.run()]


def event_of(one: Any) -> dict[str, Any]:
    events = asyncio.run(events_of(one))
    assert len(events) == 1
    json.dumps(events[0])
    return events[0]


def test_found(script, limio_emulator):
    script.answers["one"] = [404, 404, "active"]
    event = event_of(trigger())
    assert event == {
        "format": 1,
        "kind": "found",
        "message": "orders/one to exist: its status is 'active'",
        "result": {"path_type": "orders", "id": "one", "status": "active"},
    }
    assert script.asked["one"] == 3
    assert limio_emulator.counters.tokens_minted == 1


def test_it_sleeps_before_its_first_look(script):
    script.answers["one"] = ["active"]

    async def begin() -> None:
        running = asyncio.create_task(events_of(trigger(poke_interval=60, seconds=600)))
        await asyncio.sleep(0.5)
        assert script.asked["one"] == 0
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(begin())
    assert script.asked["one"] == 0


MAINTENANCE = Reply(200, b"<html>We are back soon</html>", content_type="text/html")


@pytest.mark.parametrize(
    ("answers", "targets", "kind", "says", "requests"),
    [
        (["pending", "FAILED"], ("active",), "ended", "no target status can be reached any more", 2),
        ([404, 403], (), "ended", "answered 403", 2),
        ([400], (), "ended", "answered 400", 1),
        ([401], (), "ended", "answered 401", 2),
        ([404, 401, "active"], (), "found", "active", 3),
        ([MAINTENANCE] * 3, (), "no_answer", "expected JSON, found something else", 3),
        ([404, MAINTENANCE, MAINTENANCE, "active"], (), "found", "active", 4),
        ([503, 503, 503], (), "no_answer", "3 polls in a row failed", 3),
        ([503, 503, 404, 503, 503, 404, "active"], (), "found", "active", 7),
    ],
)
def test_what_it_tells(script, answers, targets, kind, says, requests):
    script.answers["one"] = answers
    event = event_of(trigger(targets=targets))
    assert event["kind"] == kind
    assert says in event["message"]
    assert script.asked["one"] == requests
    assert ("result" in event) == (kind == "found")


def errors_of(status: int) -> list[ApiError]:
    # The type alone is asked: some of Airflow's proxies import what they stand for at any other question.
    return [one for one in gc.get_objects() if issubclass(type(one), ApiError) and one.status == status]


@pytest.mark.parametrize("status", [503, 500, 429])
def test_looks_that_fail_leave_nothing_that_only_a_collection_frees(script, status):
    """A collection goes through all that Airflow has loaded, while the triggerer stands still."""
    script.answers["one"] = [status] * 30 + ["active"]
    gc.collect()
    gc.disable()
    try:
        # Other tests of this process may keep errors of theirs.
        known = errors_of(status)
        assert event_of(trigger(max_transient_failures=100, poke_interval=0.001))["kind"] == "found"
        left = [one for one in errors_of(status) if not any(one is other for other in known)]
        assert left == []
    finally:
        gc.enable()


def test_failures_before_it_count(script):
    script.answers["one"] = [503]
    assert event_of(trigger(failures=1))["kind"] == "no_answer"
    assert script.asked["one"] == 2


BROKEN = [
    ({"kind": "comet"}, "a kind that this version does not know: 'comet'"),
    ({}, "cannot be read"),
    ({"kind": "object"}, "cannot be read"),
    ({**condition_to_json(ObjectCondition(path_type="orders", object_id="one")), "missing": "perhaps"}, "perhaps"),
    ({**condition_to_json(ObjectCondition(path_type="orders", object_id="one")), "target_statuses": None}, "cannot be read"),
    ({"kind": "records", "resource": 7}, "cannot be read"),
    (
        condition_to_json(RecordsCondition(resource=RESOURCES["accounts"]), predicate="no_such_module.nothing"),
        "predicate='no_such_module.nothing' cannot be imported here",
    ),
]


@pytest.mark.parametrize(("wait", "says"), BROKEN)
def test_a_wait_that_cannot_be_read(script, api_requests, wait, says):
    event = event_of(trigger(condition=wait))
    assert event["kind"] == "ended"
    assert says in event["message"]
    assert api_requests() == []


def test_no_such_connection(api_requests):
    event = event_of(trigger(limio_conn_id="nowhere"))
    assert event["kind"] == "ended"
    assert "nowhere" in event["message"]
    assert api_requests() == []


def test_a_connection_without_a_field(monkeypatch, limio_emulator, api_requests):
    known = {"conn_type": "limio", "host": limio_emulator.url, "login": "somebody"}
    monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", json.dumps(known))
    event = event_of(trigger())
    assert (event["kind"], "field 'password'" in event["message"]) == ("ended", True)
    assert api_requests() == []


def test_whatever_nobody_foresaw(monkeypatch, script):
    def look(self: object, client: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(ObjectCondition, "poll", look)
    event = event_of(trigger())
    assert event == {"format": 1, "kind": "ended", "message": "the wait broke: ZeroDivisionError: division by zero"}


def test_events_that_a_sensor_does_not_know_end_it():
    sensor = LimioObjectSensor(task_id="wait", path_type="orders", object_id="one")
    for event in (None, {}, "found", {"format": 1, "kind": "comet"}, {"format": 1, "kind": None, "message": 7}):
        with pytest.raises(BaseException, match=r"without a result|carries no format") as caught:
            sensor.execute_complete({}, event)
        assert not isinstance(caught.value, Exception)


# -- deadlines -----------------------------------------------------------------------------------------------------


def test_a_deadline_stays_where_it_is(script, clock):
    script.answers["one"] = [404]
    first = trigger()

    async def move() -> list[dict[str, Any]]:
        running = asyncio.create_task(events_of(first))
        await until(lambda: script.asked["one"] > 0)
        running.cancel()
        clock.advance_to(first.spec.deadline - 300)
        _, kwargs = first.serialize()
        second = LimioWaitTrigger(**kwargs)
        assert second.spec.deadline == first.spec.deadline
        looks = script.asked["one"]
        running = asyncio.create_task(events_of(second))
        await until(lambda: script.asked["one"] > looks + 1)
        assert not running.done()
        clock.advance_to(first.spec.deadline)
        await until(running.done)
        return running.result()

    [event] = asyncio.run(move())
    assert event["kind"] == "timeout"
    # A look may be under way at the deadline.
    assert event["message"].startswith("waiting for orders/one to exist: it does not exist")


def test_a_deadline_that_has_passed(script):
    script.answers["one"] = ["active"]
    event = event_of(trigger(seconds=-1))
    assert event == {"format": 1, "kind": "timeout", "message": "waiting for orders/one to exist: no poll was made"}
    assert script.asked["one"] == 0


def test_the_last_look_is_at_the_deadline(script, quick):
    script.answers["one"] = ["active"]
    one = trigger(seconds=600, poke_interval=6000)
    assert event_of(one)["kind"] == "found"
    [slept] = quick.slept
    assert slept <= 600
    assert time.time() >= one.spec.deadline


def test_asked_to_wait_for_longer_than_there_is(script):
    script.answers["one"] = [Reply(429, b"{}", {"Retry-After": "1000"}), "active"]
    event = event_of(trigger())
    assert event["kind"] == "timeout"
    assert "answered 429" in event["message"]
    assert script.asked["one"] == 1


def test_asked_to_wait(script, limio_emulator, api_requests):
    script.answers["one"] = [Reply(429, b"{}", {"Retry-After": "1"}), "active"]
    assert event_of(trigger())["kind"] == "found"
    first, second = [entry["at"] for entry in api_requests()]
    assert second - first >= 0.99


# -- one connection, many triggers ---------------------------------------------------------------------------------


def test_a_secret_that_is_rotated(monkeypatch, limio_emulator, script):
    """When a new token is asked for, the old secret is good for nothing any more; the connection has the new one."""
    script.answers["one"] = [404, 401, "active"]
    tokens: list[int] = []

    def rotate(call: Call) -> None:
        if "token" in call.path:
            tokens.append(script.asked["one"])
            if len(tokens) == 2:
                limio_emulator.configure(client_secret="a-new-secret")
                monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", limio_emulator.airflow_connection_json())

    limio_emulator.on_request(rotate)
    assert event_of(trigger())["kind"] == "found"
    assert tokens == [0, 2, 2]
    assert limio_emulator.counters.tokens_minted == 2


def test_a_secret_that_is_wrong_and_stays_so(monkeypatch, limio_emulator, script):
    script.answers["one"] = ["active"]
    limio_emulator.configure(client_secret="a-new-secret")
    event = event_of(trigger())
    assert event["kind"] == "ended"
    assert script.asked["one"] == 0
    assert "a-new-secret" not in event["message"]
    assert "demo-secret" not in event["message"]


@pytest.mark.exhaustive
def test_many_at_once(limio_emulator):
    """Some triggers share a token and few connections, and none holds up the loop."""
    names = [f"order-{number}" for number in range(15)]
    limio_emulator.put_records("objects/limio/orders", [{"id": name, "status": "active"} for name in names])
    ticks = LoopTicks()
    limio_emulator.on_request(lambda call: ticks.wait_for_more() if "/api/" in call.path else None)

    async def everything() -> list[Any]:
        ticking = asyncio.create_task(ticks.run())
        found = await asyncio.gather(*(events_of(trigger(name)) for name in names))
        ticking.cancel()
        return found

    found = asyncio.run(everything())
    assert [events[0]["result"]["id"] for events in found] == names
    counters = limio_emulator.counters
    assert counters.tokens_minted == 1
    assert counters.by_status[200] == len(names) + 1
    assert counters.connections <= SLOTS_PER_HOST + 1
    assert ticks.stopped == 0


def test_a_predicate_whose_module_takes_long_to_import(tmp_path, monkeypatch, limio_emulator):
    """The loop goes on meanwhile."""
    ticks = LoopTicks()
    monkeypatch.setattr("builtins.loop_ticks", ticks, raising=False)
    (tmp_path / "slow_predicates.py").write_text("loop_ticks.wait_for_more()\ndef any_one(record): return True\n")
    monkeypatch.syspath_prepend(tmp_path)
    limio_emulator.put_records("custom/things", [{"id": "a"}])
    wait = condition_to_json(
        RecordsCondition(resource=Resource(name="things", path="/custom/things")), predicate="slow_predicates.any_one"
    )

    async def both() -> Any:
        ticking = asyncio.create_task(ticks.run())
        found = await events_of(trigger(condition=wait))
        ticking.cancel()
        return found

    [event] = asyncio.run(both())
    assert event["kind"] == "found"
    assert (ticks.waited, ticks.stopped) == (1, 0)


# -- as Airflow keeps it -------------------------------------------------------------------------------------------


def kept() -> list[Any]:
    lists = RecordsCondition(resource=RESOURCES["usage"], query_params={"limit": "5"})
    return [
        trigger(targets=("a", "b")),
        LimitRailWaitTrigger(
            limitrail_conn_id="limitrail_default",
            scope=["limitrail.usage.read"],
            condition=condition_to_json(lists, predicate="operator.truth"),
            poke_interval=30.0,
            deadline=2_000_000_000.5,
            max_transient_failures=10,
            failures=3,
        ),
    ]


@pytest.mark.parametrize("one", kept(), ids=lambda one: type(one).__name__)
def test_it_can_be_made_again(one, limio_emulator):
    classpath, kwargs = one.serialize()
    assert classpath == f"{type(one).__module__}.{type(one).__name__}"
    assert json.loads(json.dumps(kwargs)) == kwargs
    assert deserialize(json.loads(json.dumps(serialize(kwargs)))) == kwargs
    row = Trigger(classpath=classpath, kwargs=kwargs)
    assert row.kwargs == kwargs
    again = type(one)(**row.kwargs)
    assert again.serialize() == (classpath, kwargs)
    assert limio_emulator.client_secret not in json.dumps(kwargs)
    assert "secret" not in json.dumps(kwargs)


def test_it_waits_for_no_look_that_would_come_too_late(script):
    script.answers["one"] = ["active"]
    began = time.monotonic()
    event = event_of(trigger(seconds=600, not_before=time.time() + 6000))
    assert event["kind"] == "timeout"
    assert time.monotonic() - began < 300
    assert script.asked["one"] == 0


def test_it_looks_once_more_at_its_deadline(script, quick):
    script.answers["one"] = [Reply(429, b"{}", {"retry-after": "1000"}), "active"]
    one = trigger(seconds=5000, poke_interval=2000)
    event = event_of(one)
    assert event["kind"] == "found"
    assert script.asked["one"] == 2
    # Twice the interval would be too late, and what the API asked for has passed.
    assert quick.slept[1] == pytest.approx(5000 - quick.slept[0], abs=PATIENCE)
    assert time.time() >= one.spec.deadline


@pytest.mark.parametrize("may_send", [True, False])
def test_threads_of_an_older_triggerer_say_nothing_to_its_supervisor(script, monkeypatch, may_send):
    said: list[Any] = []

    class Supervisor:
        def send(self, message: Any) -> None:
            async def say() -> None:
                said.append(message)

            async_to_sync(say)()

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor(), raising=False)
    monkeypatch.setattr(threads, "threads_may_send", lambda: may_send)
    monkeypatch.setattr(clients, "_clients", {})
    script.answers["one"] = ["active"]
    assert event_of(trigger())["kind"] == "found"
    assert bool(said) is may_send


def test_a_predicate_that_ends_its_process_ends_no_triggerer(limio_emulator, monkeypatch):
    def leave(record: Any) -> bool:
        raise SystemExit(3)

    module = types.ModuleType("leaving")
    module.leave = leave  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "leaving", module)
    wait = condition_to_json(RecordsCondition(resource=LIMIO["orders"]), predicate="leaving.leave")
    event = event_of(trigger(condition=wait))
    assert (event["kind"], event["message"]) == ("ended", "the wait broke: RuntimeError: SystemExit(3)")
