# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Arrow arrays out of Python values, by their buffers.

``pyarrow.array`` imports pandas when it is first called, to find out whether it was given something of it: a third of a second
and forty megabytes, in every task.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import repeat
from operator import is_not
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    import pyarrow as pa

_Text = TypeVar("_Text", str, bytes)

_MOST_BYTES = 2**31 - 1
"""What an array's offsets of 32 bits reach."""


def text_array(values: Sequence[str | None]) -> pa.Array:
    """Make an array of texts."""
    there = _there(values, missing="")
    whole = "".join(there)
    if whole.isascii():
        return _texts(values, there=there, data=whole.encode())
    return utf8_array([None if value is None else value.encode() for value in values])


def utf8_array(values: Sequence[bytes | None]) -> pa.Array:
    """Make an array of texts.

    :param values: valid UTF-8.
    """
    there = _there(values, missing=b"")
    return _texts(values, there=there, data=b"".join(there))


def integer_array(values: Sequence[int | None]) -> pa.Array:
    """Make an array of 64-bit integers.

    :raises OverflowError: one of them is larger.
    """
    import pyarrow as pa

    missing = None in values
    numbers = array("q", [value or 0 for value in values] if missing else values)  # type: ignore[type-var] # likewise
    return pa.Array.from_buffers(pa.int64(), len(values), [_validity(values) if missing else None, pa.py_buffer(numbers)])


def boolean_array(values: Sequence[bool | None]) -> pa.Array:
    """Make an array of truth values."""
    import pyarrow as pa

    bits = _bits([value is True for value in values])
    return pa.Array.from_buffers(pa.bool_(), len(values), [_validity(values) if None in values else None, bits])


def _there(values: Sequence[_Text | None], *, missing: _Text) -> Sequence[_Text]:
    """Give the values with something in the place of those that are missing; where none is, the very same."""
    if None not in values:
        return cast("Sequence[_Text]", values)
    return [missing if value is None else value for value in values]


def _texts(values: Sequence[_Text | None], *, there: Sequence[_Text], data: bytes) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    if len(data) > _MOST_BYTES:
        raise OverflowError("the texts of a column take more than two gigabytes")
    offsets = np.zeros(len(there) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, there), np.int32, len(there)), out=offsets[1:])
    validity = None if there is values else _validity(values)
    return pa.Array.from_buffers(pa.string(), len(values), [validity, pa.py_buffer(offsets), pa.py_buffer(data)])


def _validity(values: Sequence[object]) -> pa.Buffer:
    return _bits(map(is_not, values, repeat(None)))


def _bits(flags: Iterable[bool]) -> pa.Buffer:
    """Pack flags, eight a byte, as Arrow does it itself when it makes booleans of numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    spread = bytes(flags)
    numbers = pa.Array.from_buffers(pa.int8(), len(spread), [None, pa.py_buffer(spread)])
    return pc.cast(numbers, pa.bool_()).buffers()[1]
