# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Converts the undecoded JSON values of a column into an Arrow array of the narrowest kind that preserves all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from limio_limitrail.landing.arrow_tables import boolean_array, integer_array, text_array, utf8_array
from limio_limitrail.landing.column_types import EXACT_IN_DOUBLE, Kind, cast
from limio_limitrail.landing.timestamps import count_times, newest_time, sort_keys

if TYPE_CHECKING:
    import pyarrow as pa

_TEXTS = msgspec.json.Decoder(list[str | None])
_TEXT = msgspec.json.Decoder(str)
_EXACT_DOUBLE_DIGITS = 15
_MAX_INT64_LENGTH = len("-9223372036854775808")


def from_raw(values: Sequence[bytes | None]) -> tuple[Kind, pa.Array]:
    """Read values of any kind; missing ones and JSON nulls become null.

    The result is the kind that the single values widen to, so it does not depend on which of them share a page. Objects and
    arrays stay the text that came. Values of mixed kinds all become text: numbers as `column_types.cast` formats them, others as
    they came.
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
        return Kind.BOOLEAN, boolean_array([None if value is None else value == b"true" for value in values])
    if first <= _NUMBER_STARTS:
        return _from_numbers(values)
    numbers = _formatted([value.decode() if value is not None and value[:1] in _NUMBER_STARTS else None for value in values])
    others = [None if value is None else _TEXT.decode(value) if value[:1] == b'"' else value.decode() for value in values]
    return from_texts([other if number is None else number for number, other in zip(numbers, others, strict=True)])


def from_texts(values: Sequence[str | None]) -> tuple[Kind, pa.Array]:
    """Read strings."""
    array = text_array(values)
    return (Kind.TEXT if array.null_count < len(array) else Kind.NULL), array


def from_integers(values: Sequence[int | None]) -> tuple[Kind, pa.Array]:
    """Read integers; if one does not fit 64 bits, all of them become text."""
    import pyarrow.compute as pc

    try:
        array = integer_array(values)
    except OverflowError:
        return from_texts([None if value is None else str(value) for value in values])
    extremes = pc.min_max(array).as_py()
    if extremes["min"] is None:
        return _null(len(values))
    exact = extremes["min"] >= -EXACT_IN_DOUBLE and extremes["max"] <= EXACT_IN_DOUBLE
    return (Kind.INTEGER if exact else Kind.BIGINT), array


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """The times in a column.

    :param newest: the newest one, truncated to the microsecond; None if there is none.
    :param unreadable: how many values are not times.
    """

    newest: datetime | None
    unreadable: int


def times_of(values: Sequence[bytes | None]) -> Times:
    """Find the newest time among undecoded JSON values.

    Times in the same format sort as texts do; Arrow, which takes longer to load, reads all others.
    """
    present = [value for value in values if value is not None and value != b"null"]
    if present and len({len(value) for value in present}) == 1 and _SAME_FORMAT.fullmatch(b"".join(present)):
        with suppress(ValueError):  # well-formed, and no such date
            return Times(newest=datetime.fromisoformat(max(present)[1:-1].decode()), unreadable=0)
    texts = [_TEXT.decode(value) for value in present if value[:1] == b'"']
    return times_in(text_array(texts), others=len(present) - len(texts))


def times_in(texts: pa.Array, *, others: int = 0) -> Times:
    """Find the newest time among texts.

    :param others: the number of further values that are not texts, and so not times.
    """
    keys = sort_keys(texts)
    return Times(newest=newest_time(keys), unreadable=others + len(texts) - texts.null_count - count_times(keys))


_SAME_FORMAT = re.compile(
    rb'(?:"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?Z")*'
)
_NUMBER_STARTS = {bytes([character]) for character in b"-0123456789"}


def _from_numbers(values: Sequence[bytes | None]) -> tuple[Kind, pa.Array]:
    texts = [None if value is None else value.decode() for value in values]
    present = [text for text in texts if text is not None]
    whole = [text for text in present if _is_integer(text)]
    # Python refuses to parse integers of thousands of digits, and none longer than twenty characters fits 64 bits.
    short = all(len(text) <= _MAX_INT64_LENGTH for text in whole)
    if short and len(whole) == len(present):
        return from_integers([None if text is None else int(text) for text in texts])
    doubles = short and all(abs(int(text)) <= EXACT_IN_DOUBLE for text in whole)
    if not doubles or not all(_is_integer(text) or _is_double(text) for text in present):
        return from_texts(_formatted(texts))
    # An integer zero has no sign, a double zero has one.
    return Kind.DOUBLE, _doubles(["0" if text == "-0" else text for text in texts])


def _is_integer(text: str) -> bool:
    return "." not in text and "e" not in text and "E" not in text


def _formatted(numbers: Sequence[str | None]) -> list[str | None]:
    """Format numbers for a text column; those that no numeric kind preserves stay as they came."""
    import pyarrow as pa

    # Integers of 64 bits are formatted already, except this one.
    texts = ["0" if text == "-0" else text for text in numbers]
    double = [at for at, text in enumerate(texts) if text is not None and not _is_integer(text) and _is_double(text)]
    if double:
        values = pa.chunked_array([_doubles([str(texts[at]) for at in double])])
        for at, form in zip(double, cast(values, source=Kind.DOUBLE, target=Kind.TEXT).to_pylist(), strict=True):
            texts[at] = form
    return texts


def _doubles(texts: Sequence[str | None]) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.cast(text_array(texts), pa.float64())


def _is_double(text: str) -> bool:
    """Return whether a double holds exactly the decimal value of the text."""
    if len(text) <= _EXACT_DOUBLE_DIGITS and "e" not in text and "E" not in text:
        return True
    number = float(text)
    return number not in (float("inf"), float("-inf")) and Decimal(text) == Decimal(repr(number))


def _null(length: int) -> tuple[Kind, pa.Array]:
    import pyarrow as pa

    return Kind.NULL, pa.nulls(length, pa.string())
