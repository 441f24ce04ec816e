# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Writes the pages of a list into parts, and a manifest after the last one. A retry resumes from the last checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Protocol

from msgspec.structs import replace

from limio_limitrail.concurrency import prefetch
from limio_limitrail.landing.arrow_tables import merge_schemas
from limio_limitrail.landing.checkpoint import CheckpointStore, PullCheckpoint, SavedPart, restore
from limio_limitrail.landing.child_lists import all_lists
from limio_limitrail.landing.child_parts import lists_not_found, store_children
from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.columns import check_number
from limio_limitrail.landing.manifest import Manifest, write_manifest
from limio_limitrail.landing.masks import MaskedPage, Masker, PullMasks
from limio_limitrail.landing.page_reader import ListPage, PageReader
from limio_limitrail.landing.part_builders import Builder, RecordPage, make_builder
from limio_limitrail.landing.parts import (
    DamagedPartError,
    Part,
    PartFormat,
    make_folder,
    part_name,
    read_verified,
    remove_parts,
    store_part,
)
from limio_limitrail.landing.shaping import RecordError, Shaping
from limio_limitrail.landing.shrinking import ShrinkGuard, shrunk
from limio_limitrail.landing.time_column import UpperBound

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 5.0
_MAX_RESTARTS = 2


class NameChecks(Protocol):
    """Compares the column names that a task was given with those of the records. What it raises ends the pull."""

    @property
    def watched(self) -> Collection[str]:
        """The columns to drop and the nested columns, which records are searched for."""

    def check_part(self, schema: Mapping[str, Kind]) -> None:
        """Check the columns of a part that has rows, before it is written."""

    def check_names(self, schema: Mapping[str, Kind]) -> None:
        """Check the columns of a child table's part."""

    def check_all(self, schema: Mapping[str, Kind], *, found: Collection[str], keys: Collection[str]) -> None:
        """Check the whole pull, before the manifest is written.

        :param schema: the columns of all parts; empty for JSON Lines.
        :param found: the watched names that some record had.
        :param keys: the keys of records; incomplete if the pull was resumed.
        """


class EarlyLoad(Protocol):
    """Loads finished parts while the pull goes on. Neither method raises: what it cannot do, the load does after the pull."""

    def add(self, parts: Sequence[Part], *, schema: Mapping[str, Kind]) -> None:
        """Take note of the parts that are finished and counted by the checkpoint. Return at once.

        :param parts: all of them in order; none if the pull starts over.
        :param schema: their columns so far.
        """

    def discard(self) -> None:
        """Remove what was loaded: it holds what should have been masked."""


@dataclass(kw_only=True, eq=False, repr=False)
class Pull:
    """One try of a pull. Another try with the same signature resumes after the last finished part.

    :param resource: its name in logs and in the manifest.
    :param run_id: the identity of the run.
    :param signature: identifies everything that decides which records are pulled and how they are stored.
    :param folder: where the parts go; nothing else may be in it.
    :param part_format: the content of the parts.
    :param shaping: how records become rows.
    :param since: the lower bound of time, for the manifest.
    :param until: the upper bound, for the manifest.
    :param upper_bound: leave out records whose time is not before it; None if the API does so, or if they belong to this run.
    :param part_rows: the records after which a part is full; as the next two, checked after each page.
    :param part_size: the bytes of JSON after which a part is full.
    :param part_seconds: the time after which a part is full; the most work that a crash can cost.
    :param checks: compares the given column names with those of the records.
    :param masks: masks values of the records before anything is made of them.
    :param previous_rows: the records of the last run of the same pull; None if that is not known.
    :param shrink_guard: how many of them may be missing; None for any number.
    :param early_load: loads finished parts while the pull goes on.
    :param store: keeps the checkpoint across retries.
    :param open_list: returns a reader that begins at a checkpoint's cursor.
    :param pages: returns the pages of that reader.
    :param restart_on: the error after which another reader may get through from the start of the list.
    """

    resource: str
    run_id: str
    signature: str
    folder: ObjectStoragePath
    part_format: PartFormat
    shaping: Shaping
    since: datetime | None
    until: datetime | None = None
    upper_bound: datetime | None = None
    part_rows: int = 50_000
    part_size: int = 64 * 1024 * 1024
    part_seconds: float = 60.0
    checks: NameChecks | None = None
    masks: PullMasks | None = None
    previous_rows: int | None = None
    shrink_guard: ShrinkGuard | None = None
    early_load: EarlyLoad | None = None
    store: CheckpointStore
    open_list: Callable[[PullCheckpoint], PageReader]
    pages: Callable[[Any], Iterator[ListPage]] = methodcaller("pages")
    restart_on: type[Exception]
    _filter: UpperBound | None = field(init=False, default=None)
    _page_size: int | None = field(init=False, default=None)
    _saved_resumable: bool = field(init=False, default=False)
    _unreadable_times: int = field(init=False, default=0)
    _keys: Collection[str] = field(init=False, default=())
    _masker: Masker | None = field(init=False, default=None)
    _rows_before: int = field(init=False, default=0)
    _began: float = field(init=False, default_factory=time.monotonic)
    _logged: float = field(init=False, default_factory=time.monotonic)

    def run(self) -> Manifest:
        """Pull to the end of the list.

        :raises RecordError: the records cannot be stored as they are.
        :raises ShrunkListError: the list lacks too many of the last run's records; another try starts over.
        :raises Exception: whatever the reader or the folder raises; another try resumes after the last finished part.
        """
        if self.upper_bound is not None and self.shaping.time_path is not None:
            self._filter = UpperBound(path=self.shaping.time_path, until=self.upper_bound)
        checkpoint = self._resume() or self._start()
        self._load_early(checkpoint)
        self._rows_before = checkpoint.read
        restarts = 0
        while not checkpoint.finished:
            reader = self.open_list(checkpoint)
            try:
                checkpoint = self._read_list(reader, checkpoint)
            except self.restart_on as error:
                # A restart with smaller pages does not count: pages cannot shrink for ever.
                restarts += reader.page_size >= (self._page_size or reader.page_size)
                self._page_size = reader.page_size
                if restarts > _MAX_RESTARTS:
                    self.store.clear()
                    raise error from None
                log.warning("%s: the position in the list is lost, so the pull starts the list again. %s", self.resource, error)
                checkpoint = self._start()
                self._load_early(checkpoint)
        return self._finish(checkpoint)

    def _finish(self, checkpoint: PullCheckpoint) -> Manifest:
        if self._filter is not None and self._filter.left_out:
            log.info("%s: %d records came after %s and are left out.", self.resource, self._filter.left_out, self.upper_bound)
        if self.masks is not None and any(part.rows for part in checkpoint.parts):
            with self._parts_removed_on_failure():
                self.masks.check_all(self._masker, found=checkpoint.masked)
        self._check_shrinking(sum(part.rows for part in checkpoint.parts))
        not_found: tuple[str, ...] = ()
        if self.checks is not None and any(part.rows for part in checkpoint.parts):
            self.checks.check_all(checkpoint.schema, found=checkpoint.found, keys=self._keys)
            not_found = tuple(name for name in self.checks.watched if name not in checkpoint.found)
        child_tables = checkpoint.child_tables(self.shaping.children, part_format=self.part_format)
        if any(part.rows for part in checkpoint.parts):
            not_found += lists_not_found(self.shaping.children, child_tables, resource=self.resource)
        manifest = Manifest(
            resource=self.resource,
            run_id=self.run_id,
            part_format=self.part_format,
            parts=checkpoint.named_parts(self.part_format),
            schema=checkpoint.schema,
            pages=checkpoint.pages,
            started_at=checkpoint.started_at,
            since=self.since,
            until=self.until,
            newest=checkpoint.newest,
            not_found=not_found,
            child_tables=child_tables,
            previous_rows=self.previous_rows,
        )
        self.store.check_owner()
        # A part that was written just before a crash may be one too many now.
        remove_parts(self.folder, keep={part.name for part in manifest.all_parts})
        write_manifest(self.folder, manifest)
        if self._unreadable_times:
            log.warning(
                "%s: %d values of %r are not times, and are ignored when the newest is determined.",
                self.resource,
                self._unreadable_times,
                self.shaping.time_column,
            )
        return manifest

    def _check_shrinking(self, rows: int) -> None:
        if self.previous_rows is None or self.shrink_guard is None:
            return
        missing = max(0, self.previous_rows - rows)
        if self.shrink_guard.refuses(missing=missing, known=self.previous_rows, empty=not rows):
            self.store.clear()
            raise shrunk(
                self.resource,
                missing=missing,
                known=self.previous_rows,
                guard=self.shrink_guard,
                consequence="no manifest was written",
            )

    def _resume(self) -> PullCheckpoint | None:
        """Return the checkpoint of an earlier try, if all of its parts are intact."""
        checkpoint = restore(self.store.load(), signature=self.signature)
        if checkpoint is None:
            return None
        if checkpoint.parts and len(checkpoint.children) != len(list(all_lists(self.shaping.children))):
            log.warning("%s: the checkpoint of the pull is damaged (it lacks child tables); the pull starts over.", self.resource)
            return None
        children = checkpoint.child_tables(self.shaping.children, part_format=self.part_format)
        for part in (*checkpoint.named_parts(self.part_format), *(part for table in children for part in table.parts)):
            try:
                read_verified(self.folder, part)
            except DamagedPartError as damaged:
                log.info("%s: the pull starts over, because of the earlier try %s.", self.resource, damaged)
                return None
        self._saved_resumable = True
        parts = len(checkpoint.parts)
        log.info("%s: resuming after %d rows in %d parts of an earlier try.", self.resource, checkpoint.read, parts)
        return checkpoint

    def _start(self) -> PullCheckpoint:
        """Empty the folder and begin at the start of the list."""
        self.store.clear()
        self._saved_resumable = False
        self._unreadable_times = 0
        make_folder(self.folder)
        remove_parts(self.folder)
        now = datetime.now(UTC)
        return PullCheckpoint(signature=self.signature, started_at=now, saved_at=now, page_size=self._page_size)

    def _read_list(self, reader: PageReader, checkpoint: PullCheckpoint) -> PullCheckpoint:
        """Read from a checkpoint to the end of the list, and save a checkpoint after each part."""
        builder = make_builder(self.part_format, self.shaping)
        self._masker = None if self.masks is None else self.masks.masker()
        rows = 0
        part_began = time.monotonic()
        # The size belongs to the page: the reader, which runs ahead in a thread, may have shrunk further pages by now.
        sized_pages = ((page, reader.page_size) for page in self.pages(reader))
        for unmasked, page_size in prefetch(sized_pages, may_prefetch=lambda _: not reader.server_keeps_position):
            page = unmasked if self._masker is None else self._masked(unmasked, self._masker)
            self._page_size = page_size
            rows += self._add(page, builder)
            checkpoint = replace(
                checkpoint,
                read=checkpoint.read + len(page.raw_records),
                pages=checkpoint.pages + 1,
                cursor=None if page.next_cursor is None else dict(page.next_cursor),
                page_size=page_size,
                total=reader.total,
                started_at=min(checkpoint.started_at, reader.server_time or checkpoint.started_at),
                resumable=page.resumable,
            )
            self._log_progress(checkpoint)
            # The last page's part waits until the reader has checked the total, at the end of the list.
            if page.next_cursor is None:
                continue
            full = rows >= self.part_rows or builder.size >= self.part_size or time.monotonic() - part_began >= self.part_seconds
            # After a minute of empty pages there is no part to write.
            if rows and (full or page.ends_slice):
                checkpoint = self._finish_part(checkpoint, builder)
                rows = 0
                part_began = time.monotonic()
            elif page.ends_slice:
                checkpoint = self._save(checkpoint)
        checkpoint = replace(checkpoint, finished=True, cursor=None, resumable=True)
        return self._finish_part(checkpoint, builder) if rows else self._save(checkpoint)

    def _masked(self, page: ListPage, masker: Masker) -> MaskedPage:
        try:
            return masker.apply(page)
        except RecursionError:
            raise self._too_deep() from None

    def _too_deep(self) -> RecordError:
        return RecordError(f"{self.resource}: a record is nested deeper than can be read")

    def _add(self, page: ListPage, builder: Builder) -> int:
        """Add a page's records to the current part; return how many belong to the run."""
        try:
            records: RecordPage = page if self._filter is None else self._filter.apply(page)
            builder.add(records)
            return len(records.raw_records)
        except RecursionError:
            raise self._too_deep() from None

    def _finish_part(self, checkpoint: PullCheckpoint, builder: Builder) -> PullCheckpoint:
        content = builder.finish()
        if self.masks is not None and self._masker is not None:
            checkpoint = replace(checkpoint, masked=tuple(sorted({*checkpoint.masked, *self._masker.found})))
            with self._parts_removed_on_failure():
                self.masks.check_part(self._masker, found=checkpoint.masked)
        if self.checks is not None:
            if content.rows:
                self.checks.check_part(content.schema)
            for elements in content.children:
                self.checks.check_names(elements.schema)
            found = (name for name in self.checks.watched if name in builder.names)
            checkpoint = replace(checkpoint, found=tuple(dict.fromkeys((*checkpoint.found, *found))))
            self._keys = builder.names.keys
        self._unreadable_times += content.times.unreadable
        if content.rows or content.schema:
            number = len(checkpoint.parts)
            name = part_name(number=number, part_format=self.part_format)
            self.store.check_owner()
            # The part is stored before the checkpoint that counts it: after a crash between the two it is written again.
            part = store_part(self.folder / name, content.data, rows=content.rows)
            newest = max((time for time in (checkpoint.newest, content.times.newest) if time is not None), default=None)
            schema = merge_schemas([checkpoint.schema, content.schema])
            if self.shaping.max_columns is not None:
                # The columns of an earlier try's parts count, too.
                check_number(len(schema), max_columns=self.shaping.max_columns)
            children = store_children(
                checkpoint.children, content.children, folder=self.folder, parent=number, part_format=self.part_format
            )
            saved = SavedPart(rows=part.rows, size=part.size, digest=part.digest)
            checkpoint = replace(checkpoint, parts=(*checkpoint.parts, saved), schema=schema, newest=newest, children=children)
        checkpoint = self._save(checkpoint)
        self._load_early(checkpoint)
        return checkpoint

    def _load_early(self, checkpoint: PullCheckpoint) -> None:
        # What comes last is left to the load, which begins at once.
        if self.early_load is not None and not checkpoint.finished:
            self.early_load.add(checkpoint.named_parts(self.part_format), schema=checkpoint.schema)

    @contextmanager
    def _parts_removed_on_failure(self) -> Iterator[None]:
        """Remove the parts if a check of the masks fails: they hold what should have been masked."""
        try:
            yield
        except Exception:
            self.store.clear()
            remove_parts(self.folder)
            if self.early_load is not None:
                self.early_load.discard()
            raise

    def _save(self, checkpoint: PullCheckpoint) -> PullCheckpoint:
        """Save a checkpoint, unless it would replace a resumable one and is not resumable itself."""
        if checkpoint.resumable or not self._saved_resumable:
            checkpoint = replace(checkpoint, saved_at=datetime.now(UTC))
            self.store.save(checkpoint.to_json())
            self._saved_resumable = checkpoint.resumable
        return checkpoint

    def _log_progress(self, checkpoint: PullCheckpoint) -> None:
        now = time.monotonic()
        if now - self._logged < _PROGRESS_SECONDS:
            return
        self._logged = now
        rate = (checkpoint.read - self._rows_before) / max(now - self._began, 0.001)
        log.info(
            "%s: %s%s rows, %s pages, %d parts, %s rows/s.",
            self.resource,
            f"{checkpoint.read:,}",
            f" of {checkpoint.total:,}" if checkpoint.total else "",
            f"{checkpoint.pages:,}",
            len(checkpoint.parts),
            f"{rate:,.0f}",
        )
