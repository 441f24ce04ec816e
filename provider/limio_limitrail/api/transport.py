# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Blocking HTTP: one `requests.Session` with finite timeouts, which reads bodies whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import requests
import requests.utils
import urllib3.exceptions
from msgspec.structs import replace

from limio_limitrail.api import transport_errors
from limio_limitrail.api.bounded_http import BoundedAdapter, ResponseBounds, TooManyBytesError, read_body, within
from limio_limitrail.api.content_encoding import decode_body
from limio_limitrail.api.environment import UnusableError, check_settings
from limio_limitrail.api.errors import ApiError, InvalidRequestError, TransportError
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.responses import Response
from limio_limitrail.api.retry import DEFAULT_MAX_RESPONSE, DEFAULT_TOTAL_TIMEOUT, seconds_left
from limio_limitrail.api.secret import Sealed, Secret, revealed
from limio_limitrail.api.session import NoAuth, NoCookies, OriginSession
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.concurrency import after_fork

if TYPE_CHECKING:
    from limio_limitrail.api.auth import Auth


MAX_ERROR_BODY = 1_000_000
"""Bytes of an error's body that are read. Its status counts, whatever becomes of the body."""


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long a request may take.

    :param connect: seconds until a connection is made.
    :param read: seconds between two pieces of a response.
    :param total: seconds from connecting until the last byte of the response has been read.
    """

    connect: float = 10.0
    read: float = 60.0
    total: float = DEFAULT_TOTAL_TIMEOUT

    def seconds_for_response(self) -> float:
        """Return the seconds that one response may take now: the total, or what is left for all attempts together."""
        return min(self.total, seconds_left())


class Transport:
    """Exchange requests for responses over kept-alive connections.

    :param user_agent: the User-Agent header.
    :param timeouts: how long a request may take.
    :param verify: True, or the path of a CA bundle. False switches the check of certificates off.
    :param connections: the most connections to one host that are kept open.
    :param max_response: bytes of the largest response, decoded.
    """

    def __init__(
        self,
        *,
        user_agent: str,
        timeouts: Timeouts | None = None,
        verify: bool | str = True,
        connections: int = 8,
        max_response: int = DEFAULT_MAX_RESPONSE,
    ) -> None:
        self.timeouts = timeouts or Timeouts()
        self.max_response = max_response
        agent = re.sub(r"[^ -~]+", "?", user_agent).strip()
        self.headers = {"User-Agent": agent, "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
        self._verify = verify
        self._connections = connections
        self.after_fork()
        after_fork(self)

    def after_fork(self) -> None:
        """Begin with connections of this process: two processes that share one would read each other's responses."""
        # A proxy's password is in both.
        self._environment: Sealed[dict[tuple[str, str], Mapping[str, Any]]] = Sealed({})
        self._sealed = Sealed(self._equip(_PlainSession()))

    @property
    def _session(self) -> requests.Session:
        return self._sealed.open()

    def _equip(self, session: requests.Session) -> requests.Session:
        session.headers.update(self.headers)
        session.cookies = NoCookies()
        session.auth = NoAuth()
        session.verify = self._verify
        adapter = BoundedAdapter(
            connect=self.timeouts.connect,
            read=self.timeouts.read,
            total=self.timeouts.total,
            max_bytes=self.max_response,
            connections=self._connections,
        )
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        return session

    @raises_bare
    def exchange(
        self,
        *,
        method: str,
        url: str,
        headers: Mapping[str, str | Secret],
        context: RequestContext,
        params: Mapping[str, str] | None = None,
        json: object = None,
        content: bytes | None = None,
        form: Mapping[str, str | Secret] | None = None,
        max_response: int | None = None,
    ) -> Response:
        """Send one request and read its response to the end. Redirects are not followed.

        The body of an error is left out where it cannot be read: its status says enough.

        :param headers: its headers; a `Secret` among them, or in a form, is revealed here only, and in no error.
        :param context: what errors say about the request.
        :param json: a body, sent as JSON; `content` is sent as it is, and `form` as a form.
        :param max_response: bytes of the largest response, instead of the transport's.
        :raises TransportError: no whole response came, or not in time.
        :raises ResponseTooLargeError: the response is larger than the bound.
        :raises ProtocolError: the response is not encoded as its headers say.
        :raises InvalidRequestError: the request cannot be sent as it is.
        """
        session = self._session
        try:
            # Not by the session: it merges settings that do not exist here, and takes longer than everything else.
            prepared = requests.PreparedRequest()
            prepared.prepare(
                method=method,
                url=url,
                headers={**session.headers, **revealed(headers)},
                params=params,
                json=json,
                data=content or (form and revealed(form)),
                auth=NoAuth(),
            )
            settings = self._settings(str(prepared.url), context)
        except (requests.exceptions.RequestException, ValueError, TypeError, RecursionError, OverflowError) as error:
            raise InvalidRequestError(replace(context, reason=f"the request cannot be sent ({type(error).__name__})")) from None
        seconds = self.timeouts.seconds_for_response()
        if seconds <= 0:
            raise transport_errors.out_of_time(context)
        bounds = ResponseBounds(seconds=seconds, max_bytes=max_response or self.max_response)
        with within(bounds):
            try:
                # stream=True and the raw read halve the cost of a body, and notice one that ends early.
                response = session.send(
                    prepared, timeout=(min(self.timeouts.connect, seconds), self.timeouts.read), allow_redirects=False, **settings
                )
            except (OSError, urllib3.exceptions.HTTPError) as error:  # what requests raises is an OSError too
                raise self._error_for(error, context, bounds, seconds) from None
            context = replace(context, status=response.status_code)
            if not 200 <= response.status_code < 300:
                return Response(status=response.status_code, headers=response.headers, body=self._error_body(response, bounds))
            try:
                received = _read(response, context, bounds, max_bytes=int(bounds.max_bytes))
            except ApiError:
                response.close()
                raise
            # ValueError: what http.client makes of lengths that are none.
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                response.close()
                raise self._error_for(error, context, bounds, seconds) from None
        response.raw.release_conn()
        return Response(status=response.status_code, headers=response.headers, body=received)

    def _error_body(self, response: requests.Response, bounds: ResponseBounds) -> bytes:
        """Return the body of an error; an empty one where it is too large or too slow."""
        bounds.limit_time(self.timeouts.read)
        try:
            content = _read(response, RequestContext(api=""), bounds, max_bytes=min(MAX_ERROR_BODY, int(bounds.max_bytes)))
        except (ApiError, urllib3.exceptions.HTTPError, OSError, ValueError):
            response.close()
            return b""
        response.raw.release_conn()
        return content

    def _error_for(self, error: Exception, context: RequestContext, bounds: ResponseBounds, seconds: float) -> ApiError:
        was_not_sent = bounds.connect_failed or transport_errors.was_not_sent(error)
        context = replace(context, reached=not was_not_sent)
        if transport_errors.was_caused_by(error, TooManyBytesError):
            if context.status is None:
                return TransportError(replace(context, reason=transport_errors.NO_HTTP))
            return transport_errors.too_large(context, max_bytes=int(bounds.max_bytes))
        if bounds.timed_out:
            return transport_errors.timed_out(context, seconds=seconds, total=self.timeouts.total)
        reason = transport_errors.reason_for(error)
        if was_not_sent and reason == transport_errors.READ_TIMEOUT:
            reason = transport_errors.CONNECT_TIMEOUT
        elif context.status is not None and (
            reason in (transport_errors.BROKE, transport_errors.NO_HTTP) or isinstance(error, ValueError)
        ):
            reason = transport_errors.BROKE_OFF
        return TransportError(replace(context, reason=reason))

    def route(self, url: str, context: RequestContext) -> tuple[str | None, bool | str]:
        """Return the environment's proxy for a URL, which may hold a password, and how certificates are verified.

        :raises TransportError: they cannot be used.
        """
        settings = self._settings(url, context)
        return requests.utils.select_proxy(url, settings["proxies"]), settings["verify"] or False

    def _settings(self, url: str, context: RequestContext) -> Mapping[str, Any]:
        """Return the environment's settings for an origin. They are read once: reading takes as long as a request.

        :raises TransportError: they cannot be used.
        """
        scheme, host, *_ = urlsplit(url)
        environment = self._environment.open()
        if (scheme, host) not in environment:
            settings = self._session.merge_environment_settings(url, {}, True, self._verify, None)
            try:
                check_settings(url, settings)
            except UnusableError as unusable:
                error = TransportError(replace(context, reason=str(unusable), reached=False))
                # It will be the same a second later.
                error.retries_exhausted = True
                raise error from None
            environment[scheme, host] = settings
        return environment[scheme, host]

    def session(self, auth: Auth, origin: str) -> requests.Session:
        """Return a new session for users, which authorizes requests to one origin only."""
        return self._equip(OriginSession(auth=auth, origin=origin))

    def close(self) -> None:
        """Close all connections."""
        self._session.close()


def _read(response: requests.Response, context: RequestContext, bounds: ResponseBounds, *, max_bytes: int) -> bytes:
    """Return a body, decoded."""
    body = read_body(response.raw, max_bytes=max_bytes)
    encoding = response.headers.get("Content-Encoding")
    return decode_body(body, encoding, context, max_bytes=max_bytes, check_time=bounds.check_time)


class _PlainSession(requests.Session):
    """Ignores redirects: requests prepares the next request even with ``allow_redirects=False``."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002
        return None
