# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Transactions with retries and a bounded wait for locks, and fallbacks for outcomes that a table does not accept."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from limio_limitrail.landing.sql import persistent_connection as held
from limio_limitrail.landing.sql.errors import Cause, DatabaseError
from limio_limitrail.landing.sql.lock_holders import processes_holding, sessions_holding
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.session import Session
from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.states import LedgerError, StoppedError
from limio_limitrail.usage.ledger.table import OUTCOME, find_name

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.persistent_connection import PersistentConnection

log = logging.getLogger("limio_limitrail.usage.ledger")

T = TypeVar("T")

PAUSES = (0.3, 1.0, 2.0)
"""The backoff between the tries of a transaction, in seconds."""

OUTAGE = 120.0
"""Seconds to wait for a database that has worked and is away: outcomes must survive its restart, or a failover to another one."""

_AWAY = (Cause.LOST, Cause.UNCERTAIN, Cause.UNREACHABLE, Cause.CONNECTIONS)

LOCK_TIMEOUT = 40.0
"""Seconds to wait for a lock in all: less than the lease, so that a waiting worker does not count as dead."""

_INTERRUPTED = "Query interrupted"
"""DuckDB's error when a signal handler raises: Airflow's execution_timeout must not be retried as a database failure."""

Write = Callable[[Mapping[str, Outcome]], int]
"""Writes outcomes, all or none; returns how many found their entries."""

_TEXTS = tuple(name for name in OUTCOME if name != "http_status")

_MAX_REFUSED = 8
"""After so many consecutive refusals of one form, the next smaller one is tried for the rest."""

_MAX_REFUSED_AT_FIRST = 4
"""The same while none is accepted in that form."""

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
        self._has_worked = False

    def run(self, step: Callable[[Session], T], *, at_once: Collection[Cause] = frozenset()) -> T:
        """Run a transaction, and retry it after failures that a retry may get past.

        :param at_once: causes that are not retried.
        :raises LedgerError: a privilege is missing, or the database is read-only.
        :raises LedgerLockedError: another session kept the table locked for too long.
        :raises LandingError: the database refused in every try.
        """
        return self._run(step, opened=lambda: self._database.transaction(), at_once=at_once)

    def read(self, step: Callable[[Session], T]) -> T:
        """Run a read-only transaction; raises as `run` does."""
        return self._run(step, opened=lambda: self._database.reading())

    def _run(
        self,
        step: Callable[[Session], T],
        *,
        opened: Callable[[], AbstractContextManager[Session]],
        at_once: Collection[Cause] = frozenset(),
    ) -> T:
        began = time.monotonic()
        left = list(PAUSES)
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
                    if error.cause is Cause.MOVED:
                        raise LedgerError(
                            f"the table {self._table} cannot be trusted: {error.what}. Rows that were sent stand in the former "
                            "file: put it back before the task runs again, or rows are sent twice"
                        ) from error
                    if self._is_permanent(error.cause):
                        raise LedgerError(f"the table {self._table} cannot be used as it must be: {error.what}") from error
                    if error.cause in _WAITS:
                        self._wait_for_lock(error, began=began, tried=tried)
                        continue
                pause = self._pause(error, left=left, waited=time.monotonic() - began)
                if pause is None:
                    raise
                what = error.what if isinstance(error, LandingError) else type(error).__name__
                log.warning("The table %s could not be used (%s). Trying again in %.1f s.", self._table, what, pause)
                time.sleep(pause)
            else:
                self._gave_up, self._has_worked = False, True
                return result

    def _pause(self, error: Exception, *, left: list[float], waited: float) -> float | None:
        """Return the seconds until the next try; None after the last one.

        :param left: the pauses that are left, of which one is taken.
        """
        if left:
            return left.pop(0)
        is_away = isinstance(error, DatabaseError) and error.cause in _AWAY
        # A database that does not work from the start is most likely not the right one. After one such wait the task is about to
        # end, and must not wait for minutes more.
        if not is_away or not self._has_worked or self._gave_up:
            return None
        if waited > OUTAGE:
            self._gave_up = True
            return None
        return max(PAUSES, default=0.0)

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


class UnwrittenError(LedgerError):
    """Not even the states of some rows could be written. All others are written.

    :ivar keys: the keys of those rows.
    """

    keys: frozenset[str] = frozenset()


def record_apart(outcomes: Mapping[str, Outcome], *, write: Write, table: str) -> int:
    """Write outcomes together; those that the table does not accept are reduced to what it accepts.

    :param write: raises a `DatabaseError` with `Cause.ROWS` where the table does not accept them.
    :returns: how many found their entries.
    :raises UnwrittenError: the table does not even accept the states of some rows.
    """
    bisection = _Bisection(write)
    left = bisection.write(outcomes)
    if not left:
        return bisection.found
    reduced, reason = len(left), bisection.refusals[-1].what
    example = next(iter(left))
    for form in _FORMS:
        if left:
            left = bisection.write_reduced({key: form(outcomes[key]) for key in left})
    if reduced > len(left):
        log.warning(
            "The table %s did not take %d outcomes as they are, such as that of %s (%s). Their states are written, and of the "
            "rest what it takes.",
            table,
            reduced - len(left),
            example,
            reason,
        )
    if left:
        key = next(iter(left))
        error = UnwrittenError(
            f"the table {table} does not take the states of {len(left)} rows, such as {outcomes[key].state} for {key} "
            f"({bisection.refusals[-1].what}). All others are written. Look for a constraint, a trigger or a type that "
            "somebody has given the ledger"
        )
        error.keys = frozenset(left)
        raise error
    return bisection.found


class _Bisection:
    """Writes outcomes by bisection, to separate those that the table accepts."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._consecutive_refusals = 0
        self.found = 0
        self.refusals: list[DatabaseError] = []

    def write(self, outcomes: Mapping[str, Outcome], *, max_refused: int | None = None) -> dict[str, Outcome]:
        """Write what is accepted, and return the rest."""
        if not outcomes or (max_refused is not None and self._consecutive_refusals >= max_refused):
            return dict(outcomes)
        try:
            self.found += self._write(outcomes)
        except DatabaseError as refused:
            if refused.cause is not Cause.ROWS:
                raise
            self.refusals.append(refused)
        else:
            self._consecutive_refusals = 0
            return {}
        if len(outcomes) == 1:
            self._consecutive_refusals += 1
            return dict(outcomes)
        keys = list(outcomes)
        middle = len(keys) // 2
        left: dict[str, Outcome] = {}
        for half in (keys[:middle], keys[middle:]):
            left |= self.write({key: outcomes[key] for key in half}, max_refused=max_refused)
        return left

    def write_reduced(self, outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
        """Do the same with a form that may not be accepted at all: single outcomes are tried first."""
        keys = list(outcomes)
        for at, key in enumerate(keys[:_MAX_REFUSED_AT_FIRST], start=1):
            if not self.write({key: outcomes[key]}):
                left = self.write({key: outcomes[key] for key in keys[at:]}, max_refused=_MAX_REFUSED)
                return {key: outcomes[key] for key in keys[: at - 1]} | left
        return dict(outcomes)


def _reduced(outcome: Outcome, *, length: int | None = None, without: Collection[str] = ()) -> Outcome:
    texts: dict[str, Any] = {
        name: None if name in without else value.encode("ascii", errors="replace").decode()[:length]
        for name in _TEXTS
        if (value := getattr(outcome, name)) is not None
    }
    return msgspec.structs.replace(outcome, **texts)


_FORMS: tuple[Callable[[Outcome], Outcome], ...] = (
    _reduced,
    partial(_reduced, length=100),
    partial(_reduced, length=20),
    *(partial(_reduced, without=(name,)) for name in _TEXTS),
    partial(_reduced, without=_TEXTS),
    lambda outcome: Outcome(state=outcome.state),
)
"""The forms to try in turn: ASCII texts, shorter texts, one text less, no texts, the state alone."""
