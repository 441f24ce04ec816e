# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Writes a Parquet file one row group at a time, while further rows come."""

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
"""Rows after which a group is written. Larger groups cost a little less time, and more memory."""

GROUP_SIZE = 16 * 1024 * 1024
"""Bytes of JSON after which a group is written even with fewer rows."""


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """Row groups with the same columns, as a file of their own."""

    schema: Mapping[str, Kind]
    sink: pa.BufferOutputStream
    writer: pq.ParquetWriter


class RowGroupWriter:
    """Writes row groups whose columns may differ into one Parquet file.

    A file's schema must be known when its first group is written. A group that does not fit the current schema begins a new
    segment, so that no value is converted to a type from which it would have to be converted back. The segments are merged at the
    end.
    """

    def __init__(self) -> None:
        self._segments: list[_Segment] = []
        self._schema: Mapping[str, Kind] = {}

    @property
    def schema(self) -> Mapping[str, Kind]:
        """The columns so far."""
        return self._schema

    def add(self, rows: pa.Table) -> None:
        """Write a group."""
        own = schema_of(rows)
        self._schema = merge_schemas([self._schema, own])
        if not self._segments or not _fits(own, self._segments[-1].schema):
            # A column that is empty in this group takes the type that it has in other groups.
            kinds = {name: kind if own.get(name, Kind.NULL) is Kind.NULL else own[name] for name, kind in self._schema.items()}
            self._segments.append(_begin(kinds))
        segment = self._segments[-1]
        segment.writer.write_table(conform(rows, segment.schema))

    def finish(self) -> bytes:
        """Return the file, and begin the next."""
        segments, self._segments = self._segments, []
        schema, self._schema = self._schema, {}
        for segment in segments:
            segment.writer.close()
        if len(segments) > 1:
            whole = _begin(schema)
            for segment in segments:
                for group in _groups(segment.sink.getvalue()):
                    whole.writer.write_table(conform(group, schema))
            whole.writer.close()
            segments = [whole]
        content: bytes = segments[0].sink.getvalue().to_pybytes()
        return content


def _fits(kinds: Mapping[str, Kind], schema: Mapping[str, Kind]) -> bool:
    """Return whether rows with these columns fit a schema."""
    return all(name in schema and widen(schema[name], kind) is schema[name] for name, kind in kinds.items())


def _begin(schema: Mapping[str, Kind]) -> _Segment:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    fields = pa.schema([arrow_field(name=name, kind=kind) for name, kind in schema.items()])
    # Nested values hardly ever repeat: a dictionary would make the file larger, and double the time to write them.
    repeating = [name for name, kind in schema.items() if kind is not Kind.JSON]
    return _Segment(schema=schema, sink=sink, writer=pq.ParquetWriter(sink, fields, compression="zstd", use_dictionary=repeating))


def _groups(content: pa.Buffer) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(content)) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number)
