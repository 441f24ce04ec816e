# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Parts of typed columns: their encoding as Parquet or as Arrow IPC, and how a finished one is read again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.landing.parts import Part, PartFormat, is_local, read_verified

if TYPE_CHECKING:
    import pyarrow as pa
    from airflow.sdk import ObjectStoragePath

_PARQUET_ROWS = 100_000
_ARROW_ROWS = 10_000
"""Rows of a group of a table that is written as a whole. A reader of Arrow IPC holds a whole group in memory."""


def staged_format(folder: ObjectStoragePath) -> PartFormat:
    """Return the format for parts that wait to be loaded: on this machine the one that costs least, elsewhere the smaller one."""
    return PartFormat.ARROW if is_local(folder) else PartFormat.PARQUET


def new_writer(sink: pa.NativeFile, schema: pa.Schema, *, part_format: PartFormat, repeating: Sequence[str] | None = None) -> Any:
    """Return a writer of a file, with ``write_table`` and ``close``.

    :param part_format: one with typed columns.
    :param repeating: the columns whose values repeat, for Parquet; None for all.
    """
    if part_format is PartFormat.PARQUET:
        import pyarrow.parquet as pq

        return pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=True if repeating is None else repeating)
    import pyarrow as pa
    import pyarrow.ipc

    # One thread, as for Parquet: the others have the next pages to fetch and to decode.
    return pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False))


def column_bytes(table: pa.Table, *, part_format: PartFormat) -> bytes:
    """Write a table as a file, with the kinds of its columns in the schema."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    writer = new_writer(sink, table.schema, part_format=part_format)
    # Tables of many chunks, such as pages, become few groups.
    writer.write_table(table.combine_chunks(), _PARQUET_ROWS if part_format is PartFormat.PARQUET else _ARROW_ROWS)
    writer.close()
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_groups(content: pa.Buffer, *, part_format: PartFormat, keys: Collection[str] | None = None) -> Iterator[pa.Table]:
    """Read a file one row group at a time, to save memory; of a file without rows an empty one.

    :param keys: the only columns to read, of those that the file has.
    """
    import pyarrow as pa

    source = pa.BufferReader(content)
    return _parquet_groups(source, keys=keys) if part_format is PartFormat.PARQUET else _arrow_groups(source, keys=keys)


def _parquet_groups(source: pa.BufferReader, *, keys: Collection[str] | None) -> Iterator[pa.Table]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file:
        # A name of a nested column would stand for those in it; parts have none.
        wanted = None if keys is None else [name for name in file.schema_arrow.names if name in keys]
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns=wanted)
        if not file.num_row_groups:
            yield file.read(columns=wanted)


def _arrow_groups(source: pa.BufferReader, *, keys: Collection[str] | None) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.ipc

    names = pa.ipc.open_file(source).schema.names
    wanted = [number for number, name in enumerate(names) if keys is None or name in keys]
    # No field at all would mean all of them.
    options = pa.ipc.IpcReadOptions(included_fields=wanted or [0], use_threads=False)
    with pa.ipc.open_file(source, options=options) as file:
        for number in range(file.num_record_batches):
            rows = pa.Table.from_batches([file.get_batch(number)])
            yield rows if wanted or not names else rows.select([])
        if not file.num_record_batches:
            yield file.read_all()


class ColumnPart(msgspec.Struct, frozen=True, kw_only=True):
    """A finished part of typed columns, ready to be loaded.

    Each method verifies the part's digest, and raises `DamagedPartError`. The bytes that were verified are those that are
    decoded: a memory map would read the file again, and a file that is cut short meanwhile would kill the process.

    :param folder: the run's folder.
    :param part: the part in it.
    """

    folder: ObjectStoragePath
    part: Part

    @property
    def name(self) -> str:
        """The part's file name."""
        return self.part.name

    def read(self) -> pa.Table:
        """Read the part."""
        import pyarrow as pa

        return pa.concat_tables(self.groups())

    def groups(self, *, keys: Collection[str] | None = None) -> Iterator[pa.Table]:
        """Read the part one row group at a time, to save memory.

        :param keys: the only columns to read, of those that the part has.
        """
        import pyarrow as pa

        part_format = PartFormat.PARQUET if self.name.endswith(PartFormat.PARQUET.suffix) else PartFormat.ARROW
        return read_groups(pa.py_buffer(self.content()), part_format=part_format, keys=keys)

    def content(self) -> bytes:
        """Read the part's bytes."""
        return read_verified(self.folder, self.part)
