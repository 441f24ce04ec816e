# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The template of a request's JSON: columns of a row, texts made of several, and literal values."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from string import Formatter
from typing import Any

import msgspec

from limio_limitrail.api.errors import ParameterError

Row = Mapping[str, Any]

_COMMON_TYPES = frozenset({str, int, float, bool, Decimal})
"""Most values have one of these types; checking them first is quick."""

MAX_DIGITS = 1000
"""Digits of a number without an exponent."""

_BEYOND = Decimal(f"1E+{MAX_DIGITS}")


class PlainNumber(Decimal):
    """A number whose default text form has an exponent; it is sent without one."""


@dataclass(frozen=True)
class Unfit:
    """A value that no row can hold; the message about it names row and column."""

    what: str


UNREADABLE_TIME = Unfit("an infinite time, or one that Python cannot hold")


class _TooManyDigitsError(Exception):
    """A number of JSON has more than `MAX_DIGITS` digits."""


def json_number(text: str) -> Decimal:
    """Read a number of JSON; one that is too large even for a decimal becomes another one with too many digits."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return _BEYOND


def _plain_number(value: Decimal) -> Decimal:
    text = str(value)
    if "E" in text:
        _, digits, exponent = value.as_tuple()
        assert isinstance(exponent, int)
        if max(-exponent, len(digits) + exponent) > MAX_DIGITS:
            raise _TooManyDigitsError
        return PlainNumber(value)
    if len(text) > MAX_DIGITS and sum(map(str.isdigit, text)) > MAX_DIGITS:
        raise _TooManyDigitsError
    return value


def _written_out(value: object) -> msgspec.Raw:
    if isinstance(value, PlainNumber):
        return msgspec.Raw(format(value, "f").encode())
    raise NotImplementedError


_JSON = msgspec.json.Decoder(float_hook=lambda text: _plain_number(json_number(text)))
_ENCODER = msgspec.json.Encoder(decimal_format="number", order="deterministic", enc_hook=_written_out)


class UsageRowError(ParameterError):
    """A row cannot be sent as it is. The message names the row by its number (from 1; 0 for all rows), the column, and what is
    wrong with it."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"row {number}: {what}" if number else what)
        self.number = number
        self.reason = what


@dataclass(frozen=True)
class Column:
    """The value of a column.

    Numbers are sent digit by digit as the database returns them, never with an exponent; times in ISO 8601, those with a zone in
    UTC; nested values as JSON.

    :param name: the column.
    :param required: whether a row without a value is an error; if not, the member is omitted.
    """

    name: str
    required: bool = True


@dataclass(frozen=True)
class Json(Column):
    """A column that holds JSON as text; its value is sent as that JSON. Parameters as for `Column`."""


@dataclass(frozen=True)
class Text:
    """A text made of columns, such as ``Text("{plan}/{country}")``. Each of them must have a value.

    :param template: the text, with the names of columns in braces.
    """

    template: str

    def __post_init__(self) -> None:
        """Check the template.

        :raises ParameterError: braces do not close, or hold something else than the name of a column.
        """
        try:
            parts = list(Formatter().parse(self.template))
        except ValueError as error:
            raise ParameterError(f"Text({self.template!r}): {error}") from None
        for _, name, spec, conversion in parts:
            if name is not None and (not name or name.isdigit() or set(name) & set(".[]") or spec or conversion):
                raise ParameterError(f"Text({self.template!r}): braces hold the name of a column and nothing else")

    def columns(self) -> tuple[str, ...]:
        """Return the columns in it."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.template) if name)


class _Omit:
    """A member that is omitted."""


def columns_of(tree: object) -> frozenset[str]:
    """Return the columns that a body needs."""
    match tree:
        case Column():
            return frozenset({tree.name})
        case Text():
            return frozenset(tree.columns())
        case Mapping():
            return frozenset[str]().union(*(columns_of(value) for value in tree.values()))
        case list() | tuple():
            return frozenset[str]().union(*(columns_of(value) for value in tree))
        case _:
            return frozenset()


def fill(tree: object, row: Row, *, number: int) -> Any:
    """Return a row's JSON by the template of a body; a value that is missing or has no JSON form raises a `UsageRowError`."""
    kind = type(tree)
    if kind is Column:
        value = row.get(tree.name)  # type: ignore[attr-defined]
        if type(value) is str and value.isascii():
            return value
        if type(value) in _COMMON_TYPES:
            return as_json(value, number=number, column=tree.name)  # type: ignore[attr-defined]
    elif kind is dict:
        return _filled(tree, row, number=number)  # type: ignore[arg-type]
    elif kind in _COMMON_TYPES:
        return as_json(tree, number=number, column=None)
    match tree:
        case Column():
            value = row.get(tree.name)
            if not is_missing(value):
                return (_parsed if isinstance(tree, Json) else as_json)(value, number=number, column=tree.name)
            if tree.required:
                raise UsageRowError(number, f"column {tree.name!r} has no value, and the body needs one")
            return _Omit()
        case Text():
            values = {}
            for name in tree.columns():
                if is_missing(row.get(name)):
                    raise UsageRowError(number, f"column {name!r} has no value, and the body needs one")
                values[name] = as_text(row[name], number=number, column=name)
            return tree.template.format_map(values)
        case Mapping():
            return _filled(tree, row, number=number)
        case list() | tuple():
            return [value for one in tree if type(value := fill(one, row, number=number)) is not _Omit]
        case _:
            return as_json(tree, number=number, column=None)


def _filled(tree: Mapping[Any, object], row: Row, *, number: int) -> dict[str, Any]:
    return {str(name): value for name, one in tree.items() if type(value := fill(one, row, number=number)) is not _Omit}


def encode(value: object) -> bytes:
    """Encode JSON: decimals and integers digit by digit, members sorted by name."""
    return _ENCODER.encode(value)


def decode(body: bytes) -> Any:
    """Decode the JSON of a request: numbers that are not whole become decimals with the same digits."""
    return _JSON.decode(body)


def is_missing(value: object) -> bool:
    """Return whether a value is missing: None, or one of pandas' missing values."""
    if value is None:
        return True
    if type(value) in _COMMON_TYPES:
        return False
    if isinstance(value, str | int | float | Decimal | date | time | Mapping | Sequence) and not _is_nat(value):
        return False
    if type(value).__module__ == "numpy" and type(value).__name__ != "datetime64":
        return False
    try:
        # pandas' missing values differ from themselves, or cannot be compared. A float NaN is an error, and not missing.
        return bool(value != value)
    except TypeError:
        return True
    except ValueError:
        # An array, which compares element by element.
        return False


def _is_nat(value: object) -> bool:
    return isinstance(value, datetime) and type(value).__name__ == "NaTType"


def _parsed(value: object, *, number: int, column: str) -> Any:
    if not isinstance(value, str | bytes):
        return as_json(value, number=number, column=column)
    try:
        return _JSON.decode(value)
    except (_TooManyDigitsError, msgspec.ValidationError):
        raise _unfit(_TOO_MANY_DIGITS, number=number, column=column) from None
    except (msgspec.DecodeError, UnicodeError):
        raise UsageRowError(number, f"column {column!r} holds no JSON") from None


_TOO_MANY_DIGITS = f"a number of more than {MAX_DIGITS:,} digits"
_NOT_FINITE = "NaN or infinity"
_LARGE = 10**MAX_DIGITS


def _unfit(what: str, *, number: int, column: str | None) -> UsageRowError:
    where = f"column {column!r}" if column is not None else "the body"
    return UsageRowError(number, f"{where} holds {what}, which JSON cannot")


def as_json(value: object, *, number: int, column: str | None) -> Any:
    """Return a value as JSON can hold it, or raise a `UsageRowError`."""
    kind = type(value)
    if kind is str and value.isascii():  # type: ignore[attr-defined]
        return value
    match value:
        case Decimal():
            if not value.is_finite():
                raise _unfit(_NOT_FINITE, number=number, column=column)
            try:
                return _plain_number(value)
            except _TooManyDigitsError:
                raise _unfit(_TOO_MANY_DIGITS, number=number, column=column) from None
        case bool() | None:
            return value
        case int():
            if not -_LARGE < value < _LARGE:
                raise _unfit(_TOO_MANY_DIGITS, number=number, column=column)
            return value if kind is int else int(value)
        case str():
            if not _is_encodable(value):
                raise _unfit("half a surrogate pair", number=number, column=column)
            return value if kind is str else str.__str__(value)
        case float():
            if not math.isfinite(value):
                raise _unfit(_NOT_FINITE, number=number, column=column)
            # The JSON encoder writes an exponent for all others.
            return float(value) if value == 0 or 1e-5 <= abs(value) < 1e16 else _plain_number(Decimal(float.__repr__(value)))
        case datetime():
            if _is_nat(value):
                raise _unfit("a missing time", number=number, column=column)
            if value.replace(tzinfo=None) in _ENDS_OF_TIME:
                raise _unfit(UNREADABLE_TIME.what, number=number, column=column)
            try:
                return value.isoformat() if value.tzinfo is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")
            except OverflowError:
                raise _unfit(UNREADABLE_TIME.what, number=number, column=column) from None
        case date():
            if value == date.min:
                raise _unfit(UNREADABLE_TIME.what, number=number, column=column)
            return value.isoformat()
        case time():
            return value.isoformat()
        case uuid.UUID():
            return str(value)
        case Mapping():
            return {
                as_json(str(name), number=number, column=column): as_json(one, number=number, column=column)
                for name, one in value.items()
            }
        case list() | tuple():
            return [as_json(one, number=number, column=column) for one in value]
        case Unfit():
            raise _unfit(value.what, number=number, column=column)
        case _:
            plain = _of_numpy(value)
            if plain is None:
                raise _unfit(f"a {kind.__name__}", number=number, column=column)
            return as_json(plain, number=number, column=column)


_ENDS_OF_TIME = (datetime.min, datetime.max)  # noqa: DTZ901 - as databases give them, without a zone
"""What drivers return for an infinite time."""


def _of_numpy(value: Any) -> Any:
    """Return a numpy scalar as a Python value; None if it is no numpy scalar, or has no such value."""
    if type(value).__module__ != "numpy":
        return None
    import numpy as np

    match value:
        case np.timedelta64():
            return None
        case np.bool_():
            return bool(value)
        case np.integer():
            return int(value)
        case np.floating():
            # Its own digits: 0.1 in 32 bits, and not the nearest 64-bit 0.10000000149011612.
            return Decimal(str(value))
        case np.datetime64():
            return _of_datetime64(value)
        case _:
            return None


def _of_datetime64(value: Any) -> Any:
    import numpy as np

    if np.isnat(value):
        return Unfit("a missing time")
    unit, _ = np.datetime_data(value.dtype)
    if unit in ("Y", "M", "W", "D"):
        plain = value.astype("datetime64[D]").tolist()
    else:
        try:
            exact = value.astype("datetime64[us]")
        except OverflowError:
            return UNREADABLE_TIME
        if exact != value:
            return str(value) if unit == "ns" else UNREADABLE_TIME
        plain = exact.tolist()
    # Beyond Python's years it is an integer.
    return plain if isinstance(plain, date) else UNREADABLE_TIME


def as_text(value: object, *, number: int, column: str) -> str:
    """Return a value as part of a text; one that is nested or that JSON cannot hold raises a `UsageRowError`."""
    plain = as_json(value, number=number, column=column)
    if isinstance(plain, str):
        return plain
    if isinstance(plain, dict | list):
        raise UsageRowError(number, f"column {column!r} holds a nested value, which makes no text")
    return encode(plain).decode()


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
