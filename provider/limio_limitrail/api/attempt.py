# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What one try of a request does next, for whoever holds the socket: a generator yields what it needs and is sent what came.

The same steps are taken by a thread, which waits, and by an event loop, which does other things in the meantime.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias, TypeVar, cast

from limio_limitrail.api.errors import RequestContext
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.transport import Body, RawAnswer
from limio_limitrail.bare_errors import raises_bare, raises_bare_async

T = TypeVar("T")


class Need(Enum):
    """What a step may need besides an answer."""

    CREDENTIAL = "credential"


CREDENTIAL = Need.CREDENTIAL
"""The step needs the credential that is valid now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The step needs the answer to this.

    :param method: the HTTP method.
    :param url: where it goes.
    :param headers: its headers, the credential among them as a `Secret`.
    :param call: what errors say about the call.
    :param params: the query.
    :param body: what it carries.
    """

    method: str
    url: str
    headers: Mapping[str, str | Secret]
    call: RequestContext
    params: Mapping[str, str] | None
    body: Body

    def wire(self) -> dict[str, Any]:
        """Give what an exchange takes."""
        return {
            "method": self.method,
            "url": self.url,
            "headers": self.headers,
            "call": self.call,
            "params": self.params,
            "body": self.body,
        }


Steps: TypeAlias = Generator[Need | Request, Any, T]


@raises_bare
def take(steps: Steps[T], *, exchange: Callable[..., RawAnswer], credential: Callable[[], Secret]) -> T:
    """Take the steps of a try, waiting for each.

    :param exchange: sends a request and gives its answer, as `Transport.exchange` does.
    :param credential: gives the credential.
    :raises ApiError: what they end with.
    """
    try:
        step = next(steps)
        while True:
            step = steps.send(exchange(**step.wire()) if isinstance(step, Request) else credential())
    except StopIteration as done:
        return cast("T", done.value)


@raises_bare_async
async def take_async(
    steps: Steps[T], *, exchange: Callable[..., Awaitable[RawAnswer]], credential: Callable[[], Awaitable[Secret]]
) -> T:
    """Take the steps of a try, awaiting each.

    :param exchange: sends a request and gives its answer, as `AsyncTransport.exchange` does.
    :param credential: gives the credential.
    :raises ApiError: what they end with.
    """
    try:
        step = next(steps)
        while True:
            step = steps.send(await exchange(**step.wire()) if isinstance(step, Request) else await credential())
    except StopIteration as done:
        return cast("T", done.value)
