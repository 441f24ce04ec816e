# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Parses and compares timestamps as APIs and databases write them, exactly, in any precision and time zone.

All comparisons of times go through here: the watermark, the duplicates within a pull, and the rows of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

import msgspec

from limio_limitrail.landing.arrow_tables import integer_array, text_array
from limio_limitrail.landing.column_types import Kind, arrow_type, cast

if TYPE_CHECKING:
    import pyarrow as pa

INSTANT = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)$"
"""The usual format of a date-time, which Arrow parses by itself."""

# RFC 3339 and ISO 8601: any number of fractional digits, or no seconds at all; any zone, or none.
_FORM = (
    r"^(?P<year>\d{4})(?P<dash>-?)(?P<month>\d\d)-?(?P<day>\d\d)"
    r"(?:[Tt ](?P<hour>\d\d):?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?"
    "\\x20?(?P<zone>[Zz]|(?P<sign>[+\u2212-])(?P<hours>\\d\\d)(?::?(?P<minutes>\\d\\d))?)?)?$"
)
_NUMBER = r"^-?\d+(\.\d+)?([eE][+-]?\d+)?$"

_YEAR_ONE = 62_135_596_800
"""Seconds from the start of the year 1 to 1970."""
_YEAR_10000 = 253_402_300_800
"""Seconds from 1970 to the start of the year 10000."""
_MICROSECONDS = 1_000_000
_SECOND_DIGITS = 12
_PRECISION = 6
_TIME, _BELOW_ZERO, _ZERO, _ABOVE_ZERO = "2", "1a", "1b", "1c"
_NINES = str.maketrans("0123456789", "9876543210")


class _Parsed(msgspec.Struct, frozen=True, kw_only=True):
    """The times in texts; null where a text is not a time.

    :param seconds: whole seconds since 1970.
    :param fraction: the digits of the fraction of a second, without trailing zeros.
    :param exact: whether a UTC timestamp in microseconds holds the same.
    """

    seconds: pa.Array
    fraction: pa.Array
    exact: pa.Array


def sort_keys(texts: pa.Array) -> pa.Array:
    """Return keys that sort by code point as the times do; null for a text that is neither a time nor a number.

    A time without a zone is in UTC, a date alone is its midnight, and a leap second is the second after it. Numbers, such as
    versions and epochs, sort before all times, by value.
    """
    import pyarrow.compute as pc

    instants = _parse_usual(texts)
    if instants is not None:
        # Padded to sort as text; without trailing zeros, so that ten fractional digits compare with six.
        since = pc.add(pc.cast(instants, "int64"), _YEAR_ONE * _MICROSECONDS)
        return _keys(pc.utf8_lpad(pc.cast(since, "string"), _SECOND_DIGITS + _PRECISION, "0"))
    parsed = _parse(texts)
    whole = pc.utf8_lpad(pc.cast(pc.add(parsed.seconds, _YEAR_ONE), "string"), _SECOND_DIGITS, "0")
    keys = _keys(pc.binary_join_element_wise(whole, parsed.fraction, ""))
    numbers = pc.and_(pc.is_null(keys), pc.match_substring_regex(texts, _NUMBER))
    if not pc.any(numbers).as_py():
        return keys
    some = pc.if_else(numbers, texts, None).to_pylist()
    return pc.coalesce(keys, text_array([None if text is None else _number_key(text) for text in some]))


def keys_of(texts: Sequence[str | None]) -> list[str | None]:
    """Return the `sort_keys` of a sequence of texts."""
    keys: list[str | None] = sort_keys(text_array(texts)).to_pylist()
    return keys


def days_of(texts: Sequence[str | None]) -> list[str | None]:
    """Return the day in UTC of each time, as in ``2026-05-01``; None for what is not a time."""
    return [None if key is None or not key.startswith(_TIME) else _time_of(key).date().isoformat() for key in keys_of(texts)]


def newest_time(keys: pa.Array) -> datetime | None:
    """Return the newest time among `sort_keys`, truncated to the microsecond; None if there is none."""
    import pyarrow.compute as pc

    newest: str | None = pc.max(keys).as_py() if len(keys) else None
    if newest is None or not newest.startswith(_TIME):
        return None
    return _time_of(newest)


def _time_of(key: str) -> datetime:
    digits = key.removeprefix(_TIME).ljust(_SECOND_DIGITS + _PRECISION, "0")[: _SECOND_DIGITS + _PRECISION]
    return datetime(1, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(digits))


def count_times(keys: pa.Array) -> int:
    """Count the times among `sort_keys`."""
    import pyarrow.compute as pc

    return int(pc.sum(pc.cast(pc.starts_with(keys, _TIME), "int64")).as_py() or 0)


def instants_of(texts: pa.Array) -> pa.Array:
    """Return the instants in texts, truncated to the microsecond; null for a text that is not a time."""
    instants = _parse_usual(texts)
    return _microseconds(_parse(texts)) if instants is None else instants


def to_timestamps(texts: pa.Array) -> tuple[Kind, pa.Array]:
    """Convert texts to timestamps if each of them has a zone and at most microseconds.

    Otherwise the column stays text, and those that could be converted are formatted as `column_types.cast` formats timestamps.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    instants = _parse_usual(texts)
    if instants is not None:
        return Kind.TIMESTAMP, instants
    parsed = _parse(texts)
    instants = _microseconds(parsed)
    if pc.sum(pc.cast(parsed.exact, "int64")).as_py() == len(texts) - texts.null_count:
        return Kind.TIMESTAMP, instants
    formatted = cast(pa.chunked_array([instants]), source=Kind.TIMESTAMP, target=Kind.TEXT).combine_chunks()
    return Kind.TEXT, pc.if_else(pc.fill_null(parsed.exact, False), formatted, texts)


def _parse_usual(texts: pa.Array) -> pa.Array | None:
    """Let Arrow parse the texts if all have the usual format and a year of four digits."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pc.all(pc.match_substring_regex(texts, INSTANT)).as_py():
        return None
    try:
        instants = pc.cast(texts, arrow_type(Kind.TIMESTAMP))
    except pa.ArrowInvalid:  # well-formed, and no such date: a thirteenth month
        return None
    extremes = pc.min_max(pc.cast(instants, "int64")).as_py()
    if extremes["min"] is None:
        return instants
    within = extremes["min"] >= -_YEAR_ONE * _MICROSECONDS and extremes["max"] < _YEAR_10000 * _MICROSECONDS
    return instants if within else None


def _parse(texts: pa.Array) -> _Parsed:
    import pyarrow.compute as pc

    found = pc.extract_regex(texts, _FORM)
    part = dict(zip((field.name for field in found.type), found.flatten(), strict=True))

    def number(name: str) -> pa.Array:
        return pc.cast(pc.if_else(pc.equal(part[name], ""), "0", part[name]), "int64")

    year, month, day, second = (number(name) for name in ("year", "month", "day", "second"))
    hour, minute, hours, minutes = (number(name) for name in ("hour", "minute", "hours", "minutes"))
    offset = pc.add(pc.multiply(hours, 3600), pc.multiply(minutes, 60))
    offset = pc.if_else(pc.equal(part["sign"], "+"), offset, pc.negate(offset))
    clock = pc.add(pc.add(pc.multiply(hour, 3600), pc.multiply(minute, 60)), second)
    seconds = pc.subtract(pc.add(pc.multiply(_days(year, month, day), 86_400), clock), offset)
    has_time = pc.not_equal(part["hour"], "")
    leap = pc.equal(second, 60)
    maxima = ((hour, 23), (minute, 59), (second, 60), (hours, 23), (minutes, 59))
    valid = pc.and_(_is_day(year, month, day), pc.or_(has_time, pc.equal(part["dash"], "-")))  # eight digits are a number
    for value, maximum in maxima:
        valid = pc.and_(valid, pc.less_equal(value, maximum))
    valid = pc.and_(valid, pc.and_(pc.greater_equal(seconds, -_YEAR_ONE), pc.less(seconds, _YEAR_10000)))
    valid = pc.fill_null(valid, False)
    fraction = pc.utf8_rtrim(part["fraction"], "0")
    exact = pc.and_(pc.not_equal(part["zone"], ""), pc.less_equal(pc.utf8_length(fraction), _PRECISION))
    exact = pc.and_(pc.and_(exact, has_time), pc.invert(leap))
    return _Parsed(
        seconds=pc.if_else(valid, seconds, None),
        fraction=pc.if_else(valid, fraction, None),
        exact=pc.if_else(valid, exact, None),
    )


def _days(year: pa.Array, month: pa.Array, day: pa.Array) -> pa.Array:
    """Count the days since 1970, in years that begin in March, so that a leap day is the last of its year."""
    import pyarrow.compute as pc

    early = pc.less(month, 3)
    year = pc.if_else(early, pc.subtract(year, 1), year)
    month = pc.if_else(early, pc.add(month, 9), pc.subtract(month, 3))
    leaps = pc.add(pc.subtract(pc.divide(year, 4), pc.divide(year, 100)), pc.divide(year, 400))
    before = pc.divide(pc.add(pc.multiply(month, 153), 2), 5)
    return pc.subtract(pc.add(pc.add(pc.add(pc.multiply(year, 365), leaps), before), day), 719_469)


def _is_day(year: pa.Array, month: pa.Array, day: pa.Array) -> pa.Array:
    import pyarrow.compute as pc

    def divides(by: int) -> pa.Array:
        return pc.equal(pc.multiply(pc.divide(year, by), by), year)

    leap = pc.and_(divides(4), pc.or_(pc.invert(divides(100)), divides(400)))
    valid = pc.and_(pc.greater_equal(month, 1), pc.less_equal(month, 12))
    lengths = integer_array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
    longest = pc.add(lengths.take(pc.if_else(valid, month, 0)), pc.cast(pc.and_(leap, pc.equal(month, 2)), "int64"))
    return pc.and_(valid, pc.and_(pc.greater_equal(day, 1), pc.less_equal(day, longest)))


def _microseconds(parsed: _Parsed) -> pa.Array:
    import pyarrow.compute as pc

    rest = pc.cast(pc.utf8_rpad(pc.utf8_slice_codeunits(parsed.fraction, 0, _PRECISION), _PRECISION, "0"), "int64")
    return pc.cast(pc.add(pc.multiply(parsed.seconds, _MICROSECONDS), rest), arrow_type(Kind.TIMESTAMP))


def _keys(digits: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(pa.scalar(_TIME), pc.utf8_rtrim(digits, "0"), "")


def _number_key(text: str) -> str | None:
    """Format a number so that texts sort as numbers do: sign, magnitude, digits."""
    number = None
    with suppress(InvalidOperation):  # an exponent of twenty digits
        number = Decimal(text)
    if number is None:
        return None
    if not number:
        return _ZERO
    digits = "".join(map(str, number.as_tuple().digits)).lstrip("0")
    key = f"{number.adjusted() + 10**18:019d}{digits.rstrip('0')}"
    # Negative numbers sort in reverse, the longer ones first.
    return _ABOVE_ZERO + key if number > 0 else f"{_BELOW_ZERO}{key.translate(_NINES)}~"
