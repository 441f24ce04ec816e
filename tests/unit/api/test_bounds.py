# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""No answer outlives its time or its size, whatever a server does, in a thread and in an event loop alike."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import re
import sys
import time
import zlib
from types import SimpleNamespace

import pytest
import requests

from limio_limitrail.api import errors
from limio_limitrail.api.async_transport import AsyncTransport
from limio_limitrail.api.auth import ClientCredentials, TokenSource, mint, parse_token
from limio_limitrail.api.client import ApiClient, AsyncApiClient
from limio_limitrail.api.list_reader import ListReader
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.resource import AuthMode, Resource
from limio_limitrail.api.responses import Response
from limio_limitrail.api.retry import Repeat, RetryLimits
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.transport import Timeouts, Transport
from limio_limitrail.usage.conventions import OPERATIONS
from limio_limitrail.usage.ledger.model import UsageRow
from limio_limitrail.usage.ledger.states import OnUnknown
from limio_limitrail.usage.send_loop import Uncertain
from limio_limitrail.usage.sender import UsageSender
from tests.support.wire import answer, chunked, make_certificate, raw_server, read_request, trickle

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TOTAL = 0.5
"""Seconds that an answer may take here. The servers would go on for ever."""

LARGEST = 1_000_000
"""Bytes that an answer may have here."""

LIST = Resource(name="things", path="/things")
GOOD = b'{"decision":"ALLOWED"}'
OK = b"HTTP/1.1 200 OK\r\n"
BOMB = gzip.compress(b"0" * 20_000_000, mtime=0)


def make_client(url, *, total=TOTAL, read=5.0, connect=5.0, largest=LARGEST, auth=None, **more):
    timeouts = Timeouts(connect=connect, read=read, total=total)
    transport = Transport(user_agent="tests/1", timeouts=timeouts, max_response=largest, **more.pop("transport", {}))
    credential = Secret("token-1234567890")
    spared = SimpleNamespace(
        mode=AuthMode.OAUTH,
        credential=lambda: credential,
        cached=lambda: credential,
        header=lambda given: f"Bearer {given.reveal()}",
        renew=lambda _: False,
        granted_scopes=lambda: None,
        secrets=lambda: (credential,),
    )
    limits = RetryLimits(**{"first_wait": 0.0, "longest_wait": 0.0, **more})
    return ApiClient(api="LimitRail", base_url=url, transport=transport, auth=auth or spared, limits=limits)


def by_thread(client, **request):
    with contextlib.closing(client):
        return client.send(path="/v1/usage/commit", **request)


def by_loop(client, **request):
    async def send():
        loop_client = AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=4))
        try:
            return await loop_client.send(path="/v1/usage/commit", **request)
        finally:
            await loop_client.close()

    with contextlib.closing(client):
        return asyncio.run(send())


BOTH = pytest.mark.parametrize("send", [by_thread, by_loop])


def ended(send, client, **request):
    """Give the error that a request ends with."""
    with pytest.raises(errors.ApiError) as caught:
        send(client, **{"method": "POST", "content": b"{}", "repeat": Repeat.NONE, **request})
    return caught.value


def after(head, endless, *, pause=True):
    """Answer with a head, and then with the same bytes for ever: slowly, or as fast as they are taken."""

    def talk(connection):
        read_request(connection)
        connection.sendall(head)
        if pause:
            for byte in itertools.cycle(endless):
                trickle(connection, bytes([byte]))
        whole = endless * max(1, 65536 // len(endless))
        while True:
            connection.sendall(whole)

    return talk


def stays(sent):
    """Answer, and keep the connection."""

    def talk(connection):
        while True:
            read_request(connection)
            connection.sendall(sent)

    return talk


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
SLOW = {
    "status line": after(b"HTTP/1.1 200 ", b"O"),
    "headers": after(OK, b"X-A: 1\r\n"),
    "one header": after(OK + b"X-A: ", b"1"),
    "100 Continue": after(b"", CONTINUE),
    "103 Early Hints": after(b"", HINTS),
    "body with a length": after(OK + b"Content-Length: 900000\r\n\r\n", b" "),
    "body without a length": after(OK + b"Connection: close\r\n\r\n", b" "),
    "HTTP/1.0 body": after(b"HTTP/1.0 200 OK\r\n\r\n", b" "),
    "chunks": after(CHUNKED, b"1\r\n \r\n"),
    "one chunk": after(CHUNKED + b"fffff\r\n", b" "),
    "size of a chunk": after(CHUNKED, b"0"),
    "extension of a chunk": after(CHUNKED + b"5;", b"x"),
    "trailers": after(CHUNKED + b"2\r\n{}\r\n0\r\n", b"X-A: 1\r\n"),
    "gzip": after(OK + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n" + BOMB[:10], b"\0\0\0\xff\xff"),
}


@pytest.mark.sampled(6)
@BOTH
@pytest.mark.parametrize("name", SLOW)
def test_an_answer_that_never_ends_is_cut_off_in_time(name, send):
    with raw_server(SLOW[name]) as url:
        error = ended(send, make_client(url))
    assert type(error) is errors.TransportError
    assert f"not complete within {TOTAL:g} s" in str(error)
    assert "total_timeout" in str(error)
    assert error.context.reached is True, "what became of the request is not known"


def with_length(body, *, encoding, status=200):
    return stays(answer(status, body, Content_Encoding=encoding))


def twice(pack):
    return lambda data: pack(pack(data))


RAW = zlib.compressobj(wbits=-15)
PLENTY = b"0" * 5_000_000
LARGE = {
    "endless chunks": after(CHUNKED, b"400\r\n" + b" " * 1024 + b"\r\n", pause=False),
    "endless and without a length": after(OK + b"Connection: close\r\n\r\n", b" ", pause=False),
    "endless HTTP/1.0": after(b"HTTP/1.0 200 OK\r\n\r\n", b" ", pause=False),
    "a length above the bound": after(OK + b"Content-Length: 1000001\r\n\r\n", b" "),
    "a length of terabytes": after(OK + b"Content-Length: 9999999999999\r\n\r\n", b" "),
    "one byte too many": stays(answer(200, b" " * (LARGEST + 1))),
    "gzip": with_length(BOMB, encoding="gzip"),
    "x-gzip, in capitals": with_length(BOMB, encoding="X-GZIP"),
    "gzip in chunks": stays(chunked(BOMB).replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n", 1)),
    "deflate": with_length(zlib.compress(PLENTY), encoding="deflate"),
    "deflate without the head": with_length(RAW.compress(PLENTY) + RAW.flush(), encoding="deflate"),
    "zstd": with_length(zstd.compress(PLENTY), encoding="zstd"),
    "gzip in gzip": with_length(twice(gzip.compress)(PLENTY), encoding="gzip, gzip"),
    "gzip, four times": with_length(twice(twice(gzip.compress))(PLENTY), encoding="gzip,gzip,gzip,gzip"),
    "deflate in gzip": with_length(gzip.compress(zlib.compress(PLENTY)), encoding="deflate, gzip"),
    "gzip of many members": with_length(gzip.compress(b"0" * 1000) * 1100, encoding="gzip"),
}


@BOTH
@pytest.mark.parametrize("name", LARGE)
def test_an_answer_that_is_too_large_is_refused_and_not_asked_for_again(name, send):
    with raw_server(LARGE[name]) as url:
        client = make_client(url, total=60.0)
        error = ended(send, client, method="GET", content=None, repeat=Repeat.ANY)
    assert type(error) is errors.ResponseTooLargeError
    assert error.status == 200
    assert "larger than 1 MB" in str(error)
    assert "max_response_mb" in str(error)
    assert "page_size" in str(error)
    assert client.counters.retries == 0


@pytest.mark.parametrize(
    ("name", "head", "body"),
    [
        ("another encoding of the transfer", b"Transfer-Encoding: gzip, chunked", b"16\r\n" + GOOD + b"\r\n0\r\n\r\n"),
        ("a negative length", b"Content-Length: -5", GOOD),
        ("a length in words", b"Content-Length: many", GOOD),
        ("two lengths", b"Content-Length: 22\r\nContent-Length: 5", GOOD),
        ("a negative chunk", b"Transfer-Encoding: chunked", b"-1\r\n" + GOOD),
        ("a chunk of more than there is memory", b"Transfer-Encoding: chunked", b"f" * 22 + b"\r\n" + GOOD),
    ],
)
def test_a_body_whose_end_cannot_be_known_is_no_answer(name, head, body):
    """http.client itself would read until the connection ends, and give out the framing with the body."""
    with raw_server(lambda one: (read_request(one), one.sendall(OK + head + b"\r\n\r\n" + body))) as url:
        error = ended(by_thread, make_client(url, total=60.0))
    assert type(error) is errors.TransportError, name
    assert "no HTTP response" in str(error) or "broke off" in str(error)
    assert error.context.reached is True


@BOTH
def test_what_a_server_sends_unasked_on_an_idle_connection_is_no_answer(send):
    def talk(connection):
        read_request(connection)
        connection.sendall(answer(200, GOOD) + answer(200, b'{"decision":"SPOOFED"}'))
        read_request(connection)
        connection.sendall(answer(200, GOOD))

    with raw_server(talk) as url:
        for found in in_a_row(send, make_client(url, total=60.0), times=3):
            assert found == GOOD


def in_a_row(send, client, *, times):
    if send is by_thread:
        with contextlib.closing(client):
            return [client.send(path="/x").body for _ in range(times)]

    async def main():
        loop_client = AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=1))
        try:
            return [(await loop_client.send(path="/x")).body for _ in range(times)]
        finally:
            await loop_client.close()

    return asyncio.run(main())


FITS = {
    "plain": (b" " * (LARGEST - 2) + b"{}", None),
    "gzip": (gzip.compress(b" " * LARGEST), "gzip"),
    "gzip in gzip": (gzip.compress(gzip.compress(GOOD)), "gzip, gzip"),
    "gzip of two members": (gzip.compress(GOOD[:9]) + gzip.compress(GOOD[9:]), "gzip"),
    "gzip with garbage behind it": (gzip.compress(GOOD) + b"garbage" * 9, "gzip"),
    "deflate without the head": (zlib.compress(GOOD)[2:-4], "deflate"),
    "zstd, which was not asked for": (zstd.compress(GOOD), "zstd"),
    "a charset in the wrong header": (GOOD, "utf-8"),
    "nothing in gzip": (b"", "gzip"),
}


@BOTH
@pytest.mark.parametrize("name", FITS)
def test_an_answer_within_its_bounds_comes_whole(name, send):
    body, encoding = FITS[name]
    with raw_server(stays(answer(200, body, **({"Content_Encoding": encoding} if encoding else {})))) as url:
        client = make_client(url, total=60.0)
        found = send(client, method="POST", content=b"{}").body
    assert found in (GOOD, b" " * LARGEST, b" " * (LARGEST - 2) + b"{}", b"")
    assert (found == b"") is (body == b"")


@BOTH
@pytest.mark.parametrize(
    ("encoding", "body", "said"),
    [
        ("br", b"\x0b\x02\x80{}\x03", "gzip or deflate, found br"),
        ("gzip, br", b"\x0b\x02\x80{}\x03", "gzip or deflate, found br"),
        (",".join(["gzip"] * 6), BOMB[:50], "found 6 on top of one another"),
        ("zstd", GOOD, "content encoding zstd"),
        ("deflate", GOOD, "content encoding deflate"),
    ],
    ids=["br", "br in gzip", "six of gzip", "zstd", "deflate"],
)
def test_an_encoding_that_cannot_be_undone_is_named(encoding, body, said, send):
    with raw_server(with_length(body, encoding=encoding)) as url:
        error = ended(send, make_client(url, total=60.0))
    assert type(error) is errors.ProtocolError
    assert said in str(error)


@pytest.mark.parametrize("packed", [True, False])
def test_a_list_asks_for_smaller_pages_where_one_is_too_large(packed):
    asked = []

    def talk(connection):
        while True:
            head = read_request(connection)
            limit = int(re.search(rb"limit=(\d+)", head)[1])
            at = int((re.search(rb"queryMore=(\d+)", head) or (b"", b"0"))[1])
            asked.append((at, limit))
            upto = min(at + limit, 40)
            items = [{"id": number, "note": "0" * 100_000} for number in range(at, upto)]
            body = json.dumps({"items": items, "queryMore": str(upto) if upto < 40 else None}).encode()
            connection.sendall(answer(200, gzip.compress(body), Content_Encoding="gzip") if packed else answer(200, body))

    with raw_server(talk) as url, contextlib.closing(make_client(url, total=60.0)) as client:
        walk = ListReader(client=client, resource=LIST, path=LIST.path, params={}, page_size=32)
        rows = [json.loads(bytes(record))["id"] for page in walk.pages() for record in page.raw_records]
    assert rows == list(range(40))
    assert [limit for _, limit in asked] == [32, 16, *[8] * 5]
    assert client.counters.retries == 0


def test_a_single_record_that_is_too_large_is_an_error_that_says_what_to_do():
    with (
        raw_server(LARGE["gzip"]) as url,
        contextlib.closing(make_client(url, total=60.0)) as client,
        pytest.raises(errors.ResponseTooLargeError, match="max_response_mb"),
    ):
        list(ListReader(client=client, resource=LIST, path=LIST.path, params={}, page_size=4).pages())


@pytest.mark.parametrize("name", ["gzip", "endless chunks"])
@pytest.mark.parametrize("on_unknown", OnUnknown)
def test_a_usage_row_whose_answer_is_too_large_is_in_doubt(name, on_unknown):
    """The API may have carried it out: it is not rejected."""

    async def send(client):
        sender = UsageSender(
            client=AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=1)),
            operation=OPERATIONS["commit"],
            key_header="Idempotency-Key",
            on_unknown=on_unknown,
        )
        try:
            return await sender(row, asyncio.sleep)
        finally:
            await sender.close()

    row = UsageRow(number=1, key="k-1", row_key="{}", path="/v1/usage/commit", body=b"{}", digest="d")
    with raw_server(LARGE[name]) as url, contextlib.closing(make_client(url, total=60.0)) as client:
        result = asyncio.run(send(client))
    assert isinstance(result, Uncertain)
    assert result.outcome.state is on_unknown.in_doubt
    assert isinstance(result.cause, errors.ResponseTooLargeError)


# -- errors: the status stands ---------------------------------------------------------------------------------------

STATUSES = {400: errors.InvalidRequestError, 403: errors.ScopeError, 429: errors.RateLimitError, 503: errors.ServerError}
HEAD = "HTTP/1.1 {status} Word\r\nRetry-After: 7\r\n"
BODIES = {
    "bomb": lambda head: stays(head + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB),
    "endless": lambda head: after(head + b"Connection: close\r\n\r\n", b" ", pause=False),
    "larger than said": lambda head: after(head + b"Content-Length: 9999999999999\r\n\r\n", b" "),
    "broken off": lambda head: lambda one: (read_request(one), one.sendall(head + b'Content-Length: 99\r\n\r\n{"messag')),
    "not gzip": lambda head: stays(head + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"),
    "deep": lambda head: stays(head + b"Content-Length: 400000\r\n\r\n" + b"[" * 200_000 + b"]" * 200_000),
}


@BOTH
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("name", BODIES)
def test_the_status_of_an_error_stands_whatever_its_body_is(name, status, send):
    with raw_server(BODIES[name](HEAD.format(status=status).encode())) as url:
        error = ended(send, make_client(url, total=60.0, read=30.0))
    assert type(error) is STATUSES[status]
    assert error.status == status
    assert error.retry_after == 7
    assert error.context.reached is True


@pytest.mark.sampled(1)
@BOTH
@pytest.mark.parametrize(
    ("head", "body"), [(b"Connection: close\r\n\r\n", b" "), (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n")]
)
def test_the_body_of_an_error_is_not_waited_for_long(head, body, send):
    """It gets the time of one silence, and not that of a whole answer."""
    with raw_server(after(HEAD.format(status=503).encode() + head, body)) as url:
        error = ended(send, make_client(url, total=3600.0, read=2.0))
    assert type(error) is errors.ServerError
    assert error.retry_after == 7


# -- the way there ---------------------------------------------------------------------------------------------------


@BOTH
def test_a_handshake_that_never_ends_is_no_connection(send, tmp_path):
    _, bundle = make_certificate(tmp_path)

    def talk(connection):
        connection.recv(65536)
        # A handshake record of 16,000 bytes, slowly.
        trickle(connection, b"\x16\x03\x03\x3e\x80\x02\x00\x3e\x7c\x03\x03" + b"\0" * 16_000)

    with raw_server(talk) as url:
        client = make_client(url.replace("http:", "https:"), connect=TOTAL, total=60.0, transport={"verify": str(bundle)})
        error = ended(send, client)
    assert type(error) is errors.TransportError
    assert "within the connect timeout" in str(error)
    assert error.context.reached is False


@pytest.mark.sampled(3)
@BOTH
@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_proxy_that_never_gets_there_is_no_connection(send, head, monkeypatch, tmp_path):
    _, bundle = make_certificate(tmp_path)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    endless = after(head, b"X-A: 1\r\n" if head.endswith(b"\n") else b"1" if head else CONTINUE)
    with raw_server(endless) as url:
        monkeypatch.setenv("https_proxy", url)
        client = make_client("https://limitrail.invalid", connect=TOTAL, total=60.0, transport={"verify": str(bundle)})
        error = ended(send, client)
    assert type(error) is errors.TransportError
    assert "within the connect timeout" in str(error)
    assert error.context.reached is False


@pytest.mark.exhaustive
@BOTH
def test_a_slow_answer_over_tls_is_cut_off_in_time(send, tmp_path):
    tls, bundle = make_certificate(tmp_path)
    for name in ("headers", "chunks"):
        with raw_server(SLOW[name], tls=tls) as url:
            error = ended(send, make_client(url, total=2.0, transport={"verify": str(bundle)}))
        assert "not complete within" in str(error), name


@BOTH
def test_a_server_that_never_takes_the_request_is_cut_off_in_time(send):
    with raw_server(trickle_in) as url:
        error = ended(send, make_client(url), content=b" " * 20_000_000)
    assert type(error) is errors.TransportError
    assert "not complete within" in str(error)
    assert error.context.reached is True


def trickle_in(connection):
    """Take a request a byte at a time, for a minute: it does not see that the other side hangs up before all of it."""
    for _ in range(3000):
        connection.recv(1)
        time.sleep(0.02)


@BOTH
def test_what_comes_before_the_answer_is_passed_over(send):
    with raw_server(stays(CONTINUE + HINTS * 3 + answer(200, GOOD))) as url:
        assert send(make_client(url, total=60.0), method="POST", content=b"{}").body == GOOD


# -- all tries together ----------------------------------------------------------------------------------------------


@BOTH
def test_a_try_is_cut_off_at_what_is_left_for_all_of_them(send):
    with raw_server(SLOW["headers"]) as url:
        client = make_client(url, total=60.0, read=30.0, budget=TOTAL)
        error = ended(send, client, method="GET", content=None, repeat=Repeat.ANY)
    assert type(error) is errors.TransportError
    assert "were left for the request with all its tries" in str(error)
    assert client.counters.retries == 0


@BOTH
def test_no_further_try_begins_that_would_be_cut_short(send):
    with raw_server(stays(answer(503))) as url:
        client = make_client(url, total=60.0, budget=20.0, first_wait=50.0, longest_wait=50.0)
        error = ended(send, client, method="GET", content=None, repeat=Repeat.ANY)
    assert type(error) is errors.ServerError
    assert client.counters.retries == 0


def test_a_request_that_waits_for_a_token_keeps_its_own_time():
    def auth_of(url):
        transport = Transport(user_agent="tests/1", timeouts=Timeouts(total=60.0))
        credentials = ClientCredentials(auth_url=f"{url}/token", client_id="c", client_secret=Secret("s3cret-s3cret"))
        return TokenSource(
            mint=lambda: mint(api="LimitRail", credentials=credentials, transport=transport, sleep=lambda _: None),
            client_secret=Secret("s3cret-s3cret"),
        )

    for send in (by_thread, by_loop):
        with raw_server(SLOW["headers"]) as url:
            client = make_client(url, total=60.0, auth=auth_of(url), budget=TOTAL)
            error = ended(send, client, repeat=Repeat.ANY)
        assert type(error) is errors.TransportError
        assert error.context.resource == "token"
        assert error.context.reached is False, "the request itself was not sent"


# -- tokens ----------------------------------------------------------------------------------------------------------


def minted(url, *, largest=256_000_000, total=TOTAL):
    transport = Transport(user_agent="tests/1", timeouts=Timeouts(total=total), max_response=largest)
    credentials = ClientCredentials(auth_url=f"{url}/token", client_id="c", client_secret=Secret("s3cret-s3cret"), scope="a")
    limits = RetryLimits(attempts=1)
    return mint(api="Limio", credentials=credentials, transport=transport, limits=limits, sleep=lambda _: None)


@pytest.mark.parametrize("name", LARGE)
def test_a_token_endpoint_that_gives_more_than_a_token(name):
    with raw_server(LARGE[name]) as url, pytest.raises(errors.ProtocolError, match=r"larger than 1 MB.*check auth_url"):
        minted(url, total=60.0)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", SLOW)
def test_a_token_endpoint_that_never_ends(name):
    with raw_server(SLOW[name]) as url, pytest.raises(errors.TransportError, match="not complete within"):
        minted(url)


@pytest.mark.parametrize("depth", [5_000, 200_000])
@pytest.mark.parametrize("form", ["[{}]", '{{"a":{}}}', '{{"access_token":"t","x":[{}]}}'])
def test_a_token_answer_that_is_nested_too_deeply(depth, form):
    opening, closing = form.format("|").split("|")
    body = (opening * depth + "1" + closing * depth).encode()
    with pytest.raises(errors.ProtocolError, match="token response is nested too deeply"):
        parse_token(body, context=RequestContext(api="Limio", path="/x"))
    with raw_server(stays(answer(400, body))) as url, pytest.raises(errors.CredentialsError, match="answered 400"):
        minted(url, total=60.0)


@pytest.mark.parametrize("depth", [5_000, 200_000])
def test_an_answer_that_is_nested_too_deeply_is_not_json(depth):
    deep = Response(status=200, headers={}, body=b"[" * depth + b"]" * depth)
    with pytest.raises(ValueError, match="nested too deeply"):
        deep.json()


# -- the session for free use ----------------------------------------------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", SLOW)
def test_the_free_session_has_the_same_time(name):
    with raw_server(SLOW[name]) as url, contextlib.closing(make_client(url)) as client:
        with pytest.raises(requests.exceptions.RequestException):
            client.session().get(f"{url}/x")
        with pytest.raises(requests.exceptions.RequestException):
            client.session().get(f"{url}/x", timeout=50)


@pytest.mark.parametrize("name", LARGE)
def test_the_free_session_has_the_same_size(name):
    with (
        raw_server(LARGE[name]) as url,
        contextlib.closing(make_client(url, total=60.0)) as client,
        pytest.raises(requests.exceptions.RequestException, match=r"max_response_mb|TooManyBytes"),
    ):
        client.session().get(f"{url}/x")


def test_a_stream_of_the_free_session_is_the_users_own():
    body = b" " * (3 * LARGEST)
    with raw_server(stays(answer(200, body))) as url, contextlib.closing(make_client(url, total=60.0)) as client:
        response = client.session().get(f"{url}/x", stream=True)
        assert sum(map(len, response.iter_content(65536))) == len(body)


def test_the_free_session_gives_bodies_as_ever():
    body = json.dumps({"items": [1]}).encode()
    with (
        raw_server(stays(answer(200, gzip.compress(body), Content_Encoding="gzip"))) as url,
        contextlib.closing(make_client(url, total=60.0)) as client,
    ):
        for _ in range(2):
            response = client.session().get(f"{url}/x")
            assert response.json() == {"items": [1]}
            assert list(response.iter_content(4)) == [body[at : at + 4] for at in range(0, len(body), 4)]
