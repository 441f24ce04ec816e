# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A database that is kept open for many small transactions, instead of being opened for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.sql.dialect import Session
from limio_limitrail.landing.sql.errors import connected
from limio_limitrail.landing.sql.sessions import database_name, refuse_unfit

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook


class HeldDatabase:
    """A connection that stays open, and is made anew after something went wrong with it. For one thread.

    :param hook: the connection's hook.
    :param duckdb_wait: seconds to wait for another process to let go of a DuckDB file, which is then held until `close`.
    :raises LandingError: the database is one of those that cannot tell every two keys apart.
    """

    def __init__(self, hook: DbApiHook, *, duckdb_wait: float) -> None:
        self.hook = hook
        self.name = database_name(hook)
        self._duckdb_wait = duckdb_wait
        self._connection: Any = None
        refuse_unfit(self.name)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a transaction: committed at the end, rolled back if anything is raised.

        :raises LandingError: the database refused something, or could not be opened.
        """
        if self._connection is None:
            self._connection = self._connect()
        try:
            with self._begin()(self._connection) as session:
                yield session
        except BaseException:
            # Whether the connection is any good after this is not known.
            self.close()
            raise

    def close(self) -> None:
        """Close the connection, if it is open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()

    def _connect(self) -> Any:
        if self.name == "duckdb":
            from limio_limitrail.landing.sql.duck import open_duckdb

            return open_duckdb(self.hook, wait=self._duckdb_wait)
        match self.name:
            case "postgresql":
                from limio_limitrail.landing.sql.postgres import open_postgres

                return open_postgres(self.hook)
            case "sqlite":
                from limio_limitrail.landing.sql.sqlite import open_sqlite

                return open_sqlite(self.hook)
            case _:
                return connected(self.hook, name="the database")

    def _begin(self) -> Callable[[Any], AbstractContextManager[Session]]:
        match self.name:
            case "duckdb":
                from limio_limitrail.landing.sql.duck import duckdb_transaction

                return lambda connection: duckdb_transaction(self.hook, connection)
            case "postgresql":
                from limio_limitrail.landing.sql.postgres import postgres_transaction

                return postgres_transaction
            case "sqlite":
                from limio_limitrail.landing.sql.sqlite import sqlite_transaction

                return sqlite_transaction
            case _:
                from limio_limitrail.landing.sql.generic import generic_transaction

                return lambda connection: generic_transaction(self.hook, connection)
