# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Watches that meet with trouble: they say so, ask seldom, go on, and skip nothing."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from limio_limitrail.emulator import EmulatorServer, Fault, Reply
from limio_limitrail.polling.poll import PollPolicy
from limio_limitrail.triggers.limitrail import LimitRailResourceEventTrigger
from tests.support.secrets_left import FORMS, holders
from tests.support.watched import PERSONAL, Baskets, watch

# Airflow 3.2 has none.
pytest.importorskip("airflow.triggers.shared_stream")
from tests.support.watching import AssetStore, Triggerer

pytestmark = pytest.mark.usefixtures("connected")

INTERVAL = 0.05
LONGEST = 8 * INTERVAL * 0.9
"""The shortest time to the next look after a failure that does not pass by itself."""


@pytest.fixture
def baskets(limio_emulator) -> Baskets:
    return Baskets(limio_emulator)


def ids(payloads: list[dict[str, Any]]) -> list[str]:
    return sorted(id_ for payload in payloads for id_ in payload["ids"])


def complaints(caplog: pytest.LogCaptureFixture, level: int = logging.ERROR) -> list[str]:
    found = [
        record for record in caplog.records if record.name.startswith("limio_limitrail.triggers") and record.levelno >= level
    ]
    assert all(record.exc_info is None for record in found)
    return [record.getMessage() for record in found]


async def begin(baskets: Baskets, store: AssetStore, **more: Any) -> Triggerer:
    triggerer = Triggerer()
    triggerer.start(watch(poke_interval=INTERVAL, **more), store)
    await triggerer.until(lambda: bool(store.values))
    return triggerer


# -- the API -------------------------------------------------------------------------------------------------------


Change = Callable[[EmulatorServer, pytest.MonkeyPatch], object]


def faulty(fault: Fault) -> tuple[Change, Change]:
    """Give what breaks, and what mends."""
    return lambda server, _: server.faults.add(fault), lambda server, _: server.faults.clear()


def rotated() -> tuple[Change, Change]:
    def rotate(server: EmulatorServer, _: Any) -> None:
        server.configure(client_secret="a-new-secret")
        server.expire_tokens()

    return rotate, lambda server, env: env.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", server.airflow_connection_json())


HOPELESS = {
    "400": (faulty(Fault("status", match="/api", status=400, times=None)), "answered 400", 1),
    "401": (faulty(Fault("status", match="/api", status=401, times=None)), "answered 401", 2),
    "403": (faulty(Fault("status", match="/api", status=403, times=None)), "answered 403", 1),
    "404": (faulty(Fault("status", match="/api", status=404, times=None)), "answered 404", 1),
    "html": (faulty(Fault("html", match="/api", times=None)), "expected JSON", 1),
    "no list": (faulty(Fault("items_missing", match="/api", times=None)), "expected a list in 'items'", 1),
    "rotated": (rotated(), "Check the connection's login", 1),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", HOPELESS)
def test_what_does_not_pass_by_itself(baskets, limio_emulator, monkeypatch, caplog, name):
    (break_, mend), says, requests = HOPELESS[name]

    async def scenario() -> None:
        triggerer = await begin(baskets, AssetStore())
        await triggerer.until(baskets.looked(times=1))
        break_(limio_emulator, monkeypatch)
        limio_emulator.counters.reset()
        baskets.add(1)
        await triggerer.until(lambda: len(complaints(caplog)) >= 2)
        asked = list(baskets.asked())
        looks = asked[::requests]
        # Few requests, and far between.
        gaps = [after["at"] - before["at"] for before, after in pairwise(looks)]
        assert all(gap >= LONGEST for gap in gaps)
        assert limio_emulator.counters.requests <= 3 * len(looks) + 1
        for told in complaints(caplog):
            assert told.startswith("Polling abandoned_baskets failed: Limio: ")
            assert says in told
            assert "Retrying in " in told
        baskets.add(2)
        mend(limio_emulator, monkeypatch)
        await triggerer.until(lambda: ids(triggerer.payloads()) == ["basket-1", "basket-2"])
        told = len(complaints(caplog))
        await triggerer.until(baskets.looked(times=3))
        assert len(complaints(caplog)) == told
        assert triggerer.failed() == []
        await triggerer.kill()

    caplog.set_level(logging.INFO)
    asyncio.run(scenario())
    for secret in (PERSONAL, "demo-secret", "a-new-secret", *limio_emulator.minted_tokens):
        assert secret not in caplog.text


@pytest.mark.sampled(3)
@pytest.mark.parametrize("form", FORMS)
def test_an_id_that_repeats_a_credential_gets_into_no_event(baskets, limio_emulator, caplog, form):
    def said() -> str:
        return FORMS[form](next(iter(limio_emulator.minted_tokens)))

    async def scenario() -> None:
        store = AssetStore()
        triggerer = await begin(baskets, store)
        baskets.shown.append({"id": f"b-{said()}", "created": datetime.now(tz=UTC).isoformat(), "customer": {}})
        baskets.add(1)
        await triggerer.until(lambda: len(complaints(caplog)) >= 1)
        assert triggerer.payloads() == []
        assert "the key of a record repeats a credential" in complaints(caplog)[0]
        baskets.shown.clear()
        baskets.add(1)
        await triggerer.until(lambda: ids(triggerer.payloads()) == ["basket-1"])
        await triggerer.kill()
        left = {"log": caplog.text, "store": json.dumps(store.values), "events": repr(triggerer.events)}
        assert holders({name: text.encode() for name, text in left.items()}, limio_emulator.minted_tokens) == set()

    caplog.set_level(logging.INFO)
    asyncio.run(scenario())


def test_a_secret_that_is_rotated_in_time(baskets, limio_emulator, monkeypatch, caplog):
    """The connection has the new one by the time that the old one is refused: nobody notices."""

    async def scenario() -> None:
        triggerer = await begin(baskets, AssetStore())
        limio_emulator.configure(client_secret="a-new-secret")
        monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", limio_emulator.airflow_connection_json())
        limio_emulator.expire_tokens()
        baskets.add(1)
        await triggerer.until(lambda: ids(triggerer.payloads()) == ["basket-1"])
        await triggerer.kill()

    asyncio.run(scenario())
    assert complaints(caplog, logging.WARNING) == []


@pytest.mark.parametrize("connection", [None, {"conn_type": "limio", "host": "http://127.0.0.1:9", "login": "somebody"}])
def test_a_connection_that_is_missing_or_wrong(baskets, limio_emulator, monkeypatch, caplog, connection):
    says = "limio_default" if connection is None else "field 'password'"

    async def scenario() -> None:
        store = AssetStore()
        await (await begin(baskets, store)).kill()
        if connection is None:
            monkeypatch.delenv("AIRFLOW_CONN_LIMIO_DEFAULT")
        else:
            monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", json.dumps(connection))
        baskets.add(1)
        triggerer = Triggerer()
        triggerer.start(watch(poke_interval=INTERVAL), store)
        await triggerer.until(lambda: len(complaints(caplog)) >= 1)
        # The last request of the watch that was killed has come by now.
        limio_emulator.counters.reset()
        await triggerer.until(lambda: len(complaints(caplog)) >= 3)
        assert all(says in told for told in complaints(caplog))
        assert limio_emulator.counters.requests == 0
        monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", limio_emulator.airflow_connection_json())
        await triggerer.until(lambda: ids(triggerer.payloads()) == ["basket-1"])
        await triggerer.kill()

    asyncio.run(scenario())


@pytest.mark.parametrize("says", ["answered 404", "the connection was refused"])
def test_a_connection_that_leads_elsewhere(limio_emulator, monkeypatch, caplog, says):
    """To a path or a host that is not there: whoever puts it right need not restart the triggerer."""
    right = limio_emulator.limitrail_connection_json()
    wrong = json.loads(right)
    if says == "answered 404":
        wrong["extra"]["paths"] = {"usage": "/v1/nowhere"}
    else:
        # The host of the tokens is right: asking that one is tried more than once, and takes its time.
        wrong["extra"]["auth_url"] = f"{wrong['host']}/connect/token"
        wrong["host"] = "http://127.0.0.1:9"

    async def scenario() -> None:
        store, triggerer = AssetStore(), Triggerer()
        monkeypatch.setenv("AIRFLOW_CONN_LIMITRAIL_DEFAULT", json.dumps(wrong))
        triggerer.start(LimitRailResourceEventTrigger(resource="usage", poke_interval=INTERVAL, since="2020-01-01"), store)
        await triggerer.until(lambda: len(complaints(caplog, logging.WARNING)) >= 2)
        monkeypatch.setenv("AIRFLOW_CONN_LIMITRAIL_DEFAULT", right)
        limio_emulator.limitrail.add_usage([{"id": "use-1", "committedAt": "2026-03-01T10:00:00Z"}])
        await triggerer.until(lambda: ids(triggerer.payloads()) == ["use-1"])
        await triggerer.kill()

    asyncio.run(scenario())
    assert says in complaints(caplog, logging.WARNING)[-1]


def gaps_of(entries: list[dict[str, Any]], status: int) -> list[float]:
    """Give the times from a failure to the next request."""
    return [after["at"] - before["at"] for before, after in pairwise(entries) if before["status"] == status]


def test_asked_to_wait(baskets, limio_emulator, caplog):
    async def scenario() -> None:
        triggerer = await begin(baskets, AssetStore())
        limio_emulator.faults.add(Fault("status", match="/api", status=429, headers={"Retry-After": "1"}))
        baskets.add(1)
        await triggerer.until(lambda: ids(triggerer.payloads()) == ["basket-1"])
        await triggerer.kill()

    asyncio.run(scenario())
    [gap] = gaps_of(baskets.asked(), 429)
    assert gap >= 0.99
    [told] = complaints(caplog, logging.WARNING)
    assert "answered 429" in told
    assert complaints(caplog) == []


def test_an_api_that_fails(baskets, limio_emulator, monkeypatch, caplog):
    """Each failure in a row doubles the pause, up to eight intervals, and a success ends the row."""
    pause, rows = PollPolicy.pause, []

    def noted(policy: PollPolicy, *, failures: int = 0, retry_after: float | None = None) -> float:
        rows.append(failures)
        return pause(policy, failures=failures, retry_after=retry_after)

    monkeypatch.setattr(PollPolicy, "pause", noted)

    async def scenario() -> None:
        triggerer = await begin(baskets, AssetStore())
        limio_emulator.faults.add(Fault("status", match="/api", status=503, times=5))
        baskets.add(1)
        await triggerer.until(lambda: ids(triggerer.payloads()) == ["basket-1"])
        limio_emulator.faults.add(Fault("status", match="/api", status=503))
        baskets.add(2)
        await triggerer.until(lambda: ids(triggerer.payloads()) == ["basket-1", "basket-2"])
        await triggerer.kill()

    asyncio.run(scenario())
    gaps = gaps_of(baskets.asked(), 503)
    assert len(gaps) == 6
    for gap, times in zip(gaps, [2, 4, 8, 8, 8, 2], strict=True):
        assert gap >= times * INTERVAL * 0.9
    assert [failures for failures in rows if failures] == [1, 2, 3, 4, 5, 1]
    assert complaints(caplog) == []
    assert len(complaints(caplog, logging.WARNING)) == 6


def test_a_list_whose_place_is_lost(baskets, limio_emulator):
    """A walk that breaks off shows nothing: half a list would move the watch past the other half."""

    async def scenario() -> None:
        triggerer = await begin(baskets, AssetStore(), page_size=5)
        limio_emulator.faults.add(Fault("status", match="/api", query="queryMore", status=503, times=3))
        everything = sorted(baskets.add(*range(12)))
        await triggerer.until(lambda: ids(triggerer.payloads()) == everything)
        assert len(triggerer.events) == 1
        await triggerer.kill()

    asyncio.run(scenario())


# -- predicates ----------------------------------------------------------------------------------------------------

FRAGILE = """
works = {works}

def is_good(record):
    if not works and record["number"] % 2:
        raise ValueError(record["customer"]["email"])
    return record["number"] < 100
"""


def test_a_predicate_that_fails(tmp_path, monkeypatch, baskets, caplog):
    (tmp_path / "fragile_predicates.py").write_text(FRAGILE.format(works=True))
    monkeypatch.syspath_prepend(tmp_path)

    async def scenario() -> None:
        stores = [AssetStore(), AssetStore()]
        triggerer = await begin(baskets, stores[0])
        fragile = triggerer.start(watch(poke_interval=INTERVAL, predicate="fragile_predicates.is_good"), stores[1])
        await triggerer.until(lambda: bool(stores[1].values))
        import fragile_predicates

        fragile_predicates.works = False
        baskets.add(1, 2, 100)
        await triggerer.until(lambda: len(triggerer.events) == 1)
        await triggerer.until(lambda: len(complaints(caplog)) >= 2)
        assert triggerer.payloads(fragile) == []
        baskets.add(3)
        await triggerer.until(lambda: len(triggerer.events) == 2)
        for told in complaints(caplog):
            assert "predicate='fragile_predicates.is_good' fails with ValueError on record 'basket-" in told
            assert "Correct it" in told
        fragile_predicates.works = True
        await triggerer.until(lambda: ids(triggerer.payloads(fragile)) == ["basket-1", "basket-2", "basket-3"])
        assert triggerer.failed() == []
        await triggerer.kill()

    asyncio.run(scenario())
    assert PERSONAL not in caplog.text


def test_a_predicate_that_cannot_be_imported(tmp_path, monkeypatch, baskets, caplog):
    """It takes long to be imported when it is there: what was seen meanwhile, without it, counts for nothing."""
    path = tmp_path / "later_predicates.py"
    works = "import time\ntime.sleep(0.5)\n" + FRAGILE.format(works=True)
    path.write_text(works)
    monkeypatch.syspath_prepend(tmp_path)
    known = baskets.add(10, 11)

    async def scenario() -> None:
        import sys

        stores = [AssetStore(), AssetStore()]
        first = await begin(baskets, stores[1], predicate="later_predicates.is_good")
        await first.kill()
        del sys.modules["later_predicates"]
        path.write_text("import no_such_module_at_all")
        triggerer = await begin(baskets, stores[0])
        later = triggerer.start(watch(poke_interval=INTERVAL, predicate="later_predicates.is_good"), stores[1])
        await triggerer.until(lambda: len(complaints(caplog)) >= 2)
        for told in complaints(caplog):
            assert "predicate='later_predicates.is_good' cannot be imported here" in told
            assert "no_such_module_at_all" in told
            assert "give the path of a function in a module that workers and triggerers have" in told
        baskets.add(1, 100)
        await triggerer.until(lambda: len(triggerer.events) == 1)
        baskets.add(2)
        path.write_text(works + "# mended\n")
        await triggerer.until(lambda: ids(triggerer.payloads(later)) == ["basket-1", "basket-2"])
        await triggerer.until(baskets.looked(times=4))
        assert ids(triggerer.payloads(later)) == ["basket-1", "basket-2"]
        assert not {*known} & {*ids(triggerer.payloads())}
        assert triggerer.failed() == []
        await triggerer.kill()

    asyncio.run(scenario())
    assert PERSONAL not in caplog.text


def test_a_predicate_that_is_there_late_makes_nothing_news(tmp_path, monkeypatch, baskets, limio_emulator, caplog):
    """The same where the watch has not begun: what is there when it can begin is no news, and nobody is asked before."""
    path = tmp_path / "late_predicates.py"
    monkeypatch.syspath_prepend(tmp_path)
    baskets.add(1, 2)

    async def scenario() -> None:
        store, triggerer = AssetStore(), Triggerer()
        triggerer.start(watch(poke_interval=INTERVAL, predicate="late_predicates.is_good"), store)
        await triggerer.until(lambda: len(complaints(caplog)) >= 3)
        assert limio_emulator.counters.requests == 0
        path.write_text("import time\ntime.sleep(0.5)\n" + FRAGILE.format(works=True))
        await triggerer.until(lambda: bool(store.values))
        baskets.add(3)
        await triggerer.until(lambda: bool(triggerer.events))
        await triggerer.until(baskets.looked())
        assert ids(triggerer.payloads()) == ["basket-3"]
        await triggerer.kill()

    asyncio.run(scenario())


# -- the other watches ---------------------------------------------------------------------------------------------


def test_a_watch_that_cannot_begin_does_not_hold_up_others(baskets, caplog):
    """Airflow's time for hearing of an event runs out for nobody: what others have emitted is soon known to be kept."""

    async def scenario() -> None:
        stores = [AssetStore(), AssetStore()]
        stores[1].fails = True
        triggerer = Triggerer()
        triggerer.manager._ack_timeout = 1.0
        for store in stores:
            triggerer.start(watch(poke_interval=INTERVAL), store)
        await triggerer.until(lambda: bool(stores[0].values))
        for number in range(4):
            baskets.add(number)
            await triggerer.until(lambda number=number: len(triggerer.events) == number + 1)
            await triggerer.until(lambda: not any(json.loads(value)["unacknowledged"] for value in stores[0].values.values()))
            await asyncio.sleep(0.4)
        assert triggerer.failed() == []
        stores[1].fails = False
        await triggerer.until(lambda: bool(stores[1].values))
        baskets.add(4)
        await triggerer.until(lambda: len(triggerer.events) == 6)
        assert triggerer.failed() == []
        await triggerer.kill()

    asyncio.run(scenario())


def test_what_one_watch_waits_for_is_not_what_others_wait_for(baskets):
    """Airflow keeps the event of one, and is slow with the other's: the first hears of its own later events."""

    async def scenario() -> None:
        stores = [AssetStore(), AssetStore()]
        triggerer = await begin(baskets, stores[0])
        triggerer.start(watch(poke_interval=INTERVAL, since="2000-01-01"), stores[1])
        baskets.add(1)
        triggerer.keeps = False
        await triggerer.until(lambda: len(triggerer.events) == 2)
        await triggerer.until(baskets.looked())
        triggerer.keeps = True
        baskets.add(2)
        await triggerer.until(lambda: len(triggerer.events) == 4)
        unacknowledged = lambda store: [ids([news]) for news in json.loads(next(iter(store.values.values())))["unacknowledged"]]  # noqa: E731
        await triggerer.until(lambda: unacknowledged(stores[0]) == unacknowledged(stores[1]) == [["basket-1"]])
        await triggerer.kill()

    asyncio.run(scenario())


def test_answers_that_are_no_records(baskets, limio_emulator, caplog):
    """What the answer holds is not repeated."""

    async def scenario() -> None:
        triggerer = await begin(baskets, AssetStore())
        body = json.dumps({"items": [PERSONAL, 7]}).encode()
        undo = limio_emulator.on_request(lambda call: Reply(200, body) if "abandoned" in call.path else None)
        await triggerer.until(lambda: len(complaints(caplog)) >= 1)
        undo()
        baskets.add(1)
        await triggerer.until(lambda: len(triggerer.events) == 1)
        await triggerer.kill()

    asyncio.run(scenario())
    assert "expected a list of objects" in complaints(caplog)[0]
    assert PERSONAL not in caplog.text


def test_airflow_never_says_that_it_has_kept_an_event(baskets):
    """It then ends the trigger, and starts it anew: what may be lost is emitted again."""

    async def scenario() -> None:
        store = AssetStore()
        triggerer = Triggerer(keeps=False)
        triggerer.manager._ack_timeout = 0.5
        triggerer.start(watch(poke_interval=INTERVAL), store)
        await triggerer.until(lambda: bool(store.values))
        baskets.add(1)
        await triggerer.until(lambda: len(triggerer.failed()) == 1)
        await triggerer.kill()
        assert ids(triggerer.payloads()) == ["basket-1"]

        again = Triggerer()
        again.start(watch(poke_interval=INTERVAL), store)
        await again.until(lambda: again.payloads() == triggerer.payloads())
        await again.kill()

    asyncio.run(scenario())
