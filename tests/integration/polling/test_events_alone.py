# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Watches on Airflow 3.2: each looks for itself, and nothing is kept of it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import pytest

from limio_limitrail.emulator import Fault
from tests.support.watched import PERSONAL, Baskets, LoopTicks, watch

pytestmark = pytest.mark.usefixtures("connected")


@pytest.fixture
def baskets(limio_emulator) -> Baskets:
    return Baskets(limio_emulator)


class Running:
    """A trigger that runs, and what it has emitted."""

    def __init__(self, trigger: Any) -> None:
        self.payloads: list[dict[str, Any]] = []
        self.task = asyncio.create_task(self._run(trigger))

    async def _run(self, trigger: Any) -> None:
        async for event in trigger.run():
            self.payloads.append(event.payload)

    async def until(self, what: Any, *, seconds: float = 200.0) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while not what():
            assert not self.task.done(), self.task
            assert asyncio.get_running_loop().time() < end, self.payloads
            await asyncio.sleep(0.02)

    async def kill(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


def ids(payloads: list[dict[str, Any]]) -> list[list[str]]:
    return [sorted(payload["ids"]) for payload in payloads]


def test_without_any_store(limio_emulator, baskets, caplog):
    caplog.set_level(logging.INFO)
    ticks = LoopTicks()

    async def scenario() -> None:
        ticking = asyncio.create_task(ticks.run())
        await asyncio.sleep(0.1)
        baskets.add(1, 2)
        running = Running(watch(predicate="operator.truth"))
        await running.until(lambda: "changes from now on are emitted" in caplog.text)
        limio_emulator.on_request(lambda call: ticks.wait_for_more() if "/api/" in call.path else None)
        baskets.add(3)
        await running.until(lambda: len(running.payloads) == 1)
        baskets.add(4, 5)
        await running.until(lambda: len(running.payloads) == 2)
        await running.until(baskets.looked(times=3))
        assert ids(running.payloads) == [["basket-3"], ["basket-4", "basket-5"]]
        assert len({payload["event_id"] for payload in running.payloads}) == 2
        ticking.cancel()
        await running.kill()

    asyncio.run(scenario())
    assert caplog.text.count("This Airflow has no state store for assets") == 1
    assert PERSONAL not in caplog.text
    assert ticks.waited > 1
    assert ticks.stopped == 0


def test_since_and_trouble(baskets, limio_emulator, caplog):
    async def scenario() -> None:
        baskets.add(1)
        running = Running(watch(since="2020-01-01"))
        await running.until(lambda: len(running.payloads) == 1)
        limio_emulator.faults.add(Fault("status", match="/api", status=503))
        limio_emulator.faults.add(Fault("status", match="/api", status=403))
        baskets.add(2)
        await running.until(lambda: len(running.payloads) == 2)
        assert ids(running.payloads) == [["basket-1"], ["basket-2"]]
        await running.kill()

        # Nothing is kept: a new life begins with what comes from then on.
        again = Running(watch())
        await again.until(baskets.looked())
        baskets.add(3)
        await again.until(lambda: len(again.payloads) == 1)
        assert ids(again.payloads) == [["basket-3"]]
        await again.kill()

    asyncio.run(scenario())
    assert "answered 403" in caplog.text


def test_a_predicate_that_is_there_late(tmp_path, monkeypatch, baskets, limio_emulator, caplog):
    path = tmp_path / "late_predicates_alone.py"
    monkeypatch.syspath_prepend(tmp_path)
    baskets.add(1)

    async def scenario() -> None:
        running = Running(watch(poke_interval=0.05, predicate="late_predicates_alone.is_good"))
        await running.until(lambda: caplog.text.count("cannot be imported here") >= 3)
        assert limio_emulator.counters.requests == 0
        path.write_text("import time\ntime.sleep(0.5)\ndef is_good(record): return True\n")
        await running.until(baskets.looked())
        baskets.add(2)
        await running.until(lambda: len(running.payloads) == 1)
        assert ids(running.payloads) == [["basket-2"]]
        await running.kill()

    asyncio.run(scenario())
