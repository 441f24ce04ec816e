# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Origins of URLs: a credential is sent to one only."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


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
