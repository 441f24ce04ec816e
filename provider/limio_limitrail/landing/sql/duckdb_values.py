# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Values that DuckDB's driver returns as others. Each is restored, or replaced by one that no row can hold.

It returns the last day of the calendar for infinity, a text for days after it and for a BIGNUM, cuts nanoseconds off, and returns
a FLOAT as the nearest number of 64 bits. All of these were seen in DuckDB 1.4 and 2.0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Any

_CHANGED = re.compile("DATE|TIME|VARIANT|^FLOAT$|^BIGNUM$")

_INFINITE = "CAST({name} AS VARCHAR) LIKE '%infinity%'"
_CUT = {
    "TIMESTAMP_NS": "isfinite({name}) AND epoch_ns({name}) % 1000 <> 0",
    "TIME_NS": "nanosecond({name}) % 1000 <> 0",
}
_CUT_WITHIN = r"regexp_matches(CAST({name} AS VARCHAR), ':\d\d\.\d{{6}}\d*[1-9]')"
"""Conditions that a column holds a value that the driver changes."""


def is_changed(type_: str) -> bool:
    """Return whether the driver may change values of a type."""
    return _CHANGED.search(type_) is not None


def value_reader(type_: str, *, holds: Callable[[str], bool], unreadable_time: object) -> Callable[[Any], object]:
    """Return what makes the database's value of the driver's.

    :param type_: the column's type in DuckDB.
    :param holds: whether a condition is true for any value of the column, which it calls ``{name}``. It runs the query once more.
    :param unreadable_time: replaces a time that Python cannot represent.
    """
    if type_ == "FLOAT":
        return _of_32_bits
    if type_ == "BIGNUM":
        return lambda value: int(value) if type(value) is str else value
    if _is_cut(type_, holds=holds):
        return lambda value: None if value is None else unreadable_time
    is_time = type_.startswith(("DATE", "TIME")) and not type_.endswith("]")

    def read(value: Any) -> object:
        is_late = is_time and type(value) is str
        return unreadable_time if is_late or (_contains_last_day(value) and holds(_INFINITE)) else value

    return read


def _is_cut(type_: str, *, holds: Callable[[str], bool]) -> bool:
    if type_ in _CUT:
        return holds(_CUT[type_])
    return ("_NS" in type_ or "VARIANT" in type_) and holds(_CUT_WITHIN)


def _of_32_bits(value: Any) -> object:
    """Return the decimal that a number of 32 bits is written as: 0.1, and not the nearest 64-bit 0.10000000149011612."""
    if type(value) is not float:
        return value
    import numpy as np

    return float(str(np.float32(value)))


def _contains_last_day(value: Any) -> bool:
    """Return whether a value is, or holds, Python's last day, which the driver returns for infinity as well."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            pending += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            pending += one
        elif type(one) is date and one == date.max:
            return True
    return False
