# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A Parquet file that is written while its rows come, in groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limio_limitrail.landing.arrow_tables import conform, merge_schemas, schema_of
from limio_limitrail.landing.column_types import Kind, arrow_field, widen

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

GROUP_ROWS = 10_000
"""Rows after which a group is written. Larger groups are a little cheaper to write and read, and all of one is in memory."""

GROUP_SIZE = 16 * 1024 * 1024
"""Bytes of JSON after which a group is written, where records are large."""


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """Groups that have the same columns, as a file of their own."""

    schema: Mapping[str, Kind]
    sink: pa.BufferOutputStream
    writer: pq.ParquetWriter


class RowGroupWriter:
    """Takes groups of rows and gives a Parquet file, whose columns hold what all of them brought.

    A file's columns stand at its beginning. A group whose values another type holds begins a new stretch, so that no value is
    written in a type that it has to leave again; the stretches are made into one file in the end.
    """

    def __init__(self) -> None:
        self._stretches: list[_Segment] = []
        self._schema: Mapping[str, Kind] = {}

    @property
    def schema(self) -> Mapping[str, Kind]:
        """The columns so far."""
        return self._schema

    def add(self, rows: pa.Table) -> None:
        """Write a group."""
        own = schema_of(rows)
        self._schema = merge_schemas([self._schema, own])
        if not self._stretches or not _goes_into(own, self._stretches[-1].schema):
            # A column without a value here takes the type that it has elsewhere.
            kinds = {name: kind if own.get(name, Kind.NULL) is Kind.NULL else own[name] for name, kind in self._schema.items()}
            self._stretches.append(_begin(kinds))
        stretch = self._stretches[-1]
        stretch.writer.write_table(conform(rows, stretch.schema))

    def finish(self) -> bytes:
        """Give the file, and begin anew."""
        stretches, self._stretches = self._stretches, []
        schema, self._schema = self._schema, {}
        for stretch in stretches:
            stretch.writer.close()
        if len(stretches) > 1:
            whole = _begin(schema)
            for stretch in stretches:
                for group in _groups(stretch.sink.getvalue()):
                    whole.writer.write_table(conform(group, schema))
            whole.writer.close()
            stretches = [whole]
        content: bytes = stretches[0].sink.getvalue().to_pybytes()
        return content


def _goes_into(kinds: Mapping[str, Kind], schema: Mapping[str, Kind]) -> bool:
    """Tell whether rows can be written as columns of a schema."""
    return all(name in schema and widen(schema[name], kind) is schema[name] for name, kind in kinds.items())


def _begin(schema: Mapping[str, Kind]) -> _Segment:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    fields = pa.schema([arrow_field(name=name, kind=kind) for name, kind in schema.items()])
    # Nested values hardly ever repeat: a dictionary of them makes a file larger, and takes as long as it takes to write them.
    repeating = [name for name, kind in schema.items() if kind is not Kind.JSON]
    return _Segment(schema=schema, sink=sink, writer=pq.ParquetWriter(sink, fields, compression="zstd", use_dictionary=repeating))


def _groups(content: pa.Buffer) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(content)) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number)
