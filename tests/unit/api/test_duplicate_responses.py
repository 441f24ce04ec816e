# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Each request gets its own answer, by thread and by loop, from a server that sends answers twice on kept connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading

import pytest

from limio_limitrail.api.async_transport import AsyncTransport
from limio_limitrail.api.auth import ClientCredentials, TokenSource, mint
from limio_limitrail.api.client import ApiClient, AsyncApiClient
from limio_limitrail.api.errors import CredentialsError, TransportError
from limio_limitrail.api.retry import RetryLimits
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.transport import Timeouts, Transport
from tests.support.twice import requests_of, twice_server
from tests.support.wire import TOKEN, answer, make_certificate, raw_server

AT_ONCE = ("at once", "with the rest of its body", "a stray line end")


def make_client(url, *, verify=True):
    transport = Transport(user_agent="tests/1", timeouts=Timeouts(connect=10, read=10), verify=verify)
    secret = Secret("secret-of-the-wire-1234567890")
    credentials = ClientCredentials(auth_url=f"{url}/token", client_id="wire", client_secret=secret)
    auth = TokenSource(mint=lambda: mint(api="LimitRail", credentials=credentials, transport=transport), client_secret=secret)
    limits = RetryLimits(first_wait=0.0, longest_wait=0.0)
    return ApiClient(api="LimitRail", base_url=url, transport=transport, auth=auth, limits=limits)


def by_thread(client, keys, *, method):
    for key in keys:
        try:
            yield client.send(method=method, path="/x", headers={"Idempotency-Key": key})
        except TransportError as error:
            yield error


def by_loop(client, keys, *, method):
    async def main():
        loop_client = AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=1))
        found = []
        try:
            for key in keys:
                try:
                    found.append(await loop_client.send(method=method, path="/x", headers={"Idempotency-Key": key}))
                except TransportError as error:
                    found.append(error)
        finally:
            await loop_client.close()
        return found

    return asyncio.run(main())


@pytest.mark.parametrize("send", [by_thread, by_loop])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("way", [*AT_ONCE, "half of it, and the rest when that is read"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_each_request_gets_its_own_answer(way, method, send, secure, tmp_path):
    tls, bundle = make_certificate(tmp_path) if secure else (None, None)
    keys = [f"k-{number:02}" for number in range(12)]
    with (
        twice_server(way, every=2, tls=tls) as server,
        contextlib.closing(make_client(server.url, verify=str(bundle) if bundle else True)) as client,
    ):
        answers = dict(zip(keys, send(client, keys, method=method), strict=True))
    reservations = {key: reservation for key, _, reservation in server.journal}
    for key, found in answers.items():
        if isinstance(found, TransportError):
            assert method == "POST", "a read is tried again"
            assert found.context.reached is True
            continue
        assert json.loads(found.body)["reservationId"] == reservations[key]
        if found.provenance is not None:
            assert not found.provenance.is_in_doubt or way in AT_ONCE


def test_a_refused_token_that_may_be_another_requests_does_not_send_the_request_again():
    """The one behind it may be the answer to this request, which was carried out then."""
    sent = []

    def talk(connection: socket.socket) -> None:
        for head in requests_of(connection):
            if b"/token" in head:
                connection.sendall(answer(200, TOKEN))
                continue
            sent.append(head)
            refused = answer(401, b"{}") if len(sent) == 2 else b""
            connection.sendall(refused + answer(200, b"{}"))

    with raw_server(talk) as url, contextlib.closing(make_client(url)) as client, pytest.raises(CredentialsError):
        by_loop(client, ["k-1", "k-2"], method="POST")
    assert len(sent) == 2


@pytest.mark.parametrize("sent", [answer(200, b'{"decision":"ALLOWED"}'), b"SSH-2.0-OpenSSH_9.6\r\n", b"\r\n", None])
def test_nothing_is_sent_to_a_server_that_speaks_first(sent):
    """What comes before the request has left is no answer to it."""
    heads, met = [], threading.Event()

    def talk(connection: socket.socket) -> None:
        if sent is not None:
            connection.sendall(sent)
        met.set()
        if sent is None:
            return
        heads.extend(requests_of(connection))

    async def main(url):
        client = make_client(url)
        wire = AsyncTransport(client.transport, connections=1)
        loop_client = AsyncApiClient(client, transport=wire)
        session = wire._open(url, None)
        connect = session.connector._create_connection

        async def connect_slowly(*args, **kwargs):
            made = await connect(*args, **kwargs)
            await asyncio.to_thread(met.wait, 10)
            await asyncio.sleep(0.05)
            return made

        session.connector._create_connection = connect_slowly
        client.auth.credential = client.auth.cached = lambda: Secret("token-of-the-wire-1234567890")
        try:
            await loop_client.send(method="POST", path="/x", content=b"{}")
        except TransportError as error:
            return error
        finally:
            await loop_client.close()

    with raw_server(talk) as url:
        error = asyncio.run(main(url))
    assert isinstance(error, TransportError)
    assert error.context.reached is False
    assert "before the request was sent" in str(error)
    assert heads == []


def test_an_answer_that_comes_while_a_connection_idles_is_nobodys():
    """It is not used again, and the answer before it is in doubt, unless it is the connection's first."""
    served = []
    surplus = threading.Event()

    def talk(connection: socket.socket) -> None:
        mine: list[bytes] = []
        served.append(mine)
        for head in requests_of(connection):
            if b"/token" in head:
                connection.sendall(answer(200, TOKEN))
                continue
            mine.append(head)
            connection.sendall(answer(200, b'{"number":%d}' % len(mine)))
            if len(mine) == 2:
                surplus.wait(10)
                connection.sendall(answer(200, b'{"number":99}'))

    async def main(url):
        client = make_client(url)
        loop_client = AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=1))
        found = [await loop_client.send(method="POST", path="/x", content=b"{}") for _ in range(2)]
        assert [one.provenance.is_in_doubt for one in found] == [False, False]
        surplus.set()
        async with asyncio.timeout(60):
            while not found[1].provenance.is_in_doubt:
                await asyncio.sleep(0.01)
        found.append(await loop_client.send(method="POST", path="/x", content=b"{}"))
        await loop_client.close()
        return found

    with raw_server(talk) as url:
        found = asyncio.run(main(url))
    assert [json.loads(one.body)["number"] for one in found] == [1, 2, 1]
    assert [one.provenance.is_in_doubt for one in found] == [False, True, False]
    assert [len(mine) for mine in served if mine] == [2, 1]
