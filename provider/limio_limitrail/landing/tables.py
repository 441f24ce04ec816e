# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Arrow tables of landed columns: put together, turned into frames and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from limio_limitrail.landing.errors import RecordError
from limio_limitrail.landing.kinds import Kind, arrow_field, arrow_type, cast, kind_of, widen
from limio_limitrail.landing.values import from_integers, to_instants

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def schema_of(table: pa.Table) -> dict[str, Kind]:
    """Give a table's columns and their kinds."""
    return {field.name: kind_of(field) for field in table.schema}


def merge_schemas(schemas: Sequence[Mapping[str, Kind]]) -> dict[str, Kind]:
    """Give all columns of all schemas, in the order in which they came, each of a kind that holds them all."""
    merged: dict[str, Kind] = {}
    for schema in schemas:
        for name, kind in schema.items():
            merged[name] = widen(merged.get(name, Kind.NULL), kind)
    return merged


def stack(tables: Sequence[pa.Table]) -> pa.Table:
    """Put tables on top of each other; columns that some lack are null there, and kinds widen."""
    import pyarrow as pa

    schema = merge_schemas([schema_of(table) for table in tables])
    return pa.concat_tables([conform(table, schema) for table in tables])


def conform(table: pa.Table, schema: Mapping[str, Kind]) -> pa.Table:
    """Give a table the columns of a wider schema."""
    import pyarrow as pa

    own = schema_of(table)
    arrays = [
        cast(table.column(name), source=own[name], target=kind)
        if name in own
        else pa.chunked_array([pa.nulls(table.num_rows, arrow_type(kind))])
        for name, kind in schema.items()
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema([arrow_field(name=name, kind=kind) for name, kind in schema.items()]))


def newest(table: pa.Table, column: str | None) -> datetime | None:
    """Give the newest instant in a column; none where there is no such column or no instant in it."""
    import pyarrow.compute as pc

    if column is None or column not in table.column_names:
        return None
    array = table.column(column)
    chunks = array.chunks
    if kind_of(table.schema.field(column)) is not Kind.TIMESTAMP:
        texts = [chunk for chunk in chunks if chunk.type == "string"]
        chunks = [instants for chunk in texts if (instants := to_instants(chunk)) is not None]
    found: list[datetime] = [value for chunk in chunks if (value := pc.max(chunk).as_py()) is not None]
    return max(found, default=None)


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Give a table as a frame with Arrow types, so that no null turns integers into floats."""
    import pandas as pd

    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def from_frame(frame: pd.DataFrame, *, json_columns: Sequence[str]) -> pa.Table:
    """Take a frame back that a person's function returned.

    :param frame: any frame; its index is left out.
    :param json_columns: columns that hold JSON text when they are text.
    :raises RecordError: the frame cannot be read as a table.
    """
    import pyarrow as pa

    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise RecordError("transform returned a frame in which two columns have the same name")
    try:
        table = pa.Table.from_pandas(_serialise_nested(frame), preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise RecordError(
            f"transform returned a frame with a column of mixed types ({type(error).__name__}); give each column one type"
        ) from None
    landed = [_landed(table.column(index).combine_chunks(), json_like=name in json_columns) for index, name in enumerate(names)]
    fields = [arrow_field(name=name, kind=kind) for name, (kind, _) in zip(names, landed, strict=True)]
    return pa.Table.from_arrays([array for _, array in landed], schema=pa.schema(fields))


def _serialise_nested(frame: pd.DataFrame) -> pd.DataFrame:
    """Write dictionaries and lists in object columns as JSON text."""
    copy = frame.copy(deep=False)
    for name in copy.columns:
        column = copy[name]
        if column.dtype == object and any(isinstance(value, dict | list) for value in column):
            copy[name] = [json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value for value in column]
    return copy


def _landed(array: pa.Array, *, json_like: bool) -> tuple[Kind, pa.Array]:
    """Bring an array of any Arrow type to one of the landed kinds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.nulls(0, kind)
    if pa.types.is_null(kind):
        return Kind.NULL, pc.cast(array, pa.string())
    if pa.types.is_boolean(kind):
        return Kind.BOOLEAN, array
    if pa.types.is_integer(kind):
        return from_integers(array.to_pylist())
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        doubles = pc.cast(array, pa.float64())
        return Kind.DOUBLE, pc.if_else(pc.is_finite(doubles), doubles, None)
    if pa.types.is_timestamp(kind):
        # A time without a zone is taken as UTC, because nothing else that the APIs give has another one.
        return Kind.TIMESTAMP, pc.cast(array, arrow_type(Kind.TIMESTAMP), safe=False)
    if pa.types.is_dictionary(kind):
        return _landed(array.dictionary_decode(), json_like=json_like)
    if pa.types.is_nested(kind):
        texts = [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in array.to_pylist()]
        return Kind.JSON, pa.array(texts, pa.string())
    text = pc.cast(array, pa.string())
    if text.null_count == len(text):
        return Kind.NULL, text
    return (Kind.JSON if json_like else Kind.TEXT), text
