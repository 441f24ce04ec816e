# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A thread and an event loop make the same of whatever a server does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import threading
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limio_limitrail.api import errors
from limio_limitrail.api.async_transport import AsyncTransport
from limio_limitrail.api.auth import ClientCredentials, TokenSource, mint
from limio_limitrail.api.client import ApiClient, AsyncApiClient
from limio_limitrail.api.retry import Repeat, RetryLimits
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.transport import Timeouts, Transport
from tests.support.strategies import examples
from tests.support.wire import BEHAVIOURS, Behaviour, WireServer, answer, full_listener, make_certificate, wire_server

TOKEN_SECRET = "token-of-the-wire-1234567890"
CLIENT_SECRET = "secret-of-the-wire-1234567890"
READ = 0.3
"""Seconds that a test waits for what never comes."""


def make_client(url, *, read=READ, connect=5.0, verify=True, waits=None, **limits):
    waits = [] if waits is None else waits
    transport = Transport(user_agent="tests/1", timeouts=Timeouts(connect=connect, read=read), verify=verify)
    credentials = ClientCredentials(auth_url=f"{url}/token", client_id="wire", client_secret=Secret(CLIENT_SECRET))
    auth = TokenSource(
        mint=lambda: mint(api="LimitRail", credentials=credentials, transport=transport, sleep=waits.append),
        client_secret=Secret(CLIENT_SECRET),
    )
    policy = RetryLimits(**{"first_wait": 0.0, "longest_wait": 0.0, **limits})
    return ApiClient(api="LimitRail", base_url=url, transport=transport, auth=auth, limits=policy, sleep=waits.append)


def described(send):
    """Say what came of a request."""
    try:
        found = send()
    except errors.ApiError as error:
        failure = error.context
        return (
            type(error).__name__,
            error.status,
            failure.reached,
            error.retry_after,
            str(error),
            error.retries_exhausted,
            # Only an event loop's connections are known.
            msgspec.structs.replace(failure, provenance=None),
        )
    return "answered", found.status, found.body, sorted(name.lower() for name in found.headers)


def by_thread(client, **request):
    with contextlib.closing(client):
        return described(lambda: client.send(path="/v1/usage/commit", **request))


def by_loop(client, *, waits=None, **request):
    async def sleep(seconds):
        (waits if waits is not None else []).append(seconds)

    async def send():
        loop_client = AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=4))
        try:
            return await loop_client.send(path="/v1/usage/commit", sleep=sleep, **request)
        finally:
            await loop_client.close()

    with contextlib.closing(client):
        return described(lambda: asyncio.run(send()))


@pytest.fixture
def server():
    with wire_server() as made:
        yield made


STRICTER = {
    # What a thread takes for the end of the headers, or leaves unread behind the body, is to aiohttp no answer at all.
    "closed within the headers": "the connection broke before a response came",
    "more than its length": "what came is no HTTP response",
    # aiohttp may look at the first chunk before it has handed over the headers.
    "chunked and no chunks": "what came is no HTTP response",
}
"""Where the loop is stricter: the row is in doubt then, and not taken for done."""


@pytest.mark.sampled
@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_every_behaviour_of_a_server_means_the_same(server, behaviour, method):
    content = b'{"a":1}' if method == "POST" else None
    found = []
    for send in (by_thread, by_loop):
        server.script = [BEHAVIOURS[behaviour]]
        server.requests.clear()
        found.append((send(make_client(server.url), method=method, content=content, repeat=Repeat.NONE), len(server.requests)))
    (one, _), (other, requests) = found
    if method == "POST":
        assert requests == (2 if behaviour == "401" else 1)
    elif "before the answer" in behaviour or behaviour.endswith("within the headers"):
        return  # aiohttp itself repeats a read
    if behaviour in STRICTER:
        assert other[:3] == ("TransportError", None, True)
        assert STRICTER[behaviour] in other[4]
        return
    assert found[0] == found[1]
    if one[0] != "answered":
        assert one[2] is True, "a request that was read has reached the API"
        assert str(server.port) not in one[4] or "redirect to another origin" in one[4]
        assert TOKEN_SECRET not in one[4]


STEPS = st.sampled_from(
    sorted(name for name in BEHAVIOURS if name not in STRICTER and "Retry-After" not in name and not name.startswith("silence"))
)


SHARED = WireServer()


@given(
    names=st.lists(STEPS, min_size=1, max_size=4),
    repeat=st.sampled_from([*Repeat, None]),
    key=st.sampled_from([None, "k-1"]),
    attempts=st.integers(1, 4),
)
@settings(max_examples=examples(150))
def test_whole_requests_with_all_their_tries_are_the_same(names, repeat, key, attempts):
    found = []
    limits = {"attempts": attempts, "bad_gateway_attempts": attempts, "rate_limit_attempts": attempts}
    for send in (by_thread, by_loop):
        SHARED.script, SHARED.requests, SHARED.tokens = [BEHAVIOURS[name] for name in names], [], 0
        waits: list[float] = []
        client = make_client(SHARED.url, waits=waits, **limits)
        more = {"waits": waits} if send is by_loop else {}
        outcome = send(client, method="POST", content=b"{}", repeat=repeat, idempotency_key=key, **more)
        counters = client.counters
        found.append((outcome, len(SHARED.requests), SHARED.tokens, len(waits), counters.requests, counters.retries))
    assert found[0] == found[1]


def test_both_send_the_same_headers_and_bodies(server):
    heads = []
    for send in (by_thread, by_loop):
        server.requests.clear()
        client = make_client(server.url)
        with contextlib.closing(client):
            send(client, method="POST", content="naïve 日本".encode(), headers={"X-Own": "1"}, idempotency_key="k-1")
            send(client, method="POST", headers={"X-Own": "2"})
            send(client, method="GET", params={"a b": "ü&", "c": "1"})
        heads.append([parsed(request) for request in server.requests])
    assert heads[0] == heads[1]
    assert heads[0][0][1]["authorization"] == f"Bearer {TOKEN_SECRET}"
    assert heads[0][0][1]["accept-encoding"] == "gzip, deflate"
    assert heads[0][1][1]["content-length"] == "0"


def parsed(request):
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    return first, {name: value for name, value in headers.items() if name != "connection"}, body


@pytest.mark.parametrize(
    "path", ["/v1/a b", "//x", "/v1/../x", "/v1/x?token=1", "v1"], ids=["space", "slashes", "dots", "query", "bare"]
)
def test_neither_sends_a_path_that_is_none(server, path):
    client = make_client(server.url)
    send = AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=1)).send
    one = described(lambda: client.send(method="POST", path=path))
    other = described(lambda: asyncio.run(send(method="POST", path=path)))
    assert one == other
    assert one[0] == "InvalidRequestError"
    assert server.requests == []


def test_neither_sends_a_header_that_breaks_the_line(server):
    found = [send(make_client(server.url), method="POST", idempotency_key="a\r\nX-Evil: 1") for send in (by_thread, by_loop)]
    assert found[0] == found[1]
    assert "cannot be sent" in found[0][4]
    assert server.requests == []


# -- no connection ---------------------------------------------------------------------------------------------------


def test_both_know_that_a_request_never_left(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for url, words in ((closed, "was refused"), ("http://nowhere.invalid", "could not be resolved")):
        found = [send(spared(make_client(url)), method="POST", content=b"{}") for send in (by_thread, by_loop)]
        assert found[0] == found[1]
        assert found[0][:3] == ("TransportError", None, False)
        assert words in found[0][4]


def test_both_know_a_connect_timeout():
    with full_listener() as url:
        found = [send(spared(make_client(url, connect=0.1)), method="POST") for send in (by_thread, by_loop)]
    assert found[0] == found[1]
    assert found[0][:3] == ("TransportError", None, False)
    assert "connect timeout" in found[0][4]


def test_both_trust_the_bundle_that_they_are_given_and_nothing_else(tmp_path):
    tls, bundle = make_certificate(tmp_path)
    with wire_server(tls=tls) as server:
        for verify, status in ((True, None), (str(bundle), 200), (False, 200)):
            found = [
                send(spared(make_client(server.url, read=5, verify=verify)), method="POST", content=b"{}")
                for send in (by_thread, by_loop)
            ]
            assert found[0] == found[1]
            assert found[0][1] == status, found
            if status is None:
                assert found[0][0] == "TransportError"
                assert found[0][2] is False
                assert "TLS" in found[0][4]
        assert len(server.requests) == 4


def test_both_look_for_a_bundle_in_the_environment(tmp_path, monkeypatch):
    tls, bundle = make_certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    with wire_server(tls=tls) as server:
        for send in (by_thread, by_loop):
            assert send(spared(make_client(server.url, read=5)), method="POST")[0] == "answered"


@pytest.mark.parametrize("user", ["", "user:proxy-password-123@"])
def test_both_go_through_the_proxy_of_the_environment(server, monkeypatch, user):
    monkeypatch.setenv("http_proxy", f"http://{user}127.0.0.1:{server.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    found = [send(spared(make_client("http://limitrail.invalid")), method="POST", content=b"{}") for send in (by_thread, by_loop)]
    assert found[0] == found[1]
    assert found[0][0] == "answered"
    one, other = map(parsed, server.requests)
    assert one == other
    assert one[0] == "POST http://limitrail.invalid/v1/usage/commit HTTP/1.1"
    assert ("proxy-authorization" in one[1]) is bool(user)
    monkeypatch.setenv("no_proxy", "limitrail.invalid")
    found = [send(spared(make_client("http://limitrail.invalid")), method="POST") for send in (by_thread, by_loop)]
    assert found[0] == found[1]
    assert "could not be resolved" in found[0][4]


def test_both_know_a_proxy_that_is_not_there(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("http_proxy", f"http://user:proxy-password-123@127.0.0.1:{listener.getsockname()[1]}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    found = [send(spared(make_client("http://limitrail.invalid")), method="POST") for send in (by_thread, by_loop)]
    assert found[0] == found[1]
    assert found[0][:3] == ("TransportError", None, False)
    assert "proxy" in found[0][4]
    assert "password" not in found[0][4]


NO_PROXIES = {
    "a port that is no number": "http://user:{}@proxy:abc",
    "no host": "http://user:{}@",
    "nothing": "http://",
    "no scheme": "user:{}@127.0.0.1:9",
    "another kind": "ftp://user:{}@127.0.0.1:9",
    "SOCKS of no version": "socks6://user:{}@127.0.0.1:9",
    "SOCKS without its package": "socks5h://user:{}@127.0.0.1:9",
    "half an IPv6 address": "http://user:{}@[::1",
    "white space": " http://user:{}@127.0.0.1:9 ",
    **{f"a password with {sign!r}": f"http://user:{{}}{sign}1@127.0.0.1:9" for sign in "/?#[\\"},
    "a password that reads as a port": "http://user:12/{}@127.0.0.1:9",
}


@pytest.mark.parametrize("send", [by_thread, by_loop])
@pytest.mark.parametrize("target", ["http://limitrail.invalid", "https://limitrail.invalid"])
@pytest.mark.parametrize("name", NO_PROXIES)
def test_a_proxy_that_cannot_be_used_is_told_and_never_reached(monkeypatch, name, target, send):
    monkeypatch.setitem(sys.modules, "socks", None)
    monkeypatch.setenv("all_proxy", NO_PROXIES[name].format("proxy-password-123"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    found = send(spared(make_client(target)), method="POST")
    assert found[:3] == ("TransportError", None, False)
    assert ("PySocks" if "package" in name else "the address of the environment's proxy cannot be used: give") in found[4]
    assert "123" not in found[4]


@pytest.mark.parametrize("send", [by_thread, by_loop])
def test_a_bundle_that_is_not_there_never_reached_it(monkeypatch, tmp_path, send):
    bundle = tmp_path / "bundle.pem"
    found = send(spared(make_client("https://127.0.0.1:9", verify=str(bundle))), method="POST")
    assert found[:3] == ("TransportError", None, False)
    assert "the CA bundle that verify, REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names is not there" in found[4]


@pytest.mark.parametrize("send", [by_thread, by_loop])
def test_what_cannot_be_used_is_not_tried_again(monkeypatch, send):
    """And what is mended counts from the next request on."""
    monkeypatch.setenv("http_proxy", "ftp://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    waits = []
    more = {"waits": waits} if send is by_loop else {}
    with wire_server() as server:
        client = spared(make_client(server.url, waits=waits))
        assert send(client, method="GET", **more)[0] == "TransportError"
        assert (waits, server.requests) == ([], [])
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert send(client, method="GET", **more)[0] == "answered"


def spared(client):
    """Spare a client the token endpoint."""
    credential = Secret(TOKEN_SECRET)
    client.auth = SimpleNamespace(
        mode=client.auth.mode,
        credential=lambda: credential,
        cached=lambda: credential,
        header=lambda given: f"Bearer {given.reveal()}",
        renew=lambda _: False,
        granted_scopes=lambda: None,
        secrets=lambda: (credential,),
    )
    return client


# -- many at once ----------------------------------------------------------------------------------------------------


def all_at_once(client, *, count, rounds=1, connections=64, requests=None):
    async def main():
        loop_client = AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=connections))

        async def send(number):
            try:
                return await loop_client.send(
                    method="POST", path="/v1/usage/commit", content=b"{}", headers={"Idempotency-Key": f"k-{number}"}
                )
            except errors.ApiError as error:
                return error

        try:
            return [one for _ in range(rounds) for one in await asyncio.gather(*(send(number) for number in range(count)))]
        finally:
            await loop_client.close()

    with contextlib.closing(client):
        return asyncio.run(main())


@pytest.mark.parametrize("kind", ["close", "reset"])
def test_a_write_is_not_sent_again_where_a_kept_connection_is_dead(server, kind):
    """The connection dies when the second request has just been read: whether it was carried out is not known."""
    server.script = [BEHAVIOURS["200"], Behaviour(then=kind)]
    first, second = all_at_once(make_client(server.url), count=1, rounds=2)
    assert first.status == 200
    assert isinstance(second, errors.TransportError)
    assert second.context.reached is True
    assert len(server.requests) == 2
    assert server.connections == 2, "one for the token, and one that was kept"


def test_a_connection_that_was_closed_meanwhile_is_made_anew(server):
    server.script = [Behaviour(answer(200, b"{}"), then="close")] * 3

    async def main():
        client = make_client(server.url)
        loop_client = AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=4))
        for _ in range(3):
            assert (await loop_client.send(method="POST", path="/x", content=b"{}")).status == 200
            await asyncio.sleep(0.1)
        await loop_client.close()

    asyncio.run(main())
    assert len(server.requests) == 3


def test_one_token_serves_all(server):
    answers = all_at_once(make_client(server.url, read=10), count=64, rounds=3)
    assert [one.status for one in answers] == [200] * 192
    assert server.tokens == 1
    assert len(server.requests) == 192
    assert server.connections <= 64 + 1


def test_a_401_in_the_midst_renews_once(server):
    client = make_client(server.url, read=60)
    refused = threading.Barrier(32)
    server.new_tokens = True
    server.before = lambda behaviour: refused.wait(60) if behaviour is BEHAVIOURS["401"] else None
    server.script = [BEHAVIOURS["401"]] * 32
    answers = all_at_once(client, count=32)
    assert [one.status for one in answers] == [200] * 32
    assert server.tokens == 2
    assert len(server.requests) == 64


def test_the_loop_goes_on_while_a_token_is_minted(server):
    minting, ticks = threading.Event(), []
    client = make_client(server.url, read=10)
    mint_token = client.auth._mint

    def slowly():
        minting.wait(30)
        return mint_token()

    client.auth._mint = slowly

    async def main():
        loop_client = AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=4))
        sent = asyncio.ensure_future(loop_client.send(method="POST", path="/x", content=b"{}"))
        while not sent.done():
            ticks.append(1)
            if len(ticks) > 20:
                minting.set()
            # What another request does when it meets a 401 in the meantime.
            client.auth.renew(Secret("another"))
            await asyncio.sleep(0.01)
        await loop_client.close()
        return await sent

    assert asyncio.run(main()).status == 200
    assert minting.is_set()


def test_no_secret_is_logged(server, caplog):
    caplog.set_level(logging.DEBUG)
    server.script = [
        BEHAVIOURS[name] for name in ("401", "closed before the answer", "503", "no gzip", "redirect to a credential")
    ]
    all_at_once(make_client(server.url), count=1, rounds=6)
    logged = caplog.text + repr([record.__dict__ for record in caplog.records])
    assert "minting another one" in logged
    assert TOKEN_SECRET not in logged
    assert CLIENT_SECRET not in logged


def test_a_second_loop_has_connections_of_its_own(server):
    client = make_client(server.url, read=5)
    for _ in range(2):
        assert by_loop(client, method="POST", content=b"{}")[1] == 200
    assert server.tokens == 1


@pytest.mark.parametrize("kind", [ValueError, TypeError])
def test_what_a_library_cannot_read_is_no_refusal(server, monkeypatch, kind):
    """The request has left: whoever sent it knows nothing of what became of it."""

    async def fail(*args, **kwargs):
        raise kind("from within")

    monkeypatch.setattr("aiohttp.ClientResponse.start", fail)
    found = by_loop(spared(make_client(server.url)), method="POST", content=b"{}")
    assert found[:3] == ("TransportError", None, True)
    assert "from within" not in found[4]
