# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A connection that stays open for many small transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.sql.errors import Cause, DatabaseError, moved_file
from limio_limitrail.landing.sql.open_file import identity
from limio_limitrail.landing.sql.session import Session
from limio_limitrail.landing.sql.sessions import database_name, session_class

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

LOCK_WAIT = 5.0
"""Seconds that one transaction waits for a lock, where the database can limit that."""

IDLE_LIMIT = 20.0
"""Seconds after which Postgres ends a transaction without statements: its process was stopped, or its machine is gone, and
others wait for its locks. No transaction pauses for a second."""


class PersistentConnection:
    """A connection that stays open, and is replaced after an error, but never by one to another file. For one thread.

    :param hook: the connection's hook.
    :param duckdb_wait: seconds to wait for another process that has a DuckDB file open; the file then stays open until `close`.
    :raises LandingError: rows could get lost in the database.
    """

    def __init__(self, hook: DbApiHook, *, duckdb_wait: float) -> None:
        self.hook = hook
        self.name = database_name(hook)
        self.file: Path | None = None
        """The database's file, if it has one, once it has been opened."""
        self._duckdb_wait = duckdb_wait
        self._class = session_class(hook)
        self._connection: Any = None
        self._file_identity: tuple[int, int] | None = None
        self._at_close: list[Callable[[], None]] = []

    @property
    def is_exclusive(self) -> bool:
        """Whether no other process can have the database open at the same time; known once it has been opened."""
        return (self.name == "duckdb" and self.file is not None) or (self.name == "sqlite" and self.file is None)

    def transaction(self) -> AbstractContextManager[Session]:
        """Run a transaction: committed at the end, rolled back if anything is raised.

        :raises LandingError: the database cannot be opened or refuses something, or a lock was waited for too long.
        """
        return self._transaction(read_only=False)

    def reading(self) -> AbstractContextManager[Session]:
        """Run a transaction that only reads, and blocks no writer; raises as `transaction` does."""
        return self._transaction(read_only=True)

    def at_close(self, call: Callable[[], None]) -> None:
        """Register a call for when the database is closed."""
        self._at_close.append(call)

    def close(self) -> None:
        """Close the connection, if it is open."""
        self._drop()
        while self._at_close:
            self._at_close.pop()()

    @contextmanager
    def _transaction(self, *, read_only: bool) -> Iterator[Session]:
        if self._connection is None:
            self._connection = self._class.connect(self.hook, wait=self._duckdb_wait)
            self._note_file()
        lock_wait = self._duckdb_wait if self.name == "duckdb" else LOCK_WAIT
        try:
            session = self._class(self.hook, self._connection)
            with session.transaction(lock_wait=lock_wait, idle_limit=IDLE_LIMIT, read_only=read_only):
                yield session
        except BaseException as error:
            if isinstance(error, DatabaseError) and error.cause is Cause.ROWS:
                raise
            # The connection may be broken.
            self._drop()
            raise

    def _note_file(self) -> None:
        """Note which file was opened, and refuse another one later, which lacks what was written since then."""
        self.file = self.file or self._class(self.hook, self._connection).file()
        found = None if self.file is None else identity(self.file)
        if self._file_identity is not None and found != self._file_identity:
            self._drop()
            assert self.file is not None
            raise moved_file(self.file)
        self._file_identity = found

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()
