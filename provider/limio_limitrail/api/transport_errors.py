# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What broke between this machine and an API, in words that never repeat a library's text, which holds the URL with its query."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Mapping
from dataclasses import replace

import requests
import urllib3.exceptions

from limio_limitrail.api.content_encoding import BodyEncodingError, BodyTooLargeError, decode_body
from limio_limitrail.api.errors import ProtocolError, RequestContext, ResponseTooLargeError, TransportError

TLS = "the TLS connection could not be made or verified"
PROXY = "the proxy could not be reached or refused"
NAME = "the host name could not be resolved"
REFUSED = "the connection was refused"
NO_CONNECTION = "no connection could be made"
CONNECT_TIMEOUT = "no connection within the connect timeout"
READ_TIMEOUT = "no answer within the read timeout"
BROKE = "the connection broke before an answer came"
BROKE_OFF = "the answer broke off before its end"
NO_HTTP = "what came is no HTTP answer"
SPOKE_FIRST = "the server sent something, or hung up, before it was asked"

_WAS_NOT_SENT = (
    urllib3.exceptions.NameResolutionError,
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.ProxyError,
    requests.exceptions.ConnectTimeout,
    requests.exceptions.ProxyError,
    ssl.SSLCertVerificationError,
)
"""Errors that come before the first byte of a request is written."""


def was_not_sent(error: Exception) -> bool:
    """Tell whether an error came before the first byte of a request was written."""
    return any(isinstance(part, _WAS_NOT_SENT) for part in _chain(error))


def why(error: Exception) -> str:
    """Say what broke."""
    chain = _chain(error)
    kinds = (
        ((requests.exceptions.SSLError, urllib3.exceptions.SSLError), TLS),
        ((requests.exceptions.ProxyError, urllib3.exceptions.ProxyError), PROXY),
        ((urllib3.exceptions.NameResolutionError,), NAME),
        ((ConnectionRefusedError,), REFUSED),
        # A kind of connect timeout to urllib3, though it is none: asked for first.
        ((urllib3.exceptions.NewConnectionError,), NO_CONNECTION),
        ((requests.exceptions.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError), CONNECT_TIMEOUT),
        ((requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError), READ_TIMEOUT),
        ((urllib3.exceptions.IncompleteRead, http.client.IncompleteRead), BROKE_OFF),
        ((ConnectionResetError, BrokenPipeError, ConnectionAbortedError), BROKE),
        ((http.client.HTTPException, urllib3.exceptions.InvalidHeader), NO_HTTP),
    )
    for classes, text in kinds:
        if any(isinstance(part, classes) for part in chain):
            return text
    return f"the connection broke ({type(chain[-1]).__name__})"


def was_caused_by(error: Exception, kind: type[BaseException]) -> bool:
    """Tell whether an error of a kind stands behind another one."""
    return any(isinstance(part, kind) for part in _chain(error))


def is_error(status: int) -> bool:
    """Tell whether a status says enough, whatever becomes of the body."""
    return not 200 <= status < 300


def timed_out(call: RequestContext, *, seconds: float, total: float) -> TransportError:
    """Make the error for an answer that took too long.

    :param seconds: what it was given.
    :param total: what the connection gives an answer.
    """
    if seconds < total:
        reason = f"the answer was not whole within the {seconds:.3g} s that were left for the request with all its tries"
    else:
        remedy = "use a smaller page_size, or raise the connection's total_timeout"
        reason = f"the answer was not whole within {seconds:g} s: {remedy}"
    return TransportError(replace(call, reason=reason))


def out_of_time(call: RequestContext) -> TransportError:
    """Make the error for a request that is not sent any more."""
    return TransportError(replace(call, reason="no time was left for the request; it was not sent", reached=False))


def too_large(call: RequestContext, *, max_bytes: int) -> ResponseTooLargeError:
    """Make the error for an answer that is larger than a bound."""
    return ResponseTooLargeError(replace(call, reason=f"the answer is larger than {max_bytes / 1e6:g} MB"))


def decoded(
    content: bytes,
    headers: Mapping[str, str],
    call: RequestContext,
    *,
    max_bytes: int,
    check_time: Callable[[], object] = lambda: None,
) -> bytes:
    """Decode a whole body as its headers say.

    :param max_bytes: the largest body.
    :param check_time: called now and then; what it raises ends the work.
    :raises ProtocolError: it is not encoded so.
    :raises ResponseTooLargeError: it is larger.
    """
    encoding = headers.get("Content-Encoding")
    if not encoding:
        return content
    try:
        return decode_body(content, encoding, max_bytes=max_bytes, check_time=check_time)
    except BodyTooLargeError:
        raise too_large(call, max_bytes=max_bytes) from None
    except BodyEncodingError as error:
        raise ProtocolError(replace(call, reason=str(error))) from None


def _chain(error: Exception) -> list[BaseException]:
    """Give an error and all that led to it, in the ways that the libraries wrap errors."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        reason = getattr(link, "reason", None)
        link = reason if isinstance(reason, BaseException) else (link.__cause__ or link.__context__)
    return chain
