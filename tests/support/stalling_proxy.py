# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A network between a client and a server that stops forwarding a connection without closing it, as a firewall does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class StallingProxy:
    """Forwards TCP connections to a server's socket.

    :param server: the path of the socket.
    :param stall_at: what a client sends last; after that, nothing of its connection is forwarded.
    :ivar port: where it listens.
    :ivar stalled: set when a connection was stalled.
    """

    server: str
    stall_at: bytes
    stalled: threading.Event = field(default_factory=threading.Event)
    port: int = 0
    _sockets: list[socket.socket] = field(default_factory=list)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self.server)
                self._sockets += [client, server]
                dead = threading.Event()
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(*ends, dead, ends[0] is client), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, dead: threading.Event, from_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if dead.is_set():
                    continue
                if from_client and self.stall_at in data:
                    dead.set()
                    self.stalled.set()
                target.sendall(data)
            if not dead.is_set():
                target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End all connections."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextlib.contextmanager
def stalling_proxy(server: str, *, stall_at: bytes) -> Iterator[StallingProxy]:
    """A proxy for as long as the block lasts."""
    proxy = StallingProxy(server=server, stall_at=stall_at)
    listener = socket.create_server(("127.0.0.1", 0))
    proxy.port = listener.getsockname()[1]
    threading.Thread(target=proxy._accept, args=(listener,), daemon=True).start()
    try:
        yield proxy
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        proxy.close()
