# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load a pull into a history: a table that keeps each version of a record, with the times between which it was valid.

A version starts at the record's own time, or when the run that saw it began, if it has none. Whatever the order in which runs are
loaded, the versions are the same: two tables beside the history hold what each run saw (`observations_sql`), so that a late run
knows which versions later runs have seen again.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind, arrow_type
from limio_limitrail.landing.sql.history_closings import Closings
from limio_limitrail.landing.sql.history_statements import STARTS, TIME, VALID_FROM, VALID_TO, Change, HistoryStatements
from limio_limitrail.landing.sql.metadata import MetadataColumn
from limio_limitrail.landing.sql.model import LandingError, LoadResult, OnMissing, Target
from limio_limitrail.landing.sql.names import TableName, side_table
from limio_limitrail.landing.sql.observations import check_key_names, prepare, record_observations
from limio_limitrail.landing.sql.observations_sql import ObservationTables
from limio_limitrail.landing.sql.staged_rows import SEQUENCE
from limio_limitrail.landing.timestamps import instants_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import pyarrow as pa

    from limio_limitrail.landing.sql.dialect import Dialect
    from limio_limitrail.landing.sql.partitions import TouchedPartitions
    from limio_limitrail.landing.sql.plan import ColumnPlan
    from limio_limitrail.landing.sql.session import Session
    from limio_limitrail.landing.sql.statements import LoadStatements

log = logging.getLogger("limio_limitrail.landing.sql")

MANY_VERSIONS = 50
"""The most new versions of one record that a pull brings without a warning."""

VALIDITY = (
    MetadataColumn(name=VALID_FROM, kind=Kind.TIMESTAMP, value=None),
    MetadataColumn(name=VALID_TO, kind=Kind.TIMESTAMP, value=None),
)
"""The columns of a history beside those of every load."""


def check_database(dialect: Dialect) -> None:
    """Refuse a database whose loads into one table may overlap.

    :raises LandingError: it is one.
    """
    if not dialect.serializes_loads:
        raise LandingError(
            "mode='history' needs DuckDB, Postgres or SQLite: in another database two loads at once could "
            "leave two versions of one time; keep snapshots with mode='append', or merge"
        )


def check_table(*, session: Session, table: TableName, history: bool, primary_key: Sequence[str]) -> None:
    """Refuse to load versions into a table of rows, or rows into a table of versions.

    :raises LandingError: the table is of the other sort, or the key has a column that the tables beside a history need.
    """
    if history:
        check_database(session.dialect)
        check_key_names(primary_key, dialect=session.dialect, table=table)
    columns = session.columns(table)
    if columns is None:
        return
    kinds = {column.name: column.kind for column in columns}
    if history:
        if any(kinds.get(name, Kind.NULL) is not Kind.TIMESTAMP for name in (VALID_FROM, VALID_TO)):
            raise LandingError(
                f"{table} has no columns {VALID_FROM} and {VALID_TO} of instants, so it is not a history, and its rows have no "
                f"time from which on they were valid; load into a new table; nothing was written"
            )
        return
    if {VALID_FROM, VALID_TO} <= set(kinds) and session.columns(side_table(session.located(table), suffix="__seen")) is not None:
        raise LandingError(
            f"{table} is a history, and another mode would change or remove its versions; use mode='history', or another table; "
            f"nothing was written"
        )


def stage_columns(dialect: Dialect) -> list[tuple[str, str]]:
    """Return the columns that the staging table of a history has at its end, and their types."""
    return [(name, dialect.types[Kind.TIMESTAMP]) for name in (STARTS, TIME)]


def with_times(staged: pa.Table, *, time: ColumnPlan | None, started_at: datetime) -> pa.Table:
    """Add to staged rows when their versions start, and the records' own times.

    :param staged: the rows.
    :param time: the time column, if there is one.
    :param started_at: when the run began, from which on versions without a time are valid.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    instant = arrow_type(Kind.TIMESTAMP)
    match time.kind if time is not None else None:
        case Kind.TIMESTAMP if time is not None:
            own = staged.column(time.staged).combine_chunks()
        case Kind.TEXT if time is not None:
            own = instants_of(staged.column(time.staged).combine_chunks())
        case _:  # numbers are versions or epochs of an unknown unit
            own = pa.nulls(staged.num_rows, instant)
    starts = pc.coalesce(own, pa.scalar(started_at, instant))
    return staged.append_column(STARTS, starts).append_column(TIME, own)


@dataclass(frozen=True, kw_only=True)
class HistoryLoad:
    """The last step of a load: staged versions go into an existing history.

    :param session: the transaction.
    :param statements: the load's statements.
    :param target: the table, and the run.
    :param touched: collects the partitions of the versions that are changed.
    """

    session: Session
    statements: HistoryStatements
    target: Target
    touched: TouchedPartitions

    @classmethod
    def of(
        cls,
        *,
        session: Session,
        statements: LoadStatements,
        keys: Sequence[ColumnPlan],
        target: Target,
        touched: TouchedPartitions,
    ) -> HistoryLoad:
        """Make it from the statements that staged the rows."""
        plan, dialect = statements.plan, statements.dialect
        observed = ObservationTables(dialect=dialect, table=session.located(plan.table), keys=tuple(keys), full=target.full_scan)
        versions = HistoryStatements(
            dialect=dialect,
            plan=plan,
            stage=statements.stage,
            time=statements.time,
            missing_time=statements.missing_time,
            keys=tuple(keys),
            observed=observed,
        )
        return cls(session=session, statements=versions, target=target, touched=touched)

    def run(self, *, staged: int) -> LoadResult:
        """Write the versions, and what the run saw.

        :param staged: the staged rows, each of another key or time.
        :raises ShrunkListError: more records are missing than the target allows.
        """
        tables = self.statements.observed
        prepare(session=self.session, tables=tables, new=not self.statements.plan.exists)
        keys = [column.name for column in tables.keys]
        with ExitStack() as stack:
            for table in (tables.table, tables.seen_name):
                stack.enter_context(self.session.indexed(table, columns=keys))
            if staged:
                stage = TableName(schema="temp", table=self.statements.stage)
                stack.enter_context(self.session.indexed(stage, columns=[column.staged for column in tables.keys]))
                stack.enter_context(self.session.indexed(stage, columns=[SEQUENCE]))
            return self._run(staged=staged)

    def _run(self, *, staged: int) -> LoadResult:
        session, sql, target = self.session, self.statements, self.target
        judges = target.full_scan and target.on_missing is not OnMissing.KEEP
        record_observations(session=session, statements=sql, target=target, judges=judges, staged=staged)
        closings = Closings(session=session, statements=sql, target=target, touched=self.touched)
        judged = closings.has_judged()
        counts = self._write_versions(judged=judged) if staged else dict.fromkeys(Change, 0)
        returned = closings.reopen() if staged and judged and sql.plan.exists else 0
        closed = []
        for number in range(1, closings.judged_runs() + 1):
            if staged and number > judges:
                closings.undo(number)
            closed.append(closings.close(number, staged=staged, guarded=judges and number == 1))
        return LoadResult(
            inserted=counts[Change.INSERT],
            updated=counts[Change.REPLACE] + counts[Change.EXTEND],
            outdated=counts[Change.OUTDATED],
            unchanged=staged - sum(counts.values()),
            marked=closed[0] if judges else 0,
            returned=returned,
            missing_checked=judges,
        )

    def _write_versions(self, *, judged: bool) -> dict[Change, int]:
        session, sql = self.session, self.statements
        for name, columns in sql.temporary_tables().items():
            session.create_stage(stage=name, columns=columns)
        session.execute(sql.find_changes())
        session.analyze(stage=sql.changes)
        self.touched.note(sql.changed_records())
        [(places,)] = session.query(sql.last_place())
        if places > MANY_VERSIONS:
            log.warning(
                "%s: this pull brings %d versions of one record, which are written one after the other; that takes a while. "
                "If each of them is a record of its own, the primary key lacks a column: name it in primary_key=",
                sql.plan.table,
                places,
            )
        counts = dict.fromkeys(Change, 0)
        with session.indexed(TableName(schema="temp", table=sql.versions), columns=[SEQUENCE]):
            for place in range(1, places + 1):
                for change, rows in self._apply(place, judged=judged).items():
                    counts[change] += rows
        return counts

    def _apply(self, place: int, *, judged: bool) -> dict[Change, int]:
        """Write one version of each changed record; return how many there are of each kind."""
        session, sql = self.session, self.statements
        run = (self.target.extracted_at, self.target.run_id)
        for name in (sql.versions, sql.places):
            session.execute(f"DELETE FROM {name}")
        session.execute(sql.find_versions(place))
        if judged:
            session.execute(sql.find_copies())
        session.analyze(stage=sql.versions)
        session.execute(sql.find_places(place), self.target.extracted_at)
        session.analyze(stage=sql.places)
        counts = dict.fromkeys(Change, 0)
        cut = resumed = 0
        for change, rows, cuts, resumes in session.query(sql.count_places()):
            counts[Change(change)] = rows
            if change in (Change.INSERT, Change.EXTEND):
                cut, resumed = cut + cuts, resumed + resumes
        if judged:
            session.update_rows(sql.renew(), *run)
        if resumed:
            self._expect(session.execute(sql.resume()), wanted=resumed)
        for wanted, update, values in (
            (cut, sql.cut, ()),
            (counts[Change.EXTEND], sql.extend, run),
            (counts[Change.REPLACE], sql.replace, run),
        ):
            if wanted:
                self._expect(session.update_rows(update(), *values), wanted=wanted)
        if wanted := counts[Change.INSERT]:
            slices = session.staged_slices(sql.stage)
            self._expect(sum(session.execute(sql.insert_versions(numbers), *run) for numbers in slices), wanted=wanted)
        return counts

    def _expect(self, found: int, *, wanted: int) -> None:
        if found != wanted:
            raise LandingError(
                f"{self.statements.plan.table}: {wanted} versions were to be written and the database counts {found}. A trigger "
                f"or a rule of the table may prevent it, or two rows have one key and one {VALID_FROM}; change that; nothing was "
                f"written"
            )
