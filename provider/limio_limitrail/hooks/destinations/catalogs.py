# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Connections of Iceberg catalogs: a database that any loader can read, or a REST service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.hooks.destinations.fields import ConnectionFields, connection_fields

_NAME = "default"
"""What dlt and pyiceberg call a catalog without a name."""

_POSTGRES_PORT = 5432


@raises_bare
def find_catalog(conn_id: str) -> Mapping[str, Any]:
    """Return the properties of pyiceberg's catalog, with ``name`` and ``type``.

    :raises ParameterError: there is no such connection, or it leads to no catalog.
    :raises ConnectionFieldError: a field of the connection is missing, wrong, or corresponds to nothing.
    """
    fields = connection_fields(conn_id, conn_types=tuple(_MAPPED), destination="iceberg")
    properties = {"name": fields.text("catalog_name") or _NAME, **_MAPPED[fields.conn_type](fields)}
    fields.finish()
    return properties


def _sqlite(fields: ConnectionFields) -> dict[str, Any]:
    from sqlalchemy import URL

    path = fields.needed("host", fields.host(), meaning="path of the file")
    if not path.startswith("/"):
        raise fields.error("host", "it must be an absolute path, which all workers share")
    return {"type": "sql", "uri": URL.create("sqlite", database=path).render_as_string(hide_password=False)}


def _postgres(fields: ConnectionFields) -> dict[str, Any]:
    from sqlalchemy import URL

    host = fields.needed("host", fields.host(), meaning="host, or the folder of a socket")
    is_socket = host.startswith("/")
    url = URL.create(
        "postgresql+psycopg" if _has_psycopg() else "postgresql+psycopg2",
        username=fields.needed("login", fields.login(), meaning="user"),
        password=fields.password(),
        host=None if is_socket else host,
        port=None if is_socket else fields.port() or _POSTGRES_PORT,
        database=fields.needed("schema", fields.schema(), meaning="database"),
        query={**({"host": host} if is_socket else {}), **{name: str(value) for name, value in fields.rest().items()}},
    )
    return {"type": "sql", "uri": url.render_as_string(hide_password=False)}


def _has_psycopg() -> bool:
    from importlib.util import find_spec

    return find_spec("psycopg") is not None


def _rest(fields: ConnectionFields) -> dict[str, Any]:
    properties = {"type": "rest", "uri": fields.needed("host", fields.host(), meaning="URL of the catalog")}
    login, password = fields.login(), fields.password()
    if password:
        properties["credential"] = f"{login}:{password}" if login else password
    token = fields.secret("token")
    if token:
        properties["token"] = token
    for name in ("warehouse", "scope", "oauth2-server-uri", "prefix"):
        value = fields.text(name)
        if value is not None:
            properties[name] = value
    return properties


_MAPPED: Mapping[str, Callable[[ConnectionFields], dict[str, Any]]] = {
    "sqlite": _sqlite,
    "postgres": _postgres,
    "iceberg": _rest,
}
