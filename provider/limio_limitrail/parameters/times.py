# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Readers of times and of spans of time."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from limio_limitrail.lazy import lazy_pattern
from limio_limitrail.parameters.given import digits_of, plain, unfit
from limio_limitrail.parameters.readers import Reader

_DURATION = lazy_pattern(
    r"(?P<sign>[+-])?P(?=[\dT])((?P<weeks>\d+)W)?((?P<days>\d+)D)?"
    r"(T(?=\d)((?P<hours>\d+)H)?((?P<minutes>\d+)M)?((?P<seconds>\d+(\.\d+)?)S)?)?",
    re.IGNORECASE,
)
"""ISO 8601, without years and months, which have no length."""
_CLOCK = lazy_pattern(r"((?P<days>[+-]?\d+) days?, )?(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d(\.\d+)?)")
"""A timedelta as Python prints it."""


def from_iso(text: str) -> datetime:
    """Read an ISO 8601 time as Python does, except for numbers: of milliseconds since 1970 it makes a time of the 18th century.

    :raises ValueError: the text is no time.
    """
    # A day has eight digits, and a letter, a space or nothing behind them; Python takes any character there.
    if len(text) > 8 and text[:9].isdigit():
        raise ValueError("a number")
    return datetime.fromisoformat(text)


def instant(name: str, value: object) -> datetime:
    """Read a time: a datetime, a date, or an ISO 8601 text. What names no zone is in UTC. Returns a datetime in UTC.

    A whole number is read as its digits, because native rendering makes one of ``20260101``. Numbers of seconds or milliseconds
    since 1970 are no ISO 8601.
    """
    expected = "an ISO 8601 time such as 2026-01-01T00:00:00Z, a datetime or a date"
    found = plain(value)
    if isinstance(found, int) and not isinstance(found, bool):
        found = digits_of(found)
    if isinstance(found, str):
        try:
            found = from_iso(found.strip())
        except ValueError:
            number = isinstance(value, int) or found.strip()[:9].isdigit()
            hint = "; a number of seconds or milliseconds since 1970 is not read, make it a datetime" if number else ""
            raise unfit(name, value, expected=expected + hint) from None
    if isinstance(found, date) and not isinstance(found, datetime):
        found = datetime(found.year, found.month, found.day)  # noqa: DTZ001 - the next lines give it its zone
    if not isinstance(found, datetime):
        raise unfit(name, value, expected=expected)
    try:
        utc = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except OverflowError:
        raise unfit(name, value, expected="a time between the years 1 and 9999 in UTC") from None
    # Not pandas' or pendulum's own class, whose texts and sums differ.
    return datetime(utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, utc.microsecond, tzinfo=UTC)


def span(*, least: timedelta = timedelta(0), most: timedelta | None = None, whole_seconds: bool = False) -> Reader[timedelta]:
    """Read a span of time: a timedelta, seconds, an ISO 8601 duration such as ``PT1H``, or a text such as ``1:00:00``.

    :param whole_seconds: refuse fractions of a second.
    """
    bounds = f" of at least {least}" + ("" if most is None else f" and at most {most}")
    bounds += ", in whole seconds" if whole_seconds else ""

    def read(name: str, value: object) -> timedelta:
        try:
            found = _span(plain(value))
        except OverflowError:
            raise unfit(name, value, expected=f"a span of time below {timedelta.max.days} days") from None
        fits = found is not None and found >= least and (most is None or found <= most)
        if found is None or not fits or (whole_seconds and found.microseconds):
            raise unfit(
                name, value, expected=f"a span of time{bounds}: a timedelta, seconds, or an ISO 8601 duration such as PT1H"
            )
        return found

    return read


def _span(value: Any) -> timedelta | None:
    if isinstance(value, timedelta):
        # Not pandas' or pendulum's own class, whose texts and sums differ.
        return value if type(value) is timedelta else timedelta(seconds=value.total_seconds())
    if isinstance(value, str):
        return _span_of_text(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    seconds = float(value)
    return timedelta(seconds=seconds) if math.isfinite(seconds) else None


def _span_of_text(value: str) -> timedelta | None:
    match = _DURATION.fullmatch(value) or _CLOCK.fullmatch(value)
    if match is not None:
        parts = {part: float(number) for part, number in match.groupdict().items() if number and part != "sign"}
        found = timedelta(**parts)
        return -found if match.groupdict().get("sign") == "-" else found
    try:
        seconds = float(value)
    except ValueError:
        return None
    return timedelta(seconds=seconds) if math.isfinite(seconds) else None
