# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The socket: one `requests.Session`, with finite timeouts, that reads bodies whole or not at all."""

from __future__ import annotations

import http.cookiejar
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import requests
import requests.adapters
import requests.auth
import urllib3.exceptions

from limio_limitrail.api.errors import Failure, InvalidRequestError, TransportError
from limio_limitrail.api.origin import Origin, origin_of

if TYPE_CHECKING:
    from limio_limitrail.api.auth import Auth


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long a request may stand still.

    :param connect: seconds until a connection is made.
    :param read: seconds between two pieces of an answer.
    """

    connect: float = 10.0
    read: float = 60.0


@dataclass(frozen=True, kw_only=True)
class RawAnswer:
    """Whatever came back, error or not."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Exchange requests for answers over kept-alive connections.

    :param user_agent: who is calling, with versions.
    :param timeouts: how long a request may stand still.
    :param verify: True, or the path of a CA bundle. False switches the check of certificates off.
    :param connections: the most connections to one host that are kept open.
    """

    def __init__(
        self,
        *,
        user_agent: str,
        timeouts: Timeouts | None = None,
        verify: bool | str = True,
        connections: int = 8,
    ) -> None:
        self._timeouts = timeouts or Timeouts()
        self._verify = verify
        session = requests.Session()
        session.headers.update({"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": "gzip, deflate"})
        # The API's gateways may set cookies; a token is all the state that a request should carry.
        session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        session.auth = _NoAuth()
        session.verify = verify
        adapter = requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=connections)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        self._session = session
        self._preparing = threading.Lock()

    def exchange(
        self,
        *,
        method: str,
        url: str,
        headers: Mapping[str, str],
        call: Failure,
        params: Mapping[str, str] | None = None,
        json: object = None,
        form: Mapping[str, str] | None = None,
    ) -> RawAnswer:
        """Send one request and read its answer to the end. Redirects are answers like any other here.

        :param call: what errors say about the call.
        :raises TransportError: no whole answer came.
        :raises InvalidRequestError: the request cannot be put on the wire as it is.
        """
        try:
            with self._preparing:
                prepared = self._session.prepare_request(
                    requests.Request(method, url, params=params, json=json, data=form, headers=dict(headers), auth=_NoAuth())
                )
                settings = self._session.merge_environment_settings(prepared.url, {}, True, self._verify, None)
            # stream=True and the raw read halve the cost of a body, and notice one that broke off.
            response = self._session.send(
                prepared,
                timeout=(self._timeouts.connect, self._timeouts.read),
                allow_redirects=False,
                **settings,
            )
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader, requests.exceptions.MissingSchema) as error:
            raise InvalidRequestError(replace(call, reason=f"the request cannot be sent ({type(error).__name__})")) from None
        except requests.exceptions.RequestException as error:
            raise TransportError(replace(call, reason=_why(error))) from None
        try:
            body = response.raw.read(decode_content=True)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            response.close()
            raise TransportError(replace(call, status=response.status_code, reason=_why(error))) from None
        response.raw.release_conn()
        return RawAnswer(status=response.status_code, headers=response.headers, body=body)

    def session(self, auth: Auth, origin: Origin) -> requests.Session:
        """Give a session of its own for free use, which authorises requests to one origin only."""
        session = requests.Session()
        session.headers.update(self._session.headers)
        session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        session.verify = self._verify
        session.auth = _OriginAuth(auth=auth, origin=origin)
        session.mount("https://", _TimeoutAdapter(self._timeouts))
        session.mount("http://", _TimeoutAdapter(self._timeouts))
        return session

    def close(self) -> None:
        """Close all connections."""
        self._session.close()


class _NoAuth(requests.auth.AuthBase):
    """Keeps requests from looking for credentials in a netrc file and putting them in place of the token."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _OriginAuth(requests.auth.AuthBase):
    """Authorises requests to one origin and leaves all others bare."""

    def __init__(self, *, auth: Auth, origin: Origin) -> None:
        self._auth = auth
        self._origin = origin

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if request.url and origin_of(request.url) == self._origin:
            request.headers["Authorization"] = self._auth.header(self._auth.credential())
        return request


class _TimeoutAdapter(requests.adapters.HTTPAdapter):
    """Gives every request a finite timeout, because requests itself waits for ever where none is named."""

    def __init__(self, timeouts: Timeouts) -> None:
        super().__init__()
        self._timeouts = timeouts

    def send(self, request: requests.PreparedRequest, **kwargs: object) -> requests.Response:  # type: ignore[override]
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = (self._timeouts.connect, self._timeouts.read)
        return super().send(request, **kwargs)  # type: ignore[arg-type]


def _why(error: Exception) -> str:
    """Say what broke without repeating the library's text, which holds the URL with its query."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        reason = getattr(link, "reason", None)
        link = reason if isinstance(reason, BaseException) else (link.__cause__ or link.__context__)
    kinds = (
        ((requests.exceptions.SSLError, urllib3.exceptions.SSLError), "the TLS connection could not be made or verified"),
        ((requests.exceptions.ProxyError, urllib3.exceptions.ProxyError), "the proxy could not be reached or refused"),
        (
            (requests.exceptions.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError),
            "no connection within the connect timeout",
        ),
        ((requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError), "no answer within the read timeout"),
        ((urllib3.exceptions.NameResolutionError,), "the host name could not be resolved"),
        ((urllib3.exceptions.IncompleteRead,), "the answer broke off before its end"),
        ((urllib3.exceptions.DecodeError,), "the answer could not be decompressed"),
        ((ConnectionRefusedError,), "the connection was refused"),
        ((urllib3.exceptions.NewConnectionError,), "no connection could be made"),
    )
    for classes, text in kinds:
        if any(isinstance(part, classes) for part in chain):
            return text
    return f"the connection broke ({type(chain[-1]).__name__})"
