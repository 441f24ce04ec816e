# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Readers of numbers, switches, texts, lists and mappings. Reading what was read already changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias, TypeVar

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.lazy import lazy_pattern
from limio_limitrail.parameters.given import as_native, digits_of, is_nothing, plain, type_of, unfit

T = TypeVar("T")

Reader: TypeAlias = Callable[[str, object], T]
"""Takes a parameter's name and the given value; returns the value, or raises `ParameterError`."""

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off", "none", ""})
_LONGEST_NUMBER = 30
_PERCENT = lazy_pattern(r"([0-9]{1,3}(?:\.[0-9]{1,20})?) ?%")
_COUNT = lazy_pattern(r"[0-9]{1,20}")


def optional(read: Reader[T]) -> Reader[T | None]:
    """Read a parameter that may be left out: None, ``"None"`` and an empty text then count as left out."""

    def read_or_none(name: str, value: object) -> T | None:
        return None if is_nothing(plain(value)) else read(name, value)

    return read_or_none


def whole_number(*, least: int, most: int | None = None) -> Reader[int]:
    """Read a whole number: an int, a float or decimal without a fraction, or a text of one. True is none."""
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"

    def read(name: str, value: object) -> int:
        number = _whole(plain(value))
        if number is None or number < least or (most is not None and number > most):
            raise unfit(name, value, expected=f"a whole number {bounds}")
        return number

    return read


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    if isinstance(value, int):
        return value
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    if not number.is_finite() or number.adjusted() > _LONGEST_NUMBER or number != number.to_integral_value():
        return None
    return int(number)


def rows_or_percent(name: str, value: object) -> int | str:
    """Read a limit of rows: a whole number of rows, or a text such as ``"1%"``.

    :raises ParameterError: it is neither. A float is refused, because 1 is one row and 1.0 would be all of them.
    """
    found = plain(value)
    if isinstance(found, int) and not isinstance(found, bool) and found >= 0:
        return found
    if isinstance(found, str):
        found = found.strip()
        if _COUNT.fullmatch(found):
            return int(found)
        percent = _PERCENT.fullmatch(found)
        if percent is not None and Decimal(percent[1]) <= 100:
            return f"{percent[1]}%"
    expected = 'a whole number of rows, such as 10, or a share of them as a text, such as "1%"'
    raise unfit(name, value, expected=f"{expected}{_correction(found)}")


def _correction(found: object) -> str:
    """Return what to write instead of a number that is neither a count of rows nor a text with a percent sign."""
    try:
        number = Decimal(str(found)) if isinstance(found, float | Decimal | str) else Decimal(-1)
    except InvalidOperation:
        return ""
    if not number.is_finite():
        return ""
    if number == 1:
        return ' (write 1 for one row, "100%" for all of them)'
    if 0 < number < 1 and number.adjusted() > -12:
        percent = format(number * 100, "f")
        return f' (write "{percent.rstrip("0").rstrip(".") if "." in percent else percent}%")'
    is_count = number >= 0 and number.adjusted() < 12 and number == number.to_integral_value()
    return f" (write {int(number)})" if is_count else ""


def switch(name: str, value: object) -> bool:
    """Read a switch: true or false, yes or no, on or off, 1 or 0, in any case; nothing is false."""
    found = plain(value)
    word = "" if is_nothing(found) else _as_text(str(found) if isinstance(found, bool) else found)
    word = None if word is None else word.lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise unfit(name, value, expected="true or false")


def text(what: str = "a text") -> Reader[str]:
    """Read a text that is not empty. A whole number is taken for its digits, as native rendering makes numbers of ids."""

    def read(name: str, value: object) -> str:
        found = _as_text(value)
        if found is None or is_nothing(found):
            raise unfit(name, value, expected=f"{what}, not empty")
        return found

    return read


def _as_text(value: object) -> str | None:
    found = plain(value)
    if isinstance(found, str):
        return str(found).strip()
    return digits_of(found) if isinstance(found, int) and not isinstance(found, bool) else None


def choice(*words: str) -> Reader[str]:
    """Read one of several words, in any case."""
    by_word = {word.casefold(): word for word in words}

    def read(name: str, value: object) -> str:
        found = by_word.get((_as_text(value) or "").casefold())
        if found is None:
            raise unfit(name, value, expected=f"one of {', '.join(words)}")
        return found

    return read


def choices(*words: str) -> Reader[tuple[str, ...]]:
    """Read some of several words, in any case: a list, or one of them as a text."""
    one, some = choice(*words), names("words", least=1)

    def read(name: str, value: object) -> tuple[str, ...]:
        try:
            return tuple(dict.fromkeys(one(name, item) for item in some(name, value)))
        except ParameterError:
            raise unfit(name, value, expected=f"a list of some of {', '.join(words)}, or one of them as a text") from None

    return read


def names(what: str, *, least: int = 0) -> Reader[tuple[str, ...]]:
    """Read several names: a list, or one text, which is a list of one.

    A text that is a list when it is written out (``"['a', 'b']"``, JSON) is that list. A bare text with a comma is refused: it
    may be one name or two.
    """
    expected = f"a list of {what}, or one of them as a text" + (f"; at least {least}" if least else "")

    def read(name: str, value: object) -> tuple[str, ...]:
        items = _items(plain(value))
        found = None if items is None else [_item(item) for item in items]
        if found is None or None in found or len(found) < least:
            raise unfit(name, value, expected=expected)
        return tuple(dict.fromkeys(str(item) for item in found))

    return read


def _items(value: Any) -> list[Any] | None:
    if isinstance(value, str):
        value = str(value).strip()
        if is_nothing(value):
            return None
        listed = as_native(value)
        if isinstance(listed, list | tuple | AbstractSet | dict | bool):
            value = listed
        else:
            # "'a'" is a, as in native rendering; 007 and 1_000 are names.
            one = listed if isinstance(listed, str) else value
            return None if "," in one or one.startswith(("[", "(", "{")) else [one]
    if isinstance(value, AbstractSet):
        return sorted(value, key=str)  # in one order in every process
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return list(value)
    return [value] if isinstance(value, int) and not isinstance(value, bool) else None


def _item(value: object) -> str | None:
    """Return a name of a list unchanged: a record's key may begin with a blank."""
    found = plain(value)
    if isinstance(found, str):
        return str(found) if found.strip() else None
    return _as_text(found)


def mapping(name: str, value: object) -> dict[str, Any]:
    """Read a mapping: a dictionary, or a text that is one when it is written out, as JSON or as Python shows it."""
    found = plain(value)
    if isinstance(found, str):
        found = as_native(found)
    if not isinstance(found, Mapping):
        # Its text may be a record.
        raise ParameterError(f"{name} must be a mapping of names to values, got {type_of(value)}")
    keys = {key: _as_text(key) for key in found}
    if None in keys.values():
        raise ParameterError(f"{name} must be a mapping whose keys are texts, got {type_of(value)}")
    return {str(keys[key]): item for key, item in found.items()}


def param_values(name: str, value: object) -> dict[str, str]:
    """Read the values of path or query parameters, as the texts that are sent. Empty ones are left out."""
    from limio_limitrail.api.query import as_text
    from limio_limitrail.parameters.times import instant

    given = plain(value)
    texts: dict[str, str] = {}
    for key, item in ({} if is_nothing(given) else mapping(name, given)).items():
        found = plain(item)
        if found is None or found == "None":
            continue
        about = f"{name}[{key!r}]"
        if isinstance(found, datetime):
            found = instant(about, found)
        elif isinstance(found, date | Decimal):
            found = str(found)
        if not isinstance(found, str | int | float | datetime) or (isinstance(found, float) and not math.isfinite(found)):
            raise unfit(about, item, expected="a text, a number, a boolean or a time")
        texts[key] = as_text(about, found)
    return texts


def scopes(name: str, value: object) -> tuple[str, ...]:
    """Read OAuth scopes: a text with spaces between them, or a list. Sorted, each once; none where nothing is given."""
    from limio_limitrail.api.resource import split_scopes, unfit_scopes

    expected = "OAuth scopes, as a list or as a text with spaces between them"
    given = plain(value)
    if is_nothing(given):
        return ()
    listed = as_native(given) if isinstance(given, str) else given
    items = listed if isinstance(listed, AbstractSet | Sequence) and not isinstance(listed, str | bytes) else [given]
    texts = [_as_text(item) for item in items]
    # A list or a mapping that cannot be read is no scope, though a scope may hold such characters.
    if None in texts or (items == [given] and str(given).lstrip().startswith(("[", "(", "{"))):
        raise unfit(name, value, expected=expected)
    found = split_scopes([text for text in texts if text])
    if unfit_scopes(found):
        raise unfit(name, value, expected=f"{expected}; a scope holds no commas, quotes or semicolons")
    return found
