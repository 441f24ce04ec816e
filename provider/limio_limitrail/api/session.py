# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The session of `get_conn()`: a `requests.Session` for users, with what docs/explanation/security.md promises of every request.

The credential is added when a request is sent, and only on its way to one origin. Neither the request nor its response, which
users may print, copy and send again, ever holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import requests
import requests.adapters
import requests.auth
import requests.utils
from requests.cookies import RequestsCookieJar

from limio_limitrail.api.environment import UnusableError, check_proxy
from limio_limitrail.api.redact import holds_secret, safe_text
from limio_limitrail.api.secret import revealed
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.troubleshooting import ExplainedError
from limio_limitrail.urls import origin_of, same_origin

if TYPE_CHECKING:
    from limio_limitrail.api.auth import Auth
    from limio_limitrail.api.secret import Secret


class RedirectRefusedError(ExplainedError, requests.exceptions.RequestException):
    """A redirect leads to another origin."""


class NoAuth(requests.auth.AuthBase):
    """Keeps requests from replacing the token by credentials from a netrc file or a URL."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class NoCookies(RequestsCookieJar):
    """Stays empty, as do its copies: the API's gateways may set cookies, but a token is all the state that a request carries."""

    def set_cookie(self, cookie: Any, *args: Any, **kwargs: Any) -> None:
        """Ignore the cookie."""

    def copy(self) -> NoCookies:
        return NoCookies()


class OriginSession(requests.Session):
    """Authorizes requests to one origin, and follows redirects only within the origin that was requested.

    :param auth: the source of credentials.
    :param origin: the origin that they may be sent to.
    """

    def __init__(self, *, auth: Auth, origin: str) -> None:
        super().__init__()
        self._credentials = auth
        self._origin = origin

    def __getstate__(self) -> NoReturn:
        raise TypeError("the session of get_conn() stays in its process: it cannot be pickled or copied")

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        return _sent(super().request, args, kwargs)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        if kwargs.get("verify") is None:
            kwargs["verify"] = self.merge_environment_settings(request.url or "", {}, None, None, None)["verify"]
        # Redirects take along what is in its jar.
        request._cookies = NoCookies()  # type: ignore[attr-defined] # noqa: SLF001
        response = _sent(self._send, (request,), kwargs)
        for one in (response, *response.history):
            one.cookies = NoCookies()
        return response

    def _send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        proxies = kwargs.setdefault("proxies", requests.utils.resolve_proxies(request, dict(self.proxies), self.trust_env))
        try:
            check_proxy(request.url or "", proxies)
        except UnusableError as unusable:
            reason = str(unusable)
        else:
            return super().send(request, **kwargs)
        raise requests.exceptions.InvalidProxyURL(reason, request=request)

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        # requests itself prefers the environment's bundle to the session's.
        return super().merge_environment_settings(url, proxies, stream, self.verify if verify is None else verify, cert)

    def get_adapter(self, url: Any) -> requests.adapters.BaseAdapter:
        adapter = super().get_adapter(url)
        return _AuthorizingAdapter(adapter, auth=self._credentials) if same_origin(url, self._origin) else adapter

    def resolve_redirects(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        followed = super().resolve_redirects(*args, **kwargs)
        return _allowed_redirects(followed) if kwargs.get("yield_requests") else followed

    def rebuild_method(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Raise `RedirectRefusedError` if a redirect leaves its origin; requests calls this once the target is known."""
        try:
            stays = same_origin(prepared_request.url, origin_of(str(response.request.url)))
        except ValueError:
            stays = False
        if not stays:
            raise RedirectRefusedError(
                f"a redirect to another origin ({_safe_origin(prepared_request.url)}), which is not followed: "
                f"credentials stay on {self._origin}",
                response=response,
            )
        if holds_secret(str(prepared_request.url)):
            raise RedirectRefusedError("a redirect that repeats a credential, which is not followed", response=response)
        super().rebuild_method(prepared_request, response)

    def rebuild_proxies(self, prepared_request: requests.PreparedRequest, proxies: Any) -> Any:
        found = super().rebuild_proxies(prepared_request, proxies)  # type: ignore[no-untyped-call]
        prepared_request.headers.pop("Proxy-Authorization", None)  # urllib3 adds it itself, where nobody prints it
        return found

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:  # noqa: ARG002
        # requests itself keeps it where http turns into https on the same host, and adds credentials from a netrc file.
        if not same_origin(prepared_request.url, self._origin):
            prepared_request.headers.pop("Authorization", None)


class _AuthorizingAdapter(requests.adapters.BaseAdapter):
    """Wraps an adapter, which may be the user's own, and authorizes what it sends; a refused token is renewed once.

    A request that has an Authorization header of its own keeps that one.
    """

    def __init__(self, adapter: requests.adapters.BaseAdapter, *, auth: Auth) -> None:
        super().__init__()
        self._adapter = adapter
        self._auth = auth

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        if "Authorization" in request.headers:
            return self._adapter.send(request, **kwargs)
        credential = self._auth.credential()
        response = self._send(request, credential, kwargs)
        repeatable = request.body is None or isinstance(request.body, str | bytes)
        if response.status_code != 401 or not repeatable or not self._auth.renew(credential):
            return response
        # The API has not acted on it.
        response.content  # noqa: B018 - reads the response to its end, so that its connection can be used again
        response.close()
        again = self._send(request, self._auth.credential(), kwargs)
        again.history.append(response)
        return again

    def _send(self, request: requests.PreparedRequest, credential: Secret, kwargs: Mapping[str, Any]) -> requests.Response:
        sent = request.copy()
        sent.headers.update(revealed({"Authorization": self._auth.header(credential)}))
        try:
            response = self._adapter.send(sent, **kwargs)
        except requests.exceptions.RequestException as error:
            error.request = request
            if error.response is not None:
                error.response.request = request
            raise
        response.request = request
        return response

    def close(self) -> None:
        self._adapter.close()


@raises_bare
def _sent(send: Callable[..., requests.Response], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> requests.Response:
    """Send a request; its error is the library's, without the library's frames."""
    try:
        return send(*args, **kwargs)
    except requests.exceptions.RequestException as error:
        error.args = tuple(str(part) if isinstance(part, BaseException) else part for part in error.args)
        raise


def _allowed_redirects(followed: Iterator[Any]) -> Iterator[Any]:
    """Yield what would be requested next where redirects are not followed; nothing if it is on another origin."""
    try:
        yield from followed
    except RedirectRefusedError:
        return


def _safe_origin(url: str | None) -> str:
    try:
        return safe_text(origin_of(str(url))) or "***"
    except ValueError:
        return "its address cannot be read"
