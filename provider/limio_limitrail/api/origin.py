# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Origins: what a credential may be sent to."""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Scheme, host and port: two URLs with the same three are the same place."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        port = "" if self.port == _DEFAULT_PORTS.get(self.scheme) else f":{self.port}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{port}"


def origin_of(url: str) -> Origin:
    """Read a URL's origin.

    :raises ValueError: the URL has no scheme or no host, a port that is no number, or characters that parsers disagree on.
    """
    # Parsers take "http://evil\\@app" for different hosts, and drop white space or keep it: what is judged must be what is asked.
    if "\\" in url or not url.isprintable() or " " in url:
        raise ValueError("a URL with a backslash, white space or a control character")
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("a URL with a user in it")
    scheme = parts.scheme.lower()
    if not scheme or not parts.hostname:
        raise ValueError("not an absolute URL")
    return Origin(scheme=scheme, host=parts.hostname.lower(), port=parts.port or _DEFAULT_PORTS.get(scheme))


def same_origin(url: str | None, origin: Origin) -> bool:
    """Tell whether a URL lies on an origin; one that cannot be read lies nowhere."""
    try:
        return url is not None and origin_of(url) == origin
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Tell whether a host name means this machine, the one place where plain http is fit for credentials."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
