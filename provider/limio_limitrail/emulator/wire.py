# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The connections themselves, which an ASGI application does not see: to count them and to break them."""

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
class Line:
    """One accepted connection."""

    transport: asyncio.Transport
    counted: bool = False


class Lines:
    """The open connections, by the addresses of both ends: a client may have the same one to two ports."""

    def __init__(self) -> None:
        self.accepted = 0
        self._open: dict[tuple[Any, Any], Line] = {}

    def find(self, client: Any, server: Any) -> Line | None:
        """The connection a request came in on."""
        return self._open.get((tuple(client), tuple(server))) if client and server else None

    def protocol(self) -> type[H11Protocol]:
        """uvicorn's HTTP protocol, reporting to these lines."""
        lines = self

        class ReportingProtocol(H11Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                super().connection_made(transport)
                lines.accepted += 1
                raw = transport.get_extra_info("socket")
                if raw is not None:
                    # asyncio sees to this only for sockets that name their protocol. Without it a head and a body
                    # sent one after the other cost 40 ms.
                    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.client is not None:
                    lines._open[self.client, self.server] = Line(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                if self.client is not None:
                    lines._open.pop((self.client, self.server), None)
                super().connection_lost(exc)

        return ReportingProtocol


class PromptServer(Server):
    """uvicorn's server, which stops when it is told to instead of at its next tick."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._wake: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    async def main_loop(self) -> None:
        """Tick ten times a second, as uvicorn does, until told to stop."""
        self._wake = asyncio.get_running_loop(), asyncio.Event()
        counter = 0
        while not await self.on_tick(counter):
            counter = (counter + 1) % 864_000
            await self.pause(0.1)

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than the server runs."""
        assert self._wake is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake[1].wait(), seconds)

    def stop_now(self) -> None:
        """Tell it to stop, from any thread."""
        self.should_exit = True
        if self._wake is not None:
            loop, event = self._wake
            loop.call_soon_threadsafe(event.set)


def reset(line: Line) -> None:
    """Close a connection so that the client sees it reset."""
    raw = line.transport.get_extra_info("socket")
    if raw is not None:
        # A linger of zero seconds makes the close a reset instead of an orderly end.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.transport.abort()


def send_truncated(line: Line, status: int, headers: dict[str, str], body: bytes) -> int:
    """Promise the whole body, send the first half and close; the number of body bytes sent."""
    half = body[: len(body) // 2]
    head = [f"HTTP/1.1 {status} OK", *(f"{name}: {value}" for name, value in headers.items())]
    head.append(f"content-length: {max(len(body), 1)}")
    line.transport.write("\r\n".join([*head, "", ""]).encode("latin-1") + half)
    line.transport.close()
    return len(half)
