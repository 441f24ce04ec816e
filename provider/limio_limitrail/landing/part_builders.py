# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Builds the content of a part from the pages of a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from limio_limitrail.concurrency import BackgroundWriter
from limio_limitrail.landing import arrow_tables as tables
from limio_limitrail.landing.column_parts import column_bytes
from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.columns import ColumnReader, FoundNames, check_number, name_clash
from limio_limitrail.landing.element_builder import ElementBuilder, Elements
from limio_limitrail.landing.nested_paths import OBJECTS, NestedPathReader
from limio_limitrail.landing.parts import Compressor, PartFormat
from limio_limitrail.landing.row_group_writer import GROUP_ROWS, GROUP_SIZE, RowGroupWriter
from limio_limitrail.landing.shaping import RecordError, Shaping, Transform
from limio_limitrail.landing.time_column import MaxTimestamp
from limio_limitrail.landing.transform import transformed
from limio_limitrail.landing.values import Times

if TYPE_CHECKING:
    import pyarrow as pa


_MENDED = rb"\uFfFd"
"""How the reader of responses spells the U+FFFD that replaces half a surrogate pair, unlike one that came."""


class RecordPage(Protocol):
    """The records of a page."""

    @property
    def records(self) -> bytes:
        """The JSON array of records, as it came."""

    @property
    def raw_records(self) -> list[msgspec.Raw]:
        """The records one by one, undecoded."""

    @property
    def wrapped(self) -> bool:
        """False if it is known that no record has a line break."""


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a part.

    :param data: the bytes of its file.
    :param rows: the records in it.
    :param schema: the columns and their kinds; empty for JSON Lines.
    :param times: the times in the time column.
    :param children: the elements of nested lists, in the order of `all_lists`.
    """

    data: bytes
    rows: int
    schema: Mapping[str, Kind]
    times: Times
    children: tuple[Elements, ...] = ()


def make_builder(part_format: PartFormat, shaping: Shaping) -> Builder:
    """Choose the builder that does no more than what is asked for.

    Each builds one part after another: `add` adds a page, and `finish` returns the current part and begins the next. `size` is
    the part's bytes of JSON as they came, and `names` has the names of all records so far.
    """
    if shaping.transform is not None:
        return TransformBuilder(part_format, shaping, transform=shaping.transform)
    return LinesBuilder(shaping) if part_format is PartFormat.JSONL else GroupBuilder(part_format, shaping)


class LinesBuilder:
    """Writes JSON Lines. Records stay undecoded, unless there are columns to add or to drop; then their top level is decoded."""

    def __init__(self, shaping: Shaping) -> None:
        self._times = MaxTimestamp(shaping.time_path)
        self._dropped = tuple(shaping.dropped)
        self._nested_reader = NestedPathReader(shaping.nested_columns) if shaping.nested_columns else None
        self.names = FoundNames(self._dropped)
        self._begin()

    def _begin(self) -> None:
        self._compressor = Compressor()
        self._rows = self.size = 0

    def add(self, page: RecordPage) -> None:
        if not page.raw_records:
            return
        lines = _one_a_line(page.raw_records, wrapped=page.wrapped)
        reshape = self._nested_reader is not None or self._dropped
        self._compressor.write(_one_a_line(list(self._reshaped(page.records)), wrapped=page.wrapped) if reshape else lines)
        self._compressor.write(b"\n")
        self._rows += len(page.raw_records)
        self.size += len(lines)
        self._times.add_lines(lines)

    def _reshaped(self, records: bytes) -> Iterator[bytes]:
        nested = self._nested_reader.read(records) if self._nested_reader is not None else {}
        self.names.add_nested(nested)
        for index, record in enumerate(_objects(records)):
            self.names.add_record(record)
            if clash := sorted(nested.keys() & record.keys() - set(self._dropped)):
                raise name_clash(clash[0])
            for name in self._dropped:
                record.pop(name, None)
            for name, values in nested.items():
                value = values[index]
                if value is not None and name not in self._dropped:
                    record[name] = msgspec.Raw(value)
            yield msgspec.json.encode(record)

    def finish(self) -> Content:
        content = Content(data=self._compressor.finish(), rows=self._rows, schema={}, times=self._times.take())
        self._begin()
        return content


class _ColumnBuilder:
    """Converts pages to tables of typed columns."""

    def __init__(self, part_format: PartFormat, shaping: Shaping) -> None:
        self._format = part_format
        self._reader = ColumnReader(
            timestamps=shaping.timestamps,
            nested_columns=shaping.nested_columns,
            dropped=shaping.dropped,
            max_columns=shaping.max_columns,
        )
        self.names = self._reader.names
        self._children = [
            ElementBuilder(child, part_format=part_format, max_columns=shaping.max_columns) for child in shaping.children
        ]
        self._times = MaxTimestamp.of_columns(shaping)
        self._key = tuple({**dict.fromkeys(shaping.key), **dict.fromkeys(shaping.record_key if shaping.key else ())})
        self._tables: list[pa.Table] = []
        self.size = 0

    def add(self, page: RecordPage) -> None:
        if page.raw_records:
            records = page.records
            rows = self._reader.read(records)
            if self._key and _MENDED in records:
                mended = tables.boolean_array([_MENDED in bytes(record) for record in page.raw_records])
                _check_mended(rows.filter(mended), key=self._key)
            self._tables.append(rows)
            for child in self._children:
                child.add(records, parents=rows)
            self._times.add_page(records)
            self.size += len(records)


class TransformBuilder(_ColumnBuilder):
    """Keeps typed columns together until the part is full, because a transform wants a whole frame."""

    def __init__(self, part_format: PartFormat, shaping: Shaping, *, transform: Transform) -> None:
        super().__init__(part_format, shaping)
        self._transform = transform
        self._shaping = shaping

    def finish(self) -> Content:
        table = tables.stack(self._tables)
        self._tables = []
        self.size = 0
        # Before the transform, which may drop or round times: the watermark is about what the API returned.
        self._times.add_table(table)
        table = transformed(table, self._transform, key=self._shaping.key, record_key=self._shaping.record_key)
        if self._shaping.max_columns is not None:
            check_number(table.num_columns, max_columns=self._shaping.max_columns)
        data = _lines(table) if self._format is PartFormat.JSONL else column_bytes(table, part_format=self._format)
        return Content(data=data, rows=table.num_rows, schema=tables.schema_of(table), times=self._times.take())


class GroupBuilder(_ColumnBuilder):
    """Writes typed columns as row groups in a thread, while further pages come."""

    def __init__(self, part_format: PartFormat, shaping: Shaping) -> None:
        super().__init__(part_format, shaping)
        self._writer = BackgroundWriter()
        self._groups = RowGroupWriter(part_format)
        self._rows = self._group_rows = self._group_size = 0

    def add(self, page: RecordPage) -> None:
        if not page.raw_records:
            return
        super().add(page)
        self._group_rows += len(page.raw_records)
        self._group_size += len(page.records)
        if self._group_rows >= GROUP_ROWS or self._group_size >= GROUP_SIZE:
            self._end_group()

    def _end_group(self) -> None:
        rows = tables.stack(self._tables)
        if not rows.num_columns:
            # Rows without columns cannot be written; later rows may have some.
            return
        self._rows += self._group_rows
        self._tables = []
        self._group_rows = self._group_size = 0
        self._times.add_table(rows)
        self._writer.submit(self._groups.add, rows)

    def finish(self) -> Content:
        if self._tables:
            self._end_group()
        self._writer.wait()
        if not self._groups.schema:
            raise RecordError("the records have no columns left: they are empty objects, or drop_columns names every key")
        schema, rows = self._groups.schema, self._rows
        self._rows = self.size = 0
        children = tuple(elements for child in self._children for elements in child.finish())
        return Content(data=self._groups.finish(), rows=rows, schema=schema, times=self._times.take(), children=children)


Builder: TypeAlias = LinesBuilder | TransformBuilder | GroupBuilder


def _check_mended(rows: pa.Table, *, key: Sequence[str]) -> None:
    """Refuse U+FFFD in the key of records in which it replaces half a surrogate pair: two keys could become one."""
    import pyarrow.compute as pc

    kinds = tables.schema_of(rows)
    for name in key:
        # The JSON of an object stays as it came.
        sought = {Kind.TEXT: "\ufffd", Kind.JSON: _MENDED.decode()}.get(kinds.get(name, Kind.NULL))
        found = 0 if sought is None else pc.sum(pc.match_substring(rows.column(name), sought)).as_py()
        if found:
            raise RecordError(
                f"{found} records have half a surrogate pair in {name!r}, which belongs to the primary key. No "
                "text can hold it, and with U+FFFD in its place two keys could become one. Have the records corrected, or name "
                "other columns in primary_key="
            )


def _objects(records: bytes) -> list[dict[str, msgspec.Raw]]:
    try:
        return OBJECTS.decode(records)
    except msgspec.ValidationError:
        raise RecordError("a record of the page is not a JSON object, so no column can be taken from it or dropped") from None


def _one_a_line(records: Sequence[Any], *, wrapped: bool) -> bytes:
    """Put each record on a line of its own, without a line break at the end."""
    return b"\n".join([_on_one_line(bytes(record)) for record in records] if wrapped else records)


def _on_one_line(record: bytes) -> bytes:
    """Remove line breaks from JSON. Outside of strings they are white space, and within strings they are always escaped."""
    return record.replace(b"\n", b" ").replace(b"\r", b" ")


def _lines(table: pa.Table) -> bytes:
    """Write a table as JSON Lines, with JSON text as JSON and timestamps as in a text column."""
    kinds = tables.schema_of(table)
    nested = [name for name, kind in kinds.items() if kind is Kind.JSON]
    texts = {name: Kind.TEXT if kind is Kind.TIMESTAMP else kind for name, kind in kinds.items()}
    table = tables.conform(table, texts) if texts != kinds else table
    compressor = Compressor()
    for batch in table.to_batches(max_chunksize=10_000):
        records: list[dict[str, Any]] = batch.to_pylist()
        for record in records:
            for name in nested:
                if record[name] is not None:
                    record[name] = msgspec.Raw(_on_one_line(record[name].encode()))
        compressor.write(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
    return compressor.finish()
