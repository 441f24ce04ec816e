# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Watches in a triggerer that others use too: what hangs in one of them holds up no other, and is said."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import types
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from limio_limitrail.emulator import Call, EmulatorServer, Reply
from limio_limitrail.triggers import poll_loops as watch_loop
from tests.support.bad_hosts import BAD, bad_host
from tests.support.watched import Baskets, watch

# Airflow 3.2 has none.
pytest.importorskip("airflow.triggers.shared_stream")
from tests.support.watching import AssetStore, Triggerer

pytestmark = pytest.mark.usefixtures("connected")

FEW = 8


@pytest.fixture
def baskets(limio_emulator: EmulatorServer) -> Baskets:
    return Baskets(limio_emulator)


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Ends what hangs. Looks may take two seconds."""
    over = threading.Event()
    module = types.ModuleType("watched_predicates")
    calls = Counter[str]()

    def hangs(record: Any) -> bool:
        calls["hangs"] += 1
        over.wait(120)
        return True

    def hangs_too(record: Any) -> bool:
        calls["hangs_too"] += 1
        over.wait(120)
        return True

    vars(module).update(hangs=hangs, hangs_too=hangs_too, calls=calls)
    monkeypatch.setitem(sys.modules, "watched_predicates", module)
    monkeypatch.setattr("limio_limitrail.polling.poll.LONGEST_POLL", 1.0)
    monkeypatch.setattr("limio_limitrail.triggers.threads.OVERRUN", 1.0)
    yield over
    over.set()


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def connect(monkeypatch: pytest.MonkeyPatch, good: EmulatorServer, url: str, name: str, **extra: Any) -> None:
    known = json.loads(good.airflow_connection_json(auth_url=f"{good.url}/oauth2/token", **extra))
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({**known, "host": url}))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("first", ["hangs", "nothing hangs"])
def test_a_predicate_that_never_returns_holds_up_no_other_watch_of_its_list(
    baskets, hung, monkeypatch, limio_emulator, caplog, first
):
    connect(monkeypatch, limio_emulator, limio_emulator.url, "limio_default", timeout=0.5, total_timeout=1)

    async def scenario() -> None:
        triggerer, stores = Triggerer(), [AssetStore() for _ in range(3)]
        good = [triggerer.start(watch(), stores[0])]
        bad = []
        await triggerer.until(lambda: bool(stores[0].values))
        for store, predicate in zip(stores[1:], ["hangs", "hangs_too"] if first == "hangs" else [], strict=False):
            bad.append(triggerer.start(watch(predicate=f"watched_predicates.{predicate}"), store))
        baskets.add(1)
        await triggerer.until(lambda: [one["ids"] for one in triggerer.payloads(good[0])] == [["basket-1"]], seconds=60)
        baskets.add(2)
        await triggerer.until(lambda: len(triggerer.payloads(good[0])) == 2, seconds=60)
        if first == "hangs":
            await triggerer.until(lambda: sum("has not returned" in one for one in complaints(caplog)) == 2, seconds=60)
            calls = sys.modules["watched_predicates"].calls
            assert max(calls.values()) == 1
            assert triggerer.payloads(bad[0]) == triggerer.payloads(bad[1]) == []
            # They are called again once they have returned: now these watches begin.
            hung.set()
            await triggerer.until(lambda: all(store.values for store in stores), seconds=60)
            baskets.add(3)
            for one in (*good, *bad):
                await triggerer.until(lambda one=one: triggerer.payloads(one)[-1:] != [], seconds=60)
                await triggerer.until(lambda one=one: triggerer.payloads(one)[-1]["ids"] == ["basket-3"], seconds=60)
        assert triggerer.failed() == []
        await triggerer.kill()

    asyncio.run(scenario())


@pytest.mark.sampled(2)
@pytest.mark.parametrize("what", BAD)
def test_watches_of_hosts_that_hang_beside_a_good_one(baskets, limio_emulator, monkeypatch, what):
    with bad_host(what) as host:
        connect(monkeypatch, limio_emulator, host.url, "bad")

        async def scenario() -> None:
            triggerer, store = Triggerer(), AssetStore()
            for number in range(40):
                triggerer.start(watch(limio_conn_id="bad", page_size=100 + number))
            await triggerer.until(lambda: host.under_way > 0, seconds=60)
            good = triggerer.start(watch(), store)
            await triggerer.until(lambda: bool(store.values), seconds=60)
            baskets.add(1)
            await triggerer.until(lambda: len(triggerer.payloads(good)) == 1, seconds=60)
            assert triggerer.failed() == []
            await triggerer.kill()

        asyncio.run(scenario())
        assert host.most <= FEW


def test_a_watch_says_that_airflow_does_not_answer(baskets, monkeypatch, caplog):
    from airflow.sdk import BaseHook

    monkeypatch.setattr(watch_loop, "SLOT_TIMEOUT", 0.5)
    known = BaseHook.aget_connection

    async def never(conn_id: str) -> Any:
        await asyncio.sleep(600)

    monkeypatch.setattr(BaseHook, "aget_connection", never)

    async def scenario() -> None:
        triggerer, store = Triggerer(), AssetStore()
        number = triggerer.start(watch(), store)
        await triggerer.until(lambda: bool(complaints(caplog)), seconds=60)
        monkeypatch.setattr(BaseHook, "aget_connection", known)
        await triggerer.until(lambda: bool(store.values), seconds=60)
        baskets.add(1)
        await triggerer.until(lambda: len(triggerer.payloads(number)) == 1, seconds=60)
        await triggerer.kill()

    asyncio.run(scenario())
    assert "Airflow has not said what the connection 'limio_default' is within" in complaints(caplog)[0]
    assert "Retrying in" in complaints(caplog)[0]


def test_a_list_without_an_end_is_said(limio_emulator, monkeypatch, caplog):
    monkeypatch.setattr("limio_limitrail.polling.poll.LONGEST_POLL", 1.0)
    pages = iter(range(10**6))

    def another(call: Call) -> Any:
        if "abandoned" not in call.path:
            return None
        number = next(pages)
        page = {"items": [{"id": f"basket-{number}", "created": "2026-10-01T00:00:00Z"}], "queryMore": f"cursor-{number}"}
        return Reply(200, json.dumps(page).encode())

    limio_emulator.on_request(another)
    connect(monkeypatch, limio_emulator, limio_emulator.url, "limio_default", timeout=0.5, total_timeout=1)

    async def scenario() -> None:
        triggerer = Triggerer()
        triggerer.start(watch(), AssetStore())
        await triggerer.until(lambda: len(complaints(caplog)) > 1, seconds=60)
        await triggerer.kill()

    asyncio.run(scenario())
    assert all("Polling abandoned_baskets failed: " in one for one in complaints(caplog))
