# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Reads times as APIs and databases write them, exactly, whatever their precision and zone.

Everything that asks which of two times is newer asks here: the watermark, the duplicates of a pull, and the rows of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from limio_limitrail.landing.arrow_arrays import integer_array, text_array
from limio_limitrail.landing.column_types import Kind, arrow_type, cast

if TYPE_CHECKING:
    import pyarrow as pa

INSTANT = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)$"
"""The usual form of a date-time, which Arrow reads by itself."""

# RFC 3339 and ISO 8601: any number of digits of a second, or no seconds at all; any zone, or none.
_FORM = (
    r"^(?P<year>\d{4})(?P<dash>-?)(?P<month>\d\d)-?(?P<day>\d\d)"
    r"(?:[Tt ](?P<hour>\d\d):?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?"
    "\\x20?(?P<zone>[Zz]|(?P<sign>[+\u2212-])(?P<hours>\\d\\d)(?::?(?P<minutes>\\d\\d))?)?)?$"
)
_NUMBER = r"^-?\d+(\.\d+)?([eE][+-]?\d+)?$"

_YEAR_ONE = 62_135_596_800
"""Seconds from the first moment of the year 1 to that of 1970."""
_YEAR_10000 = 253_402_300_800
"""Seconds from 1970 to the first moment that has a year of five digits."""
_MICROSECONDS = 1_000_000
_SECOND_DIGITS = 12
_PRECISION = 6
_TIME, _BELOW_ZERO, _ZERO, _ABOVE_ZERO = "2", "1a", "1b", "1c"
_NINES = str.maketrans("0123456789", "9876543210")


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What texts say of time; null where one says nothing.

    :param seconds: whole seconds since 1970.
    :param fraction: the digits of the rest, without zeros at their end.
    :param exact: whether an instant in microseconds says the same.
    """

    seconds: pa.Array
    fraction: pa.Array
    exact: pa.Array


def sort_keys(texts: pa.Array) -> pa.Array:
    """Give texts that sort by code points as the times do that others mean; null where one means none.

    A time without a zone is one in UTC, a date alone its first moment, and a leap second the one after it. A text that is a
    number, as versions and epochs are, comes before all times, and by its value.
    """
    import pyarrow.compute as pc

    instants = _usual(texts)
    if instants is not None:
        # Zeros in front make it positive; those at the end go, so that ten digits of a second compare with six.
        since = pc.add(pc.cast(instants, "int64"), _YEAR_ONE * _MICROSECONDS)
        return _keys(pc.utf8_lpad(pc.cast(since, "string"), _SECOND_DIGITS + _PRECISION, "0"))
    read = _read(texts)
    whole = pc.utf8_lpad(pc.cast(pc.add(read.seconds, _YEAR_ONE), "string"), _SECOND_DIGITS, "0")
    keys = _keys(pc.binary_join_element_wise(whole, read.fraction, ""))
    numbers = pc.and_(pc.is_null(keys), pc.match_substring_regex(texts, _NUMBER))
    if not pc.any(numbers).as_py():
        return keys
    some = pc.if_else(numbers, texts, None).to_pylist()
    return pc.coalesce(keys, text_array([None if text is None else _number_key(text) for text in some]))


def keys_of(texts: Sequence[str | None]) -> list[str | None]:
    """Give `sort_keys` of texts that are no array."""
    keys: list[str | None] = sort_keys(text_array(texts)).to_pylist()
    return keys


def newest_time(keys: pa.Array) -> datetime | None:
    """Give the newest time among `sort_keys`, cut down to the microsecond; none where there is none."""
    import pyarrow.compute as pc

    newest: str | None = pc.max(keys).as_py() if len(keys) else None
    if newest is None or not newest.startswith(_TIME):
        return None
    digits = newest.removeprefix(_TIME).ljust(_SECOND_DIGITS + _PRECISION, "0")[: _SECOND_DIGITS + _PRECISION]
    return datetime(1, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(digits))


def count_times(keys: pa.Array) -> int:
    """Count the times among `sort_keys`."""
    import pyarrow.compute as pc

    return int(pc.sum(pc.cast(pc.starts_with(keys, _TIME), "int64")).as_py() or 0)


def landed(texts: pa.Array) -> tuple[Kind, pa.Array]:
    """Turn texts into instants where an instant in microseconds gives each of them back; else spell those that it gives back as
    `kinds.cast` does, as if they had come without the others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    instants = _usual(texts)
    if instants is not None:
        return Kind.TIMESTAMP, instants
    read = _read(texts)
    instants = _microseconds(read)
    if pc.sum(pc.cast(read.exact, "int64")).as_py() == len(texts) - texts.null_count:
        return Kind.TIMESTAMP, instants
    written = cast(pa.chunked_array([instants]), source=Kind.TIMESTAMP, target=Kind.TEXT).combine_chunks()
    return Kind.TEXT, pc.if_else(pc.fill_null(read.exact, False), written, texts)


def _usual(texts: pa.Array) -> pa.Array | None:
    """Let Arrow read texts that are all of the usual form, and all within the years that have four digits."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pc.all(pc.match_substring_regex(texts, INSTANT)).as_py():
        return None
    try:
        instants = pc.cast(texts, arrow_type(Kind.TIMESTAMP))
    except pa.ArrowInvalid:  # the form is right and the date is none, such as a thirteenth month
        return None
    reach = pc.min_max(pc.cast(instants, "int64")).as_py()
    if reach["min"] is None:
        return instants
    within = reach["min"] >= -_YEAR_ONE * _MICROSECONDS and reach["max"] < _YEAR_10000 * _MICROSECONDS
    return instants if within else None


def _read(texts: pa.Array) -> _Read:
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
    timed = pc.not_equal(part["hour"], "")
    leap = pc.equal(second, 60)
    limits = ((hour, 23), (minute, 59), (second, 60), (hours, 23), (minutes, 59))
    good = pc.and_(_is_day(year, month, day), pc.or_(timed, pc.equal(part["dash"], "-")))  # eight digits are a number
    for value, most in limits:
        good = pc.and_(good, pc.less_equal(value, most))
    good = pc.and_(good, pc.and_(pc.greater_equal(seconds, -_YEAR_ONE), pc.less(seconds, _YEAR_10000)))
    good = pc.fill_null(good, False)
    fraction = pc.utf8_rtrim(part["fraction"], "0")
    exact = pc.and_(pc.not_equal(part["zone"], ""), pc.less_equal(pc.utf8_length(fraction), _PRECISION))
    exact = pc.and_(pc.and_(exact, timed), pc.invert(leap))
    return _Read(
        seconds=pc.if_else(good, seconds, None),
        fraction=pc.if_else(good, fraction, None),
        exact=pc.if_else(good, exact, None),
    )


def _days(year: pa.Array, month: pa.Array, day: pa.Array) -> pa.Array:
    """Count the days since 1970, in years that begin in March, so that the day that leap years have more is the last."""
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
    known = pc.and_(pc.greater_equal(month, 1), pc.less_equal(month, 12))
    lengths = integer_array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
    longest = pc.add(lengths.take(pc.if_else(known, month, 0)), pc.cast(pc.and_(leap, pc.equal(month, 2)), "int64"))
    return pc.and_(known, pc.and_(pc.greater_equal(day, 1), pc.less_equal(day, longest)))


def _microseconds(read: _Read) -> pa.Array:
    import pyarrow.compute as pc

    rest = pc.cast(pc.utf8_rpad(pc.utf8_slice_codeunits(read.fraction, 0, _PRECISION), _PRECISION, "0"), "int64")
    return pc.cast(pc.add(pc.multiply(read.seconds, _MICROSECONDS), rest), arrow_type(Kind.TIMESTAMP))


def _keys(digits: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(pa.scalar(_TIME), pc.utf8_rtrim(digits, "0"), "")


def _number_key(text: str) -> str | None:
    """Write a number so that texts sort as numbers do: its sign, its magnitude, its digits."""
    number = None
    with suppress(InvalidOperation):  # an exponent of twenty digits
        number = Decimal(text)
    if number is None:
        return None
    if not number:
        return _ZERO
    digits = "".join(map(str, number.as_tuple().digits)).lstrip("0")
    key = f"{number.adjusted() + 10**18:019d}{digits.rstrip('0')}"
    # Of numbers below zero the larger comes first, and the longer too.
    return _ABOVE_ZERO + key if number > 0 else f"{_BELOW_ZERO}{key.translate(_NINES)}~"
