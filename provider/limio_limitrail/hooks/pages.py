# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pages that people look at, as a connection names them: of the app, the console, or whatever shows the ledger."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from limio_limitrail.hooks.connection import Fields
from limio_limitrail.url_paths import unfit_part

OTHERS = "*"
"""The name of the page of everything that has none of its own."""

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_HOLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def read_pages(fields: Fields) -> tuple[tuple[str, str], ...]:
    """Read the field ``pages``: what it is about, and its page as a path of the connection's host or as a URL.

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
    """Fill a page's braces in; none where a value is not known, or leads to another page.

    :param base: what a path is appended to.
    """
    in_path = set(_HOLE.findall(re.split(r"[?#]", page, maxsplit=1)[0]))
    for hole in _HOLE.findall(page):
        value = values.get(hole)
        if not value or _SURROGATE.search(value) or (hole in in_path and unfit_part(value) is not None):
            return None
    filled = _HOLE.sub(lambda hole: quote(str(values[hole[1]]), safe=""), page)
    return base + filled if filled.startswith("/") else filled
