# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whether a table still holds what earlier loads put into it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.landing.sql.model import RUN_ID, LandingError
from limio_limitrail.landing.sql.names import column_names, table_name
from limio_limitrail.landing.sql.sessions import open_session

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
    """Find out whether a table has lost its newest rows; None where nothing speaks for it.

    :param table: the table, as the user writes it.
    :param time_column: the record key whose newest value was `reached` once; None where the table does not hold it as it came.
    :param reached: a time that a row of the table had, or a later row.
    :raises LandingError: the database cannot be reached or asked, or the name is no table's.
    """
    with open_session(hook) as session:
        name = _name(table, session=session)
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
            # Of a text, or of a type of the user's own, nobody knows how it compares.
            return None
        found = _any(session, name, f"{session.dialect.quote(column.name)} >= {VALUE}", reached)
        return None if found else Loss.OLDER


def has_rows_of(hook: DbApiHook, *, table: str, run_id: str) -> bool:
    """Tell whether a table holds rows of a run.

    :raises LandingError: as in `find_loss`.
    """
    with open_session(hook) as session:
        name = _name(table, session=session)
        columns = session.columns(name)
        same = session.dialect.same_name
        if columns is None or same(RUN_ID) not in {same(column.name) for column in columns}:
            return False
        return _any(session, name, f"{session.dialect.exact(session.dialect.quote(RUN_ID), Kind.TEXT)} = {VALUE}", run_id)


def _name(table: str, *, session: Session) -> TableName:
    try:
        return table_name(table, fold=session.dialect.fold)
    except ValueError as wrong:
        raise LandingError(str(wrong)) from None


def _any(session: Session, table: TableName, condition: str = "1 = 1", *values: object) -> bool:
    """Tell whether there is a row; EXISTS looks no further than the first."""
    rows = f"SELECT 1 FROM {session.dialect.qualified(table)} WHERE {condition}"
    [(found,)] = session.query(f"SELECT CASE WHEN EXISTS ({rows}) THEN 1 ELSE 0 END", *values)
    return bool(found)
