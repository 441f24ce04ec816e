# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Four ways in which other providers' waits break, and this one's must not.

A refusal that is asked about for ever (a 403 that is "not yet"): here, request by request. `test_modes` has it among all other
ends.
Pages that the triggerer cannot read, or that end up in XCom: here. `test_records` reads pages on the worker.
A missing scope that is skipped: here, as the token endpoint tells it and as the API does. `test_modes` has 403s of Limio's, and
`test_resuming` every event that ends a wait.
A wait that outlives its deadline because each deferral begins a new one: here, for a trigger that is moved again and again.
`test_triggers` moves one once, and `test_resuming` shows that no event leads to a second deferral.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.trigger import Trigger
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, AirflowSkipException, TaskDeferred
from airflow.sdk.module_loading import import_string

from limio_limitrail.emulator import Call, EmulatorServer, Fault, Reply
from limio_limitrail.emulator.options import ACCOUNTS_READ, USAGE_READ, USAGE_WRITE
from limio_limitrail.sensors.base import GRACE
from limio_limitrail.sensors.limio import LimioObjectSensor, LimioResourceSensor
from limio_limitrail.sensors.limitrail import LimitRailResourceSensor
from tests.support.airflow_home import AirflowHome
from tests.support.clock import until

MODES = {
    "poke": "mode='poke'",
    "reschedule": "mode='reschedule'",
    "deferrable": "deferrable=True",
}
TOKEN = "token"
# Each process has a token of its own: the triggerer, and each look of a task that is rescheduled. The third look follows.
# Here all tasks are in one process: where no other task has come between two looks of one, the token is still there.
TWO_GOOD_LOOKS: dict[str, list[list[Any]]] = {
    "poke": [[TOKEN, 200, 200]],
    "reschedule": [[TOKEN, 200, *second, 200, *third] for second in ([TOKEN], []) for third in ([TOKEN], [])],
    "deferrable": [[TOKEN, 200, TOKEN, 200]],
}
CONTEXT: Any = {"ti": SimpleNamespace(try_number=1)}
NEVER = 10**6
"""More records than there ever are."""


def exchanged(server: EmulatorServer) -> list[Any]:
    """Give the requests in order: the word token for one that was for a token, else the status that was answered."""
    return [TOKEN if "token" in entry["path"] else entry["status"] for entry in server.counters.log]


def from_look(number: int, server: EmulatorServer, do: Callable[[], object]) -> None:
    """Do something before the n-th look is answered, and before each later one."""
    looks = itertools.count(1)

    def look(call: Call) -> None:
        if "token" not in call.path and next(looks) >= number:
            do()

    server.on_request(look)


def withdraw_scopes(server: EmulatorServer) -> None:
    """Leave the tokens alive, and good for nothing."""
    for grant in (*server.account.token_endpoint.tokens.grants.values(), *server.limitrail.token_endpoint.tokens.grants.values()):
        grant.scopes = ()


def take_scope_from_client(server: EmulatorServer, **options: Any) -> None:
    """From now on the client's tokens cannot have one of the scopes that its connection asks for."""
    client, *others = server.limitrail.options.clients
    server.configure_limitrail(clients=(replace(client, scopes=(USAGE_WRITE, USAGE_READ)), *others), **options)


def deferral(sensor: Any) -> TaskDeferred:
    """Make the first look on the worker, and give what is handed to Airflow."""
    with pytest.raises(TaskDeferred) as caught:
        sensor.execute(CONTEXT)
    return caught.value


def moved(trigger: Any) -> Any:
    """Make the trigger anew, as a triggerer does that takes it over: of a row of Airflow's database."""
    row = Trigger.from_object(trigger)
    return import_string(row.classpath)(**row.kwargs)


async def told_by(trigger: Any) -> dict[str, Any]:
    [event] = [event.payload async for event in trigger.run()]
    return dict(event)


# -- a refusal is met once -----------------------------------------------------------------------------------------

FORBIDDEN, REFUSED = [403], [401, TOKEN, 401]
REFUSALS: dict[str, tuple[Callable[[EmulatorServer], None], int, list[Any]]] = {
    "forbidden": (withdraw_scopes, 1, FORBIDDEN),
    "forbidden_later": (withdraw_scopes, 3, FORBIDDEN),
    "refused": (EmulatorServer.expire_tokens, 1, REFUSED),
    "refused_later": (EmulatorServer.expire_tokens, 3, REFUSED),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("mode", MODES)
def test_a_refusal_ends_a_task(
    mode: str, make_home: Callable[..., AirflowHome], limio_emulator_factory: Callable[..., EmulatorServer]
) -> None:
    servers = {name: limio_emulator_factory() for name in REFUSALS}
    for name, (refuse, look, _) in REFUSALS.items():
        from_look(look, servers[name], lambda refuse=refuse, server=servers[name]: refuse(server))
    connections = {name: server.airflow_connection_json() for name, server in servers.items()}
    home = make_home(servers["refused"], **connections)
    home.write_dag(
        f"""
        common = dict(resource="partner_organisations", min_records={NEVER}, poke_interval=0.1, timeout=600, retries=3,
                      retry_delay=NOW, {MODES[mode]})
        for name in {list(REFUSALS)}:
            LimioResourceSensor(task_id=name, limio_conn_id=name, **common)
        """
    )
    outcome = home.run()
    for name, (_, look, end) in REFUSALS.items():
        task = outcome.task(name)
        assert (task["state"], task["tries"], task["xcom"]) == ("failed", 1, None), name
        before = TWO_GOOD_LOOKS[mode] if look > 1 else [[TOKEN]]
        assert exchanged(servers[name]) in [[*looks, *end] for looks in before], name
        assert f"answered {end[-1]}" in home.output(), name


@pytest.mark.sampled(1)
@pytest.mark.parametrize("api", ["limio", "limitrail"])
@pytest.mark.parametrize(
    ("refuse", "end"), [(withdraw_scopes, FORBIDDEN), (EmulatorServer.expire_tokens, REFUSED)], ids=["forbidden", "refused"]
)
def test_a_refusal_ends_a_trigger(connected, api, refuse, end):
    arguments: dict[str, Any] = {
        "task_id": "wait",
        "min_records": NEVER,
        "poke_interval": 0.05,
        "timeout": 600,
        "deferrable": True,
    }
    sensor = {
        "limio": lambda: LimioResourceSensor(resource="partner_organisations", **arguments),
        "limitrail": lambda: LimitRailResourceSensor(resource="accounts", **arguments),
    }[api]()
    trigger = moved(deferral(sensor).trigger)
    connected.counters.reset()
    from_look(4, connected, lambda: refuse(connected))

    async def wait() -> dict[str, Any]:
        told = await told_by(trigger)
        # As long as some looks would take.
        await asyncio.sleep(0.5)
        return told

    told = asyncio.run(wait())
    assert told["kind"] == "ended"
    assert f"answered {end[-1]}" in told["message"]
    assert exchanged(connected) == [TOKEN, 200, 200, 200, *end]


# -- a list of many pages, in the triggerer ------------------------------------------------------------------------

PAGES, PAGE_SIZE = 5, 20
PERSON = "somebody-in-the-list@example.com"
PREDICATES = "def is_it(record):\n    return record['wanted']\n"


def rows(*, wanted: bool) -> list[dict[str, Any]]:
    """Give records, of which the very last one may be wanted."""
    last = PAGES * PAGE_SIZE - 1
    return [
        {
            "id": f"one-{number}",
            "path": f"/offers2/one-{number}",
            "created": f"2026-10-01T00:{number // 60:02}:{number % 60:02}Z",
            "data": {"modified": "2026-10-01T00:00:00.000Z"},
            "email": PERSON,
            "wanted": wanted and number == last,
        }
        for number in range(last + 1)
    ]


LISTS = {
    "baskets": ("checkout/abandoned", "resource='abandoned_baskets', since='2026-09-01'"),
    "catalog": ("catalog_items?record_type=offers2", "resource='catalog.offers2'"),
    "own": ("custom/things", "resource=Resource(name='things', path='/custom/things')"),
}


def comes_later(server: EmulatorServer, path: str) -> None:
    """Let the record come when the list has been read twice, once on the worker and once in the triggerer."""
    server.put_records(path, rows(wanted=False))
    from_look(2 * PAGES + 1, server, lambda: server.put_records(path, rows(wanted=True)))


def everything_in(home: AirflowHome) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}


@pytest.mark.exhaustive
def test_pages_in_the_triggerer(
    make_home: Callable[..., AirflowHome], limio_emulator_factory: Callable[..., EmulatorServer]
) -> None:
    servers = {name: limio_emulator_factory() for name in LISTS}
    for name, (path, _) in LISTS.items():
        comes_later(servers[name], path)
    home = make_home(servers["own"], **{name: server.airflow_connection_json() for name, server in servers.items()})
    (home.path / "modules").mkdir()
    (home.path / "modules" / "paged_predicates.py").write_text(PREDICATES)
    home.write_dag(
        f"""
        import sys
        sys.path.insert(0, {str(home.path / "modules")!r})
        common = dict(page_size={PAGE_SIZE}, predicate="paged_predicates.is_it", poke_interval=0.1, timeout=600, retries=0,
                      deferrable=True)
        """
        + "".join(
            f"LimioResourceSensor(task_id={name!r}, limio_conn_id={name!r}, {arguments}, **common)\n{' ' * 8}"
            for name, (_, arguments) in LISTS.items()
        )
    )
    outcome = home.run()
    found = {name: outcome.task(name) for name in LISTS}
    assert {name: (task["state"], task["tries"]) for name, task in found.items()} == dict.fromkeys(LISTS, ("success", 1))
    last = f"one-{PAGES * PAGE_SIZE - 1}"
    assert {name: task["xcom"] for name, task in found.items()} == {
        "baskets": {"resource": "abandoned_baskets", "count": 1, "ids": [last], "watermark": "2026-10-01T00:01:39Z"},
        "catalog": {
            "resource": "catalog.offers2",
            "count": 1,
            "ids": [f"/offers2/{last}"],
            "watermark": "2026-10-01T00:00:00.000Z",
        },
        "own": {"resource": "things", "count": 1, "ids": [last], "watermark": None},
    }
    look = [200] * PAGES
    for name in LISTS:
        assert exchanged(servers[name]) == [TOKEN, *look, TOKEN, *look, *look], name
    assert [path for path, content in everything_in(home).items() if PERSON.encode() in content] == []


def test_pages_in_a_trigger_of_airflows_database(connected, tmp_path, monkeypatch):
    (tmp_path / "moved_predicates.py").write_text(PREDICATES)
    monkeypatch.syspath_prepend(tmp_path)
    comes_later(connected, "checkout/abandoned")
    sensor = LimioResourceSensor(
        task_id="wait",
        resource="abandoned_baskets",
        since="2026-09-01",
        page_size=PAGE_SIZE,
        predicate="moved_predicates.is_it",
        poke_interval=0.05,
        timeout=600,
        deferrable=True,
    )
    told = asyncio.run(told_by(moved(deferral(sensor).trigger)))
    assert told["kind"] == "found"
    assert told["result"]["ids"] == [f"one-{PAGES * PAGE_SIZE - 1}"]
    assert PERSON not in str(told)
    assert sensor.resume_execution("execute_complete", {"event": told}, CONTEXT) == told["result"]


# -- a missing scope is never skipped ------------------------------------------------------------------------------

MERCIES = ("soft_fail", "never_fail", "silent_fail")


def withdraw_with_tokens(server: EmulatorServer) -> None:
    """Refuse the token in use, and give the next one without the scope."""
    take_scope_from_client(server)
    server.expire_tokens()


MISSING: dict[str, tuple[Callable[[EmulatorServer], None], list[Any]]] = {
    "left_out": (take_scope_from_client, [TOKEN]),
    "refused": (lambda server: take_scope_from_client(server, refuse_unknown_scopes=True), [TOKEN]),
    "unsaid": (lambda server: take_scope_from_client(server, omit_scope=True), [TOKEN, 403]),
    "withdrawn": (lambda server: from_look(3, server, lambda: withdraw_with_tokens(server)), [401, TOKEN]),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("mode", MODES)
def test_a_missing_scope_is_never_skipped(
    mode: str, make_home: Callable[..., AirflowHome], limio_emulator_factory: Callable[..., EmulatorServer]
) -> None:
    cases = {f"{name}_{mercy}": (name, mercy, limio_emulator_factory()) for name in MISSING for mercy in MERCIES}
    # The connections ask for all scopes: they are written before one is taken away.
    connections = {task: server.limitrail_connection_json() for task, (_, _, server) in cases.items()}
    for name, _, server in cases.values():
        prepare, _ = MISSING[name]
        prepare(server)
    home = make_home(next(iter(cases.values()))[2], **connections)
    home.write_dag(
        f"""
        common = dict(resource="accounts", min_records={NEVER}, poke_interval=0.1, timeout=600, retries=3, retry_delay=NOW,
                      {MODES[mode]})
        for name, mercy in {[(task, mercy) for task, (_, mercy, _) in cases.items()]}:
            LimitRailResourceSensor(task_id=name, limitrail_conn_id=name, **common, **{{mercy: True}})
        """
    )
    outcome = home.run()
    states = {task: (outcome.task(task)["state"], outcome.task(task)["tries"]) for task in cases}
    assert states == dict.fromkeys(cases, ("failed", 1))
    for task, (name, _, server) in cases.items():
        _, end = MISSING[name]
        before = TWO_GOOD_LOOKS[mode] if name == "withdrawn" else [[]]
        assert exchanged(server) in [[*looks, *end] for looks in before], task
    # Each task's own log names the scope.
    assert home.output().count(ACCOUNTS_READ) >= len(cases)


@pytest.mark.parametrize("mercy", MERCIES)
def test_a_scope_that_goes_missing_is_told_by_the_trigger(connected, mercy):
    sensor = LimitRailResourceSensor(
        task_id="wait",
        resource="accounts",
        min_records=NEVER,
        poke_interval=0.05,
        timeout=600,
        deferrable=True,
        **{mercy: True},
    )
    trigger = moved(deferral(sensor).trigger)
    from_look(3, connected, lambda: withdraw_with_tokens(connected))
    told = asyncio.run(told_by(trigger))
    assert told["kind"] == "ended"
    assert ACCOUNTS_READ in told["message"]
    with pytest.raises(AirflowFailException, match=re.escape(ACCOUNTS_READ)):
        sensor.resume_execution("execute_complete", {"event": told}, CONTEXT)


# -- one deadline, however often it is moved -----------------------------------------------------------------------

TIMEOUT = 1000
LATER = Reply(429, b'{"message":"Slow down"}', {"Retry-After": "200"})


def object_sensor(**more: Any) -> LimioObjectSensor:
    return LimioObjectSensor(
        task_id="wait", path_type="orders", object_id="one", poke_interval=0.1, timeout=TIMEOUT, deferrable=True, **more
    )


@pytest.mark.parametrize("first", [404, 429, 503])
def test_a_deadline_counts_from_the_first_look(connected, first):
    looked: list[float] = []
    connected.on_request(lambda call: looked.append(time.time()) if "orders" in call.path else None)
    connected.faults.add(Fault("status", match="/api/", status=first, headers={"Retry-After": "1"}))
    connected.faults.add(Fault("latency", match="/api/", seconds=0.5))
    handed = deferral(object_sensor())
    assert len(looked) == 1
    assert handed.trigger.spec.deadline <= looked[0] + TIMEOUT
    assert handed.timeout == timedelta(seconds=TIMEOUT) + GRACE


@pytest.mark.sampled(2)
@pytest.mark.parametrize("soft_fail", [False, True])
@pytest.mark.parametrize("answers", [[404], [503], [404, LATER]], ids=["not_there", "away", "slow_down"])
def test_a_trigger_that_is_moved_again_and_again(connected, script, clock, answers, soft_fail):
    script.answers["one"] = answers
    sensor = object_sensor(max_transient_failures=1000, soft_fail=soft_fail)
    handed = deferral(sensor)
    deadline = handed.trigger.spec.deadline
    assert handed.timeout == timedelta(seconds=TIMEOUT) + GRACE

    async def move_about() -> dict[str, Any]:
        trigger = handed.trigger
        for left in (800, 600, 400, 100):
            clock.advance_to(deadline - left)
            trigger, looks = moved(trigger), script.asked["one"]
            assert trigger.spec.deadline == deadline
            running = asyncio.create_task(told_by(trigger))
            await until(lambda looks=looks, running=running: script.asked["one"] > looks or running.done())
            if left > 100:
                assert not running.done()
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
        # One that is asked to wait for longer than is left says so at once.
        if LATER not in answers:
            clock.advance_to(deadline)
        await until(running.done)
        return running.result()

    told = asyncio.run(move_about())
    assert told["kind"] == "timeout"
    assert (time.time() < deadline) == bool(re.search(r"\b429\b", told["message"])) == (LATER in answers)
    with pytest.raises(AirflowSkipException if soft_fail else AirflowSensorTimeout):
        sensor.resume_execution("execute_complete", {"event": told}, CONTEXT)
