# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The staging table of a run: a table beside the target into which parts are copied while the pull goes on.

Its comment is a `StagingRecord`, which says what is in it and changes in the transactions that add rows. A session whose database
can keep such a table returns `StagingTables` from `Session.staging_tables`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import msgspec

from limio_limitrail.landing.checkpoint import MAX_AGE
from limio_limitrail.landing.manifest import Instant
from limio_limitrail.landing.parts import Count, Part
from limio_limitrail.landing.sql.names import TableName

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.sql.dialect import Dialect
    from limio_limitrail.landing.sql.metadata import MetadataColumn

FORMAT_VERSION = 1

PREFIX = "_limio_staging_"
"""Begins the names of staging tables that outlive a transaction."""

ABANDONED_AFTER: timedelta = MAX_AGE
"""The age after which no retry resumes from the parts that are staged, so that any run may remove the table."""


@dataclass(frozen=True, kw_only=True)
class StagingTarget:
    """What a staging table is for.

    :param table: the target, as the user wrote it.
    :param primary_key: the record keys that identify a row.
    :param time_column: the record key whose newest value wins.
    :param run_id: the run.
    """

    table: str
    primary_key: tuple[str, ...]
    time_column: str | None
    run_id: str


class StagedColumn(msgspec.Struct, frozen=True, array_like=True):
    """A column of a staging table.

    :param key: the record key; empty for a column that numbers or orders rows.
    :param name: the column.
    :param type: its type.
    """

    key: str
    name: str
    type: str


class StagingRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a staging table holds, kept as its comment.

    :param about: why the table is there, for people.
    :param table: the target, with its schema.
    :param run_id: the run.
    :param becomes_table: whether the staging table will be renamed to the target, which did not exist.
    :param columns: its columns.
    :param parts: how many parts it holds, the first ones of the pull.
    :param rows: their rows.
    :param digest: a SHA-256 over the digests of these parts.
    :param nul_forms: what `staged_rows.nul_forms` found in them.
    :param at: when a part was last added.
    """

    limio_limitrail: Annotated[int, msgspec.Meta(ge=FORMAT_VERSION, le=FORMAT_VERSION)] = FORMAT_VERSION
    about: str = "Rows of a pull that is not finished. A load uses and drops this table; without one, the next run drops it."
    table: str
    run_id: str
    becomes_table: bool
    columns: tuple[StagedColumn, ...]
    parts: Count = 0
    rows: Count = 0
    digest: str = ""
    nul_forms: tuple[tuple[str, str], ...] = ()
    at: Instant

    def holds(self, parts: Sequence[Part]) -> bool:
        """Return whether what is staged is the first of these parts."""
        staged = parts[: self.parts]
        return len(staged) == self.parts and sum(part.rows for part in staged) == self.rows and digest_of(staged) == self.digest

    @property
    def is_abandoned(self) -> bool:
        """Whether no retry can resume from these rows."""
        return datetime.now(UTC) - self.at > ABANDONED_AFTER

    def to_text(self) -> str:
        """Return the comment."""
        return msgspec.json.encode(self).decode()


def read_record(comment: str | None) -> StagingRecord | None:
    """Read a table's comment; ``None`` if this package did not write it, or another version did."""
    try:
        return None if comment is None else msgspec.json.decode(comment, type=StagingRecord)
    except (msgspec.MsgspecError, ValueError):
        return None


def digest_of(parts: Iterable[Part]) -> str:
    """Return a digest over those of parts."""
    return hashlib.sha256(" ".join(part.digest for part in parts).encode()).hexdigest()


def staging_name(table: TableName, *, target: StagingTarget) -> TableName:
    """Return the name of a run's staging table, in the schema of the target, which must be given.

    Another key or time column than in an earlier try is another table: what is staged depends on both.
    """
    about = "\n".join([target.run_id, target.time_column or "", *target.primary_key])
    return TableName(schema=table.schema, table=f"{name_prefix(table)}{_short(about)}")


def name_prefix(table: TableName) -> str:
    """Return what the names of all staging tables for a target begin with."""
    return f"{PREFIX}{_short(f'{table.schema}.{table.table}')}_"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class StagingTables(ABC):
    """The staging tables of a database, in a session's transaction."""

    dialect: Dialect

    @abstractmethod
    def attempt(self) -> AbstractContextManager[None]:
        """Undo everything that is done within if it raises."""

    @abstractmethod
    def refused(self, table: TableName, *, becomes_table: bool) -> str | None:
        """Return why no staging table may be created for a target; ``None`` if one may."""

    def located(self, staging: TableName, *, becomes_table: bool) -> TableName:  # noqa: ARG002
        """Return the staging table's name with the schema that it is in."""
        return staging

    @abstractmethod
    def comment(self, staging: TableName) -> tuple[str | None] | None:
        """Return a table's comment, if it has one, in a tuple; ``None`` if there is no such table."""

    @abstractmethod
    def set_comment(self, staging: TableName, *, comment: str) -> None:
        """Write a table's comment."""

    @abstractmethod
    def create(self, staging: TableName, *, columns: Sequence[StagedColumn], becomes_table: bool) -> None:
        """Create a table that only its owner can read.

        :param becomes_table: whether it has to last as a table of the user's does.
        """

    @abstractmethod
    def add_columns(self, staging: TableName, *, columns: Sequence[StagedColumn]) -> None:
        """Add columns."""

    @abstractmethod
    def lock(self, staging: TableName) -> None:
        """Keep others from writing to the table until the transaction ends."""

    @abstractmethod
    def is_empty(self, staging: TableName) -> bool:
        """Return whether it has no rows; an unlogged table has none after a crash of the server."""

    @abstractmethod
    def count(self, staging: TableName) -> int:
        """Count its rows."""

    @abstractmethod
    def copy(self, staging: TableName, *, names: Sequence[str], tables: Iterable[pa.Table]) -> int:
        """Add rows, whose columns are in the order of the names; return how many."""

    @abstractmethod
    def analyze(self, staging: TableName, *, columns: Sequence[str]) -> None:
        """Collect statistics of some columns."""

    @abstractmethod
    def become(self, staging: TableName, *, table: TableName, metadata: Sequence[MetadataColumn]) -> None:
        """Rename the staging table to the target, and give it the columns that loads write, and the privileges of a new table."""

    @abstractmethod
    def drop(self, staging: TableName) -> None:
        """Drop the table."""

    @abstractmethod
    def names(self, *, schema: str | None, prefix: str) -> list[tuple[str, str | None]]:
        """Return the names and comments of the user's tables that begin with a prefix."""
