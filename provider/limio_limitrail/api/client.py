# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The client of one API, blocking and for an event loop: authorize a request, send it, retry it, classify its response.

See `attempt` for how both kinds of client share one attempt.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Required, TypedDict, Unpack

import msgspec
from msgspec.structs import replace

from limio_limitrail.api.attempt import SAFE_METHODS, Attempt, Exchange, redirect_target, run_attempt, run_attempt_async
from limio_limitrail.api.auth import Auth
from limio_limitrail.api.errors import ApiError, InvalidRequestError, ProtocolError
from limio_limitrail.api.redact import guard_library_logs
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.resource import AuthMode
from limio_limitrail.api.responses import Response, classify
from limio_limitrail.api.retry import Repeat, RetryLimits, call_with_retries, call_with_retries_async
from limio_limitrail.api.secret import Sealed, Secret
from limio_limitrail.api.transport import Transport
from limio_limitrail.concurrency import after_fork
from limio_limitrail.urls import origin_of, unfit_path

if TYPE_CHECKING:
    import requests

    from limio_limitrail.api.async_transport import AsyncTransport

log = logging.getLogger(__name__)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OAUTH = frozenset({AuthMode.OAUTH})


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


@lru_cache(maxsize=64)
def _context(api: str, method: str, path: str, resource: str | None, scope: str | None) -> RequestContext:
    """Return what errors say about a request: the same for thousands of usage rows."""
    return RequestContext(api=api, method=method, path=path, resource=resource, required_scope=scope)


class RequestParams(TypedDict, total=False):
    """A request to an API. A ``path`` is required; the default method is GET."""

    method: str
    path: Required[str]
    """Below the base URL, beginning with a slash, percent-encoded."""
    shown_path: str | None
    """What messages have instead, if the path holds what nobody may see."""
    params: Mapping[str, str] | None
    """The query."""
    json: object
    """A body, sent as JSON."""
    content: bytes | None
    """A body that is JSON already, instead of `json`."""
    headers: Mapping[str, str] | None
    """Further headers."""
    resource: str | None
    """What errors call the requested resource."""
    scope: str | None
    """The scope that the endpoint needs, for the error on a 403."""
    credentials: frozenset[AuthMode]
    """The ways to authenticate that the endpoint accepts."""
    idempotency_key: str | None
    """Makes a write safe to repeat; sent as the header ``Idempotency-Key``."""


def _default_repeat(request: RequestParams) -> Repeat:
    """Return which failures of a request are retried where the caller does not say."""
    is_safe = request.get("method", "GET") in SAFE_METHODS or request.get("idempotency_key") is not None
    return Repeat.ANY if is_safe else Repeat.NONE


class RequestStats(msgspec.Struct):
    """What a client has done so far; it waited seconds between attempts, including those that the API asked for."""

    requests: int = 0
    retries: int = 0
    bytes: int = 0
    waited: float = 0.0


class ApiClient:
    """Send requests to one API with one credential over one session.

    :param api: the API's name, for messages.
    :param base_url: every path is appended to it; no other origin is ever requested.
    :param transport: the HTTP session, with its timeouts.
    :param auth: the source of credentials.
    :param limits: how often and how long a request is retried.
    :param sleep: waits that many seconds.
    """

    def __init__(
        self,
        *,
        api: str,
        base_url: str,
        transport: Transport,
        auth: Auth,
        limits: RetryLimits | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        guard_library_logs()
        self.api = api
        self.base_url = base_url.rstrip("/")
        self.transport = transport
        self.auth = auth
        self.limits = limits or RetryLimits()
        self.counters = RequestStats()
        self._origin = origin_of(base_url)
        self._sleep = sleep
        self.after_fork()
        after_fork(self)

    def after_fork(self) -> None:
        """Discard the parent's lock, which may be held, and its connections."""
        self._lock = threading.Lock()
        self._session: Sealed[requests.Session] | None = None

    def send(
        self,
        *,
        repeat: Repeat | None = None,
        limits: RetryLimits | None = None,
        sleep: Callable[[float], None] | None = None,
        on_retry: Callable[[float], None] | None = None,
        **request: Unpack[RequestParams],
    ) -> Response:
        """Send one request and return its response.

        Reads are retried as `RetryLimits` allows. A write is retried only if it carries an idempotency key, unless `repeat` says
        otherwise.

        :param repeat: which failures are retried.
        :param limits: retry limits of this request, instead of the client's.
        :param sleep: waits that many seconds between attempts, instead of the client's own; what it raises ends the request.
        :param on_retry: called before each retry with the seconds until then.
        :param request: the request, as `RequestParams` says.
        :raises ApiError: as `limio_limitrail.api.errors` lists them.
        """
        new_attempt = self.attempts(**request)

        def retried(seconds: float) -> None:
            self.count_retry(seconds)
            if on_retry is not None:
                on_retry(seconds)

        return call_with_retries(
            lambda: run_attempt(new_attempt(), exchange=self.transport.exchange, credential=self.credential),
            limits=limits or self.limits,
            repeat=repeat or _default_repeat(request),
            sleep=sleep or self._sleep,
            on_retry=retried,
        )

    def attempts(self, **request: Unpack[RequestParams]) -> Callable[[], Attempt]:
        """Return a function that begins an attempt of a request; raise `InvalidRequestError` if it cannot be sent."""
        method, path, content = request.get("method", "GET"), request["path"], request.get("content")
        shown_path = request.get("shown_path")
        resource, scope = request.get("resource"), request.get("scope")
        if shown_path is None:
            context = _context(self.api, method, path, resource, scope)
        else:
            context = RequestContext(
                api=self.api, method=method, path=shown_path, resource=resource, required_scope=scope, private=True
            )
        credentials = request.get("credentials", _OAUTH)
        if self.auth.mode not in credentials:
            accepted = " or ".join(sorted(credentials))
            reason = f"this endpoint accepts auth_mode={accepted} only, and the connection has {self.auth.mode}; nothing was sent"
            raise InvalidRequestError(replace(context, reason=reason))
        if (unfit := unfit_path(path)) is not None:
            raise InvalidRequestError(replace(context, path="", reason=f"the path cannot be sent: {unfit}"))
        headers = dict(request.get("headers") or {})
        if (key := request.get("idempotency_key")) is not None:
            headers["Idempotency-Key"] = key
        if content is not None:
            headers["Content-Type"] = "application/json"
        if (unfit := unfit_request(method, headers)) is not None:
            raise InvalidRequestError(replace(context, reason=f"the request cannot be sent: {unfit}"))
        exchange = Exchange(
            method=method,
            url=self.base_url + path,
            headers=headers,
            context=context,
            params=request.get("params") or {},
            json=request.get("json"),
            content=content,
        )
        return lambda: self._attempt(exchange)

    def session(self) -> requests.Session:
        """Return the session of `get_conn()`, which authorizes requests to the API's own origin only; always the same one."""
        with self._lock:
            if self._session is None:
                self._session = Sealed(self.transport.session(self.auth, self._origin))
            return self._session.open()

    def close(self) -> None:
        """Close all connections; the next request makes new ones."""
        self.transport.close()
        if self._session is not None:
            self._session.open().close()

    def count_retry(self, seconds: float) -> None:
        """Count a retry that is sent in so many seconds."""
        with self._lock:
            self.counters.retries += 1
            self.counters.waited += seconds

    def measure(self) -> Callable[[], dict[str, int | float]]:
        """Return a function that returns the requests, retries, tokens minted, seconds waited and seconds in all since now."""

        def counts() -> dict[str, int | float]:
            counters, minted = self.counters, getattr(self.auth, "minted", 0)
            done = {"requests": counters.requests, "retries": counters.retries, "tokens": minted}
            return done | {"waited": counters.waited, "seconds": time.monotonic()}

        before = counts()
        return lambda: {name: round(now - before[name], 3) for name, now in counts().items()}

    def credential(self) -> Secret:
        """Return the credential that is valid now, minting a token if there is none; an error says that nothing was sent."""
        try:
            return self.auth.credential()
        except ApiError as error:
            # Whatever became of the request for a token.
            error.context = replace(error.context, reached=False)
            raise

    def _attempt(self, exchange: Exchange) -> Attempt:
        """Make one attempt, which may send a second request after a 401, and a few more along redirects."""
        renewed = False
        while True:
            credential = yield "credential"
            authorized = exchange.copy()
            authorized["headers"] = {**exchange["headers"], "Authorization": self.auth.header(credential)}
            response = yield from self._follow(authorized)
            if response.is_success:
                return response
            error = classify(response, context=replace(exchange["context"], granted_scopes=self.auth.granted_scopes()))
            # A refusal that may be the response to another request says nothing of this one, which may have been carried out.
            is_its_own = response.provenance is None or not response.provenance.is_in_doubt
            if error.status == 401 and not renewed and is_its_own and self.auth.renew(credential):
                log.info("%s refused the token; minting another one.", self.api)
                renewed = True
                continue
            try:
                raise error
            finally:
                # The error holds this frame. If the frame held the error, both would stay until Python collects its garbage, for
                # which everything in a process stands still.
                del error

    def _follow(self, exchange: Exchange) -> Attempt:
        context = exchange["context"]
        for _ in range(_MAX_REDIRECTS + 1):
            response: Response = yield exchange
            with self._lock:
                self.counters.requests += 1
                self.counters.bytes += len(response.body)
            if response.status not in _REDIRECTS or "Location" not in response.headers:
                return response
            context = replace(context, status=response.status)
            location = response.headers["Location"]
            url = redirect_target(location, url=exchange["url"], origin=self._origin, context=context)
            exchange = Exchange({**exchange, "context": context, "url": url, "params": None})
        raise ProtocolError(replace(context, reason=f"more than {_MAX_REDIRECTS} redirects in a row"))


class AsyncApiClient:
    """Send requests to one API from one event loop, with the base URL, the credential and the counters of `parent`."""

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
            lambda: self._run(new_attempt()),
            limits=limits or self.parent.limits,
            repeat=repeat or _default_repeat(request),
            sleep=sleep,
            on_retry=self.parent.count_retry,
        )

    def send_once(self, **request: Unpack[RequestParams]) -> Awaitable[Response]:
        """Send one request without a retry, within the deadline of the caller; parameters and errors are those of `send`."""
        return self._run(self.parent.attempts(**request)())

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    def _run(self, attempt: Attempt) -> Awaitable[Response]:
        return run_attempt_async(attempt, exchange=self._transport.exchange, credential=self._credential)

    async def _credential(self) -> Secret:
        """Return the credential that is valid now. A token is minted in a thread, so that the loop is not blocked."""
        cached = self.parent.auth.cached()
        return await asyncio.to_thread(self.parent.credential) if cached is None else cached
