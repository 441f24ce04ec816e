# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Connections of ``apache-airflow-providers-microsoft-mssql`` and ``-odbc``: SQL Server, Azure SQL, Synapse and Fabric."""

from __future__ import annotations

from typing import Any

from limio_limitrail.hooks.destinations.fields import ConnectionFields
from limio_limitrail.hooks.destinations.model import Mapped, complete

_DRIVER = "ODBC Driver 18 for SQL Server"
_PORT = 1433
_ENCRYPT = {"off": "no", "request": "optional", "require": "yes"}
"""What pymssql's ``encryption`` is in ODBC."""

_KEYWORDS = {
    "authentication", "encrypt", "trustservercertificate", "hostnameincertificate", "servercertificate", "applicationintent",
    "multisubnetfailover", "app", "keepalive", "keepaliveinterval", "connectretrycount", "connectretryinterval", "language",
    "packetsize", "ipaddresspreference", "longasmax",
}  # fmt: skip
"""Keywords of the ODBC driver that a connection may set; dlt writes them into its connection string as they are."""


def map_mssql(fields: ConnectionFields) -> Mapped:
    """Map SQL logins, and Entra by the driver's ``Authentication``."""
    from dlt.destinations.impl.mssql.configuration import MsSqlCredentials

    return _map(fields, MsSqlCredentials)


def map_synapse(fields: ConnectionFields) -> Mapped:
    """Map the same for a dedicated pool of Synapse."""
    from dlt.destinations.impl.synapse.configuration import SynapseCredentials

    return _map(fields, SynapseCredentials)


def _map(fields: ConnectionFields, kind: Any) -> Mapped:
    query: dict[str, Any] = {}
    driver, timeout = _driver(fields, kind.SUPPORTED_DRIVERS), fields.whole("login_timeout")
    fields.without_effect("sqlalchemy_scheme", "placeholder")
    if fields.conn_type == "mssql":
        encryption = fields.text("encryption")
        if encryption is not None:
            if encryption not in _ENCRYPT:
                raise fields.error("encryption", f"expected one of {', '.join(_ENCRYPT)}")
            query["Encrypt"] = _ENCRYPT[encryption]
        application = fields.text("appname")
        if application is not None:
            query["APP"] = application
    for name, value in fields.rest().items():
        if name.lower() not in _KEYWORDS or isinstance(value, dict | list):
            raise fields.error(name, "dlt's connection string cannot be given it; remove it, or use another connection")
        query[name] = value if isinstance(value, str) else {True: "yes", False: "no"}.get(value, str(value))
    if "active directory interactive" in str(query.get("Authentication", "")).lower().replace(
        "activedirectory", "active directory "
    ):
        raise fields.error("Authentication", "a task cannot ask a person; use ActiveDirectoryServicePrincipal")
    credentials = complete(
        kind,
        host=fields.needed("host", fields.host(), meaning="host"),
        port=fields.port() or _PORT,
        database=fields.needed("schema", fields.schema(), meaning="database"),
        **_user(fields, str(query.get("Authentication", ""))),
        driver=driver,
        query=query,
    )
    if timeout is not None:
        credentials.connect_timeout = timeout
    return Mapped(credentials=credentials)


def _user(fields: ConnectionFields, authentication: str) -> dict[str, str | None]:
    login, password = fields.login(), fields.password()
    if authentication.lower().replace(" ", "") in ("activedirectorymsi", "activedirectorydefault", "activedirectoryintegrated"):
        return {"username": login, "password": password}
    return {
        "username": fields.needed("login", login, meaning="user, or client id with ActiveDirectoryServicePrincipal"),
        "password": fields.needed("password", password, meaning="password, or the client's secret"),
    }


def _driver(fields: ConnectionFields, supported: list[str]) -> str:
    driver = (fields.text("driver") or fields.text("Driver") or supported[0]).strip().lstrip("{").rstrip("}").strip()
    if driver not in supported:
        raise fields.error("driver", f"dlt knows {' and '.join(supported)}")
    return driver


def map_fabric(fields: ConnectionFields) -> Mapped:
    """Map the service principal of a Fabric warehouse: client id, secret, and ``tenant_id`` in extra."""
    from dlt.destinations.impl.fabric.configuration import FabricCredentials

    tenant = fields.text("tenant_id") or fields.text("azure_tenant_id")
    credentials = complete(
        FabricCredentials,
        host=fields.needed("host", fields.host(), meaning="host of the warehouse"),
        port=fields.port() or _PORT,
        database=fields.needed("schema", fields.schema(), meaning="warehouse"),
        azure_tenant_id=fields.needed("tenant_id", tenant, meaning="Entra tenant"),
        azure_client_id=fields.needed("login", fields.login(), meaning="client id of the service principal"),
        azure_client_secret=_unquoted(
            fields, fields.needed("password", fields.password(), meaning="secret of the service principal")
        ),
    )
    fields.without_effect("sqlalchemy_scheme", "placeholder")
    return Mapped(credentials=credentials)


def _unquoted(fields: ConnectionFields, secret: str) -> str:
    # dlt writes it into the connection string as it is.
    if set(secret) & set(";{}"):
        raise fields.error("password", "it contains ;, { or }, which dlt cannot quote for Fabric; create another secret")
    return secret
