# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Redact whatever an API says: masked, shortened, on one line, before it reaches a log, an exception, a table or an event.

The logs of the HTTP libraries are redacted as well. `secret` finds the secrets of this process in a text.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from limio_limitrail.api.secret import Secret, find_secrets, holds_secret, may_hold_secret, remember_secret
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.lazy import lazy_pattern

__all__ = [
    "MAX_LENGTH", "guard_library_logs", "holds_secret", "remember_proxy_passwords", "remember_secret", "repeats_piece",
    "repeats_secret", "safe_error", "safe_text", "safe_texts", "safe_uri",
]  # fmt: skip

MAX_LENGTH = 200
"""Characters of an API's text that an error keeps."""

_MAX_READ = 10 * MAX_LENGTH
"""Masking reads a bounded piece: an error page of megabytes must not cost seconds. No sentence of a library is longer, either."""

_MASK = "***"

_BEARER = lazy_pattern(r"(?i)\b((?:bearer(?:%20|[\\\"':=,+\s])+|basic(?:%20|\s)+))[\w.~+/=-]{6,}")
_NAMED = lazy_pattern(
    # Quotes and signs between name and value, and in the value, may be escaped as in JSON or HTML.
    r"(?i)\b((?:client_secret|access_token|token|password|secret|recover)"
    r"(?:(?:&\w{2,6};|[\\\"':={\s]){1,24}|\W{1,4}))"
    r"(?:[\w.~+/%-]|\\+[/u]|&#?\w{2,8};){4,}"
)
_ASSIGNED = lazy_pattern(
    # Whatever stands before these words belongs to the name, as in clientSecret and refresh_token. Only with a sign that gives
    # the name a value, and not for numbers: input_token-usage and input_token=5000 are of a meter.
    r"(?i)((?:token|password|passwd|passphrase|pwd|secret|api[_-]?key)"
    r"(?:&\w{2,6};|[\\\"'\s]){0,12}(?:[:=]|%3[AD])(?:&\w{2,6};|[\\\"'\s]){0,12})"
    r"(?!\d{1,12}(?![\w.~+/%-]))(?:[\w.~+/%-]|\\+[/u]|&#?\w{2,8};){4,}"
)

_REPLACEMENTS = (
    # With the invisible ones that change the order in which a text is shown.
    (lazy_pattern(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\s]+"), " "),
    (_BEARER, r"\1***"),
    (lazy_pattern(r"\beyJ[\w-]+(\.[\w-]*){0,2}"), _MASK),
    (_NAMED, r"\1***"),
    (_ASSIGNED, r"\1***"),
    (lazy_pattern(r"[^\s@\"'<>]+@[^\s@\"'<>]+"), "***@***"),
    (lazy_pattern(r"(?<=\S)\?[^\s\"'<>]*=[^\s\"'<>]*"), "?***"),
)

_ID = lazy_pattern(r"[A-Za-z0-9_.:/+=-]*")
_SUSPECT = lazy_pattern(
    r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\s@?]|eyJ"
    r"|(?i:token|passw|passphrase|pwd|secret|api[_-]?key|recover|bearer|basic)"
)
"""Without any of these a text needs no replacement: most are ids, which every response has."""


def safe_text(text: object) -> str | None:
    """Mask and shorten a value of a response; return None for anything but a non-empty string."""
    if not isinstance(text, str) or not text.strip():
        return None
    if len(text) <= MAX_LENGTH and _is_id(text) and not find_secrets(text):
        return text
    return _fit(_masked(text[:_MAX_READ]))


def safe_texts(one: object, other: object) -> tuple[str | None, str | None]:
    """Return what `safe_text` returns for each of two values: two ids, which most responses have, are looked at together."""
    if isinstance(one, str) and isinstance(other, str) and one and other:
        # Whatever may be in one of them may be in both.
        both = f"{one}.{other}"
        if len(both) <= MAX_LENGTH and _is_id(both) and not may_hold_secret(both):
            return one, other
    return safe_text(one), safe_text(other)


def _is_id(text: str) -> bool:
    """Return whether `_SUSPECT` certainly finds nothing in a text, which is quicker to see: every response has such texts."""
    if _ID.fullmatch(text) is None:
        return False
    low = text.lower()
    # Written out, which takes a third of the time of a loop.
    return not (
        "eyj" in low or "token" in low or "pass" in low or "pwd" in low or "secret" in low or "apik" in low or "api_k" in low
        or "api-k" in low or "recover" in low or "bearer" in low or "basic" in low
    )  # fmt: skip


def safe_uri(text: object) -> str | None:
    """Mask and shorten a URI of a response, and drop its query and its fragment."""
    if not isinstance(text, str):
        return None
    # Masked before it is cut: of a credential that holds ? or # a cut would leave a piece.
    bare = _masked(text[:_MAX_READ]).partition("?")[0].partition("#")[0]
    return _fit(bare) if bare.strip() else None


def repeats_piece(text: str) -> bool:
    """Return whether a text repeats a credential or a piece of one: what `safe_text` would mask."""
    return bool(find_secrets(text))


def repeats_secret(values: Mapping[str, str]) -> bool:
    """Return whether a name or a value, such as those of a cursor, repeats a credential."""
    return any(holds_secret(value) or holds_secret(name) for name, value in values.items())


def safe_error(error: BaseException) -> str:
    """Return the class of another library's error, and its text, masked and shortened."""
    text = safe_text(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _masked(text: str) -> str:
    # Both in the text as it came: once a name is masked, because a secret is such a word, nothing tells what its value is.
    spans = [*find_secrets(text), *_values(text)]
    parts: list[str] = []
    at = 0
    for start, end in sorted(spans):
        if start > at or not parts:
            parts += [text[at:start], _MASK]
        at = max(at, end)
    return "".join((*parts, text[at:])) if parts else text


def _values(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the values are that a name in front of them shows to be credentials."""
    if _SUSPECT.search(text):
        for pattern in (_BEARER, _NAMED, _ASSIGNED):
            for found in pattern.finditer(text):
                yield found.end(1), found.end()


def _fit(text: str) -> str:
    if _SUSPECT.search(text):
        for pattern, replacement in _REPLACEMENTS:
            text = pattern.sub(replacement, text)
    text = text.strip()
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"


_LOGGERS = (
    "urllib3.connection",
    "urllib3.connectionpool",
    "urllib3.poolmanager",
    "urllib3.response",
    "urllib3.util.retry",
    "aiohttp.client",
    "aiohttp.internal",
)


class _RedactingFilter(logging.Filter):
    """Redacts records that repeat a secret or are overlong; all others stay as they are."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        message = record.getMessage()
        if any(len(text) > _MAX_READ or find_secrets(text) for text in (message, "" if error is None else str(error))):
            record.msg, record.args = safe_text(message) or "", ()
            record.exc_info = record.exc_text = None
        return True


_filter = _RedactingFilter()


def guard_library_logs() -> None:
    """Redact what the HTTP libraries log of a response, such as headers that they cannot read. Safe to call repeatedly."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_filter)


_proxy_passwords: set[Secret] = set()
"""The environment holds them for as long as the process lives."""


@raises_bare
def remember_proxy_passwords() -> None:
    """Mask the passwords of the environment's proxies from now on: a proxy's response may repeat one."""
    for url in getproxies().values():
        try:
            password = urlsplit(url if "://" in url else f"//{url}").password
        except ValueError:
            continue  # whoever needs the proxy gets the error
        if password:
            secret = Secret(unquote(password))
            remember_secret(secret)
            _proxy_passwords.add(secret)
