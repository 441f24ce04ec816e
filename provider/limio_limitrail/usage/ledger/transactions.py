# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Transactions with retries, backoff and a bounded wait for locks."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, TypeVar

from limio_limitrail.landing.sql import persistent_connection as held
from limio_limitrail.landing.sql.dialect import Session
from limio_limitrail.landing.sql.errors import Cause, DatabaseError
from limio_limitrail.landing.sql.lock_holders import processes_holding, sessions_holding
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.usage.ledger.model import LedgerError, StoppedError
from limio_limitrail.usage.ledger.table import find_name

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.persistent_connection import PersistentConnection

log = logging.getLogger("limio_limitrail.usage.ledger")

T = TypeVar("T")

PAUSES = (0.3, 1.0, 2.0)
"""The backoff between the tries of a transaction, in seconds: outcomes must survive a restart of the database."""

LOCK_TIMEOUT = 40.0
"""Seconds to wait for a lock in all: less than the lease, so that a waiting worker does not count as dead."""

_INTERRUPTED = "Query interrupted"
"""DuckDB's error when a signal handler raises: Airflow's execution_timeout must not be retried as a database failure."""

_WAITS = (Cause.TIMEOUT, Cause.CONFLICT)


class LedgerLockedError(LandingError):
    """Another session kept the table locked for too long. The message names it; a retry continues."""


class Transactions:
    """Runs transactions on one table. Each may be repeated, also after a success that went unnoticed.

    :param table: the table, as the user wrote it.
    """

    def __init__(self, database: PersistentConnection, *, table: str) -> None:
        self._database = database
        self._table = table
        self._gave_up = False

    def run(
        self,
        step: Callable[[Session], T],
        *,
        pauses: Sequence[float] = PAUSES,
        at_once: Collection[Cause] = frozenset(),
    ) -> T:
        """Run a transaction.

        :param pauses: the backoff, in seconds, after failures that a retry may get past.
        :param at_once: causes that are not retried.
        :raises LedgerError: a privilege is missing, or the database is read-only.
        :raises LedgerLockedError: another session kept the table locked for too long.
        :raises LandingError: the database refused in every try.
        """
        return self._run(step, opened=lambda: self._database.transaction(), pauses=pauses, at_once=at_once)

    def read(self, step: Callable[[Session], T], *, pauses: Sequence[float] = PAUSES) -> T:
        """Run a read-only transaction; raises as `run` does."""
        return self._run(step, opened=lambda: self._database.reading(), pauses=pauses)

    def _run(
        self,
        step: Callable[[Session], T],
        *,
        opened: Callable[[], AbstractContextManager[Session]],
        pauses: Sequence[float],
        at_once: Collection[Cause] = frozenset(),
    ) -> T:
        began = time.monotonic()
        left = list(pauses)
        while True:
            tried = time.monotonic()
            try:
                with opened() as session:
                    result = step(session)
            except LedgerError:
                raise
            except Exception as error:
                if str(error) == _INTERRUPTED:
                    why = "interrupted while the ledger was written, most likely by the task's execution_timeout"
                    raise StoppedError(why) from error
                if isinstance(error, DatabaseError):
                    if error.cause in at_once:
                        raise
                    if self._is_permanent(error.cause):
                        raise LedgerError(f"the table {self._table} cannot be used as it must be: {error.what}") from error
                    if error.cause in _WAITS:
                        self._wait_for_lock(error, began=began, tried=tried)
                        continue
                if not left:
                    raise
                pause = left.pop(0)
                what = error.what if isinstance(error, LandingError) else type(error).__name__
                log.warning("The table %s could not be used (%s). Trying again in %.1f s.", self._table, what, pause)
                time.sleep(pause)
            else:
                self._gave_up = False
                return result

    def _is_permanent(self, cause: Cause) -> bool:
        """Return whether a cause lasts until a person acts; a read-only Postgres may be promoted."""
        return cause is Cause.RIGHTS or (cause is Cause.READ_ONLY and self._database.name in ("duckdb", "sqlite"))

    def _wait_for_lock(self, error: DatabaseError, *, began: float, tried: float) -> None:
        """Wait for a lock and log its holder; raise after `LOCK_TIMEOUT`."""
        if self._database.name == "duckdb" and error.cause is Cause.TIMEOUT:
            # DuckDB's own wait has ended, and has logged the holder.
            raise error
        waited = time.monotonic() - began
        end = " (SELECT pg_terminate_backend(...))" if self._database.name == "postgresql" else ""
        holders: list[str] = []
        if error.cause is Cause.TIMEOUT:
            holders = self._holders(waited=time.monotonic() - tried)
        who = f"held by {'; '.join(holders)}" if holders else "the holder is not known"
        # After one such wait the task is about to end, and must not wait for minutes more.
        if waited + held.LOCK_WAIT > LOCK_TIMEOUT or self._gave_up:
            self._gave_up = True
            if error.cause is Cause.CONFLICT:
                raise error
            raise LedgerLockedError(
                f"the table {self._table} is locked, {who}. Waited for {waited:.0f} s ({error.summary}). Let the holder finish, "
                f"or end it{end}; a retry then continues"
            ) from error
        if error.cause is Cause.CONFLICT:
            time.sleep(random.uniform(0.01, 0.3))  # nosec B311 # noqa: S311 - jitter
            return
        # A lock_timeout of the user's own may end each try sooner.
        time.sleep(max(0.0, min(1.0, held.LOCK_WAIT) - (time.monotonic() - tried)))
        log.warning(
            "The table %s is locked, %s; waited for %.0f s so far, and for %.0f s at most. (%s)",
            self._table,
            who,
            waited,
            LOCK_TIMEOUT,
            error.summary,
        )

    def _holders(self, *, waited: float) -> list[str]:
        if self._database.name == "sqlite" and self._database.file is not None:
            return processes_holding(self._database.file)
        if self._database.name != "postgresql":
            return []
        with suppress(LandingError), self._database.transaction() as session:
            table = find_name(self._table, dialect=session.dialect)
            return sessions_holding(session, table, waited=waited)
        return []
