# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The manifest: written last, so that a folder without one is unfinished."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.parts import LOCAL, Part, PartFormat, as_dict, part_from_dict, write_file
from limio_limitrail.stored_formats import UNREADABLE, instant, maybe, number, text, trouble
from limio_limitrail.troubleshooting import ExplainedError

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1


class ManifestError(ExplainedError, ValueError):
    """A manifest cannot be read. The message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a finished pull left in its folder.

    :param resource: what was pulled.
    :param run_id: the pull that did it.
    :param part_format: what the parts hold.
    :param parts: the parts, in order.
    :param schema: the columns over all parts and their kinds; empty for JSON Lines.
    :param pages: the pages that were fetched for them.
    :param started_at: when the pull began.
    :param since: the lower bound in time that the API was asked for.
    :param until: the upper bound, where the API has one.
    :param newest: the newest value of the time column that came.
    :param not_found: columns to drop and nested columns that no record had.
    """

    resource: str
    run_id: str
    part_format: PartFormat
    parts: tuple[Part, ...]
    schema: Mapping[str, Kind]
    pages: int
    started_at: datetime
    since: datetime | None
    newest: datetime | None
    until: datetime | None = None
    not_found: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """The records in all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def watermark(self) -> datetime | None:
        """Up to when the parts are known to be complete: the newest time that came, but never past the moment when the pull
        began.

        What changed after that moment may stand on a page that had been read already.
        """
        return None if self.newest is None else min(self.newest, self.started_at)

    @property
    def digest(self) -> str:
        """One SHA-256 over the digests of all parts."""
        return hashlib.sha256("".join(part.digest for part in self.parts).encode()).hexdigest()


def _time(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()


def write_manifest(folder: ObjectStoragePath, manifest: Manifest) -> None:
    """Write a manifest whole or not at all."""
    data: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "resource": manifest.resource,
        "run_id": manifest.run_id,
        "format": manifest.part_format.value,
        "rows": manifest.rows,
        "pages": manifest.pages,
        "started_at": _time(manifest.started_at),
        "since": _time(manifest.since),
        "until": _time(manifest.until),
        "newest": _time(manifest.newest),
        "watermark": _time(manifest.watermark),
        "schema": {name: kind.value for name, kind in manifest.schema.items()},
        "columns_not_found": list(manifest.not_found),
        "sha256": manifest.digest,
        "parts": [as_dict(part) for part in manifest.parts],
    }
    content = json.dumps(data, indent=1, ensure_ascii=False).encode()
    path = folder / MANIFEST_NAME
    if path.protocol in LOCAL:
        # A local file can be seen half-written; an object in a store appears whole when it is closed.
        draft = folder / f".{MANIFEST_NAME}.draft"
        write_file(draft, content)
        os.replace(draft.path, path.path)  # noqa: PTH105 - the path is a URL path, which pathlib would take for a relative one
        return
    path.write_bytes(content)


def read_manifest(folder: ObjectStoragePath) -> Manifest:
    """Read a folder's manifest.

    :raises FileNotFoundError: the folder is unfinished.
    :raises ManifestError: a later version of this package wrote it, or it is damaged.
    """
    content = (folder / MANIFEST_NAME).read_bytes()
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        raise ManifestError(f"the manifest in {folder} is no JSON: it is damaged. Pull again") from None
    return manifest_from_json(data, folder=str(folder))


def manifest_from_json(data: object, *, folder: str) -> Manifest:
    """Read what a manifest's file holds.

    :param folder: where it was found.
    :raises ManifestError: a later version of this package wrote it, or it is damaged.
    """
    if not isinstance(data, dict):
        raise ManifestError(f"the manifest in {folder} is no JSON object: it is damaged. Pull again")
    if (why := trouble(data.get("format_version"), reads=FORMAT_VERSION)) is not None:
        raise ManifestError(f"the manifest in {folder} {why}. Read it with that version, or pull again with this one")
    try:
        return Manifest(
            resource=text(data["resource"]),
            run_id=text(data["run_id"]),
            part_format=PartFormat(data["format"]),
            parts=tuple(part_from_dict(part) for part in data["parts"]),
            schema={name: Kind(kind) for name, kind in data["schema"].items()},
            pages=number(data["pages"]),
            started_at=instant(data["started_at"]),
            since=maybe(instant, data["since"]),
            newest=maybe(instant, data["newest"]),
            # Its first version had no upper bounds.
            until=maybe(instant, data.get("until")),
            not_found=tuple(text(name) for name in data.get("columns_not_found", [])),
        )
    except UNREADABLE as error:
        raise ManifestError(f"the manifest in {folder} is damaged ({type(error).__name__}: {error}). Pull again") from None
