# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Event triggers against the emulator, through Airflow's own shared streams: each record is emitted, and once."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest

from limio_limitrail.api.pagination import SinglePage
from limio_limitrail.api.resource import Resource
from limio_limitrail.emulator import Call, Fault, Reply
from limio_limitrail.polling.watch_state import Watermark
from limio_limitrail.triggers.limitrail import LimitRailResourceEventTrigger
from tests.support.watched import PERSONAL, Baskets, LoopTicks, watch

# Airflow 3.2 has none.
pytest.importorskip("airflow.triggers.shared_stream")
from tests.support.watching import AssetStore, Triggerer

pytestmark = pytest.mark.usefixtures("connected")


@pytest.fixture
def baskets(limio_emulator) -> Baskets:
    return Baskets(limio_emulator)


def ids(payloads: list[dict[str, Any]]) -> list[str]:
    return sorted(id_ for payload in payloads for id_ in payload["ids"])


def kept(store: AssetStore) -> dict[str, Any]:
    [value] = store.values.values()
    found: dict[str, Any] = json.loads(value)
    return found


def all_heard(*stores: AssetStore):
    """Tell whether it is stored that Airflow has kept all events."""
    return lambda: all(store.values and not kept(store)["unacknowledged"] for store in stores)


async def begun(triggerer: Triggerer, *stores: AssetStore) -> None:
    """Wait until watches are under way: what is there by then is stored as known."""
    await triggerer.until(lambda: all(store.values for store in stores))


def test_new_records_are_emitted_once_and_old_ones_never(baskets):
    async def scenario() -> None:
        store, triggerer = AssetStore(), Triggerer()
        baskets.add(1)
        baskets.add(2, when=datetime.now(tz=UTC) - timedelta(days=3))
        triggerer.start(watch(), store)
        await triggerer.until(baskets.looked(times=3))
        assert triggerer.events == []
        baskets.add(3, 4)
        await triggerer.until(lambda: len(triggerer.events) == 1)
        await triggerer.until(baskets.looked(times=3))
        [payload] = triggerer.payloads()
        assert (payload["count"], sorted(payload["ids"])) == (2, ["basket-3", "basket-4"])
        assert payload["resource"] == "abandoned_baskets"
        await triggerer.until(all_heard(store))
        await triggerer.kill()

        again = Triggerer()
        baskets.add(5)
        again.start(watch(), store)
        await again.until(lambda: len(again.events) == 1)
        await again.until(baskets.looked(times=3))
        assert [payload["ids"] for payload in again.payloads()] == [["basket-5"]]
        await again.kill()

    asyncio.run(scenario())


# -- lists of other kinds ------------------------------------------------------------------------------------------


def test_a_resource_of_ones_own(limio_emulator):
    """One that tells no time: whatever changes in a record is news."""
    things = Resource(name="things", path="/custom/{kind}", primary_key=("kind", "number"), paging=SinglePage())
    rows = [{"kind": "small", "number": number, "state": "new"} for number in range(3)]

    async def scenario() -> None:
        store, triggerer = AssetStore(), Triggerer()
        limio_emulator.put_records("custom/things", rows)
        triggerer.start(watch(resource=things, path_params={"kind": "things"}, query_params={"all": True}), store)
        await begun(triggerer, store)
        limio_emulator.put_records("custom/things", [*rows[:2], {**rows[2], "state": "sold"}, {**rows[2], "number": 3}])
        await triggerer.until(lambda: len(triggerer.events) == 1)
        await asyncio.sleep(0.3)
        [payload] = triggerer.payloads()
        assert payload["resource"] == "things"
        assert ids([payload]) == ["small/2", "small/3"]
        assert (payload["since"], payload["watermark"]) == (None, None)
        assert all(entry["query"] == "all=true" for entry in limio_emulator.counters.log if "custom" in entry["path"])
        await triggerer.kill()

    asyncio.run(scenario())


class Runtime:
    """A runtime list of LimitRail's at a path of the tenant's own."""

    def __init__(self, server: Any, path: str) -> None:
        self.path, self.rows, self.windows, self.scopes = path, [], [], set()
        server.on_request(self.answer)

    def answer(self, call: Call) -> Reply | None:
        if call.path == "/connect/token":
            self.scopes.add(parse_qs(call.body.decode())["scope"][0])
        if call.path != self.path:
            return None
        start, stop = (datetime.fromisoformat(call.params[name]) for name in ("from", "to"))
        self.windows.append((start, stop))
        rows = [row for row in self.rows if start <= datetime.fromisoformat(row["committedAt"]) < stop]
        return Reply(200, json.dumps({"items": rows}).encode())

    def add(self, id_: str, when: datetime) -> None:
        self.rows.append({"id": id_, "committedAt": when.isoformat()})


def test_a_runtime_list_of_limitrail(monkeypatch, limio_emulator):
    extra = {"paths": {"usage": "/v1/acme/usage"}, "scope": "limitrail.usage.read"}
    monkeypatch.setenv("AIRFLOW_CONN_LIMITRAIL_DEFAULT", limio_emulator.limitrail_connection_json(**extra))
    runtime = Runtime(limio_emulator, "/v1/acme/usage")

    async def scenario() -> None:
        store, triggerer = AssetStore(), Triggerer()
        begin = datetime.now(tz=UTC)
        one = LimitRailResourceEventTrigger(
            resource="usage", poke_interval=0.1, overlap=timedelta(hours=1), scope="limitrail.accounts.read limitrail.usage.read"
        )
        runtime.add("known", begin - timedelta(minutes=1))
        triggerer.start(one, store)
        await begun(triggerer, store)
        runtime.add("late", begin - timedelta(minutes=30))
        runtime.add("too-late", begin - timedelta(hours=3))
        runtime.add("now", datetime.now(tz=UTC))
        await triggerer.until(lambda: ids(triggerer.payloads()) == ["late", "now"])
        await triggerer.kill()
        assert runtime.scopes == {"limitrail.accounts.read limitrail.usage.read"}
        for start, stop in runtime.windows:
            assert begin - timedelta(hours=1, minutes=2) <= start < stop
            assert begin <= stop <= datetime.now(tz=UTC) + timedelta(seconds=1)

    asyncio.run(scenario())


def test_the_emulators_usage(limio_emulator):
    """Without paths of the connection's own."""

    async def scenario() -> None:
        store, triggerer = AssetStore(), Triggerer()
        triggerer.start(LimitRailResourceEventTrigger(resource="usage", poke_interval=0.1), store)
        await begun(triggerer, store)
        [made] = limio_emulator.limitrail.add_usage([{"committedAt": datetime.now(tz=UTC)}])
        await triggerer.until(lambda: len(triggerer.events) == 1)
        assert ids(triggerer.payloads()) == [made]
        await triggerer.kill()

    asyncio.run(scenario())


# -- several watches of one list -----------------------------------------------------------------------------------

PREDICATES = """
def is_even(record):
    return record["number"] % 2 == 0

def is_large(record):
    return record["number"] >= 100
"""


def test_watches_of_one_list_share_its_looks(tmp_path, monkeypatch, baskets):
    (tmp_path / "shared_predicates.py").write_text(PREDICATES)
    monkeypatch.syspath_prepend(tmp_path)
    interval = 0.3

    async def scenario() -> None:
        stores, triggerer = [AssetStore() for _ in range(5)], Triggerer()
        predicates = [None, "shared_predicates.is_even", "shared_predicates.is_large", "shared_predicates.is_even", None]
        overlaps = [60, 60, 60, 30, 90]
        started = time.monotonic()
        watches = [
            triggerer.start(watch(predicate=predicate, poke_interval=interval, overlap=overlap), store)
            for predicate, overlap, store in zip(predicates, overlaps, stores, strict=True)
        ]
        await begun(triggerer, *stores)
        baskets.add(1, 2, 101, 102)
        everything = ["basket-1", "basket-101", "basket-102", "basket-2"]
        expected = [everything, ["basket-102", "basket-2"], ["basket-101", "basket-102"], ["basket-102", "basket-2"], everything]
        await triggerer.until(lambda: len(triggerer.events) == 5)
        await triggerer.until(baskets.looked(times=4))
        assert [ids(triggerer.payloads(number)) for number in watches] == expected
        assert len({payload["event_id"] for payload in triggerer.payloads()}) >= 3
        assert len(triggerer.manager._groups) == 1
        # A pause is at least nine tenths of the interval.
        assert len(baskets.asked()) <= (time.monotonic() - started) / (0.9 * interval) + 2
        await triggerer.until(all_heard(*stores))
        await triggerer.kill()

    asyncio.run(scenario())


def test_watches_that_do_not_share():
    alike = [
        watch(),
        watch(predicate="operator.truth"),
        watch(since="2026-01-01"),
        watch(overlap=1),
        watch(poke_interval=timedelta(seconds=0.1)),
    ]
    assert len({one.shared_stream_key() for one in alike}) == 1
    others = [
        watch(poke_interval=0.2),
        watch(page_size=10),
        watch(query_params={"a": "1"}),
        watch(limio_conn_id="limio_other"),
        watch(resource="orders"),
        watch(resource=Resource(name="abandoned_baskets", path="/other")),
        LimitRailResourceEventTrigger(resource="usage"),
        LimitRailResourceEventTrigger(resource="usage", scope="a"),
    ]
    assert len({one.shared_stream_key() for one in [alike[0], *others]}) == 1 + len(others)


def test_one_that_comes_later_is_told_of_what_was_before(baskets):
    async def scenario() -> None:
        stores, triggerer = [AssetStore() for _ in range(3)], Triggerer()
        now = datetime.now(tz=UTC)
        for days in range(1, 250):
            baskets.add(days, when=now - timedelta(days=days))
        first = triggerer.start(watch(), stores[0])
        await begun(triggerer, stores[0])
        baskets.add(1000)
        await triggerer.until(lambda: len(triggerer.events) == 1)
        since = (now - timedelta(days=150, hours=1)).isoformat()
        second = triggerer.start(watch(since=since), stores[1])
        third = triggerer.start(watch(since=now - timedelta(days=2, hours=1), predicate="operator.truth"), stores[2])
        await triggerer.until(lambda: len(triggerer.events) == 3)
        baskets.add(1001)
        await triggerer.until(lambda: len(triggerer.events) == 6)
        await triggerer.until(baskets.looked())
        assert ids(triggerer.payloads(first)) == ["basket-1000", "basket-1001"]
        assert [payload["count"] for payload in triggerer.payloads(second)] == [151, 1]
        assert len(triggerer.payloads(second)[0]["ids"]) == 100
        assert ids(triggerer.payloads(third)) == ["basket-1", "basket-1000", "basket-1001", "basket-2"]
        await triggerer.kill()

    asyncio.run(scenario())


# -- killed --------------------------------------------------------------------------------------------------------


def test_killed_before_airflow_has_kept_an_event(baskets):
    async def scenario() -> None:
        store = AssetStore()
        first = Triggerer(keeps=False)
        first.start(watch(), store)
        await begun(first, store)
        baskets.add(1, 2)
        await first.until(lambda: len(first.events) == 1)
        await first.until(baskets.looked())
        baskets.add(3)
        await first.until(lambda: len(first.events) == 2)
        await first.kill()
        baskets.add(4)

        told = first.payloads()
        for keeps in (False, False, True):
            # Nobody knows yet that they were kept: the same again, word for word.
            life = Triggerer(keeps=keeps)
            life.start(watch(), store)
            await life.until(lambda life=life: len(life.events) >= 3)
            await life.until(baskets.looked())
            assert life.payloads()[: len(told)] == told
            assert ids(life.payloads()[2:]) == ["basket-4"]
            told = life.payloads()
            if keeps:
                await life.until(all_heard(store))
            await life.kill()

        last = Triggerer()
        baskets.add(5)
        last.start(watch(), store)
        await last.until(lambda: len(last.events) == 1)
        await last.until(baskets.looked())
        assert ids(last.payloads()) == ["basket-5"]
        await last.kill()

    asyncio.run(scenario())


def test_what_was_not_heard_is_emitted_again_while_the_api_is_away(baskets, limio_emulator):
    async def scenario() -> None:
        store, first = AssetStore(), Triggerer(keeps=False)
        first.start(watch(), store)
        await begun(first, store)
        baskets.add(1)
        await first.until(lambda: len(first.events) == 1)
        await first.kill()
        limio_emulator.faults.add(Fault("status", match="/", status=503, times=None))
        second = Triggerer()
        second.start(watch(), store)
        await second.until(lambda: len(second.events) == 1)
        assert second.payloads() == first.payloads()
        await second.until(all_heard(store))
        await second.kill()

    asyncio.run(scenario())


class SlowStore(AssetStore):
    """One that takes its time, before it has written and after."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance
        self.written: list[dict[str, Any]] = []

    async def aset(self, key: str, value: Any) -> None:
        await asyncio.sleep(self.chance.uniform(0, 0.03))
        await super().aset(key, value)
        self.written.append(json.loads(self.values[key]))
        await asyncio.sleep(self.chance.uniform(0, 0.03))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment(baskets, seed):
    """Every record is emitted; a record has one event, and an event is always the same."""
    chance = random.Random(seed)

    async def scenario() -> None:
        store = SlowStore(chance)
        first = Triggerer()
        first.start(watch(poke_interval=0.03), store)
        await begun(first, store)
        await first.kill()
        payloads: list[dict[str, Any]] = first.payloads()
        added = 0
        for _ in range(12):
            life = Triggerer(keeps=chance.random() < 0.8)
            life.start(watch(poke_interval=0.03), store)
            end = time.monotonic() + chance.uniform(0.01, 0.5)
            while time.monotonic() < end:
                some = range(added, added := added + chance.randint(0, 2))
                baskets.add(*some, when=datetime.now(tz=UTC) - timedelta(seconds=chance.uniform(0, 50)))
                await asyncio.sleep(chance.uniform(0, 0.1))
            await life.kill()
            payloads += life.payloads()
        last = Triggerer()
        last.start(watch(poke_interval=0.03), store)
        everything = sorted(f"basket-{number}" for number in range(added))
        await last.until(lambda: sorted(set(ids([*payloads, *last.payloads()]))) == everything)
        await last.until(all_heard(store))
        await last.kill()
        payloads += last.payloads()

        by_event: dict[str, dict[str, Any]] = {}
        for payload in payloads:
            assert by_event.setdefault(payload["event_id"], payload) == payload
        assert ids(list(by_event.values())) == everything
        stored = {news["event_id"] for value in store.written for news in value["unacknowledged"]}
        assert by_event.keys() <= stored
        assert kept(store)["emitted"] == len(by_event)

    asyncio.run(scenario())


class CancelledStore(AssetStore):
    """One whose writer is ended in the very moment in which it has written."""

    end: Any = None

    async def aset(self, key: str, value: Any) -> None:
        await super().aset(key, value)
        end, self.end = self.end, None
        if end is not None:
            asyncio.get_running_loop().call_soon(end)


def test_a_trigger_that_is_ended_while_it_stores_ends(baskets):
    """Else a triggerer that shuts down would wait for it for ever."""

    async def scenario() -> None:
        store, triggerer = CancelledStore(), Triggerer(keeps=False)
        triggerer.start(watch(), store)
        await begun(triggerer, store)
        [task] = triggerer._tasks
        store.end = task.cancel
        baskets.add(1)
        await triggerer.until(task.done)
        assert task.cancelled()
        await triggerer.kill()

        again = Triggerer()
        again.start(watch(), store)
        await again.until(lambda: ids(again.payloads()) == ["basket-1"])
        await again.kill()

    asyncio.run(scenario())


# -- stores --------------------------------------------------------------------------------------------------------


def test_a_store_that_fails_for_a_while(baskets, caplog):
    async def scenario() -> None:
        store = SlowStore(random.Random(0))
        store.fails = True
        triggerer = Triggerer()
        one = triggerer.start(watch(), store)
        await triggerer.until(lambda: "cannot start: ConnectionError: the store does not answer" in caplog.text)
        # Nobody needs to be asked before it is known how far the watch had come.
        assert baskets.asked() == []
        store.fails = False
        await begun(triggerer, store)

        # Before an emission.
        store.fails = True
        baskets.add(1)
        await triggerer.until(baskets.looked(times=3))
        assert triggerer.events == []
        baskets.add(2)
        store.fails = False
        await triggerer.until(lambda: ids(triggerer.payloads()) == ["basket-1", "basket-2"])

        # After one, when Airflow has kept it.
        await triggerer.until(all_heard(store))
        triggerer.keeps = False
        baskets.add(3)
        await triggerer.until(lambda: len(triggerer.events) >= 2 and triggerer.events[-1][1]["ids"] == ["basket-3"])
        await triggerer.until(baskets.looked())
        store.fails = True
        triggerer.manager.confirm_persisted(range(1000))
        await triggerer.until(lambda: "was acknowledged could not be stored" in caplog.text)
        store.fails = False
        await triggerer.until(all_heard(store))

        assert triggerer.failed() == []
        assert ids(triggerer.payloads(one)) == ["basket-1", "basket-2", "basket-3"]
        stored = {news["event_id"] for value in store.written for news in value["unacknowledged"]}
        assert {payload["event_id"] for payload in triggerer.payloads()} <= stored
        await triggerer.kill()

        again = Triggerer()
        again.start(watch(), store)
        await again.until(baskets.looked(times=3))
        assert again.events == []
        await again.kill()

    caplog.set_level(logging.WARNING)
    asyncio.run(scenario())
    assert PERSONAL not in caplog.text


def test_a_store_that_fails_between_two_lives(baskets):
    async def scenario() -> None:
        store, first = AssetStore(), Triggerer()
        first.start(watch(), store)
        await begun(first, store)
        await first.kill()
        baskets.add(1)
        store.fails = True
        second = Triggerer()
        second.start(watch(), store)
        await asyncio.sleep(0.5)
        baskets.add(2)
        assert second.events == []
        store.fails = False
        await second.until(lambda: ids(second.payloads()) == ["basket-1", "basket-2"])
        await second.kill()

    asyncio.run(scenario())


@pytest.mark.parametrize("behind", [0, 1])
def test_a_store_that_lags_behind_another(baskets, behind):
    """Of the stores of two assets the one counts that knows more; and the other one is put right."""

    async def scenario() -> None:
        stores, first = [AssetStore(), AssetStore()], Triggerer()
        first.start(watch(), *stores)
        await begun(first, *stores)
        early = dict(stores[behind].values)
        baskets.add(1)
        await first.until(lambda: len(first.events) == 1)
        # Stored before it was emitted.
        unacknowledged = [dict(store.values) for store in stores]
        await first.until(all_heard(*stores))
        await first.kill()

        for older in (early, unacknowledged[behind]):
            stores[behind].values = dict(older)
            life = Triggerer()
            life.start(watch(), *stores)
            await life.until(lambda: kept(stores[0]) == kept(stores[1]))
            await life.until(baskets.looked())
            assert life.events == []
            await life.kill()
            assert kept(stores[behind])["emitted"] == 1

        # Killed between the two writes before an emission: it is made now.
        stores[behind].values, stores[1 - behind].values = dict(early), dict(unacknowledged[1 - behind])
        last = Triggerer()
        last.start(watch(), *stores)
        await last.until(lambda: len(last.events) == 1)
        assert last.payloads() == first.payloads()
        await last.until(all_heard(*stores))
        await last.kill()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "garbage", ['"x"', "[]", '{"format": 2}', '{"format": 1, "watermark": {"changed_after": null, "remembered": "0000"}}']
)
def test_a_store_with_garbage(baskets, caplog, garbage):
    """Nothing is emitted, nothing overwritten, and others that watch the list do not suffer."""

    async def scenario() -> None:
        stores, triggerer = [AssetStore(), AssetStore()], Triggerer()
        triggerer.start(watch(), stores[0])
        await begun(triggerer, stores[0])
        [key] = stores[0].values
        stores[1].values[key] = garbage
        lost = triggerer.start(watch(since="2020-01-01"), stores[1])
        told = "The watch of abandoned_baskets cannot start: the state of the watch cannot be read"
        await triggerer.until(lambda: told in caplog.text)
        baskets.add(1)
        await triggerer.until(lambda: len(triggerer.events) == 1)
        await triggerer.until(all_heard(stores[0]))
        assert stores[1].values == {key: garbage}
        assert triggerer.payloads(lost) == []
        assert "remove the value from the asset's state store" in caplog.text
        assert f"The value is {key!r}" in caplog.text
        del stores[1].values[key]
        await triggerer.until(lambda: ids(triggerer.payloads(lost)) == ["basket-1"])
        assert triggerer.failed() == []
        await triggerer.kill()

    asyncio.run(scenario())


# -- the loop ------------------------------------------------------------------------------------------------------


@pytest.mark.exhaustive
def test_nothing_holds_up_the_event_loop(tmp_path, monkeypatch, baskets, limio_emulator):
    """Neither an API that takes its time nor a predicate that does, to be imported or to judge, nor many records."""
    text = "wait = loop_ticks.wait_for_more\nwait()\ndef slow(record):\n    if record['number'] > 3000: wait()\n    return True\n"
    (tmp_path / "slow_event_predicates.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    ticks = LoopTicks()
    monkeypatch.setattr("builtins.loop_ticks", ticks, raising=False)
    moved = Watermark.advance

    def as_if_there_were_more(position: Watermark, fingerprints: Any, **more: Any) -> Watermark:
        if len(fingerprints) > 2000:
            ticks.wait_for_more()
        return moved(position, fingerprints, **more)

    monkeypatch.setattr(Watermark, "advance", as_if_there_were_more)

    async def scenario() -> None:
        stores, triggerer = [AssetStore(), AssetStore()], Triggerer()
        triggerer.start(watch(), stores[0])
        await begun(triggerer, stores[0])
        ticking = asyncio.create_task(ticks.run())
        limio_emulator.on_request(lambda call: ticks.wait_for_more() if "/api/" in call.path else None)
        triggerer.start(watch(predicate="slow_event_predicates.slow"), stores[1])
        await begun(triggerer, *stores)
        baskets.add(*range(2900), 5000)
        await triggerer.until(lambda: len(triggerer.events) == 2)
        assert {payload["count"] for payload in triggerer.payloads()} == {2901}
        await triggerer.until(all_heard(*stores))
        ticking.cancel()
        await triggerer.kill()

    asyncio.run(scenario())
    # At least once for the import, a judgement, a watermark and an answer each.
    assert ticks.waited >= 4
    assert ticks.stopped == 0


def test_what_is_stored_and_told_holds_nothing_personal_and_no_secret(baskets, limio_emulator, caplog):
    caplog.set_level(logging.DEBUG)

    async def scenario() -> str:
        store, triggerer = AssetStore(), Triggerer()
        one = watch(predicate="operator.truth")
        triggerer.start(one, store)
        await begun(triggerer, store)
        baskets.add(*range(200))
        await triggerer.until(lambda: len(triggerer.events) == 1)
        await triggerer.until(all_heard(store))
        limio_emulator.expire_tokens()
        limio_emulator.faults.add(Fault("status", match="/api", status=403))
        limio_emulator.faults.add(Fault("bad_json", match="/api", times=2))
        await triggerer.until(lambda: caplog.text.count("Polling abandoned_baskets failed") >= 2)
        shown = [repr(one), str(one.serialize()), json.dumps(triggerer.events), json.dumps(store.values), caplog.text]
        shown += [repr(vars(task)) if hasattr(task, "__dict__") else repr(task) for task in triggerer._tasks]
        await triggerer.kill()
        return "\n".join(shown)

    shown = asyncio.run(scenario())
    assert "basket-1" in shown
    assert len(limio_emulator.minted_tokens) >= 2
    for secret in (PERSONAL, limio_emulator.client_secret, *limio_emulator.minted_tokens):
        assert secret not in shown
