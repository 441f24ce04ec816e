# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""An `ApiClient` for an event loop: the same requests, classified and retried in the same way, many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Unpack

from limio_limitrail.api.attempt import run_attempt_async
from limio_limitrail.api.client import ApiClient, RequestParams, default_repeat
from limio_limitrail.api.retry import Repeat, RetryLimits, call_with_retries_async

if TYPE_CHECKING:
    from limio_limitrail.api.async_transport import AsyncTransport
    from limio_limitrail.api.responses import Response
    from limio_limitrail.api.secret import Secret


class AsyncApiClient:
    """Send requests to one API from one event loop.

    :param parent: has the base URL, the credential and the counters.
    :param transport: sends the requests.
    """

    def __init__(self, parent: ApiClient, *, transport: AsyncTransport) -> None:
        self.parent = parent
        self._transport = transport

    async def send(
        self,
        *,
        repeat: Repeat | None = None,
        limits: RetryLimits | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        **request: Unpack[RequestParams],
    ) -> Response:
        """Send one request and return its response; the parameters and errors are those of `ApiClient.send`."""
        new_attempt = self.parent.attempts(**request)
        return await call_with_retries_async(
            lambda: run_attempt_async(new_attempt(), exchange=self._transport.exchange, credential=self._credential),
            limits=limits or self.parent.limits,
            repeat=repeat or default_repeat(request),
            sleep=sleep,
            on_retry=self.parent.count_retry,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def _credential(self) -> Secret:
        """Return the credential that is valid now. A token is minted in a thread, so that the loop is not blocked."""
        cached = self.parent.auth.cached()
        return await asyncio.to_thread(self.parent.credential) if cached is None else cached
