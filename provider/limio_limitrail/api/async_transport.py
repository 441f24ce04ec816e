# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The socket of an event loop: one `aiohttp.ClientSession` with the guarantees, and the settings, of a `Transport`."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import aiohttp
import requests
import requests.utils
import yarl
from urllib3.util.ssl_ import create_urllib3_context

from limio_limitrail.api import breaks
from limio_limitrail.api.breaks import decoded
from limio_limitrail.api.errors import Failure, InvalidRequestError, TransportError
from limio_limitrail.api.transport import Body, RawAnswer, Transport

_NO_BODY = Body()
_PROXIES = ("http", "https")


class AsyncTransport:
    """Exchange requests for answers over kept-alive connections, for one event loop, which makes the connections.

    A POST is sent once, whatever becomes of it. (aiohttp itself repeats reads, PUT and DELETE where a kept connection turns out
    to be closed.)

    :param transport: whose settings count.
    :param connections: the most connections at once.
    """

    def __init__(self, transport: Transport, *, connections: int) -> None:
        self._transport = transport
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._proxy: str | None = None

    async def exchange(
        self,
        *,
        method: str,
        url: str,
        headers: Mapping[str, str],
        call: Failure,
        params: Mapping[str, str] | None = None,
        body: Body = _NO_BODY,
    ) -> RawAnswer:
        """Send one request and read its answer to the end; the parameters and errors are those of `Transport.exchange`."""
        try:
            target, headers, data = _prepare(method, url, headers=headers, params=params, body=body)
        except (requests.exceptions.RequestException, ValueError, TypeError) as error:
            raise _unfit(error, call) from None
        session = self._session or self._open(url, call)
        try:
            response = await session.request(method, target, data=data, headers=headers, proxy=self._proxy, allow_redirects=False)
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError(replace(call, reason=_why(error), reached=not _never_left(error))) from None
        except (ValueError, TypeError) as error:
            raise _unfit(error, call) from None
        try:
            content = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            response.close()
            timed_out = isinstance(error, TimeoutError)
            reason = breaks.READ_TIMEOUT if timed_out else breaks.BROKE_OFF
            raise TransportError(replace(call, status=response.status, reason=reason)) from None
        if "Content-Encoding" in response.headers:
            content = decoded(content, response.headers, replace(call, status=response.status))
        return RawAnswer(status=response.status, headers=response.headers, body=content)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self, url: str, call: Failure) -> aiohttp.ClientSession:
        route = self._transport.route(url)
        if route.proxy is not None:
            self._proxy = route.proxy if "://" in route.proxy else f"http://{route.proxy}"
            if not self._proxy.startswith(tuple(f"{scheme}://" for scheme in _PROXIES)):
                raise TransportError(replace(call, reason="the proxy is neither one of HTTP nor of HTTPS", reached=False))
        try:
            tls = _tls(route.verify) if url.startswith("https:") else True
        except (OSError, ssl.SSLError) as error:
            reason = f"the CA bundle cannot be read ({type(error).__name__})"
            raise TransportError(replace(call, reason=reason, reached=False)) from None
        timeouts = self._transport.timeouts
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ssl=tls),
            # No time for the whole of a request, which `requests` does not know either.
            timeout=aiohttp.ClientTimeout(
                total=None, connect=timeouts.connect, sock_connect=timeouts.connect, sock_read=timeouts.read
            ),
            headers=self._transport.headers,
            skip_auto_headers=["Content-Type"],
            cookie_jar=aiohttp.DummyCookieJar(),
            # Bodies are decoded as a `Transport` decodes them. Proxies come with the route, credentials out of no file.
            auto_decompress=False,
            trust_env=False,
        )
        return self._session


def _prepare(
    method: str, url: str, *, headers: Mapping[str, str], params: Mapping[str, str] | None, body: Body
) -> tuple[yarl.URL, Mapping[str, str], Any]:
    """Write a request as `requests` would, without making one where that is not needed."""
    if params or body.json is not None or body.form is not None:
        made = requests.Request(method, url, params=params, json=body.json, data=body.content or body.form, headers=dict(headers))
        prepared = made.prepare()
        assert prepared.url is not None
        prepared.headers.pop("Content-Length", None)
        return yarl.URL(prepared.url, encoded=True), prepared.headers, prepared.body
    for header in headers.items():
        requests.utils.check_header_validity(header)
    return _target(url), headers, body.content


@lru_cache(maxsize=256)
def _target(url: str) -> yarl.URL:
    prepared = requests.PreparedRequest()
    prepared.prepare_url(url, None)
    assert prepared.url is not None
    return yarl.URL(prepared.url, encoded=True)


def _tls(verify: bool | str) -> ssl.SSLContext:
    """Make what TLS connections are made with, as `requests` makes it."""
    context = create_urllib3_context()
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    bundle = Path(requests.utils.DEFAULT_CA_BUNDLE_PATH if verify is True else verify)
    context.load_verify_locations(**{"capath" if bundle.is_dir() else "cafile": str(bundle)})
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    return context


def _unfit(error: Exception, call: Failure) -> InvalidRequestError:
    return InvalidRequestError(replace(call, reason=f"the request cannot be sent ({type(error).__name__})"))


_NEVER_LEFT = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.ConnectionTimeoutError)
"""Errors that come before the first byte of a request is written: no connection, or none through the proxy, or none of TLS."""


def _never_left(error: Exception) -> bool:
    return isinstance(error, _NEVER_LEFT)


def _why(error: Exception) -> str:
    """Say what broke before the headers of an answer had come, in the words that a `Transport` has for it."""
    match error:
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return breaks.TLS
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return breaks.PROXY
        case aiohttp.ClientConnectorError():
            if isinstance(error.os_error, socket.gaierror):
                return breaks.NAME
            return breaks.REFUSED if error.os_error.errno == errno.ECONNREFUSED else breaks.NO_CONNECTION
        case aiohttp.ConnectionTimeoutError():
            return breaks.CONNECT_TIMEOUT
        case TimeoutError():
            return breaks.READ_TIMEOUT
        case aiohttp.ServerDisconnectedError() | ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            return breaks.BROKE
        case aiohttp.ClientOSError() if error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED):
            return breaks.BROKE
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return breaks.NO_HTTP
    return f"the connection broke ({type(error).__name__})"
