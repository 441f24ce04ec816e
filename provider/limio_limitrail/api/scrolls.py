# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Tell by a cursor whether it is a scroll id, which stands for a place that the server keeps and moves on.

Elasticsearch and OpenSearch write the kind of search into their scroll ids, in Base64: ``queryThenFetch``, ``queryAndFetch`` or
``scan``, since version 7.7 behind ``include_context_uuid`` (``TransportSearchHelper`` in their sources). An API may wrap such an
id once more, in JSON, in Base64, or in both.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

_WORDS = (b"queryThenFetch", b"queryAndFetch", b"include_context_uuid", b"scroll_id", b"scrollId", b"scrollID")
_SCAN = re.compile(rb"\A(?:scan;[0-9]|\x04scan)")
_RUN = re.compile(rb"[A-Za-z0-9+/_-]{8,}={0,2}")
_WRAPPINGS = 3
_MOST_RUNS = 20
_SCROLL_NAMES = frozenset({"scrollid", "scroll"})


def _in_base64(word: bytes) -> list[bytes]:
    """Give what a word becomes in Base64, at each of the three places where it may begin; shared characters are left out."""
    forms = []
    for before in range(3):
        text = base64.b64encode(b"\0" * before + word).rstrip(b"=")
        whole = (before + len(word)) * 8 // 6
        forms.append(text[-(-before * 8 // 6) : whole])
    return forms


_MARKS = re.compile(b"|".join(re.escape(form) for word in _WORDS for form in (word, *_in_base64(word))))


def is_scroll(cursor: Mapping[str, str]) -> bool:
    """Tell whether a cursor is a scroll id, or is called one.

    :param cursor: the query parameters that ask for a page.
    """
    return any(
        "".join(filter(str.isalpha, name.lower())) in _SCROLL_NAMES or _holds_scroll_id(value.encode("utf-8", "replace"))
        for name, value in cursor.items()
    )


def opens_with_nothing(cursor: Mapping[str, str]) -> bool:
    """Tell whether a scroll is of the kind whose first answer holds no record: a scan (Elasticsearch 1)."""
    return any(_SCAN.match(_decoded(value.encode("utf-8", "replace"))) for value in cursor.values())


def _holds_scroll_id(text: bytes, *, wrappings: int = _WRAPPINGS) -> bool:
    if _MARKS.search(text) or _SCAN.match(text):
        return True
    if not wrappings:
        return False
    runs = _RUN.findall(unquote_to_bytes(text) if b"%" in text else text)
    return any(_holds_scroll_id(_decoded(run), wrappings=wrappings - 1) for run in runs[:_MOST_RUNS])


def _decoded(text: bytes) -> bytes:
    bare = text.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(bare + b"=" * (-len(bare) % 4))
    except (binascii.Error, ValueError):
        return b""
