# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pulls records with nested lists into parts, and loads them with their child tables, without an API."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.sdk import ObjectStoragePath

from limio_limitrail.landing.column_parts import ColumnPart
from limio_limitrail.landing.manifest import Manifest, read_manifest
from limio_limitrail.landing.parts import PartFormat
from limio_limitrail.landing.pull import Pull
from limio_limitrail.landing.shaping import Shaping
from limio_limitrail.landing.sql import LoadResult, Target, WriteMode, load
from limio_limitrail.landing.sql.contract import EVOLVE, Contract
from limio_limitrail.transfers.child_tables import child_lists, child_sources, read_child_tables
from tests.support.databases import NOON, Database
from tests.support.record_pages import RecordPage

_numbers = itertools.count()


@dataclass
class _Store:
    stored: Any = None

    def load(self) -> Any:
        return self.stored

    def save(self, value: Any) -> None:
        self.stored = value

    def check_owner(self) -> None:
        """There is no other try."""

    def clear(self) -> None:
        self.stored = None


@dataclass
class _Reader:
    bodies: Sequence[bytes]
    page_size: int = 5
    total: int | None = None
    server_time: datetime | None = None
    server_keeps_position: bool = False

    def pages(self) -> Iterator[RecordPage]:
        for number, body in enumerate(self.bodies, start=1):
            yield RecordPage(body, {"at": str(number)} if number < len(self.bodies) else None)


@dataclass(kw_only=True)
class Orders:
    """Loads lists of records into a table and its child tables.

    :param tables: the child tables, as a task names them.
    :param dropped: the columns to leave out.
    :param part_rows: records after which a part ends; checked after each page.
    """

    db: Database
    folder: Path
    tables: Mapping[str, Any]
    table: str = "orders"
    key: tuple[str, ...] = ("id",)
    time: str | None = None
    mode: str = "merge"
    dropped: tuple[str, ...] = ()
    part_rows: int = 1
    max_columns: int | None = None
    store: _Store = field(default_factory=_Store, init=False)
    last: Manifest | None = field(default=None, init=False)

    def pull(self, *pages: Sequence[Any] | bytes, stored: Any = None) -> tuple[Path, Manifest]:
        """Pull pages into parts: each a list of records, or a JSON text.

        :param stored: the checkpoint of an earlier try.
        """
        self.store = _Store(stored)
        folder = self.folder / f"pull-{next(_numbers)}"
        bodies = [page if isinstance(page, bytes) else json.dumps(list(page)).encode() for page in pages]
        Pull(
            resource="orders",
            run_id="run",
            signature="s",
            folder=ObjectStoragePath(f"file://{folder}"),
            part_format=PartFormat.PARQUET,
            shaping=Shaping(dropped=self.dropped, max_columns=self.max_columns, children=self.lists),
            since=None,
            part_rows=self.part_rows,
            store=self.store,  # type: ignore[arg-type]
            open_list=lambda _: _Reader(bodies),
            restart_on=LookupError,
        ).run()
        return folder, read_manifest(ObjectStoragePath(f"file://{folder}"))

    @property
    def lists(self) -> Any:
        return child_lists(read_child_tables("child_tables", self.tables), primary_key=self.key)

    def land(
        self,
        *pages: Sequence[Any] | bytes,
        run: str = "run-1",
        at: datetime = NOON,
        contract: Contract = EVOLVE,
        **missing: Any,
    ) -> LoadResult:
        """Pull and load.

        :param contract: what may change of the columns.
        :param missing: the members of `Target` about rows that the list no longer has.
        """
        folder, manifest = self.pull(*pages)
        self.last = manifest
        path = ObjectStoragePath(f"file://{folder}")
        return load(
            hook=self.db.hook(),
            target=Target(
                table=self.table,
                mode=WriteMode(self.mode),
                primary_key=self.key,
                time_column=self.time,
                run_id=run,
                extracted_at=at,
                **missing,
            ),
            schema=manifest.schema,
            parts=[ColumnPart(folder=path, part=part) for part in manifest.parts],
            child_tables=child_sources(self.lists, manifest, folder=path),
            contract=contract,
        )

    def rows(self, table: str, *columns: str, own: bool = False) -> list[Any]:
        """Return the rows of a table, sorted: those columns of each, or all as a dictionary."""
        found = self.db.rows(table, own=own)
        if not columns:
            return found
        picked = [tuple(row[column] for column in columns) for row in found]
        return sorted(picked, key=lambda row: [(value is not None, str(value)) for value in row])
