# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which lists have a row (the column ``_sources``), and when each list was loaded (the table ``_limio_scopes``).

A scope is one list of one task. ``_sources`` holds the digests of the scopes whose lists have the row, as in ``|a1…|b2…|``, or
``|unknown|`` for a row that others have brought. The table ``_limio_scopes`` is in the schema of the tables that it is about, and
changes in the transactions that change them. Both together make what a table holds independent of the order of runs: a load that
is older than the last full scan of its scope cannot bring back what that scan did not find.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from limio_limitrail.landing.arrow_tables import text_array
from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE, TableColumn, all_of, any_of
from limio_limitrail.landing.sql.metadata import DELETED_AT, EXTRACTED_AT, RUN_ID, SOURCES, MetadataColumn
from limio_limitrail.landing.sql.model import LandingError, OnMissing, Scope, Target, WriteMode
from limio_limitrail.landing.sql.side_table import SideTable, read_instant, stored_instant
from limio_limitrail.landing.timestamps import newest_time, sort_keys

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.names import TableName
    from limio_limitrail.landing.sql.session import Session

SCOPES = SideTable(name="_limio_scopes", columns=("scope", "loaded_at", "scanned_at", "on_missing", "description"))

NO_SOURCE = "|"
"""``_sources`` of a row that no list has."""

UNKNOWN_SOURCE = "|unknown|"
"""``_sources`` of a row that was not brought by a scope. No load takes it away, so that the row stays."""


@dataclass(frozen=True, kw_only=True)
class ScopeState:
    """When the pulls of a scope that were loaded into a table began.

    :param loaded_at: the last pull.
    :param scanned_at: the last full scan by which missing rows were marked or deleted; ``None`` before the first.
    :param on_missing: what was done with them.
    """

    loaded_at: datetime
    scanned_at: datetime | None = None
    on_missing: OnMissing = OnMissing.KEEP


@dataclass(frozen=True, kw_only=True)
class Membership:
    """How a load takes part in the record of which list has which row.

    :param scope: its scope.
    :param began: when its pull began.
    :param state: what is known of the scope; ``None`` before the first load of it. Where `_limio_scopes` has nothing about it,
        the task's rows tell when it was last loaded.
    :param is_new: whether the table does not have the column ``_sources`` yet.
    :param marks: whether the table has, or gets, the column ``_deleted_at``.
    :param merges: whether rows are found by their keys, so that one that is not there may have been deleted.
    :param is_tied: whether the table has rows of another pull of the task that began in the same second.
    """

    scope: Scope
    began: datetime
    state: ScopeState | None
    is_new: bool
    marks: bool
    merges: bool = True
    is_tied: bool = False

    @property
    def source(self) -> str:
        """``_sources`` of a row that only this scope's list has."""
        return f"|{self.scope.digest}|"

    @property
    def is_superseded(self) -> bool:
        """Whether a later full scan of the scope was loaded: rows are in the list if that one found them, and not otherwise."""
        return self.merges and self.scanned_at is not None and self.began < self.scanned_at

    @property
    def scanned_at(self) -> datetime | None:
        """When the last full scan began by which missing rows were marked or deleted."""
        return None if self.state is None else self.state.scanned_at

    @property
    def is_latest(self) -> bool:
        """Whether every other pull of the scope that was loaded is older, so that rows that this one lacks are missing."""
        return not self.is_tied and (self.state is None or self.began >= self.state.loaded_at)

    def columns(self) -> tuple[MetadataColumn, ...]:
        """Return the metadata columns, with their values in rows that are inserted."""
        value = NO_SOURCE if self.is_superseded else self.source
        sources = MetadataColumn(name=SOURCES, kind=Kind.TEXT, value=value, updates=False)
        if not self.marks:
            return (sources,)
        deleted_at = self.scanned_at if self.is_superseded else None
        return sources, MetadataColumn(name=DELETED_AT, kind=Kind.TIMESTAMP, value=deleted_at, updates=False)

    def seen_by(self, scopes: Iterable[str], *, sources: str) -> str:
        """Return the condition that one of some scopes has a row.

        :param scopes: their digests.
        :param sources: the row's column ``_sources``, as SQL.
        """
        return any_of(f"{sources} LIKE '%|{digest}|%'" for digest in sorted(scopes))

    # -- SQL about a row ``t`` -------------------------------------------------------------------------------------

    def is_member(self, sources: str) -> str:
        """Return the condition that the scope's list has a row.

        :param sources: the row's column ``_sources``, as SQL.
        """
        return f"{sources} LIKE '%{self.source}%'"

    def is_not_member(self, sources: str) -> str:
        """Return the condition that it does not have it, or that nothing is known of the row."""
        return f"({sources} IS NULL OR {sources} NOT LIKE '%{self.source}%')"

    def is_only_member(self, sources: str) -> str:
        """Return the condition that no other list has the row."""
        return f"{sources} = '{self.source}'"

    def with_member(self, sources: str) -> str:
        """Return ``_sources`` with the scope."""
        added = f"coalesce({sources}, '{NO_SOURCE}') || '{self.scope.digest}|'"
        return f"CASE WHEN {self.is_member(sources)} THEN {sources} ELSE {added} END"

    def without_member(self, sources: str) -> str:
        """Return ``_sources`` without the scope."""
        return f"replace({sources}, '{self.source}', '{NO_SOURCE}')"

    def is_of_task(self, run_id: str) -> str:
        """Return the condition that the scope's task, or a mapped copy of it, has brought a row.

        :param run_id: the row's column ``_run_id``, as SQL.
        """
        task = self.scope.task.replace("'", "''")
        return f"(substr({run_id}, 1, {len(task) + 1}) IN ('{task}/', '{task}['))"

    def is_of_unmapped_task(self, run_id: str) -> str:
        """Return the condition that the scope's task has brought a row, and is not mapped."""
        task = self.scope.task.replace("'", "''")
        return f"(substr({run_id}, 1, {len(task) + 1}) = '{task}/')"


def find_membership(*, session: Session, table: TableName, target: Target) -> Membership | None:
    """Find out how a load has to take part; ``None`` if the table has no ``_sources`` and gets none.

    :raises LandingError: the table has a column of one of the names that is not of loads, or not only.
    """
    scope = target.scope
    if scope is None or not session.dialect.serializes_loads:
        return None
    same = session.dialect.same_name
    columns = {same(column.name): column for column in session.columns(table) or ()}
    wanted = target.on_missing is not OnMissing.KEEP
    sources, deleted_at = columns.get(same(SOURCES)), columns.get(same(DELETED_AT))
    ours = sources is not None and _is_ours(session=session, table=table, column=sources)
    if not wanted and not ours:
        return None
    if wanted and not ours and (foreign := sources or deleted_at) is not None:
        raise _foreign_column(foreign, table=table, on_missing=target.on_missing)
    membership = Membership(
        scope=scope,
        began=target.extracted_at,
        state=_read(session=session, table=table, scope=scope) if ours else None,
        is_new=not ours,
        marks=target.on_missing is OnMissing.MARK or (ours and deleted_at is not None),
        merges=target.mode not in (WriteMode.APPEND, WriteMode.REPLACE),
    )
    extracted_at = columns.get(same(EXTRACTED_AT))
    if same(RUN_ID) not in columns or extracted_at is None:
        return membership
    rows = _rows_of_task(session=session, table=table, membership=membership)
    if membership.state is None and (loaded_at := _last_pull(session=session, rows=rows)) is not None:
        membership = replace(membership, state=ScopeState(loaded_at=loaded_at))
    compares_times = extracted_at.kind is Kind.TIMESTAMP or not session.dialect.strict_types
    if membership.state is None or membership.state.loaded_at != membership.began or not compares_times:
        return membership
    return replace(membership, is_tied=_has_rival(session=session, rows=rows, target=target))


def check_free_columns(*, session: Session, table: TableName, on_missing: OnMissing) -> None:
    """Refuse a table whose columns cannot be those of loads, as far as that is known without looking at all rows.

    :raises LandingError: it has a column of one of the names that is not of loads.
    """
    same = session.dialect.same_name
    columns = {same(column.name): column for column in session.columns(table) or ()}
    sources, deleted_at = columns.get(same(SOURCES)), columns.get(same(DELETED_AT))
    if sources is None:
        foreign = deleted_at
    else:
        name = session.dialect.quote(sources.name)
        some = f"SELECT {name} FROM {session.dialect.qualified(table)} WHERE {name} IS NOT NULL LIMIT 1"
        foreign = None if all(str(value).startswith("|") for (value,) in session.query(some)) else sources
    if foreign is not None:
        raise _foreign_column(foreign, table=table, on_missing=on_missing)


def _foreign_column(column: TableColumn, *, table: TableName, on_missing: OnMissing) -> LandingError:
    return LandingError(
        f"{table}: the table has a column {column.name!r} that records or others have filled, and on_missing={on_missing} needs "
        f"it for itself; rename or drop the column; nothing was written"
    )


def record_load(*, session: Session, table: TableName, membership: Membership, scanned: OnMissing | None) -> None:
    """Note in ``_limio_scopes`` that a pull of the scope was loaded.

    :param scanned: what was done with missing rows; ``None`` if nothing was looked for.
    """
    state = membership.state or ScopeState(loaded_at=membership.began)
    state = replace(state, loaded_at=max(state.loaded_at, membership.began))
    if scanned is not None:
        state = replace(state, scanned_at=membership.began, on_missing=scanned)
    if not SCOPES.exists(session, table=table):
        SCOPES.create(session, table=table)
    elif membership.is_new:
        # Rows about a former table of the name.
        SCOPES.forget(session, table=table)
    SCOPES.put(
        session,
        table=table,
        key={"scope": membership.scope.digest},
        values={
            "loaded_at": stored_instant(state.loaded_at),
            "scanned_at": None if state.scanned_at is None else stored_instant(state.scanned_at),
            "on_missing": str(state.on_missing),
            "description": membership.scope.text,
        },
    )


def _read(*, session: Session, table: TableName, scope: Scope) -> ScopeState | None:
    columns = ("loaded_at", "scanned_at", "on_missing")
    found = SCOPES.read(session, table=table, columns=columns, where={"scope": scope.digest})
    if not found:
        return None
    loaded_at, scanned_at, on_missing = found[0]
    return ScopeState(
        loaded_at=read_instant(loaded_at),
        scanned_at=None if scanned_at is None else read_instant(scanned_at),
        on_missing=OnMissing(on_missing),
    )


def _rows_of_task(*, session: Session, table: TableName, membership: Membership) -> str:
    """Name the rows ``t`` that the task has written, for ``FROM``: those of this list, if the table knows that."""
    quote = session.dialect.quote
    conditions = [membership.is_of_task(f"t.{quote(RUN_ID)}")]
    if not membership.is_new:
        conditions.append(membership.is_member(f"t.{quote(SOURCES)}"))
    return f"{session.dialect.qualified(table)} AS t WHERE {all_of(conditions)}"


def _last_pull(*, session: Session, rows: str) -> datetime | None:
    """Return when the last pull began that has written some rows; None if there are none."""
    last = session.dialect.legible(f"max(t.{session.dialect.quote(EXTRACTED_AT)})")
    [(text,)] = session.query(f"SELECT {last} FROM {rows}")
    return newest_time(sort_keys(text_array([text])))


def _has_rival(*, session: Session, rows: str, target: Target) -> bool:
    """Return whether another pull has written some of the rows, and began when the target's did."""
    quote = session.dialect.quote
    rival = f"SELECT 1 FROM {rows} AND t.{quote(EXTRACTED_AT)} = {VALUE} AND t.{quote(RUN_ID)} <> {VALUE}"
    [(found,)] = session.query(f"SELECT CASE WHEN EXISTS ({rival}) THEN 1 ELSE 0 END", target.extracted_at, target.run_id)
    return bool(found)


def _is_ours(*, session: Session, table: TableName, column: TableColumn) -> bool:
    """Return whether loads have filled a column ``_sources``: nothing else is in it.

    The name of the table is not asked for, unless the column is empty: it may have been renamed.

    :raises LandingError: loads have filled it, and somebody has written something else into some rows.
    """
    if column.kind is not Kind.TEXT:
        return False
    name = f"t.{session.dialect.quote(column.name)}"
    like = f"{name} LIKE '|%' AND {name} LIKE '%|'"
    [(filled, ours)] = session.query(
        f"SELECT count({name}), coalesce(sum(CASE WHEN {like} THEN 1 ELSE 0 END), 0) FROM {session.dialect.qualified(table)} AS t"
    )
    others = int(filled) - int(ours)
    if others and int(ours) and _has_scopes(session=session, table=table):
        raise LandingError(
            f"{table}: {others} rows have something else in the column {column.name!r} than digests between bars, as in "
            f"|3f0c…|, so that it is not known which lists have them; correct them, or set them to null; nothing was written"
        )
    return not others and (bool(filled) or _has_scopes(session=session, table=table))


def _has_scopes(*, session: Session, table: TableName) -> bool:
    return bool(SCOPES.read(session, table=table, columns=("scope",)))
