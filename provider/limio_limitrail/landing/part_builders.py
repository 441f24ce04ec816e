# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pages pile up into the content of a part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from limio_limitrail.concurrency.background_writer import BackgroundWriter
from limio_limitrail.landing import arrow_tables as tables
from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.columns import ColumnReader, check_number
from limio_limitrail.landing.compression import Packer
from limio_limitrail.landing.errors import RecordError
from limio_limitrail.landing.field_names import FoundNames
from limio_limitrail.landing.max_timestamp import NOTHING, NewestTime, PartTimes
from limio_limitrail.landing.nested_paths import NestedPathReader
from limio_limitrail.landing.parquet_writer import GROUP_ROWS, GROUP_SIZE, RowGroupWriter
from limio_limitrail.landing.parts import PartFormat, parquet_bytes
from limio_limitrail.landing.shaping import Shaping, Transform
from limio_limitrail.landing.transform import transformed

if TYPE_CHECKING:
    import pyarrow as pa

_OBJECTS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


class RecordPage(Protocol):
    """What landing needs to see of a page."""

    @property
    def records(self) -> bytes:
        """The JSON array of records, as it came."""

    @property
    def raw_records(self) -> list[msgspec.Raw]:
        """The records one by one, undecoded."""

    @property
    def wrapped(self) -> bool:
        """False where it is known that no record has a line break in it."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """A part's bytes, and what is known of them.

    :param data: what to write.
    :param rows: the records in it.
    :param schema: the columns and their kinds; empty for JSON Lines.
    :param newest: the newest value of the time column, cut down to the microsecond.
    :param unreadable: how many values of the time column are no time.
    """

    data: bytes
    rows: int
    schema: Mapping[str, Kind]
    newest: datetime | None
    unreadable: int = 0


class Builder(Protocol):
    """Collects one part after another."""

    @property
    def size(self) -> int:
        """The bytes of JSON in the part at hand, as they came."""

    @property
    def names(self) -> FoundNames:
        """The names that records had so far, in all parts."""

    def add(self, page: RecordPage) -> None:
        """Add a page's records to the part at hand."""

    def finish(self) -> Content:
        """Give the part at hand, and begin the next."""


def make_builder(part_format: PartFormat, shaping: Shaping) -> Builder:
    """Choose the builder that does no more than what is asked for."""
    if shaping.transform is not None:
        return TableBuilder(part_format, shaping, transform=shaping.transform)
    return ParquetBuilder(shaping) if part_format is PartFormat.PARQUET else LinesBuilder(shaping)


class LinesBuilder:
    """JSON Lines: records go through as they came, undecoded.

    :param shaping: only columns lifted or dropped make a record be taken apart, and then its top level alone.
    """

    def __init__(self, shaping: Shaping) -> None:
        self._times = NewestTime(shaping.time_path) if shaping.time_path else None
        self._dropped = tuple(shaping.dropped)
        self._lifts = NestedPathReader(shaping.columns) if shaping.columns else None
        self.names = FoundNames(self._dropped)
        self._begin()

    def _begin(self) -> None:
        self._packer = Packer()
        self._rows = self.size = 0

    def add(self, page: RecordPage) -> None:
        if not page.raw_records:
            return
        came = _one_a_line(page.raw_records, wrapped=page.wrapped)
        shaped = self._lifts is not None or self._dropped
        self._packer.write(_one_a_line(list(self._shaped(page.records)), wrapped=page.wrapped) if shaped else came)
        self._packer.write(b"\n")
        self._rows += len(page.raw_records)
        self.size += len(came)
        if self._times is not None:
            self._times.see_lines(came)

    def _shaped(self, records: bytes) -> Iterator[bytes]:
        lifted = self._lifts.read(records) if self._lifts is not None else {}
        self.names.see_lifted(lifted)
        for index, record in enumerate(_objects(records)):
            self.names.see_record(record)
            if clash := sorted(lifted.keys() & record.keys() - set(self._dropped)):
                raise RecordError(
                    f"columns= lifts a nested value into {clash[0]!r}, and the records have a key of that name: "
                    "choose another name"
                )
            for name in self._dropped:
                record.pop(name, None)
            for name, values in lifted.items():
                value = values[index]
                if value is not None and name not in self._dropped:
                    record[name] = msgspec.Raw(value)
            yield msgspec.json.encode(record)

    def finish(self) -> Content:
        times = self._times.take() if self._times else NOTHING
        content = Content(
            data=self._packer.finish(), rows=self._rows, schema={}, newest=times.newest, unreadable=times.unreadable
        )
        self._begin()
        return content


class TableBuilder:
    """Typed columns that stay together until the part is full, for a transform, which wants a frame."""

    def __init__(self, part_format: PartFormat, shaping: Shaping, *, transform: Transform) -> None:
        self._format = part_format
        self._transform = transform
        self._max_columns = shaping.max_columns
        self._reader = _reader(shaping)
        self.names = self._reader.names
        self._times = PartTimes(shaping)
        self._tables: list[pa.Table] = []
        self.size = 0

    def add(self, page: RecordPage) -> None:
        if page.raw_records:
            self._tables.append(self._reader.read(page.records))
            self._times.see_page(page.records)
            self.size += len(page.records)

    def finish(self) -> Content:
        table = tables.stack(self._tables)
        self._tables = []
        self.size = 0
        # The time is read before the transform, which may drop or round it: the watermark is about what the API gave.
        self._times.see_table(table)
        table = transformed(table, self._transform)
        if self._max_columns is not None:
            check_number(table.num_columns, max_columns=self._max_columns)
        data = parquet_bytes(table) if self._format is PartFormat.PARQUET else _lines(table)
        times, schema = self._times.take(), tables.schema_of(table)
        return Content(data=data, rows=table.num_rows, schema=schema, newest=times.newest, unreadable=times.unreadable)


class ParquetBuilder:
    """Typed columns, written in groups of rows while further pages come."""

    def __init__(self, shaping: Shaping) -> None:
        self._reader = _reader(shaping)
        self.names = self._reader.names
        self._times = PartTimes(shaping)
        self._behind = BackgroundWriter()
        self._groups = RowGroupWriter()
        self._rows = self.size = 0
        self._begin_group()

    def _begin_group(self) -> None:
        self._tables: list[pa.Table] = []
        self._group_rows = self._group_size = 0

    def add(self, page: RecordPage) -> None:
        if not page.raw_records:
            return
        table = self._reader.read(page.records)
        self._tables.append(table)
        self._times.see_page(page.records)
        self._rows += table.num_rows
        self._group_rows += table.num_rows
        self._group_size += len(page.records)
        self.size += len(page.records)
        if self._group_rows >= GROUP_ROWS or self._group_size >= GROUP_SIZE:
            self._end_group()

    def _end_group(self) -> None:
        rows = tables.stack(self._tables)
        if not rows.num_columns:
            # Rows without columns cannot be written; those that come after them may have some.
            return
        self._begin_group()
        self._times.see_table(rows)
        self._behind.do(self._groups.add, rows)

    def finish(self) -> Content:
        if self._tables:
            self._end_group()
        self._behind.wait()
        if not self._groups.schema:
            raise RecordError("the records have no columns left: they are empty objects, or drop_columns names every key")
        schema, rows = self._groups.schema, self._rows
        self._rows = self.size = 0
        times, data = self._times.take(), self._groups.finish()
        return Content(data=data, rows=rows, schema=schema, newest=times.newest, unreadable=times.unreadable)


def _reader(shaping: Shaping) -> ColumnReader:
    return ColumnReader(
        timestamps=shaping.timestamps, columns=shaping.columns, dropped=shaping.dropped, max_columns=shaping.max_columns
    )


def _objects(records: bytes) -> list[dict[str, msgspec.Raw]]:
    try:
        return _OBJECTS.decode(records)
    except msgspec.ValidationError:
        raise RecordError("a record of the page is no JSON object: nothing can be lifted out of it or dropped from it") from None


def _one_a_line(records: Sequence[Any], *, wrapped: bool) -> bytes:
    """Put records below each other, without a line break at the end."""
    return b"\n".join([_on_one_line(bytes(record)) for record in records] if wrapped else records)


def _on_one_line(record: bytes) -> bytes:
    """Take the line breaks out of JSON: outside of a string they are white space, and inside of one they are always escaped."""
    return record.replace(b"\n", b" ").replace(b"\r", b" ")


def _lines(table: pa.Table) -> bytes:
    """Write a table as JSON Lines; JSON text goes in as it is, and an instant as it does where its column is text."""
    kinds = tables.schema_of(table)
    nested = [name for name, kind in kinds.items() if kind is Kind.JSON]
    texts = {name: Kind.TEXT if kind is Kind.TIMESTAMP else kind for name, kind in kinds.items()}
    table = tables.conform(table, texts) if texts != kinds else table
    packer = Packer()
    for batch in table.to_batches(max_chunksize=10_000):
        records: list[dict[str, Any]] = batch.to_pylist()
        for record in records:
            for name in nested:
                if record[name] is not None:
                    record[name] = msgspec.Raw(_on_one_line(record[name].encode()))
        packer.write(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
    return packer.finish()
