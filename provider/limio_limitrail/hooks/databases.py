# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""SQL connections."""

from __future__ import annotations

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
