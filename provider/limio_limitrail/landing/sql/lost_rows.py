# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whether a table still has what earlier loads wrote into it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.landing.sql.model import RUN_ID
from limio_limitrail.landing.sql.names import column_names
from limio_limitrail.landing.sql.sessions import find_table, open_session

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from limio_limitrail.landing.sql.dialect import Session
    from limio_limitrail.landing.sql.names import TableName


class Loss(StrEnum):
    """What happened to a table since it was loaded."""

    MISSING = "is not there"
    EMPTY = "is empty"
    OLDER = "has no row as new as that"


def find_loss(hook: DbApiHook, *, table: str, time_column: str | None, reached: datetime) -> Loss | None:
    """Find out whether a table has lost its newest rows; return ``None`` if nothing indicates it.

    :param table: the table, as the user wrote it.
    :param time_column: the record key whose newest value was `reached` once; ``None`` if the table does not have it unchanged.
    :param reached: a time that a row of the table had, or a later row.
    :raises LandingError: the database cannot be reached or queried, or the name is not a table's.
    """
    with open_session(hook, step=f"while looking for lost rows of {table}") as session:
        name = find_table(table, dialect=session.dialect)
        columns = session.columns(name)
        if columns is None:
            return Loss.MISSING
        if not _any(session, name):
            return Loss.EMPTY
        if time_column is None:
            return None
        by_name = {column.name: column for column in columns}
        names = column_names([time_column], existing=by_name, same=session.dialect.same_name)
        column = by_name.get(names[time_column])
        if column is None or column.kind is not Kind.TIMESTAMP:
            # How a text or a custom type compares is not known.
            return None
        found = _any(session, name, f"{session.dialect.quote(column.name)} >= {VALUE}", reached)
        return None if found else Loss.OLDER


def has_rows_of(hook: DbApiHook, *, table: str, run_id: str) -> bool:
    """Return whether a table has rows of a run; raises as `find_loss` does."""
    with open_session(hook, step=f"while looking for the run's rows in {table}") as session:
        name = find_table(table, dialect=session.dialect)
        columns = session.columns(name)
        same = session.dialect.same_name
        if columns is None or same(RUN_ID) not in {same(column.name) for column in columns}:
            return False
        return _any(session, name, f"{session.dialect.exact(session.dialect.quote(RUN_ID), Kind.TEXT)} = {VALUE}", run_id)


def _any(session: Session, table: TableName, condition: str = "1 = 1", *values: object) -> bool:
    # EXISTS stops at the first row.
    rows = f"SELECT 1 FROM {session.dialect.qualified(table)} WHERE {condition}"
    [(found,)] = session.query(f"SELECT CASE WHEN EXISTS ({rows}) THEN 1 ELSE 0 END", *values)
    return bool(found)
