# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Addresses of databases, stores and lists, without credentials.

A host may be a whole URI, a connection string or a token behind a question mark, each of them percent-encoded. This is an allow
list: a part of an address that is not known to be harmless becomes `UNREADABLE`.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import unquote

from limio_limitrail.lazy import lazy_pattern

UNREADABLE = "***"
"""Replaces an address, or a part of one, that may be a credential."""

_MAX_DECODING = 8
"""How often text is percent-decoded; nothing that people write needs more than two."""

_MAX_LENGTH = 4_096
"""Characters of an address; longer ones are refused."""

_SCHEME = lazy_pattern(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_PREFIX = lazy_pattern(r"(?i)(md|motherduck|file|sqlite|duckdb|ducklake|quack|postgres|postgresql|mysql):(?!//)(.*)", re.DOTALL)
_LOCAL = lazy_pattern(r"/|\./|\.\./|~|:memory:|[A-Za-z]:[\\/]")
_PAIRS = lazy_pattern(r"([A-Za-z_][\w ]*?)\s*=\s*('(?:\\.|[^'\\])*'|\"[^\"]*\"|(?:\\.|[^\s;\\])*)[\s;]*", re.DOTALL)
_PAIR_FIRST = lazy_pattern(r"\s*[A-Za-z_][\w ]*?\s*=")
_TAIL = lazy_pattern(r"\?|[#;&\s](?=\s*[\w. -]+=)")
_QUERY = lazy_pattern(r"[?#;&]\s*[\w.%-]+=")
_HOST = lazy_pattern(r"[\w.-]*(:\d{1,5})?")
_IPV6 = lazy_pattern(r"\[?([0-9A-Fa-f:.]+)\]?(:\d{1,5})?")
_CONTAINER = lazy_pattern(r"[a-z0-9$-]{1,63}")
_FILE_PATH = lazy_pattern(r"[^\x00-\x1f\x7f?]*")
_SECRET_PAIR = lazy_pattern(
    r"(?i)([\w-]*(?:passw(?:or)?d|pwd|passphrase|token|secret|signature|\bsig|key|credential|\bsas)[\w-]*\s*[=:]\s*)"
    r"('(?:\\.|[^'\\])*'|[^\s;&'\"]+)"
)
_AZURE = frozenset({"abfs", "abfss", "adl", "wasb", "wasbs", "az"})
_FILES = frozenset({"file", "local"})
_HOST_NAMES = ("host", "hostaddr", "server", "data source", "address", "addr")


def without_credentials(address: str) -> str:
    """Return an address without users, passwords, tokens, queries and fragments.

    Hosts, ports, buckets, containers of Azure's stores and paths stay, and so does the spelling if nothing was removed.

    :param address: a URI, a host with or without a port, a path, or a connection string such as ``host=... password=...``.
    """
    text = _decoded(address.strip()) if len(address) <= _MAX_LENGTH else None
    if text is None:
        return UNREADABLE
    left = _address(text)
    return address.strip() if left == text else left


def mask_credentials(text: str) -> str:
    """Mask the values of named credentials in a sentence, such as ``motherduck_token=...``."""
    return _SECRET_PAIR.sub(rf"\1{UNREADABLE}", text[:_MAX_LENGTH])


def database_name(name: str) -> str:
    """Return a database's name; `UNREADABLE` for what is a URI or a connection string, as libpq takes them in its place."""
    text = _decoded(name)
    return UNREADABLE if text is None or "://" in text or re.search(r"[=@?;]", text) else name


def _decoded(text: str) -> str | None:
    """Percent-decode a text until it stays the same; return None if that takes too long."""
    for _ in range(_MAX_DECODING):
        decoded = unquote(text, errors="replace")
        if decoded == text:
            return text
        text = decoded
    return None


def _address(text: str) -> str:
    if found := _SCHEME.fullmatch(text):
        scheme = found[1].lower()
        return f"{scheme}://{_path(found[2]) if scheme in _FILES else _netloc(found[2], scheme=scheme)}"
    if found := _PREFIX.fullmatch(text):
        return f"{found[1].lower()}:{_address(found[2])}"
    if _LOCAL.match(text):
        return _path(text)
    return _connection_string(text) if _PAIR_FIRST.match(text) else _netloc(text)


def _connection_string(text: str) -> str:
    pairs = {name.strip().lower(): value.strip("'\"") for name, value in _PAIRS.findall(text)}
    host = next((pairs[name] for name in _HOST_NAMES if pairs.get(name)), "")
    port = pairs.get("port", "")
    if _LOCAL.match(host):
        return _path(host)
    return _harmless(f"{host}:{port}" if port and host else host) if host else UNREADABLE


def _netloc(text: str, *, scheme: str = "") -> str:
    """Return what is left of a host, with the user before it and the path and the query behind it."""
    before, at, rest = text.partition("@")
    first, slash, _ = before.partition("/")
    user = ""
    if at and not _QUERY.search(before) and (not slash or ":" in first):
        if scheme in _AZURE and _CONTAINER.fullmatch(before) and "." in rest.partition("/")[0]:
            user = f"{before}@"  # a container, as in abfss://container@account.dfs...
        # A password may hold whatever begins a path, a query, a fragment or a host elsewhere.
        text = text.rpartition("@")[2] if ":" in before else _after_last_user(rest)
    host, slash, path = _TAIL.split(text, maxsplit=1)[0].partition("#")[0].partition("/")
    host = _harmless(host)
    return host if host == UNREADABLE else user + host + slash + _path(path)


def _after_last_user(text: str) -> str:
    authority, slash, path = text.partition("/")
    return authority.rpartition("@")[2] + slash + path


def _harmless(hosts: str) -> str:
    """Return the text if it is a host, or some of them, with or without a port."""
    return hosts if all(_is_host(host) for host in hosts.split(",")) else UNREADABLE


def _is_host(host: str) -> bool:
    if _HOST.fullmatch(host) or host.lower().startswith("arn:aws"):
        return True
    found = _IPV6.fullmatch(host)
    try:
        return found is not None and ip_address(found[1]).version == 6
    except ValueError:
        return False


def _path(text: str) -> str:
    path = _TAIL.split(text, maxsplit=1)[0]
    return mask_credentials(path) if _FILE_PATH.fullmatch(path) else UNREADABLE
