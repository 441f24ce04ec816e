# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The ends of time, and times in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)


def in_utc(when: datetime) -> datetime:
    """Return a time in UTC; the first or the last of all times where it lies beyond them there.

    :param when: a time with a zone.
    """
    try:
        return when.astimezone(UTC)
    except OverflowError:
        return EARLIEST if when.year == 1 else LATEST
