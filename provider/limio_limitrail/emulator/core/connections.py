# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The TCP connections, which an ASGI application does not see: to count them and to break them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import Any

from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass
class TcpConnection:
    """One accepted connection."""

    transport: asyncio.Transport
    counted: bool = False


class TcpConnections:
    """The open connections, by the addresses of both ends: a client may have the same one to two ports."""

    def __init__(self) -> None:
        self._open: dict[tuple[Any, Any], TcpConnection] = {}

    def find(self, client: Any, server: Any) -> TcpConnection | None:
        """Return the connection a request came in on."""
        return self._open.get((tuple(client), tuple(server))) if client and server else None

    def protocol(self) -> type[H11Protocol]:
        """Return uvicorn's HTTP protocol, which registers its connections here."""
        opened = self._open

        class RegisteringProtocol(H11Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                super().connection_made(transport)
                raw = transport.get_extra_info("socket")
                if raw is not None:
                    # asyncio sees to this only for sockets that name their protocol. Without it a head and a body
                    # sent one after the other cost 40 ms.
                    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.client is not None:
                    opened[self.client, self.server] = TcpConnection(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                if self.client is not None:
                    opened.pop((self.client, self.server), None)
                super().connection_lost(exc)

        return RegisteringProtocol


class StoppableServer(Server):
    """uvicorn's server, which stops at once when told to instead of at its next tick."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._stop: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    async def main_loop(self) -> None:
        """Tick ten times a second, as uvicorn does, until told to stop."""
        self._stop = asyncio.get_running_loop(), asyncio.Event()
        # At tick 0 it also looks at the clock, for the Date of its responses, which would be up to a second late otherwise.
        while not await self.on_tick(0):
            await self.sleep(0.1)

    async def sleep(self, seconds: float) -> None:
        """Wait, but no longer than the server runs."""
        assert self._stop is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop[1].wait(), seconds)

    def stop_now(self) -> None:
        """Stop; callable from any thread."""
        self.should_exit = True
        if self._stop is not None:
            loop, event = self._stop
            loop.call_soon_threadsafe(event.set)


def reset_connection(connection: TcpConnection) -> None:
    """Close a connection so that the client sees it reset."""
    raw = connection.transport.get_extra_info("socket")
    if raw is not None:
        # A linger of zero seconds makes the close a reset instead of an orderly end.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.transport.abort()


def send_truncated(connection: TcpConnection, status: int, headers: dict[str, str], body: bytes) -> int:
    """Declare the whole body, send the first half and close; return the number of body bytes sent."""
    half = body[: len(body) // 2]
    head = [f"HTTP/1.1 {status} OK", *(f"{name}: {value}" for name, value in headers.items())]
    head.append(f"content-length: {max(len(body), 1)}")
    connection.transport.write("\r\n".join([*head, "", ""]).encode("latin-1") + half)
    connection.transport.close()
    return len(half)
