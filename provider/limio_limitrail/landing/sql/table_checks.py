# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Checks of a table before a pull: whether it can be loaded into, and still has what earlier loads wrote."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from limio_limitrail.landing.arrow_tables import text_array
from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE, Equality, TableColumn
from limio_limitrail.landing.sql.errors import DatabaseError, during
from limio_limitrail.landing.sql.history import check_database, check_table
from limio_limitrail.landing.sql.metadata import EXTRACTED_AT, RUN_ID
from limio_limitrail.landing.sql.model import LandingError, OnMissing
from limio_limitrail.landing.sql.names import TableName, column_names
from limio_limitrail.landing.sql.plan import loose_key
from limio_limitrail.landing.sql.scopes import check_free_columns
from limio_limitrail.landing.sql.session import Session
from limio_limitrail.landing.sql.sessions import find_table, open_session, session_class
from limio_limitrail.landing.timestamps import newest_time, sort_keys

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

log = logging.getLogger("limio_limitrail.landing.sql")


def check_target(
    *,
    hook: DbApiHook,
    table: str,
    primary_key: Sequence[str],
    max_columns: int,
    history: bool,
    on_missing: OnMissing = OnMissing.KEEP,
) -> None:
    """Check whether a pull can be loaded into a table, as far as that is known without its rows.

    A database that cannot be reached now only causes a warning: it may be back when the pull has ended.

    :param hook: the connection.
    :param table: the table's name as the user wrote it.
    :param primary_key: the record keys by which rows are merged; empty without a merge.
    :param max_columns: the columns that the pull may have.
    :param history: whether versions are loaded, and not rows.
    :param on_missing: what happens to rows that the list no longer has.
    :raises LandingError: nothing can be loaded into the table.
    """
    kind = session_class(hook)
    dialect = kind.dialect
    name = find_table(table, dialect=dialect)
    if dialect.most_columns is not None and max_columns > dialect.most_columns:
        raise LandingError(f"max_columns={max_columns}: a table in {dialect.name} has {dialect.most_columns} columns at most")
    if history:
        check_database(dialect)
    try:
        with during(f"while inspecting {name}"):
            connection = kind.connect_to_inspect(hook)
            if connection is None:
                return
            with closing(connection):
                session = kind(hook, connection)
                columns = session.columns(name) or ()
                check_table(session=session, table=name, history=history, primary_key=primary_key)
                if on_missing is not OnMissing.KEEP and not history:
                    check_free_columns(session=session, table=name, on_missing=on_missing)
    except DatabaseError as refused:
        log.warning("The table %s could not be inspected before the pull, which starts anyway. %s", name, refused.what)
        return
    keys = {dialect.same_name(key) for key in primary_key}
    for column in columns:
        if column.equality is Equality.LOOSE and dialect.same_name(column.name) in keys:
            raise loose_key(column, table=name)


class Loss(StrEnum):
    """What happened to a table since it was loaded, in words that follow those about its watermark or its last load."""

    MISSING = "is not there"
    CHILD_MISSING = "lacks a child table"
    EMPTY = "is empty"
    OLDER = "has no row as new as that"
    REFILLED = "has no row from then or before: it was dropped or emptied, and filled again by others"


def find_loss(
    hook: DbApiHook, *, table: str, time_column: str | None, reached: datetime, loaded_at: datetime | None = None
) -> Loss | None:
    """Find out whether a table has lost its newest rows, or all of them; return ``None`` if nothing indicates it.

    :param table: the table, as the user wrote it.
    :param time_column: the record key whose newest value was `reached` once; ``None`` if the table does not have it unchanged.
    :param reached: a time that a row of the table had, or a later row.
    :param loaded_at: when a pull began whose rows went into the table; ``None`` if that is not known.
    :raises LandingError: the database cannot be reached or queried, or the name is not a table's.
    """
    with open_session(hook, step=f"while looking for lost rows of {table}") as session:
        name = find_table(table, dialect=session.dialect)
        columns = session.columns(name)
        if columns is None:
            return Loss.MISSING
        if not _any(session, name):
            return Loss.EMPTY
        quote = session.dialect.quote
        column = None if time_column is None else _instants(session, columns, key=time_column)
        if column is not None and not _any(session, name, f"{quote(column)} >= {VALUE}", reached):
            return Loss.OLDER
        same = session.dialect.same_name
        extracted = {same(column.name): column for column in columns}.get(same(EXTRACTED_AT))
        if loaded_at is None or extracted is None or extracted.kind is not Kind.TIMESTAMP:
            return None
        return None if _any(session, name, f"{quote(extracted.name)} <= {VALUE}", loaded_at) else Loss.REFILLED


def newest_of_runs(hook: DbApiHook, *, table: str, time_column: str) -> dict[str, datetime]:
    """Return the newest time that each run has in a table; runs without a time are left out. Raises as `find_loss` does.

    :param time_column: the record key of a column of instants.
    """
    with open_session(hook, step=f"while looking for the newest rows of {table}") as session:
        name = find_table(table, dialect=session.dialect)
        columns = session.columns(name) or ()
        same, quote = session.dialect.same_name, session.dialect.quote
        column = _instants(session, columns, key=time_column)
        if column is None or same(RUN_ID) not in {same(one.name) for one in columns}:
            return {}
        newest = session.dialect.legible(f"max({quote(column)})")
        found = session.query(f"SELECT {quote(RUN_ID)}, {newest} FROM {session.dialect.qualified(name)} GROUP BY {quote(RUN_ID)}")
    times = ((str(run), newest_time(sort_keys(text_array([text])))) for run, text in found)
    return {run: time for run, time in times if time is not None}


def has_rows_of(hook: DbApiHook, *, table: str, run_id: str) -> bool:
    """Return whether a table has rows of a run; raises as `find_loss` does."""
    return _any_run(hook, f"{{run}} = {VALUE}", run_id, table=table)


def has_rows_of_others(hook: DbApiHook, *, table: str, task: str, run_id: str) -> bool:
    """Return whether a table has rows of a task's other runs; raises as `find_loss` does.

    :param task: what the ids of its runs begin with.
    :param run_id: the run that does not count.
    """
    others = f"substr({{run}}, 1, {len(task)}) = {VALUE} AND {{run}} <> {VALUE}"
    return _any_run(hook, others, task, run_id, table=table)


def _any_run(hook: DbApiHook, condition: str, *values: str, table: str) -> bool:
    with open_session(hook, step=f"while looking for a run's rows in {table}") as session:
        name = find_table(table, dialect=session.dialect)
        columns = session.columns(name)
        same = session.dialect.same_name
        if columns is None or same(RUN_ID) not in {same(column.name) for column in columns}:
            return False
        run = session.dialect.exact(session.dialect.quote(RUN_ID), Kind.TEXT)
        return _any(session, name, condition.replace("{run}", run), *values)


def _instants(session: Session, columns: Sequence[TableColumn], *, key: str) -> str | None:
    """Return the column of a record key, if it has instants: how a text or a custom type compares is not known."""
    by_name = {column.name: column for column in columns}
    column = by_name.get(column_names([key], existing=by_name, same=session.dialect.same_name)[key])
    return column.name if column is not None and column.kind is Kind.TIMESTAMP else None


def _any(session: Session, table: TableName, condition: str = "1 = 1", *values: object) -> bool:
    # EXISTS stops at the first row.
    rows = f"SELECT 1 FROM {session.dialect.qualified(table)} WHERE {condition}"
    [(found,)] = session.query(f"SELECT CASE WHEN EXISTS ({rows}) THEN 1 ELSE 0 END", *values)
    return bool(found)
