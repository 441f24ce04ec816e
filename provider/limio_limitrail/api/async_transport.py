# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""HTTP of an event loop: one `aiohttp.ClientSession` with the guarantees and the settings of a `Transport`."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import aiohttp
import requests
import requests.utils
import yarl
from msgspec.structs import replace
from multidict import CIMultiDictProxy
from urllib3.util.ssl_ import create_urllib3_context

from limio_limitrail.api import transport_errors
from limio_limitrail.api.bounded_http import ResponseBounds
from limio_limitrail.api.content_encoding import BodyTooLargeError, decode_body
from limio_limitrail.api.errors import ApiError, InvalidRequestError, TransportError
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.responses import SURPLUS, Response
from limio_limitrail.api.secret import Sealed, Secret, revealed
from limio_limitrail.api.tracked_connections import RestedResponse, TrackedConnector, TrackedResponse, UnsolicitedDataError
from limio_limitrail.api.transport import MAX_ERROR_BODY, Timeouts, Transport
from limio_limitrail.bare_errors import raises_bare_async

_DECODED_IN_LOOP = 1 << 16
"""Bytes that are decoded in the loop."""
_READS = frozenset({"GET", "HEAD"})
_SET_BY_AIOHTTP = frozenset({"connection", "content-length", "host", "transfer-encoding"})
"""Headers that say how a request is written."""


class AsyncTransport:
    """Exchange requests for responses over kept-alive connections, for one event loop.

    A POST is sent once, whatever happens. (aiohttp itself repeats reads, PUT and DELETE where a kept connection turns out to be
    closed.)

    :param transport: has the settings.
    :param connections: the most requests at once, each over a connection of its own.
    :param rest: seconds in which a connection is not used again after a response. An API that sends a response twice is noticed
        in that time, before the second one can be assigned to the next request.
    """

    def __init__(self, transport: Transport, *, connections: int, rest: float = 0.0) -> None:
        self._transport = transport
        self._connections = connections
        self._rest = rest
        self._defaults = tuple(transport.headers.items())
        # A proxy's password is in both.
        self._sealed: Sealed[aiohttp.ClientSession] | None = None
        self._proxy: Secret | None = None

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
        context: RequestContext,
        params: Mapping[str, str] | None = None,
        json: object = None,
        content: bytes | None = None,
    ) -> Response:
        """Send one request and read its response to the end; the parameters and errors are those of `Transport.exchange`.

        A read whose response may belong to an earlier request raises a `TransportError`. The sender of a write checks the
        response's provenance, now and later on.
        """
        try:
            target, sent_headers, data = _prepare(
                method, url, headers=revealed(headers), params=params, json=json, content=content
            )
        except (requests.exceptions.RequestException, ValueError, TypeError, RecursionError, OverflowError) as error:
            raise InvalidRequestError(replace(context, reason=f"the request cannot be sent ({type(error).__name__})")) from None
        session = self._session or self._open(url, context)
        timeouts = self._transport.timeouts
        seconds = timeouts.seconds_for_response()
        if seconds <= 0:
            raise transport_errors.out_of_time(context)
        try:
            response: aiohttp.ClientResponse | RestedResponse | None = None
            if method == "POST" and isinstance(data, bytes) and self._proxy is None:
                response = await self._post(session, target, sent_headers, data, seconds=seconds)
            if response is None:
                response = await session.request(
                    method,
                    target,
                    data=data,
                    headers=sent_headers,
                    proxy=self._proxy.reveal() if self._proxy else None,
                    allow_redirects=False,
                    timeout=_timeout(timeouts, seconds),
                )
        except (aiohttp.ClientError, OSError) as error:
            if _is_total(error):
                raise transport_errors.timed_out(context, seconds=seconds, total=timeouts.total) from None
            reached = not isinstance(error, _WAS_NOT_SENT)
            raise TransportError(replace(context, reason=_reason_for(error), reached=reached)) from None
        except (ValueError, TypeError) as error:
            # The request may have been sent: what cannot be sent is detected before.
            raise TransportError(replace(context, reason=f"{transport_errors.NO_HTTP} ({type(error).__name__})")) from None
        assert isinstance(response, (TrackedResponse, RestedResponse))
        try:
            received = await self._receive(response, context, seconds=seconds)
        except BaseException:
            # Also where the request is cancelled: otherwise its connection would be in use until the rest of the body has come.
            response.close()
            raise
        if method in _READS and received.provenance is not None and received.provenance.is_in_doubt:
            raise TransportError(replace(context, status=response.status, reason=SURPLUS))
        return received

    async def _receive(self, response: TrackedResponse | RestedResponse, context: RequestContext, *, seconds: float) -> Response:
        """Read a response to its end."""
        if not 200 <= response.status < 300:
            # The next request would get a copy of it for its response, and take what was carried out for refused.
            response.provenance.connection.distrusted = True
            body_of_error = await self._error_body(response)
            return Response(status=response.status, headers=response.headers, body=body_of_error, provenance=response.provenance)
        max_bytes = self._transport.max_response
        try:
            received = await _read(response.content, response.headers, max_bytes=max_bytes)
            if "Content-Encoding" in response.headers:
                known = replace(context, status=response.status)
                received = await _decoded(received, response.headers, known, max_bytes=max_bytes, seconds=seconds)
        except BodyTooLargeError:
            context = replace(context, status=response.status)
            raise transport_errors.too_large(context, max_bytes=max_bytes) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            context = replace(context, status=response.status)
            if _is_total(error):
                raise transport_errors.timed_out(context, seconds=seconds, total=self._transport.timeouts.total) from None
            reason = transport_errors.READ_TIMEOUT if isinstance(error, TimeoutError) else transport_errors.BROKE_OFF
            raise TransportError(replace(context, reason=reason)) from None
        return Response(status=response.status, headers=response.headers, body=received, provenance=response.provenance)

    async def _post(
        self, session: aiohttp.ClientSession, target: yarl.URL, headers: Mapping[str, str], content: bytes, *, seconds: float
    ) -> RestedResponse | None:
        """Send a POST over a connection that has rested; return None if there is none, or its headers are not plain."""
        assert isinstance(session.connector, TrackedConnector)
        first_lines = _first_lines(target, defaults=self._defaults, names=tuple(headers))
        values = "".join(headers.values())
        if first_lines is None or not (values.isascii() and values.isprintable()):
            return None
        if (connection := await session.connector.take_rested(_origin(target))) is None:
            return None
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"{first_lines}{lines}Content-Length: {len(content)}\r\n\r\n".encode("ascii")
        return await connection.exchange(head + content, read_timeout=self._transport.timeouts.read, total=seconds)

    async def _error_body(self, response: TrackedResponse | RestedResponse) -> bytes:
        max_bytes = min(MAX_ERROR_BODY, self._transport.max_response)
        seconds = self._transport.timeouts.read
        try:
            async with asyncio.timeout(seconds):
                content = await _read(response.content, response.headers, max_bytes=max_bytes)
            return await _decoded(content, response.headers, RequestContext(api=""), max_bytes=max_bytes, seconds=seconds)
        except (ApiError, BodyTooLargeError, aiohttp.ClientError, OSError):
            response.close()
            return b""

    async def close(self) -> None:
        """Close all connections."""
        if (session := self._session) is not None:
            await session.close()

    def _open(self, url: str, context: RequestContext) -> aiohttp.ClientSession:
        proxy, verify = self._transport.route(url, context)
        if proxy is not None:
            proxy = proxy if "://" in proxy else f"http://{proxy}"
            if not proxy.startswith(("http://", "https://")):
                raise TransportError(replace(context, reason="the proxy is neither one of HTTP nor of HTTPS", reached=False))
            self._proxy = Secret(proxy)
        try:
            tls = _tls(verify) if url.startswith("https:") else True
        except (OSError, ssl.SSLError) as error:
            reason = f"the CA bundle cannot be read ({type(error).__name__})"
            raise TransportError(replace(context, reason=reason, reached=False)) from None
        session = aiohttp.ClientSession(
            connector=TrackedConnector(connections=self._connections, rest=self._rest, ssl=tls),
            response_class=TrackedResponse,
            headers=self._transport.headers,
            skip_auto_headers=["Content-Type"],
            cookie_jar=aiohttp.DummyCookieJar(),
            # Bodies are decoded as a `Transport` decodes them. Proxies come with the route, credentials out of no file.
            auto_decompress=False,
            trust_env=False,
        )
        self._sealed = Sealed(session)
        return session


@lru_cache(maxsize=8)
def _timeout(timeouts: Timeouts, seconds: float) -> aiohttp.ClientTimeout:
    """Return the timeouts of a response that may take a number of seconds in all. As long as no deadline is near, they are the
    same for all."""
    connect = min(timeouts.connect, seconds)
    # A moment more in all: if the time ends while there is no connection, the error should say that nothing was sent.
    return aiohttp.ClientTimeout(total=seconds + 0.05, connect=connect, sock_connect=connect, sock_read=timeouts.read)


def _is_total(error: Exception) -> bool:
    """Return whether the time for a whole response is up, as opposed to that for a connection or for one read."""
    return isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ServerTimeoutError)


async def _read(content: aiohttp.StreamReader, headers: Mapping[str, str], *, max_bytes: int) -> bytes:
    """Return a body as it came; raise `BodyTooLargeError` if it, or its Content-Length, is larger than the bound."""
    if content.is_eof() and content.total_bytes <= max_bytes:
        # It came together with its head, as most do.
        return content.read_nowait()
    if int(headers.get("Content-Length", 0)) > max_bytes and not content.at_eof():
        raise BodyTooLargeError
    pieces = []
    size = 0
    while piece := await content.readany():
        pieces.append(piece)
        size += len(piece)
        if size > max_bytes:
            raise BodyTooLargeError
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _decoded(
    content: bytes, headers: CIMultiDictProxy[str], context: RequestContext, *, max_bytes: int, seconds: float
) -> bytes:
    """Decode a whole body within some seconds, a large one in a thread, so that the loop is not blocked."""
    encodings = headers.getall("Content-Encoding", None)
    if not encodings:
        return content
    bounds = ResponseBounds(seconds=seconds, max_bytes=max_bytes)
    decode = partial(decode_body, content, ", ".join(encodings), context, max_bytes=max_bytes, check_time=bounds.check_time)
    return decode() if len(content) <= _DECODED_IN_LOOP else await asyncio.to_thread(decode)


def _prepare(
    method: str, url: str, *, headers: Mapping[str, str], params: Mapping[str, str] | None, json: object, content: bytes | None
) -> tuple[yarl.URL, Mapping[str, str], Any]:
    """Write a request as `requests` would, without making one where that is not needed."""
    if params or json is not None:
        prepared = requests.Request(method, url, params=params, json=json, data=content, headers=dict(headers)).prepare()
        assert prepared.url is not None
        prepared.headers.pop("Content-Length", None)
        return yarl.URL(prepared.url, encoded=True), prepared.headers, prepared.body
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable() and value[:1] != " " and _is_plain_name(name)):
            requests.utils.check_header_validity((name, value))
    return _target(url), headers, content


@lru_cache(maxsize=256)
def _is_plain_name(name: str) -> bool:
    """Return whether `requests` certainly takes the name of a header."""
    return name.isascii() and name.replace("-", "").isalnum()


@lru_cache(maxsize=256)
def _origin(target: yarl.URL) -> tuple[str, int, bool]:
    """Return the origin of a URL as a connector knows it."""
    return target.raw_host or "", target.port or 0, target.scheme == "https"


@lru_cache(maxsize=256)
def _first_lines(target: yarl.URL, *, defaults: tuple[tuple[str, str], ...], names: tuple[str, ...]) -> str | None:
    """Return what a POST begins with, up to its own headers; None where one of these says how a request is written."""
    own = {name.lower() for name in names}
    if not own.isdisjoint(_SET_BY_AIOHTTP):
        return None
    host = (target.raw_host or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    port = "" if target.is_default_port() else f":{target.port}"
    lines = (f"{name}: {value}\r\n" for name, value in defaults if name.lower() not in own)
    return f"POST {target.raw_path_qs} HTTP/1.1\r\nHost: {host}{port}\r\n{''.join(lines)}"


@lru_cache(maxsize=256)
def _target(url: str) -> yarl.URL:
    prepared = requests.PreparedRequest()
    prepared.prepare_url(url, None)
    assert prepared.url is not None
    return yarl.URL(prepared.url, encoded=True)


def _tls(verify: bool | str) -> ssl.SSLContext:
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


_WAS_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.ConnectionTimeoutError, UnsolicitedDataError)
"""Errors that come before the first byte of a request is written: no connection, or none through the proxy, or none of TLS."""


def _reason_for(error: Exception) -> str:
    """Return what went wrong before the headers of a response had come, in the words of `transport_errors.reason_for`."""
    match error:
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return transport_errors.TLS
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return transport_errors.PROXY
        case aiohttp.ClientConnectorError():
            if isinstance(error.os_error, socket.gaierror):
                return transport_errors.NAME
            return transport_errors.REFUSED if error.os_error.errno == errno.ECONNREFUSED else transport_errors.NO_CONNECTION
        case UnsolicitedDataError():
            return transport_errors.UNSOLICITED
        case aiohttp.ConnectionTimeoutError():
            return transport_errors.CONNECT_TIMEOUT
        case TimeoutError():
            return transport_errors.READ_TIMEOUT
        case aiohttp.ServerDisconnectedError() | ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            return transport_errors.BROKE
        case aiohttp.ClientOSError() if error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED):
            return transport_errors.BROKE
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return transport_errors.NO_HTTP
    return f"the connection broke ({type(error).__name__})"
