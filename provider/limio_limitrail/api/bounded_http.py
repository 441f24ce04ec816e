# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Keep `requests` within a total time and a number of bytes, whatever a server does.

`requests` limits how long a socket may be silent, but not how long a response may take: a byte each second is a response that
never ends. Whatever is read from a socket here, from the proxy's first byte to the last chunk's trailer, comes through
`_BoundedStream`, which shortens the socket's timeout as the deadline comes closer.
"""

from __future__ import annotations

import http.client
import io
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import requests
import requests.adapters

from limio_limitrail.api.secret import Sealed

_RECORD = 1 << 14
"""Bytes that are written at a time: one TLS record, because a socket's timeout holds for each of them."""

_PIECE = 1 << 20
"""Bytes that are read at a time where no Content-Length is known."""


class TooManyBytesError(OSError):
    """A response is larger than the bound."""


class ResponseBounds:
    """The time and the bytes that one response may take, and what is left of them.

    :param seconds: from now until the last byte has been read.
    :param max_bytes: the largest body.
    """

    def __init__(self, *, seconds: float, max_bytes: float) -> None:
        self.deadline = time.monotonic() + seconds
        self.max_bytes = max_bytes
        self.connect_failed = False
        """Whether there was no connection, so that no byte of the request was sent."""
        # Chunks have headers of their own, six bytes for each that they hold at worst, and so has the response.
        self._bytes_left = 8 * max_bytes + (1 << 20)

    @property
    def timed_out(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.deadline

    def limit_time(self, seconds: float) -> None:
        """Bring the deadline forward to so many seconds from now on."""
        self.deadline = min(self.deadline, time.monotonic() + seconds)

    def lift(self) -> None:
        """Remove all bounds from the rest of the response."""
        self.deadline = self._bytes_left = self.max_bytes = math.inf

    def check_time(self) -> None:
        """Raise `TimeoutError` if there is no time left."""
        if self.timed_out:
            raise TimeoutError

    def shorten_timeout(self, sock: Any) -> None:
        """Limit the next operation of a socket to the time that is left; raise `TimeoutError` if there is none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        timeout = sock.gettimeout()
        if timeout is None or timeout > left:
            sock.settimeout(left)

    def count(self, received: int) -> None:
        """Count bytes that have come; raise `TooManyBytesError` if they are too many."""
        self._bytes_left -= received
        if self._bytes_left < 0:
            raise TooManyBytesError

    @contextmanager
    def connect_within(self, seconds: object) -> Iterator[None]:
        """Bring the deadline forward until there is a connection. Anything but a number of seconds is no bound."""
        deadline = self.deadline
        if isinstance(seconds, int | float):
            self.limit_time(seconds)
        try:
            yield
        except BaseException:
            self.connect_failed = True
            raise
        finally:
            self.deadline = deadline


_BOUNDS: ContextVar[ResponseBounds | None] = ContextVar("limio_limitrail.response_bounds", default=None)


@contextmanager
def within(bounds: ResponseBounds) -> Iterator[None]:
    """Apply bounds to everything that this thread sends and reads inside."""
    token = _BOUNDS.set(bounds)
    try:
        yield
    finally:
        _BOUNDS.reset(token)


def read_body(raw: Any, *, max_bytes: float) -> bytes:
    """Return the rest of a response, as it came; raise `TooManyBytesError` if it, or its Content-Length, is above the bound."""
    # urllib3 would make decoders, and refuse some bodies, though it is to decode none.
    raw.headers.pop("Content-Encoding", None)
    if (length := raw.length_remaining) is not None:
        if length > max_bytes:
            raise TooManyBytesError
        # As a whole: it is read into one buffer, and a body that ends early is noticed.
        return bytes(raw.read(decode_content=False))
    pieces = []
    size = 0
    while piece := raw.read(_PIECE, decode_content=False):
        pieces.append(piece)
        size += len(piece)
        if size > max_bytes:
            raise TooManyBytesError
        if raw.chunked and len(piece) < _PIECE:
            break
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class BoundedAdapter(requests.adapters.HTTPAdapter):
    """Applies bounds to every request: those of `within`, else its own.

    :param connect: seconds until a connection is made, where the request does not say.
    :param read: seconds between two pieces of a response, where the request does not say.
    :param total: seconds for one response.
    :param max_bytes: the largest body.
    :param connections: the most connections to one host that are kept open.
    """

    def __init__(self, *, connect: float, read: float, total: float, max_bytes: int, connections: int) -> None:
        super().__init__(pool_connections=4, pool_maxsize=connections)
        self._timeout = (connect, read)
        self._total = total
        self._max_bytes = max_bytes

    @property
    def proxy_manager(self) -> Any:
        """The pools of connections through proxies, by their URLs, which may hold passwords."""
        return self._through_proxies.open()

    @proxy_manager.setter
    def proxy_manager(self, managers: Any) -> None:
        self._through_proxies = Sealed(managers)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _bound(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not known:
            _bound(manager)
        return manager

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = self._timeout
        if _BOUNDS.get() is not None:
            return super().send(request, **kwargs)
        bounds = ResponseBounds(seconds=self._total, max_bytes=self._max_bytes)
        with within(bounds):
            response = super().send(request, **kwargs)
        if kwargs.get("stream"):
            bounds.lift()
        else:
            self._read(response)
        return response

    def _read(self, response: requests.Response) -> None:
        """Read a body where `requests` would, without a bound; raise if it is larger than allowed, or ended early."""
        pieces = []
        size = 0
        length = response.raw.length_remaining or 0
        for piece in response.iter_content(_PIECE) if length <= self._max_bytes else [b""]:
            pieces.append(piece)
            size += len(piece)
            if max(size, length) > self._max_bytes:
                response.close()
                raise requests.exceptions.RequestException(
                    f"the response is larger than {self._max_bytes / 1e6:g} MB, the connection's max_response_mb; "
                    "with stream=True it can be read in pieces",
                    response=response,
                )
        response._content = b"".join(pieces)  # noqa: SLF001 - where requests keeps it, as libraries that replay responses do


def _bound(manager: Any) -> None:
    manager.pool_classes_by_scheme = {scheme: _bounded_pool(pool) for scheme, pool in manager.pool_classes_by_scheme.items()}


@cache
def _bounded_pool(pool: Any) -> Any:
    """Derive a bounded class from one of urllib3's classes of connection pools."""
    connection = type(f"Bounded{pool.ConnectionCls.__name__}", (_BoundedConnection, pool.ConnectionCls), {})
    return type(f"Bounded{pool.__name__}", (pool,), {"ConnectionCls": connection})


class _BoundedStream(io.RawIOBase):
    """Reads from a socket within bounds."""

    def __init__(self, raw: Any, *, sock: Any, bounds: ResponseBounds) -> None:
        self._raw = raw
        self._sock = sock
        self._bounds = bounds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        self._bounds.shorten_timeout(self._sock)
        received: int | None = self._raw.readinto(buffer)
        self._bounds.count(received or 0)
        return received

    def close(self) -> None:
        if not self.closed:
            try:
                self._raw.close()
            finally:
                super().close()


class _BoundedResponse(http.client.HTTPResponse):
    """Reads a response, or a proxy's response to CONNECT, within the bounds that apply where it begins."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        if (bounds := _BOUNDS.get()) is not None:
            self.fp: Any = io.BufferedReader(_BoundedStream(self.fp.detach(), sock=sock, bounds=bounds))

    def begin(self) -> None:
        """Read the head. What http.client would ignore here makes it take something else for the body than was meant."""
        begun = self.headers is not None
        super().begin()
        if begun:
            return
        if self.headers.get_payload():
            raise http.client.HTTPException  # a line that is no header, behind which all others were left out
        self.headers.defects.clear()  # urllib3 would log them, with what the API said
        encodings = self.headers.get("Transfer-Encoding", "chunked").strip().lower()
        if encodings not in ("chunked", "identity"):
            raise http.client.UnknownTransferEncoding
        lengths = {length.strip() for length in self.headers.get("Content-Length", "0").split(",")}
        if not self.chunked and not (len(lengths) == 1 and all(length.isdecimal() for length in lengths)):
            raise http.client.HTTPException

    def _read_status(self) -> tuple[str, int, str]:
        """Read the final status line: http.client passes over 100 alone, and in a tunnel not even over that."""
        while True:
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if found[1] >= http.HTTPStatus.OK or found[1] == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return found
            http.client.parse_headers(self.fp)

    def _read_next_chunk_size(self) -> int:
        size: int = super()._read_next_chunk_size()  # type: ignore[misc]
        if size < 0:
            # http.client would read on until the connection ends.
            raise ValueError
        return size


class _BoundedConnection:
    """Connects and sends within bounds. A mixin of urllib3's connection classes."""

    response_class = _BoundedResponse
    sock: Any
    timeout: Any
    auto_open: int

    def connect(self) -> None:
        bounds = _BOUNDS.get()
        if bounds is None:
            super().connect()  # type: ignore[misc]
            return
        # urllib3 has a timeout for each step of this, so that a slow handshake or proxy could take many of them.
        with bounds.connect_within(self.timeout):
            super().connect()  # type: ignore[misc]

    def _new_conn(self) -> Any:
        sock = super()._new_conn()  # type: ignore[misc]
        try:
            if (bounds := _BOUNDS.get()) is not None:
                bounds.shorten_timeout(sock)
        except TimeoutError:
            sock.close()
            raise
        return sock

    def send(self, data: Any) -> None:
        bounds = _BOUNDS.get()
        if bounds is None:
            super().send(data)  # type: ignore[misc]
            return
        if self.sock is None and self.auto_open:
            self.connect()
        for piece in _records(data):
            bounds.shorten_timeout(self.sock)
            super().send(piece)  # type: ignore[misc]


def _records(data: Any) -> Iterator[Any]:
    if not isinstance(data, bytes) or len(data) <= _RECORD:
        yield data
        return
    whole = memoryview(data)
    for start in range(0, len(data), _RECORD):
        yield whole[start : start + _RECORD]
