# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The database behind a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook


def find_database(sql_conn_id: str) -> DbApiHook:
    """Give the hook of a database's connection.

    :raises ParameterError: the connection is no database's.
    """
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import BaseHook

    from limio_limitrail.api.errors import ParameterError
    from limio_limitrail.bare_errors import raises_bare

    # Airflow has the connection with its password in its hands meanwhile.
    hook = raises_bare(BaseHook.get_hook)(sql_conn_id)
    if not isinstance(hook, DbApiHook):
        raise ParameterError(f"connection {sql_conn_id!r} is no database: its hook {type(hook).__name__} is no DbApiHook")
    return hook
