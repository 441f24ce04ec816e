# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Part files: how a bounded number of records is written, named and read back."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limio_limitrail.stored_formats import number, text
from limio_limitrail.troubleshooting import ExplainedError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from airflow.sdk import ObjectStoragePath

LOCAL = frozenset({"", "file", "local"})
"""Protocols of folders on this machine."""

_ROW_GROUP = 100_000


class PartFormat(StrEnum):
    """What a part file holds."""

    JSONL = "jsonl"
    """One record a line, as it came, compressed with zstandard."""
    PARQUET = "parquet"
    """Typed columns, nested values as JSON text, compressed with zstandard."""

    @property
    def suffix(self) -> str:
        """The end of a part's file name."""
        return ".jsonl.zst" if self is PartFormat.JSONL else ".parquet"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A finished part.

    :param name: its file name within the run's folder.
    :param rows: the records in it.
    :param size: its bytes on disk.
    :param digest: the SHA-256 of these bytes, in hexadecimal.
    """

    name: str
    rows: int
    size: int
    digest: str


def part_name(*, number: int, part_format: PartFormat) -> str:
    """Name a part by its place: the same pull made again gives the same names."""
    return f"part-{number:05d}{part_format.suffix}"


def store_part(path: ObjectStoragePath, content: bytes, *, rows: int) -> Part:
    """Write a part's bytes under its name.

    :param rows: the records in it.
    """
    write_file(path, content)
    return Part(name=path.name, rows=rows, size=len(content), digest=hashlib.sha256(content).hexdigest())


def write_file(path: ObjectStoragePath, content: bytes) -> None:
    """Write a file in the place of the one that is there; on this machine never by way of a symbolic link.

    :raises OSError: it cannot be written, or a link stands there.
    """
    if path.protocol not in LOCAL:
        path.write_bytes(content)
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path.path, flags, 0o666), "wb") as file:
        file.write(content)


def parquet_bytes(table: pa.Table) -> bytes:
    """Write a table as Parquet; the kinds of its columns go along in its schema."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=_ROW_GROUP)
    return buffer.getvalue()


class DamagedPartError(ExplainedError, ValueError):
    """A part file is not the one that was written."""


@dataclass(frozen=True, kw_only=True)
class ParquetPart:
    """A finished Parquet part, ready to be loaded.

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
        """Read the part.

        :raises DamagedPartError: its bytes are not those that were written.
        """
        with self.opened() as file:
            return file.read()

    def groups(self) -> Iterator[pa.Table]:
        """Read the part group by group, which takes less memory.

        :raises DamagedPartError: its bytes are not those that were written.
        """
        with self.opened() as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number)

    def file(self) -> Path | None:
        """Give the part's file where it is on this machine, for a database that reads it itself.

        :raises DamagedPartError: its bytes are not those that were written.
        """
        if self.folder.protocol not in LOCAL:
            return None
        read_verified(self.folder, self.part)
        return Path((self.folder / self.part.name).path)

    def opened(self) -> pq.ParquetFile:
        """Open the part, all of it in memory.

        :raises DamagedPartError: its bytes are not those that were written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pq.ParquetFile(pa.BufferReader(read_verified(self.folder, self.part)))


def read_verified(folder: ObjectStoragePath, part: Part) -> bytes:
    """Read a part's bytes and compare them with its digest.

    :raises DamagedPartError: they differ, or the file is gone.
    """
    path = folder / part.name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DamagedPartError(f"part {part.name} is gone from {folder}") from None
    if hashlib.sha256(content).hexdigest() != part.digest:
        raise DamagedPartError(f"part {part.name} in {folder} is not the file that was written: its digest differs")
    return content


def as_dict(part: Part) -> dict[str, Any]:
    """Give a part as the manifest holds it."""
    return {"name": part.name, "rows": part.rows, "size": part.size, "sha256": part.digest}


def part_from_dict(data: dict[str, Any]) -> Part:
    """Read a part out of a manifest.

    :raises KeyError: a member is missing.
    :raises TypeError: a member is of another type.
    """
    return Part(name=text(data["name"]), rows=number(data["rows"]), size=number(data["size"]), digest=text(data["sha256"]))
