# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The gate for whatever an API says: masked, short, one line, before it reaches a log, an exception, a table or an event."""

from __future__ import annotations

import re
from collections.abc import Mapping

from limio_limitrail.api.known_secrets import find_secrets, holds_secret, remember_secret

__all__ = ["LONGEST", "holds_secret", "remember_secret", "repeats_piece", "repeats_secret", "safe_error", "safe_text", "safe_uri"]

LONGEST = 200
"""Characters of an API's text that an error keeps."""

_MOST_READ = 10 * LONGEST
"""Masking reads a bounded piece: an error page of megabytes must not cost seconds."""

_MASK = "***"

_UNFIT = (
    (re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\s]+"), " "),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), r"\1 ***"),
    (re.compile(r"\beyJ[\w-]+(\.[\w-]*){0,2}"), _MASK),
    (
        # Between name and value stand quotes and signs, which JSON or HTML may have escaped; so may the value's own.
        re.compile(
            r"(?i)\b(client_secret|access_token|token|password|secret|recover)"
            r"((?:&\w{2,6};|[\\\"':={\s]){1,24}|\W{1,4})"
            r"(?:[\w.~+/%-]|\\+[/u]|&#?\w{2,8};){4,}"
        ),
        r"\1\2***",
    ),
    (re.compile(r"[^\s@\"'<>]+@[^\s@\"'<>]+"), "***@***"),
    (re.compile(r"(?<=\S)\?[^\s\"'<>]*=[^\s\"'<>]*"), "?***"),
)

_SUSPECT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\s@?]|eyJ|(?i:token|password|secret|recover)")
"""Without any of these a text holds nothing unfit: most are ids, of which every answer brings some."""


def safe_text(text: object) -> str | None:
    """Mask and shorten what an API said; anything but a non-empty string gives None.

    :param text: a value out of an answer.
    """
    if not isinstance(text, str) or not text.strip():
        return None
    return _fit(_masked(text[:_MOST_READ]))


def safe_uri(text: object) -> str | None:
    """Mask and shorten a URI that an API said, without its query and its fragment.

    It is masked before it is cut, because of a credential that holds ``?`` or ``#`` a cut leaves a piece.

    :param text: a value out of an answer.
    """
    if not isinstance(text, str):
        return None
    bare = _masked(text[:_MOST_READ]).partition("?")[0].partition("#")[0]
    return _fit(bare) if bare.strip() else None


def repeats_piece(text: str) -> bool:
    """Tell whether a text repeats a credential or a piece of one: what `safe_text` would mask."""
    return bool(find_secrets(text))


def repeats_secret(values: Mapping[str, str]) -> bool:
    """Tell whether one of several values, such as those of a cursor, repeats a credential, or its name does."""
    return any(holds_secret(value) or holds_secret(name) for name, value in values.items())


def safe_error(error: BaseException) -> str:
    """Return the class of an error of somebody else's code, and what it says, masked and shortened."""
    said = safe_text(str(error))
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _masked(text: str) -> str:
    """Strike the secrets of the process out of a text."""
    kept, at = [], 0
    for start, end in find_secrets(text):
        kept += [text[at:start], _MASK]
        at = end
    return "".join((*kept, text[at:])) if kept else text


def _fit(text: str) -> str:
    if _SUSPECT.search(text):
        for pattern, replacement in _UNFIT:
            text = pattern.sub(replacement, text)
    text = text.strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
