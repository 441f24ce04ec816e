# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Arrow arrays out of Python values, by their buffers.

``pyarrow.array`` imports pandas when it is first called, to find out whether it was given something of it: a third of a second
and forty megabytes, in every task.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate, repeat
from operator import is_not
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def text_array(values: Sequence[str | None]) -> pa.Array:
    """Make an array of texts."""
    there = ["" if value is None else value for value in values] if None in values else values
    whole = "".join(there)  # type: ignore[arg-type] # none of them is None
    if whole.isascii():
        return _texts(values, lengths=map(len, there), data=whole.encode())  # type: ignore[arg-type] # likewise
    return utf8_array([None if value is None else value.encode() for value in values])


def utf8_array(values: Sequence[bytes | None]) -> pa.Array:
    """Make an array of texts.

    :param values: valid UTF-8.
    """
    there = [b"" if value is None else value for value in values] if None in values else values
    return _texts(values, lengths=map(len, there), data=b"".join(there))  # type: ignore[arg-type] # none of them is None


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


def _texts(values: Sequence[object], *, lengths: Iterable[int], data: bytes) -> pa.Array:
    import pyarrow as pa

    offsets = array("i", accumulate(lengths, initial=0))
    validity = _validity(values) if None in values else None
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
