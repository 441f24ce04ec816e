# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Find in a load's transaction the rows that were staged while the pull went on, and use them instead of the parts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from msgspec import structs

from limio_limitrail.landing.parts import Part
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, during
from limio_limitrail.landing.sql.model import LandingError, PartSource
from limio_limitrail.landing.sql.names import TableName
from limio_limitrail.landing.sql.plan import ColumnPlan, LoadPlan
from limio_limitrail.landing.sql.session import Session
from limio_limitrail.landing.sql.staged_rows import ORDER, SEQUENCE
from limio_limitrail.landing.sql.staging_columns import SchemaState, added_columns, columns_of, staged_tables
from limio_limitrail.landing.sql.staging_table import (
    StagingRecord,
    StagingTables,
    StagingTarget,
    name_prefix,
    read_record,
    staging_name,
)

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.exclusive_connection import ExclusiveConnection

log = logging.getLogger("limio_limitrail.landing.sql")


@dataclass(frozen=True, kw_only=True)
class StagedRun:
    """What a load has to know to find the rows of its run.

    :param target: what they were staged for.
    :param parts: the parts of the finished pull.
    :param on_leftovers: called if there are staging tables for the target, of this run or of others.
    :param database: the database if it is kept open: what is staged may be seen by this connection alone.
    """

    target: StagingTarget
    parts: Sequence[Part]
    on_leftovers: Callable[[], None]
    database: ExclusiveConnection | None = None


class _UnusableError(Exception):
    """The staged rows cannot be used. The message says why."""


@dataclass(frozen=True, kw_only=True)
class EarlyRows:
    """The rows of the first parts of a pull, in a staging table that nobody else can change until the transaction ends.

    :param tables: the staging tables of the database.
    :param staging: the staging table.
    :param record: what it holds.
    :param target: what it was made for.
    :param staged_rows: the rows of each part that was there.
    """

    tables: StagingTables
    staging: TableName
    record: StagingRecord
    target: StagingTarget
    staged_rows: Sequence[int]

    def complete(
        self, plan: LoadPlan, *, parts: Sequence[PartSource], progress: Callable[[int], None] | None = None
    ) -> EarlyRows:
        """Copy the parts that are not staged.

        :param parts: all parts of the pull, in order.
        :param progress: called with the number of rows for every part, staged or copied now.
        """
        record = self.record
        names = [column.name for column in record.columns]
        if progress is not None:
            for rows in accumulate(self.staged_rows):
                progress(rows)
        for part in parts[record.parts :]:
            forms = set(record.nul_forms)
            tables = staged_tables(part, plan=plan, record=record, target=self.target, forms=forms)
            rows = self.tables.copy(self.staging, names=names, tables=tables)
            record = structs.replace(record, parts=record.parts + 1, rows=record.rows + rows, nul_forms=tuple(sorted(forms)))
            if progress is not None:
                progress(record.rows)
        return replace(self, record=record)

    def become_table(self, plan: LoadPlan) -> None:
        """Turn the staging table into the table of the plan, which does not exist."""
        self.tables.become(self.staging, table=plan.table, metadata=plan.metadata)

    def analyze(self, keys: Sequence[ColumnPlan]) -> None:
        """Collect the statistics that comparing keys and times needs."""
        own = [column.name for column in self.record.columns if column.name in (SEQUENCE, ORDER) and not column.key]
        self.tables.analyze(self.staging, columns=[*own, *(column.staged for column in keys)])


def take_early_rows(session: Session, *, plan: LoadPlan, run: StagedRun) -> EarlyRows | None:
    """Find the staged rows of a run, and keep others from changing them.

    :returns: ``None`` if the load has to read all parts itself; if rows were staged, a log line says why.
    """
    tables = session.staging_tables()
    if tables is None:
        return None
    table = session.located(plan.table)
    staging = tables.located(staging_name(table, target=run.target), becomes_table=not plan.exists)
    if tables.names(schema=table.schema, prefix=name_prefix(table)):
        run.on_leftovers()
    if tables.comment(staging) is None:
        return None
    try:
        with tables.attempt():
            tables.lock(staging)
            record = _usable_record(tables, staging=staging, plan=plan, run=run)
        rows = [part.rows for part in run.parts[: record.parts]]
        return EarlyRows(tables=tables, staging=staging, record=record, target=run.target, staged_rows=rows)
    except _UnusableError as reason:
        why = str(reason)
    except DatabaseError as refused:
        if refused.cause is Cause.LOST:
            raise
        why = refused.what
    log.info("%s: the rows in the staging table %s are not used (%s); all parts are copied now", plan.table, staging.table, why)
    return None


def _usable_record(tables: StagingTables, *, staging: TableName, plan: LoadPlan, run: StagedRun) -> StagingRecord:
    """Return what the staging table holds, after it has got the columns that it lacks."""
    record = read_record((tables.comment(staging) or (None,))[0])
    if record is None or not record.holds(run.parts):
        raise _UnusableError("they are not those of the parts")
    if record.becomes_table is plan.exists:
        raise _UnusableError("the table was created or dropped in the meantime")
    # What the contract leaves out is staged, and not read.
    read = tuple(column for column in record.columns if column.key not in plan.ignored)
    wanted = columns_of(plan, dialect=tables.dialect, target=run.target, schema_is=SchemaState.FINAL)
    added = added_columns(structs.replace(record, columns=read), wanted)
    if added is None:
        raise _UnusableError("columns of the table or of the records have changed")
    if tables.count(staging) != record.rows:
        raise _UnusableError("some are missing")
    tables.add_columns(staging, columns=added)
    return structs.replace(record, columns=(*read, *added))


def adopt(early: EarlyRows, *, plan: LoadPlan, parts: Sequence[PartSource], progress: Callable[[int], None] | None) -> int | None:
    """Turn the staging table into the new table, with the rows of all parts; return how many these are.

    :returns: ``None``, and a log line, if the database refuses that; nothing has been done then.
    """
    try:
        with early.tables.attempt():
            with during(f"while copying rows into {plan.table}"):
                whole = early.complete(plan, parts=parts, progress=progress)
            with during(f"while turning the staging table into {plan.table}"):
                whole.become_table(plan)
            return whole.record.rows
    except DatabaseError as refused:
        if refused.cause is Cause.LOST:
            raise
        why = refused.what
    except LandingError as unfit:
        why = unfit.what
    log.info("%s: the staging table cannot become the table (%s); all parts are copied now", plan.table, why)
    return None
