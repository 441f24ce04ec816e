# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""DuckDB's file: one process may write it, and the others wait."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING

from limio_limitrail.addresses import mask_credentials, without_credentials
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, Refusal
from limio_limitrail.landing.sql.lock_holders import process
from limio_limitrail.landing.sql.model import LandingError

if TYPE_CHECKING:
    import duckdb
    from airflow.providers.common.sql.hooks.sql import DbApiHook

log = logging.getLogger("limio_limitrail.landing.sql")

BIRTH_WAIT = 10.0
"""Seconds that a load waits for a file that is no database: another process may be about to make it one."""

_SETTINGS = {"memory_limit": "max_memory", "threads": "worker_threads", "preserve_insertion_order": ""}
"""Settings, and what else DuckDB calls them."""

_HELD = re.compile("could not set lock on file|being used by another process", re.IGNORECASE)
"""What DuckDB says while another process has the file, in Linux and in Windows; a path or a damaged block may say lock, too."""

_HOLDER = re.compile(r"\(PID (\d+)\)")
"""Where DuckDB says who that is."""

_RIGHTS = re.compile("Permission denied|Read-only file system|read-only mode", re.IGNORECASE)

TELL_EVERY = 5.0
"""Seconds after which it is said again who is waited for."""

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0


def database_path(hook: DbApiHook) -> str:
    """Return the database's file, or the name of MotherDuck's database, without the token that may stand behind it.

    :raises LandingError: the connection names none, or may not write.
    """
    database = str(hook.get_database())
    if database.startswith(("md:", "motherduck:")):
        database = without_credentials(database)
    if getattr(hook, "read_only", False):
        raise DatabaseError(Refusal(told="the DuckDB connection is read-only", cause=Cause.READ_ONLY))
    if database in ("", ":memory:"):
        raise LandingError(
            "the DuckDB connection names no file, so all that is written would be gone when the task ends; "
            "put the database's path into the connection's host"
        )
    return database


def free_settings(hook: DbApiHook) -> frozenset[str]:
    """Give the settings that a load may choose, because the connection says nothing of them: none where it limits the memory."""
    given = {str(name).lower() for name in getattr(hook, "get_connect_config", dict)()}
    chosen = {name for name, also in _SETTINGS.items() if not given.isdisjoint((name, also))}
    return frozenset() if "memory_limit" in chosen else frozenset(_SETTINGS.keys() - chosen)


def opened(hook: DbApiHook, *, wait: float) -> duckdb.DuckDBPyConnection:
    """Open the database's file, waiting for other processes to let go of it.

    :param wait: seconds to wait for that.
    :raises LandingError: the connection names no lasting database, it cannot be opened, or another process keeps the file.
        That one is named, with the cause `Cause.TIMEOUT`.
    """
    file = without_credentials(database_path(hook))
    start = time.monotonic()
    told_at: float | None = None
    pause = _FIRST_PAUSE
    while True:
        found = _try_to_open(hook)
        if not isinstance(found, str):
            return found
        message = found
        file_being_created = "not a valid DuckDB database" in message
        if not file_being_created and not _HELD.search(message):
            if _RIGHTS.search(message):
                raise DatabaseError(Refusal(told=f"DuckDB cannot open {file}", words=message, cause=Cause.READ_ONLY))
            raise LandingError(f"DuckDB cannot open {file}: {message}")
        if file_being_created and time.monotonic() + pause > start + BIRTH_WAIT:
            raise LandingError(f"the file {file} is not a DuckDB database")
        if time.monotonic() + pause > start + wait:
            raise DatabaseError(
                Refusal(
                    told=f"another process has had the DuckDB file {file} open for {wait:.0f} seconds{_named(message)}",
                    words="DuckDB lets one process write, and none read meanwhile: close the other program, or give the tasks "
                    "that use this file one pool slot",
                    cause=Cause.TIMEOUT,
                )
            )
        if told_at is None or time.monotonic() - told_at >= TELL_EVERY:
            told_at = time.monotonic()
            log.info(
                "Another process has the DuckDB file %s open; waiting up to %.0f seconds for it%s",
                file,
                wait - (told_at - start),
                _named(message),
            )
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


@raises_bare
def _try_to_open(hook: DbApiHook) -> duckdb.DuckDBPyConnection | str:
    """Open the database; return what DuckDB says where it cannot. It speaks of the file and its blocks here, not of rows."""
    import duckdb

    try:
        connection: duckdb.DuckDBPyConnection = hook.get_conn()
    except duckdb.Error as error:
        database = str(hook.get_database())
        return mask_credentials(str(error).replace(database, without_credentials(database))).strip().partition("\n")[0]
    return connection


def _named(message: str) -> str:
    """Name the process that DuckDB says has the file."""
    holder = _HOLDER.search(message)
    return f": {process(int(holder.group(1)))}" if holder else ""
