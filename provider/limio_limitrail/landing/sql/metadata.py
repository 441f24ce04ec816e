# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The columns that loads write beside those of the records, such as ``_extracted_at``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from limio_limitrail.landing.column_types import Kind

EXTRACTED_AT = "_extracted_at"
"""The column with the time when a row was pulled."""

RUN_ID = "_run_id"
"""The column with the run that pulled a row."""

SOURCES = "_sources"
"""The column with the lists that have a row, in tables in which rows are marked or deleted: digests of scopes between bars."""

DELETED_AT = "_deleted_at"
"""The column with the start of the pull that found a row missing; null while some list has it."""

RUN_COLUMNS = (EXTRACTED_AT, RUN_ID)
"""The names that every load writes. A record key of such a name gets another column; so it does for those of a load's own."""


@dataclass(frozen=True, kw_only=True)
class MetadataColumn:
    """A column that a load writes in each of its rows, whatever their records have.

    :param name: the column.
    :param kind: the kind of its values.
    :param value: what inserted rows get.
    :param updates: whether rows that are updated get the value, too; else they keep theirs.
    """

    name: str
    kind: Kind
    value: datetime | str | int | None
    updates: bool = True

    @property
    def fitting(self) -> frozenset[Kind | None]:
        """The kinds of a table's columns that can hold the values; ``None`` is a type that this package does not create."""
        return _FITTING.get(self.kind, frozenset({self.kind, None}))


_FITTING: dict[Kind, frozenset[Kind | None]] = {
    Kind.TIMESTAMP: frozenset({Kind.TIMESTAMP, Kind.TEXT, None}),
    Kind.INTEGER: frozenset({Kind.INTEGER, Kind.BIGINT, None}),
}


def run_columns(*, extracted_at: datetime, run_id: str) -> tuple[MetadataColumn, ...]:
    """Return the columns that every load writes.

    :param extracted_at: when the pull was made.
    :param run_id: the run that made it.
    """
    return (
        MetadataColumn(name=EXTRACTED_AT, kind=Kind.TIMESTAMP, value=extracted_at),
        MetadataColumn(name=RUN_ID, kind=Kind.TEXT, value=run_id),
    )


def values_of(columns: Sequence[MetadataColumn]) -> tuple[datetime | str | int | None, ...]:
    """Return the values that a statement binds for the columns."""
    return tuple(column.value for column in columns)
