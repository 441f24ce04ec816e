# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The load of one table within an open transaction: the steps, which are the same for every database.

Inspect the table and plan (`plan`); copy rows straight into a new table (`direct_load`), or into a staging table (`staged_rows`);
check the staged rows (`staged_checks`); create, extend and widen the table (`schema_evolution`); look for missing rows
(`missing_rows`); merge, append or replace (`row_writer`), or add versions (`history`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.contract import Contract
from limio_limitrail.landing.sql.direct_load import load_directly
from limio_limitrail.landing.sql.errors import during
from limio_limitrail.landing.sql.history import VALIDITY, HistoryLoad, check_table, with_times
from limio_limitrail.landing.sql.history import stage_columns as stage_columns_of_history
from limio_limitrail.landing.sql.history_statements import VALID_FROM
from limio_limitrail.landing.sql.late_pulls import check_not_late
from limio_limitrail.landing.sql.metadata import SOURCES, run_columns
from limio_limitrail.landing.sql.missing_rows import MissingResult, MissingRows, check_replaced
from limio_limitrail.landing.sql.model import LoadResult, OnMissing, PartSource, Target, WriteMode
from limio_limitrail.landing.sql.names import TableName
from limio_limitrail.landing.sql.new_keys import check_new_key
from limio_limitrail.landing.sql.partitions import Partitions, TouchedPartitions
from limio_limitrail.landing.sql.plan import ColumnPlan, LoadPlan, key_columns, key_columns_of_table, make_plan
from limio_limitrail.landing.sql.row_writer import RowWriter
from limio_limitrail.landing.sql.schema_evolution import create_or_evolve
from limio_limitrail.landing.sql.scopes import find_membership, record_load
from limio_limitrail.landing.sql.session import Session
from limio_limitrail.landing.sql.staged_checks import check_custom_types, check_nul, check_staged_keys
from limio_limitrail.landing.sql.staged_rows import nul_forms, stage_columns
from limio_limitrail.landing.sql.statements import LoadStatements
from limio_limitrail.landing.sql.whole_pulls import later_scopes, record_whole_pull

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.sql.child_tables import ChildLoad
    from limio_limitrail.landing.sql.early_rows import EarlyRows, StagedRun

_VERBS = {
    WriteMode.MERGE: "merging into",
    WriteMode.APPEND: "appending to",
    WriteMode.REPLACE: "replacing the rows of",
    WriteMode.HISTORY: "adding versions to",
}

_NO_TABLE = LoadResult()
"""Nothing came, and there is no table."""


class TableLoad:
    """The load of one table, in an open transaction; see `loading.load`."""

    def __init__(
        self,
        *,
        session: Session,
        table: TableName,
        target: Target,
        schema: Mapping[str, Kind],
        parts: Sequence[PartSource],
        progress: Callable[[int], None] | None,
        contract: Contract,
        partitions: Partitions | None,
        staged: StagedRun | None = None,
    ) -> None:
        self.followers: Sequence[ChildLoad] = ()
        self._starts: list[int] = []
        self._session = session
        self._partitions = partitions
        self._staged = staged
        self._target = target
        self._contract = contract
        self._parts = parts
        self._progress = progress
        self._has_schema = bool(schema)
        self._table = table
        self._keeps_history = target.mode is WriteMode.HISTORY
        with during(f"while inspecting {table}"):
            check_table(session=session, table=table, history=self._keeps_history, primary_key=target.primary_key)
            self._membership = None if self._keeps_history else find_membership(session=session, table=table, target=target)
            metadata = run_columns(extracted_at=target.extracted_at, run_id=target.run_id)
            if self._keeps_history:
                metadata = (*VALIDITY, *metadata)
            if self._membership is not None:
                metadata += self._membership.columns()
            plan = make_plan(session=session, table=table, schema=schema, metadata=metadata)
        key = target.time_column
        self._plan = contract.fit(plan, needed=[*target.primary_key, *([] if key is None else [key])])
        contract.check_types(self._plan, types=session.dialect.types)
        time = self._plan.column(key) if key is not None else None
        missing = key is not None and time is None
        self._sql = LoadStatements(
            dialect=session.dialect,
            plan=self._plan,
            stage=f"_limio_stage_{uuid.uuid4().hex}",
            time=time,
            missing_time=self._plan.missing_column(key, same=session.dialect.same_name) if missing and key is not None else None,
            seen_later=self._seen_later(),
        )
        self._touched = self._touched_partitions()

    @property
    def session(self) -> Session:
        """The open transaction."""
        return self._session

    @property
    def table(self) -> TableName:
        """The table."""
        return self._table

    @property
    def target(self) -> Target:
        """How to write to it."""
        return self._target

    @property
    def plan(self) -> LoadPlan:
        """Which column goes where."""
        return self._plan

    @property
    def contract(self) -> Contract:
        """What may change of its columns."""
        return self._contract

    @property
    def statements(self) -> LoadStatements:
        """The SQL."""
        return self._sql

    @property
    def merges(self) -> bool:
        """Whether rows replace those of their key."""
        return self._target.mode is WriteMode.MERGE

    def start_of(self, part: int) -> int:
        """Return the number of the first staged row of a part."""
        return self._starts[part]

    def _seen_later(self) -> str | None:
        """Return the condition that a pull that began later may have seen a row ``t``; ``None`` if there is none."""
        if not self._plan.exists:
            return None
        with during(f"while looking for later pulls into {self._table}"):
            later = later_scopes(session=self._session, table=self._table, target=self._target)
        if self._membership is not None:
            sources = f"t.{self._session.dialect.quote(SOURCES)}"
            return self._membership.seen_by(later, sources=sources) if later else None
        # Which rows another list has is not known.
        return "1 = 1" if self._target.scope is not None and self._target.scope.digest in later else None

    def run(self) -> LoadResult:
        result = self._run()
        if not self._plan.exists and result is _NO_TABLE:
            return result
        with during(f"while recording the load of {self._table}"):
            record_whole_pull(session=self._session, table=self._table, target=self._target, is_new=not self._plan.exists)
            if self._membership is not None:
                record_load(
                    session=self._session,
                    table=self._table,
                    membership=self._membership,
                    scanned=self._target.on_missing if result.missing_checked else None,
                )
        return result

    def _run(self) -> LoadResult:
        table, session, target = self._table, self._session, self._target
        with during(f"while looking for rows of later pulls in {table}"):
            check_not_late(session=session, statements=self._sql, target=target)
        early = self._early_rows()
        if self._has_schema and not self._keeps_history and not self.followers:
            result = load_directly(
                session=session, statements=self._sql, target=target, parts=self._parts, progress=self._progress, early=early
            )
            if result is not None:
                if result.rows:
                    self._contract.check_required(self._plan, session=session, relation=self._sql.table, staged=False)
                touched = self._touched_partitions()
                if result.rows:
                    touched.note(self._sql.rows_of_run(), target.run_id)
                return replace(result, missing_checked=self._judges, partitions=touched.keys)
        if self.merges and self._plan.exists and not self.followers:
            session.limit_memory(columns=len(self._plan.columns))
        if early is not None and self._plan.exists:
            with during(f"while copying rows into the staging table of {table}"):
                rows = self._complete(early)
        else:
            with during(f"while creating the staging table of {table}"):
                more = stage_columns_of_history(session.dialect) if self._keeps_history else []
                session.create_stage(stage=self._sql.stage, columns=[*self._sql.stage_columns(), *more])
            with during(f"while copying rows into the staging table of {table}"):
                rows = self._fill_stage()
        if not self._plan.exists and not self._has_schema and not rows:
            # There is no column to create a table of.
            return _NO_TABLE
        with during(f"while checking the staged rows of {table}"):
            if rows:
                self._contract.check_required(self._plan, session=session, relation=self._sql.staged, staged=True)
            if target.mode.needs_key and rows:
                check_staged_keys(session=session, statements=self._sql, primary_key=target.primary_key)
                if self.merges:
                    check_new_key(session=session, statements=self._sql, target=target)
            check_custom_types(session=session, statements=self._sql)
            self._demote_invalid_json()
            # A JSON column may just have become a text column.
            self._contract.check_types(self._plan, types=session.dialect.types)
            keys = key_columns(plan=self._plan, keys=target.primary_key) or ()
            duplicates = self._drop_duplicates(keys) if keys and rows else 0
        added, widened = self._evolve(keys)
        self._touched = self._touched_partitions()
        staged = rows - duplicates
        with self._indexed(keys):
            with during(f"while looking for missing rows of {table}"):
                missing = self._settle_missing(keys, staged=staged)
            with during(f"while {_VERBS[target.mode]} {table}"):
                applied = self._apply(keys, rows=rows, staged=staged - missing.dropped)
                if (missing_rows := self._missing_rows()) is not None:
                    missing_rows.add_later(keys)
                if rows:
                    self.note_partitions()
        applied = replace(
            applied,
            deleted=applied.deleted + missing.deleted,
            outdated=applied.outdated + missing.dropped,
            marked=applied.marked + missing.marked,
            returned=applied.returned + missing.returned,
            missing_checked=applied.missing_checked or missing.checked,
        )
        return replace(
            applied,
            rows=rows,
            duplicates=duplicates,
            columns_added=added,
            columns_widened=widened,
            columns_ignored=self._plan.ignored,
            partitions=self._touched.keys,
        )

    @contextmanager
    def _indexed(self, keys: Sequence[ColumnPlan]) -> Iterator[None]:
        """Index the keys of the table and of the staged rows while they are compared; a history has indexes of its own."""
        with ExitStack() as stack:
            if keys and self._plan.exists and self._target.mode in (WriteMode.MERGE, WriteMode.REPLACE):
                stage = TableName(schema="temp", table=self._sql.stage)
                stack.enter_context(self._session.indexed(self._table, columns=[column.name for column in keys]))
                stack.enter_context(self._session.indexed(stage, columns=[column.staged for column in keys]))
            yield

    @property
    def partitions(self) -> tuple[str, ...]:
        """The partitions that were touched so far."""
        return self._touched.keys

    def note_partitions(self) -> None:
        """Collect the partitions of the run's rows.

        Also those of rows that an earlier try of the run has written, in case it ended before it could say so.
        """
        self._touched.note(self._sql.rows_of_run(), self._target.run_id)

    def _touched_partitions(self) -> TouchedPartitions:
        return TouchedPartitions(session=self._session, plan=self._plan, partitions=self._partitions)

    def _history(self, keys: Sequence[ColumnPlan]) -> HistoryLoad:
        return HistoryLoad.of(session=self._session, statements=self._sql, keys=keys, target=self._target, touched=self._touched)

    def _drop_duplicates(self, keys: Sequence[ColumnPlan]) -> int:
        statement = self._history(keys).statements.drop_repeated() if self._keeps_history else self._sql.drop_duplicates(keys)
        return self._session.execute(statement)

    def _fill_stage(self) -> int:
        rows = 0
        keys = self._target.primary_key
        forms: set[tuple[str, str]] = set()
        for number, part in enumerate(self._parts):
            self._starts.append(rows)
            for group in part.groups():
                forms |= nul_forms(group, keys=keys)
                staged = self._stage_rows(group, number=number, start=rows)
                if staged.num_rows:
                    self._session.fill(stage=self._sql.stage, rows=staged)
                for follower in self.followers:
                    follower.add_parents(group, part=part.name, start=rows)
                rows += staged.num_rows
            if self._progress is not None:
                self._progress(rows)
        check_nul(forms, table=self._table, primary_key=keys)
        self._session.analyze(stage=self._sql.stage)
        return rows

    def _early_rows(self) -> EarlyRows | None:
        """Return the rows that were staged while the pull went on, if they can be used."""
        if self._staged is None or not self._has_schema or self._keeps_history or self.followers:
            return None
        from limio_limitrail.landing.sql.early_rows import take_early_rows

        with during(f"while looking for staged rows of {self._table}"):
            return take_early_rows(self._session, plan=self._plan, run=self._staged)

    def _complete(self, early: EarlyRows) -> int:
        """Copy the parts that are not staged yet, and use the staging table as this load's own."""
        whole = early.complete(self._plan, parts=self._parts, progress=self._progress)
        check_nul(set(whole.record.nul_forms), table=self._table, primary_key=self._target.primary_key)
        self._sql = replace(self._sql, stage=whole.staging.table, stage_schema=whole.staging.schema)
        whole.analyze(key_columns(plan=self._plan, keys=self._target.primary_key) or ())
        return whole.record.rows

    def _stage_rows(self, group: pa.Table, *, number: int, start: int) -> pa.Table:
        """Convert rows of a part to the staging table.

        :param number: the part's number.
        :param start: the number of the first row.
        """
        part = self._parts[number].name
        staged = stage_columns(rows=group, part=part, plan=self._plan, time=self._sql.time, start=start)
        if not self._keeps_history:
            return staged
        return with_times(staged, time=self._sql.time, started_at=self._target.extracted_at)

    def _demote_invalid_json(self) -> None:
        """Turn JSON columns into text columns if the database's JSON type refuses some of their values."""
        columns = [column for column in self._plan.columns if column.kind is Kind.JSON and column.custom_type is None]
        invalid = {column.key for column in columns if self._session.invalid_json(staged=self._sql.staged, column=column.staged)}
        self._plan = self._plan.as_text(invalid)
        self._sql = replace(self._sql, plan=self._plan)

    def _evolve(self, keys: Sequence[ColumnPlan]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        unique = [column.name for column in keys] if self._target.mode.needs_key else []
        unique += [VALID_FROM] if self._keeps_history else []
        return create_or_evolve(session=self._session, statements=self._sql, unique=unique)

    @property
    def _judges(self) -> bool:
        """Whether rows that did not come are missing."""
        is_latest = self._membership is not None and self._membership.is_latest
        return is_latest and self._target.full_scan and self._target.on_missing is not OnMissing.KEEP

    def _settle_missing(self, keys: Sequence[ColumnPlan], *, staged: int) -> MissingResult:
        if self._target.mode is WriteMode.REPLACE:
            check_replaced(session=self._session, statements=self._sql, target=self._target, keys=keys, staged=staged)
        missing_rows = self._missing_rows()
        if missing_rows is None:
            is_merge = self._membership is not None and self._target.mode is WriteMode.MERGE
            return MissingResult(checked=is_merge and self._judges)
        return missing_rows.settle(keys, staged=staged)

    def _missing_rows(self) -> MissingRows | None:
        if self._membership is None or self._target.mode is not WriteMode.MERGE or not self._plan.exists:
            return None
        return MissingRows(
            session=self._session,
            statements=self._sql,
            target=self._target,
            membership=self._membership,
            touched=self._touched,
            before_delete=self._delete_children,
        )

    def _delete_children(self, condition: str) -> None:
        for follower in self.followers:
            follower.delete_of_parents(condition)

    def _apply(self, keys: Sequence[ColumnPlan], *, rows: int, staged: int) -> LoadResult:
        match self._target.mode:
            case WriteMode.MERGE:
                return self._merge(keys, rows=rows, staged=staged)
            case WriteMode.HISTORY:
                keys = keys or key_columns_of_table(plan=self._plan, keys=self._target.primary_key, dialect=self._session.dialect)
                return self._history(keys).run(staged=staged) if keys else LoadResult()
            case WriteMode.APPEND:
                return self._writer.append(staged=staged)
            case WriteMode.REPLACE:
                return self._writer.replace_all(staged=staged)

    def _merge(self, keys: Sequence[ColumnPlan], *, rows: int, staged: int) -> LoadResult:
        return self._writer.merge(keys, rows=rows, staged=staged)

    @property
    def _writer(self) -> RowWriter:
        return RowWriter(session=self._session, statements=self._sql, target=self._target, touched=self._touched)
