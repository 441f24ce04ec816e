# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The client of one API: authorize a request, send it, retry it, classify its response."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Required, TypedDict, Unpack

from limio_limitrail.api.attempt import SAFE_METHODS, Attempt, Exchange, redirect_target, run_attempt, unfit_request
from limio_limitrail.api.auth import Auth
from limio_limitrail.api.errors import ApiError, InvalidRequestError, ProtocolError, RequestContext
from limio_limitrail.api.origin import origin_of
from limio_limitrail.api.redact import guard_library_logs
from limio_limitrail.api.resource import AuthMode
from limio_limitrail.api.responses import Response, classify
from limio_limitrail.api.retry import Repeat, RetryLimits, call_with_retries
from limio_limitrail.api.secret import Sealed
from limio_limitrail.api.transport import Transport
from limio_limitrail.concurrency import after_fork
from limio_limitrail.url_paths import unfit_path

if TYPE_CHECKING:
    import requests

    from limio_limitrail.api.secret import Secret

log = logging.getLogger(__name__)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_OAUTH = frozenset({AuthMode.OAUTH})


class RequestParams(TypedDict, total=False):
    """A request to an API. A ``path`` is required; the default method is GET."""

    method: str
    path: Required[str]
    """Below the base URL, beginning with a slash, percent-encoded."""
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


def default_repeat(request: RequestParams) -> Repeat:
    """Return which failures of a request are retried where the caller does not say."""
    is_safe = request.get("method", "GET") in SAFE_METHODS or request.get("idempotency_key") is not None
    return Repeat.ANY if is_safe else Repeat.NONE


@dataclass
class RequestStats:
    """What a client has done so far.

    :param waited: seconds between attempts, including those that the API asked to wait.
    """

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
            repeat=repeat or default_repeat(request),
            sleep=sleep or self._sleep,
            on_retry=retried,
        )

    def attempts(self, **request: Unpack[RequestParams]) -> Callable[[], Attempt[Response]]:
        """Check a request, and return a function that begins an attempt of it.

        :raises InvalidRequestError: it cannot be sent as it is.
        """
        method, path, content = request.get("method", "GET"), request["path"], request.get("content")
        context = RequestContext(
            api=self.api, method=method, path=path, resource=request.get("resource"), required_scope=request.get("scope")
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
        """Count a retry.

        :param seconds: how long it waits before it is sent.
        """
        with self._lock:
            self.counters.retries += 1
            self.counters.waited += seconds

    def measure(self) -> Callable[[], dict[str, int | float]]:
        """Return a function that returns what the client has done since now.

        These are requests, retries, tokens minted, seconds waited between attempts, and seconds in all.
        """
        started = time.monotonic()

        def counts() -> tuple[int, int, int, float]:
            counters = self.counters
            return counters.requests, counters.retries, getattr(self.auth, "minted", 0), counters.waited

        before = counts()

        def measured() -> dict[str, int | float]:
            done = dict(zip(("requests", "retries", "tokens", "waited"), counts(), strict=True))
            change = {name: now - then for (name, now), then in zip(done.items(), before, strict=True)}
            return change | {"waited": round(change["waited"], 3), "seconds": round(time.monotonic() - started, 3)}

        return measured

    def credential(self) -> Secret:
        """Return the credential that is valid now, minting a token if there is none.

        :raises ApiError: there is none. The request that was to carry it has not been sent.
        """
        try:
            return self.auth.credential()
        except ApiError as error:
            # Whatever became of the request for a token.
            error.context = replace(error.context, reached=False)
            raise

    def _attempt(self, exchange: Exchange) -> Attempt[Response]:
        """Make one attempt, which may send a second request after a 401, and a few more along redirects."""
        renewed = False
        while True:
            credential = yield "credential"
            authorized = Exchange({**exchange, "headers": {**exchange["headers"], "Authorization": self.auth.header(credential)}})
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

    def _follow(self, exchange: Exchange) -> Attempt[Response]:
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
