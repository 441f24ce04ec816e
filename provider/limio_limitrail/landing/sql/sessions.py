# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which session goes with which connection."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.dialect import Session
from limio_limitrail.landing.sql.model import LandingError

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook


def database_name(hook: DbApiHook) -> str:
    """Name the kind of database behind a hook, as its dialects are called."""
    name = getattr(hook, "conn_type", "")
    return str(name if name == "duckdb" else hook.dialect_name)


def refuse_unfit(name: str) -> None:
    """Refuse the databases that rows could get lost in.

    :raises LandingError: the database is one of those that cannot tell every two keys apart.
    """
    if name in ("mysql", "mssql"):
        # Both take texts for equal that differ in case or in trailing blanks: rows would be lost.
        raise LandingError(
            f"{name} is not a database that a pull can be landed in; DuckDB, Postgres, SQLite and databases of standard SQL are"
        )


def open_session(hook: DbApiHook) -> AbstractContextManager[Session]:
    """Open the connection's database for one load: committed at the end, rolled back if anything is raised.

    :param hook: the connection.
    :raises LandingError: the database is one of those that cannot tell every two keys apart.
    """
    name = database_name(hook)
    refuse_unfit(name)
    match name:
        case "duckdb":
            from limio_limitrail.landing.sql.duckdb import duckdb_session

            return duckdb_session(hook)
        case "postgresql":
            from limio_limitrail.landing.sql.postgres import postgres_session

            return postgres_session(hook)
        case "sqlite":
            from limio_limitrail.landing.sql.sqlite import sqlite_session

            return sqlite_session(hook)
        case _:
            from limio_limitrail.landing.sql.generic import generic_session

            return generic_session(hook)
