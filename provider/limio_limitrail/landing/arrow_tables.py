# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Arrow tables of landed columns, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind, arrow_field, arrow_type, cast, kind_of, widen
from limio_limitrail.landing.values import Times, times_in

if TYPE_CHECKING:
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
    if not schema:
        return without_columns(sum(table.num_rows for table in tables))
    # Arrow fills in the columns that some lack, of which there may be hundreds in each; but it forgets rows that have none.
    own = [conform(table, {name: schema[name] for name in table.column_names} or schema) for table in tables]
    return pa.concat_tables(own, promote_options="default").select(list(schema))


def without_columns(rows: int) -> pa.Table:
    """Make a table that has rows and no columns, as records without keys do."""
    import pyarrow as pa

    return pa.Table.from_batches([pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))])


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


def times(table: pa.Table, column: str | None) -> list[Times]:
    """Tell what a column says of time; nothing where there is no such column."""
    if column is None or column not in table.column_names:
        return []
    array = table.column(column)
    match kind_of(table.schema.field(column)):
        case Kind.TIMESTAMP:
            return [Times(newest=_newest(array), unreadable=0)]
        case Kind.TEXT:
            return [times_in(chunk) for chunk in array.chunks]
        case _:
            return [Times(newest=None, unreadable=len(array) - array.null_count)]


def _newest(instants: pa.ChunkedArray) -> datetime | None:
    # Arrow's own way to a datetime imports pandas.
    import pyarrow.compute as pc

    microseconds: int | None = pc.max(instants).value
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
