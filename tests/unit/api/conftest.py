# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Clients without Airflow, and small servers for what no well-behaved server does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from limio_limitrail.api.auth import ClientCredentials, TokenSource, mint
from limio_limitrail.api.client import ApiClient
from limio_limitrail.api.retry import RetryLimits
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.transport import Timeouts, Transport
from limio_limitrail.emulator import EmulatorServer

PATIENCE = 120


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """See that every thread that the test began has ended."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive(), thread


class Site:
    """A server of a test's own: answers what it is told, and keeps the raw requests."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.respond: Callable[[dict[str, Any]], tuple[int, dict[str, str], bytes]] = lambda _: (200, {}, b'{"items":[]}')
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                request = {
                    "method": self.command,
                    "target": self.path,
                    "headers": dict(self.headers.items()),
                    "body": self.rfile.read(length),
                }
                site.seen.append(request)
                status, headers, body = site.respond(request)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_HEAD = handle_any  # noqa: N815 - names that the library looks for

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def make_site() -> Iterator[Callable[[], Site]]:
    made: list[Site] = []

    def make() -> Site:
        made.append(Site())
        return made[-1]

    yield make
    for site in made:
        site.stop()


@pytest.fixture
def site(make_site: Callable[[], Site]) -> Site:
    return make_site()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=50)
    yield listener.getsockname()[1]
    listener.close()


@pytest.fixture
def waits() -> list[float]:
    """How long a client would have waited, one entry a wait."""
    return []


@pytest.fixture
def make_client(waits: list[float]) -> Iterator[Callable[..., ApiClient]]:
    """Make clients that mint tokens, and do not really wait."""
    made: list[ApiClient] = []

    def make(server: EmulatorServer | Site, *, limits: RetryLimits | None = None, **timeouts: float) -> ApiClient:
        transport = Transport(user_agent="tests/1", timeouts=Timeouts(**{"connect": 5, "read": 5, **timeouts}))
        secret = Secret(getattr(server, "client_secret", "site-client-secret"))
        credentials = ClientCredentials(
            auth_url=f"{server.url}/oauth2/token", client_id=getattr(server, "client_id", "site"), client_secret=secret
        )
        auth = TokenSource(
            mint=lambda: mint(api="Limio", credentials=credentials, transport=transport, limits=limits, sleep=waits.append),
            client_secret=secret,
        )
        made.append(
            ApiClient(
                api="Limio",
                base_url=f"{server.url}/api",
                transport=transport,
                auth=auth,
                limits=limits,
                sleep=waits.append,
            )
        )
        return made[-1]

    yield make
    for client in made:
        client.close()
