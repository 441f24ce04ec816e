# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whatever a person gives a client, a hook or a connection, it is sent or refused with an error of this package."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from airflow.sdk import Connection
from hypothesis import given, settings
from hypothesis import strategies as st

from limio_limitrail.api.async_transport import AsyncTransport
from limio_limitrail.api.auth import ApiKey
from limio_limitrail.api.client import ApiClient, AsyncApiClient
from limio_limitrail.api.errors import ApiError
from limio_limitrail.api.resource import AuthMode, Resource
from limio_limitrail.api.retry import RetryLimits
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.transport import Timeouts, Transport
from limio_limitrail.hooks.api_connections import read_limio_connection, read_limitrail_connection
from limio_limitrail.hooks.limio import LimioHook
from limio_limitrail.limio.resources import RESOURCES
from tests.support.strategies import examples
from tests.support.wire import WireServer, wire_server

KEY = frozenset({AuthMode.API_KEY})
ONE_TRY = RetryLimits(attempts=1, bad_gateway_attempts=1, rate_limit_attempts=1)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def circle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


class Loud:
    """Cannot even be shown."""

    def __str__(self) -> str:
        raise OverflowError

    __repr__ = __str__


TEXTS = [
    "",
    " ",
    "\ud800",
    "a\udfffb",
    "é",
    "€😀",
    "\x00",
    "a\r\nX: 1",
    "\x7f",
    "\x85",
    "\u2028",
    "%",
    "%zz",
    "x" * 4_000,
    "\xff\xfe",
    "\ufeff",
]
NUMBERS = [
    10**400,
    -(10**400),
    10**4299,
    10**5000,
    -(10**5000),
    2**64,
    float("nan"),
    float("inf"),
    -float("inf"),
    1e308,
    True,
    -0.0,
]
OTHERS = [
    None,
    b"\xff",
    [],
    {},
    object(),
    Decimal("NaN"),
    Decimal("1e999999"),
    nested(5_000),
    circle(),
    Loud(),
    {"\ud800": 1},
    {1: 2},
    {"a"},
]
TIMES = [
    datetime.min,
    datetime.max,
    datetime.min.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=timezone(-timedelta(hours=23))),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=23))),
]
ANYTHING = [*TEXTS, *NUMBERS, *OTHERS, *TIMES]


def client_of(server: WireServer, **more: Any) -> ApiClient:
    return ApiClient(
        api="Limio",
        base_url=server.url,
        transport=Transport(**{"user_agent": "tests/1", "timeouts": Timeouts(connect=2, read=2), **more}),
        auth=ApiKey(Secret("the-key-of-the-test")),
        limits=ONE_TRY,
    )


def problems(run: Callable[[], object], *, label: str) -> list[str]:
    try:
        run()
    except Exception as error:  # noqa: BLE001 - what it is is looked at
        if not type(error).__module__.startswith("limio_limitrail."):
            return [f"{label}: {type(error).__module__}.{type(error).__name__}: {ascii(str(error))[:150]}"]
        # Paths of a Resource are a programmer's own.
        if len(str(error)) > 5_000 and "Resource" not in label:
            return [f"{label}: {type(error).__name__} of {len(str(error))} characters"]
    return []


def by_thread(client: ApiClient, **request: Any) -> Callable[[], object]:
    return lambda: client.send(**{"path": "/x", "credentials": KEY, **request})


def by_loop(client: ApiClient, **request: Any) -> Callable[[], object]:
    attempts = client.attempts
    client.attempts = lambda **given_: attempts(**{**given_, "credentials": KEY})  # type: ignore[method-assign]

    async def send() -> object:
        loop_client = AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=1))
        try:
            return await loop_client.send(**{"path": "/x", **request})
        finally:
            await loop_client.close()

    return lambda: asyncio.run(send())


REQUESTS: dict[str, tuple[list[Any], Callable[[Any], dict[str, Any]]]] = {
    "path": (TEXTS, lambda value: {"path": f"/{value}"}),
    "a parameter": (TEXTS, lambda value: {"params": {"a": value}}),
    "a parameter's name": (TEXTS, lambda value: {"params": {value: "a"}}),
    "a header": (TEXTS, lambda value: {"headers": {"X-A": value}}),
    "a header's name": (TEXTS, lambda value: {"headers": {value: "a"}}),
    "a key": (TEXTS, lambda value: {"idempotency_key": value, "method": "POST"}),
    "a method": (TEXTS, lambda value: {"method": value}),
    "content": ([b"", b"\xff", b"x" * 10**6], lambda value: {"content": value, "method": "POST"}),
}


@pytest.mark.parametrize("place", REQUESTS)
@pytest.mark.parametrize("way", [by_thread, by_loop])
def test_requests(place: str, way: Callable[..., Callable[[], object]]) -> None:
    values, made = REQUESTS[place]
    with wire_server() as server:
        found = [
            one
            for number, value in enumerate(values)
            for one in problems(way(client_of(server), **made(value)), label=f"{number}")
        ]
    assert not found, "\n".join(found)


def test_bodies() -> None:
    with wire_server() as server:
        client = client_of(server)
        found = [
            one
            for number, value in enumerate(ANYTHING)
            for one in problems(by_thread(client, method="POST", json={"a": value}), label=f"{number}")
        ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("agent", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("way", [by_thread, by_loop])
def test_user_agents(agent: str, way: Callable[..., Callable[[], object]]) -> None:
    with wire_server() as server:
        assert not problems(way(client_of(server, user_agent=agent)), label="agent")


def hook_of(server: WireServer, monkeypatch: pytest.MonkeyPatch) -> LimioHook:
    fields = {"conn_type": "limio", "host": server.url, "login": "l", "password": "secret-of-the-wire-1234567890"}
    monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", json.dumps({**fields, "extra": {"auth_url": f"{server.url}/token"}}))
    hook = LimioHook()
    hook.client.limits = ONE_TRY
    return hook


OWN = Resource(name="own", path="/own/{id}", detail_path="/own/{id}/{other}")
HOOKS: dict[str, Callable[[LimioHook, Any], object]] = {
    "request: path": lambda hook, value: hook.request(path=value if isinstance(value, str) else f"/{type(value).__name__}"),
    "request: query_params": lambda hook, value: hook.request(path="/x", query_params={"a": value}),
    "request: json": lambda hook, value: hook.request(path="/x", method="POST", json=value),
    "request: key": lambda hook, value: (
        hook.request(path="/x", method="POST", idempotency_key=value) if type(value) is str else None
    ),
    "iter_records: query_params": lambda hook, value: list(hook.iter_records("subscriptions", query_params={"a": value})),
    "iter_records: a placeholder": lambda hook, value: list(hook.iter_records(OWN, path_params={"id": value})),
    "iter_pages: detail": lambda hook, value: list(hook.iter_pages(OWN, path_params={"id": value}, detail=True)),
    "get_df: query_params": lambda hook, value: hook.get_df("subscriptions", query_params={"a": value}),
    "count: query_params": lambda hook, value: hook.count("subscriptions", query_params={"a": value}),
    "since": lambda hook, value: list(hook.iter_pages("offers", since=value)) if isinstance(value, datetime) else None,
    "until": lambda hook, value: list(hook.iter_pages("offers", until=value)) if isinstance(value, datetime) else None,
    "page_size": lambda hook, value: list(hook.iter_pages("offers", page_size=value)) if type(value) is int else None,
    "concurrency": lambda hook, value: list(hook.iter_pages("offers", concurrency=value)) if type(value) is int else None,
    "a resource": lambda hook, value: list(hook.iter_pages(value)) if isinstance(value, str) else None,
    "a path": lambda hook, value: list(hook.iter_pages(Resource(name="r", path=f"/{value}"))) if isinstance(value, str) else None,
}


@pytest.mark.parametrize("place", HOOKS)
def test_hooks(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with wire_server() as server:
        hook = hook_of(server, monkeypatch)
        found = [
            one
            for number, value in enumerate(ANYTHING)
            for one in problems(lambda: HOOKS[place](hook, value), label=f"{number}")  # noqa: B023
        ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "field",
    [
        "host",
        "schema",
        "login",
        "password",
        "port",
        "extra",
        "auth_url",
        "scope",
        "paths",
        "pages",
        "tenant",
        "timeout",
        "total_timeout",
        "max_response_mb",
        "page_size",
        "verify",
        "region",
        "auth_mode",
    ],
)
def test_connections(field: str) -> None:
    usual = {"conn_id": "c", "conn_type": "limio", "host": "acme.example.com", "login": "l", "password": "password-of-the-test"}
    texts = [*TEXTS, *hosts(), "9" * 5000, "1e999999", "nan", "-1", "[" * 100_000, '{"a":' * 5000]
    found = []
    for number, value in enumerate([*texts, *NUMBERS, [], {}, {"a": "\ud800"}, {"\ud800": "/a"}, {"a": 1}, None]):
        own = field in usual or field in {"schema", "port", "extra"}
        if own and field != "port" and not isinstance(value, str):
            continue
        if field == "port" and not (isinstance(value, int) and not isinstance(value, bool)):
            continue
        try:
            extra = {"scope": "a", **({} if own else {field: value})}
            fields = {**usual, "extra": json.dumps(extra), **({field: value} if own else {})}
            connection = Connection(**fields)  # type: ignore[arg-type]
        except Exception:  # noqa: BLE001 - Airflow itself refuses it
            continue
        for read in (read_limio_connection, read_limitrail_connection):
            found += problems(lambda: read(connection), label=f"{read.__name__} {number}")  # noqa: B023
    assert not found, "\n".join(found)


def hosts() -> list[str]:
    return [
        "http://[",
        "http://[::1",
        "h:99999999",
        "h:-1",
        "h:٣",
        "::",
        "http://h:abc",
        "//",
        "http://",
        "[v1.x]",
        "h%00",
        "\uff11.\uff11.\uff11.\uff11",
        "\uff0e",
        "http://\ud800",
        "xn--",
        "http://h/\ud800",
        "https://é😀.example",
        "https://" + "a." * 5000,
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.datetimes() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
)


PARAMS = st.dictionaries(st.text(st.characters()), VALUES, max_size=3)
# A name that is no placeholder is refused before anything else is looked at.
PATH_PARAMS = st.fixed_dictionaries({}, optional=dict.fromkeys(("service", "id", "path_type"), VALUES))


@settings(max_examples=examples(60))
@given(path_params=PARAMS | PATH_PARAMS, resource=st.sampled_from(sorted(RESOURCES)))
def test_any_path_parameters(path_params: dict[str, Any], resource: str) -> None:
    check_parameters(resource, path_params=path_params, query_params={})


@settings(max_examples=examples(60))
@given(query_params=PARAMS, resource=st.sampled_from(sorted(RESOURCES)))
def test_any_query_parameters(query_params: dict[str, Any], resource: str) -> None:
    path_params = dict.fromkeys(RESOURCES[resource].placeholders(), "x")
    check_parameters(resource, path_params=path_params, query_params=query_params)


def check_parameters(resource: str, *, path_params: dict[str, Any], query_params: dict[str, Any]) -> None:
    hook = LimioHook()
    hook.client = STILL  # type: ignore[misc]
    found = problems(
        lambda: hook.open_list(resource, path_params=path_params, query_params=query_params, page_size=1), label=resource
    )
    assert not found, "\n".join(found)


STILL = ApiClient(
    api="Limio", base_url="http://127.0.0.1:9", transport=Transport(user_agent="t"), auth=ApiKey(Secret("the-key-of-the-test"))
)


@settings(max_examples=examples(60))
@given(
    path=st.text(st.characters(), max_size=8),
    value=st.text(st.characters(), max_size=8),
    name=st.text(st.characters(), max_size=8),
)
def test_any_request(path: str, value: str, name: str) -> None:
    with wire_server() as server:
        for request in ({"path": f"/{path}"}, {"params": {name: value}}, {"headers": {name: value}}, {"idempotency_key": value}):
            client = client_of(server)
            for way in (by_thread, by_loop):
                try:
                    way(client, **request)()
                except ApiError:
                    continue
