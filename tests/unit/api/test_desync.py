# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Responses that do not match their requests: each request ends with its own response, or in doubt, and is sent once."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import socket
import struct
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limio_limitrail.api.async_transport import AsyncTransport
from limio_limitrail.api.errors import ApiError, ProtocolError, TransportError
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.transport import Timeouts, Transport
from tests.support.strategies import examples
from tests.support.wire import answer

CONTEXT = RequestContext(api="LimitRail", method="POST", path="/x")
TIMEOUTS = Timeouts(connect=10, read=2, total=60)
AT_ONCE = 1e-9
"""A rest after which a connection is used again at once."""


def body_for(key):
    return b'{"decision":"ALLOWED","reservationId":"%s"}' % key


def by_length(body):
    return answer(200, body)


def in_chunks(body):
    return (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n"
        + body[:5]
        + b"\r\n%x\r\n" % len(body[5:])
        + (body[5:] + b"\r\n0\r\n\r\n")
    )


def with_trailers(body):
    return in_chunks(body)[:-2] + b"X-Checksum: 1\r\nConnection: close\r\n\r\n"


def zipped(body):
    return answer(200, gzip.compress(body), Content_Encoding="gzip")


def after_interim(body):
    return b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer(200, body)


def then_closed(body):
    return answer(200, body, Connection="close")


def without_length(body):
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body


def old(body):
    return answer(200, body).replace(b"HTTP/1.1", b"HTTP/1.0")


def old_and_kept(body):
    return answer(200, body, Connection="keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")


def with_a_long_header(body):
    return answer(200, body, Content_Security_Policy="x" * 30_000)


def with_many_headers(body):
    return answer(200, body, **{f"X_{number}": "1" for number in range(95)})


GOOD = {
    form.__name__: form
    for form in (
        by_length,
        in_chunks,
        with_trailers,
        zipped,
        after_interim,
        then_closed,
        without_length,
        old,
        old_and_kept,
        with_a_long_header,
        with_many_headers,
    )
}
ENDS = frozenset({"then_closed", "without_length", "old"})
"""Forms after which a server closes the connection."""


@dataclass
class Server:
    """Answers POSTs from within the same event loop, so that a test decides which bytes come together.

    :param talk: answers one request of a connection, with its key and number on the connection; True ends the connection.
    """

    talk: object
    keys: list[bytes] = field(default_factory=list)
    connections: int = 0
    ended: set[object] = field(default_factory=set)

    async def serve(self, reader, writer):
        self.connections += 1
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = 0
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
                await reader.readexactly(int(fields[b"content-length"]))
                self.keys.append(fields[b"idempotency-key"])
                number += 1
                if await self.talk(writer, self.keys[-1], number):
                    break
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self.ended.add(writer)


async def send_in(writer, *pieces):
    """Send pieces, each of which is read before the next one comes."""
    for piece in pieces:
        writer.write(piece)
        for _ in range(3):
            await asyncio.sleep(0)


def cut(sent, at):
    places = sorted({0, *(place % len(sent) for place in at), len(sent)})
    return [sent[one:other] for one, other in itertools.pairwise(places)]


def reset(writer):
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return True


def post_each(talk, *, count=4, timeouts=TIMEOUTS, ends=False):
    """Send POSTs one after another, each after the end of the connection before if `ends`; return the server and what came of
    each."""

    async def main():
        server = talk.server = Server(talk)
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/x"
        wire = AsyncTransport(Transport(user_agent="tests/1", timeouts=timeouts), connections=1, rest=AT_ONCE)
        found = []
        for number in range(count):
            while ends and len(server.ended) < number:
                await asyncio.sleep(0.001)
            headers = {"Idempotency-Key": f"k-{number:02}"}
            try:
                found.append(await wire.exchange(method="POST", url=url, headers=headers, context=CONTEXT, content=b"{}"))
            except ApiError as error:
                found.append(error)
        await wire.close()
        listener.close()
        return server, found

    return asyncio.run(main())


def check(server, found):
    """Check that each request was sent once, has its own response or is in doubt; return the numbers of those in doubt."""
    doubts = []
    for number, one in enumerate(found):
        key = b"k-%02d" % number
        assert server.keys.count(key) <= 1
        if isinstance(one, ApiError):
            assert type(one) in (TransportError, ProtocolError)
            assert one.context.reached is True
            doubts.append(number)
        elif one.provenance is not None and one.provenance.is_in_doubt:
            doubts.append(number)
        else:
            assert one.body == body_for(key), "another request's response"
            assert server.keys.count(key) == 1
    return doubts


@pytest.mark.parametrize("form", GOOD)
@given(at=st.lists(st.integers(0, 10_000), max_size=12))
@settings(max_examples=examples(40))
def test_a_response_is_the_same_wherever_it_is_cut(form, at):
    async def talk(writer, key, _):
        await send_in(writer, *cut(GOOD[form](body_for(key)), at))
        return form in ENDS

    server, found = post_each(talk)
    assert check(server, found) == []
    assert server.connections == (4 if form in ENDS else 1)


@pytest.mark.exhaustive
@pytest.mark.parametrize("form", [form for form in GOOD if form != "with_a_long_header"])
def test_a_response_is_the_same_cut_at_every_byte(form):
    async def talk(writer, key, _):
        sent = GOOD[form](body_for(key))
        await send_in(writer, *cut(sent, range(len(sent))))
        return form in ENDS

    server, found = post_each(talk)
    assert check(server, found) == []


SURPLUS = {
    "the same again": by_length(body_for(b"k-00")),
    "an error": answer(400, b"bad", Connection="close"),
    "a timeout": b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "no HTTP": b"more than its length",
    "a line end": b"\r\n",
    "an interim response": b"HTTP/1.1 102 Processing\r\n\r\n",
    "the end of chunks": b"0\r\n\r\n",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    "an empty response": b"HTTP/1.1 204 No Content\r\n\r\n",
}


@pytest.mark.parametrize("surplus", SURPLUS)
@given(
    form=st.sampled_from([form for form in GOOD if form not in ENDS]),
    at=st.lists(st.integers(0, 10_000), max_size=6),
    held=st.integers(0, 60),
    nth=st.integers(1, 3),
)
@settings(max_examples=examples(100))
def test_more_than_was_requested_is_nobodys_response(surplus, form, at, held, nth):
    """Its first byte comes with the response before: a whole one that comes when the next request has been sent looks like the
    response to that, unless it has an id."""

    late = {}

    async def talk(writer, key, number):
        whole = -1
        sent = late.get(writer, b"") + GOOD[form](body_for(key))
        if number == nth and not late:
            whole, sent = len(sent), sent + SURPLUS[surplus]
            end = max(whole + 1, len(sent) - held)
            sent, late[writer] = sent[:end], sent[end:]
        elif number == nth + 1:
            late[writer] = b""
        await send_in(writer, *cut(sent, [place for place in at if place % len(sent) != whole]))

    server, found = post_each(talk, count=6)
    doubts = check(server, found)
    assert len(doubts) <= nth + 1
    assert not isinstance(found[-1], ApiError)


@pytest.mark.parametrize("end", ["closed", "half closed", "reset"])
@pytest.mark.parametrize("form", GOOD)
def test_a_connection_that_ends_behind_a_response_is_not_used_again(form, end):
    async def talk(writer, key, _):
        await send_in(writer, GOOD[form](body_for(key)))
        if end == "half closed":
            writer.write_eof()
            await asyncio.sleep(0)
            talk.server.ended.add(writer)
            return False
        return reset(writer) if end == "reset" else True

    server, found = post_each(talk, ends=True)
    assert check(server, found) == []
    assert server.connections == 4


@pytest.mark.parametrize("end", ["closed", "reset"])
@given(length=st.integers(0, 400), form=st.sampled_from(list(GOOD)))
@settings(max_examples=examples(100))
def test_a_response_that_is_cut_short_is_none(end, length, form):
    """Where only the end of the connection ends a body, what came is taken for the whole: JSON shows what is missing."""

    async def talk(writer, key, number):
        sent = GOOD[form](body_for(key))
        if number < 2 and key != b"k-02":
            await send_in(writer, sent)
            return form in ENDS
        if length >= len(sent):
            return True
        await send_in(writer, sent[:length])
        return reset(writer) if end == "reset" else True

    server, found = post_each(talk)
    assert len(set(server.keys)) == len(server.keys)
    for number, one in enumerate(found):
        if not isinstance(one, ApiError):
            whole = body_for(b"k-%02d" % number)
            assert one.body == whole or (form == "without_length" and whole.startswith(one.body))


WHOLE = "an encoding that it has not"
"""Ends where it should, so that its connection is used again: a server that closed it would leave the next request in doubt."""

WRONG = {
    "a body longer than its length": lambda body: answer(200, body, length=len(body) - 9),
    "a body shorter than its length": lambda body: answer(200, body, length=len(body) + 9),
    "a length and chunks": lambda body: in_chunks(body).replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n", 1),
    "two lengths": lambda body: answer(200, body).replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n", 1),
    "a length that is none": lambda body: answer(200, body).replace(b"Content-Length: ", b"Content-Length: +"),
    "a header without an end": lambda body: b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
    "two hundred headers": lambda body: answer(200, body, **{f"X_{number}": "1" for number in range(200)}),
    "a body where there is none": lambda body: b"HTTP/1.1 204 No Content\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
    "interim responses alone": lambda body: b"HTTP/1.1 102 Processing\r\n\r\n" * 500,
    "an upgrade": lambda body: SURPLUS["an upgrade"] + body,
    "a redirect": lambda body: answer(307, body, Location="/y"),
    "chunks without an end": lambda body: in_chunks(body)[:-5],
    "a bad chunk": lambda body: in_chunks(body).replace(b"\r\n5\r\n", b"\r\n4\r\n"),
    WHOLE: lambda body: answer(200, body, Content_Encoding="gzip"),
}


@pytest.mark.sampled
@pytest.mark.parametrize("first", [1, 2], ids=["on a new connection", "on one that was used"])
@pytest.mark.parametrize("ends", [True, False], ids=["closed", "silent"])
@pytest.mark.parametrize("pieces", [1, 3, 50])
@pytest.mark.parametrize("name", WRONG)
def test_a_malformed_response_is_no_success(name, pieces, ends, first):
    async def talk(writer, key, _):
        if key != b"k-%02d" % (first - 1):
            await send_in(writer, by_length(body_for(key)))
            return False
        sent = WRONG[name](body_for(key))
        await send_in(writer, *cut(sent, range(0, len(sent), 1 + len(sent) // pieces)))
        return ends and name != WHOLE

    server, found = post_each(talk, count=first + 1, timeouts=Timeouts(connect=10, read=0.3, total=20))
    bad = found.pop(first - 1)
    assert len(set(server.keys)) == len(server.keys) == first + 1
    assert [one.body for one in found] == [body_for(key) for key in server.keys if key != b"k-%02d" % (first - 1)]
    if isinstance(bad, ApiError):
        assert bad.context.reached is True
    else:
        assert bad.status != 200 or not bad.body.endswith(b"}")
    assert server.connections == (1 if name == WHOLE else 2)


def slots(wire):
    connector = wire._session.connector
    return len(connector._acquired) - len(connector._resting)


CANCELLED_IN = {
    "the head": lambda sent: sent[:9],
    "nothing": lambda sent: b"",
    "behind an interim response": lambda sent: b"HTTP/1.1 102 Processing\r\n\r\n",
    "the body": lambda sent: sent[:-5],
    "chunks": lambda sent: in_chunks(sent[-30:])[:-9],
    "an error's body": lambda sent: answer(422, b"{}", length=10),
    "a body that only the end ends": without_length,
}


@pytest.mark.parametrize("kept", [True, False], ids=["on one that was used", "on a new connection"])
@pytest.mark.parametrize("name", CANCELLED_IN)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_that_is_cancelled_frees_its_connection_and_leaves_nothing_to_the_next(name, kept, method):
    async def main():
        rest = asyncio.Event()

        async def talk(writer, key, number):
            sent = by_length(body_for(key))
            if key == b"k-01":
                await send_in(writer, CANCELLED_IN[name](sent))
                asked.set()
                await rest.wait()
                await send_in(writer, sent)
            else:
                await send_in(writer, sent)

        asked = asyncio.Event()
        server = Server(talk)
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/x"
        wire = AsyncTransport(Transport(user_agent="tests/1", timeouts=TIMEOUTS), connections=1, rest=AT_ONCE)

        def send(key):
            headers = {"Idempotency-Key": key, **({"Content-Length": "0"} if method == "GET" else {})}
            more = {"content": b"{}"} if method == "POST" else {}
            return wire.exchange(method=method, url=url, headers=headers, context=CONTEXT, **more)

        if kept:
            assert (await send("k-00")).body == body_for(b"k-00")
        second = asyncio.ensure_future(send("k-01"))
        await asked.wait()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert slots(wire) == 0, "its connection is closed at once"
        rest.set()
        third = await send("k-02")
        assert third.body == body_for(b"k-02")
        assert not third.provenance.is_in_doubt
        await wire.close()
        listener.close()
        return server

    server = asyncio.run(main())
    assert server.connections == 2


def test_silence_behind_an_interim_response_ends_a_request():
    async def talk(writer, _, number):
        await send_in(writer, b"HTTP/1.1 102 Processing\r\n\r\n")
        await asyncio.sleep(30)

    timeouts = Timeouts(connect=10, read=0.3, total=20)
    _, found = post_each(talk, count=1, timeouts=timeouts)
    assert "within the read timeout" in str(found[0])
    assert found[0].context.reached is True


@pytest.mark.parametrize("status", [200, 422])
def test_slots_are_free_again_whatever_becomes_of_requests(status):
    """Also where a response falls silent in its body."""

    async def main():
        async def talk(writer, key, number):
            await send_in(writer, answer(status, b"{}", length=99 if int(key[2:]) % 2 else 2))

        server = Server(talk)
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/x"
        timeouts = Timeouts(connect=10, read=0.05, total=20)
        wire = AsyncTransport(Transport(user_agent="tests/1", timeouts=timeouts), connections=1, rest=AT_ONCE)
        for number in range(6):
            with contextlib.suppress(ApiError):
                await wire.exchange(
                    method="POST", url=url, headers={"Idempotency-Key": f"k-{number:02}"}, context=CONTEXT, content=b"{}"
                )
        assert slots(wire) == 0
        await wire.close()
        listener.close()

    asyncio.run(main())


def test_what_is_no_http_behind_a_response_puts_it_in_doubt():
    """As any other surplus does, and unless it is the first response of its connection."""

    async def talk(writer, key, number):
        sent = by_length(body_for(key)) + (b"more than its length" if number == 2 else b"")
        await send_in(writer, *cut(sent, [len(by_length(b"")) + 5]))

    server, found = post_each(talk, count=3)
    assert check(server, found) == [1]
    assert found[1].body == body_for(b"k-01")
    assert server.connections == 2
