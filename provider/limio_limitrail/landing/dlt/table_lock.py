# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One load at a time into a table of a warehouse, where the warehouse can hold a lock while dlt comes and goes."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from limio_limitrail.landing.dlt.errors import DltError

log = logging.getLogger("limio_limitrail.landing.dlt")

LOCK_WAIT = 600.0
"""Seconds that a load waits for another one."""

_IN_USE = re.compile("could not set lock on file|being used by another process", re.IGNORECASE)
_TRY_LOCK: Mapping[str, str] = {
    # A pooler that shares sessions would leave a session's lock with whoever gets the session next, but keeps transactions apart.
    "postgres": "SET LOCAL idle_in_transaction_session_timeout = 0; SELECT pg_try_advisory_xact_lock({number})",
    "mysql": "SELECT GET_LOCK('limio_limitrail {number}', 0)",
}
"""What takes a lock for the rest of a session, in Postgres of a transaction, and returns whether it has it."""

_LONGEST_PAUSE = 5.0
_LOG_EVERY = 30.0


@dataclass(frozen=True, kw_only=True)
class LoadLocks:
    """The locks of a load, which end with it.

    :param sql: dlt's connection that holds them.
    :param kind: what the database is, as `target.database_kind` calls it.
    """

    sql: Any
    kind: str

    def lock_dataset(self, dataset: str) -> None:
        """Lock a dataset; DuckDB's lock is that of the file.

        :raises DltError: another load has held it for `LOCK_WAIT` seconds.
        """
        self.take(f"dataset {dataset}")

    def take(self, name: str) -> None:
        """Take a lock; see `lock_dataset`."""
        statement = _TRY_LOCK.get(self.kind)
        if statement is None:
            return
        digest = hashlib.sha256(f"limio_limitrail:{name}".encode()).digest()
        number = int.from_bytes(digest[:8], "big", signed=True)
        waited = _Wait(name)
        # Not a lock that waits in the server: it would hold up what Airflow does to end the task.
        while not self.sql.execute_sql(statement.format(number=number))[0][0]:
            waited.pause()


@contextmanager
def one_load_at_a_time(client: Any, *, kind: str, table: str) -> Iterator[LoadLocks]:
    """Hold the lock of a table, with a connection of its own; in DuckDB that of the file.

    Other warehouses have no such lock: there the tasks of a table need an Airflow pool of one slot.

    :param client: dlt's client of the destination; it is connected meanwhile.
    :param kind: as for `LoadLocks`.
    :param table: the table with its dataset.
    :raises DltError: another load has held it for `LOCK_WAIT` seconds.
    """
    sql = client.sql_client
    _connect(sql, waits=kind == "duckdb", table=table)
    try:
        with _lock_holder(sql, kind=kind) as holder:
            load_locks = LoadLocks(sql=holder, kind=kind)
            load_locks.take(table)
            yield load_locks
    finally:
        # Ends the session, and with it the lock.
        sql.close_connection()


@contextmanager
def _lock_holder(sql: Any, *, kind: str) -> Iterator[Any]:
    """Return the connection for the locks: in Postgres one whose only transaction they are."""
    if kind != "postgres":
        yield sql
        return
    holder = type(sql)(sql.dataset_name, sql.staging_dataset_name, sql.credentials, sql.capabilities)
    holder.open_connection()
    try:
        holder.native_connection.autocommit = False
        yield holder
    finally:
        holder.close_connection()


def locks(kind: str) -> bool:
    """Return whether loads into one table of such a database wait for each other."""
    return kind in ("duckdb", *_TRY_LOCK)


def _connect(sql: Any, *, waits: bool, table: str) -> None:
    waited = _Wait(table)
    while True:
        try:
            sql.open_connection()
        except Exception as error:
            if not waits or not _IN_USE.search(str(error)):
                raise
        else:
            return
        waited.pause()


class _Wait:
    """Waits for another load, and logs that it does."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._start = time.monotonic()
        self._logged = -_LOG_EVERY
        self._pause = 0.2

    def pause(self) -> None:
        """Wait a little.

        :raises DltError: it has been long enough.
        """
        waited = time.monotonic() - self._start
        if waited > LOCK_WAIT:
            raise DltError(
                f"another load into {self._table}, or another program with the same DuckDB file, has not ended for "
                f"{LOCK_WAIT:.0f} seconds; nothing was written. A retry goes on from the finished parts; give the tasks of this "
                "table one pool slot"
            )
        if waited - self._logged >= _LOG_EVERY:
            self._logged = waited
            log.info("Another load has %s; waiting up to %.0f seconds for it.", self._table, LOCK_WAIT - waited)
        time.sleep(self._pause)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
