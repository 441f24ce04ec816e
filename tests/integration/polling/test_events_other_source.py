# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Where a watch stands belongs to one tenant's list: of another one, it begins anew, and says so."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from limio_limitrail.emulator import Fault
from limio_limitrail.limio.resources import RESOURCES
from tests.support.watched import Baskets, watch

# Airflow 3.2 has none.
pytest.importorskip("airflow.triggers.shared_stream")
from tests.support.watching import AssetStore, Triggerer

pytestmark = pytest.mark.usefixtures("connected")
BASKETS = RESOURCES["abandoned_baskets"]


def kept(store):
    [value] = store.values.values()
    return json.loads(value)


async def emit(triggerer, baskets, *numbers):
    """Leave baskets, and wait until they are emitted, alone and once."""
    before = len(triggerer.events)
    baskets.add(*numbers)
    await triggerer.until(lambda: len(triggerer.events) > before)
    await triggerer.until(baskets.looked(times=2))
    found = [id_ for payload in triggerer.payloads()[before:] for id_ in payload["ids"]]
    assert sorted(found) == [f"basket-{number}" for number in numbers]


async def stands(triggerer, store, source=None):
    """Wait until it is stored where the watch stands, of another source than before."""
    await triggerer.until(lambda: bool(store.values) and kept(store)["source"] != source)


@pytest.mark.parametrize("restart", [True, False], ids=["a triggerer that starts anew", "a triggerer that goes on"])
def test_a_repointed_connection(monkeypatch, limio_emulator, limio_emulator_factory, caplog, restart):
    ours, theirs = Baskets(limio_emulator), Baskets(limio_emulator_factory())
    lately = datetime.now(tz=UTC) - timedelta(seconds=20)

    async def scenario() -> None:
        store, triggerer = AssetStore(), Triggerer()
        triggerer.start(watch(), store)
        await stands(triggerer, store)
        await emit(triggerer, ours, 1)
        before, events = kept(store)["source"], {payload["event_id"] for payload in triggerer.payloads()}
        # Among them one that the former tenant had as well.
        theirs.shown = list(ours.shown)
        theirs.add(2, 3, when=lately)
        if restart:
            await triggerer.kill()
            triggerer = Triggerer()
        monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", theirs.server.airflow_connection_json())
        if restart:
            triggerer.start(watch(), store)
        else:
            limio_emulator.faults.add(Fault("status", match="/api", status=401, times=4))
        await stands(triggerer, store, before)
        assert "is of another list or tenant now (what differs: base URL" in caplog.text
        assert "what comes from now on is emitted" in caplog.text
        await emit(triggerer, theirs, 4)
        assert not events & {payload["event_id"] for payload in triggerer.payloads()[-1:]}, "no event has another's id"
        assert kept(store)["emitted"] == 2
        assert caplog.text.count("is of another list") == 1
        await triggerer.kill()

    asyncio.run(scenario())


def test_since_counts_for_the_other_tenant_as_well(monkeypatch, limio_emulator, limio_emulator_factory):
    ours, theirs = Baskets(limio_emulator), Baskets(limio_emulator_factory())
    long_ago = datetime.now(tz=UTC) - timedelta(days=30)

    async def scenario() -> None:
        store, triggerer = AssetStore(), Triggerer()
        trigger = watch(since=long_ago - timedelta(days=1))
        triggerer.start(trigger, store)
        await emit(triggerer, ours, 1)
        await triggerer.kill()
        theirs.add(2, when=long_ago)
        theirs.add(3)
        monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", theirs.server.airflow_connection_json())
        again = Triggerer()
        again.start(trigger, store)
        await again.until(lambda: sum(payload["count"] for payload in again.payloads()) == 2)
        await again.until(theirs.looked(times=2))
        assert sorted(id_ for payload in again.payloads() for id_ in payload["ids"]) == ["basket-2", "basket-3"]
        await again.kill()

    asyncio.run(scenario())


def test_what_may_change_for_the_same_tenant(monkeypatch, limio_emulator, caplog):
    """And a position of which nobody noted whose it is: it is taken over."""
    ours = Baskets(limio_emulator)

    async def scenario() -> None:
        store, triggerer = AssetStore(), Triggerer()
        triggerer.start(watch(), store)
        await stands(triggerer, store)
        await emit(triggerer, ours, 1)
        await triggerer.kill()
        [key] = store.values
        store.values[key] = json.dumps({**kept(store), "source": None})
        limio_emulator.configure(client_secret="rotated-secret-0123456789")
        monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", limio_emulator.airflow_connection_json())
        ours.add(2)
        again = Triggerer()
        again.start(watch(), store)
        await again.until(lambda: len(again.events) == 1)
        await stands(again, store)
        assert [payload["ids"] for payload in again.payloads()] == [["basket-2"]]
        assert "is of another list" not in caplog.text
        assert "rotated-secret" not in store.values[key]
        assert limio_emulator.client_id not in store.values[key]
        await again.kill()

    asyncio.run(scenario())


def test_another_time_column_is_not_news(limio_emulator, caplog):
    """The same records would look new, because they are known again by their times."""
    ours = Baskets(limio_emulator)
    earlier = (datetime.now(tz=UTC) - timedelta(seconds=5)).isoformat()

    async def scenario() -> None:
        store, triggerer = AssetStore(), Triggerer()
        triggerer.start(watch(resource=BASKETS), store)
        await stands(triggerer, store)
        before = kept(store)["source"]
        ours.add(1, updated=earlier)
        await triggerer.until(lambda: len(triggerer.events) == 1 and not kept(store)["unacknowledged"])
        await triggerer.kill()
        again = Triggerer()
        again.start(watch(resource=replace(BASKETS, time_column="updated")), store)
        await stands(again, store, before)
        await again.until(ours.looked(times=3))
        assert again.events == []
        assert "what differs: time filter or time column" in caplog.text
        await again.kill()

    asyncio.run(scenario())
