# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Transactions that are made again while there is hope, and that wait for nobody in vain."""

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
"""Seconds between the tries of a transaction: a database that restarts must not cost what the API has answered."""

PATIENCE = 40.0
"""Seconds that a lock is waited for in all: less than the lease, so that whoever waits is not taken for dead."""

_INTERRUPTED = "Query interrupted"
"""What DuckDB makes of whatever a signal handler raises while it works: Airflow's execution_timeout must not be taken for a
failure of the database, and tried again."""

_WAITS = (Cause.TIMEOUT, Cause.CONFLICT)


class LedgerLockedError(LandingError):
    """Another session kept the table locked for too long. The message names it; a retry goes on."""


class Transactions:
    """Transactions about one table. Each may be made again, also where it had succeeded unnoticed.

    :param database: where the table is.
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
        readers: bool = False,
    ) -> T:
        """Run a transaction.

        :param pauses: seconds between the tries of one that fails for no reason that is known to last.
        :param at_once: causes that no further try will mend.
        :param readers: True where the step waits for those who only read, too.
        :raises LedgerError: a right is missing, or the database can only be read.
        :raises LedgerLockedError: another session kept the table locked for too long.
        :raises LandingError: the database refused in every try.
        """
        return self._run(step, opened=lambda: self._database.transaction(), pauses=pauses, at_once=at_once, readers=readers)

    def read(self, step: Callable[[Session], T], *, pauses: Sequence[float] = PAUSES) -> T:
        """Run a transaction that only reads; raises as `run` does."""
        return self._run(step, opened=lambda: self._database.reading(), pauses=pauses)

    def _run(
        self,
        step: Callable[[Session], T],
        *,
        opened: Callable[[], AbstractContextManager[Session]],
        pauses: Sequence[float],
        at_once: Collection[Cause] = frozenset(),
        readers: bool = False,
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
                    if self._lasts(error.cause):
                        raise LedgerError(f"the table {self._table} cannot be used as it must be: {error.what}") from error
                    if error.cause in _WAITS:
                        self._wait(error, began=began, tried=tried, readers=readers)
                        continue
                if not left:
                    raise
                pause = left.pop(0)
                told = error.what if isinstance(error, LandingError) else type(error).__name__
                log.warning("The table %s could not be used (%s). Trying again in %.1f s.", self._table, told, pause)
                time.sleep(pause)
            else:
                self._gave_up = False
                return result

    def _lasts(self, cause: Cause) -> bool:
        """Tell whether a cause stays until a person has changed something; a Postgres that can only be read may be promoted."""
        return cause is Cause.RIGHTS or (cause is Cause.READ_ONLY and self._database.name in ("duckdb", "sqlite"))

    def _wait(self, error: DatabaseError, *, began: float, tried: float, readers: bool) -> None:
        """Say who is in the way, and return if the transaction is to be made again."""
        if self._database.name == "duckdb" and error.cause is Cause.TIMEOUT:
            # It has waited, and said for whom.
            raise error
        waited = time.monotonic() - began
        end = " (SELECT pg_terminate_backend(...))" if self._database.name == "postgresql" else ""
        holders: list[str] = []
        if error.cause is Cause.TIMEOUT:
            holders = self._holders(waited=time.monotonic() - tried, readers=readers)
        who = f"held by {'; '.join(holders)}" if holders else "by whom is not known"
        # Whoever has waited in vain is about to end, and must not do so for minutes.
        if waited + held.LOCK_WAIT > PATIENCE or self._gave_up:
            self._gave_up = True
            if error.cause is Cause.CONFLICT:
                raise error
            raise LedgerLockedError(
                f"the table {self._table} is locked, {who}. It was waited for for {waited:.0f} s ({error.summary}). Let whoever "
                f"holds it finish, or end it{end}; a retry then goes on"
            ) from error
        if error.cause is Cause.CONFLICT:
            time.sleep(random.uniform(0.01, 0.3))  # nosec B311 # noqa: S311 - so that those who met do not meet again
            return
        # A limit of the user's own may end each try sooner.
        time.sleep(max(0.0, min(1.0, held.LOCK_WAIT) - (time.monotonic() - tried)))
        log.warning(
            "The table %s is locked, %s; waited for %.0f s so far, and for %.0f s at most. (%s)",
            self._table,
            who,
            waited,
            PATIENCE,
            error.summary,
        )

    def _holders(self, *, waited: float, readers: bool) -> list[str]:
        if self._database.name == "sqlite" and self._database.file is not None:
            return processes_holding(self._database.file)
        if self._database.name != "postgresql":
            return []
        with suppress(LandingError), self._database.transaction() as session:
            table = find_name(self._table, dialect=session.dialect)
            return sessions_holding(session, table, waited=waited, readers=readers)
        return []
