# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""SQL connections."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook


def find_database(sql_conn_id: str) -> DbApiHook:
    """Return the hook of a SQL connection.

    :raises ParameterError: it is not a SQL connection.
    """
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import BaseHook

    from limio_limitrail.api.errors import ParameterError
    from limio_limitrail.bare_errors import raises_bare

    # The frames of this call hold the connection with its password.
    hook = raises_bare(BaseHook.get_hook)(sql_conn_id)
    if not isinstance(hook, DbApiHook):
        raise ParameterError(f"connection {sql_conn_id!r} is not a SQL connection ({type(hook).__name__} is not a DbApiHook)")
    return hook


def find_ledger_database(sql_conn_id: str) -> DbApiHook:
    """Return the hook of a SQL connection that holds a ledger.

    :raises ParameterError: it is not a SQL connection, or names a file by a relative path: with another working directory, a
        task would find no ledger there, and send everything again.
    """
    from pathlib import Path

    from limio_limitrail.api.errors import ParameterError

    hook = find_database(sql_conn_id)
    path = _file_of(hook)
    if path is not None and not Path(path).is_absolute():
        raise ParameterError(
            f"connection {sql_conn_id!r} names its database by a relative path ({path!r}), which is another file in each working "
            "directory: a task would find no ledger there, and send everything again. Write the whole path into the host"
        )
    return hook


def _file_of(hook: DbApiHook) -> str | None:
    """Return the file of a DuckDB or SQLite connection as it is written; None if there is none, or for another database."""
    match hook.conn_type:
        case "duckdb":
            database = str(hook.get_database())
            # Such as md:, for MotherDuck. One letter is a drive.
            has_scheme = re.match(r"[A-Za-z][A-Za-z0-9_+.-]+:", database) is not None
            return None if has_scheme or database in ("", ":memory:") else database
        case "sqlite":
            path = hook.get_uri().removeprefix("sqlite:///").partition("?")[0]
            return None if path in ("", ":memory:") else path
    return None
