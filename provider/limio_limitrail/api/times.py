# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Times as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

from limio_limitrail.api.errors import ParameterError


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
    return value.astimezone(UTC)
