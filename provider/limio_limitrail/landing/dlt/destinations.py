# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""dlt's destinations by name, with the credentials of Airflow's connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.landing.sql.model import LandingError

if TYPE_CHECKING:
    from dlt.common.destination import Destination


@raises_bare
def find_destination(name: str, *, conn_id: str | None, staging: str | None = None) -> Destination[Any, Any]:
    """Return a destination with explicit credentials.

    :param name: dlt's name of it.
    :param conn_id: the Airflow connection of the warehouse.
    :param staging: the URL of the folder through which a warehouse loads.
    :raises LandingError: it is not known here, or its connection does not fit.
    """
    import dlt
    from airflow.sdk import BaseHook

    if name not in ("duckdb", "postgres"):
        raise LandingError(f"destination={name!r} is not known: give duckdb, postgres, or a destination object of dlt's")
    if staging is not None:
        raise LandingError(f"destination={name!r} loads files by itself, and takes no destination_staging")
    if conn_id is None:
        raise LandingError(f"destination={name!r} needs destination_conn_id, the id of an Airflow connection")
    if name == "duckdb":
        from limio_limitrail.landing.sql.duckdb_connect import database_path

        hook: Any = BaseHook.get_hook(conn_id)
        return dlt.destinations.duckdb(credentials=database_path(hook))
    connection = BaseHook.get_connection(conn_id)
    extra = connection.extra_dejson
    unknown = sorted(
        set(extra) - {"sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout", "options", "keepalives_idle"}
    )
    if unknown:
        raise LandingError(f"connection {conn_id!r} has the extra {unknown[0]!r}, which is not mapped to dlt's credentials")
    from dlt.destinations.impl.postgres.configuration import PostgresCredentials

    credentials = PostgresCredentials()
    credentials.host = connection.host or "localhost"
    credentials.port = connection.port or 5432
    credentials.database = connection.schema or connection.login or ""
    credentials.username = connection.login or ""
    credentials.password = connection.password or ""
    credentials.query = {str(key): str(value) for key, value in extra.items()}
    if credentials.host.startswith("/"):
        # The folder of a socket, which cannot be the host of a URL.
        credentials.query["host"], credentials.host = credentials.host, "localhost"
    return dlt.destinations.postgres(credentials=credentials)
