# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A triggerer is shared: hosts that hang hold few threads, and whoever waits at others does not notice.

Nothing here says how long something takes: good waits end while bad ones hang, `PATIENCE` is far more than any needs, and a
deadline passes when the test puts the clock forward.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.sdk import BaseHook
from asgiref.sync import sync_to_async

from limio_limitrail.api.pagination import CursorString
from limio_limitrail.api.resource import Resource
from limio_limitrail.emulator import EmulatorServer
from limio_limitrail.limio.resources import RESOURCES
from limio_limitrail.polling.conditions import ObjectCondition, RecordsCondition, condition_to_json
from limio_limitrail.polling.poll import LONGEST_POLL, NoAnswerError
from limio_limitrail.sensors.limio import LimioResourceSensor
from limio_limitrail.triggers.connection import ResolvedConnection
from limio_limitrail.triggers.limio import LimioWaitTrigger
from limio_limitrail.triggers.threads import OVERRUN
from tests.support.bad_hosts import BAD, BadHost, bad_host
from tests.support.clock import PATIENCE, Clock, until
from tests.support.wire import TOKEN, answer, full_listener, read_request

FEW = 8
THINGS = Resource(name="things", path="/custom/things", paging=CursorString())
ORDERS = RESOURCES["orders"]


def trigger(
    conn_id: str, id_: str, *, seconds: float = PATIENCE, wait: dict[str, Any] | None = None, **more: Any
) -> LimioWaitTrigger:
    given = {
        "limio_conn_id": conn_id,
        "condition": wait or condition_to_json(ObjectCondition(path_type="orders", object_id=id_)),
        "poke_interval": 0.1,
        "deadline": time.time() + seconds,
        "max_transient_failures": 5,
    }
    return LimioWaitTrigger(**given | more)


async def event_of(one: Any) -> dict[str, Any]:
    [event] = [event.payload async for event in one.run()]
    return dict(event)


def poll_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "limio-limitrail-poll" in thread.name}


def new_poll_threads(before: set[threading.Thread], *, most: int) -> int:
    """Return how many threads there are that were not there before, as soon as there are no more than `most`.

    One whose call has just ended is still there for a moment.
    """
    asyncio.run(until(lambda: len(poll_threads() - before) <= most))
    return len(poll_threads() - before)


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many polls were wanted, by what they are of: they have a token and a slot, or wait for these."""
    wanted, poll = Counter[str](), ResolvedConnection.poll

    async def counted(self: ResolvedConnection, *args: Any, target: str, **kwargs: Any) -> Any:
        wanted[target] += 1
        return await poll(self, *args, target=target, **kwargs)

    monkeypatch.setattr(ResolvedConnection, "poll", counted)
    return wanted


@pytest.fixture
def good(limio_emulator: EmulatorServer, monkeypatch: pytest.MonkeyPatch) -> EmulatorServer:
    """A host that answers, and the connection to it."""
    monkeypatch.setenv("AIRFLOW_CONN_GOOD", limio_emulator.airflow_connection_json())
    limio_emulator.put_records("objects/limio/orders", [{"id": f"order-{number}", "status": "active"} for number in range(40)])
    return limio_emulator


def connect(monkeypatch: pytest.MonkeyPatch, good: EmulatorServer, url: str, name: str = "bad", **extra: Any) -> None:
    """Make a connection whose tokens come from the good host."""
    more = {"auth_url": f"{good.url}/oauth2/token", **extra}
    known = json.loads(good.airflow_connection_json(**more))
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({**known, "host": url}))


def bad_wait(what: str) -> dict[str, Any] | None:
    return (
        condition_to_json(RecordsCondition(resource=THINGS, min_records=10**9, page_size=1))
        if what == "pages without an end"
        else None
    )


async def good_beside_bad(bad: list[LimioWaitTrigger], *, begun: Callable[[], bool], goods: int = 40) -> list[str]:
    """Let waits hang, and others find theirs meanwhile. Return how those ended."""
    hanging = [asyncio.create_task(event_of(one)) for one in bad]
    await until(begun)
    found = await asyncio.wait_for(
        asyncio.gather(*(event_of(trigger("good", f"order-{number}")) for number in range(goods))), PATIENCE
    )
    assert not any(one.done() for one in hanging)
    for one in hanging:
        one.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    return [event["kind"] for event in found]


# -- one host that hangs, and a good one ---------------------------------------------------------------------------


@pytest.mark.sampled(2)
@pytest.mark.parametrize("what", BAD)
def test_forty_waits_that_hang_beside_forty_good_ones(good, monkeypatch, what):
    with bad_host(what) as host:
        connect(monkeypatch, good, host.url)
        before = poll_threads()
        bad = [trigger("bad", f"order-{number}", seconds=600, wait=bad_wait(what)) for number in range(40)]
        kinds = asyncio.run(good_beside_bad(bad, begun=lambda: host.under_way > 0))
        assert kinds == ["found"] * 40
        assert 1 <= host.most <= FEW
        assert host.under_way <= new_poll_threads(before, most=FEW) <= FEW


def test_hosts_that_take_no_connections(good, monkeypatch):
    with full_listener() as url:
        connect(monkeypatch, good, url)
        bad = [trigger("bad", "one", seconds=600, max_transient_failures=10**6) for _ in range(40)]
        kinds = asyncio.run(good_beside_bad(bad, begun=lambda: bool(poll_threads())))
    assert kinds == ["found"] * 40


def test_a_name_that_nobody_resolves(good, monkeypatch):
    asked, over = Counter[str](), threading.Event()
    resolve = socket.getaddrinfo

    def hang(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "hangs.example.com":
            return resolve(host, *args, **kwargs)
        asked[host] += 1
        over.wait(600)
        raise socket.gaierror(socket.EAI_AGAIN, "no")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    connect(monkeypatch, good, "https://hangs.example.com")
    try:
        bad = [trigger("bad", "one", seconds=600) for _ in range(40)]
        kinds = asyncio.run(good_beside_bad(bad, begun=lambda: bool(asked)))
        assert kinds == ["found"] * 40
        assert asked["hangs.example.com"] <= FEW
    finally:
        over.set()


@pytest.mark.exhaustive
def test_many_hosts_that_hang(good, monkeypatch):
    """Each host has one look at least, however many others hang."""
    with contextlib.ExitStack() as opened:
        hosts = [opened.enter_context(bad_host("silence")) for _ in range(16)]
        for number, host in enumerate(hosts):
            connect(monkeypatch, good, host.url, f"bad_{number}")
        bad = [trigger(f"bad_{number}", str(of_it), seconds=600) for number in range(16) for of_it in range(4)]
        kinds = asyncio.run(good_beside_bad(bad, begun=lambda: all(host.under_way for host in hosts)))
        assert kinds == ["found"] * 40
        assert max(host.most for host in hosts) <= FEW
        assert sum(host.most for host in hosts) <= 32 + len(hosts)


# -- deadlines -----------------------------------------------------------------------------------------------------


async def all_events(triggers: list[LimioWaitTrigger]) -> list[dict[str, Any]]:
    return await asyncio.wait_for(asyncio.gather(*(event_of(one) for one in triggers)), PATIENCE)


async def events_at_the_deadline(
    triggers: list[LimioWaitTrigger], *, clock: Clock, begun: Callable[[], bool]
) -> list[dict[str, Any]]:
    """Let waits go on until something has begun, and then until the deadline. Return how they end."""
    waiting = [asyncio.create_task(event_of(one)) for one in triggers]
    await until(begun)
    assert not any(one.done() for one in waiting)
    clock.advance(PATIENCE)
    await until(lambda: all(one.done() for one in waiting))
    return [one.result() for one in waiting]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("what", BAD)
def test_a_wait_ends_at_its_deadline_though_its_look_hangs(good, monkeypatch, clock, polls, what):
    with bad_host(what) as host:
        connect(monkeypatch, good, host.url)
        bad = [trigger("bad", "one", wait=bad_wait(what)) for _ in range(12)]
        events = asyncio.run(
            events_at_the_deadline(bad, clock=clock, begun=lambda: polls.total() >= 12 and host.under_way == FEW - 2)
        )
    assert [event["kind"] for event in events] == ["timeout"] * 12
    told = " ".join(event["message"] for event in events)
    assert f"still busy with {'things' if bad_wait(what) else 'orders'} of {host.url} after " in told
    assert f"no slot became free: 6 others are busy with {'things' if bad_wait(what) else 'orders'} of {host.url}" in told


async def never(over: threading.Event) -> Any:
    await asyncio.sleep(10**6)


async def never_in_a_thread(over: threading.Event) -> Any:
    await sync_to_async(over.wait)(600)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("lookup", [never, never_in_a_thread])
def test_a_wait_ends_at_its_deadline_though_airflow_does_not_say_what_its_connection_is(good, monkeypatch, clock, lookup):
    asked, over = threading.Event(), threading.Event()

    async def look_up(conn_id: str) -> Any:
        asked.set()
        return await lookup(over)

    async def scenario() -> dict[str, Any]:
        try:
            [event] = await events_at_the_deadline([trigger("good", "order-1")], clock=clock, begun=asked.is_set)
            return event
        finally:
            # The event loop waits for its threads when it ends.
            over.set()

    monkeypatch.setattr(BaseHook, "aget_connection", look_up)
    event = asyncio.run(scenario())
    assert event["kind"] == "timeout"
    assert event["message"].startswith("waiting for the first poll: Airflow has not said what the connection 'good' is within ")


@pytest.mark.parametrize("problem", [ConnectionError("secret-in-a-text"), RuntimeError("secret-in-a-text"), TimeoutError()])
def test_a_connection_that_airflow_cannot_look_up_now(good, monkeypatch, problem):
    """A retry of the task may get through."""

    async def fail(conn_id: str) -> Any:
        raise problem

    monkeypatch.setattr(BaseHook, "aget_connection", fail)
    [event] = asyncio.run(all_events([trigger("good", "order-1")]))
    assert event["kind"] == "no_answer"
    assert event["message"] == f"Airflow has not said what the connection 'good' is ({type(problem).__name__})"


def test_a_hanging_look_ends_its_thread_with_the_wait(good, monkeypatch, clock):
    """Where a deadline comes first, the requests end with it, and not with the connection's own timeouts."""
    with bad_host("a byte at a time") as host:
        connect(monkeypatch, good, host.url, total_timeout=1700)

        async def scenario() -> None:
            bad = [trigger("bad", "one") for _ in range(8)]
            await events_at_the_deadline(bad, clock=clock, begun=lambda: host.under_way == FEW - 2)
            await until(lambda: host.under_way == 0)

        asyncio.run(scenario())


@pytest.mark.exhaustive
def test_a_list_without_an_end_ends_a_look(good, monkeypatch, clock, polls):
    with bad_host("pages without an end") as host:
        connect(monkeypatch, good, host.url)
        wait = bad_wait("pages without an end")

        async def scenario() -> dict[str, Any]:
            one = trigger("bad", "", condition=wait, max_transient_failures=1, seconds=10 * LONGEST_POLL)
            waiting = asyncio.create_task(event_of(one))
            for number in (1, 2):
                await until(lambda number=number: polls.total() == number)
                pages = host.pages
                await until(lambda pages=pages: host.pages > pages + 1)
                clock.advance(LONGEST_POLL)
            await until(waiting.done)
            return waiting.result()

        event = asyncio.run(scenario())
    assert event["kind"] == "no_answer"
    assert "2 polls in a row failed" in event["message"]
    assert "things" in event["message"]
    assert polls.total() == 2


def test_a_list_without_an_end_ends_a_look_on_a_worker(good, monkeypatch, clock):
    served = Counter[str]()

    def talk(host: BadHost, connection: socket.socket) -> None:
        while served["pages"] < 100:
            read_request(connection)
            served["pages"] += 1
            # As long as a response may take, all but a little.
            clock.advance(250)
            page = {"items": [{"id": str(served["pages"])}], "queryMore": str(served["pages"])}
            connection.sendall(answer(200, json.dumps(page).encode()))

    with bad_host(talk) as host:
        connect(monkeypatch, good, host.url)
        sensor = LimioResourceSensor(
            task_id="wait",
            resource=THINGS,
            min_records=10**9,
            page_size=1,
            limio_conn_id="bad",
            poke_interval=0.1,
            max_transient_failures=1,
        )
        with pytest.raises(NoAnswerError, match="2 polls in a row failed"):
            sensor.execute({"ti": types.SimpleNamespace(try_number=1)})
    assert served["pages"] == 2 * (LONGEST_POLL // 250 + 1)


# -- turns ---------------------------------------------------------------------------------------------------------


def test_a_turn_ends_when_the_look_does_and_not_when_its_wait_is_cancelled(good, monkeypatch, clock, polls):
    with bad_host("a byte at a time") as host:
        connect(monkeypatch, good, host.url)

        async def scenario() -> None:
            for _ in range(5):
                hanging = [asyncio.create_task(event_of(trigger("bad", str(number)))) for number in range(10)]
                await until(lambda: host.under_way > 0)
                for one in hanging:
                    one.cancel()
                await asyncio.gather(*hanging, return_exceptions=True)
            assert 1 <= host.most <= FEW
            host.mended.set()
            # Those who come now get the turns of those who hang, as soon as these have ended.
            wanted = polls.total()
            waiting = [asyncio.create_task(event_of(trigger("bad", str(number), seconds=10 * PATIENCE))) for number in range(10)]
            await until(lambda: polls.total() == wanted + 10)
            clock.advance(PATIENCE + 1)
            await until(lambda: all(one.done() for one in waiting))
            assert [one.result()["kind"] for one in waiting] == ["found"] * 10

        asyncio.run(scenario())


def test_a_list_that_hangs_leaves_what_else_its_host_has_a_turn(good, monkeypatch):
    with bad_host("things alone") as host:
        connect(monkeypatch, good, host.url)
        monkeypatch.setenv("AIRFLOW_CONN_GOOD", os.environ["AIRFLOW_CONN_BAD"])
        wait = condition_to_json(RecordsCondition(resource=THINGS))
        bad = [trigger("bad", "", seconds=600, condition=wait) for _ in range(40)]
        assert asyncio.run(good_beside_bad(bad, begun=lambda: host.hung > 0)) == ["found"] * 40
        assert host.hung <= FEW - 2


# -- tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.sampled(1)
@pytest.mark.parametrize("what", [what for what in BAD if "pages" not in what])
def test_forty_waits_for_a_token_that_does_not_come(good, monkeypatch, clock, polls, what):
    """One asks for it, in one thread, for all of them."""
    with bad_host(what) as host:
        connect(monkeypatch, good, good.url, auth_url=f"{host.url}/oauth2/token")
        before = poll_threads()
        bad = [trigger("bad", f"order-{number}", seconds=600) for number in range(40)]
        assert asyncio.run(good_beside_bad(bad, begun=lambda: host.under_way > 0)) == ["found"] * 40
        # Not by the host's connections: it does not notice at once that a request was given up before the next try.
        assert new_poll_threads(before, most=1) == 1
        wanted = polls.total()
        bad = [trigger("bad", "order-1") for _ in range(5)]
        events = asyncio.run(events_at_the_deadline(bad, clock=clock, begun=lambda: polls.total() == wanted + 5))
        assert {event["kind"] for event in events} == {"timeout"}


def test_a_token_endpoint_that_mends_serves_all_who_wait(good, monkeypatch, clock, polls):
    with bad_host("a byte at a time") as host:
        connect(monkeypatch, good, host.url, auth_url=f"{host.url}/oauth2/token")

        async def scenario() -> list[dict[str, Any]]:
            triggers = [trigger("bad", f"order-{number}", seconds=3600) for number in range(40)]
            waiting = [asyncio.create_task(event_of(one)) for one in triggers]
            await until(lambda: host.under_way == 1 and polls.total() == 40)
            host.mended.set()
            # No response may take longer.
            clock.advance(300)
            return await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)

        events = asyncio.run(scenario())
    assert [event["kind"] for event in events] == ["found"] * 40


@pytest.mark.exhaustive
def test_many_apis_with_one_token_endpoint_that_hangs(good, monkeypatch, limio_emulator_factory):
    with bad_host("a byte at a time") as host:
        for number in range(20):
            # Each is a client of its own: another id.
            connect(monkeypatch, good, good.url, f"bad_{number}", auth_url=f"{host.url}/oauth2/token", page_size=100 + number)
        bad = [trigger(f"bad_{number}", "order-1", seconds=600) for number in range(20) for _ in range(3)]
        assert asyncio.run(good_beside_bad(bad, begun=lambda: host.under_way > 0)) == ["found"] * 40
        assert host.most <= FEW


@pytest.mark.exhaustive
def test_a_token_that_is_refused_while_its_endpoint_hangs(good, monkeypatch, clock):
    """The looks that were refused ask for another one, or wait until another has: no longer than their waits do."""
    asked = Counter[str]()

    def talk(host: BadHost, connection: socket.socket) -> None:
        while True:
            what = "tokens" if b"/token" in read_request(connection).split(b"\r\n", 1)[0] else "orders"
            asked[what] += 1
            if what == "tokens" and asked[what] > 1:
                host.pause(600)
            connection.sendall(answer(200, TOKEN) if what == "tokens" else answer(404 if asked[what] < 20 else 401))

    before = poll_threads()
    with bad_host(talk) as host:
        connect(monkeypatch, good, host.url, auth_url=f"{host.url}/oauth2/token")
        bad = [trigger("bad", f"none-{number}") for number in range(12)]
        events = asyncio.run(events_at_the_deadline(bad, clock=clock, begun=lambda: asked["tokens"] > 1))
        assert {event["kind"] for event in events} == {"timeout"}
        assert new_poll_threads(before, most=FEW) <= FEW


# -- predicates ----------------------------------------------------------------------------------------------------


@pytest.fixture
def predicates(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of a user's predicates."""
    module = types.ModuleType("shared_predicates")
    over = threading.Event()
    calls = Counter[str]()

    def hangs(record: Any) -> bool:
        calls["hangs"] += 1
        over.wait(600)
        return True

    def ends_the_loop(record: Any) -> bool:
        return bool(next(iter(())))

    def cancels(record: Any) -> bool:
        raise asyncio.CancelledError(record["status"])

    def interrupts(record: Any) -> bool:
        raise KeyboardInterrupt(record["status"])

    def times_out(record: Any) -> bool:
        raise TimeoutError(record["status"])

    def quotes(record: Any) -> bool:
        raise LookupError(f"no such thing in {record}")

    def leaves(record: Any) -> bool:
        raise SystemExit(record["status"])

    def leaves_with_a_number(record: Any) -> bool:
        raise SystemExit(3)

    vars(module).update(
        quotes=quotes,
        leaves=leaves,
        leaves_with_a_number=leaves_with_a_number,
        hangs=hangs,
        ends_the_loop=ends_the_loop,
        cancels=cancels,
        interrupts=interrupts,
        times_out=times_out,
        calls=calls,
    )
    monkeypatch.setitem(sys.modules, "shared_predicates", module)
    yield module
    over.set()


def of_orders(predicate: str) -> dict[str, Any]:
    return condition_to_json(RecordsCondition(resource=ORDERS), predicate=f"shared_predicates.{predicate}")


def test_a_predicate_that_never_returns(good, predicates):
    bad = [trigger("good", "", seconds=600, wait=of_orders("hangs")) for _ in range(40)]
    assert asyncio.run(good_beside_bad(bad, begun=lambda: predicates.calls["hangs"] > 0)) == ["found"] * 40
    assert predicates.calls["hangs"] == 1


def test_a_wait_ends_at_its_deadline_though_its_predicate_never_returns(good, predicates, clock, polls):
    waits = [trigger("good", "", wait=of_orders("hangs")) for _ in range(3)]
    begun = lambda: predicates.calls["hangs"] > 0 and polls.total() == 3  # noqa: E731
    events = asyncio.run(events_at_the_deadline(waits, clock=clock, begun=begun))
    assert [event["kind"] for event in events] == ["timeout"] * 3
    assert any("busy with orders with shared_predicates.hangs of " in event["message"] for event in events)
    assert predicates.calls["hangs"] == 1


def test_a_predicate_that_is_longer_under_way_than_any_look_may_be(good, predicates, clock):
    async def scenario() -> dict[str, Any]:
        one = trigger("good", "", wait=of_orders("hangs"), max_transient_failures=0, seconds=10 * LONGEST_POLL)
        waiting = asyncio.create_task(event_of(one))
        await until(lambda: predicates.calls["hangs"] > 0)
        clock.advance(LONGEST_POLL + OVERRUN)
        await until(waiting.done)
        return waiting.result()

    event = asyncio.run(scenario())
    assert event["kind"] == "no_answer"
    assert "busy with orders with shared_predicates.hangs of " in event["message"]


@pytest.mark.parametrize(
    ("predicate", "says"),
    [
        ("ends_the_loop", "predicate='shared_predicates.ends_the_loop' fails with StopIteration on record 'order-0'. Correct it"),
        ("times_out", "predicate='shared_predicates.times_out' fails with TimeoutError on record 'order-0'. Correct it"),
        ("quotes", "predicate='shared_predicates.quotes' fails with LookupError on record 'order-0'. Correct it"),
        ("cancels", "the wait broke: RuntimeError: CancelledError()"),
        ("interrupts", "the wait broke: RuntimeError: KeyboardInterrupt()"),
        ("leaves", "the wait broke: RuntimeError: SystemExit()"),
        ("leaves_with_a_number", "the wait broke: RuntimeError: SystemExit(3)"),
    ],
)
def test_a_predicate_that_raises_tells_its_record_and_nothing_in_it(good, predicates, predicate, says):
    """The event goes to Airflow's database, and the errors quote the record."""
    [event] = asyncio.run(all_events([trigger("good", "", wait=of_orders(predicate))]))
    assert (event["kind"], event["message"]) == ("ended", says)


def test_a_predicate_whose_import_never_ends(good, tmp_path, monkeypatch, clock):
    for name in ("endless_import", "another_endless_import"):
        says = "import pathlib, threading\npathlib.Path(__file__).with_suffix('.begun').touch()\n"
        (tmp_path / f"{name}.py").write_text(f"{says}threading.Event().wait(300)\n")
    monkeypatch.syspath_prepend(tmp_path)
    first, second = (
        condition_to_json(RecordsCondition(resource=ORDERS), predicate=f"{name}.anything")
        for name in ("endless_import", "another_endless_import")
    )
    before = poll_threads()
    bad = [trigger("good", "", seconds=600, condition=first) for _ in range(40)]
    assert asyncio.run(good_beside_bad(bad, begun=(tmp_path / "endless_import.begun").exists)) == ["found"] * 40
    assert new_poll_threads(before, most=1) == 1
    begun = (tmp_path / "another_endless_import.begun").exists
    [event] = asyncio.run(events_at_the_deadline([trigger("good", "", condition=second)], clock=clock, begun=begun))
    assert event["kind"] == "timeout"
    assert "the import of another_endless_import.anything" in event["message"]


# -- the process ---------------------------------------------------------------------------------------------------

ENDING = """
import asyncio, json, sys, time

from limio_limitrail.sensors.limio import LimioResourceSensor
from limio_limitrail.triggers.limio import LimioWaitTrigger
from limio_limitrail.polling.poll import NoAnswerError
from limio_limitrail.polling.conditions import ObjectCondition
from limio_limitrail.polling.conditions import condition_to_json

one = LimioWaitTrigger(
    limio_conn_id="bad",
    condition=condition_to_json(ObjectCondition(path_type="orders", object_id="one")),
    poke_interval=0.1,
    deadline=time.time() + 600,
    max_transient_failures=0,
)


async def run():
    waiting = asyncio.create_task(anext(one.run()))
    await asyncio.to_thread(sys.stdin.readline)
    waiting.cancel()


asyncio.run(run())
print("over")
"""


def test_a_process_ends_though_a_look_hangs(good, monkeypatch):
    with bad_host("a byte at a time") as host:
        connect(monkeypatch, good, host.url)
        process = subprocess.Popen(
            [sys.executable, "-c", ENDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            asyncio.run(until(lambda: host.under_way > 0))
            told = process.communicate("end\n", timeout=PATIENCE)[0]
            assert told.splitlines()[-1] == "over"
            assert process.returncode == 0
            assert host.under_way <= 1
        finally:
            process.kill()
