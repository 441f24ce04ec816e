# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows as Postgres takes them fastest: the binary format of COPY, made of whole columns.

The format is described in PostgreSQL's documentation of COPY ("Binary Format"): of each row the number of its fields, of each
field the number of its bytes, or -1 for a null, and then these bytes; all numbers begin with their highest byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"

ROWS = 1024
"""Rows to make at a time: as many as the processor's cache holds, twice as fast as many more."""

_EPOCH = 946_684_800_000_000
"""Postgres counts microseconds from the first of January 2000, Arrow from that of 1970."""


def binary_rows(rows: pa.Table) -> memoryview:
    """Write rows, between `HEADER` and `TRAILER`.

    :param rows: columns of text, 64-bit integers, doubles, booleans, and instants in microseconds.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    pieces: list[Any] = [pa.scalar(rows.num_columns.to_bytes(2, "big"), pa.binary())]
    for column in rows.columns:
        chunks = column.chunks
        pieces += _field(chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks))
    nothing = pa.scalar(b"", pa.binary())
    whole = pc.binary_join_element_wise(*pieces, nothing, null_handling="replace", null_replacement=b"")
    return memoryview(whole.buffers()[2]).cast("B")


def _field(array: pa.Array) -> list[pa.Array]:
    """Give what stands in each row of a column: the numbers of bytes, and the bytes."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = len(array)
    if array.type == pa.string():
        values = array.cast(pa.binary())
    elif array.type == pa.bool_():
        values = _same_size(_numbers(array.cast(pa.int8())), rows=rows)
    else:
        instants = pa.types.is_timestamp(array.type)
        numbers = _numbers(pc.subtract(array.cast(pa.int64()), _EPOCH) if instants else array)
        values = _same_size(numbers.byteswap(), rows=rows)
    lengths = pc.binary_length(values)
    if array.null_count:
        lengths = pc.if_else(array.is_valid(), lengths, -1)
        values = pc.if_else(array.is_valid(), values, None)
    return [_same_size(_numbers(lengths).astype(np.dtype(">i4")), rows=rows), values]


def _numbers(array: pa.Array) -> np.ndarray[Any, Any]:
    """Look at an array's numbers where they are; in the place of a null stands whatever stands there."""
    import numpy as np

    kind = np.dtype(str(array.type).replace("double", "float64"))
    return np.frombuffer(array.buffers()[1], kind, count=len(array), offset=array.offset * kind.itemsize)


def _same_size(values: np.ndarray[Any, Any], *, rows: int) -> pa.Array:
    """Make an array whose values are the bytes of numbers."""
    import numpy as np
    import pyarrow as pa

    size = values.dtype.itemsize
    offsets = np.arange(0, (rows + 1) * size, size, dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(values.tobytes())])
