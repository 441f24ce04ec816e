# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What the environment says of proxies and CA bundles, checked before it is used: the libraries' own errors quote passwords."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests.utils
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

PROXY_ADDRESS = (
    "the address of the environment's proxy cannot be used: give http://host:port, with a user and a password before the host, "
    "percent-encoded, where it needs them"
)
SOCKS_PROXY = "the environment's proxy is one of SOCKS, which needs the package PySocks: install it, or use one of HTTP"
CA_BUNDLE = "the CA bundle that verify, REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names is not there"

_SOCKS = frozenset({"socks4", "socks4a", "socks5", "socks5h"})


class UnusableError(Exception):
    """The environment's settings cannot be used. The text says which, and quotes none."""


def check_settings(url: str, settings: Mapping[str, Any]) -> None:
    """Raise `UnusableError` if the settings for a URL cannot be used.

    :param settings: as `requests.Session.merge_environment_settings` returns them.
    """
    check_proxy(url, settings["proxies"])
    bundle = settings["verify"]
    if url.lower().startswith("https:") and isinstance(bundle, str) and not _is_there(bundle):
        raise UnusableError(CA_BUNDLE)


def check_proxy(url: str, proxies: Mapping[str, str]) -> None:
    """Raise `UnusableError` if the proxy for a URL cannot be used."""
    proxy = requests.utils.select_proxy(url, proxies)
    if not proxy:
        return
    try:
        # As requests reads it, in two ways.
        urlsplit(proxy)
        parts = parse_url(requests.utils.prepend_scheme_if_needed(proxy, "http"))  # type: ignore[no-untyped-call]
    except (LocationParseError, TypeError, ValueError):
        parts = None
    # Of a password with a slash, a part of it would be the host's port, and the rest a path.
    if parts is None or not parts.host or "@" in (parts.request_uri + (parts.fragment or "")):
        raise UnusableError(PROXY_ADDRESS)
    if parts.scheme in _SOCKS:
        if find_spec("socks") is None:
            raise UnusableError(SOCKS_PROXY)
    elif parts.scheme not in {"http", "https"}:
        raise UnusableError(PROXY_ADDRESS)


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # no system has such a path
        return False
