# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a merge does about rows whose records the list no longer has, and about those that come again; see `scopes`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.shrinking import EXAMPLES, shrunk
from limio_limitrail.landing.sql.dialect import VALUE, Update, all_of
from limio_limitrail.landing.sql.metadata import DELETED_AT, RUN_ID, SOURCES
from limio_limitrail.landing.sql.model import LandingError, OnMissing, Target
from limio_limitrail.landing.sql.scopes import NO_SOURCE, UNKNOWN_SOURCE, Membership
from limio_limitrail.landing.sql.staged_rows import SEQUENCE

if TYPE_CHECKING:
    from datetime import datetime

    from limio_limitrail.landing.sql.partitions import TouchedPartitions
    from limio_limitrail.landing.sql.plan import ColumnPlan
    from limio_limitrail.landing.sql.session import Session
    from limio_limitrail.landing.sql.statements import LoadStatements

log = logging.getLogger("limio_limitrail.landing.sql")


@dataclass(frozen=True, kw_only=True)
class MissingResult:
    """What was done, in rows; see `LoadResult`.

    :param dropped: staged rows that a later full scan of the scope did not find, and that are not to be inserted.
    """

    checked: bool = False
    deleted: int = 0
    marked: int = 0
    returned: int = 0
    dropped: int = 0


class MissingRows:
    """One merge's part in which list has which row. Must run before anything is dropped from the staging table.

    :param session: the database.
    :param statements: those of the load.
    :param target: the table and the pull.
    :param membership: how the load takes part.
    :param touched: collects the partitions of the rows that are marked or deleted, or come again.
    :param before_delete: is called before rows are deleted, with the condition on them as rows ``t`` of the table.
    """

    def __init__(
        self,
        *,
        session: Session,
        statements: LoadStatements,
        target: Target,
        membership: Membership,
        touched: TouchedPartitions,
        before_delete: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._before_delete = before_delete
        self._session = session
        self._sql = statements
        self._target = target
        self._membership = membership
        self._touched = touched
        quote = session.dialect.quote
        self._sources = f"t.{quote(SOURCES)}"
        self._deleted_at = f"t.{quote(DELETED_AT)}"

    def settle(self, keys: Sequence[ColumnPlan], *, staged: int) -> MissingResult:
        """Mark or delete the rows that are missing, and record the rows that came.

        :param keys: the columns of the primary key; empty if no row came.
        :param staged: the staged rows.
        :raises ShrunkListError: more rows are missing than the target allows.
        :raises LandingError: the database wrote other rows than it should.
        """
        member = self._membership
        if member.is_superseded:
            return MissingResult(dropped=self._drop_not_found(keys), returned=self.add_later(keys))
        self._claim(keys)
        checks = self._target.full_scan and self._target.on_missing is not OnMissing.KEEP and member.is_latest
        counts = self._count(keys)
        deleted = marked = 0
        if checks and counts.missing:
            self._guard(keys, counts, is_empty=not staged)
            deleted, marked = self._remove(keys, counts)
        if counts.returned:
            self._touched.note(f"{self._pairs(keys)} WHERE {self._deleted_at} IS NOT NULL")
        if counts.came_again:
            self._expect(found=self._add(keys), wanted=counts.came_again)
        return MissingResult(checked=checks, deleted=deleted, marked=marked, returned=counts.returned)

    def add_later(self, keys: Sequence[ColumnPlan]) -> int:
        """Record that the list has the rows whose records are later than the full scan that supersedes this load.

        That scan may have read the list before they were there. Must also run after the merge, for those that it inserts.

        :return: how many were marked.
        """
        later = self._later()
        if later is None or not keys:
            return 0
        condition, value = later
        returned = 0
        if self._membership.marks:
            marked = f"{self._pairs(keys)} WHERE {self._deleted_at} IS NOT NULL AND {condition}"
            [(returned,)] = self._session.query(f"SELECT count(*) FROM {marked}", value)
            self._touched.note(marked, value)
        self._add(keys, later)
        return int(returned)

    def _later(self) -> tuple[str, datetime | str | None] | None:
        """Return the condition that a record is later than the full scan that supersedes this load, and the value it binds."""
        scanned_at = self._membership.scanned_at
        return self._sql.is_after(scanned_at) if self._membership.is_superseded and scanned_at is not None else None

    def _pairs(self, keys: Sequence[ColumnPlan]) -> str:
        return f"{self._sql.staged} AS s JOIN {self._sql.table} AS t ON {self._sql.same_key(keys)}"

    def _add(self, keys: Sequence[ColumnPlan], later: tuple[str, datetime | str | None] | None = None) -> int:
        """Record that the list has the rows that came; return how many it did not have, or were marked.

        :param later: a condition on the staged rows, and the value that it binds.
        """
        condition, *values = later or ("1 = 1",)
        quote = self._session.dialect.quote
        assignments = [(quote(SOURCES), self._membership.with_member(self._sources))]
        if self._membership.marks:
            assignments.append((quote(DELETED_AT), "NULL"))
        conditions = [self._sql.same_key(keys), self._is_to_be_added(), condition]
        return self._update(assignments, all_of(conditions), *values, source=self._sql.staged)

    def _update(self, assignments: Sequence[tuple[str, str]], condition: str, *values: object, source: str | None = None) -> int:
        update = Update(table=self._sql.plan.table, assignments=assignments, condition=condition, source=source)
        return self._session.update_rows(update, *values)

    def _is_to_be_added(self) -> str:
        outside = self._membership.is_not_member(self._sources)
        return f"({outside} OR {self._deleted_at} IS NOT NULL)" if self._membership.marks else outside

    def _claim(self, keys: Sequence[ColumnPlan]) -> None:
        """Fill ``_sources`` where it is null: in rows from before the table had it, or of others.

        A row that the task has brought, and that the list has, is of this scope, and so are all others of the task if it pulls
        no other list. Of all other rows it is not known which pull has them.
        """
        member, session, sql = self._membership, self._session, self._sql
        null = f"{self._sources} IS NULL"
        [(unclaimed,)] = session.query(f"SELECT count(*) FROM {sql.table} AS t WHERE {null}")
        if not unclaimed:
            return
        run_id = session.dialect.exact(f"t.{session.dialect.quote(RUN_ID)}", Kind.TEXT)
        sources = session.dialect.quote(SOURCES)
        if keys:
            condition = all_of([sql.same_key(keys), null, member.is_of_task(run_id)])
            self._update([(sources, f"'{NO_SOURCE}'")], condition, source=sql.staged)
        unknown = f"'{UNKNOWN_SOURCE}'"
        owner = unknown
        if member.scope.is_only_list:
            owner = f"CASE WHEN {member.is_of_unmapped_task(run_id)} THEN '{member.source}' ELSE {unknown} END"
        self._update([(sources, owner)], null)
        [(kept,)] = session.query(f"SELECT count(*) FROM {sql.table} AS t WHERE {self._sources} = {unknown}")
        if kept:
            log.info(
                "%s: of %d rows it is not known which list has them, because another task or program has written them, or this "
                "one before it had on_missing=. They are never marked or deleted.",
                sql.plan.table,
                kept,
            )

    def _count(self, keys: Sequence[ColumnPlan]) -> _Counts:
        member, sql = self._membership, self._sql
        came = f"s.{SEQUENCE} IS NOT NULL"
        inside = member.is_member(self._sources)
        missing = all_of([inside, f"s.{SEQUENCE} IS NULL", self._has_key(keys)])
        returned = all_of([came, f"{self._deleted_at} IS NOT NULL"]) if member.marks else "1 = 0"
        conditions = (
            inside,
            missing,
            all_of([missing, member.is_only_member(self._sources)]),
            all_of([came, self._is_to_be_added()]),
            returned,
        )
        sums = ", ".join(f"coalesce(sum(CASE WHEN {condition} THEN 1 ELSE 0 END), 0)" for condition in conditions)
        pair = sql.same_key(keys) if keys else "1 = 0"
        [found] = self._session.query(f"SELECT {sums} FROM {sql.table} AS t LEFT JOIN {sql.staged} AS s ON {pair}")
        known, missing_rows, gone, came_again, back = map(int, found)
        return _Counts(known=known, missing=missing_rows, gone=gone, came_again=came_again, returned=back)

    def _has_key(self, keys: Sequence[ColumnPlan]) -> str:
        """Return the condition that a row of the table has a whole key: without one it cannot be found in a list."""
        return all_of(f"t.{self._session.dialect.quote(column.name)} IS NOT NULL" for column in keys)

    def _is_missing(self, keys: Sequence[ColumnPlan]) -> str:
        inside = self._membership.is_member(self._sources)
        if not keys:
            return inside
        return all_of([inside, self._has_key(keys), self._sql.not_staged(keys)])

    def _guard(self, keys: Sequence[ColumnPlan], counts: _Counts, *, is_empty: bool) -> None:
        guard = self._target.max_missing
        if guard is None or not guard.refuses(missing=counts.missing, known=counts.known, empty=is_empty):
            return
        raise shrunk(
            str(self._sql.plan.table),
            missing=counts.missing,
            known=counts.known,
            guard=guard,
            keys=example_keys(
                session=self._session,
                statements=self._sql,
                primary_key=self._target.primary_key,
                condition=self._is_missing(keys),
            ),
            consequence="nothing was written",
        )

    def _remove(self, keys: Sequence[ColumnPlan], counts: _Counts) -> tuple[int, int]:
        """Mark or delete the missing rows that no other list has; return how many rows were deleted, and how many marked."""
        member, session, sql = self._membership, self._session, self._sql
        missing, deleted = self._is_missing(keys), 0
        self._touched.note(f"{sql.table} AS t WHERE {all_of([missing, member.is_only_member(self._sources)])}")
        sources = session.dialect.quote(SOURCES)
        assignments = [(sources, member.without_member(self._sources))]
        if self._target.on_missing is OnMissing.DELETE:
            condition = all_of([missing, member.is_only_member(self._sources)])
            self._before_delete(condition)
            deleted = session.execute(f"DELETE FROM {sql.table} AS t WHERE {condition}")
            self._expect(found=deleted, wanted=counts.gone)
            left = counts.missing - deleted
            if left:
                self._expect(found=self._update(assignments, missing), wanted=left)
            return deleted, 0
        marked_at = f"CASE WHEN {member.is_only_member(self._sources)} THEN {VALUE} ELSE {self._deleted_at} END"
        assignments.append((session.dialect.quote(DELETED_AT), marked_at))
        self._expect(found=self._update(assignments, missing, member.began), wanted=counts.missing)
        return 0, counts.gone

    def _drop_not_found(self, keys: Sequence[ColumnPlan]) -> int:
        """Drop the staged rows that the table does not have, if a later full scan of the scope has deleted such rows.

        A record that is later than that scan stays: the scan may have read the list before it was there.
        """
        state = self._membership.state
        if not keys or state is None or state.on_missing is not OnMissing.DELETE:
            return 0
        sql = self._sql
        there = f"SELECT 1 FROM {sql.table} AS t WHERE {sql.same_key(keys)}"
        condition, *values = self._later() or ("1 = 0",)
        is_later = f"CASE WHEN {condition} THEN 1 ELSE 0 END"
        absent = f"SELECT s.{SEQUENCE} FROM {sql.staged} AS s WHERE NOT EXISTS ({there}) AND {is_later} = 0"
        return self._session.execute(f"DELETE FROM {sql.staged} WHERE {SEQUENCE} IN ({absent})", *values)

    def _expect(self, *, found: int, wanted: int) -> None:
        if found != wanted:
            raise LandingError(
                f"{self._sql.plan.table}: {wanted} rows were to be marked or deleted, or to get another {SOURCES}, and the "
                f"database counts {found}. A trigger or a rule of the table may prevent it; change it, or load into another "
                f"table; nothing was written"
            )


def check_replaced(
    *, session: Session, statements: LoadStatements, target: Target, keys: Sequence[ColumnPlan], staged: int
) -> None:
    """Check before a replace that the table does not lose more rows than the target allows.

    Rows are compared by their keys if the pull read the whole list, and by their number otherwise.

    :raises ShrunkListError: it would.
    """
    guard = target.max_missing
    if guard is None or not statements.plan.exists:
        return
    condition = "1 = 1"
    if target.full_scan and keys and staged:
        condition = statements.not_staged(keys)
        known, missing = map(int, session.query(statements.count_rows(condition))[0])
    else:
        [(known, _)] = session.query(statements.count_rows())
        missing = max(0, int(known) - staged)
    if guard.refuses(missing=missing, known=int(known), empty=not staged):
        names_rows = target.full_scan or not staged
        examples = example_keys(session=session, statements=statements, primary_key=target.primary_key, condition=condition)
        raise shrunk(
            str(statements.plan.table),
            missing=missing,
            known=int(known),
            guard=guard,
            keys=examples if names_rows else (),
            consequence="nothing was replaced",
        )


def example_keys(*, session: Session, statements: LoadStatements, primary_key: Sequence[str], condition: str) -> list[str]:
    """Return the first few keys of the table's rows ``t`` that meet a condition, as texts; none if it lacks a column of the key.

    :param primary_key: the record keys that identify a row.
    """
    plan, dialect = statements.plan, statements.dialect
    columns = [plan.column(key) or plan.missing_column(key, same=dialect.same_name) for key in primary_key]
    names = [f"t.{dialect.quote(column.name)}" for column in columns if column is not None]
    if not names or len(names) < len(columns):
        return []
    texts = ", ".join(map(dialect.legible, names))
    found = session.query(f"SELECT {texts} FROM {statements.table} AS t WHERE {condition} ORDER BY {texts} LIMIT {EXAMPLES}")
    return [", ".join(map(str, row)) for row in found]


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """Rows of the table.

    :param known: those that the scope's list had.
    :param missing: those of them that did not come.
    :param gone: those of the missing ones that no other list has.
    :param came_again: those that came and were not known in the scope, or were marked.
    :param returned: those that came and were marked.
    """

    known: int
    missing: int
    gone: int
    came_again: int
    returned: int
