# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The watch of LimitRail's usage in dags_examples emits what is new."""

from __future__ import annotations

import asyncio
import runpy
from datetime import UTC, datetime
from pathlib import Path

import pytest

from limio_limitrail.emulator import EmulatorServer
from limio_limitrail.triggers.limitrail import LimitRailResourceEventTrigger

# Airflow 3.2 has none.
pytest.importorskip("airflow.triggers.shared_stream")
from tests.support.watching import AssetStore, Triggerer

EXAMPLE = Path(__file__).resolve().parents[3] / "dags_examples" / "limitrail_usage_watch.py"


@pytest.mark.usefixtures("connected")
def test_usage_that_was_not_there_before_is_emitted(limio_emulator: EmulatorServer) -> None:
    [watcher] = runpy.run_path(str(EXAMPLE))["usage"].watchers
    # As the metadata database keeps it.
    _, choices = watcher.trigger.serialize()

    def use(identity: str) -> None:
        limio_emulator.limitrail.add_usage([{"id": identity, "committedAt": datetime.now(tz=UTC).isoformat()}])

    async def scenario() -> list[str]:
        use("before")
        store, triggerer = AssetStore(), Triggerer()
        triggerer.start(LimitRailResourceEventTrigger(**{**choices, "poke_interval": 0.1}), store)
        await triggerer.until(lambda: bool(store.values))
        use("after")
        await triggerer.until(lambda: bool(triggerer.events))
        await triggerer.kill()
        return [identity for payload in triggerer.payloads() for identity in payload["ids"]]

    assert asyncio.run(scenario()) == ["after"]
