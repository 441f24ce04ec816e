# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""No error that leaves a hook, a sensor, a trigger or a commit holds the connection's secret in plain, nor do its frames."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from limio_limitrail.api.errors import ApiError, ConnectionFieldError, ParameterError, TransportError
from limio_limitrail.api.resource import Resource
from limio_limitrail.emulator import Fault, Reply
from limio_limitrail.hooks.limio import LimioHook
from limio_limitrail.hooks.limitrail import LimitRailHook
from limio_limitrail.sensors.limio import LimioObjectSensor
from limio_limitrail.triggers.limio import LimioResourceEventTrigger
from limio_limitrail.triggers.limitrail import LimitRailResourceEventTrigger
from tests.support.error_walk import ErrorWalk

SECRET = "Opaque+Client/Secret=42"
WALK = ErrorWalk(SECRET, "lr-demo-secret", "demo-secret", "emulated-token")


def check(error: BaseException, *kinds: type[BaseException]) -> None:
    assert isinstance(error, kinds), repr(error)
    assert WALK.leaks(error) == []
    assert WALK.foreign(error) == []


def connect(monkeypatch: pytest.MonkeyPatch, conn_type: str, *, host: str | None = "acme.prod.limio.com", **fields: Any) -> None:
    known = ("login", "password", "schema", "port", "extra")
    connection = {"conn_type": conn_type, "host": host, "login": "id", "password": SECRET}
    connection |= {name: value for name, value in fields.items() if name in known}
    extra = {name: value for name, value in fields.items() if name not in known}
    connection.setdefault("extra", extra)
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_type.upper()}_DEFAULT", json.dumps(connection))


WRONG: list[dict[str, Any]] = [
    {"host": None},
    {"host": "acme"},
    {"host": "ftp://acme.prod.limio.com"},
    {"host": "http://acme.prod.limio.com"},
    {"host": f"https://u:{SECRET.replace('/', '')}@acme.prod.limio.com"},
    {"host": "acme.prod.limio.com:port"},
    {"login": None},
    {"password": f"{SECRET}\nsecond line"},
    {"region": "mars"},
    {"auth_mode": "basic"},
    {"auth_url": f"https://auth.example/t?secret={SECRET}"},
    {"auth_url": 5},
    {"timeout": "soon"},
    {"total_timeout": 10, "timeout": 20},
    {"max_response_mb": 0},
    {"page_size": "ten"},
    {"verify": "/nowhere/ca.pem"},
    {"pages": "{"},
    {"extra": "[1]"},
]
"""Fields that a Limio connection cannot have; most of them LimitRail's neither."""


def by_settings(hook: Any) -> None:
    _ = hook.settings


def by_session(hook: Any) -> None:
    hook.get_conn()


def by_records(hook: Any) -> None:
    list(hook.iter_records(Resource(name="things", path="/things")))


@pytest.mark.parametrize("ask", [by_settings, by_session])
@pytest.mark.parametrize("fields", WRONG, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("api", ["limio", "limitrail"])
def test_a_wrong_field(monkeypatch, api, fields, ask):
    connect(monkeypatch, api, **{"scope": "a", **fields})
    try:
        ask({"limio": LimioHook, "limitrail": LimitRailHook}[api]())
    except ConnectionFieldError as error:
        check(error, ConnectionFieldError)
    else:
        assert api == "limitrail"


@pytest.mark.parametrize("fields", WRONG, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("trigger", [LimioResourceEventTrigger, LimitRailResourceEventTrigger])
def test_a_wrong_field_in_a_triggerer(monkeypatch, trigger, fields):
    is_limio = trigger is LimioResourceEventTrigger
    connect(monkeypatch, "limio" if is_limio else "limitrail", **{"scope": "a", **fields})
    watch = trigger(resource="abandoned_baskets" if is_limio else Resource(name="things", path="/things"))
    try:
        asyncio.run(watch.resolve(within=60))
    except ConnectionFieldError as error:
        check(error, ConnectionFieldError)
    else:
        assert not is_limio


def test_a_scope_that_is_missing(monkeypatch):
    connect(monkeypatch, "limitrail", host="stg-api.limitrail.com")
    with pytest.raises(ConnectionFieldError) as caught:
        LimitRailHook().get_conn()
    check(caught.value, ConnectionFieldError)


@pytest.mark.parametrize("hook", [LimioHook, LimitRailHook])
def test_a_masker_that_fails(monkeypatch, hook):
    def fail(secret: str) -> None:
        if sys._getframe(1).f_globals["__name__"].startswith("limio_limitrail"):  # Airflow itself asks first
            raise RuntimeError("the supervisor does not answer")

    monkeypatch.setattr("airflow.sdk.log.mask_secret", fail)
    connect(monkeypatch, hook.conn_type, scope="a")
    with pytest.raises(RuntimeError) as caught:
        by_settings(hook())
    check(caught.value, RuntimeError)


# -- with a connection that is fine ------------------------------------------------------------------------------------


@pytest.fixture
def server(limio_emulator_factory):
    return limio_emulator_factory(client_secret=SECRET)


@pytest.fixture
def hook(monkeypatch, server) -> LimioHook:
    monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", server.airflow_connection_json())
    return LimioHook()


WRONG_CALLS: dict[str, Callable[[LimioHook], Any]] = {
    "no such resource": lambda hook: hook.open_list("nothing"),
    "no such parameter": lambda hook: list(hook.iter_pages("orders", query_params={"limit": [2]})),
    "a page of none": lambda hook: hook.open_list("orders", page_size=0),
    "half a surrogate pair": lambda hook: hook.request(path="/x", query_params={"a": "\ud800"}),
    "a path that is none": lambda hook: hook.request(path="x"),
    "too much at once": lambda hook: hook.open_list("orders", concurrency=10**6),
    "a time that is none of the list's": lambda hook: hook.open_list("orders", since=datetime(2024, 1, 1)),
    "no detail": lambda hook: list(hook.iter_pages("catalog.offers", detail=True)),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
@pytest.mark.parametrize("used", [False, True])
def test_a_call_that_cannot_be_made(hook, server, name, used):
    if used:
        assert hook.request(path="/offers").status == 200
    walk = ErrorWalk(SECRET, *server.minted_tokens)
    with pytest.raises((ParameterError, ApiError, ValueError)) as caught:
        WRONG_CALLS[name](hook)
    assert walk.leaks(caught.value) == []


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["reset", "truncated", "html", "bad_json", "wrong_encoding"])
@pytest.mark.parametrize("detail", [False, True])
def test_a_list_that_fails(hook, server, monkeypatch, kind, detail):
    monkeypatch.setattr("time.sleep", lambda _: None)
    server.faults.add(Fault(kind, "/api/", after=2, times=None))
    with pytest.raises(ApiError) as caught:
        list(hook.iter_records("orders", page_size=3, detail=detail))
    assert ErrorWalk(SECRET, *server.minted_tokens).leaks(caught.value) == []
    assert WALK.foreign(caught.value) == []


def test_an_object_that_echoes(hook, server):
    from limio_limitrail.polling.conditions import ObjectCondition

    server.on_request(lambda call: None if call.path == "/oauth2/token" else Reply(200, call.headers["authorization"].encode()))
    wait = ObjectCondition(service="limio", path_type="orders", object_id="order-1", target_statuses=("active",))
    with pytest.raises(ApiError) as caught:
        wait.poll(hook.client)
    assert ErrorWalk(SECRET, *server.minted_tokens).leaks(caught.value) == []


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_sensor_that_fails(hook, server, status):
    from airflow.sdk.exceptions import AirflowException

    def answer(call):
        said = json.dumps({"message": f"{SECRET} {call.headers.get('authorization')}"}).encode()
        return None if call.path == "/oauth2/token" else Reply(status, said)

    server.on_request(answer)
    sensor = LimioObjectSensor(
        task_id="wait", path_type="orders", object_id="order-1", target_statuses=["active"], missing="fail"
    )
    with pytest.raises((AirflowException, ApiError)) as caught:
        sensor.execute({})
    assert ErrorWalk(SECRET, *server.minted_tokens).leaks(caught.value) == []


def test_a_connection_that_is_refused(monkeypatch):
    connect(monkeypatch, "limio", host="http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(TransportError) as caught:
        by_records(LimioHook())
    check(caught.value, TransportError)
