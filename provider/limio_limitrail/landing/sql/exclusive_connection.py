# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A database that a task keeps open during its pull: rows are staged by one transaction, and loaded by the next one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from limio_limitrail.landing.sql.errors import during
from limio_limitrail.landing.sql.session import Session
from limio_limitrail.landing.sql.sessions import session_class

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook


class ExclusiveConnection:
    """A connection that keeps other processes out until it is closed. For one thread at a time.

    :param kind: the session for its transactions.
    :param hook: the connection's hook.
    :param connection: what `Session.hold` has returned.
    """

    def __init__(self, kind: type[Session], *, hook: DbApiHook, connection: Any) -> None:
        self._kind = kind
        self._hook = hook
        self._connection = connection
        self._transaction = ExitStack()
        self._session: Session | None = None

    @classmethod
    def open(cls, hook: DbApiHook) -> Self | None:
        """Open the database; ``None`` if others may use it at the same time, so that nothing has to be kept open.

        :raises LandingError: it cannot be opened; the cause is `Cause.TIMEOUT` while another process has it open.
        """
        kind = session_class(hook)
        # DuckDB refuses to open a file that another thread is closing.
        with kind.process_lock(hook):
            connection = kind.hold(hook)
        return None if connection is None else cls(kind, hook=hook, connection=connection)

    @contextmanager
    def staging(self, *, step: str) -> Iterator[Session]:
        """Begin or continue the transaction that stages rows; if anything is raised, all of it is undone.

        It does not keep the process's other threads from writing, as that of a load does: it lasts as long as the pull.
        """
        try:
            with during(step):
                if self._session is None:
                    session = self._kind(self._hook, self._connection)
                    self._session = self._transaction.enter_context(session.transaction())
                yield self._session
        except BaseException:
            self.roll_back()
            raise

    def commit(self) -> None:
        """Commit what is staged.

        :raises LandingError: the database refuses that; nothing is staged then.
        """
        self._session = None
        self._transaction.close()

    def roll_back(self) -> None:
        """Undo what is staged."""
        session, self._session = self._session, None
        if session is not None:
            session.roll_back()
            with suppress(Exception):
                session.restore_settings()
            # What it would commit is gone.
            self._transaction.pop_all()

    @contextmanager
    def loading(self, *, step: str) -> Iterator[Session]:
        """Run a transaction that finds what was staged; as `sessions.open_session` does."""
        session = self._kind(self._hook, self._connection)
        with during(step), self._kind.process_lock(self._hook), session.transaction():
            session.restore_settings()
            yield session

    def close(self) -> None:
        """Roll back what is not committed, and let others use the database."""
        self.roll_back()
        with suppress(Exception), self._kind.process_lock(self._hook):
            self._connection.close()
