# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Answers that no library can read, with a credential in them: neither an error nor a library's log repeats it."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator

import pytest

from limio_limitrail.api.async_transport import AsyncTransport
from limio_limitrail.api.auth import ApiKey
from limio_limitrail.api.client import ApiClient, AsyncApiClient
from limio_limitrail.api.errors import ApiError
from limio_limitrail.api.redact import guard_library_logs
from limio_limitrail.api.resource import AuthMode
from limio_limitrail.api.retry import RetryLimits
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.transport import Timeouts, Transport
from tests.support.secrets_left import FORMS, readable_pieces
from tests.support.wire import stop_listening

KEY = "q8Zt+Lw/92kd=Xx7m~4vB&u"

ANSWERS = {
    "a header without a colon": "HTTP/1.1 200 OK\r\nX-A: b\r\nno colon {} here\r\nContent-Length: 2\r\n\r\n{{}}",
    "a header's name": "HTTP/1.1 200 OK\r\nX {} : b\r\nContent-Length: 2\r\n\r\n{{}}",
    "the status text": "HTTP/1.1 500 {}\r\nContent-Length: 2\r\n\r\n{{}}",
    "the status": "HTTP/1.1 {}\r\nContent-Length: 2\r\n\r\n{{}}",
    "the version": "{} 200 OK\r\nContent-Length: 2\r\n\r\n{{}}",
    "the length": "HTTP/1.1 500 x\r\nContent-Length: {}\r\n\r\n{{}}",
    "two lengths": "HTTP/1.1 500 x\r\nContent-Length: 2\r\nContent-Length: {}\r\n\r\n{{}}",
    "a cookie": "HTTP/1.1 500 x\r\nSet-Cookie: {}=a; expires={}; domain={}\r\nContent-Length: 2\r\n\r\n{{}}",
    "a chunk's length": "HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n{}\r\n{{}}\r\n0\r\n\r\n",
    "a trailer": "HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n{}\r\n\r\n",
    "the transfer's encoding": "HTTP/1.1 200 x\r\nTransfer-Encoding: {}\r\n\r\n{{}}",
    "the content's encoding": "HTTP/1.1 200 x\r\nContent-Encoding: {}\r\nContent-Length: 2\r\n\r\n{{}}",
    "the charset": "HTTP/1.1 400 x\r\nContent-Type: {}; charset={}\r\nContent-Length: 2\r\n\r\n{{}}",
    "the place": "HTTP/1.1 302 x\r\nLocation: //[{}/\r\nContent-Length: 2\r\n\r\n{{}}",
}


class RawServer:
    """Answers every connection with the same bytes."""

    def __init__(self) -> None:
        self.answer = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)
                connection.sendall(self.answer)

    def close(self) -> None:
        stop_listening(self._socket)


@pytest.fixture
def raw() -> Iterator[RawServer]:
    server = RawServer()
    yield server
    server.close()


def client_of(server: RawServer) -> ApiClient:
    return ApiClient(
        api="Limio",
        base_url=server.url,
        transport=Transport(
            user_agent="tests", timeouts=Timeouts(read=5, total=10), verify=True, max_response=10**6, connections=1
        ),
        auth=ApiKey(Secret(KEY)),
        limits=RetryLimits(attempts=1, bad_gateway_attempts=1),
    )


def by_thread(client: ApiClient) -> str:
    try:
        return repr(client.send(path="/x", credentials=frozenset({AuthMode.API_KEY})).status)
    except ApiError as error:
        return f"{error} {error!r}"
    finally:
        client.close()


def by_loop(client: ApiClient) -> str:
    async def ask() -> str:
        loop_client = AsyncApiClient(client, transport=AsyncTransport(client.transport, connections=1))
        # `send` of an event loop's client is for OAuth only.
        client.auth.mode = AuthMode.OAUTH  # type: ignore[misc]
        try:
            return repr((await loop_client.send(path="/x")).status)
        except ApiError as error:
            return f"{error} {error!r}"
        finally:
            await loop_client.close()

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [by_thread, by_loop])
@pytest.mark.parametrize("name", ANSWERS)
def test_what_cannot_be_read_is_not_repeated(raw, caplog, name, ask):
    caplog.set_level(logging.DEBUG)
    for form in ("plain", "percent", "JSON of PHP", "JSON of every character", "HTML, hexadecimal", "pair", "hexadecimal"):
        said = FORMS[form](KEY)
        raw.answer = ANSWERS[name].replace("{}", said).replace("{" + said + "}", "{}").encode()
        shown = ask(client_of(raw))
        assert shown
        assert readable_pieces(shown, KEY) == set(), (form, shown)
        assert readable_pieces(caplog.text, KEY, layers=3) == set(), (form, caplog.text)
        caplog.clear()


def test_what_the_libraries_say_besides_stays(caplog):
    caplog.set_level(logging.DEBUG)
    guard_library_logs()
    logging.getLogger("urllib3.connectionpool").warning("Retrying (%r) after connection broken by '%r': %s", 1, "x", "/path")
    assert caplog.messages == ["Retrying (1) after connection broken by ''x'': /path"]
    logging.getLogger("urllib3.connection").warning("Failed to parse headers: %s", "x" * 70_000)
    assert len(caplog.messages[-1]) == 200
