# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Arrow arrays made of Python values, and Arrow tables of landed columns put together.

``pyarrow.array`` imports pandas on its first call, to check for pandas objects: a third of a second and forty megabytes in every
task. The arrays here are therefore built from their buffers.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from operator import is_not
from typing import TYPE_CHECKING, TypeVar, cast

from limio_limitrail.landing import column_types
from limio_limitrail.landing.column_types import Kind, arrow_field, arrow_type, kind_of, widen

if TYPE_CHECKING:
    import pyarrow as pa

_Text = TypeVar("_Text", str, bytes)

_MAX_BYTES = 2**31 - 1
"""The reach of an array's 32-bit offsets."""


def text_array(values: Sequence[str | None]) -> pa.Array:
    """Make an array of texts."""
    present = _without_nulls(values, filler="")
    whole = "".join(present)
    if whole.isascii():
        return _texts(values, present=present, data=whole.encode())
    return utf8_array([None if value is None else value.encode() for value in values])


def utf8_array(values: Sequence[bytes | None]) -> pa.Array:
    """Make an array of texts from their UTF-8 bytes, which must be valid."""
    present = _without_nulls(values, filler=b"")
    return _texts(values, present=present, data=b"".join(present))


def integer_array(values: Sequence[int | None]) -> pa.Array:
    """Make an array of 64-bit integers.

    :raises OverflowError: a value needs more bits.
    """
    import pyarrow as pa

    has_nulls = None in values
    numbers = array("q", [value or 0 for value in values] if has_nulls else values)  # type: ignore[type-var] # no None here
    return pa.Array.from_buffers(pa.int64(), len(values), [_validity(values) if has_nulls else None, pa.py_buffer(numbers)])


def boolean_array(values: Sequence[bool | None]) -> pa.Array:
    """Make an array of booleans."""
    import pyarrow as pa

    bits = _bits([value is True for value in values])
    return pa.Array.from_buffers(pa.bool_(), len(values), [_validity(values) if None in values else None, bits])


def _without_nulls(values: Sequence[_Text | None], *, filler: _Text) -> Sequence[_Text]:
    """Replace nulls by a filler; return the same object if there are none."""
    if None not in values:
        return cast("Sequence[_Text]", values)
    return [filler if value is None else value for value in values]


def _texts(values: Sequence[_Text | None], *, present: Sequence[_Text], data: bytes) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    if len(data) > _MAX_BYTES:
        raise OverflowError("the texts of a column take more than two gigabytes")
    offsets = np.zeros(len(present) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, present), np.int32, len(present)), out=offsets[1:])
    validity = None if present is values else _validity(values)
    return pa.Array.from_buffers(pa.string(), len(values), [validity, pa.py_buffer(offsets), pa.py_buffer(data)])


def _validity(values: Sequence[object]) -> pa.Buffer:
    return _bits(map(is_not, values, repeat(None)))


def _bits(flags: Iterable[bool]) -> pa.Buffer:
    """Pack flags, eight a byte, as Arrow does when it casts numbers to booleans."""
    import pyarrow as pa
    import pyarrow.compute as pc

    unpacked = bytes(flags)
    numbers = pa.Array.from_buffers(pa.int8(), len(unpacked), [None, pa.py_buffer(unpacked)])
    return pc.cast(numbers, pa.bool_()).buffers()[1]


def schema_of(table: pa.Table) -> dict[str, Kind]:
    """Return a table's columns and their kinds."""
    return {field.name: kind_of(field) for field in table.schema}


def merge_schemas(schemas: Sequence[Mapping[str, Kind]]) -> dict[str, Kind]:
    """Return the columns of all schemas in order of appearance, each of a kind that holds its values in all of them."""
    merged: dict[str, Kind] = {}
    for schema in schemas:
        for name, kind in schema.items():
            merged[name] = widen(merged.get(name, Kind.NULL), kind)
    return merged


def stack(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables. Columns that a table lacks are null in its rows, and kinds widen."""
    import pyarrow as pa

    schema = merge_schemas([schema_of(table) for table in tables])
    if not schema:
        return without_columns(sum(table.num_rows for table in tables))
    # Arrow fills in missing columns, of which each table may have hundreds, but drops the rows of tables without any column.
    own = [conform(table, {name: schema[name] for name in table.column_names} or schema) for table in tables]
    return pa.concat_tables(own, promote_options="default").select(list(schema))


def without_columns(rows: int) -> pa.Table:
    """Make a table that has rows and no columns, as records without keys do."""
    import pyarrow as pa

    return pa.Table.from_batches([pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))])


def conform(table: pa.Table, schema: Mapping[str, Kind]) -> pa.Table:
    """Add the columns that a wider schema has, and cast the others to it."""
    import pyarrow as pa

    own = schema_of(table)
    arrays = [
        column_types.cast(table.column(name), source=own[name], target=kind)
        if name in own
        else pa.chunked_array([pa.nulls(table.num_rows, arrow_type(kind))])
        for name, kind in schema.items()
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema([arrow_field(name=name, kind=kind) for name, kind in schema.items()]))
