# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The socket of an event loop: one `aiohttp.ClientSession` with the guarantees, and the settings, of a `Transport`."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import aiohttp
import requests
import requests.utils
import yarl
from multidict import CIMultiDictProxy
from urllib3.util.ssl_ import create_urllib3_context

from limio_limitrail.api import transport_errors as breaks
from limio_limitrail.api.async_connections import KeptConnections, KeptResponse, SpokeFirstError
from limio_limitrail.api.bounded_http import AnswerBounds
from limio_limitrail.api.content_encoding import BodyTooLargeError
from limio_limitrail.api.errors import ApiError, InvalidRequestError, RequestContext, TransportError
from limio_limitrail.api.provenance import SURPLUS
from limio_limitrail.api.secret import Sealed, Secret, revealed
from limio_limitrail.api.transport import MAX_ERROR_BODY, Body, RawAnswer, Timeouts, Transport
from limio_limitrail.api.transport_errors import decoded
from limio_limitrail.bare_errors import raises_bare_async

_NO_BODY = Body()
_QUICK = 1 << 16
"""Bytes that are decoded in the loop."""
_PROXIES = ("http", "https")
_READS = frozenset({"GET", "HEAD"})


class AsyncTransport:
    """Exchange requests for answers over kept-alive connections, for one event loop, which makes the connections.

    A POST is sent once, whatever becomes of it. (aiohttp itself repeats reads, PUT and DELETE where a kept connection turns out
    to be closed.)

    :param transport: whose settings count.
    :param connections: the most requests at once, each over a connection of its own.
    :param rest: seconds in which a connection is not used again after an answer. An API that sends an answer twice is noticed in
        that time, before the second one can be taken for the next request's.
    """

    def __init__(self, transport: Transport, *, connections: int, rest: float = 0.0) -> None:
        self._transport = transport
        self._connections = connections
        self._rest = rest
        # A proxy's password is in both.
        self._sealed: Sealed[aiohttp.ClientSession] | None = None
        self._proxy: Secret | None = None
        self._usual = _timeout(transport.timeouts, transport.timeouts.total)

    @property
    def _session(self) -> aiohttp.ClientSession | None:
        return None if self._sealed is None else self._sealed.open()

    @raises_bare_async
    async def exchange(
        self,
        *,
        method: str,
        url: str,
        headers: Mapping[str, str | Secret],
        call: RequestContext,
        params: Mapping[str, str] | None = None,
        body: Body = _NO_BODY,
    ) -> RawAnswer:
        """Send one request and read its answer to the end; the parameters and errors are those of `Transport.exchange`.

        A read whose answer may be the one to an earlier request ends with a `TransportError`. Whoever sends a write asks the
        answer's provenance, now and later on.
        """
        try:
            target, sent_headers, data = _prepare(method, url, headers=revealed(headers), params=params, body=body)
        except (requests.exceptions.RequestException, ValueError, TypeError, RecursionError, OverflowError) as error:
            raise _unfit(error, call) from None
        session = self._session or self._open(url, call)
        timeouts = self._transport.timeouts
        seconds = timeouts.seconds_for_answer()
        if seconds <= 0:
            raise breaks.out_of_time(call)
        try:
            response = await session.request(
                method,
                target,
                data=data,
                headers=sent_headers,
                proxy=self._proxy.reveal() if self._proxy else None,
                allow_redirects=False,
                timeout=self._usual if seconds == timeouts.total else _timeout(timeouts, seconds),
            )
        except (aiohttp.ClientError, OSError) as error:
            if _is_total(error):
                raise breaks.timed_out(call, seconds=seconds, total=timeouts.total) from None
            raise TransportError(replace(call, reason=_why(error), reached=not _was_not_sent(error))) from None
        except (ValueError, TypeError) as error:
            # The request may have left: what cannot be sent is found out before.
            raise TransportError(replace(call, reason=f"{breaks.NO_HTTP} ({type(error).__name__})")) from None
        assert isinstance(response, KeptResponse)
        call = replace(call, status=response.status)
        if breaks.is_error(response.status):
            # The next request would get a copy of it for its answer, and take what was carried out for refused.
            response.provenance.connection.distrusted = True
            body_of_error = await self._error_body(response)
            return RawAnswer(status=response.status, headers=response.headers, body=body_of_error, provenance=response.provenance)
        max_bytes = self._transport.max_response
        try:
            content = await _read(response, max_bytes=max_bytes)
            content = await _decoded(content, response.headers, call, max_bytes=max_bytes, seconds=seconds)
        except BodyTooLargeError:
            response.close()
            raise breaks.too_large(call, max_bytes=max_bytes) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            response.close()
            if _is_total(error):
                raise breaks.timed_out(call, seconds=seconds, total=timeouts.total) from None
            reason = breaks.READ_TIMEOUT if isinstance(error, TimeoutError) else breaks.BROKE_OFF
            raise TransportError(replace(call, reason=reason)) from None
        if method in _READS and response.provenance.is_in_doubt:
            raise TransportError(replace(call, reason=SURPLUS))
        return RawAnswer(status=response.status, headers=response.headers, body=content, provenance=response.provenance)

    async def _error_body(self, response: aiohttp.ClientResponse) -> bytes:
        """Read the body of an error as far as that is worth it."""
        most = min(MAX_ERROR_BODY, self._transport.max_response)
        seconds = self._transport.timeouts.read
        try:
            async with asyncio.timeout(seconds):
                content = await _read(response, max_bytes=most)
            return await _decoded(content, response.headers, RequestContext(api=""), max_bytes=most, seconds=seconds)
        except (ApiError, BodyTooLargeError, aiohttp.ClientError, OSError):
            response.close()
            return b""

    async def close(self) -> None:
        """Close all connections."""
        if (session := self._session) is not None:
            await session.close()

    def _open(self, url: str, call: RequestContext) -> aiohttp.ClientSession:
        route = self._transport.route(url)
        if route.proxy is not None:
            proxy = route.proxy if "://" in route.proxy else f"http://{route.proxy}"
            if not proxy.startswith(tuple(f"{scheme}://" for scheme in _PROXIES)):
                raise TransportError(replace(call, reason="the proxy is neither one of HTTP nor of HTTPS", reached=False))
            self._proxy = Secret(proxy)
        try:
            tls = _tls(route.verify) if url.startswith("https:") else True
        except (OSError, ssl.SSLError) as error:
            reason = f"the CA bundle cannot be read ({type(error).__name__})"
            raise TransportError(replace(call, reason=reason, reached=False)) from None
        session = aiohttp.ClientSession(
            connector=KeptConnections(connections=self._connections, rest=self._rest, ssl=tls),
            response_class=KeptResponse,
            headers=self._transport.headers,
            skip_auto_headers=["Content-Type"],
            cookie_jar=aiohttp.DummyCookieJar(),
            # Bodies are decoded as a `Transport` decodes them. Proxies come with the route, credentials out of no file.
            auto_decompress=False,
            trust_env=False,
        )
        self._sealed = Sealed(session)
        return session


def _timeout(timeouts: Timeouts, seconds: float) -> aiohttp.ClientTimeout:
    """Say how long an answer may take.

    :param seconds: for all of it.
    """
    connect = min(timeouts.connect, seconds)
    # A moment more in all: where the time ends while there is no connection, the error should say that nothing was sent.
    return aiohttp.ClientTimeout(total=seconds + 0.05, connect=connect, sock_connect=connect, sock_read=timeouts.read)


def _is_total(error: Exception) -> bool:
    """Tell whether the time for a whole answer is up, as opposed to the one for a connection or for a silence."""
    return isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ServerTimeoutError)


async def _read(response: aiohttp.ClientResponse, *, max_bytes: int) -> bytes:
    """Read a body, as it came.

    :raises BodyTooLargeError: it is larger than the bound, or announces that it is, before it is read.
    """
    length = response.content_length
    if length is not None and length > max_bytes and not response.content.at_eof():
        raise BodyTooLargeError
    pieces = []
    size = 0
    while piece := await response.content.readany():
        pieces.append(piece)
        size += len(piece)
        if size > max_bytes:
            raise BodyTooLargeError
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _decoded(
    content: bytes, headers: CIMultiDictProxy[str], call: RequestContext, *, max_bytes: int, seconds: float
) -> bytes:
    """Decode a whole body; a larger one in another thread, because the loop has other things to do.

    :param seconds: how long that may take.
    """
    encodings = headers.getall("Content-Encoding", None)
    if not encodings:
        return content
    named = {"Content-Encoding": ", ".join(encodings)}
    bounds = AnswerBounds(seconds=seconds, max_bytes=max_bytes)
    decode = partial(decoded, content, named, call, max_bytes=max_bytes, check_time=bounds.check_time)
    return decode() if len(content) <= _QUICK else await asyncio.to_thread(decode)


def _prepare(
    method: str, url: str, *, headers: Mapping[str, str], params: Mapping[str, str] | None, body: Body
) -> tuple[yarl.URL, Mapping[str, str], Any]:
    """Write a request as `requests` would, without making one where that is not needed."""
    if params or body.json is not None or body.form is not None:
        form = body.form and revealed(body.form)
        made = requests.Request(method, url, params=params, json=body.json, data=body.content or form, headers=dict(headers))
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


def _unfit(error: Exception, call: RequestContext) -> InvalidRequestError:
    return InvalidRequestError(replace(call, reason=f"the request cannot be sent ({type(error).__name__})"))


_WAS_NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    SpokeFirstError,
)
"""Errors that come before the first byte of a request is written: no connection, or none through the proxy, or none of TLS."""


def _was_not_sent(error: Exception) -> bool:
    return isinstance(error, _WAS_NOT_SENT)


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
        case SpokeFirstError():
            return breaks.SPOKE_FIRST
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
