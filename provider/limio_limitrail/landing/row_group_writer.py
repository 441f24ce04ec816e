# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Writes a part of typed columns one row group at a time, while further rows come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.landing.arrow_tables import conform, merge_schemas, schema_of
from limio_limitrail.landing.column_parts import new_writer, read_groups
from limio_limitrail.landing.column_types import Kind, arrow_field, widen

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.parts import PartFormat

GROUP_ROWS = 10_000
"""Rows after which a group is written. Larger groups cost a little less time, and more memory."""

GROUP_SIZE = 16 * 1024 * 1024
"""Bytes of JSON after which a group is written even with fewer rows."""


class _Segment(msgspec.Struct, frozen=True, kw_only=True):
    """Row groups with the same columns, as a file of their own."""

    schema: Mapping[str, Kind]
    sink: pa.BufferOutputStream
    writer: Any


class RowGroupWriter:
    """Writes row groups whose columns may differ into one file.

    A file's schema must be known when its first group is written. A group that does not fit the current schema begins a new
    segment, so that no value is converted to a type from which it would have to be converted back. The segments are merged at the
    end.

    :param part_format: the format of the file: one with typed columns.
    """

    def __init__(self, part_format: PartFormat) -> None:
        self._format = part_format
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
            self._segments.append(_begin(kinds, part_format=self._format))
        segment = self._segments[-1]
        segment.writer.write_table(conform(rows, segment.schema).combine_chunks())

    def finish(self) -> bytes:
        """Return the file, and begin the next."""
        segments, self._segments = self._segments, []
        schema, self._schema = self._schema, {}
        for segment in segments:
            segment.writer.close()
        if len(segments) > 1:
            whole = _begin(schema, part_format=self._format)
            for segment in segments:
                for group in read_groups(segment.sink.getvalue(), part_format=self._format):
                    whole.writer.write_table(conform(group, schema))
            whole.writer.close()
            segments = [whole]
        content: bytes = segments[0].sink.getvalue().to_pybytes()
        return content


def _fits(kinds: Mapping[str, Kind], schema: Mapping[str, Kind]) -> bool:
    """Return whether rows with these columns fit a schema."""
    return all(name in schema and widen(schema[name], kind) is schema[name] for name, kind in kinds.items())


def _begin(schema: Mapping[str, Kind], *, part_format: PartFormat) -> _Segment:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    fields = pa.schema([arrow_field(name=name, kind=kind) for name, kind in schema.items()])
    # Nested values hardly ever repeat: a dictionary would make the file larger, and double the time to write them.
    repeating = [name for name, kind in schema.items() if kind is not Kind.JSON]
    return _Segment(schema=schema, sink=sink, writer=new_writer(sink, fields, part_format=part_format, repeating=repeating))
