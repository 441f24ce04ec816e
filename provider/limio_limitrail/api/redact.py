# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Make a piece of an API's own text fit for a log: short, one line, without credentials or mail addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from urllib.parse import quote, quote_plus

from limio_limitrail.api.secret import Secret

LONGEST = 200
"""Characters of an API's text that an error keeps."""

_UNFIT = (
    (re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\s]+"), " "),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), r"\1 ***"),
    (re.compile(r"\beyJ[\w-]+(\.[\w-]*){0,2}"), "***"),
    (re.compile(r"(?i)\b(client_secret|access_token|token|password|secret|recover)(\W{1,4})[\w.~+/%-]{4,}"), r"\1\2***"),
    (re.compile(r"[^\s@\"'<>]+@[^\s@\"'<>]+"), "***@***"),
    (re.compile(r"(?<=\S)\?[^\s\"'<>]*=[^\s\"'<>]*"), "?***"),
)

_SUSPECT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\s@?]|eyJ|(?i:token|password|secret|recover)")
"""Without any of these a text holds nothing unfit: most are ids, of which every answer brings some."""


def safe_text(text: object, *, secrets: Iterable[Secret] = ()) -> str | None:
    """Shorten and mask what an API said; anything but a non-empty string gives None.

    :param text: a value out of an error body.
    :param secrets: credentials to strike out, in case the API echoes them.
    """
    if not isinstance(text, str) or not text.strip():
        return None
    for pattern in _patterns(text, secrets):
        text = pattern.sub("***", text)
    # Masking reads a bounded piece: an error page of megabytes must not cost seconds of regular expressions.
    text = text[: LONGEST * 10]
    if _SUSPECT.search(text):
        for pattern, replacement in _UNFIT:
            text = pattern.sub(replacement, text)
    text = text.strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def holds_secret(text: str, *, secrets: Iterable[Secret]) -> bool:
    """Tell whether a text repeats a credential."""
    return any(pattern.search(text) for pattern in _patterns(text, secrets))


def _patterns(text: str, secrets: Iterable[Secret]) -> Iterator[re.Pattern[str]]:
    """Give what finds the credentials that a text may hold."""
    for secret in secrets:
        pattern, forms = _look_of(secret)
        if pattern and not (forms and text.isascii() and not any(form in text.lower() for form in forms)):
            yield pattern


@lru_cache(maxsize=64)
def _look_of(secret: Secret) -> tuple[re.Pattern[str] | None, tuple[str, ...]]:
    """Give what finds a credential, and the forms without which a plain text does not hold it; neither for an empty one."""
    value = secret.reveal()
    # Without case, because a host name comes back in lower case; quoted as well, as a form or a URL holds it.
    forms = sorted({value, quote(value, safe=""), quote_plus(value)} - {""}, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, forms)), re.IGNORECASE) if forms else None
    return pattern, tuple(form.lower() for form in forms) if value.isascii() else ()
