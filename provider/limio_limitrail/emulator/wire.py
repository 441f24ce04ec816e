"""The connections themselves, which an ASGI application does not see: to count them and to break them."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio


@dataclass
class Line:
    """One accepted connection."""

    transport: asyncio.Transport
    counted: bool = False


class Lines:
    """The open connections, by the address of the client's end."""

    def __init__(self) -> None:
        self.accepted = 0
        self._open: dict[tuple[str, int], Line] = {}

    def find(self, client: Any) -> Line | None:
        """The connection a request came in on."""
        return self._open.get(tuple(client)) if client else None

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
                    lines._open[self.client] = Line(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                if self.client is not None:
                    lines._open.pop(self.client, None)
                super().connection_lost(exc)

        return ReportingProtocol


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
    head.append(f"content-length: {len(body)}")
    line.transport.write("\r\n".join([*head, "", ""]).encode("latin-1") + half)
    line.transport.close()
    return len(half)
