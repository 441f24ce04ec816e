# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What is asked for is what was meant: no path that a library, a proxy or a server would take for another one is sent."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.api.async_transport import AsyncTransport
from limio_limitrail.api.auth import ApiKey
from limio_limitrail.api.client import ApiClient, AsyncApiClient
from limio_limitrail.api.details import with_details
from limio_limitrail.api.errors import ApiError, ConnectionFieldError, InvalidRequestError, ParameterError, ProtocolError
from limio_limitrail.api.list_reader import ListReader
from limio_limitrail.api.resource import AuthMode, Resource
from limio_limitrail.api.retry import RetryLimits
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.transport import Transport
from limio_limitrail.hooks.api_connections import read_limitrail_connection
from limio_limitrail.hooks.connection import page_url
from limio_limitrail.urls import unfit_part, unfit_path
from limio_limitrail.usage.messages import UsageRowError, UsageTemplate
from tests.support.wire import Behaviour, answer, wire_server

DOTS = [
    ".", "..", "%2e", "%2E", "%2e%2e", "%2E%2E", ".%2e", "%2E.", "%252e%252e", "%25252e.", "%2%65%2e", "..;", "..;x=1",
    "%2e%2e;x", ".. ", "..%20",
    "%09..", "..%00", "\uff0e\uff0e", "\u2025", "\u2024.", "%ef%bc%8e%ef%bc%8e", "%c0%ae%c0%ae", "%e0%80%ae.",
    "%u002e%u002e",
]  # fmt: skip
"""A part of a path that is a dot or two, to somebody on the way."""

WITHIN = ["a%2f..%2fb", "a%2F%2e%2e", "..%2fb", "..%5cb", "a%5C..%5Cb", "a%255c..", "%2e%2e%2fb", "a%252f%252e%252e%252fb"]
"""Parts that hold such a part."""

CONTROL = ["a%00b", "a%0d%0aX: 1", "a%7f", "a%C2%85", "%250a"]
BAD_PARTS = [*DOTS, *WITHIN, *CONTROL, "%25" * 3 + "25" * 9 + "2e"]

GOOD_PARTS = [
    "a.b",
    "v1.2",
    "a..b",
    "...",
    ".a",
    "a.",
    "..a",
    ".well-known",
    "a%20b",
    "a%2Fb",
    "a%2eb",
    "100%25",
    "caf%C3%A9",
    "a;b=.",
    "a@b",
]


def client_of(url: str) -> ApiClient:
    return ApiClient(
        api="LimitRail",
        base_url=f"{url}/api",
        transport=Transport(user_agent="tests/1"),
        auth=ApiKey(Secret("the-key-of-the-test")),
        limits=RetryLimits(attempts=1),
    )


KEY = frozenset({AuthMode.API_KEY})


def both(client: ApiClient, path: str) -> list[type[BaseException] | int]:
    """What came of a path, in a thread and in a loop."""
    attempts = client.attempts
    client.attempts = lambda **request: attempts(**{**request, "credentials": KEY})  # type: ignore[method-assign]

    async def by_loop() -> int:
        loop_client = AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=1))
        try:
            return (await loop_client.send(path=path)).status
        finally:
            await loop_client.close()

    found: list[type[BaseException] | int] = []
    for send in (lambda: client.send(path=path).status, lambda: asyncio.run(by_loop())):
        try:
            found.append(send())
        except BaseException as error:  # noqa: BLE001 - its type is what is looked at
            found.append(type(error))
    return found


@pytest.mark.parametrize("part", BAD_PARTS, ids=ascii)
@pytest.mark.parametrize("form", ["/a/{}/b", "/{}", "/a/{}"])
def test_no_path_that_leads_elsewhere_is_sent(part: str, form: str) -> None:
    with wire_server() as server:
        assert both(client_of(server.url), form.format(part)) == [InvalidRequestError] * 2
        assert server.requests == []


@pytest.mark.parametrize(
    "path", ["", "x", "//x", "/\\x", "/a?b=1", "/a#b", "/a b", "/a\nb", "/\ud800", "/%2e%2e\udfff", "http://h/x"]
)
def test_no_path_that_is_none_is_sent(path: str) -> None:
    with wire_server() as server:
        assert both(client_of(server.url), path) == [InvalidRequestError] * 2
        assert server.requests == []


@pytest.mark.parametrize("part", GOOD_PARTS)
def test_ordinary_parts_arrive_as_they_are(part: str) -> None:
    with wire_server() as server:
        assert both(client_of(server.url), f"/a/{part}/b") == [200, 200]
        targets = {request.split(b" ")[1].decode() for request in server.requests}
        assert {unquote(target) for target in targets} == {f"/api/a/{unquote(part)}/b"}


DECODED = [unquote(part) for part in (*DOTS, *WITHIN) if "\ufffd" not in unquote(part)]
VALUES = [*DECODED, *BAD_PARTS, "a\x00b", "a\r\nX: 1", "\x85"]


@pytest.mark.parametrize("value", sorted(set(VALUES)), ids=ascii)
def test_no_value_leads_elsewhere(value: str) -> None:
    resource = Resource(name="things", path="/things/{id}/parts")
    with pytest.raises(ParameterError, match="'id'"):
        resource.path_for({"id": value})
    assert page_url("/things/{id}", base="https://h", values={"id": value}) is None
    template = UsageTemplate(tenant="t", operation="usage.cancel", path="/v1/r/{id}/cancel", key_columns=("key",), body=None)
    with pytest.raises(UsageRowError, match="leads to another path"):
        template.build({"key": "1", "id": value}, number=1)


@pytest.mark.parametrize("value", ["\ud800", "", "a\udfff"], ids=ascii)
def test_a_value_that_cannot_be_sent_is_refused(value: str) -> None:
    with pytest.raises(ParameterError):
        Resource(name="things", path="/things/{id}").path_for({"id": value})
    assert page_url("/things/{id}", base="https://h", values={"id": value}) is None


@pytest.mark.parametrize("value", ["a.b", "v1.2", "/offers/2024 Summer", "50%", "x%20y", "é", "a/b", "a\\b", "a?b#c", "..."])
def test_ordinary_values_are_put_in_whole(value: str) -> None:
    assert Resource(name="things", path="/things/{id}").path_for({"id": value}) == f"/things/{quote(value, safe='')}"


JOINED = [
    ("/x/.{a}", {"a": "./y"}),
    ("/x/{a}{b}/y", {"a": "...", "b": ""}),
    ("/x/../{a}", {"a": "y"}),
    ("//{a}", {"a": "y"}),
    ("/%2e%2e/{a}", {"a": "y"}),
]


@pytest.mark.parametrize(("path", "values"), JOINED)
def test_what_is_put_together_leads_nowhere_else(path: str, values: dict[str, str]) -> None:
    with pytest.raises(ParameterError):
        Resource(name="things", path=path).path_for(values)


@pytest.mark.parametrize("path", ["/{", "/}", "/{}", "/{0}", "/{a.b}", "/{a[0]}", "/{a!z}", "/{a:{b}}"])
def test_braces_that_hold_no_name_are_refused(path: str) -> None:
    resource = Resource(name="things", path=path)
    with pytest.raises(ParameterError):
        resource.path_for({"a": "x", "0": "x", "b": "x", "a.b": "x"})
    with pytest.raises(ParameterError):
        resource.placeholders()


@pytest.mark.parametrize("identity", sorted(set(VALUES)), ids=ascii)
def test_an_id_of_a_record_leads_nowhere_else(identity: str) -> None:
    resource = Resource(name="things", path="/things", detail_path="/things/{id}", credentials=KEY)
    with wire_server() as server:
        server.script.append(Behaviour(answer(200, json.dumps({"items": [{"id": identity}]}).encode())))
        client = client_of(server.url)
        walk = ListReader(client=client, resource=resource, path="/things", params={}, page_size=10)
        with pytest.raises(ProtocolError, match="no usable text in 'id'"):
            list(with_details(walk.pages(), client=client, resource=resource, list_path="/things", concurrency=1))
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "part", [part for part in BAD_PARTS if part.isascii() and " " not in part and part not in {".", ".."}], ids=ascii
)
@pytest.mark.parametrize("form", ["/a/{}/b", "{}", "{url}/a/{}"])
def test_no_redirect_leads_elsewhere(part: str, form: str) -> None:
    with wire_server() as server:
        location = form.replace("{url}", server.url).format(part)
        server.script += [Behaviour(answer(302, Location=location)) for _ in range(2)]
        assert both(client_of(server.url), "/x/y") == [ProtocolError] * 2
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("location", "target"),
    [("/a/../b", "/b"), ("../v1.2/x", "/api/v1.2/x"), ("?a=..", "/api/x/y?a=.."), ("/a%2Fb", "/a%2Fb"), ("", "/api/x/y")],
)
def test_ordinary_redirects_are_followed(location: str, target: str) -> None:
    with wire_server() as server:
        server.script.append(Behaviour(answer(302, Location=location)))
        client_of(server.url).send(path="/x/y", credentials=KEY)
        assert server.requests[-1].split(b" ")[1].decode() == target


def limitrail(**extra: Any) -> Any:
    fields = {"scope": "a", **extra}
    return SimpleNamespace(
        conn_id="c",
        host="h.example",
        login="l",
        password="p",
        schema=None,
        port=None,
        extra=json.dumps(fields),
        extra_dejson=fields,
    )


@pytest.mark.parametrize("part", BAD_PARTS, ids=ascii)
def test_no_path_of_a_connection_leads_elsewhere(part: str) -> None:
    with pytest.raises(ConnectionFieldError, match="'paths'"):
        read_limitrail_connection(limitrail(paths={"usage": f"/v2/{part}/usage"}))
    with pytest.raises(ConnectionFieldError, match="'auth_url'"):
        read_limitrail_connection(limitrail(auth_url=f"https://h.example/{part}/token"))


@pytest.mark.parametrize("path", ["/v1.2/usage", "/v2/{account}/usage", "/a%20b", "/.well-known/x"])
def test_ordinary_paths_of_a_connection_are_taken(path: str) -> None:
    found = read_limitrail_connection(
        limitrail(paths={"usage": path}, auth_url=f"https://h.example{path.replace('{account}', 'a')}")
    )
    assert dict(found.paths) == {"usage": path}


def encoded(text: str, times: int) -> str:
    for _ in range(times):
        text = "".join(f"%{byte:02x}" for byte in text.encode())
    return text


@given(
    before=st.text("ab./%", max_size=5),
    dots=st.sampled_from([".", ".."]),
    separators=st.tuples(*[st.sampled_from("/\\")] * 2),
    times=st.integers(0, 3),
)
def test_dots_are_found_however_deep(before: str, dots: str, separators: tuple[str, str], times: int) -> None:
    value = encoded(f"{before}{separators[0]}{dots}{separators[1]}x", times)
    assert unfit_part(value) is not None
    assert unfit_path(f"/{quote(value, safe='')}") is not None


@given(value=st.text())
def test_any_value_is_refused_or_stays_in_its_part(value: str) -> None:
    try:
        path = Resource(name="things", path="/things/{id}/parts").path_for({"id": value})
    except ParameterError:
        return
    assert path.count("/") == 3
    decoded = unquote(path)
    for _ in range(4):
        assert not {".", ".."} & set(decoded.replace("\\", "/").split("/"))
        decoded = unquote(decoded)


@given(path=st.text(st.sampled_from("/.%2e\\;a \ud800\x00é"), max_size=12))
def test_any_path_is_sent_as_it_is_or_refused(path: str) -> None:
    client = client_of("http://127.0.0.1:9")
    try:
        client.attempts(method="GET", path=path, credentials=KEY)
    except ApiError:
        return
    assert unfit_path(path) is None
