# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which columns a run's staging table has, and a part's rows in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import Dialect
from limio_limitrail.landing.sql.model import PartSource
from limio_limitrail.landing.sql.plan import LoadPlan
from limio_limitrail.landing.sql.staged_rows import ORDER, SEQUENCE, in_kinds, nul_forms, stage_columns
from limio_limitrail.landing.sql.staging_table import StagedColumn, StagingRecord, StagingTarget

if TYPE_CHECKING:
    import pyarrow as pa


class SchemaState(Enum):
    """What is known of the columns of a pull."""

    GROWING = "growing"
    """More parts may come: a column without values has no type yet."""
    FINAL = "final"
    """All parts are there."""


def _staged_table(
    group: pa.Table, *, part: str, plan: LoadPlan, record: StagingRecord, target: StagingTarget, start: int
) -> pa.Table:
    """Convert rows of a part to the columns of a staging table.

    :param start: the number of the first row.
    """
    if record.becomes_table:
        return in_kinds(rows=group, part=part, plan=plan)
    time = plan.column(target.time_column) if target.time_column is not None else None
    staged = stage_columns(rows=group, part=part, plan=plan, time=time, start=start)
    return staged.select([column.name for column in record.columns])


def columns_of(plan: LoadPlan, *, dialect: Dialect, target: StagingTarget, schema_is: SchemaState) -> tuple[StagedColumn, ...]:
    """Return the columns of a staging table: those of the target if it is new, otherwise those of a load's staging table."""
    if not plan.exists:
        return tuple(StagedColumn(column.key, column.name, dialect.types[column.kind]) for column in plan.columns)
    time = plan.column(target.time_column) if target.time_column is not None else None
    # Numbers and sort keys come first, so that further columns can follow.
    own = [StagedColumn("", SEQUENCE, dialect.integer_type)]
    if time is not None and time.kind is Kind.TEXT:
        own.append(StagedColumn("", ORDER, dialect.text_type))
    known = [column for column in plan.columns if schema_is is SchemaState.FINAL or column.kind is not Kind.NULL]
    return (*own, *(StagedColumn(column.key, column.staged, dialect.stage_type(column.kind)) for column in known))


def added_columns(record: StagingRecord, columns: Sequence[StagedColumn]) -> tuple[StagedColumn, ...] | None:
    """Return the columns that a staging table lacks; ``None`` if it cannot get them."""
    added = tuple(column for column in columns if column not in record.columns)
    if any(column not in columns for column in record.columns) or any(not column.key for column in added):
        return None
    if record.becomes_table and columns[: len(record.columns)] != record.columns:
        return None
    return added


def staged_tables(
    part: PartSource, *, plan: LoadPlan, record: StagingRecord, target: StagingTarget, forms: set[tuple[str, str]]
) -> Iterator[pa.Table]:
    """Read the part that follows those of a record, as rows of the staging table.

    :param forms: gets what `nul_forms` finds.
    """
    import pyarrow as pa

    start = record.rows
    for group in part.groups():
        forms |= nul_forms(group, keys=target.primary_key)
        yield _staged_table(group, part=part.name, plan=plan, record=record, target=target, start=start)
        start += group.num_rows
        # As in postgres_copy: Arrow would cache the memory of the group.
        del group
        pa.default_memory_pool().release_unused()
