# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""An `ApiClient` for an event loop: the same requests, judged and tried again in the same way, many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from limio_limitrail.api.attempt import take_async
from limio_limitrail.api.client import Answer, ApiClient, usual_repeat
from limio_limitrail.api.retry import Repeat, RetryLimits, call_with_retries_async

if TYPE_CHECKING:
    from limio_limitrail.api.secret import Secret
    from limio_limitrail.api.transport import RawAnswer


class AsyncWire(Protocol):
    """What answers come over: an `AsyncTransport`."""

    @property
    def exchange(self) -> Callable[..., Awaitable[RawAnswer]]:
        """What sends a request and gives its answer."""

    async def close(self) -> None:
        """Close all connections."""


class AsyncApiClient:
    """Send requests to one API out of one event loop.

    :param parent: says where they go and with which credential, and counts them.
    :param wire: what they go over.
    """

    def __init__(self, parent: ApiClient, *, wire: AsyncWire) -> None:
        self.parent = parent
        self._wire = wire

    async def send(
        self,
        *,
        method: str = "GET",
        path: str,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        resource: str | None = None,
        scope: str | None = None,
        idempotency_key: str | None = None,
        repeat: Repeat | None = None,
        limits: RetryLimits | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> Answer:
        """Send one request and give its answer; the parameters and errors are those of `ApiClient.send`."""
        attempt = self.parent.attempts(
            method=method,
            path=path,
            params=params,
            content=content,
            headers=headers,
            resource=resource,
            scope=scope,
            idempotency_key=idempotency_key,
        )
        return await call_with_retries_async(
            lambda: take_async(attempt(), exchange=self._wire.exchange, credential=self._credential),
            limits=limits or self.parent.limits,
            repeat=repeat or usual_repeat(method, idempotency_key),
            sleep=sleep,
            on_retry=self.parent.count_retry,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._wire.close()

    async def _credential(self) -> Secret:
        """Give the credential that is valid now. A token is minted in another thread: the loop has other things to do."""
        there = self.parent.auth.cached()
        return await asyncio.to_thread(self.parent.credential) if there is None else there
