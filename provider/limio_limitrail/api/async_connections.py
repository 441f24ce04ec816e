# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Kept-alive connections of an event loop, which are used again only as long as nothing unrequested came over them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from urllib3.util.wait import wait_for_read

from limio_limitrail.api.responses import ConnectionRecord, Provenance

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection

_MAX_RESTING = 32
"""Connections that may rest at once, besides those in use."""


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
        return wait_for_read(self.transport.get_extra_info("socket"), timeout=0.0)


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
        """Return a connection over which nothing unrequested has come.

        :raises UnsolicitedDataError: something came over a new one.
        """
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


class TrackedResponse(aiohttp.ClientResponse):
    provenance: Provenance

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        tracked = connection.protocol
        assert isinstance(tracked, TrackedConnection)
        self.provenance = Provenance(connection=tracked.record, number=tracked.record.requests)
        return await super().start(connection)
