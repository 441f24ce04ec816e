# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What `aiohttp` is given for connections, requests and responses: they know which response belongs to which request."""

from __future__ import annotations

import asyncio
import inspect
import select
from collections import deque
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter

from limio_limitrail.api.responses import ConnectionRecord, Provenance

if TYPE_CHECKING:
    import yarl
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection

_MAX_RESTING = 32
"""Connections that may rest at once, besides those in use."""
_TAKES_WRITER = "stream_writer" in inspect.signature(aiohttp.ClientResponse).parameters
"""Whether this version of aiohttp gives a response what wrote its request."""


class UnsolicitedDataError(aiohttp.ClientConnectionError):
    """A server sent data, or closed the connection, before the request was sent."""


class TrackedConnection(ResponseHandler):
    """A connection that knows when a response may come over it.

    aiohttp itself takes what came while a connection was idle for the response to the next request, even before that is sent.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.record = ConnectionRecord()
        self._responses = 0
        self._in_use = False
        self._poll = select.poll()
        self._quiet_since: float | None = None
        self._alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to see whether anything waits to be read."""
        super().connection_made(transport)
        # Registered once: each request asks for it.
        self._poll.register(transport.get_extra_info("socket"), select.POLLIN)

    def set_response_params(self, **params: Any) -> None:
        """Expect a response: a request is about to be sent."""
        self.record.requests += 1
        self._in_use = True
        super().set_response_params(**params)

    def finish(self) -> None:
        """Expect nothing more."""
        self._in_use = False

    def data_received(self, data: bytes) -> None:
        if data and not self._in_use:
            self.record.surplus = True
            self.close()
            return
        super().data_received(data)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Count the head of a response."""
        if data[0].code >= 200:
            self._responses += 1
            self.record.surplus = self.record.surplus or self._responses > self.record.requests
        super().feed_data(data, size)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the alarm, besides what aiohttp does."""
        super().connection_lost(exc)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _reschedule_timeout(self) -> None:
        # One timer for a connection, which looks how long nothing has come: aiohttp makes two for each request.
        if self._read_timeout:
            self._quiet_since = self._loop.time()
            if self._alarm is None:
                self._alarm = self._loop.call_later(self._read_timeout, self._check_quiet)

    def _drop_timeout(self) -> None:
        self._quiet_since = None

    def _check_quiet(self) -> None:
        self._alarm = None
        if self._quiet_since is None or not self._read_timeout:
            return
        left = self._quiet_since + self._read_timeout - self._loop.time()
        if left > 0:
            self._alarm = self._loop.call_later(left, self._check_quiet)
        else:
            self._on_read_timeout()

    @property
    def is_unfit(self) -> bool:
        """Whether no further request may be sent over it, as far as is known."""
        return self.record.surplus or self.record.distrusted or self.should_close or not self.is_connected()

    @property
    def has_more(self) -> bool:
        """Whether anything waits to be read, or the connection was closed."""
        assert self.transport is not None
        if not self.record.requests and self.transport.get_extra_info("sslcontext") is not None:
            return False  # most likely what TLS itself sends behind its handshake
        return bool(self._poll.poll(0))


class TrackedConnector(aiohttp.TCPConnector):
    """Makes and pools connections.

    :param connections: the most that are in use at once.
    :param rest: seconds in which a connection is not used again after a response, so that a second one is noticed before the
        next request is sent. There are then more connections than requests in flight.
    """

    def __init__(self, *, connections: int, rest: float, ssl: Any) -> None:
        super().__init__(limit=connections + (_MAX_RESTING if rest else 0), ssl=ssl)
        self._rest = rest
        self._resting: deque[tuple[float, ConnectionKey, ResponseHandler]] = deque()
        self._factory: Any = lambda: TrackedConnection(self._loop)

    async def connect(self, *args: Any, **kwargs: Any) -> Connection:
        """Return a connection over which nothing unrequested has come, or raise `UnsolicitedDataError`."""
        # Not by timers: the loop would wake up for each of them.
        while self._resting and self._resting[0][0] <= self._loop.time():
            self._end_rest()
        while True:
            connection = await super().connect(*args, **kwargs)
            tracked = connection.protocol
            assert isinstance(tracked, TrackedConnection)
            if not (tracked.is_unfit or tracked.has_more):
                connection.add_callback(tracked.finish)
                return connection
            try:
                # The loop reads what waits, and sees whether it is a response or the end: the response before is in doubt then.
                for _ in range(2):
                    await asyncio.sleep(0)
            finally:
                connection.close()
            if not tracked.record.requests:
                raise UnsolicitedDataError

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        if not self._rest or should_close or protocol.should_close:
            super()._release(key, protocol, should_close=should_close)
            return
        self._resting.append((self._loop.time() + self._rest, key, protocol))
        if len(self._resting) > _MAX_RESTING:
            self._end_rest()

    def _end_rest(self) -> None:
        _, key, protocol = self._resting.popleft()
        super()._release(key, protocol, should_close=isinstance(protocol, TrackedConnection) and protocol.is_unfit)


class ShortRequest(aiohttp.ClientRequest):
    """A POST of bytes is written at once, together with its headers; aiohttp itself starts a task for each body.

    Its headers are those that it is given, Host and Content-Length.
    """

    def __init__(self, method: str, url: yarl.URL, *, data: Any = None, **settings: Any) -> None:
        self._content: bytes | None = data if method == "POST" and isinstance(data, bytes) else None
        super().__init__(method, url, data=None if self._content is not None else data, **settings)

    def update_headers(self, headers: Any) -> None:
        """Take the headers."""
        super().update_headers(headers)
        if self._content is not None:
            self.headers["Content-Length"] = str(len(self._content))

    def update_auto_headers(self, skip_auto_headers: Any) -> None:
        """Add no header of aiohttp's own to a short request."""
        if self._content is None:
            super().update_auto_headers(skip_auto_headers)

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Write the request, and return its response, which has not begun."""
        if self._content is None:
            return await super().send(conn)
        protocol = conn.protocol
        assert protocol is not None
        writer = StreamWriter(protocol, self.loop)
        target = str(self.url) if self.proxy and not self.is_ssl() else self.url.raw_path_qs
        await writer.write_headers(f"POST {target} HTTP/1.1", self.headers)
        await writer.write_eof(self._content)
        protocol.start_timeout()
        self.response = self.response_class(
            self.method,
            self.original_url,
            writer=None,
            continue100=None,
            timer=self._timer,
            request_info=self.request_info,
            traces=[],
            loop=self.loop,
            session=self._session,
            **({"stream_writer": writer} if _TAKES_WRITER else {}),
        )
        return self.response


class TrackedResponse(aiohttp.ClientResponse):
    provenance: Provenance

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        tracked = connection.protocol
        assert isinstance(tracked, TrackedConnection)
        self.provenance = Provenance(connection=tracked.record, number=tracked.record.requests)
        return await super().start(connection)
