# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One attempt of a request, as a generator of what to exchange, and the redirects that it may follow.

The blocking driver and that of an event loop execute the same attempt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, Literal, TypeAlias, TypedDict, cast
from urllib.parse import urljoin, urlsplit

from msgspec.structs import replace

from limio_limitrail.api.errors import ProtocolError
from limio_limitrail.api.redact import holds_secret, safe_text
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.responses import Response
from limio_limitrail.api.secret import Secret
from limio_limitrail.bare_errors import raises_bare, raises_bare_async
from limio_limitrail.urls import origin_of, unfit_target

SAFE_METHODS = frozenset({"GET", "HEAD"})


class Exchange(TypedDict):
    """The parameters of `Transport.exchange` and `AsyncTransport.exchange` that every request has."""

    method: str
    url: str
    headers: Mapping[str, str | Secret]
    context: RequestContext
    params: Mapping[str, str] | None
    json: object
    content: bytes | None


Attempt: TypeAlias = Generator[Exchange | Literal["credential"], Any, Response]
"""Yields what to exchange, and is sent the `Response`; or ``"credential"``, and is sent the `Secret` that is valid now."""


@raises_bare
def run_attempt(attempt: Attempt, *, exchange: Callable[..., Response], credential: Callable[[], Secret]) -> Response:
    """Execute an attempt, blocking on each step: `exchange` sends a request, `credential` returns the credential."""
    try:
        step = next(attempt)
        while True:
            step = attempt.send(credential() if step == "credential" else exchange(**step))
    except StopIteration as done:
        return cast("Response", done.value)


@raises_bare_async
async def run_attempt_async(
    attempt: Attempt, *, exchange: Callable[..., Awaitable[Response]], credential: Callable[[], Awaitable[Secret]]
) -> Response:
    """Execute an attempt, awaiting each step."""
    try:
        step = next(attempt)
        while True:
            step = attempt.send(await credential() if step == "credential" else await exchange(**step))
    except StopIteration as done:
        return cast("Response", done.value)


def redirect_target(location: str, *, url: str, origin: str, context: RequestContext) -> str:
    """Return the URL that the ``Location`` header of a response leads to.

    :raises ProtocolError: the target is on another origin, has an unfit path or repeats a credential, or a write is redirected.
    """
    try:
        target = urljoin(url, location)
        target_origin = origin_of(target)
    except ValueError:
        raise ProtocolError(replace(context, reason="a redirect whose target cannot be read")) from None
    reason = None
    if target_origin != origin:
        where = safe_text(target_origin)
        reason = f"a redirect to another origin ({where}), which is not followed: credentials stay on {origin}"
    elif (unfit := unfit_target(location, path=urlsplit(target).path)) is not None:
        reason = f"a redirect whose path cannot be followed: {unfit}"
    elif holds_secret(location):
        reason = "a redirect that repeats a credential, which is not followed"
    elif context.method not in SAFE_METHODS:
        reason = "a redirect of a write, which is not followed"
    if reason is not None:
        raise ProtocolError(replace(context, reason=reason))
    return urlsplit(target)._replace(fragment="").geturl()
