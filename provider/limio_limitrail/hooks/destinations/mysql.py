# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Connections of ``apache-airflow-providers-mysql``: MySQL and MariaDB, through SQLAlchemy."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from limio_limitrail.hooks.destinations.fields import ConnectionFields, fail, hide, provider_hook
from limio_limitrail.hooks.destinations.model import Mapped, complete

_HOOK = "airflow.providers.mysql.hooks.mysql:MySqlHook"
_PACKAGE = "apache-airflow-providers-mysql"
_MYSQLCLIENT, _CONNECTOR, _PYMYSQL = "mysql+mysqldb", "mysql+mysqlconnector", "mysql+pymysql"
_CLIENTS = {"mysqlclient": _MYSQLCLIENT, "mysql-connector-python": _CONNECTOR, "pymysql": _PYMYSQL}
_PORT = 3306


def map_mysql(fields: ConnectionFields) -> Mapped:
    """Map user, password and TLS, and IAM through the provider's hook."""
    from dlt.destinations.impl.sqlalchemy.configuration import SqlalchemyCredentials

    drivername = _driver(fields)
    login, password, port = fields.login(), fields.password(), fields.port()
    if fields.flag("iam"):
        password, port = _iam_token(fields)
        if drivername == _MYSQLCLIENT:
            raise fields.error("client", "an IAM token goes in clear text, which only mysql-connector-python and pymysql do here")
    fields.without_effect("cursor", "aws_conn_id")
    fields.refuse("local_infile", "dlt's statements do not need it; remove it")
    credentials = complete(
        SqlalchemyCredentials,
        host=fields.host() or "localhost",
        port=port or _PORT,
        username=fields.needed("login", login, meaning="user"),
        password=password,
        database=fields.schema(),
        query={"charset": fields.text("charset") or "utf8mb4"},
        engine_kwargs={"connect_args": _connect_args(fields, drivername)},
    )
    credentials.drivername = drivername
    return Mapped(credentials=credentials)


def _driver(fields: ConnectionFields) -> str:
    client = fields.text("client")
    if client is not None:
        if client not in _CLIENTS:
            raise fields.error("client", f"expected one of {', '.join(_CLIENTS)}")
        return _CLIENTS[client]
    for module, name in (("MySQLdb", _MYSQLCLIENT), ("pymysql", _PYMYSQL), ("mysql.connector", _CONNECTOR)):
        try:
            found = find_spec(module)
        except ModuleNotFoundError:
            continue
        if found is not None:
            return name
    raise fields.error("client", f"install one of {', '.join(_CLIENTS)} on the workers")


def _connect_args(fields: ConnectionFields, drivername: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    socket, ssl, mode = fields.text("unix_socket"), fields.mapping("ssl"), fields.text("ssl_mode")
    if socket is not None:
        arguments["unix_socket"] = socket
    if ssl:
        if drivername == _CONNECTOR:
            raise fields.error("ssl", "mysql-connector-python takes ssl_ca, ssl_cert and ssl_key instead")
        arguments["ssl"] = ssl
    if mode is not None:
        if drivername != _MYSQLCLIENT:
            raise fields.error("ssl_mode", "only mysqlclient knows it; use ssl, or ssl_ca")
        arguments["ssl_mode"] = mode
    for name, value in fields.rest().items():
        if not name.startswith("ssl_") or drivername == _MYSQLCLIENT:
            raise fields.error(name, "dlt's client cannot be given it; remove it, or use another connection")
        arguments[name] = value
    return arguments


def _iam_token(fields: ConnectionFields) -> tuple[str, int]:
    hook = provider_hook(fields, _HOOK, package=_PACKAGE, because="iam")(mysql_conn_id=fields.conn_id)
    try:
        password, port = hook.get_iam_token(fields.connection)
    except Exception as error:  # noqa: BLE001 - many kinds
        fail(fields, "iam", "no token could be had for it", error)
    hide(password)
    return password, port
