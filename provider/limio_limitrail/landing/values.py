# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""JSON values of one column, undecoded, become an Arrow array of the narrowest kind that gives them all back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from limio_limitrail.landing.arrays import boolean_array, integer_array, text_array, utf8_array
from limio_limitrail.landing.kinds import EXACT_IN_DOUBLE, Kind, arrow_type

if TYPE_CHECKING:
    import pyarrow as pa

_TEXTS = msgspec.json.Decoder(list[str | None])
_TEXT = msgspec.json.Decoder(str)
_DIGITS_A_DOUBLE_KEEPS = 15
_LONGEST_INT64 = len("-9223372036854775808")

INSTANT = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)$"
"""Date-times that an instant in microseconds gives back: RFC 3339 with a zone, and no finer than that."""


def from_raw(values: Sequence[bytes | None]) -> tuple[Kind, pa.Array]:
    """Read values that may be of any kind; missing ones and JSON nulls become null.

    Objects and arrays stay the text that came. Where kinds are mixed, every value becomes text: strings as they are, all else as
    written.
    """
    values = [None if value is None or value == b"null" else value for value in values]
    first = {value[:1] for value in values if value is not None}
    if not first:
        return _null(len(values))
    if first <= {b"{", b"["}:
        return Kind.JSON, utf8_array(values)
    if first == {b'"'}:
        whole = b"[" + b",".join(b"null" if value is None else value for value in values) + b"]"
        return from_texts(_TEXTS.decode(whole))
    if first <= {b"t", b"f"}:
        return from_booleans([None if value is None else value == b"true" for value in values])
    if first <= _NUMBER_STARTS:
        return _from_numbers(values)
    return _text(
        Kind.TEXT,
        [None if value is None else (_TEXT.decode(value) if value[:1] == b'"' else value.decode()) for value in values],
    )


def from_texts(values: Sequence[str | None]) -> tuple[Kind, pa.Array]:
    """Read strings."""
    return _text(Kind.TEXT, values)


def from_booleans(values: Sequence[bool | None]) -> tuple[Kind, pa.Array]:
    """Read booleans."""
    return Kind.BOOLEAN, boolean_array(values)


def from_integers(values: Sequence[int | None]) -> tuple[Kind, pa.Array]:
    """Read integers; where one does not fit 64 bits, all of them become text."""
    import pyarrow.compute as pc

    try:
        array = integer_array(values)
    except OverflowError:
        return _text(Kind.TEXT, [None if value is None else str(value) for value in values])
    extremes = pc.min_max(array).as_py()
    if extremes["min"] is None:
        return _null(len(values))
    exact = extremes["min"] >= -EXACT_IN_DOUBLE and extremes["max"] <= EXACT_IN_DOUBLE
    return (Kind.INTEGER if exact else Kind.BIGINT), array


def to_instants(array: pa.Array) -> pa.Array | None:
    """Turn a text array into instants; none where a value in it is not one that an instant gives back."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pc.all(pc.match_substring_regex(array, INSTANT)).as_py():
        return None
    try:
        return pc.cast(array, arrow_type(Kind.TIMESTAMP))
    except pa.ArrowInvalid:  # the form is right and the date is none, such as a thirteenth month
        return None


def newest_instant(values: Sequence[bytes | None]) -> datetime | None:
    """Give the newest of undecoded values; none where one of them is no instant.

    Instants that are all written alike sort as their texts do; Arrow, which takes longer to load, reads all others.
    """
    there = [value for value in values if value is not None and value != b"null"]
    if there and len({len(value) for value in there}) == 1 and _ALIKE.fullmatch(b"".join(there)):
        with suppress(ValueError):  # the form is right and the date is none
            return datetime.fromisoformat(max(there)[1:-1].decode())
    kind, array = from_raw(values)
    instants = to_instants(array) if kind is Kind.TEXT else None
    if instants is None:
        return None
    return newest_of(instants)


def newest_of(instants: pa.Array) -> datetime | None:
    """Give the newest of instants; none where there are none.

    Arrow's own way to a datetime imports pandas.
    """
    import pyarrow.compute as pc

    microseconds: int | None = pc.max(instants).value
    try:
        return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:  # the year 0, which no datetime has
        return None


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ALIKE = re.compile(rb'(?:"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?Z")*')
_NUMBER_STARTS = {bytes([character]) for character in b"-0123456789"}


def _from_numbers(values: Sequence[bytes | None]) -> tuple[Kind, pa.Array]:
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = [None if value is None else value.decode() for value in values]
    if not any("." in text or "e" in text or "E" in text for text in texts if text is not None):
        # Python refuses to read integers of thousands of digits, and none beyond twenty characters fits 64 bits.
        if any(text is not None and len(text) > _LONGEST_INT64 for text in texts):
            return _text(Kind.TEXT, texts)
        return from_integers([None if text is None else int(text) for text in texts])
    if any(text is not None and not _is_double(text) for text in texts):
        return _text(Kind.TEXT, texts)
    return Kind.DOUBLE, pc.cast(text_array(texts), pa.float64())


def _is_double(text: str) -> bool:
    """Tell whether a double has exactly the decimal value that was written."""
    if len(text) <= _DIGITS_A_DOUBLE_KEEPS and "e" not in text and "E" not in text:
        return True
    number = float(text)
    return number not in (float("inf"), float("-inf")) and Decimal(text) == Decimal(repr(number))


def _text(kind: Kind, values: Sequence[str | None]) -> tuple[Kind, pa.Array]:
    array = text_array(values)
    return (kind if array.null_count < len(array) else Kind.NULL), array


def _null(length: int) -> tuple[Kind, pa.Array]:
    import pyarrow as pa

    return Kind.NULL, pa.nulls(length, pa.string())
