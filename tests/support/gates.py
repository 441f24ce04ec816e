# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A gate in front of a server: it notes the requests that go through, and can be shut in the middle of them."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable

_REQUEST = re.compile(rb"([A-Z]+ \S+) HTTP/1\.[01]\r\n")


class Gate:
    """A gate on a port of its own, open at first.

    :param port: the server's.
    """

    def __init__(self, port: int) -> None:
        self._behind = port
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self.requests: list[str] = []
        self.shuts_at: Callable[[str], object] | None = None
        # While the gate is shut nobody listens, and nobody else gets the port.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port: int = self._held.getsockname()[1]
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Let everything through, and begin with the notes anew."""
        self.requests, self.shuts_at = [], None
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def shut(self) -> None:
        """Cut all connections, and refuse new ones."""
        with self._lock:
            listener, self._listener = self._listener, None
            cut, self._connections = self._connections, set()
        for one in (listener, *cut):
            if one is not None:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    def end(self) -> None:
        self.shut()
        self._held.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._behind))
                with self._lock:
                    is_open = self._listener is listener
                    self._connections |= {client, server} if is_open else set()
                if not is_open:
                    client.close()
                    server.close()
                    return
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if asks and (found := _REQUEST.match(data)):
                    request = found[1].decode()
                    self.requests.append(request)
                    if self.shuts_at is not None and self.shuts_at(request):
                        self.shut()
                        return
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
