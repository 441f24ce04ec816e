# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What `aiohttp` is given for connections and responses: they know which response belongs to which request."""

from __future__ import annotations

import asyncio
import select
from collections import deque
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError

from limio_limitrail.api.responses import ConnectionRecord, Provenance

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection

_MAX_RESTING = 32
"""Connections that may rest at once, besides those in use."""

_KEEP_ALIVE = 15.0
"""Seconds after which a connection that has rested is closed and not used again, as aiohttp closes those of its pool."""


_LONGEST_LINE = 1 << 16
"""Bytes of the longest status line or header, as `http.client` has it for a `Transport`."""

_SWITCHING = 101
"""The only status below 200 after which nothing further comes."""


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
        self._deadline: float | None = None
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
        super().set_response_params(**{**params, "max_line_size": _LONGEST_LINE, "max_field_size": _LONGEST_LINE})

    def write(self, request: bytes, *, read_timeout: float, total: float) -> None:
        """Send a whole request, and expect its response.

        :param read_timeout: seconds between two pieces of the response.
        :param total: seconds until its last byte.
        """
        assert self.transport is not None
        self.set_response_params(read_until_eof=True, auto_decompress=False, read_timeout=read_timeout)
        self.transport.write(request)
        self._deadline = self._loop.time() + total
        if self._alarm is not None and self._alarm.when() > self._deadline:
            self._alarm.cancel()
            self._alarm = None
        self.start_timeout()

    def finish(self) -> None:
        """Expect nothing more."""
        self._in_use = False
        self._deadline = None

    def data_received(self, data: bytes) -> None:
        if data and not self._in_use:
            self.record.surplus = True
            self.close()
            return
        super().data_received(data)
        if self._in_use and self._quiet_since is None and self._responses < self.record.requests and not self._exception:
            # After an interim response, aiohttp would wait for the final one without a bound.
            self._reschedule_timeout()

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """End the response that is being read, if any: whoever awaits its body is not told by aiohttp what is wrong with it."""
        payload = self._payload
        if payload is not None and not payload.is_eof():
            if payload.exception() is None:
                payload.set_exception(exc if isinstance(exc, TimeoutError) else aiohttp.ClientPayloadError())
        elif isinstance(exc, HttpProcessingError) and self._responses >= self.record.requests:
            # It came behind a response that was complete.
            self.record.surplus = True
        super().set_exception(exc, *cause)

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
                self._set_alarm()

    def _drop_timeout(self) -> None:
        self._quiet_since = None

    def _set_alarm(self) -> None:
        ends = [] if self._deadline is None else [self._deadline]
        if self._quiet_since is not None and self._read_timeout:
            ends.append(self._quiet_since + self._read_timeout)
        self._alarm = self._loop.call_at(min(ends), self._check_time) if ends else None

    def _check_time(self) -> None:
        now = self._loop.time()
        if self._deadline is not None and now >= self._deadline:
            self._time_out(TimeoutError())
        elif self._quiet_since is not None and self._read_timeout and now >= self._quiet_since + self._read_timeout:
            self._time_out(aiohttp.SocketTimeoutError())
        else:
            self._set_alarm()

    def _time_out(self, error: Exception) -> None:
        self._alarm = self._deadline = None
        self.set_exception(error)

    @property
    def is_unfit(self) -> bool:
        """Whether no further request may be sent over it, as far as is known."""
        return self.record.surplus or self.record.distrusted or self.should_close or not self.is_connected()

    @property
    def is_ready(self) -> bool:
        """Whether a request may be sent over it now."""
        return not (self.is_unfit or self._has_more)

    @property
    def _has_more(self) -> bool:
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
        self._resting: deque[tuple[float, ConnectionKey, TrackedConnection]] = deque()
        self._factory: Any = lambda: TrackedConnection(self._loop)

    async def connect(self, *args: Any, **kwargs: Any) -> Connection:
        """Return a connection over which nothing unrequested has come, or raise `UnsolicitedDataError`."""
        # Not by timers: the loop would wake up for each of them.
        while self._resting and (self._resting[0][0] <= self._loop.time() or len(self._resting) > _MAX_RESTING):
            self._end_rest()
        while True:
            connection = await super().connect(*args, **kwargs)
            tracked = connection.protocol
            assert isinstance(tracked, TrackedConnection)
            if tracked.is_ready:
                connection.add_callback(tracked.finish)
                return connection
            try:
                await _read_what_waits()
            finally:
                connection.close()
            if not tracked.record.requests:
                raise UnsolicitedDataError

    async def take_rested(self, origin: tuple[str, int, bool]) -> RestedConnection | None:
        """Return a connection that has rested, for a request that is written as a whole; None if there is none.

        :param origin: host, port, and whether it is secure. There must be no proxy.
        """
        while self._resting:
            until, key, tracked = self._resting[0]
            now = self._loop.time()
            if (until > now and len(self._resting) <= _MAX_RESTING) or key[:3] != origin:
                return None
            self._resting.popleft()
            connection = RestedConnection(self, key=key, tracked=tracked)
            if tracked.is_ready and now - until <= _KEEP_ALIVE:
                return connection
            try:
                await _read_what_waits()
            finally:
                connection.release(should_close=True)
        return None

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        if self._rest and not should_close and not protocol.should_close and isinstance(protocol, TrackedConnection):
            self._resting.append((self._loop.time() + self._rest, key, protocol))
        else:
            super()._release(key, protocol, should_close=should_close)

    def _end_rest(self) -> None:
        until, key, tracked = self._resting.popleft()
        super()._release(key, tracked, should_close=tracked.is_unfit or self._loop.time() - until > _KEEP_ALIVE)


async def _read_what_waits() -> None:
    """Let the loop read what waits, and see whether it is a response or the end: the response before is in doubt then."""
    for _ in range(2):
        await asyncio.sleep(0)


class RestedConnection:
    """A connection of the pool that is in use without aiohttp's session.

    It carries a request that is written at once. aiohttp's session makes objects, a task and timers for each request, which
    takes longer than all the rest.
    """

    __slots__ = ("_connector", "_is_released", "_key", "tracked")

    def __init__(self, connector: TrackedConnector, *, key: ConnectionKey, tracked: TrackedConnection) -> None:
        self._connector = connector
        self._key = key
        self._is_released = False
        self.tracked = tracked

    async def exchange(self, request: bytes, *, read_timeout: float, total: float) -> RestedResponse:
        """Send a request, and return its response as soon as its headers have come.

        :raises aiohttp.ClientError: none came.
        :raises TimeoutError: none came in time.
        """
        try:
            self.tracked.write(request, read_timeout=read_timeout, total=total)
            provenance = Provenance(connection=self.tracked.record, number=self.tracked.record.requests)
            while True:
                message, content = await self.tracked.read()
                if message.code >= 200 or message.code == _SWITCHING:
                    break
        except BaseException as error:
            self.release(should_close=True)
            if isinstance(error, HttpProcessingError):
                raise aiohttp.ClientPayloadError from None
            raise
        content.on_eof(self.release)
        return RestedResponse(
            status=message.code, headers=message.headers, content=content, provenance=provenance, connection=self
        )

    def release(self, *, should_close: bool = False) -> None:
        """Return it to the pool, or close it."""
        if not self._is_released:
            self._is_released = True
            self.tracked.finish()
            self._connector._release(self._key, self.tracked, should_close=should_close or self.tracked.upgraded)  # noqa: SLF001


class RestedResponse(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A response whose headers have come: of `aiohttp.ClientResponse` what is needed here."""

    status: int
    headers: Any
    content: Any
    provenance: Provenance
    connection: RestedConnection

    def close(self) -> None:
        """Close its connection, unless it has come to its end."""
        self.connection.release(should_close=True)


class TrackedResponse(aiohttp.ClientResponse):
    provenance: Provenance

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        tracked = connection.protocol
        assert isinstance(tracked, TrackedConnection)
        self.provenance = Provenance(connection=tracked.record, number=tracked.record.requests)
        return await super().start(connection)
