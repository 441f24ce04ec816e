# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The socket: one `requests.Session`, with finite timeouts, that reads bodies whole or not at all."""

from __future__ import annotations

import http.cookiejar
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import requests
import requests.adapters
import requests.auth
import requests.hooks
import requests.utils
import urllib3.exceptions

from limio_limitrail.api.breaks import broken_body, never_left, why
from limio_limitrail.api.errors import Failure, InvalidRequestError, TransportError
from limio_limitrail.api.forks import begin_anew_in_children
from limio_limitrail.api.origin import Origin, same_origin

if TYPE_CHECKING:
    from limio_limitrail.api.auth import Auth
    from limio_limitrail.api.secret import Secret


_AnySession = TypeVar("_AnySession", bound=requests.Session)


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


@dataclass(frozen=True, kw_only=True)
class Body:
    """What a request carries; at most one of these.

    :param json: sent as JSON.
    :param form: sent as a form.
    :param content: sent as it is.
    """

    json: object = None
    form: Mapping[str, str] | None = None
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
        self.timeouts = timeouts or Timeouts()
        self.headers = {"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
        self._verify = verify
        self._connections = connections
        self.after_fork()
        begin_anew_in_children(self)

    def after_fork(self) -> None:
        """Begin with connections of this process: two processes that share one would read each other's answers."""
        self._surroundings: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._session = self._equip(_PlainSession(), _NoAuth())

    def _equip(self, session: _AnySession, auth: requests.auth.AuthBase) -> _AnySession:
        session.headers.update(self.headers)
        # The API's gateways may set cookies; a token is all the state that a request should carry.
        session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        session.auth = auth
        session.verify = self._verify
        adapter = _TimeoutAdapter(self.timeouts, connections=self._connections)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        return session

    def exchange(
        self,
        *,
        method: str,
        url: str,
        headers: Mapping[str, str],
        call: Failure,
        params: Mapping[str, str] | None = None,
        body: Body = Body(),
    ) -> RawAnswer:
        """Send one request and read its answer to the end. Redirects are answers like any other here.

        :param call: what errors say about the call.
        :param body: what the request carries.
        :raises TransportError: no whole answer came.
        :raises ProtocolError: the answer is not encoded as its headers say.
        :raises InvalidRequestError: the request cannot be put on the wire as it is.
        """
        try:
            # Not by the session: it looks for more to put in than there is here, and takes longer than all else that is done.
            prepared = requests.PreparedRequest()
            prepared.prepare(
                method=method,
                url=url,
                headers={**self._session.headers, **headers},
                params=params,
                json=body.json,
                data=body.content or body.form,
                auth=_NoAuth(),
            )
            settings = self._settings(str(prepared.url))
        except (requests.exceptions.RequestException, ValueError, TypeError) as error:
            raise InvalidRequestError(replace(call, reason=f"the request cannot be sent ({type(error).__name__})")) from None
        try:
            # stream=True and the raw read halve the cost of a body, and notice one that broke off.
            response = self._session.send(
                prepared,
                timeout=(self.timeouts.connect, self.timeouts.read),
                allow_redirects=False,
                **settings,
            )
        except (OSError, urllib3.exceptions.HTTPError) as error:  # what requests raises is an OSError too
            raise TransportError(replace(call, reason=why(error), reached=not never_left(error))) from None
        try:
            content = response.raw.read(decode_content=True)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            response.close()
            raise broken_body(error, replace(call, status=response.status_code), response.headers) from None
        response.raw.release_conn()
        return RawAnswer(status=response.status_code, headers=response.headers, body=content)

    def route(self, url: str) -> Route:
        """Say how a URL is reached: the environment may name a proxy and a CA bundle."""
        settings = self._settings(url)
        return Route(proxy=requests.utils.select_proxy(url, settings["proxies"]), verify=settings["verify"] or False)

    def _settings(self, url: str) -> Mapping[str, Any]:
        """Give what the environment says of an origin. It is read once: to read it takes as long as to send a request."""
        scheme, host, *_ = urlsplit(url)
        known = self._surroundings.get((scheme, host))
        if known is None:
            known = self._session.merge_environment_settings(url, {}, True, self._verify, None)
            self._surroundings[scheme, host] = known
        return known

    def session(self, auth: Auth, origin: Origin) -> requests.Session:
        """Give a session of its own for free use, which authorises requests to one origin only."""
        return self._equip(_OriginSession(origin), _OriginAuth(auth=auth, origin=origin))

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
        if same_origin(request.url, self._origin):
            credential = self._auth.credential()
            request.headers["Authorization"] = self._auth.header(credential)

            def renew_once(response: requests.Response, **kwargs: Any) -> requests.Response:
                return self._again(response, refused=credential, kwargs=kwargs)

            request.hooks["response"] = [*request.hooks["response"], renew_once]
        return request

    def _again(self, response: requests.Response, *, refused: Secret, kwargs: Mapping[str, Any]) -> requests.Response:
        """Send a request whose token was refused once more with another one: the API has not acted on it."""
        repeatable = response.request.body is None or isinstance(response.request.body, str | bytes)
        if response.status_code != 401 or not repeatable or not same_origin(response.request.url, self._origin):
            return response
        if not self._auth.renew(refused):
            return response
        response.content  # noqa: B018 - reads the answer to its end, so that its connection can be used again
        response.close()
        request = response.request.copy()
        request.headers["Authorization"] = self._auth.header(self._auth.credential())
        request.hooks = requests.hooks.default_hooks()
        again: requests.Response = response.connection.send(request, **kwargs)
        again.history.append(response)
        again.request = request
        return again


class _PlainSession(requests.Session):
    """Takes a redirect for an answer like any other: requests prepares the next request even where it is told not to follow."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002
        return None


class _OriginSession(requests.Session):
    """Follows redirects, and takes the credential along to its own origin only.

    requests itself keeps it where http turns into https on the same host, and puts in what a netrc file says of a host.
    """

    def __init__(self, origin: Origin) -> None:
        super().__init__()
        self._origin = origin

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:  # noqa: ARG002
        if not same_origin(prepared_request.url, self._origin):
            prepared_request.headers.pop("Authorization", None)


class _TimeoutAdapter(requests.adapters.HTTPAdapter):
    """Gives every request a finite timeout, because requests itself waits for ever where none is named."""

    def __init__(self, timeouts: Timeouts, *, connections: int) -> None:
        super().__init__(pool_connections=4, pool_maxsize=connections)
        self._timeouts = timeouts

    def send(self, request: requests.PreparedRequest, **kwargs: object) -> requests.Response:  # type: ignore[override]
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = (self._timeouts.connect, self._timeouts.read)
        return super().send(request, **kwargs)  # type: ignore[arg-type]
