# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Instants as whole milliseconds since 1970 in UTC, and their text forms."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

DAY_MS = 86_400_000
_MINUTES = tuple(f"T{minute // 60:02d}:{minute % 60:02d}:" for minute in range(1440))
_SECONDS = tuple(f"{second:02d}." for second in range(60))
_MILLIS = tuple(f"{milli:03d}Z" for milli in range(1000))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATE = re.compile(r"^\d{4}-\d{2}-\d{2}$")
_DATE_TIME = re.compile(r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:\d{2})?$")


@lru_cache(maxsize=8192)
def _date_of(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d")


def iso(millis: int) -> str:
    """Return ``2025-01-15T08:00:00.123Z``."""
    day, rest = divmod(millis, DAY_MS)
    minute, rest = divmod(rest, 60_000)
    return f"{_date_of(day)}{_MINUTES[minute]}{_SECONDS[rest // 1000]}{_MILLIS[rest % 1000]}"


def date(millis: int) -> str:
    """Return ``2025-01-15``."""
    return _date_of(millis // DAY_MS)


def compact_date(millis: int) -> str:
    """Return ``20250115``, as the catalog writes its dates."""
    return _date_of(millis // DAY_MS).replace("-", "")


def iso_with_offset(millis: int) -> str:
    """Return ``2025-01-15T08:00:00+00:00``, as the catalog writes its instants."""
    return iso(millis)[:19] + "+00:00"


def parse_datetime(text: str) -> datetime:
    """Return the instant of a date or date-time; without a zone it is UTC. ValueError when malformed."""
    if not (_DATE.match(text) or _DATE_TIME.match(text)):
        raise ValueError(f"not a date or date-time: {text!r}")
    read = datetime.fromisoformat(text)
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)


def parse_millis(text: str) -> int:
    """Return the milliseconds of a date or date-time; without a zone it is UTC. ValueError when malformed."""
    # Integer arithmetic: a float second loses the last millisecond now and then.
    gap = parse_datetime(text) - _EPOCH
    return (gap.days * 86_400 + gap.seconds) * 1000 + gap.microseconds // 1000
