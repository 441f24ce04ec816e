# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Open a DuckDB file: one process may write it, and the others wait."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING

from limio_limitrail.addresses import mask_credentials, without_credentials
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, Diagnosis
from limio_limitrail.landing.sql.lock_holders import process
from limio_limitrail.landing.sql.model import LandingError

if TYPE_CHECKING:
    import duckdb
    from airflow.providers.common.sql.hooks.sql import DbApiHook

log = logging.getLogger("limio_limitrail.landing.sql")

CREATION_WAIT = 10.0
"""Seconds that a load waits for a file that is not a database: another process may be creating one."""

_SETTINGS = {"memory_limit": "max_memory", "threads": "worker_threads", "preserve_insertion_order": ""}
"""Settings, and their aliases."""

_IN_USE = re.compile("could not set lock on file|being used by another process", re.IGNORECASE)
"""DuckDB's text while another process has the file open, on Linux and Windows; a path or a damaged block may say lock, too."""

_HOLDER = re.compile(r"\(PID (\d+)\)")
"""That process in DuckDB's text."""

_DENIED = re.compile("Permission denied|Read-only file system|read-only mode", re.IGNORECASE)

LOG_EVERY = 5.0
"""Seconds between two log lines about the wait."""

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0


def database_path(hook: DbApiHook) -> str:
    """Return the database's file, or the name of MotherDuck's database without the token that may follow it.

    :raises LandingError: the connection names none, or may not write.
    """
    database = str(hook.get_database())
    if database.startswith(("md:", "motherduck:")):
        database = without_credentials(database)
    if getattr(hook, "read_only", False):
        raise DatabaseError(Diagnosis(summary="the DuckDB connection is read-only", cause=Cause.READ_ONLY))
    if database in ("", ":memory:"):
        raise LandingError(
            "the DuckDB connection names no file, so all that is written would be gone when the task ends; "
            "put the database's path into the connection's host"
        )
    return database


def free_settings(hook: DbApiHook) -> frozenset[str]:
    """Return the settings that a load may choose, since the connection does not set them: none if it limits the memory."""
    connection = {str(name).lower() for name in getattr(hook, "get_connect_config", dict)()}
    chosen = {name for name, also in _SETTINGS.items() if not connection.isdisjoint((name, also))}
    return frozenset() if "memory_limit" in chosen else frozenset(_SETTINGS.keys() - chosen)


def opened(hook: DbApiHook, *, wait: float) -> duckdb.DuckDBPyConnection:
    """Open the database's file, waiting for another process that has it open.

    :param wait: seconds to wait.
    :raises LandingError: the connection names no persistent database, it cannot be opened, or another process has the file open;
        the message then names it, and the cause is `Cause.TIMEOUT`.
    """
    file = without_credentials(database_path(hook))
    start = time.monotonic()
    logged_at: float | None = None
    pause = _FIRST_PAUSE
    while True:
        message = _try_to_open(hook)
        if not isinstance(message, str):
            return message
        file_being_created = "not a valid DuckDB database" in message
        if not file_being_created and not _IN_USE.search(message):
            if _DENIED.search(message):
                raise DatabaseError(Diagnosis(summary=f"DuckDB cannot open {file}", detail=message, cause=Cause.READ_ONLY))
            raise LandingError(f"DuckDB cannot open {file}: {message}")
        if file_being_created and time.monotonic() + pause > start + CREATION_WAIT:
            raise LandingError(f"the file {file} is not a DuckDB database")
        if time.monotonic() + pause > start + wait:
            lasted = f" for {wait:.0f} seconds" if wait else ""
            raise DatabaseError(
                Diagnosis(
                    summary=f"another process has had the DuckDB file {file} open{lasted}{_holder(message)}",
                    detail="DuckDB lets one process write, and none read meanwhile: close the other program, or give the tasks "
                    "that use this file one pool slot",
                    cause=Cause.TIMEOUT,
                )
            )
        if logged_at is None or time.monotonic() - logged_at >= LOG_EVERY:
            logged_at = time.monotonic()
            log.info(
                "Another process has the DuckDB file %s open; waiting up to %.0f seconds for it%s",
                file,
                wait - (logged_at - start),
                _holder(message),
            )
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


@raises_bare
def _try_to_open(hook: DbApiHook) -> duckdb.DuckDBPyConnection | str:
    """Open the database, or return DuckDB's text, which is about the file and its blocks here, and not about rows."""
    import duckdb

    try:
        connection: duckdb.DuckDBPyConnection = hook.get_conn()
    except duckdb.Error as error:
        database = str(hook.get_database())
        return mask_credentials(str(error).replace(database, without_credentials(database))).strip().partition("\n")[0]
    return connection


def _holder(message: str) -> str:
    """Return the process in DuckDB's text."""
    holder = _HOLDER.search(message)
    return f": {process(int(holder.group(1)))}" if holder else ""
