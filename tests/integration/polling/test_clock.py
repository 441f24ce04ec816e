# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The system clock is put right, or wrong, while a trigger waits.

Times are asserted loosely: only whether a wait ended, or went on.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import pytest

from limio_limitrail.emulator import Call, EmulatorServer, Reply
from limio_limitrail.polling.conditions import ObjectCondition, condition_to_json
from limio_limitrail.triggers.limio import LimioWaitTrigger

pytestmark = pytest.mark.usefixtures("connected")

HOUR = 3600.0
LONG = 200.0
"""Seconds that are far more than what ends soon takes, and far less than an hour."""


class WallClock:
    """Stands for the module ``time`` in the triggers' module alone: the event loop and the emulator go by the real one."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def time(self) -> float:
        return time.time() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    clock = WallClock()
    monkeypatch.setattr("limio_limitrail.triggers.base.time", clock)
    monkeypatch.setattr("limio_limitrail.triggers.poll_loops.time", clock)
    return clock


def on_looks(server: EmulatorServer, *jumps: float, clock: WallClock) -> None:
    """Let the clock jump at each look, as far as is told; the last jump is made but once."""
    left = list(jumps)

    def jump(call: Call) -> None:
        if "/orders/" in call.path and left:
            clock.ahead += left.pop(0)

    # Before the script, which answers and ends the round.
    server._hooks.insert(0, jump)


def trigger(*, seconds: float, **more: Any) -> LimioWaitTrigger:
    given: dict[str, Any] = {
        "limio_conn_id": "limio_default",
        "condition": condition_to_json(ObjectCondition(path_type="orders", object_id="one")),
        "poke_interval": 0.1,
        "deadline": time.time() + seconds,
        "max_transient_failures": 2,
    }
    return LimioWaitTrigger(**given | more)


def event_of(one: LimioWaitTrigger) -> dict[str, Any]:
    async def run() -> list[dict[str, Any]]:
        return [event.payload async for event in one.run()]

    [event] = asyncio.run(asyncio.wait_for(run(), LONG))
    return event


# -- deadlines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jumps", [[HOUR], [HOUR, HOUR, -HOUR], [-HOUR, 2 * HOUR]])
def test_a_jump_forward_does_not_end_a_wait_early(script, connected, wall_clock, jumps):
    script.answers["one"] = [404] * 5 + ["active"]
    on_looks(connected, *jumps, clock=wall_clock)
    event = event_of(trigger(seconds=600))
    assert (event["kind"], script.asked["one"]) == ("found", 6)
    assert wall_clock.ahead == sum(jumps)


@pytest.mark.sampled(1)
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("jumps", [[-HOUR], [-HOUR, -HOUR, HOUR], [HOUR, -2 * HOUR]])
def test_a_jump_back_does_not_draw_a_wait_out(script, connected, wall_clock, jumps):
    script.answers["one"] = [404]
    on_looks(connected, *jumps, clock=wall_clock)
    event = event_of(trigger(seconds=150, poke_interval=20))
    assert event == {"format": 1, "kind": "timeout", "message": "waiting for orders/one to exist: it does not exist"}
    assert wall_clock.ahead == sum(jumps)


def test_a_trigger_that_is_started_after_a_jump_forward(script, wall_clock):
    """Nobody can tell a clock that was put right from time that went by."""
    script.answers["one"] = ["active"]
    one = trigger(seconds=600)
    wall_clock.ahead = HOUR
    event = event_of(LimioWaitTrigger(**one.serialize()[1]))
    assert event == {"format": 1, "kind": "timeout", "message": "waiting for orders/one to exist: no poll was made"}
    assert script.asked["one"] == 0


def test_a_trigger_that_is_started_after_a_jump_back(script, wall_clock):
    """It looks on when the deadline has passed by the clock of old."""
    script.answers["one"] = [404] * 12 + ["active"]
    one = trigger(seconds=0.5)
    wall_clock.ahead = -HOUR
    event = event_of(LimioWaitTrigger(**one.serialize()[1]))
    assert (event["kind"], script.asked["one"]) == ("found", 13)


# -- what the API asked for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ago", [0.0, 1.0, HOUR, 1e9])
def test_asked_to_wait_until_a_time_that_has_passed(script, ago):
    script.answers["one"] = ["active"]
    assert event_of(trigger(seconds=600, not_before=time.time() - ago))["kind"] == "found"


@pytest.mark.parametrize("ahead", [601.0, 10 * HOUR, 1e12])
def test_asked_to_wait_until_after_the_deadline(script, ahead):
    """The deadline has not passed then, but nothing can come any more."""
    script.answers["one"] = ["active"]
    event = event_of(trigger(seconds=500, not_before=time.time() + ahead))
    assert event == {"format": 1, "kind": "timeout", "message": "waiting for orders/one to exist: no poll was made"}
    assert script.asked["one"] == 0


def test_asked_to_wait_and_started_after_a_jump_forward(script, wall_clock):
    script.answers["one"] = ["active"]
    one = trigger(seconds=2 * HOUR, not_before=time.time() + HOUR / 2)
    wall_clock.ahead = HOUR
    assert event_of(LimioWaitTrigger(**one.serialize()[1]))["kind"] == "found"


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_jump_while_it_waits_as_it_was_asked(script, connected, wall_clock, api_requests, jump):
    script.answers["one"] = [Reply(429, b"{}", {"Retry-After": "1"}), "active"]
    on_looks(connected, jump, clock=wall_clock)
    assert event_of(trigger(seconds=600))["kind"] == "found"
    first, second = [entry["at"] for entry in api_requests()]
    assert second - first >= 0.99


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_jump_before_the_first_look_that_it_was_asked_to_put_off(script, wall_clock, api_requests, jump):
    script.answers["one"] = ["active"]

    async def run() -> list[dict[str, Any]]:
        asyncio.get_running_loop().call_later(0.3, setattr, wall_clock, "ahead", jump)
        return [event.payload async for event in one.run()]

    begun = time.monotonic()
    one = trigger(seconds=600, not_before=time.time() + 1)
    [event] = asyncio.run(asyncio.wait_for(run(), LONG))
    assert event["kind"] == "found"
    [entry] = api_requests()
    assert entry["at"] - begun >= 0.9


# -- tokens --------------------------------------------------------------------------------------------------------

JUMPING = """
import time

real, ahead = time.time, 0.0
time.time = lambda: real() + ahead

import asyncio
import json
import sys

from limio_limitrail.triggers.limio import LimioWaitTrigger
from limio_limitrail.polling.conditions import ObjectCondition
from limio_limitrail.polling.conditions import condition_to_json

jump, interval = map(float, sys.argv[1:])
look = ObjectCondition.poll


def look_and_jump(self, client):
    global ahead
    try:
        return look(self, client)
    finally:
        ahead += jump


async def run():
    return [event.payload async for event in one.run()]


ObjectCondition.poll = look_and_jump
one = LimioWaitTrigger(
    limio_conn_id="limio_default",
    condition=condition_to_json(ObjectCondition(path_type="orders", object_id="one")),
    poke_interval=interval,
    deadline=time.time() + 600,
    max_transient_failures=0,
)
print(json.dumps(asyncio.run(run())))
"""
"""A wait in a process of its own, in which the clock is a jumping one before anything has taken it for a default."""


def wait_among_jumps(jump: float, *, interval: float) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", JUMPING, str(jump), str(interval)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    [event] = json.loads(done.stdout.splitlines()[-1])
    return dict(event)


def statuses(server: EmulatorServer) -> dict[int, int]:
    return dict(server.counters.by_status)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("jump", [2 * HOUR, -2 * HOUR])
def test_a_token_that_lives_for_an_hour_is_minted_once(script, connected, jump):
    script.answers["one"] = [404] * 10 + ["active"]
    assert wait_among_jumps(jump, interval=0.05)["kind"] == "found"
    assert statuses(connected) == {404: 10, 200: 2}
    assert connected.counters.tokens_minted == 1


@pytest.mark.exhaustive
@pytest.mark.parametrize("jump", [2 * HOUR, -2 * HOUR])
def test_a_token_that_lives_for_seconds_is_renewed_in_time(connected, jump):
    """It says that it lives for one second, and lives for six: none may be used after that."""
    connected.configure(token_seconds=6, expires_in=1)
    connected.put_records("objects/limio/orders", [])
    looks: list[float] = []

    def come(call: Call) -> None:
        if "/orders/" in call.path:
            looks.append(time.monotonic())
            if looks[-1] - looks[0] > 7:
                connected.put_records("objects/limio/orders", [{"id": "one", "status": "active"}])

    connected.on_request(come)
    assert wait_among_jumps(jump, interval=0.1)["kind"] == "found"
    seen = statuses(connected)
    assert set(seen) == {404, 200}
    assert 3 <= connected.counters.tokens_minted <= 1 + (looks[-1] - looks[0]) / 0.5
    assert seen[404] == len(looks) - 1
