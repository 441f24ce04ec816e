# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The session of `get_conn()`: one of `requests`, for free use, with what docs/explanation/security.md promises of every request.

The credential is put in where a request leaves, and only on its way to one origin. Neither the request nor its answer, which are
the user's to print, to copy and to send again, ever holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import requests
import requests.adapters
import requests.auth
from requests.cookies import RequestsCookieJar

from limio_limitrail.api.origin import Origin, origin_of, same_origin
from limio_limitrail.api.redact import holds_secret, safe_text
from limio_limitrail.api.secret import revealed
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.troubleshooting import ExplainedError

if TYPE_CHECKING:
    from limio_limitrail.api.auth import Auth
    from limio_limitrail.api.secret import Secret


class RedirectRefusedError(ExplainedError, requests.exceptions.RequestException):
    """A redirect leads to another origin."""


class NoAuth(requests.auth.AuthBase):
    """Keeps requests from looking for credentials in a netrc file or in a URL, and putting them in place of the token."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class NoCookies(RequestsCookieJar):
    """Stays empty, as do its copies: the API's gateways may set cookies, and a token is all the state that a request carries."""

    def set_cookie(self, cookie: Any, *args: Any, **kwargs: Any) -> None:
        """Leave it out."""

    def copy(self) -> NoCookies:
        return NoCookies()


class OriginSession(requests.Session):
    """Authorises requests to one origin, and follows redirects within the origin that was asked only.

    :param auth: what authorises a request.
    :param origin: where its credential may go.
    """

    def __init__(self, *, auth: Auth, origin: Origin) -> None:
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
        response = _sent(super().send, (request,), kwargs)
        for one in (response, *response.history):
            one.cookies = NoCookies()
        return response

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        # requests itself takes the environment's bundle before it looks at the session's.
        return super().merge_environment_settings(url, proxies, stream, self.verify if verify is None else verify, cert)

    def get_adapter(self, url: Any) -> requests.adapters.BaseAdapter:
        adapter = super().get_adapter(url)
        return _Authorised(adapter, auth=self._credentials) if same_origin(url, self._origin) else adapter

    def resolve_redirects(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        followed = super().resolve_redirects(*args, **kwargs)
        return _offered(followed) if kwargs.get("yield_requests") else followed

    def rebuild_method(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """See that a redirect stays where it is; requests asks for the method once the target is known.

        :raises RedirectRefusedError: it does not.
        """
        try:
            stays = same_origin(prepared_request.url, origin_of(str(response.request.url)))
        except ValueError:
            stays = False
        if not stays:
            raise RedirectRefusedError(
                f"a redirect to another origin ({_place_of(prepared_request.url)}), which is not followed: credentials stay on "
                f"{self._origin}",
                response=response,
            )
        if holds_secret(str(prepared_request.url)):
            raise RedirectRefusedError("a redirect that repeats a credential, which is not followed", response=response)
        super().rebuild_method(prepared_request, response)

    def rebuild_proxies(self, prepared_request: requests.PreparedRequest, proxies: Any) -> Any:
        found = super().rebuild_proxies(prepared_request, proxies)  # type: ignore[no-untyped-call]
        prepared_request.headers.pop("Proxy-Authorization", None)  # urllib3 puts it in by itself, where nobody prints it
        return found

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:  # noqa: ARG002
        # requests itself keeps it where http turns into https on the same host, and puts in what a netrc file says of a host.
        if not same_origin(prepared_request.url, self._origin):
            prepared_request.headers.pop("Authorization", None)


class _Authorised(requests.adapters.BaseAdapter):
    """Stands before an adapter, be it the user's own, and authorises what it sends; a refused token is renewed once.

    A request that names a credential itself keeps that one.
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
        response.content  # noqa: B018 - reads the answer to its end, so that its connection can be used again
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
    """Send a request; its error is the library's, without what the library had at hand."""
    try:
        return send(*args, **kwargs)
    except requests.exceptions.RequestException as error:
        error.args = tuple(str(part) if isinstance(part, BaseException) else part for part in error.args)
        raise


def _offered(followed: Iterator[Any]) -> Iterator[Any]:
    """Give what would be asked next where redirects are not followed; nothing where it lies elsewhere."""
    try:
        yield from followed
    except RedirectRefusedError:
        return


def _place_of(url: str | None) -> str:
    try:
        return safe_text(str(origin_of(str(url)))) or "***"
    except ValueError:
        return "its address cannot be read"
