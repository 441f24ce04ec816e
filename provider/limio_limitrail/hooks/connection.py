# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The fields of an Airflow connection: read, checked, and with a message of their own if they are wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import msgspec

from limio_limitrail.api.errors import ConnectionFieldError
from limio_limitrail.api.query import CLIENT
from limio_limitrail.api.redact import remember_secret
from limio_limitrail.api.resource import AuthMode
from limio_limitrail.api.retry import DEFAULT_MAX_RESPONSE, DEFAULT_TOTAL_TIMEOUT, RetryLimits
from limio_limitrail.api.secret import Secret
from limio_limitrail.urls import host_identity, is_loopback, origin_of, unfit_part, unfit_path

if TYPE_CHECKING:
    from airflow.sdk import Connection

DEFAULT_READ_TIMEOUT = 60.0
"""Seconds between two pieces of an answer; neither API documents a timeout of its own."""

HTTPS_PORT = 443
ANY_PAGE = "*"
"""The key of the page of everything that has no page of its own."""

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LAST_PORT = 65_535


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a client, read from a connection.

    :param app_url: scheme and host of the app, without a path.
    :param read_timeout: seconds between two pieces of an answer.
    :param total_timeout: seconds for one answer, from the first byte sent to the last byte read.
    :param max_response: bytes of the largest answer, decoded.
    :param page_size: records to ask for a page; none where the caller's default counts.
    :param verify: True, False, or the path of a CA bundle.
    :param pages: where links lead to, as what it is about and a path or a URL.
    """

    app_url: str
    auth_url: str
    auth_mode: AuthMode
    client_id: str
    secret: Secret
    read_timeout: float
    total_timeout: float
    max_response: int
    page_size: int | None
    verify: bool | str
    pages: tuple[tuple[str, str], ...] = ()

    def owner(self) -> dict[str, str]:
        """Return what decides whose lists these are, by name. Nothing in it is secret.

        The token endpoint and scopes do not: they may change for the same tenant. A key has no client. However the host is
        spelled, it is the same tenant.
        """
        client = {} if self.auth_mode is AuthMode.API_KEY else {CLIENT: self.client_id}
        return {"base URL": host_identity(self.app_url), **client}


def retry_limits(settings: Settings) -> RetryLimits:
    """Return the retry limits of a request: if one response may take long, there must be time for another try."""
    usual = RetryLimits()
    return msgspec.structs.replace(usual, budget=max(usual.budget, 2 * settings.total_timeout))


class Fields:
    """A connection's fields, each read with a message of its own where it does not fit."""

    def __init__(self, connection: Connection) -> None:
        self._conn_id = connection.conn_id
        self._connection = connection
        self._extra: Mapping[str, Any] = self._read_extra()

    def error(self, field: str, what: str) -> ConnectionFieldError:
        """Make the error that names the connection and a field."""
        return ConnectionFieldError(f"connection {self._conn_id!r}, field {field!r}: {what}")

    def _read_extra(self) -> dict[str, Any]:
        """Read the extra fields. Airflow takes broken ones for none, and a task would run with settings nobody meant."""
        if not (self._connection.extra or "").strip():
            return {}
        try:
            found = json.loads(self._connection.extra or "")
        except (ValueError, RecursionError):
            raise self.error("extra", "it is not JSON") from None
        if not isinstance(found, dict):
            raise self.error("extra", "it is JSON, but not an object")
        return self._connection.extra_dejson  # which also tells the masker

    def text(self, field: str) -> str | None:
        """Read a text out of the extra fields; an empty one counts as left out."""
        value = self._extra.get(field)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.error(field, f"expected a text, found {type(value).__name__}")
        return value.strip() or None

    def value(self, field: str) -> object:
        """Return an extra field as it is; None if it is left out."""
        return self._extra.get(field)

    def login(self, *, meaning: str) -> str:
        """Read the login field."""
        value = (self._connection.login or "").strip()
        if not value:
            raise self.error("login", f"it is empty; put the {meaning} there")
        return value

    def password(self, *, meaning: str) -> Secret:
        """Read the password field."""
        value = (self._connection.password or "").strip()
        if not value:
            raise self.error("password", f"it is empty; put the {meaning} there")
        if not value.isprintable() or not value.isascii():
            raise self.error("password", f"it holds characters that no {meaning} has; was it pasted whole and alone?")
        secret = Secret(value)
        remember_secret(secret)
        return secret

    def mapping(self, field: str) -> Mapping[str, str]:
        """Read an object of texts that may come as JSON text, as URIs give it."""
        value = self._extra.get(field)
        if value is None or value == "":
            return {}
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise self.error(field, "it is not JSON") from None
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise self.error(field, "expected a JSON object whose values are texts")
        return {str(name): str(one).strip() for name, one in value.items()}

    def choice(self, field: str, *, choices: tuple[str, ...]) -> str | None:
        """Read one of a few words."""
        value = self.text(field)
        if value is None:
            return None
        if value.lower() not in choices:
            raise self.error(field, f"expected one of {', '.join(choices)}, found {value[:40]!r}")
        return value.lower()

    def number(self, field: str, *, least: float, most: float) -> float | None:
        """Read a number that may come as a text, as forms and URIs give it."""
        value = self._extra.get(field)
        if value is None or value == "":
            return None
        try:
            number = float(value) if not isinstance(value, bool) else None
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is None or not least <= number <= most:
            raise self.error(field, f"expected a number from {least:g} to {most:g}, found {str(value)[:40]!r}")
        return number

    def whole(self, field: str, *, least: int, most: int) -> int | None:
        """Read a whole number that may come as a text."""
        number = self.number(field, least=least, most=most)
        if number is not None and number != int(number):
            raise self.error(field, f"expected a whole number, found {number:g}")
        return None if number is None else int(number)

    def timeouts(self) -> tuple[float, float]:
        """Read the seconds that an answer may be silent, and those that it may take in all."""
        read = self.number("timeout", least=0.1, most=3600)
        total = self.number("total_timeout", least=0.2, most=86_400)
        if total is None:
            read = read or DEFAULT_READ_TIMEOUT
            return read, max(DEFAULT_TOTAL_TIMEOUT, 2 * read)
        if read is None:
            return min(DEFAULT_READ_TIMEOUT, total), total
        if total <= read:
            what = f"it is {total:g} s; it must be longer than timeout ({read:g} s), the longest silence within an answer"
            raise self.error("total_timeout", what)
        return read, total

    def max_response(self) -> int:
        """Read the bytes that an answer may have, decoded."""
        megabytes = self.number("max_response_mb", least=1, most=16_384)
        return DEFAULT_MAX_RESPONSE if megabytes is None else int(megabytes * 1_000_000)

    def verify(self) -> bool | str:
        """Read whether certificates are checked, and against what."""
        value = self._extra.get("verify")
        if value is None or value == "" or isinstance(value, bool):
            return True if value in (None, "") else bool(value)
        if not isinstance(value, str):
            raise self.error("verify", "expected true, false or the path of a CA bundle")
        word = value.strip().lower()
        if word in {"true", "1", "yes"}:
            return True
        if word in {"false", "0", "no"}:
            return False
        try:
            is_there = Path(value.strip()).exists()
        except (OSError, ValueError):  # no system has such a path
            is_there = False
        if not is_there:
            raise self.error("verify", "expected true, false or the path of a CA bundle, found a path that is not there")
        return value.strip()

    def host(self, *, example: str) -> tuple[str, str | None]:
        """Read the host with its port, and the scheme where one is given."""
        host = (self._connection.host or "").strip()
        field, scheme = "schema", (self._connection.schema or "").strip().lower() or None
        if "://" in host:
            scheme, host = host.split("://", 1)
            field, scheme = "host", scheme.lower()
        host = host.rstrip("/")
        if not host:
            raise self.error("host", f"it is empty; put the host there, such as {example}")
        if scheme not in {None, "http", "https"}:
            raise self.error(field, f"the scheme {str(scheme)[:20]!r} is neither https nor http")
        name, slash, path = host.partition("/")
        port = self._connection.port
        if port is not None and not 0 <= port <= _LAST_PORT:
            raise self.error("port", f"expected a number from 0 to {_LAST_PORT}")
        # The port of https is left out, so that one host has one name.
        if port and not (port == HTTPS_PORT and scheme != "http") and ":" not in name.rpartition("]")[2]:
            name = f"{name}:{port}"
        return name + slash + path, scheme

    def base(self, url: str, *, field: str) -> str:
        """Check a URL that credentials will be sent to.

        :raises ConnectionFieldError: it cannot be read, carries credentials itself, or is plain http to another machine.
        """
        if any(character.isspace() for character in url):
            raise self.error(field, "it holds white space")
        try:
            parts = urlsplit(url)
            if "@" in parts.netloc:
                raise self.error(field, "it carries a user or a password; they belong into login and password")
            origin_of(url)
        except ConnectionFieldError:
            raise
        except ValueError:
            raise self.error(field, "it is no host and no URL") from None
        if parts.query or parts.fragment:
            raise self.error(field, "it carries a query or a fragment")
        if parts.path and (unfit := unfit_path(parts.path)) is not None:
            raise self.error(field, f"its path cannot be sent: {unfit}")
        if parts.scheme not in {"http", "https"}:
            raise self.error(field, "expected https")
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise self.error(field, "plain http would show the client secret to the network; use https")
        return url


def read_pages(fields: Fields) -> tuple[tuple[str, str], ...]:
    """Read the field ``pages``: name of a resource or an operation → a path on the connection's host, or a URL.

    :raises ConnectionFieldError: a page is neither.
    """
    pages = fields.mapping("pages")
    for what, page in pages.items():
        if not _is_page(page):
            raise fields.error(
                "pages",
                f"the page of {what[:60]!r} must be a path that begins with one slash, or an http(s) URL without a user; "
                "what differs from task to task is a name in braces, such as {id}",
            )
    return tuple(sorted(pages.items()))


def _is_page(page: str) -> bool:
    if any(character.isspace() or not character.isprintable() for character in page):
        return False
    if page.startswith("/"):
        return not page.startswith(("//", "/\\"))
    try:
        parts = urlsplit(page)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc


def page_url(page: str, *, base: str, values: Mapping[str, str | None]) -> str | None:
    """Fill in a page's placeholders. Return None if a value is unknown, or would lead to another page.

    :param base: what a path is appended to.
    """
    in_path = set(_PLACEHOLDER.findall(re.split(r"[?#]", page, maxsplit=1)[0]))
    for placeholder in _PLACEHOLDER.findall(page):
        value = values.get(placeholder)
        if not value or _SURROGATE.search(value) or (placeholder in in_path and unfit_part(value) is not None):
            return None
    filled = _PLACEHOLDER.sub(lambda placeholder: quote(str(values[placeholder[1]]), safe=""), page)
    return base + filled if filled.startswith("/") else filled
