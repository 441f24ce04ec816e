# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Write the staged rows of a load into its table, by merge, append or replace, and compare what the database counts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from limio_limitrail.landing.sql.metadata import values_of
from limio_limitrail.landing.sql.model import LandingError, LoadResult, Target
from limio_limitrail.landing.sql.names import TableName
from limio_limitrail.landing.sql.outdated import drop_outdated
from limio_limitrail.landing.sql.partitions import TouchedPartitions
from limio_limitrail.landing.sql.plan import ColumnPlan
from limio_limitrail.landing.sql.session import Session
from limio_limitrail.landing.sql.statements import LoadStatements

log = logging.getLogger("limio_limitrail.landing.sql")

ROWS_SKIPPED = (
    "A trigger or a rule of the table may prevent rows from being written; change it, or load into another table; "
    "nothing was written"
)


def expect_rows(table: TableName, *, found: int, wanted: int) -> None:
    """Refuse to commit if the database's own count of rows differs.

    :raises LandingError: it does.
    """
    if found != wanted:
        raise LandingError(f"{table}: {wanted} rows were to be written and the database counts {found}. {ROWS_SKIPPED}")


@dataclass(frozen=True, kw_only=True)
class RowWriter:
    """Writes the staged rows into a table that has all their columns.

    :param statements: the SQL.
    :param target: how to write.
    :param touched: collects the partitions whose rows are written.
    """

    session: Session
    statements: LoadStatements
    target: Target
    touched: TouchedPartitions

    def merge(self, keys: Sequence[ColumnPlan], *, rows: int, staged: int) -> LoadResult:
        """Replace the rows of the keys that came, unless they are newer, and insert the others.

        :param rows: how many rows came.
        :param staged: how many of these are in the staging table.
        :raises LandingError: the table has more than one row of a key, or the database writes fewer rows than it was told to.
        """
        if not staged:
            return LoadResult()
        session, sql, target = self.session, self.statements, self.target
        table = sql.plan.table
        slices = session.pair_slices(sql, keys=keys)
        pairs = drop_outdated(
            session=session, statements=sql, slices=slices, keys=keys, rows=rows, extracted_at=target.extracted_at
        )
        updated = 0
        if sql.update(keys) is not None and pairs.matches > pairs.outdated:
            for part in slices:
                self.touched.note(part.differing_pairs(keys))
            differing = session.query(sql.differing(keys)) if session.may_skip_rows(table) else None
            values = values_of(sql.plan.updated_metadata)
            updated = sum(session.update(part, keys=keys, values=values) for part in slices)
            if differing is not None:
                expect_rows(table, found=updated, wanted=int(differing[0][0]))
        metadata = values_of(sql.plan.metadata)
        inserted = sum(session.execute(part.insert_missing(keys), *metadata) for part in slices)
        if pairs.matches > staged - inserted:
            raise LandingError(
                f"{table}: the table has {pairs.matches - staged + inserted} rows more than one for the keys that came, so "
                f"it cannot be merged into; remove the duplicates of the key, or append"
            )
        expect_rows(table, found=pairs.matches + inserted, wanted=staged)
        if pairs.timeless:
            log.warning(
                "%s: %d rows came without a readable time in %r, and the table's rows, which have one, were not changed. "
                "If the records no longer have this column, drop it from the table",
                table,
                pairs.timeless,
                target.time_column,
            )
        unchanged = staged - inserted - updated - pairs.outdated
        return LoadResult(inserted=inserted, updated=updated, unchanged=unchanged, outdated=pairs.outdated)

    def append(self, *, staged: int) -> LoadResult:
        """Insert all rows, in place of those that an earlier try of the run has written.

        :raises LandingError: the database writes or deletes fewer rows than it was told to.
        """
        run_id, sql = self.target.run_id, self.statements
        self.touched.note(sql.rows_of_run(), run_id)
        return self._insert_after(sql.delete_run(), sql.has_rows_of_run(), run_id, staged=staged)

    def replace_all(self, *, staged: int) -> LoadResult:
        """Insert all rows in place of what the table has.

        :raises LandingError: the database writes or deletes fewer rows than it was told to.
        """
        return self._insert_after(self.statements.delete_all(), self.statements.has_rows(), staged=staged)

    def _insert_after(self, delete: str, has_left: str, *values: object, staged: int) -> LoadResult:
        session, sql = self.session, self.statements
        deleted = session.execute(delete, *values)
        [(left,)] = session.query(has_left, *values)
        if left:
            raise LandingError(f"{sql.plan.table}: deleted rows are still there, and would be duplicated. {ROWS_SKIPPED}")
        metadata = values_of(sql.plan.metadata)
        inserted = sum(session.execute(sql.insert_in_order(numbers), *metadata) for numbers in session.staged_slices(sql.stage))
        expect_rows(sql.plan.table, found=inserted, wanted=staged)
        return LoadResult(inserted=inserted, deleted=deleted)
