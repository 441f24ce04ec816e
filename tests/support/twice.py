# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A server with a journal that sends some of its answers twice on a kept connection."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.support.wire import TOKEN, answer, raw_server

IDS = ("body", "header", "none")
"""Where an answer bears an id."""


@dataclass
class Twice:
    """What the server does, and what it has done.

    :param way: how an answer comes twice.
    :param ids: where answers bear ids.
    :param every: which answers of a connection come twice: each third, for example.
    :param latency: seconds before an answer.
    """

    way: str
    ids: str = "body"
    every: int = 3
    latency: float = 0.0
    refusal: int | None = None
    """What the first connections answer to their first request, without an id and without carrying it out. That answer, and no
    other, comes twice."""
    refusals: int = 3
    """How many connections do so."""
    refused: list[str] = field(default_factory=list)
    journal: list[tuple[str, str, str]] = field(default_factory=list)
    """Key, decision and reservation of what was carried out, in the order in which it was."""
    connections: int = 0
    url: str = ""
    requests: list[str] = field(default_factory=list)
    _answers: dict[str, bytes] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def carry_out(self, key: str) -> bytes:
        """Carry a request out, unless its key is known, and give its answer."""
        with self._lock:
            if (known := self._answers.get(key)) is not None:
                return known
            number = len(self.journal)
            decision = "DENIED_BY_POLICY" if int(key[-1], 36) % 5 == 0 else "ALLOWED"
            self.journal.append((key, decision, f"res-{number}"))
        body = {"decision": decision}
        if self.ids == "body":
            body |= {"reservationId": f"res-{number}", "traceId": f"trace-{number}"}
        headers = {"X_Request_Id": f"request-{number}"} if self.ids == "header" else {}
        self._answers[key] = answer(200, json.dumps(body).encode(), **headers)
        return self._answers[key]

    def refuse(self, key: str) -> bytes:
        """Refuse a request."""
        assert self.refusal is not None
        self.refused.append(key)
        return answer(self.refusal, b"")

    def talk(self, connection: socket.socket) -> None:
        """Answer the requests of a connection."""
        with self._lock:
            self.connections += 1
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        count, late = 0, b""
        for head in requests_of(connection):
            if b"/token" in head.split(b"\r\n", 1)[0]:
                connection.sendall(answer(200, TOKEN))
                continue
            key = next(line[17:].decode() for line in head.split(b"\r\n") if line.lower().startswith(b"idempotency-key: "))
            if late:
                connection.sendall(late)
                late = b""
                time.sleep(0.002)
            self.requests.append(key)
            count += 1
            refuses = self.refusal is not None and count == 1 and len(self.refused) < self.refusals
            made = self.refuse(key) if refuses else self.carry_out(key)
            time.sleep(self.latency)
            if not refuses if self.refusal else count % self.every:
                connection.sendall(made)
            else:
                late = WAYS[self.way](connection, made) or b""


def requests_of(connection: socket.socket) -> Iterator[bytes]:
    """Read requests, and give their heads."""
    waiting = b""
    while True:
        while b"\r\n\r\n" not in waiting:
            if not (came := connection.recv(65536)):
                return
            waiting += came
        head, _, waiting = waiting.partition(b"\r\n\r\n")
        found = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = int(found[0].split(b":")[1]) if found else 0
        while len(waiting) < length:
            if not (came := connection.recv(65536)):
                return
            waiting += came
        waiting = waiting[length:]
        yield head


def _in_pieces(*pieces: bytes, pause: float = 0.003) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(pause)
            connection.sendall(piece)

    return send


def _with_the_body(connection: socket.socket, made: bytes) -> None:
    head, _, body = made.partition(b"\r\n\r\n")
    _in_pieces(head + b"\r\n\r\n" + body[:3], body[3:] + made)(connection)


def _in_halves(connection: socket.socket, made: bytes) -> None:
    _in_pieces(made + made[:40], made[40:])(connection)


def _half_when_read(connection: socket.socket, made: bytes) -> None:
    connection.sendall(made + made[:40])
    # The client then closes the connection, or sends its next request over it.
    select.select([connection], [], [], 30)
    connection.sendall(made[40:])


def _with_the_next(connection: socket.socket, made: bytes) -> bytes:
    connection.sendall(made)
    return made


def _other_error(connection: socket.socket, made: bytes) -> None:
    _in_pieces(made, answer(500, b'{"title":"handler failed"}'))(connection)


WAYS: dict[str, Callable[[socket.socket, bytes], bytes | None]] = {
    "at once": lambda connection, made: connection.sendall(made + made),
    "with the rest of its body": _with_the_body,
    "a moment later": lambda connection, made: _in_pieces(made, made)(connection),
    "in halves": _in_halves,
    "half of it, and the rest when that is read": _half_when_read,
    "three times": lambda connection, made: _in_pieces(made, made, made, pause=0.001)(connection),
    "another one behind it": _other_error,
    "a stray line end": lambda connection, made: connection.sendall(made + b"\r\n"),
    "a stray line end later": lambda connection, made: _in_pieces(made, b"\r\n")(connection),
    "with the next request": _with_the_next,
}
"""What becomes of an answer that comes twice; gives what is sent when the next request has come."""


@contextlib.contextmanager
def twice_server(way: str, *, tls: ssl.SSLContext | None = None, **more: object) -> Iterator[Twice]:
    """Serve so."""
    made = Twice(way=way, **more)  # type: ignore[arg-type]
    with raw_server(made.talk, tls=tls) as url:
        made.url = url
        yield made
