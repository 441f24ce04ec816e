# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What broke between this machine and an API, in words that never repeat a library's text, which holds the URL with its query."""

from __future__ import annotations

import http.client
import io
import ssl
from collections.abc import Mapping
from dataclasses import replace

import requests
import urllib3
import urllib3.exceptions

from limio_limitrail.api.errors import ApiError, Failure, ProtocolError, TransportError

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

_ENCODINGS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd"})

_NEVER_LEFT = (
    urllib3.exceptions.NameResolutionError,
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.ProxyError,
    requests.exceptions.ConnectTimeout,
    requests.exceptions.ProxyError,
    ssl.SSLCertVerificationError,
)
"""Errors that come before the first byte of a request is written."""


def never_left(error: Exception) -> bool:
    """Tell whether an error came before the first byte of a request was written."""
    return any(isinstance(part, _NEVER_LEFT) for part in _chain(error))


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
        ((requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError), READ_TIMEOUT),
        ((urllib3.exceptions.IncompleteRead, http.client.IncompleteRead), BROKE_OFF),
        ((ConnectionResetError, BrokenPipeError, ConnectionAbortedError), BROKE),
        ((http.client.HTTPException,), NO_HTTP),
    )
    for classes, text in kinds:
        if any(isinstance(part, classes) for part in chain):
            return text
    return f"the connection broke ({type(chain[-1]).__name__})"


def broken_body(error: Exception, call: Failure, headers: Mapping[str, str]) -> ApiError:
    """Tell a body that broke off, which another try may mend, from one that never was what its headers say."""
    if isinstance(error, urllib3.exceptions.DecodeError):
        # Only names that are known: a header may hold anything.
        named = {name.strip().lower() for name in headers.get("Content-Encoding", "").split(",")} & _ENCODINGS
        encoding = ", ".join(sorted(named)) or "of its headers"
        return ProtocolError(replace(call, reason=f"expected a body in the content encoding {encoding}, found one that is not"))
    said = why(error)
    return TransportError(replace(call, reason=BROKE_OFF if said in (BROKE, NO_HTTP) else said))


def decoded(content: bytes, headers: Mapping[str, str], call: Failure) -> bytes:
    """Decode a whole body as its headers say.

    :raises ProtocolError: it is not encoded so.
    """
    encoding = headers.get("Content-Encoding")
    if not encoding:
        return content
    whole = urllib3.HTTPResponse(io.BytesIO(content), headers={"Content-Encoding": encoding}, preload_content=False)
    try:
        return whole.read(decode_content=True)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise broken_body(error, call, headers) from None


def _chain(error: Exception) -> list[BaseException]:
    """Give an error and all that led to it, in the ways that the libraries wrap errors."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        reason = getattr(link, "reason", None)
        link = reason if isinstance(reason, BaseException) else (link.__cause__ or link.__context__)
    return chain
