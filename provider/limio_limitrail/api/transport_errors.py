# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What went wrong between this machine and an API, in words that never repeat a library's text, which holds the URL's query."""

from __future__ import annotations

import http.client
import ssl

import requests
import urllib3.exceptions
from msgspec.structs import replace

from limio_limitrail.api.errors import ResponseTooLargeError, TransportError
from limio_limitrail.api.request_context import RequestContext

TLS = "the TLS connection could not be made or verified"
PROXY = "the proxy could not be reached or refused"
NAME = "the host name could not be resolved"
REFUSED = "the connection was refused"
NO_CONNECTION = "no connection could be made"
CONNECT_TIMEOUT = "no connection within the connect timeout"
READ_TIMEOUT = "no response within the read timeout"
BROKE = "the connection broke before a response came"
BROKE_OFF = "the response broke off before its end"
NO_HTTP = "what came is no HTTP response"
UNSOLICITED = "the server sent data or closed the connection before the request was sent"

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
    """Return whether an error came before the first byte of a request was written."""
    return any(isinstance(part, _WAS_NOT_SENT) for part in _chain(error))


def reason_for(error: Exception) -> str:
    """Return what went wrong."""
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
    """Return whether an error of a class led to another one."""
    return any(isinstance(part, kind) for part in _chain(error))


def timed_out(context: RequestContext, *, seconds: float, total: float) -> TransportError:
    """Return the error for a response that took longer than `seconds`, where `total` is the connection's total_timeout."""
    if seconds < total:
        reason = f"the response was not complete within the {seconds:.3g} s that were left for the request with all its tries"
    else:
        remedy = "use a smaller page_size, or raise the connection's total_timeout"
        reason = f"the response was not complete within {seconds:g} s: {remedy}"
    return TransportError(replace(context, reason=reason))


def out_of_time(context: RequestContext) -> TransportError:
    """Return the error for a request for which no time is left."""
    return TransportError(replace(context, reason="no time was left for the request; it was not sent", reached=False))


def too_large(context: RequestContext, *, max_bytes: int) -> ResponseTooLargeError:
    """Return the error for a response that is larger than a bound."""
    return ResponseTooLargeError(replace(context, reason=f"the response is larger than {max_bytes / 1e6:g} MB"))


def _chain(error: Exception) -> list[BaseException]:
    """Return an error and all that led to it, in the ways that the libraries wrap errors."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        reason = getattr(link, "reason", None)
        link = reason if isinstance(reason, BaseException) else (link.__cause__ or link.__context__)
    return chain
