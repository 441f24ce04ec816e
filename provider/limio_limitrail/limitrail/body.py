# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a request's JSON is made of: columns of a row, texts made of several, and plain values."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from string import Formatter
from typing import Any

import msgspec

from limio_limitrail.api.errors import ParameterError

Row = Mapping[str, Any]

_PLAIN = frozenset({str, int, float, bool, Decimal})
"""What most values are; they are told apart from the others first, because that is quick."""

_JSON = msgspec.json.Decoder(float_hook=Decimal)
_ENCODER = msgspec.json.Encoder(decimal_format="number", order="deterministic")


class UsageRowError(ParameterError):
    """A row cannot be sent as it is. The message names the row by its number, the column, and what is wrong with it.

    :param number: the row's place in the input, from 1; 0 where it is about all rows.
    :param what: the column and what is wrong.
    """

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"row {number}: {what}" if number else what)
        self.number = number


@dataclass(frozen=True)
class Column:
    """The value of a column.

    Numbers go out digit by digit as the database gives them, times in ISO 8601 (those with a zone in UTC), nested values as JSON.

    :param name: the column.
    :param required: whether a row without a value is an error; else the member is left out.
    """

    name: str
    required: bool = True


@dataclass(frozen=True)
class Json:
    """A column that holds JSON as text; its value goes out as that JSON.

    :param name: the column.
    :param required: whether a row without a value is an error; else the member is left out.
    """

    name: str
    required: bool = True


@dataclass(frozen=True)
class Text:
    """A text made of columns, such as ``Text("{plan}/{country}")``. Each of them must have a value.

    :param template: the text, with the names of columns in braces.
    """

    template: str

    def __post_init__(self) -> None:
        """Refuse what is no such text.

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
        """Name the columns in it."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.template) if name)


class _Omit:
    """Stands for a member that is left out."""


def columns_of(tree: object) -> frozenset[str]:
    """Name the columns that a body needs."""
    match tree:
        case Column() | Json():
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
    """Make a row's JSON value out of a body.

    :raises UsageRowError: a value is missing, or has no JSON form.
    """
    if type(tree) in _PLAIN:
        return as_json(tree, number=number, column=None)
    match tree:
        case Column():
            value = row.get(tree.name)
            if is_missing(value):
                return _left_out(tree, number=number)
            return as_json(value, number=number, column=tree.name)
        case Json():
            value = row.get(tree.name)
            if is_missing(value):
                return _left_out(tree, number=number)
            return _parsed(value, number=number, column=tree.name)
        case Text():
            values = {}
            for name in tree.columns():
                if is_missing(row.get(name)):
                    raise UsageRowError(number, f"column {name!r} has no value, and the body needs one")
                values[name] = as_text(row[name], number=number, column=name)
            return tree.template.format_map(values)
        case Mapping():
            filled = {str(name): fill(value, row, number=number) for name, value in tree.items()}
            return {name: value for name, value in filled.items() if not isinstance(value, _Omit)}
        case list() | tuple():
            return [value for one in tree if not isinstance(value := fill(one, row, number=number), _Omit)]
        case None:
            return None
        case _:
            return as_json(tree, number=number, column=None)


def encode(value: object) -> bytes:
    """Write JSON: decimals and integers digit by digit, the members of objects by name."""
    return _ENCODER.encode(value)


def _left_out(tree: Column | Json, *, number: int) -> _Omit:
    if tree.required:
        raise UsageRowError(number, f"column {tree.name!r} has no value, and the body needs one")
    return _Omit()


def is_missing(value: object) -> bool:
    """Tell whether a row has no value there: none, or one of those that pandas has for it."""
    if value is None:
        return True
    if type(value) in _PLAIN:
        return False
    if isinstance(value, str | int | float | Decimal | date | time | Mapping | Sequence) and not _is_nat(value):
        return False
    try:
        # pandas' missing values differ from themselves, or will not be compared. A float NaN is an error instead, and no gap.
        return bool(value != value)
    except TypeError:
        return True
    except ValueError:
        # An array, which gives an array of answers.
        return False


def _is_nat(value: object) -> bool:
    return isinstance(value, datetime) and type(value).__name__ == "NaTType"


def _parsed(value: object, *, number: int, column: str) -> Any:
    if not isinstance(value, str | bytes):
        return as_json(value, number=number, column=column)
    try:
        return _JSON.decode(value)
    except (msgspec.DecodeError, UnicodeError):
        raise UsageRowError(number, f"column {column!r} holds no JSON") from None


def as_json(value: object, *, number: int, column: str | None) -> Any:
    """Give a value in a form that JSON has.

    :raises UsageRowError: it has none.
    """

    def unfit(what: str) -> UsageRowError:
        where = f"column {column!r}" if column is not None else "the body"
        return UsageRowError(number, f"{where} holds {what}, which JSON cannot")

    if type(value) is str and value.isascii():
        return value
    match value:
        case bool() | int() | None:
            return value
        case str():
            if not _is_encodable(value):
                raise unfit("half a surrogate pair")
            return value
        case float():
            if not math.isfinite(value):
                raise unfit("NaN or infinity")
            return float(value)
        case Decimal():
            if not value.is_finite():
                raise unfit("NaN or infinity")
            return value
        case datetime():
            if _is_nat(value):
                raise unfit("a missing time")
            return _instant(value)
        case date() | time():
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
        case _:
            raise unfit(f"a {type(value).__name__}")


def as_text(value: object, *, number: int, column: str) -> str:
    """Give a value as it stands in a text.

    :raises UsageRowError: it is nested, or has no text form.
    """
    plain = as_json(value, number=number, column=column)
    if isinstance(plain, str):
        return plain
    if isinstance(plain, dict | list):
        raise UsageRowError(number, f"column {column!r} holds a nested value, which makes no text")
    return encode(plain).decode()


def _instant(value: datetime) -> str:
    if value.tzinfo is None:
        return value.isoformat()
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
