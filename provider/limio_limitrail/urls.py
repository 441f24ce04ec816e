# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""URLs that every server, proxy and library reads alike: their paths, and the one origin that a credential is sent to.

``/a/%2e%2e/b`` is ``/b`` to some and a path of three parts to others, and libraries themselves decode and shorten it before they
send it. Such a path is not sent.
"""

from __future__ import annotations

import re
import unicodedata
from ipaddress import ip_address
from urllib.parse import unquote_to_bytes, urlsplit

from limio_limitrail.lazy import lazy_pattern

_MAX_DECODING = 8
"""How often a path is percent-decoded; one that needs more is refused."""

_QUICK = lazy_pattern(r"(?:/[A-Za-z0-9_~!$&'()*+,=:@{}-][A-Za-z0-9._~!$&'()*+,=:@{}-]*)+/?")
"""Nearly all paths: no percent sign, no part that begins with a dot."""

_NOT_RAW = lazy_pattern(r"[\\?#\s\x00-\x1f\x7f]")
_CONTROL = lazy_pattern(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = lazy_pattern(r"[\ud800-\udfff]")
_PARTS = lazy_pattern(r"[/\\]")
_PERCENT_U = lazy_pattern(r"%u[0-9A-Fa-f]{4}", re.IGNORECASE)
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-{")
_ROOT_DOT = lazy_pattern(r"\.(?=(?::[0-9]+)?\Z)")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def unfit_path(path: str) -> str | None:
    """Return why a whole path, percent-encoded, cannot be requested; None where it can. It may have placeholders."""
    if _QUICK.fullmatch(path):
        return None
    if not path.startswith("/") or path.startswith("//"):
        return "it must begin with exactly one slash"
    if _NOT_RAW.search(path):
        return "it holds a query, a fragment, a backslash, white space or a control character that is not percent-encoded"
    return _unfit_text(path)


def unfit_part(value: str) -> str | None:
    """Return why a value, such as an id, cannot be put into a path, percent-encoded; None where it can."""
    return "it is empty" if not value else _unfit_text(value)


def unfit_target(location: str, *, path: str) -> str | None:
    """Return why a redirect cannot be followed; None where it can. Unencoded dots are allowed: everybody reads them alike.

    :param location: the ``Location`` header.
    :param path: the path that it leads to.
    """
    parts = urlsplit(location).path.split("/")
    found = (_unfit_text(part) for part in parts if part not in {".", ".."})
    return next((unfit for unfit in found if unfit is not None), None) or (unfit_path(path) if path else None)


def _unfit_text(text: str) -> str | None:
    if _SURROGATE.search(text):
        return "it holds half a surrogate pair"
    for _ in range(_MAX_DECODING):
        if _CONTROL.search(text):
            return "it holds a control character"
        if _PERCENT_U.search(text):
            return "it holds %u, which servers read in different ways"
        if any(_is_dots(part) for part in _PARTS.split(text)):
            return "a part of it is . or .., encoded or not, and would lead to another path"
        if "%" not in text:
            return None
        try:
            decoded = unquote_to_bytes(text).decode()
        except UnicodeDecodeError:
            return "what is percent-encoded in it is not UTF-8"
        if decoded == text:
            return None
        text = decoded
    return "it is percent-encoded over and over again"


def _is_dots(part: str) -> bool:
    """Return whether some server reads a part as . or ..: without what is behind a semicolon, and in Unicode's other dots."""
    return part[:1] not in _PLAIN and unicodedata.normalize("NFKC", part).partition(";")[0].strip() in {".", ".."}


def origin_of(url: str) -> str:
    """Return a URL's origin: scheme, host and port, the port left out where it is the scheme's own.

    :raises ValueError: the URL has no scheme or no host, a port that is no number, or characters that parsers disagree on.
    """
    # Parsers disagree on the host of "http://evil\\@app", and on white space: what is checked must be what is requested.
    if "\\" in url or not url.isprintable() or " " in url:
        raise ValueError("a URL with a backslash, white space or a control character")
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("a URL with a user in it")
    scheme = parts.scheme.lower()
    if not scheme or not parts.hostname:
        raise ValueError("not an absolute URL")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = parts.port or _DEFAULT_PORTS.get(scheme)
    return f"{scheme}://{host.lower()}" + ("" if port == _DEFAULT_PORTS.get(scheme) else f":{port}")


def host_identity(url: str) -> str:
    """Return a URL's origin without the dot that a complete host name may end with: the same text for the same host.

    :raises ValueError: as `origin_of`.
    """
    return _ROOT_DOT.sub("", origin_of(url))


def same_origin(url: str | None, origin: str) -> bool:
    """Return whether a URL is on an origin; False for one that cannot be read."""
    try:
        return url is not None and origin_of(url) == origin
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Return whether a host name means this machine, to which alone credentials may go over plain http."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
