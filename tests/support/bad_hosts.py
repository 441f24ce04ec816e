# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Hosts that hang in all the ways in which hosts do, and count who hangs with them; and one that counts open sockets by token."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

from tests.support.wire import TOKEN, answer, chunked, raw_server, read_request, read_whole_request


def order(head: bytes) -> bytes:
    """Give the object that a request asks for."""
    return b'{"id":"%b","status":"active"}' % head.split(b" ", 2)[1].rpartition(b"/")[2]


class BadHost:
    """Does the same bad thing to each connection, until it is told to be good.

    :param talk: what it does, with the connection; it may go on for ever.
    """

    def __init__(self, talk: Callable[[BadHost, socket.socket], object]) -> None:
        self.url = ""
        self.most = 0
        """The most connections at once that it has done its bad thing to."""
        self.total = self.hung = self.pages = 0
        self.mended = threading.Event()
        self.over = threading.Event()
        self._talk = talk
        self._under_way = 0
        self._lock = threading.Lock()

    @property
    def under_way(self) -> int:
        return self._under_way

    def serve(self, connection: socket.socket) -> None:
        with self._lock:
            self.total += 1
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        try:
            if self.mended.is_set():
                answer_well(connection)
            else:
                self._talk(self, connection)
        finally:
            with self._lock:
                self._under_way -= 1

    def pause(self, seconds: float) -> None:
        """Wait; the end of the test ends it."""
        if self.over.wait(seconds):
            raise ConnectionAbortedError

    def send_slowly(self, connection: socket.socket, sent: bytes) -> None:
        for index in range(len(sent)):
            connection.sendall(sent[index : index + 1])
            self.pause(0.2)


def answer_well(connection: socket.socket) -> None:
    """Answer requests for objects, and for tokens, as Limio would."""
    while True:
        head = read_request(connection)
        token = b"/token" in head.split(b"\r\n", 1)[0]
        connection.sendall(answer(200, TOKEN if token else order(head)))


def _drip(host: BadHost, connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    host.send_slowly(connection, b" " * 100_000)


def _drip_head(host: BadHost, connection: socket.socket) -> None:
    read_request(connection)
    host.send_slowly(connection, b"HTTP/1.1 200 OK\r\n" + b"X-More: and more\r\n" * 5000)


def _go_on(host: BadHost, connection: socket.socket) -> None:
    read_request(connection)
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        host.pause(0.2)


def _be_silent(host: BadHost, connection: socket.socket) -> None:
    read_request(connection)
    host.pause(600)


def _read_nothing(host: BadHost, connection: socket.socket) -> None:
    host.pause(600)


def _endless_chunks(host: BadHost, connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(chunked(end=b"1\r\n[\r\n"))
    while True:
        connection.sendall(b"1\r\n \r\n")
        host.pause(0.2)


def _endless_pages(host: BadHost, connection: socket.socket) -> None:
    for number in itertools.count():
        read_request(connection)
        page = {"items": [{"id": f"{id(connection)}-{number}"}], "queryMore": f"cursor-{number}"}
        connection.sendall(answer(200, json.dumps(page).encode()))
        host.pages += 1
        host.pause(0.2)


BAD: dict[str, Callable[[BadHost, socket.socket], object]] = {
    "a byte at a time": _drip,
    "a head a byte at a time": _drip_head,
    "100 Continue for ever": _go_on,
    "silence": _be_silent,
    "accepts and reads nothing": _read_nothing,
    "a body without an end": _endless_chunks,
    "pages without an end": _endless_pages,
}


def _things_hang(host: BadHost, connection: socket.socket) -> None:
    while True:
        head = read_request(connection)
        if b"/custom/things" in head:
            host.hung += 1
            host.pause(600)
        connection.sendall(answer(200, order(head)))


@contextlib.contextmanager
def bad_host(what: str | Callable[[BadHost, socket.socket], object]) -> Iterator[BadHost]:
    """Serve one.

    :param what: a name in `BAD`; ``things alone`` for one that hangs for the list of things; or what it does.
    """
    host = BadHost(what if callable(what) else BAD.get(what, _things_hang))
    with raw_server(host.serve) as host.url:
        try:
            yield host
        finally:
            host.over.set()


class CountingHost:
    """A Limio that takes one secret, and knows which sockets are open and which token each was last used with.

    An order is there as soon as it is told.
    """

    def __init__(self) -> None:
        self.url = ""
        self.secret = "the-first-secret"
        self.minted = 0
        self.good: set[str] = set()
        """Tokens that are taken."""
        self.there = threading.Event()
        self.hold = threading.Event()
        """Set while objects are answered; cleared, requests for them wait."""
        self.hold.set()
        self.asked: Counter[str] = Counter()
        """Requests for objects, by token."""
        self.waiting = 0
        self._tokens: dict[int, str] = {}
        self._lock = threading.Lock()

    def connection(self, **extra: Any) -> str:
        return json.dumps(
            {"conn_type": "limio", "host": self.url, "login": "somebody", "password": self.secret, "extra": extra or None}
        )

    def open(self, token: str | None = None) -> int:
        """Count the open sockets, or those that were last used with a token."""
        with self._lock:
            return sum(token is None or one == token for one in self._tokens.values())

    def serve(self, connection: socket.socket) -> None:
        me = id(connection)
        with self._lock:
            self._tokens[me] = ""
        try:
            while True:
                connection.sendall(self._answer(me, *read_whole_request(connection)))
        finally:
            with self._lock:
                del self._tokens[me]

    def _answer(self, me: int, head: bytes, body: bytes) -> bytes:
        if b"/token" in head.split(b"\r\n", 1)[0]:
            if parse_qs(body.decode())["client_secret"] != [self.secret]:
                return answer(401, b'{"error":"invalid_client"}')
            with self._lock:
                self.minted += 1
                token = f"token-{self.minted}-1234567890"
                self.good.add(token)
            return answer(200, json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": 3600}).encode())
        [line] = [line for line in head.split(b"\r\n") if line.lower().startswith(b"authorization:")]
        token = line.split()[-1].decode()
        with self._lock:
            self._tokens[me] = token
            self.asked[token] += 1
            self.waiting += 1
        self.hold.wait(60)
        with self._lock:
            self.waiting -= 1
        if token not in self.good:
            return answer(401, b"{}")
        return answer(200, order(head)) if self.there.is_set() else answer(404, b"{}")


@contextlib.contextmanager
def counting_host() -> Iterator[CountingHost]:
    host = CountingHost()
    with raw_server(host.serve) as host.url:
        try:
            yield host
        finally:
            host.hold.set()
