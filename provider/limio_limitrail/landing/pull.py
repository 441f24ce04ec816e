# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pages → parts → manifest, going on after the last finished part when it is made again."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from limio_limitrail.concurrency.prefetch import prefetch
from limio_limitrail.landing.arrow_tables import merge_schemas
from limio_limitrail.landing.checkpoint import PullState, StateStore, begin, restore, saved_now
from limio_limitrail.landing.columns import check_number
from limio_limitrail.landing.errors import RecordError
from limio_limitrail.landing.field_names import NameChecks
from limio_limitrail.landing.manifest import MANIFEST_NAME, Manifest, write_manifest
from limio_limitrail.landing.part_builders import Builder, RecordPage, make_builder
from limio_limitrail.landing.parts import LOCAL, DamagedPartError, PartFormat, part_name, read_verified, store_part
from limio_limitrail.landing.shaping import Shaping
from limio_limitrail.landing.upper_bound import OwnEnd

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)

_PROGRESS_EVERY = 5.0
_MOST_RESTARTS = 2
_BUCKETS = frozenset({"s3", "s3a", "s3n", "gs", "gcs"})
"""Protocols of stores that know no folders, and whose ``mkdir`` makes buckets."""


class PlaceLostError(Exception):
    """The API no longer leads on from where the pull stood.

    :param cause: what it said.
    :param page_size: records a page by then, which may have shrunk on the way.
    """

    def __init__(self, cause: Exception, *, page_size: int | None = None) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.page_size = page_size


class PulledPage(RecordPage, Protocol):
    """A page as it comes from an API."""

    @property
    def following(self) -> Mapping[str, str] | None:
        """The next page's cursor; None on the last page."""

    @property
    def ends_slice(self) -> bool:
        """True where the page ends a part, because the next one begins a new stretch of the list."""

    @property
    def resumable(self) -> bool:
        """True where another walk can go on from `following`."""


class Walk(Protocol):
    """A walk through a list."""

    @property
    def page_size(self) -> int:
        """Records a page, which may shrink on the way."""

    @property
    def total(self) -> int | None:
        """How many records the API announced, where it does."""

    @property
    def server_time(self) -> datetime | None:
        """When the API began to answer, by its own clock."""

    @property
    def keeps_place(self) -> bool:
        """True as soon as it is known that the API keeps the place in the list itself, and moves it on with each request."""

    def pages(self) -> Iterator[PulledPage]:
        """Give the pages in order.

        :raises PlaceLostError: a new walk may get through.
        """


@dataclass(frozen=True, kw_only=True)
class PartLimits:
    """When a part is full; whichever comes first, looked at after each page.

    :param rows: records.
    :param size: bytes of JSON as they came.
    :param seconds: time since the part was begun: the most work that a crash can cost.
    """

    rows: int = 50_000
    size: int = 64 * 1024 * 1024
    seconds: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Pull:
    """One pull.

    :param resource: what it is called in logs and in the manifest.
    :param run_id: the pull's identity.
    :param signature: changes with everything that decides what is pulled and how it lands.
    :param folder: where the parts go; nothing else may be in it.
    :param part_format: what the parts hold.
    :param shaping: what becomes of a record.
    :param since: the lower bound in time, for the manifest.
    :param until: the upper bound, for the manifest.
    :param kept_until: leave out records whose time is not before it; None where the API leaves them out, or they belong here.
    :param limits: when a part is full.
    :param checks: compares the names that it was given with those that come.
    :param store: keeps the state across retries.
    :param walk: begins a walk from a state's cursor.
    """

    resource: str
    run_id: str
    signature: str
    folder: ObjectStoragePath
    part_format: PartFormat
    shaping: Shaping
    since: datetime | None
    store: StateStore
    walk: Callable[[PullState], Walk]
    until: datetime | None = None
    kept_until: datetime | None = None
    limits: PartLimits = PartLimits()
    checks: NameChecks | None = None


def run_pull(pull: Pull) -> Manifest:
    """Pull to the end, going on after the last finished part of an earlier try.

    :raises RecordError: the records cannot be landed as they are.
    :raises Exception: whatever the walk or the folder raises; another call goes on after the last finished part.
    """
    return _Run(pull).to_the_end()


class _Run:
    """One try of a pull."""

    def __init__(self, pull: Pull) -> None:
        self._pull = pull
        self._began = self._said = time.monotonic()
        self._rows_before = 0
        self._page_size: int | None = None
        self._saved_resumable = False
        path = pull.shaping.time_path
        self._own_end = OwnEnd(path=path, until=pull.kept_until) if pull.kept_until is not None and path is not None else None
        self._unreadable_times = 0
        self._keys: Collection[str] = ()

    def to_the_end(self) -> Manifest:
        pull = self._pull
        state = self._resumed() or self._fresh()
        self._rows_before = state.read
        restarts = 0
        while not state.finished:
            try:
                state = self._window(state)
            except PlaceLostError as lost:
                # Smaller pages are another try; they cannot shrink for ever.
                restarts += lost.page_size is None or lost.page_size >= (self._page_size or lost.page_size)
                self._page_size = lost.page_size or self._page_size
                if restarts > _MOST_RESTARTS:
                    pull.store.clear()
                    raise lost.cause from None
                log.warning("%s: the place in the list is lost, so the pull starts its window again. %s", pull.resource, lost)
                state = self._fresh()
        if self._own_end is not None and self._own_end.left_out:
            log.info("%s: %d records came after %s and are left out.", pull.resource, self._own_end.left_out, pull.kept_until)
        not_found: tuple[str, ...] = ()
        if pull.checks is not None and any(part.rows for part in state.parts):
            pull.checks.check_all(state.schema, found=state.found, keys=self._keys)
            not_found = tuple(name for name in pull.checks.watched if name not in state.found)
        manifest = Manifest(
            resource=pull.resource,
            run_id=pull.run_id,
            part_format=pull.part_format,
            parts=state.parts,
            schema=state.schema,
            pages=state.pages,
            started_at=state.started_at,
            since=pull.since,
            until=pull.until,
            newest=state.newest,
            not_found=not_found,
        )
        # A part that was written just before a crash may be one too many now.
        remove_parts(pull.folder, keep={part.name for part in state.parts})
        write_manifest(pull.folder, manifest)
        if self._unreadable_times:
            log.warning(
                "%s: %d values of %r are no time, and count for nothing where the newest is looked for.",
                pull.resource,
                self._unreadable_times,
                pull.shaping.time_column,
            )
        return manifest

    def _resumed(self) -> PullState | None:
        """Give the state of an earlier try, if all of its parts are still there."""
        pull = self._pull
        state = restore(pull.store.load(), signature=pull.signature, part_format=pull.part_format)
        if state is None:
            return None
        for part in state.parts:
            try:
                read_verified(pull.folder, part)
            except DamagedPartError as damaged:
                log.info("%s: the pull starts over, because of the earlier try %s.", pull.resource, damaged)
                return None
        self._saved_resumable = True
        log.info("%s: going on after %d rows in %d parts of an earlier try.", pull.resource, state.read, len(state.parts))
        return state

    def _fresh(self) -> PullState:
        """Empty the folder, the manifest first, so that it is unfinished from the first moment on."""
        pull = self._pull
        pull.store.clear()
        self._saved_resumable = False
        self._unreadable_times = 0
        make_folder(pull.folder)
        remove_parts(pull.folder)
        return begin(pull.signature, page_size=self._page_size)

    def _window(self, state: PullState) -> PullState:
        """Walk from a state to the end of the list, and save a state after each part."""
        pull = self._pull
        walk = pull.walk(state)
        builder = make_builder(pull.part_format, pull.shaping)
        rows = 0
        part_began = time.monotonic()
        for fetched in prefetch(_fetched(walk), may_go_on=lambda fetched: not fetched.keeps_place):
            page = fetched.page
            self._page_size = fetched.page_size
            rows += self._add(page, builder)
            state = replace(
                state,
                read=state.read + len(page.raw_records),
                pages=state.pages + 1,
                cursor=page.following,
                page_size=fetched.page_size,
                total=fetched.total,
                started_at=_earlier(state.started_at, fetched.server_time),
                resumable=page.resumable,
            )
            self._say(state)
            full = (
                rows >= pull.limits.rows
                or builder.size >= pull.limits.size
                or time.monotonic() - part_began >= pull.limits.seconds
            )
            # The last page's part waits until the walk has ended well: only then the total has been checked.
            if page.following is None:
                continue
            # A part of no rows, after a minute of empty pages, would be none.
            if rows and (full or page.ends_slice):
                state = self._finish_part(state, builder)
                rows = 0
                part_began = time.monotonic()
            elif page.ends_slice:
                state = self._saved(state)
        state = replace(state, finished=True, cursor=None, resumable=True)
        return self._finish_part(state, builder) if rows else self._saved(state)

    def _finish_part(self, state: PullState, builder: Builder) -> PullState:
        pull = self._pull
        content = builder.finish()
        if pull.checks is not None:
            if content.rows:
                pull.checks.check_part(content.schema)
            found = (name for name in pull.checks.watched if name in builder.names)
            state = replace(state, found=tuple(dict.fromkeys((*state.found, *found))))
            self._keys = builder.names.keys
        self._unreadable_times += content.unreadable
        if content.rows or content.schema:
            name = part_name(number=len(state.parts), part_format=pull.part_format)
            # The part is stored before the state that names it: a crash between the two writes the same part again.
            part = store_part(pull.folder / name, content.data, rows=content.rows)
            newest = max((time for time in (state.newest, content.newest) if time is not None), default=None)
            schema = merge_schemas([state.schema, content.schema])
            if pull.shaping.max_columns is not None:
                # Those of the parts of an earlier try count, too.
                check_number(len(schema), max_columns=pull.shaping.max_columns)
            state = replace(state, parts=(*state.parts, part), schema=schema, newest=newest)
        return self._saved(state)

    def _saved(self, state: PullState) -> PullState:
        """Save a state. One that cannot be gone on from takes the place of none that can."""
        if state.resumable or not self._saved_resumable:
            state = saved_now(state)
            self._pull.store.save(state.to_json())
            self._saved_resumable = state.resumable
        return state

    def _add(self, page: PulledPage, builder: Builder) -> int:
        """Add what belongs to the run to the part at hand; return how many records that is."""
        try:
            landed: RecordPage = page if self._own_end is None else self._own_end.of(page)
            builder.add(landed)
            return len(landed.raw_records)
        except RecursionError:
            raise RecordError(f"{self._pull.resource}: a record is nested deeper than can be read") from None

    def _say(self, state: PullState) -> None:
        now = time.monotonic()
        if now - self._said < _PROGRESS_EVERY:
            return
        self._said = now
        rate = (state.read - self._rows_before) / max(now - self._began, 0.001)
        announced = f" of {state.total:,}" if state.total else ""
        log.info(
            "%s: %s%s rows, %s pages, %d parts, %s rows/s.",
            self._pull.resource,
            f"{state.read:,}",
            announced,
            f"{state.pages:,}",
            len(state.parts),
            f"{rate:,.0f}",
        )


@dataclass(frozen=True, kw_only=True)
class _Fetched:
    """A page, and how its walk stood when it had come."""

    page: PulledPage
    page_size: int
    total: int | None
    server_time: datetime | None
    keeps_place: bool


def _fetched(walk: Walk) -> Iterator[_Fetched]:
    for page in walk.pages():
        yield _Fetched(
            page=page,
            page_size=walk.page_size,
            total=walk.total,
            server_time=walk.server_time,
            keeps_place=walk.keeps_place,
        )


def make_folder(folder: ObjectStoragePath) -> None:
    """Make a folder; on this machine one that only its owner can read, because parts hold customers' data."""
    if folder.protocol in _BUCKETS:
        # Nothing to make: an object needs no folder. And a bucket that is not there may be a slip of the pen.
        return
    if not is_local(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return
    for _ in range(10):
        # Another task may be removing an empty folder above this one.
        with suppress(FileNotFoundError):
            os.makedirs(folder.path, mode=0o700, exist_ok=True)  # noqa: PTH103 - the path is a URL path
            return
    os.makedirs(folder.path, mode=0o700, exist_ok=True)  # noqa: PTH103


def remove_parts(folder: ObjectStoragePath, *, keep: Collection[str] = ()) -> None:
    """Remove what a pull wrote into a folder, the manifest first, so that the folder is unfinished from the first moment on.

    :param keep: names of parts that stay.
    """
    try:
        found = sorted(folder.iterdir(), key=lambda path: (path.name != MANIFEST_NAME, path.name))
    except (FileNotFoundError, NotADirectoryError):  # a store that has no empty folders, such as S3
        return
    for path in found:
        if path.name.startswith(("part-", MANIFEST_NAME, f".{MANIFEST_NAME}")) and path.name not in keep:
            # Not by unlink(), which removes several objects at once in S3, and is silent about those that may not be removed.
            with suppress(FileNotFoundError):
                path.fs.rm_file(path.path)


def is_local(folder: ObjectStoragePath) -> bool:
    """Tell whether a folder is on this machine."""
    return folder.protocol in LOCAL


def _earlier(one: datetime, other: datetime | None) -> datetime:
    return one if other is None else min(one, other)
