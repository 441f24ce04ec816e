# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One request: authorise, send, retry, classify. What is done next is said in steps, which whoever holds the socket takes."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from limio_limitrail.api.attempt import CREDENTIAL, Request, Steps, take
from limio_limitrail.api.auth import Auth
from limio_limitrail.api.errors import ApiError, InvalidRequestError, ProtocolError, RequestContext
from limio_limitrail.api.json_body import decode_json
from limio_limitrail.api.library_logs import guard_library_logs
from limio_limitrail.api.origin import origin_of
from limio_limitrail.api.redact import holds_secret, safe_text
from limio_limitrail.api.resource import AuthMode
from limio_limitrail.api.responses import is_success, judge
from limio_limitrail.api.retry import Repeat, RetryLimits, call_with_retries
from limio_limitrail.api.secret import Sealed
from limio_limitrail.api.transport import Body, Transport
from limio_limitrail.concurrency.after_fork import after_fork
from limio_limitrail.url_paths import unfit_path, unfit_target

if TYPE_CHECKING:
    import requests

    from limio_limitrail.api.provenance import Provenance
    from limio_limitrail.api.secret import Secret

log = logging.getLogger(__name__)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A success.

    :param status: the HTTP status.
    :param headers: the headers, looked up without case.
    :param body: the whole body, decompressed.
    :param provenance: what tells whether it belongs to its request; none where nothing else can have come.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    provenance: Provenance | None = None

    def json(self) -> object:
        """Decode the body.

        :raises ValueError: it is not JSON, or nested too deeply.
        """
        return decode_json(self.body)


def _unfit_request(method: str, headers: Mapping[str, str]) -> str | None:
    """Say what of a request cannot be put on the wire, where a thread and an event loop would do different things with it."""
    if not _is_token(method):
        return "its method is no word"
    for name, value in headers.items():
        if not _is_token(name):
            return "the name of a header is no word"
        if not (value.isascii() and value.isprintable() and value == value.strip()):
            return f"its header {name!r} holds other characters than printable ASCII, or white space at an end"
    return None


@lru_cache(maxsize=256)
def _is_token(text: str) -> bool:
    return _TOKEN.fullmatch(text) is not None


def usual_repeat(method: str, idempotency_key: str | None) -> Repeat:
    """Say after which failures a request may be tried again, where the caller does not."""
    return Repeat.ANY if method in _SAFE_METHODS or idempotency_key is not None else Repeat.NONE


@dataclass
class Counters:
    """What a client has done so far: the numbers that summaries and tests read.

    :param waited: seconds between tries, those that the API asked to wait among them.
    """

    requests: int = 0
    retries: int = 0
    bytes: int = 0
    waited: float = 0.0


class ApiClient:
    """Send requests to one API with one credential over one session.

    :param api: the API's name as people know it, for messages.
    :param base_url: what every path is appended to; nothing with another origin is ever asked.
    :param transport: the session, with its timeouts.
    :param auth: what authorises a request; asked before each one.
    :param limits: how patient a request is.
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
        self.counters = Counters()
        self._origin = origin_of(base_url)
        self._sleep = sleep
        self._counting = threading.Lock()
        self._session: Sealed[requests.Session] | None = None
        after_fork(self)

    def after_fork(self) -> None:
        """Take nothing over from the parent: neither a lock that may be held nor a connection."""
        self._counting = threading.Lock()
        self._session = None

    def send(
        self,
        *,
        method: str = "GET",
        path: str,
        params: Mapping[str, str] | None = None,
        json: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        resource: str | None = None,
        scope: str | None = None,
        credentials: frozenset[AuthMode] = frozenset({AuthMode.OAUTH}),
        idempotency_key: str | None = None,
        repeat: Repeat | None = None,
        limits: RetryLimits | None = None,
        sleep: Callable[[float], None] | None = None,
        on_retry: Callable[[float], None] | None = None,
    ) -> Answer:
        """Send one request and give its answer.

        Reads are tried again as `RetryLimits` allows. A write is tried again only where it carries an idempotency key, unless
        `repeat` says otherwise.

        :param path: below the base URL, beginning with a slash, percent-encoded.
        :param params: the query.
        :param json: a body, sent as JSON.
        :param content: a body that is JSON already, in the place of `json`.
        :param headers: further headers.
        :param resource: what errors call the thing that was asked for.
        :param scope: the scope that the endpoint needs, for the error on a 403.
        :param credentials: the ways to authenticate that the endpoint accepts.
        :param idempotency_key: makes a write safe to repeat; sent as the header ``Idempotency-Key``.
        :param repeat: after which failures the request may be tried again.
        :param limits: patience for this request instead of the client's.
        :param sleep: waits that many seconds between tries, instead of the client's own; what it raises ends the request.
        :param on_retry: told before each further try, with the seconds until then.
        :raises ApiError: as `limio_limitrail.api.errors` lists them.
        """
        attempt = self.attempts(
            method=method,
            path=path,
            params=params,
            json=json,
            content=content,
            headers=headers,
            resource=resource,
            scope=scope,
            credentials=credentials,
            idempotency_key=idempotency_key,
        )

        def retried(seconds: float) -> None:
            self.count_retry(seconds)
            if on_retry is not None:
                on_retry(seconds)

        return call_with_retries(
            lambda: take(attempt(), exchange=self.transport.exchange, credential=self.credential),
            limits=limits or self.limits,
            repeat=repeat or usual_repeat(method, idempotency_key),
            sleep=sleep or self._sleep,
            on_retry=retried,
        )

    def attempts(
        self,
        *,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        json: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        resource: str | None = None,
        scope: str | None = None,
        credentials: frozenset[AuthMode] = frozenset({AuthMode.OAUTH}),
        idempotency_key: str | None = None,
    ) -> Callable[[], Steps[Answer]]:
        """Check a request, and give what begins a try of it. The parameters are those of `send`.

        :raises InvalidRequestError: it cannot be sent as it is.
        """
        call = RequestContext(api=self.api, method=method, path=path, resource=resource, required_scope=scope)
        if self.auth.mode not in credentials:
            needed = " or ".join(sorted(credentials))
            raise InvalidRequestError(
                replace(
                    call,
                    reason=f"this endpoint accepts auth_mode={needed} only, and the connection has {self.auth.mode}; "
                    "nothing was sent",
                )
            )
        if (unfit := unfit_path(path)) is not None:
            raise InvalidRequestError(replace(call, path="", reason=f"the path cannot be sent: {unfit}"))
        sent_headers = dict(headers or {})
        if idempotency_key is not None:
            sent_headers["Idempotency-Key"] = idempotency_key
        if content is not None:
            sent_headers["Content-Type"] = "application/json"
        if (unfit := _unfit_request(method, sent_headers)) is not None:
            raise InvalidRequestError(replace(call, reason=f"the request cannot be sent: {unfit}"))
        body = Body(json=json, content=content)
        return lambda: self._attempt(call=call, params=params or {}, body=body, headers=sent_headers)

    def session(self) -> requests.Session:
        """Give the session for free use, which authorises requests to the API's own origin and no others; always the same one."""
        with self._counting:
            if self._session is None:
                self._session = Sealed(self.transport.session(self.auth, self._origin))
            return self._session.open()

    def close(self) -> None:
        """Close all connections; the next request makes new ones."""
        self.transport.close()
        if self._session is not None:
            self._session.open().close()

    def count_retry(self, seconds: float) -> None:
        """Count a try that is made again.

        :param seconds: how long it waits before.
        """
        with self._counting:
            self.counters.retries += 1
            self.counters.waited += seconds

    def credential(self) -> Secret:
        """Give the credential that is valid now, minting a token where there is none.

        :raises ApiError: it could not be had. The request that was to carry it has not been sent.
        """
        try:
            return self.auth.credential()
        except ApiError as error:
            # Whatever became of the request for a token.
            error.failure = replace(error.failure, reached=False)
            raise

    def _attempt(
        self, *, call: RequestContext, params: Mapping[str, str], body: Body, headers: Mapping[str, str]
    ) -> Steps[Answer]:
        """Make one try, which may take a second request after a 401 and a few more along redirects."""
        renewed = False
        while True:
            credential = yield CREDENTIAL
            answer = yield from self._follow(
                call=call,
                params=params,
                body=body,
                headers={**headers, "Authorization": self.auth.header(credential)},
            )
            if is_success(answer.status):
                return answer
            error = judge(
                status=answer.status,
                headers=answer.headers,
                body=answer.body,
                call=replace(call, granted_scopes=self.auth.granted_scopes(), provenance=answer.provenance),
            )
            assert error is not None
            # A refusal that may be another request's says nothing of this one, which may have been carried out.
            is_its_own = answer.provenance is None or not answer.provenance.is_in_doubt
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

    def _follow(
        self, *, call: RequestContext, params: Mapping[str, str], body: Body, headers: Mapping[str, str | Secret]
    ) -> Steps[Answer]:
        url = self.base_url + call.path
        query: Mapping[str, str] | None = params
        for _ in range(_MOST_REDIRECTS + 1):
            answer = yield Request(method=call.method, url=url, params=query, body=body, headers=headers, call=call)
            with self._counting:
                self.counters.requests += 1
                self.counters.bytes += len(answer.body)
            if answer.status not in _REDIRECTS or "Location" not in answer.headers:
                return Answer(status=answer.status, headers=answer.headers, body=answer.body, provenance=answer.provenance)
            call = replace(call, status=answer.status)
            url, query = self._redirected(call=call, url=url, location=answer.headers["Location"]), None
        raise ProtocolError(replace(call, reason=f"more than {_MOST_REDIRECTS} redirects in a row"))

    def _redirected(self, *, call: RequestContext, url: str, location: str) -> str:
        """Give the redirect's target, which must lie on the same origin: a credential goes nowhere else."""
        try:
            target = urljoin(url, location)
            origin = origin_of(target)
        except ValueError:
            raise ProtocolError(replace(call, reason="a redirect whose target cannot be read")) from None
        if origin != self._origin:
            where = safe_text(str(origin))
            raise ProtocolError(
                replace(
                    call,
                    reason=f"a redirect to another origin ({where}), which is not followed: credentials stay on {self._origin}",
                )
            )
        if (unfit := unfit_target(location, path=urlsplit(target).path)) is not None:
            raise ProtocolError(replace(call, reason=f"a redirect whose path cannot be followed: {unfit}"))
        if holds_secret(location):
            raise ProtocolError(replace(call, reason="a redirect that repeats a credential, which is not followed"))
        if call.method not in _SAFE_METHODS:
            raise ProtocolError(replace(call, reason="a redirect of a write, which is not followed"))
        return urlsplit(target)._replace(fragment="").geturl()
