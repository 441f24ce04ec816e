# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Times as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

from limio_limitrail.api.errors import ParameterError

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)


def parse_time(name: str, value: str | datetime | None) -> datetime | None:
    """Read a bound in time, which may come out of a template.

    :raises ParameterError: it is no time with a zone.
    """
    # A template that gives nothing gives the text "None".
    if value is None or (isinstance(value, str) and value.strip() in {"", "None"}):
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ParameterError(f"{name}={value!r} is no ISO 8601 time, such as 2026-01-01T00:00:00Z") from None
    if value.tzinfo is None:
        # A date alone means its midnight in UTC, the zone of everything else here.
        value = value.replace(tzinfo=UTC)
    return in_utc(value)


def in_utc(when: datetime) -> datetime:
    """Return a time in UTC; the first or the last of all times where it lies beyond them there.

    :param when: a time with a zone.
    """
    try:
        return when.astimezone(UTC)
    except OverflowError:
        return EARLIEST if when.year == 1 else LATEST
