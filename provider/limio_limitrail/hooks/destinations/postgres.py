# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Connections of ``apache-airflow-providers-postgres``."""

from __future__ import annotations

from typing import Any

from limio_limitrail.hooks.destinations.fields import ConnectionFields, fail, hide, provider_hook
from limio_limitrail.hooks.destinations.model import Mapped, complete

_HOOK = "airflow.providers.postgres.hooks.postgres:PostgresHook"
_PACKAGE = "apache-airflow-providers-postgres"
_SECRETS = ("sslpassword", "password")
_PORT, _LOCAL = 5432, "localhost"


def map_postgres(fields: ConnectionFields) -> Mapped:
    """Map user and password, and IAM and Entra through the provider's hook; what else is in extra goes to libpq."""
    from dlt.destinations.impl.postgres.configuration import PostgresCredentials

    host, port, login, password = fields.host(), fields.port(), fields.login(), fields.password()
    if fields.flag("iam"):
        login, password, port = _iam_token(fields)
    for name in ("redshift", "redshift-serverless"):
        fields.refuse(name, "the connection leads to Redshift; use a connection of type redshift, and destination='redshift'")
    fields.without_effect("cursor", "sqlalchemy_scheme", "sqlalchemy_query", "aws_conn_id", "azure_conn_id")
    for name in _SECRETS:
        if fields.has(name):
            fields.secret(name)
    query: dict[str, Any] = {name: str(value) for name, value in fields.rest().items()}
    host = fields.needed("host", host, meaning="host, or the folder of a socket")
    is_socket = host.startswith(("/", "@"))
    if is_socket:
        # It cannot stand where a URL has its host; dlt wants something there, and libpq takes what comes later.
        query["host"] = host
    credentials = complete(
        PostgresCredentials,
        host=_LOCAL if is_socket else host,
        port=port or _PORT,
        database=fields.needed("schema", fields.schema(), meaning="database"),
        username=fields.needed("login", login, meaning="user"),
        password=password,
        query=query,
    )
    timeout = query.pop("connect_timeout", None)
    if timeout is not None:
        if not timeout.isdecimal():
            raise fields.error("connect_timeout", "expected a whole number of seconds")
        credentials.connect_timeout = int(timeout)
    return Mapped(credentials=credentials)


def _iam_token(fields: ConnectionFields) -> tuple[str, str, int]:
    hook = provider_hook(fields, _HOOK, package=_PACKAGE, because="iam")(postgres_conn_id=fields.conn_id)
    try:
        login, password, port = hook.get_iam_token(fields.connection)
    except Exception as error:  # noqa: BLE001 - many kinds
        fail(fields, "iam", "no token could be had for it", error)
    hide(password)
    return login, password, port
