# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One client for all triggers of a connection: which sockets are open, counted where they end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from limio_limitrail.polling.conditions import ObjectCondition, condition_to_json
from limio_limitrail.triggers import connection as clients
from limio_limitrail.triggers.limio import LimioResourceEventTrigger, LimioWaitTrigger
from tests.support.bad_hosts import CountingHost, counting_host
from tests.support.clock import PATIENCE, until

FIRST, SECOND = "token-1-1234567890", "token-2-1234567890"


@pytest.fixture
def host() -> Iterator[CountingHost]:
    with counting_host() as host:
        yield host


@pytest.fixture
def connect(host: CountingHost, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write the connection down as the host wants it now."""

    def connect(name: str = "counted", **extra: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", host.connection(**extra))

    connect()
    return connect


def wait(*, interval: float = 0.1, seconds: float = 600, conn_id: str = "counted") -> LimioWaitTrigger:
    return LimioWaitTrigger(
        limio_conn_id=conn_id,
        condition=condition_to_json(ObjectCondition(path_type="orders", object_id="one")),
        poke_interval=interval,
        deadline=time.time() + seconds,
        max_transient_failures=5,
    )


async def event_of(one: LimioWaitTrigger) -> dict[str, Any]:
    [event] = [event.payload async for event in one.run()]
    return dict(event)


def begin(*waits: LimioWaitTrigger) -> list[asyncio.Task[dict[str, Any]]]:
    return [asyncio.create_task(event_of(one)) for one in waits]


async def found(tasks: list[asyncio.Task[dict[str, Any]]]) -> bool:
    return {event["kind"] for event in await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)} == {"found"}


async def cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def known() -> int:
    return sum(client.base_url.startswith("http://127.0.0.1") for client in clients._clients.values())


def test_sockets_of_a_secret_that_was_rotated_are_closed(host, connect):
    async def scenario() -> None:
        waiting = begin(*(wait() for _ in range(10)))
        await until(lambda: host.asked[FIRST] > 20 and host.open(FIRST) > 0)
        before = known()
        host.secret = "another-secret"
        host.good.clear()
        connect()
        await until(lambda: host.asked[SECOND] > 20)
        await until(lambda: host.open(FIRST) == 0)
        assert host.open(SECOND) > 0
        assert known() == before
        host.there.set()
        assert await found(waiting)
        assert host.minted == 2

    asyncio.run(scenario())


def test_whoever_waits_goes_on_with_what_another_has_read(host, connect):
    """The old token still lives: only whoever begins now reads the connection anew."""

    async def scenario() -> None:
        waiting = begin(*(wait() for _ in range(5)))
        await until(lambda: host.asked[FIRST] > 10)
        host.secret = "another-secret"
        connect()
        waiting += begin(wait())
        await until(lambda: host.asked[SECOND] > 20)
        asked = host.asked[FIRST]
        await until(lambda: host.asked[SECOND] > 60)
        assert host.asked[FIRST] <= asked + 5
        await until(lambda: host.open(FIRST) == 0)
        host.there.set()
        assert await found(waiting)

    asyncio.run(scenario())


def test_one_that_sleeps_for_long_keeps_no_old_socket_open(host, connect):
    async def scenario() -> None:
        quick = begin(wait(), wait())
        sleeping = begin(wait(interval=3600))
        await until(lambda: host.asked[FIRST] > 4)
        host.secret = "another-secret"
        connect()
        quick += begin(wait())
        await until(lambda: host.open(FIRST) == 0 and host.asked[SECOND] > 4)
        host.there.set()
        assert await found(quick)
        await cancel(sleeping)

    asyncio.run(scenario())


def test_a_client_is_closed_after_the_look_that_is_under_way(host, connect):
    async def scenario() -> None:
        host.hold.clear()
        waiting = begin(wait())
        await until(lambda: host.waiting == 1)
        host.secret = "another-secret"
        connect()
        more = begin(wait())
        await until(lambda: host.waiting == 2)
        assert host.open(FIRST) == 1
        host.hold.set()
        await until(lambda: host.open(FIRST) == 0)
        host.there.set()
        assert await found(waiting + more)

    asyncio.run(scenario())


def test_sockets_are_closed_when_all_waits_have_ended_and_the_token_stays(host, connect):
    async def scenario() -> None:
        waiting = begin(*(wait() for _ in range(5)))
        await until(lambda: host.asked[FIRST] > 10 and host.open() > 0)
        host.there.set()
        assert await found(waiting)
        await until(lambda: host.open() == 0)
        assert await found(begin(wait()))
        await until(lambda: host.open() == 0)
        assert host.minted == 1

    asyncio.run(scenario())


def test_sockets_are_closed_when_all_waits_are_cancelled_in_the_middle_of_a_look(host, connect):
    async def scenario() -> None:
        host.hold.clear()
        waiting = begin(*(wait() for _ in range(5)))
        await until(lambda: host.waiting > 0)
        await cancel(waiting)
        host.hold.set()
        await until(lambda: host.waiting == 0 and host.open() == 0)

    asyncio.run(scenario())


def test_two_connections_that_are_alike_share_a_client_until_one_is_changed(host, connect):
    async def scenario() -> None:
        connect("alike")
        waiting = begin(wait(), wait(conn_id="alike"))
        await until(lambda: host.asked[FIRST] > 10)
        assert host.minted == 1
        host.secret = "another-secret"
        connect("alike")
        more = begin(wait(conn_id="alike"))
        await until(lambda: host.asked[SECOND] > 10)
        # The other connection still has the old secret, whose token lives.
        asked = host.asked[FIRST]
        await until(lambda: host.asked[FIRST] > asked + 10)
        host.there.set()
        assert await found(waiting + more)
        await until(lambda: host.open() == 0)

    asyncio.run(scenario())


def test_a_secret_that_is_rotated_again_and_again(host, connect):
    async def scenario() -> None:
        before = known()
        waiting = begin(*(wait() for _ in range(4)))
        for number in range(1, 6):
            await until(lambda: host.minted == number and host.asked[f"token-{number}-1234567890"] > 4)  # noqa: B023
            assert known() <= before + 1
            host.secret = f"secret-{number}"
            host.good.clear()
            connect()
        await until(lambda: host.minted == 6)
        host.there.set()
        assert await found(waiting)
        await until(lambda: host.open() == 0)

    asyncio.run(scenario())


def test_a_watch_closes_its_sockets_too(host, connect):
    async def scenario() -> None:
        watch = LimioResourceEventTrigger(limio_conn_id="counted", resource="orders", poke_interval=0.1)

        async def run() -> None:
            async for _ in watch.run():
                pass

        running = [asyncio.create_task(run())]
        await until(lambda: host.asked[FIRST] > 1)
        await cancel(running)
        await until(lambda: host.open() == 0)

    asyncio.run(scenario())


def test_no_event_loop_waits_while_a_client_is_made(host, connect, monkeypatch):
    """Airflow's supervisor is told the secret out of a thread, for which the loop has to run."""
    from limio_limitrail.hooks import clients

    made, go_on = threading.Event(), threading.Event()
    make = clients.make_limio_client

    def slow(*args: Any, **kwargs: Any) -> Any:
        made.set()
        assert go_on.wait(PATIENCE)
        return make(*args, **kwargs)

    async def scenario() -> None:
        waiting = begin(wait())
        await until(lambda: host.asked[FIRST] > 2)
        monkeypatch.setattr(clients, "make_limio_client", slow)
        connect(page_size=77)
        waiting += begin(wait())
        await until(made.is_set)
        asked = host.asked[FIRST]
        await until(lambda: host.asked[FIRST] > asked + 5)
        go_on.set()
        host.there.set()
        assert await found(waiting)

    asyncio.run(scenario())
