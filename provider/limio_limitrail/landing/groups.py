# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A Parquet file that is written while its rows come, in groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limio_limitrail.landing.kinds import Kind, arrow_field, widen
from limio_limitrail.landing.tables import conform, merge_schemas, schema_of

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

GROUP_ROWS = 10_000
"""Rows after which a group is written. Larger groups are a little cheaper to write and read, and all of one is in memory."""

SPELLED_ALIKE = 10**15
"""Below this a whole number and the double of its value have the same text form."""

GROUP_SIZE = 16 * 1024 * 1024
"""Bytes of JSON after which a group is written, where records are large."""


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    """Groups that have the same columns, as a file of their own."""

    schema: Mapping[str, Kind]
    sink: pa.BufferOutputStream
    writer: pq.ParquetWriter


class RowGroups:
    """Takes groups of rows and gives a Parquet file, whose columns hold what all of them brought.

    A file's columns stand at its beginning. A group whose values another type holds begins a new stretch, so that no value is
    written in a type that it has to leave again; the stretches are made into one file in the end.
    """

    def __init__(self) -> None:
        self._stretches: list[_Stretch] = []
        self._schema: Mapping[str, Kind] = {}

    @property
    def schema(self) -> Mapping[str, Kind]:
        """The columns so far."""
        return self._schema

    def add(self, rows: pa.Table) -> None:
        """Write a group."""
        own = schema_of(rows)
        self._schema = merge_schemas([self._schema, own])
        if not self._stretches or not _goes_into(rows, self._stretches[-1].schema):
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


class Numbers:
    """Remembers which columns of some rows hold whole numbers that must not become doubles on their way, and which hold doubles.

    A whole number that becomes a double, and the double a text, may be spelled otherwise than the number itself: ``1e+15``.
    """

    def __init__(self) -> None:
        self._doubles: set[str] = set()
        self._large: set[str] = set()

    def refuse(self, rows: pa.Table) -> bool:
        """Add rows, or tell that they cannot be put together with those before."""
        kinds = schema_of(rows)
        doubles = {name for name, kind in kinds.items() if kind is Kind.DOUBLE}
        large = {name for name, kind in kinds.items() if kind is Kind.INTEGER and not _small(rows, name)}
        if doubles & self._large or large & self._doubles:
            return True
        self._doubles |= doubles
        self._large |= large
        return False


def _goes_into(rows: pa.Table, schema: Mapping[str, Kind]) -> bool:
    """Tell whether rows can be written as columns of a schema without a value becoming what it would not become by itself."""
    for name, kind in schema_of(rows).items():
        held = schema.get(name)
        if held is None or widen(held, kind) is not held:
            return False
        if (kind, held) == (Kind.INTEGER, Kind.DOUBLE) and not _small(rows, name):
            return False
    return True


def _small(rows: pa.Table, name: str) -> bool:
    import pyarrow.compute as pc

    extremes: dict[str, int] = pc.min_max(rows.column(name)).as_py()
    return extremes["min"] > -SPELLED_ALIKE and extremes["max"] < SPELLED_ALIKE


def _begin(schema: Mapping[str, Kind]) -> _Stretch:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    fields = pa.schema([arrow_field(name=name, kind=kind) for name, kind in schema.items()])
    # Nested values hardly ever repeat: a dictionary of them makes a file larger, and takes as long as it takes to write them.
    repeating = [name for name, kind in schema.items() if kind is not Kind.JSON]
    return _Stretch(schema=schema, sink=sink, writer=pq.ParquetWriter(sink, fields, compression="zstd", use_dictionary=repeating))


def _groups(content: pa.Buffer) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(content)) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number)
