# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One attempt of a request: a generator that yields I/O requests, which the sync and async drivers execute."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, cast
from urllib.parse import urljoin, urlsplit

from limio_limitrail.api.errors import ProtocolError, RequestContext
from limio_limitrail.api.origin import origin_of
from limio_limitrail.api.redact import holds_secret, safe_text
from limio_limitrail.api.responses import Response
from limio_limitrail.api.secret import Secret
from limio_limitrail.bare_errors import raises_bare, raises_bare_async
from limio_limitrail.url_paths import unfit_target

T = TypeVar("T")

SAFE_METHODS = frozenset({"GET", "HEAD"})
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Exchange(TypedDict):
    """The parameters of `Transport.exchange` and `AsyncTransport.exchange` that every request has."""

    method: str
    url: str
    headers: Mapping[str, str | Secret]
    context: RequestContext
    params: Mapping[str, str] | None
    json: object
    content: bytes | None


Attempt: TypeAlias = Generator[Exchange | Literal["credential"], Any, T]
"""Yields what to exchange, and is sent the `Response`; or ``"credential"``, and is sent the `Secret` that is valid now."""


@raises_bare
def run_attempt(attempt: Attempt[T], *, exchange: Callable[..., Response], credential: Callable[[], Secret]) -> T:
    """Execute an attempt, blocking on each step.

    :param exchange: sends a request, as `Transport.exchange` does.
    :param credential: returns the credential.
    :raises ApiError: the attempt failed.
    """
    try:
        step = next(attempt)
        while True:
            step = attempt.send(credential() if step == "credential" else exchange(**step))
    except StopIteration as done:
        return cast("T", done.value)


@raises_bare_async
async def run_attempt_async(
    attempt: Attempt[T], *, exchange: Callable[..., Awaitable[Response]], credential: Callable[[], Awaitable[Secret]]
) -> T:
    """Execute an attempt, awaiting each step: `run_attempt` for an event loop."""
    try:
        step = next(attempt)
        while True:
            step = attempt.send(await credential() if step == "credential" else await exchange(**step))
    except StopIteration as done:
        return cast("T", done.value)


def unfit_request(method: str, headers: Mapping[str, str]) -> str | None:
    """Return why a request cannot be sent, where the two HTTP libraries would do different things with it; None where it can."""
    if not _is_token(method):
        return "its method is not a token"
    for name, value in headers.items():
        if not _is_token(name):
            return "a header's name is not a token"
        if not (value.isascii() and value.isprintable() and value == value.strip()):
            return f"its header {name!r} holds other characters than printable ASCII, or white space at an end"
    return None


@lru_cache(maxsize=256)
def _is_token(text: str) -> bool:
    return _TOKEN.fullmatch(text) is not None


def redirect_target(location: str, *, url: str, origin: str, context: RequestContext) -> str:
    """Return the URL that a redirect leads to.

    :param location: the ``Location`` header.
    :param url: the URL that was requested.
    :param origin: the only origin that credentials may be sent to.
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
