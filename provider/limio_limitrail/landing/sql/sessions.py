# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which session a connection needs. The only module that imports those of the databases, each when it is needed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.sql.dialect import Dialect
from limio_limitrail.landing.sql.errors import during
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.session import Session

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from limio_limitrail.landing.sql.names import TableName


def database_name(hook: DbApiHook) -> str:
    """Return the kind of database behind a hook: ``duckdb``, or the hook's ``dialect_name``."""
    name = getattr(hook, "conn_type", "")
    return str(name if name == "duckdb" else hook.dialect_name)


def session_class(hook: DbApiHook) -> type[Session]:
    """Return the session for a hook's database.

    :raises LandingError: rows could get lost in the database.
    """
    name = database_name(hook)
    if name in ("mysql", "mssql"):
        # Both compare texts as equal that differ in case or in trailing blanks.
        raise LandingError(
            f"{name} is not a database that a pull can be loaded into; DuckDB, Postgres, SQLite and databases of standard SQL are"
        )
    return session_class_named(name)


def session_class_of(connection: Any) -> type[Session]:
    """Return the session for a driver's connection."""
    if isinstance(connection, sqlite3.Connection):  # of a class of the hook's own, too
        return session_class_named("sqlite")
    module = type(connection).__module__.partition(".")[0].lstrip("_")
    return session_class_named({"psycopg": "postgresql", "psycopg2": "postgresql"}.get(module, module))


def session_class_named(name: str) -> type[Session]:
    """Return the session for what `database_name` returns, whether pulls can be loaded into it or not."""
    match name:
        case "duckdb":
            from limio_limitrail.landing.sql.duckdb import DuckSession

            return DuckSession
        case "postgresql":
            from limio_limitrail.landing.sql.postgres import PostgresSession

            return PostgresSession
        case "sqlite":
            from limio_limitrail.landing.sql.sqlite import SqliteSession

            return SqliteSession
        case _:
            from limio_limitrail.landing.sql.generic import GenericSession

            return GenericSession


def find_table(text: str, *, dialect: Dialect) -> TableName:
    """Read a table's name as a user wrote it.

    :raises LandingError: it is none, or the database would change it.
    """
    try:
        return dialect.table_name(text)
    except ValueError as wrong:
        raise LandingError(str(wrong)) from None


def open_session(
    hook: DbApiHook, *, step: str, lock_wait: float | None = None, file_wait: float | None = None
) -> AbstractContextManager[Session]:
    """Open the database and one transaction: committed at the end, rolled back if anything is raised.

    :param step: what it is for, as in ``while loading analytics.orders``; messages say so.
    :param lock_wait: seconds to wait for a lock, where the database can limit that; ``None``: as long as a load does.
    :param file_wait: seconds to wait for another process that has the database's file open, likewise.
    :raises LandingError: rows could get lost in the database, it cannot be opened, or it refuses something.
    """
    return _open(session_class(hook), hook=hook, step=step, lock_wait=lock_wait, file_wait=file_wait)


@contextmanager
def _open(
    kind: type[Session], *, hook: DbApiHook, step: str, lock_wait: float | None, file_wait: float | None
) -> Iterator[Session]:
    # Closing rolls back whatever was not committed, on a broken connection too.
    with ExitStack() as stack:
        stack.enter_context(during(step))
        if lock_wait is None:  # else the transaction takes it
            stack.enter_context(kind.process_lock(hook))
        connection = stack.enter_context(closing(kind.connect(hook, wait=file_wait)))
        yield stack.enter_context(kind(hook, connection).transaction(lock_wait=lock_wait))
