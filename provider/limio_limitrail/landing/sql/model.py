# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The input and the result of a load."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from limio_limitrail.troubleshooting import ExplainedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    import pyarrow as pa

    from limio_limitrail.landing.shrinking import ShrinkGuard


class LandingError(ExplainedError, ValueError):
    """A pull cannot be loaded, or the database refused it; the table is as it was.

    The message has tables, columns, types and numbers of rows, never a value of a row.
    """


class WriteMode(StrEnum):
    """What happens to the rows that the table has already."""

    MERGE = "merge"
    """Rows with the same key are replaced, new ones are added, all others stay."""
    APPEND = "append"
    """Rows are added; those that an earlier try of the same run added are removed first."""
    REPLACE = "replace"
    """The pull becomes the whole content of the table."""
    HISTORY = "history"
    """Each version of a row is kept, with the times between which it was valid."""

    @property
    def needs_key(self) -> bool:
        """Whether rows are found by their key, which each of them must have."""
        return self in (WriteMode.MERGE, WriteMode.HISTORY)


class OnMissing(StrEnum):
    """What happens to rows whose records a list no longer has."""

    KEEP = "keep"
    """They stay as they are."""
    MARK = "mark"
    """They get the time in ``_deleted_at``, until their records return."""
    DELETE = "delete"
    """They are deleted."""


@dataclass(frozen=True, kw_only=True)
class Scope:
    """One list of one task: a full scan of it tells which of the rows that its pulls brought have vanished.

    :param digest: what identifies it: 16 hexadecimal digits.
    :param text: the same for people.
    :param task: the task: what the run ids of its pulls begin with, up to the map index or the slash before the Dag run.
    :param is_only_list: whether the task pulls this list and no other, so that all rows with its run ids are of this list.
    """

    digest: str
    text: str
    task: str
    is_only_list: bool = False


@dataclass(frozen=True, kw_only=True)
class Target:
    """The table that a pull goes into, and how.

    :param table: ``table`` or ``schema.table``. A part in double quotes is taken as it is, including dots; a part without
        follows the database's own rule (Postgres folds it to lower case).
    :param mode: what happens to the rows that are there.
    :param primary_key: the record keys that identify a row. Required to merge; in the other modes it drops
        duplicates, and may be ``()``.
    :param time_column: the record key whose newest value wins among rows of one key, including those of the table.
        ``None``: the last of a pull wins, and of several pulls the one that began last.
    :param run_id: identifies this pull; the same on every retry. Goes to ``_run_id``.
    :param extracted_at: when the pull was made, with a time zone. Goes to ``_extracted_at``.
    :param scope: the list that was pulled; ``None`` if the table is not to know which list a row is in.
    :param on_missing: what happens to rows that the list no longer has.
    :param full_scan: whether the pull read the whole list: only then a row that did not come is missing.
    :param max_missing: how many of the known rows may be missing, or be gone after a replace; ``None`` for any number.
    :raises ValueError: rows would be marked or deleted without a merge or a scope; a merge or a history without a primary
        key, an instant without a time zone, or an empty table name or run.
    """

    table: str
    mode: WriteMode
    primary_key: tuple[str, ...]
    time_column: str | None
    run_id: str
    extracted_at: datetime
    scope: Scope | None = None
    on_missing: OnMissing = OnMissing.KEEP
    full_scan: bool = False
    max_missing: ShrinkGuard | None = None

    def __post_init__(self) -> None:
        if self.on_missing is not OnMissing.KEEP and (self.scope is None or self.mode in (WriteMode.APPEND, WriteMode.REPLACE)):
            raise ValueError(f"on_missing={self.on_missing} needs a merge, and the scope of the pull")
        if self.mode.needs_key and not self.primary_key:
            verb = "merging into" if self.mode is WriteMode.MERGE else "a history in"
            raise ValueError(f"{verb} {self.table} needs a primary key: name the record keys that identify a row")
        if len(set(self.primary_key)) != len(self.primary_key):
            raise ValueError(f"the primary key of {self.table} names a record key twice")
        if self.extracted_at.tzinfo is None:
            raise ValueError("extracted_at needs a time zone")
        if not self.table.strip() or not self.run_id:
            raise ValueError("a target needs the name of a table and of a run")


class PartSource(Protocol):
    """One finished part of a pull, small enough to be held in memory."""

    @property
    def name(self) -> str:
        """What the part is called in messages."""
        ...

    def groups(self) -> Iterator[pa.Table]:
        """Read the rows, a group at a time: columns named by record key, fields created by `column_types.arrow_field`."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """What a load did, in numbers of rows and names of columns.

    :param rows: rows that came, including duplicates.
    :param inserted: rows that the table did not have.
    :param updated: rows that were there with other values.
    :param unchanged: rows that were there with the same values, and were left alone.
    :param outdated: rows that differ from the table's row of their key and are not newer, so that it stayed.
    :param deleted: rows removed: all former ones when replacing, those of the same run when appending again, those that the list
        no longer has when merging with `OnMissing.DELETE`.
    :param marked: rows that got a time in ``_deleted_at``, because the list no longer has them.
    :param returned: rows that lost it, because their records came again; they count as updated, unchanged or outdated as well.
    :param missing_checked: whether it was checked which rows the list no longer has.
    :param duplicates: rows dropped because the pull had a newer one of the same key.
    :param columns_added: columns that an existing table gained.
    :param columns_widened: columns of an existing table whose type became wider.
    :param columns_ignored: record keys that were left out, because the table has no column for them.
    :param partitions: the partitions with rows that were inserted, updated or deleted, in order; see `partitions`.
    :param child_tables: child table → what was done there. Rows of a parent whose list changed are deleted and inserted;
        duplicates are those of parents that were not written.
    """

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    outdated: int = 0
    deleted: int = 0
    marked: int = 0
    returned: int = 0
    missing_checked: bool = False
    duplicates: int = 0
    columns_added: tuple[str, ...] = ()
    columns_widened: tuple[str, ...] = ()
    columns_ignored: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()
    child_tables: Mapping[str, LoadResult] = field(default_factory=dict)
