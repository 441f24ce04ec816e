# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The manifest of a finished pull. It is written last: a folder without one is unfinished."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.parts import MANIFEST_NAME, ChildPart, Count, Part, PartFormat, is_local, write_file
from limio_limitrail.stored_formats import trouble
from limio_limitrail.troubleshooting import ExplainedError

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

FORMAT_VERSION = 1

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
"""A stored time, which has a zone."""


class ManifestError(ExplainedError, ValueError):
    """A manifest cannot be read. The message says why and what to do."""


class ChildTableParts(msgspec.Struct, frozen=True, kw_only=True):
    """What was pulled of a child table.

    :param table: the child table.
    :param schema: its columns and their kinds, in all parts.
    :param found: whether the path led to a value in some parent.
    :param parts: the parts, in order; a part of parents without elements has none.
    """

    table: str
    schema: dict[str, Kind]
    found: bool
    parts: tuple[ChildPart, ...]

    @property
    def rows(self) -> int:
        """The elements in all parts."""
        return sum(part.rows for part in self.parts)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename={"part_format": "format", "not_found": "columns_not_found"}):
    """The result of a finished pull.

    :param resource: what was pulled.
    :param run_id: the identity of the pull.
    :param part_format: the content of the parts.
    :param pages: the number of pages that were fetched.
    :param started_at: when the pull began.
    :param since: the lower bound of time that was requested.
    :param until: the upper bound, if the API has one.
    :param newest: the newest value of the time column.
    :param schema: the columns of all parts and their kinds; empty for JSON Lines.
    :param not_found: columns to drop and nested columns that no record had.
    :param previous_rows: the records of the last run of the same pull; None if it is not known, or not the whole list was read.
    :param parts: the parts, in order.
    :param child_tables: the child tables, in the order of `all_lists`.
    """

    resource: str
    run_id: str
    part_format: PartFormat
    pages: Count
    started_at: Instant
    since: Instant | None
    until: Instant | None = None
    newest: Instant | None
    schema: dict[str, Kind]
    not_found: tuple[str, ...] = ()
    previous_rows: Count | None = None
    parts: tuple[Part, ...]
    child_tables: tuple[ChildTableParts, ...] = ()

    @property
    def all_parts(self) -> tuple[Part, ...]:
        """The parts, and those of the child tables."""
        return (*self.parts, *(part for table in self.child_tables for part in table.parts))

    @property
    def rows(self) -> int:
        """The records in all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def watermark(self) -> datetime | None:
        """The time up to which the parts are complete: `newest`, but never later than `started_at`.

        A record that changed after the pull began may belong to a page that had been read by then.
        """
        return None if self.newest is None else min(self.newest, self.started_at)

    @property
    def digest(self) -> str:
        """A SHA-256 over the digests of all parts."""
        return hashlib.sha256("".join(part.digest for part in self.all_parts).encode()).hexdigest()


def write_manifest(folder: ObjectStoragePath, manifest: Manifest) -> None:
    """Write a manifest, whole or not at all."""
    data: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "rows": manifest.rows,
        "watermark": manifest.watermark,
        "sha256": manifest.digest,
        **msgspec.to_builtins(manifest, builtin_types=(datetime,)),
    }
    if not manifest.child_tables:
        del data["child_tables"]
    content = json.dumps(data, indent=1, ensure_ascii=False, default=datetime.isoformat).encode()
    write_whole(folder / MANIFEST_NAME, content)


def write_whole(path: ObjectStoragePath, content: bytes) -> None:
    """Write a file, whole or not at all."""
    if is_local(path):
        # A local file is visible while it is being written; an object in a store appears only when it is complete.
        draft = path.parent / f".{path.name}.draft"
        write_file(draft, content)
        os.replace(draft.path, path.path)  # noqa: PTH105 - the path is a URL path, which pathlib would take for a relative one
        return
    path.write_bytes(content)


def read_manifest(folder: ObjectStoragePath) -> Manifest:
    """Read a folder's manifest.

    :raises FileNotFoundError: the folder is unfinished.
    :raises ManifestError: the manifest is damaged, or a later version of this package wrote it.
    """
    content = (folder / MANIFEST_NAME).read_bytes()
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        raise ManifestError(f"the manifest in {folder} is not JSON: it is damaged. Pull again") from None
    return manifest_from_json(data, folder=str(folder))


def manifest_from_json(data: object, *, folder: str) -> Manifest:
    """Convert the content of a manifest's file.

    :param folder: where it was found.
    :raises ManifestError: it is damaged, or a later version of this package wrote it.
    """
    if not isinstance(data, dict):
        raise ManifestError(f"the manifest in {folder} is not a JSON object: it is damaged. Pull again")
    if (why := trouble(data.get("format_version"), reads=FORMAT_VERSION)) is not None:
        raise ManifestError(f"the manifest in {folder} {why}. Read it with that version, or pull again with this one")
    try:
        return msgspec.convert(data, Manifest)
    except msgspec.ValidationError as error:
        raise ManifestError(f"the manifest in {folder} is damaged ({type(error).__name__}: {error}). Pull again") from None
