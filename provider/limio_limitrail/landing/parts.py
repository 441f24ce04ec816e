# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Part files and their folders: how a bounded number of records is compressed, named, written, verified and removed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Collection
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import msgspec

from limio_limitrail.troubleshooting import ExplainedError

# Python's own module where it exists, so that a pull of JSON Lines does not load Arrow only to compress.
if sys.version_info >= (3, 14):
    from compression.zstd import ZstdCompressor
else:
    from backports.zstd import ZstdCompressor

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

MANIFEST_NAME = "manifest.json"

_LOCAL = frozenset({"", "file", "local"})
"""Protocols of folders on this machine."""

_BUCKETS = frozenset({"s3", "s3a", "s3n", "gs", "gcs"})
"""Protocols of object stores, which have no folders and whose ``mkdir`` creates buckets."""

_MKDIR_ATTEMPTS = 10
_SOMEBODY_ELSE = "another try of the same run may be writing there, or a clean-up may have removed files; a retry pulls again"
_ZSTD_LEVEL = 1
"""The fastest level that still looks for long repetitions, of which records are full."""

Count = Annotated[int, msgspec.Meta(ge=0)]
"""A stored number of things."""


class PartFormat(StrEnum):
    """The content of a part file."""

    JSONL = "jsonl"
    """One record a line, as it came, compressed with zstandard."""
    PARQUET = "parquet"
    """Typed columns, nested values as JSON text, compressed with zstandard."""
    ARROW = "arrow"
    """The same columns as an Arrow IPC file, compressed with LZ4: twice the size, and read and written in a third of the time."""

    @property
    def suffix(self) -> str:
        """The end of a part's file name."""
        return ".jsonl.zst" if self is PartFormat.JSONL else f".{self}"


class Part(msgspec.Struct, frozen=True, kw_only=True, rename={"digest": "sha256"}):
    """A finished part.

    :param name: its file name within the run's folder.
    :param rows: the records in it.
    :param size: its size in bytes.
    :param digest: the SHA-256 of these bytes, in hexadecimal.
    """

    name: str
    rows: Count
    size: Count
    digest: str


class ChildPart(Part, frozen=True, kw_only=True, rename={"digest": "sha256"}):
    """A finished part of a child table.

    :param parent: the number of the part that holds the parents of its rows, from 0.
    """

    parent: Count


class DamagedPartError(ExplainedError, ValueError):
    """A part file is not the one that was written, or cannot be where it belongs."""


class FolderWriteError(ExplainedError, OSError):
    """A file could not be written into a folder on this machine: its disk is full, or refuses it."""


def part_name(*, number: int, part_format: PartFormat) -> str:
    """Return the name of a part by its number: a pull that runs again uses the same names."""
    return f"part-{number:05d}{part_format.suffix}"


def child_part_name(*, parent: int, child: int, part_format: PartFormat) -> str:
    """Return the name of a part of a child table.

    :param parent: the number of the parent's part.
    :param child: the number of the child table, in the order of `all_lists`.
    """
    return f"part-{parent:05d}-child-{child:02d}{part_format.suffix}"


def store_part(path: ObjectStoragePath, content: bytes, *, rows: int) -> Part:
    """Write a part's bytes under its name.

    :param rows: the records in it.
    :raises DamagedPartError: its folder is gone.
    """
    try:
        write_file(path, content)
    except FileNotFoundError:
        raise DamagedPartError(
            f"part {path.name} cannot be written: the folder {path.parent} is gone; {_SOMEBODY_ELSE}"
        ) from None
    return Part(name=path.name, rows=rows, size=len(content), digest=hashlib.sha256(content).hexdigest())


def write_file(path: ObjectStoragePath, content: bytes) -> None:
    """Write or replace a file; on this machine never through a symbolic link.

    :raises FileNotFoundError: on this machine, the folder is gone.
    :raises FolderWriteError: on this machine, it cannot be written, or is a symbolic link.
    """
    if not is_local(path):
        path.write_bytes(content)
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path.path, flags, 0o666), "wb") as file:
            file.write(content)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused(path, size=len(content), error=error) from None


def _refused(path: ObjectStoragePath, *, size: int, error: OSError) -> FolderWriteError:
    said = f"{path.name} ({size:,} bytes) could not be written into {path.parent}: {error.strerror}"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return FolderWriteError(f"{said}. A retry goes on from the finished parts")
    with suppress(OSError):
        disk = shutil.disk_usage(os.path.dirname(path.path))  # noqa: PTH120 - the path is a URL path
        said = f"{said} ({disk.free:,} of {disk.total:,} bytes are free)"
    return FolderWriteError(
        f"{said}. Make room on this worker's disk, or give the task another folder. A retry goes on from the finished parts"
    )


def read_verified(folder: ObjectStoragePath, part: Part) -> bytes:
    """Read a part's bytes and verify their digest.

    :raises DamagedPartError: it differs, or the file is gone.
    """
    path = folder / part.name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DamagedPartError(f"part {part.name} is gone from {folder}; {_SOMEBODY_ELSE}") from None
    if hashlib.sha256(content).hexdigest() != part.digest:
        raise DamagedPartError(
            f"part {part.name} in {folder} is not the file that was written: its digest differs; {_SOMEBODY_ELSE}"
        )
    return content


class Compressor:
    """Compresses what is written to it with zstandard, as one frame."""

    def __init__(self) -> None:
        self._compressor = ZstdCompressor(level=_ZSTD_LEVEL)
        self._chunks: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Add bytes."""
        self._chunks.append(self._compressor.compress(data))

    def finish(self) -> bytes:
        """Return the compressed bytes."""
        return b"".join((*self._chunks, self._compressor.flush()))


def is_local(path: ObjectStoragePath) -> bool:
    """Return whether a path is on this machine."""
    return path.protocol in _LOCAL


def make_folder(folder: ObjectStoragePath) -> None:
    """Make a folder; on this machine one that only its owner can read, because parts hold customers' data."""
    if folder.protocol in _BUCKETS:
        # An object needs no folder, and mkdir would turn a misspelt name into a new bucket.
        return
    if not is_local(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return
    for _ in range(_MKDIR_ATTEMPTS):
        # Another task may be removing an empty parent folder.
        with suppress(FileNotFoundError):
            os.makedirs(folder.path, mode=0o700, exist_ok=True)  # noqa: PTH103 - the path is a URL path
            return
    os.makedirs(folder.path, mode=0o700, exist_ok=True)  # noqa: PTH103


def remove_parts(folder: ObjectStoragePath, *, keep: Collection[str] = ()) -> None:
    """Remove a pull's files from its folder, the manifest first, so that the folder counts as unfinished from then on.

    :param keep: names of parts that stay.
    """
    try:
        found = sorted(folder.iterdir(), key=lambda path: (path.name != MANIFEST_NAME, path.name))
    except (FileNotFoundError, NotADirectoryError):  # a store without empty folders, such as S3
        return
    for path in found:
        if path.name.startswith(("part-", MANIFEST_NAME, f".{MANIFEST_NAME}")) and path.name not in keep:
            # Not by unlink(), which in S3 deletes in bulk and hides the objects that it may not delete.
            with suppress(FileNotFoundError):
                path.fs.rm_file(path.path)
