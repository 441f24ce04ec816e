# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows in the binary format of Postgres' COPY, its fastest, encoded by whole columns.

PostgreSQL's documentation of COPY describes it ("Binary Format"): for each row the number of its fields, for each field the
number of its bytes, or -1 for a null, and then these bytes; all numbers are big-endian.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.column_types import arrow_type
from limio_limitrail.landing.sql.staged_rows import in_kinds

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from limio_limitrail.landing.sql.model import PartSource
    from limio_limitrail.landing.sql.plan import LoadPlan

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"

ROWS = 1024
"""Rows to encode at a time: as many as fit into the processor's cache, twice as fast as many more."""

_EPOCH = 946_684_800_000_000
"""Postgres counts microseconds from 2000-01-01, Arrow from 1970-01-01."""


def binary_rows(rows: pa.Table) -> memoryview:
    """Encode rows, which go between `HEADER` and `TRAILER`.

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
    """Return the number of bytes and the bytes of each row of a column."""
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
    """View an array's numbers without a copy; those of nulls are undefined."""
    import numpy as np

    kind = np.dtype(str(array.type).replace("double", "float64"))
    return np.frombuffer(array.buffers()[1], kind, count=len(array), offset=array.offset * kind.itemsize)


def _same_size(values: np.ndarray[Any, Any], *, rows: int) -> pa.Array:
    """Return an array whose values are the bytes of numbers."""
    import numpy as np
    import pyarrow as pa

    size = values.dtype.itemsize
    offsets = np.arange(0, (rows + 1) * size, size, dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(values.tobytes())])


@dataclass(frozen=True, kw_only=True)
class CopyChunk:
    """Some encoded rows of a part.

    :param part: the part's number.
    :param rows: how many there are.
    :param data: the rows.
    """

    part: int
    rows: int
    data: memoryview | bytes


def copy_chunks(plan: LoadPlan, *, parts: Sequence[PartSource]) -> Iterator[CopyChunk]:
    """Read parts, and encode their rows for the new table."""
    import pyarrow as pa

    for at, part in enumerate(parts):
        yield CopyChunk(part=at, rows=0, data=b"")  # so that a part without rows counts, too
        for group in part.groups():
            rows = in_kinds(rows=group, part=part.name, plan=plan)
            for column in plan.metadata:
                value = pa.scalar(column.value, arrow_type(column.kind))
                rows = rows.append_column(str(rows.num_columns), pa.repeat(value, rows.num_rows))
            yield from (CopyChunk(part=at, rows=some.num_rows, data=binary_rows(some)) for some in _slices(rows))
            # Arrow would cache the memory of the group, thirty megabytes.
            pa.default_memory_pool().release_unused()


def counted(chunks: Iterable[CopyChunk], *, sent: list[int]) -> Iterator[memoryview | bytes]:
    """Yield the data of chunks, and append the number of their rows to `sent`."""
    for chunk in chunks:
        sent.append(chunk.rows)
        yield chunk.data


def binary_slices(rows: pa.Table) -> Iterator[memoryview]:
    """Encode rows, some at a time."""
    return map(binary_rows, _slices(rows))


def _slices(rows: pa.Table) -> Iterator[pa.Table]:
    return (rows.slice(at, ROWS) for at in range(0, rows.num_rows, ROWS))


class ChunkFile(io.RawIOBase):
    """A file of chunks, each created when it is read.

    :ivar error: what ended it early; the driver would hide an error that is raised while it reads.
    """

    def __init__(self, chunks: Iterator[memoryview | bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            try:
                chunk = next(self._chunks, None)
            except Exception as error:  # noqa: BLE001 - raised after the driver has finished
                self.error, chunk = error, None
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        taken = min(len(buffer), len(self._rest))
        buffer[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        return taken
