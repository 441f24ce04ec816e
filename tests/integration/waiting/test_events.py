# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Event triggers against the emulator, through Airflow's own shared streams."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from watching import AssetStore, Triggerer

from limio_limitrail.triggers.limio import LimioResourceEventTrigger

pytestmark = pytest.mark.usefixtures("connected")

BASKETS = "/api/checkout/abandoned"


def basket(number: int, *, when: datetime | None = None) -> dict[str, Any]:
    created = when or datetime.now(tz=UTC)
    return {"id": f"basket-{number}", "created": created.isoformat().replace("+00:00", "Z"), "status": "abandoned"}


def watch(**more: Any) -> LimioResourceEventTrigger:
    return LimioResourceEventTrigger(**{"resource": "abandoned_baskets", "interval": 0.1, "overlap": 60, **more})


@pytest.fixture
def baskets(limio_emulator):
    """The tenant's abandoned baskets: none at first."""
    shown: list[dict[str, Any]] = []
    limio_emulator.put_records("checkout/abandoned", shown)

    def add(*more: dict[str, Any]) -> None:
        shown.extend(more)
        limio_emulator.put_records("checkout/abandoned", shown)

    return add


def looked(emulator, *, times: int):
    before = sum(entry["path"] == BASKETS for entry in emulator.counters.log)
    return lambda: sum(entry["path"] == BASKETS for entry in emulator.counters.log) >= before + times


def test_new_records_are_announced_once_and_old_ones_never(baskets, limio_emulator):
    async def scenario() -> None:
        store, triggerer = AssetStore(), Triggerer()
        baskets(basket(1), basket(2, when=datetime.now(tz=UTC) - timedelta(days=3)))
        triggerer.start(watch(), store)
        await triggerer.until(looked(limio_emulator, times=3))
        assert triggerer.events == []
        baskets(basket(3), basket(4))
        await triggerer.until(lambda: len(triggerer.events) == 1)
        await triggerer.until(looked(limio_emulator, times=3))
        [payload] = triggerer.payloads()
        assert (payload["count"], sorted(payload["ids"])) == (2, ["basket-3", "basket-4"])
        assert payload["resource"] == "abandoned_baskets"
        await triggerer.until(lambda: all(not json.loads(value)["unheard"] for value in store.values.values()))
        await triggerer.kill()

        again = Triggerer()
        baskets(basket(5))
        again.start(watch(), store)
        await again.until(lambda: len(again.events) == 1)
        await again.until(looked(limio_emulator, times=3))
        assert [payload["ids"] for payload in again.payloads()] == [["basket-5"]]
        await again.kill()

    asyncio.run(scenario())
