# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Texts of a form: whatever an API or a row says is data there, never Markdown, HTML or a link."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from limio_limitrail.api.redact import safe_text
from limio_limitrail.usage.ledger.settlement import OpenRow


def plain_text(text: str) -> str:
    """Return a text without secrets, on one line, shortened, and without what changes how a page is read."""
    found = safe_text(text) or ""
    return "".join(one if one.isprintable() else "\ufffd" for one in found)


def cell(text: str) -> str:
    """Return a text as code in a cell of a Markdown table, where nothing in it has a meaning."""
    # A bar ends a cell even in code, and escaped ones can be undone by a backslash before them.
    found = plain_text(text).replace("`", "'").replace("|", "¦")
    return f"`{found}`" if found.strip() else ""


def describe_row(row: OpenRow) -> str:
    """Return the key columns of a row, and which members of a changed one differ."""
    try:
        columns = json.loads(row.row_key)
    except ValueError:
        columns = None
    found = ", ".join(f"{name}={value}" for name, value in columns.items()) if isinstance(columns, dict) else row.row_key
    return f"{found}; changed: {_names(row.members)}" if row.members else found


def _names(members: str) -> str:
    try:
        found = json.loads(members)
    except ValueError:
        return members
    return ", ".join(map(str, found)) if isinstance(found, list) else members


def utc_time(milliseconds: int | None) -> str:
    """Return a time; empty if it is unknown."""
    if milliseconds is None:
        return ""
    try:
        return f"{datetime.fromtimestamp(milliseconds / 1000, tz=UTC):%Y-%m-%d %H:%M}Z"
    except (ValueError, OverflowError, OSError):
        return ""
