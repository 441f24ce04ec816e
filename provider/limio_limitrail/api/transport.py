# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The socket: one `requests.Session`, with finite timeouts, that reads bodies whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import requests
import requests.utils
import urllib3.exceptions

from limio_limitrail.api import transport_errors as breaks
from limio_limitrail.api.bounded_http import AnswerBounds, BoundedAdapter, TooManyBytesError, read_body, within
from limio_limitrail.api.deadline import DEFAULT_MAX_RESPONSE, DEFAULT_TOTAL_TIMEOUT, seconds_left
from limio_limitrail.api.errors import ApiError, InvalidRequestError, RequestContext, TransportError
from limio_limitrail.api.origin import Origin
from limio_limitrail.api.secret import Sealed, Secret, revealed
from limio_limitrail.api.session import NoAuth, NoCookies, OriginSession
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.concurrency.after_fork import after_fork

if TYPE_CHECKING:
    from limio_limitrail.api.auth import Auth
    from limio_limitrail.api.provenance import Provenance


_AnySession = TypeVar("_AnySession", bound=requests.Session)


MAX_ERROR_BODY = 1_000_000
"""Bytes of an error's body that are read. Its status stands, whatever becomes of the body."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long a request may take.

    :param connect: seconds until a connection is made.
    :param read: seconds between two pieces of an answer.
    :param total: seconds from the beginning, connecting included, until the last byte of the answer has been read.
    """

    connect: float = 10.0
    read: float = 60.0
    total: float = DEFAULT_TOTAL_TIMEOUT

    def seconds_for_answer(self) -> float:
        """Return the seconds that one answer may take now: the total, or what is left of the time for all tries together."""
        return min(self.total, seconds_left())


@dataclass(frozen=True, kw_only=True)
class RawAnswer:
    """Whatever came back, error or not.

    :param provenance: what tells whether it belongs to its request; none where nothing else can have come.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    provenance: Provenance | None = None


@dataclass(frozen=True, kw_only=True)
class Body:
    """What a request carries; at most one of these.

    :param json: sent as JSON.
    :param form: sent as a form; a `Secret` in it shows itself there only.
    :param content: sent as it is.
    """

    json: object = None
    form: Mapping[str, str | Secret] | None = None
    content: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Route:
    """How a URL is reached.

    :param proxy: the proxy's URL, which may hold a password; none where there is no proxy.
    :param verify: True, False or the path of a CA bundle.
    """

    proxy: str | None
    verify: bool | str


class Transport:
    """Exchange requests for answers over kept-alive connections.

    :param user_agent: who is calling, with versions.
    :param timeouts: how long a request may take.
    :param verify: True, or the path of a CA bundle. False switches the check of certificates off.
    :param connections: the most connections to one host that are kept open.
    :param max_response: bytes of the largest answer, decoded.
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
        """Begin with connections of this process: two processes that share one would read each other's answers."""
        # A proxy's password is in both.
        self._surroundings: Sealed[dict[tuple[str, str], Mapping[str, Any]]] = Sealed({})
        self._sealed = Sealed(self._equip(_PlainSession()))

    @property
    def _session(self) -> requests.Session:
        return self._sealed.open()

    def _equip(self, session: _AnySession) -> _AnySession:
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
        call: RequestContext,
        params: Mapping[str, str] | None = None,
        body: Body = Body(),
        max_response: int | None = None,
    ) -> RawAnswer:
        """Send one request and read its answer to the end. Redirects are answers like any other here.

        The body of an error is left out where it cannot be read: its status says enough.

        :param headers: its headers; a `Secret` among them shows itself here only, and in no error.
        :param call: what errors say about the call.
        :param body: what the request carries.
        :param max_response: bytes of the largest answer, instead of the transport's.
        :raises TransportError: no whole answer came, or not in time.
        :raises ResponseTooLargeError: the answer is larger than the bound.
        :raises ProtocolError: the answer is not encoded as its headers say.
        :raises InvalidRequestError: the request cannot be put on the wire as it is.
        """
        session = self._session
        try:
            # Not by the session: it looks for more to put in than there is here, and takes longer than all else that is done.
            prepared = requests.PreparedRequest()
            prepared.prepare(
                method=method,
                url=url,
                headers={**session.headers, **revealed(headers)},
                params=params,
                json=body.json,
                data=body.content or (body.form and revealed(body.form)),
                auth=NoAuth(),
            )
            settings = self._settings(str(prepared.url))
        except (requests.exceptions.RequestException, ValueError, TypeError, RecursionError, OverflowError) as error:
            raise InvalidRequestError(replace(call, reason=f"the request cannot be sent ({type(error).__name__})")) from None
        seconds = self.timeouts.seconds_for_answer()
        if seconds <= 0:
            raise breaks.out_of_time(call)
        bounds = AnswerBounds(seconds=seconds, max_bytes=max_response or self.max_response)
        with within(bounds):
            try:
                # stream=True and the raw read halve the cost of a body, and notice one that broke off.
                response = session.send(
                    prepared,
                    timeout=(min(self.timeouts.connect, seconds), self.timeouts.read),
                    allow_redirects=False,
                    **settings,
                )
            except (OSError, urllib3.exceptions.HTTPError) as error:  # what requests raises is an OSError too
                raise self._broken(error, call, bounds, seconds) from None
            call = replace(call, status=response.status_code)
            if breaks.is_error(response.status_code):
                return RawAnswer(status=response.status_code, headers=response.headers, body=self._error_body(response, bounds))
            try:
                content = read_body(response.raw, max_bytes=bounds.max_bytes)
                content = breaks.decoded(
                    content, response.headers, call, max_bytes=int(bounds.max_bytes), check_time=bounds.check_time
                )
            except ApiError:
                response.close()
                raise
            # ValueError: what http.client makes of lengths that are none.
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                response.close()
                raise self._broken(error, call, bounds, seconds) from None
        response.raw.release_conn()
        return RawAnswer(status=response.status_code, headers=response.headers, body=content)

    def _error_body(self, response: requests.Response, bounds: AnswerBounds) -> bytes:
        """Read the body of an error as far as that is worth it."""
        bounds.limit_time(self.timeouts.read)
        try:
            most = min(MAX_ERROR_BODY, int(bounds.max_bytes))
            content = breaks.decoded(
                read_body(response.raw, max_bytes=most),
                response.headers,
                RequestContext(api=""),
                max_bytes=most,
                check_time=bounds.check_time,
            )
        except (ApiError, urllib3.exceptions.HTTPError, OSError, ValueError):
            response.close()
            return b""
        response.raw.release_conn()
        return content

    def _broken(self, error: Exception, call: RequestContext, bounds: AnswerBounds, seconds: float) -> ApiError:
        """Say what became of an answer that did not come, or not to its end."""
        was_not_sent = bounds.connect_failed or breaks.was_not_sent(error)
        call = replace(call, reached=not was_not_sent)
        if breaks.was_caused_by(error, TooManyBytesError):
            if call.status is None:
                return TransportError(replace(call, reason=breaks.NO_HTTP))
            return breaks.too_large(call, max_bytes=int(bounds.max_bytes))
        if bounds.timed_out:
            return breaks.timed_out(call, seconds=seconds, total=self.timeouts.total)
        reason = breaks.why(error)
        if was_not_sent and reason == breaks.READ_TIMEOUT:
            reason = breaks.CONNECT_TIMEOUT
        elif call.status is not None and (reason in (breaks.BROKE, breaks.NO_HTTP) or isinstance(error, ValueError)):
            reason = breaks.BROKE_OFF
        return TransportError(replace(call, reason=reason))

    def route(self, url: str) -> Route:
        """Say how a URL is reached: the environment may name a proxy and a CA bundle."""
        settings = self._settings(url)
        return Route(proxy=requests.utils.select_proxy(url, settings["proxies"]), verify=settings["verify"] or False)

    def _settings(self, url: str) -> Mapping[str, Any]:
        """Give what the environment says of an origin. It is read once: to read it takes as long as to send a request."""
        scheme, host, *_ = urlsplit(url)
        surroundings = self._surroundings.open()
        known = surroundings.get((scheme, host))
        if known is None:
            known = self._session.merge_environment_settings(url, {}, True, self._verify, None)
            surroundings[scheme, host] = known
        return known

    def session(self, auth: Auth, origin: Origin) -> requests.Session:
        """Give a session of its own for free use, which authorises requests to one origin only."""
        return self._equip(OriginSession(auth=auth, origin=origin))

    def close(self) -> None:
        """Close all connections."""
        self._session.close()


class _PlainSession(requests.Session):
    """Takes a redirect for an answer like any other: requests prepares the next request even where it is told not to follow."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002
        return None
