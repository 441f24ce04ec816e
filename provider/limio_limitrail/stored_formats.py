# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Versions of stored formats: older ones are read, newer ones are refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

T = TypeVar("T")

UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""Errors of reading a stored value that is damaged."""


def trouble(found: object, *, reads: int) -> str | None:
    """Return why a stored value cannot be read, as the end of a sentence that begins with it; None where its format can be.

    :param found: the value's format number.
    :param reads: the newest format that this version reads; it reads all earlier ones.
    """
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        return f"carries no format but {str(found)[:40]!r}"
    if found <= reads:
        return None
    known = "format 1" if reads == 1 else f"formats 1 to {reads}"
    return f"has format {found}, and this version reads {known}: a newer version of limio-limitrail has written it"


def text(value: object) -> str:
    """Read a text; raise TypeError if it is none."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a text belongs")
    return value


def number(value: object) -> int:
    """Read a whole number, 0 or more; raise TypeError if it is none."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{type(value).__name__} where a number of things belongs")
    return value


def instant(value: object) -> datetime:
    """Read an ISO 8601 time with a zone; raise TypeError or ValueError if it is none."""
    when = datetime.fromisoformat(text(value))
    if when.tzinfo is None:
        raise ValueError("a time without a zone")
    return when


def maybe(read: Callable[[object], T], value: object) -> T | None:
    """Read a value that may be none."""
    return None if value is None else read(value)
