# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Origins: what a credential may be sent to."""

from __future__ import annotations

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

    :raises ValueError: the URL has no scheme or no host, or a port that is no number.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if not scheme or not parts.hostname:
        raise ValueError("not an absolute URL")
    return Origin(scheme=scheme, host=parts.hostname.lower(), port=parts.port or _DEFAULT_PORTS.get(scheme))


def is_loopback(host: str) -> bool:
    """Tell whether a host name means this machine, the one place where plain http is fit for credentials."""
    return host in {"localhost", "::1"} or (host.startswith("127.") and host.replace(".", "").isdigit())
