# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A database that is kept open for many small transactions, instead of being opened for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.sql.dialect import Session
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, connected
from limio_limitrail.landing.sql.sessions import database_name, refuse_unfit

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

LOCK_WAIT = 5.0
"""Seconds that one transaction waits for a lock, where the database can be told."""

IDLE_LIMIT = 20.0
"""Seconds after which Postgres ends a transaction whose process does not go on: it was stopped, or its machine is gone. Others
wait for its locks, and it has nothing to do in between that takes a second."""


class PersistentConnection:
    """A connection that stays open, and is made anew after something went wrong with it. For one thread.

    :param hook: the connection's hook.
    :param duckdb_wait: seconds to wait for another process to let go of a DuckDB file, which is then held until `close`.
    :raises LandingError: the database is one of those that cannot tell every two keys apart.
    """

    def __init__(self, hook: DbApiHook, *, duckdb_wait: float) -> None:
        self.hook = hook
        self.name = database_name(hook)
        self.file: Path | None = None
        """The file of a database that is one, once it has been opened."""
        self._duckdb_wait = duckdb_wait
        self._connection: Any = None
        self._at_close: list[Callable[[], None]] = []
        refuse_unfit(self.name)

    @property
    def is_exclusive(self) -> bool:
        """True where no other process can have the database open at the same time; known once it has been opened."""
        return (self.name == "duckdb" and self.file is not None) or (self.name == "sqlite" and self.file is None)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a transaction: committed at the end, rolled back if anything is raised.

        :raises LandingError: the database refused something, a lock was waited for too long, or it could not be opened.
        """
        with self._opened(self._begin()) as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a transaction that only reads, and keeps no writer waiting.

        :raises LandingError: as `transaction` does.
        """
        with self._opened(self._begin(sqlite="BEGIN DEFERRED")) as session:
            yield session

    def at_close(self, call: Callable[[], None]) -> None:
        """Have something called when the database is closed for good."""
        self._at_close.append(call)

    def close(self) -> None:
        """Close the connection, if it is open."""
        self._drop()
        while self._at_close:
            self._at_close.pop()()

    @contextmanager
    def _opened(self, begin: Callable[[Any], AbstractContextManager[Session]]) -> Iterator[Session]:
        if self._connection is None:
            self._connection = self._connect()
            self.file = self.file or self._find_file()
        try:
            with begin(self._connection) as session:
                yield session
        except BaseException as error:
            if isinstance(error, DatabaseError) and error.cause is Cause.ROWS:
                raise
            # Whether the connection is any good after this is not known.
            self._drop()
            raise

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()

    def _find_file(self) -> Path | None:
        """Find the file of the open database; none where it is a server's, or in memory."""
        if self.name == "sqlite":
            [path] = (path for _, name, path in self._connection.execute("PRAGMA database_list") if name == "main")
            return Path(path) if path else None
        if self.name != "duckdb":
            return None
        from limio_limitrail.landing.sql.duckdb_connect import database_path

        database = database_path(self.hook)
        return None if database.startswith("md:") else Path(database).resolve()

    def _connect(self) -> Any:
        if self.name == "duckdb":
            from limio_limitrail.landing.sql.duckdb import open_duckdb

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

    def _begin(self, *, sqlite: str = "BEGIN IMMEDIATE") -> Callable[[Any], AbstractContextManager[Session]]:
        match self.name:
            case "duckdb":
                from limio_limitrail.landing.sql.duckdb import duckdb_transaction

                return lambda connection: duckdb_transaction(self.hook, connection, lock_wait=self._duckdb_wait)
            case "postgresql":
                from limio_limitrail.landing.sql.postgres import postgres_transaction

                limits = (
                    f"; SET LOCAL lock_timeout = {int(1000 * LOCK_WAIT)}"
                    f"; SET LOCAL idle_in_transaction_session_timeout = {int(1000 * IDLE_LIMIT)}"
                )
                return lambda connection: postgres_transaction(connection, limits=limits)
            case "sqlite":
                from limio_limitrail.landing.sql.sqlite import sqlite_transaction

                return lambda connection: sqlite_transaction(connection, lock_wait=LOCK_WAIT, begin=sqlite)
            case _:
                from limio_limitrail.landing.sql.generic import generic_transaction

                return lambda connection: generic_transaction(self.hook, connection)
