# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What can be known of a load before the pull: an hour of pulling must not end at a name."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.dialect import Dialect, Equality, Session
from limio_limitrail.landing.sql.errors import DatabaseError
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.plan import loose_key
from limio_limitrail.landing.sql.sessions import database_name, refuse_unfit

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

log = logging.getLogger("limio_limitrail.landing.sql")


def check_target(*, hook: DbApiHook, table: str, primary_key: Sequence[str], max_columns: int) -> None:
    """Find out whether a table can be landed in, as far as that can be known without its rows.

    A database that cannot be looked at now is no reason to fail: it may be there when the pull has ended.

    :param hook: the connection.
    :param table: the table's name as the user wrote it.
    :param primary_key: the record keys by which rows are merged; none where they are not.
    :param max_columns: the columns that the pull may have.
    :raises LandingError: the table cannot be landed in, whatever comes.
    """
    name = database_name(hook)
    refuse_unfit(name)
    dialect = _dialect(name)
    try:
        found = dialect.table_name(table)
    except ValueError as wrong:
        raise LandingError(str(wrong)) from None
    if dialect.most_columns is not None and max_columns > dialect.most_columns:
        raise LandingError(f"max_columns={max_columns}: a table in {dialect.name} has {dialect.most_columns} columns at most")
    try:
        with _look(hook, name=name) as session:
            if session is None:
                return
            columns = session.columns(found) or ()
    except DatabaseError as refused:
        log.warning("The table %s could not be looked at before the pull, which begins all the same. %s", found, refused.what)
        return
    same = dialect.same_name
    keys = {same(key) for key in primary_key}
    for column in columns:
        if column.equality is Equality.LOOSE and same(column.name) in keys:
            raise loose_key(column, table=found)


def _dialect(name: str) -> Dialect:
    match name:
        case "duckdb":
            from limio_limitrail.landing.sql.duckdb import DUCKDB

            return DUCKDB
        case "postgresql":
            from limio_limitrail.landing.sql.postgres import POSTGRES

            return POSTGRES
        case "sqlite":
            from limio_limitrail.landing.sql.sqlite import SQLITE

            return SQLITE
        case _:
            from limio_limitrail.landing.sql.generic import STANDARD

            return STANDARD


@contextmanager
def _look(hook: DbApiHook, *, name: str) -> Iterator[Session | None]:
    """Open a session that changes nothing and waits for nobody; None where the database is not there yet, or is not known."""
    match name:
        case "postgresql":
            from limio_limitrail.landing.sql.postgres import PostgresSession, open_postgres

            connection = open_postgres(hook)
            try:
                yield PostgresSession(connection)
            finally:
                with suppress(Exception):
                    connection.close()
        case "sqlite":
            from limio_limitrail.landing.sql.sqlite import SqliteSession, open_sqlite

            lite = open_sqlite(hook)
            try:
                yield SqliteSession(lite, placeholder="?")
            finally:
                lite.close()
        case "duckdb":
            from limio_limitrail.landing.sql.duckdb import DuckSession, open_duckdb
            from limio_limitrail.landing.sql.duckdb_connect import database_path

            # To look is to lock the file: one that is not there yet is not made for that.
            if not Path(database_path(hook)).is_file():
                yield None
                return
            try:
                duck = open_duckdb(hook, wait=0.0)
            except LandingError:  # another process has it
                yield None
                return
            try:
                yield DuckSession(duck)
            finally:
                duck.close()
        case _:
            yield None
