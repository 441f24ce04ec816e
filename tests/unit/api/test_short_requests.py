# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A POST of bytes over the event loop: what is written, and every way in which its answer may come."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time

import aiohttp
import pytest

from limio_limitrail.api import tracked_connections
from limio_limitrail.api.async_transport import AsyncTransport
from limio_limitrail.api.errors import InvalidRequestError, ProtocolError, TransportError
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.transport import Timeouts, Transport
from tests.support.wire import answer, chunked, raw_server, read_whole_request, trickle

BODY = b'{"decision":"ALLOWED","reservationId":"res-1"}'
CONTEXT = RequestContext(api="LimitRail", method="POST", path="/x")


def post(url, *, count=1, content=b'{"a":1}', read=10.0, total=300.0, at_once=1, rest=1e-9, more=None, pause=0.0):
    """Send POSTs, and return what came of each."""

    async def main():
        transport = Transport(user_agent="tests/1", timeouts=Timeouts(connect=10, read=read, total=total))
        wire = AsyncTransport(transport, connections=at_once, rest=rest)
        headers = {"Authorization": "Bearer of-nothing", "Content-Type": "application/json", "Idempotency-Key": "k"}
        headers |= more or {}

        async def one():
            try:
                return await wire.exchange(method="POST", url=f"{url}/x?a=b", headers=headers, context=CONTEXT, content=content)
            except TransportError as error:
                return error
            except ProtocolError as error:
                return error

        found = []
        for _ in range(0, count, at_once):
            found += await asyncio.gather(*(one() for _ in range(at_once)))
            await asyncio.sleep(pause)
        await wire.close()
        return found

    return asyncio.run(main())


def serve(sent, *, requests, then=None):
    """Return what a server does with a connection: answer each request, and keep what it was sent."""

    def talk(connection):
        while True:
            requests.append(read_whole_request(connection))
            connection.sendall(sent)
            if then == "close":
                return

    return talk


def test_a_request_is_whole_and_has_the_headers_that_it_was_given():
    requests = []
    with raw_server(serve(answer(200, BODY), requests=requests)) as url:
        found = post(url, count=3)
    assert [one.body for one in found] == [BODY] * 3
    for head, body in requests:
        first, *lines = head.decode().strip().split("\r\n")
        assert first == "POST /x?a=b HTTP/1.1"
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        assert len(headers) == len(lines), "none comes twice"
        assert headers == {
            "host": url.removeprefix("http://"),
            "user-agent": "tests/1",
            "accept": "application/json",
            "accept-encoding": "gzip, deflate",
            "authorization": "Bearer of-nothing",
            "content-type": "application/json",
            "idempotency-key": "k",
            "content-length": "7",
        }
        assert body == b'{"a":1}'


def test_a_large_body_is_whole_although_the_server_reads_slowly():
    content, requests = b"x" * 3_000_000, []

    def talk(connection):
        time.sleep(0.2)
        requests.append(read_whole_request(connection))
        connection.sendall(answer(200, BODY))

    with raw_server(talk) as url:
        [found] = post(url, content=content)
    assert found.body == BODY
    assert [body for _, body in requests] == [content]


def in_pieces(connection, sent):
    for at in range(0, len(sent), 17):
        connection.sendall(sent[at : at + 17])
        time.sleep(0.005)


@pytest.mark.parametrize(
    "sent",
    [answer(200, BODY), chunked(BODY[:9], BODY[9:10], BODY[10:]), answer(200, gzip.compress(BODY), Content_Encoding="gzip")],
    ids=["by length", "in chunks", "compressed"],
)
@pytest.mark.parametrize("way", ["at once", "in pieces"])
def test_an_answer_is_the_same_however_it_comes(sent, way):
    def talk(connection):
        while True:
            read_whole_request(connection)
            connection.sendall(sent) if way == "at once" else in_pieces(connection, sent)

    with raw_server(talk) as url:
        assert [(one.status, one.body) for one in post(url, count=3)] == [(200, BODY)] * 3


def test_an_answer_that_is_not_what_its_encoding_says_is_an_error_with_its_status():
    with raw_server(serve(answer(200, BODY, Content_Encoding="gzip"), requests=[])) as url:
        [error] = post(url)
    assert isinstance(error, ProtocolError)
    assert error.status == 200


@pytest.mark.parametrize("says_so", [True, False])
def test_a_server_that_closes_each_connection_gets_each_request_once(says_so):
    requests = []
    sent = answer(200, BODY, **({"Connection": "close"} if says_so else {}))
    with raw_server(serve(sent, requests=requests, then="close")) as url:
        found = post(url, count=24, at_once=4)
    # Where it does not say so, a request that meets the end of its connection may be in doubt, but is not sent again.
    answered = [one for one in found if not isinstance(one, TransportError)]
    assert all(one.body == BODY for one in answered)
    assert len(requests) <= 24
    assert len(answered) == len(requests)
    if says_so:
        assert len(answered) == 24


def test_a_huge_error_body_is_left_out_and_its_connection_is_not_used_again():
    requests, connections = [], []

    def talk(connection):
        connections.append(connection)
        serve(answer(422, b"x" * 20_000_000), requests=requests)(connection)

    with raw_server(talk) as url:
        found = post(url, count=2)
    assert [(one.status, one.body) for one in found] == [(422, b"")] * 2
    assert len(requests) == len(connections) == 2


def test_cookies_are_not_sent_back():
    requests = []
    with raw_server(serve(answer(200, BODY, Set_Cookie="id=1; Path=/"), requests=requests)) as url:
        post(url, count=3)
    assert len(requests) == 3
    assert not any(b"cookie" in head.lower() for head, _ in requests)


def test_an_answer_before_the_request_was_read_is_its_answer():
    def talk(connection):
        connection.recv(10)
        connection.sendall(answer(413, b"{}", Connection="close"))
        with contextlib.suppress(OSError):
            while connection.recv(1 << 16):
                pass

    with raw_server(talk) as url:
        [found] = post(url, content=b"x" * 5_000_000)
    assert found.status == 413


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", answer(200, BODY)[:-5]], ids=["nothing", "head", "body"])
def test_silence_ends_a_request_in_doubt_also_on_a_connection_that_was_used_before(sent):
    def talk(connection):
        read_whole_request(connection)
        connection.sendall(answer(200, BODY))
        read_whole_request(connection)
        connection.sendall(sent)
        connection.recv(1)

    with raw_server(talk) as url:
        found = post(url, count=2, read=0.5)
    assert found[0].body == BODY
    assert isinstance(found[1], TransportError)
    assert found[1].context.reached is True
    assert "within the read timeout" in str(found[1])


@pytest.mark.exhaustive
def test_an_answer_that_takes_longer_than_a_silence_may_last_is_read_to_its_end():
    def talk(connection):
        read_whole_request(connection)
        trickle(connection, answer(200, BODY), seconds=0.04)

    with raw_server(talk) as url:
        [found] = post(url, read=2.0)
    assert found.body == BODY


def test_what_no_header_can_hold_is_refused():
    async def main():
        wire = AsyncTransport(Transport(user_agent="tests/1"), connections=1)
        for headers in ({"A": " b"}, {"A": "b\r\nC: d"}, {"A\n": "b"}, {" A": "b"}):
            with pytest.raises(InvalidRequestError):
                await wire.exchange(method="POST", url="http://127.0.0.1:9/", headers=headers, context=CONTEXT, content=b"{}")
        await wire.close()

    asyncio.run(main())


def test_only_the_first_request_of_a_connection_passes_through_the_session(monkeypatch):
    passed, requests = [], []
    request = aiohttp.ClientSession._request

    async def counted(self, *args, **kwargs):
        passed.append(args)
        return await request(self, *args, **kwargs)

    monkeypatch.setattr(aiohttp.ClientSession, "_request", counted)
    with raw_server(serve(answer(200, BODY), requests=requests)) as url:
        found = post(url, count=5)
    assert [one.body for one in found] == [BODY] * 5
    assert (len(passed), len(requests)) == (1, 5)


@pytest.mark.parametrize("name", ["accept", "ACCEPT", "Host"])
def test_a_header_of_the_request_replaces_the_transports_own(name):
    requests = []
    with raw_server(serve(answer(200, BODY), requests=requests)) as url:
        post(url, count=2, more={name: "elsewhere"})
    for head, _ in requests:
        values = [line.partition(": ")[2] for line in head.decode().split("\r\n") if line.lower().startswith(f"{name.lower()}:")]
        assert values == ["elsewhere"]


@pytest.mark.parametrize("sent", [answer(200, BODY), answer(200, BODY)[:-20]], ids=["its head", "its body"])
def test_an_answer_that_takes_too_long_in_all_ends_in_doubt_however_steadily_it_comes(sent):
    """The connection's timer, which was set for a silence, must then ring earlier."""

    def talk(connection):
        read_whole_request(connection)
        connection.sendall(answer(200, BODY))
        read_whole_request(connection)
        if len(sent) < len(answer(200, BODY)):
            connection.sendall(sent)
            trickle(connection, b"x" * 20, seconds=0.4)
        else:
            trickle(connection, sent, seconds=0.1)

    with raw_server(talk) as url:
        began = time.monotonic()
        found = post(url, count=2, read=600.0, total=1.5)
    assert found[0].body == BODY
    assert isinstance(found[1], TransportError)
    assert found[1].context.reached is True
    assert "1.5" in str(found[1]) or "2 s" in str(found[1])
    assert time.monotonic() - began < 300, "the silence alone would have lasted for ten minutes"


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", answer(200, BODY)[:-5]], ids=["nothing", "head", "body"])
def test_a_kept_connection_that_is_cut_ends_a_request_in_doubt_which_is_sent_once(sent):
    requests = []

    def talk(connection):
        requests.append(read_whole_request(connection))
        connection.sendall(answer(200, BODY))
        requests.append(read_whole_request(connection))
        connection.sendall(sent)

    with raw_server(talk) as url:
        found = post(url, count=2)
    assert found[0].body == BODY
    assert isinstance(found[1], TransportError)
    assert found[1].context.reached is True
    assert len(requests) == 2


def test_what_is_no_http_ends_a_request_in_doubt_and_its_connection():
    def talk(connection):
        read_whole_request(connection)
        connection.sendall(answer(200, BODY))
        read_whole_request(connection)
        connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        connection.recv(1)

    with raw_server(talk) as url:
        found = post(url, count=3)
    assert isinstance(found[1], TransportError)
    assert found[1].context.reached is True
    assert found[2].body == BODY, "over another connection"


def test_interim_answers_are_passed_over():
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
    with raw_server(serve(interim + answer(200, BODY), requests=[])) as url:
        assert [(one.status, one.body) for one in post(url, count=3)] == [(200, BODY)] * 3


def test_a_connection_that_has_rested_for_long_is_not_used_again(monkeypatch):
    connections = []

    def talk(connection):
        connections.append(connection)
        serve(answer(200, BODY), requests=[])(connection)

    monkeypatch.setattr(tracked_connections, "_KEEP_ALIVE", 0.0)
    with raw_server(talk) as url:
        found = post(url, count=3, pause=0.01)
    assert [one.body for one in found] == [BODY] * 3
    assert len(connections) == 3


def test_a_request_that_is_cancelled_takes_its_connection_with_it():
    connections = []

    def talk(connection):
        connections.append(connection)
        read_whole_request(connection)
        connection.sendall(answer(200, BODY))
        read_whole_request(connection)
        connection.recv(1)

    async def main(url):
        wire = AsyncTransport(Transport(user_agent="tests/1"), connections=1, rest=1e-9)

        def send():
            return wire.exchange(method="POST", url=f"{url}/x", headers={}, context=CONTEXT, content=b"{}")

        found = [await send()]
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(0.2):
                await send()
        found.append(await send())
        await wire.close()
        return found

    with raw_server(talk) as url:
        assert [one.body for one in asyncio.run(main(url))] == [BODY] * 2
    assert len(connections) == 2
