# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Work on a ledger's database in a thread of its own, for a bounded time, and its errors in words without secrets."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from limio_limitrail.plugins.usage_page.settings import LedgerSetting

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from limio_limitrail.usage.ledger.overview import LedgerReader
    from limio_limitrail.usage.ledger.settlement import Settlements

log = logging.getLogger("limio_limitrail.plugins")

QUERY_SECONDS = 8.0
"""How long one query may take in the database."""

DUCKDB_WAIT = 3.0
"""Seconds to wait until another process closes a DuckDB file: somebody is waiting."""

GIVE_UP = 60.0
"""Seconds after which nobody waits any longer for work that has not ended: no driver limits how long a network may be silent."""

MAX_LOST = 3
"""How many works that nobody waits for may go on, of one ledger."""

T = TypeVar("T")


class PageError(Exception):
    """What the page shows instead of a part of it."""


class BusyError(PageError):
    """The work goes on; its result is not known yet."""


class SharedWork(Generic[T]):
    """Work that all who want its result at the same time share; a result is good for some seconds.

    :param seconds: how long a result is good for.
    """

    def __init__(self, work: Callable[[], T], *, seconds: float) -> None:
        self._work = work
        self._seconds = seconds
        self._lock = threading.Lock()
        self._future: Future[T] | None = None
        self._good_until = float("inf")
        self._give_up_at = float("inf")
        self._lost: list[Future[T]] = []

    def forget(self) -> None:
        """Do the work again for the next one who asks, also while it is being done."""
        with self._lock:
            self._future = None

    async def result(self, *, wait: float) -> T:
        """Return the result.

        :param wait: seconds to wait for it.
        :raises BusyError: it is not there yet; the work goes on, for whoever asks next.
        """
        with self._lock:
            is_old = self._future is not None and self._future.done() and time.monotonic() > self._good_until
            if self._future is None or is_old or self._is_lost(self._future):
                self._future = self._begin()
            future = self._future
        return await wait_for(future, wait=wait)

    def _is_lost(self, future: Future[T]) -> bool:
        """Return whether work hangs, and may be left alone: the database may answer again meanwhile."""
        self._lost = [one for one in self._lost if not one.done()]
        if future.done() or time.monotonic() < self._give_up_at or len(self._lost) >= MAX_LOST:
            return False
        self._lost.append(future)
        return True

    def _begin(self) -> Future[T]:
        def note(_: Future[T]) -> None:
            self._good_until = time.monotonic() + self._seconds

        self._good_until = float("inf")
        self._give_up_at = time.monotonic() + GIVE_UP
        future = begin(self._work)
        future.add_done_callback(note)
        return future


class Turn:
    """Lets one work run at a time. One that hangs for `GIVE_UP` seconds keeps nobody else from theirs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: object | None = None
        self._give_up_at = 0.0

    def take(self) -> Callable[[], None] | None:
        """Return what ends the turn; None if another work has it."""
        mine = object()
        with self._lock:
            if self._taken is not None and time.monotonic() < self._give_up_at:
                return None
            self._taken, self._give_up_at = mine, time.monotonic() + GIVE_UP

        def end() -> None:
            with self._lock:
                if self._taken is mine:
                    self._taken = None

        return end


def begin(work: Callable[[], T]) -> Future[T]:
    """Do work in a thread that keeps no process from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="limitrail-page", daemon=True).start()
    return future


async def wait_for(future: Future[T], *, wait: float) -> T:
    """Wait for work, without ending it.

    :raises BusyError: it has not ended within `wait` seconds.
    """
    try:
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), timeout=wait)
    except TimeoutError:
        if future.done():
            raise
        raise BusyError(f"The database did not answer within {wait:.0f} s. The work goes on: look again in a while") from None


@contextmanager
def open_reader(ledger: LedgerSetting) -> Iterator[LedgerReader]:
    """Open a ledger to read it.

    :raises PageError: it cannot be.
    """
    from limio_limitrail.landing.sql.persistent_connection import PersistentConnection
    from limio_limitrail.usage.ledger.overview import LedgerReader

    with explained(ledger):
        hook = _find(ledger)
        with closing(PersistentConnection(hook, duckdb_wait=DUCKDB_WAIT)) as database:
            reader = LedgerReader(
                database=database, table=ledger.ledger_table, changes_table=ledger.changes_table, seconds=QUERY_SECONDS
            )
            reader.require_ledger()
            yield reader


@contextmanager
def open_settlements(ledger: LedgerSetting) -> Iterator[Settlements]:
    """Open a ledger to settle its rows, as the operator and the command do.

    :raises PageError: it cannot be, or the decisions do not fit.
    """
    from limio_limitrail.usage import settling

    with (
        explained(ledger),
        settling.open_settlements(
            _find(ledger), ledger_table=ledger.ledger_table, changes_table=ledger.changes_table, duckdb_wait=DUCKDB_WAIT
        ) as found,
    ):
        yield found


def _find(ledger: LedgerSetting) -> DbApiHook:
    from limio_limitrail.hooks.databases import find_database

    hook = find_database(ledger.conn_id)
    if hook.conn_type == "duckdb":
        from limio_limitrail.landing.sql.duckdb_connect import database_path

        path = database_path(hook)
        if not path.startswith(("md:", "motherduck:")) and not Path(path).is_file():
            raise PageError(f"connection {ledger.conn_id!r}: the DuckDB file does not exist, or not on the API server's machine")
    return hook


@contextmanager
def explained(ledger: LedgerSetting) -> Iterator[None]:
    """Turn whatever goes wrong with a ledger into a `PageError`, whose text has neither credentials nor values of rows."""
    from limio_limitrail.api.errors import ParameterError
    from limio_limitrail.landing.sql.model import LandingError
    from limio_limitrail.troubleshooting import ExplainedError

    try:
        yield
    except PageError:
        raise
    except (LandingError, ExplainedError, ParameterError) as error:
        raise PageError(f"connection {ledger.conn_id!r}: {error}") from error
    except ImportError as error:
        missing = f" {error.name}" if error.name else ""
        raise PageError(
            f"connection {ledger.conn_id!r}: its driver{missing} is not installed in the API server's environment"
        ) from None
    except Exception as error:  # noqa: BLE001 - the API server goes on
        # Airflow has two classes of this name.
        if type(error).__name__ == "AirflowNotFoundException":
            raise PageError(f"there is no connection {ledger.conn_id!r} that the API server can see") from None
        # Such a text may hold anything.
        log.warning("The ledger of connection %s could not be read (%s).", ledger.conn_id, type(error).__name__)
        raise PageError(f"connection {ledger.conn_id!r} could not be used ({type(error).__name__})") from None
