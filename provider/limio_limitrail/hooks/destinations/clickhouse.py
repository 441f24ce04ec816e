# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Connections of ``apache-airflow-providers-clickhousedb``, and of the older ``airflow-clickhouse-plugin``."""

from __future__ import annotations

from typing import Any

from limio_limitrail.hooks.destinations.fields import ConnectionFields
from limio_limitrail.hooks.destinations.model import Mapped, complete

_NATIVE_PORTS, _HTTP_PORTS = (9000, 9440), (8123, 8443)
"""Without TLS, and with it."""


def map_clickhouse(fields: ConnectionFields) -> Mapped:
    """Map user and password, and both ports: dlt runs statements over the native one, and sends files over that of HTTP."""
    from dlt.destinations.impl.clickhouse.configuration import ClickHouseCredentials

    secure = bool(fields.flag("secure"))
    if fields.flag("verify") is False:
        raise fields.error("verify", "dlt verifies certificates; remove it")
    for name in ("session_settings", "client_kwargs", "compress", "client_name"):
        fields.refuse(name, "dlt cannot be given it for both of its clients; remove it, or use another connection")
    native, http = _ports(fields, secure=secure)
    values: dict[str, Any] = {
        "host": fields.needed("host", fields.host(), meaning="host"),
        "port": native,
        "http_port": http,
        "username": fields.login() or "default",
        "password": fields.password() or "",
        "database": fields.schema() or "default",
        "secure": int(secure),
    }
    for name in ("connect_timeout", "send_receive_timeout"):
        seconds = fields.whole(name)
        if seconds is not None:
            values[name] = seconds
    return Mapped(credentials=complete(ClickHouseCredentials, **values))


def _ports(fields: ConnectionFields, *, secure: bool) -> tuple[int, int]:
    """Return the native port and that of HTTP.

    The connection's port is that of HTTP, as in the official provider. With ``http_port`` in extra it is the native one.
    """
    port, native, http = fields.port(), fields.whole("native_port"), fields.whole("http_port")
    if native is not None and http is not None:
        if port not in (None, native, http):
            raise fields.error("port", "it is neither native_port nor http_port of extra; remove it")
        return native, http
    if http is not None:
        return port or _NATIVE_PORTS[secure], http
    if port in _NATIVE_PORTS:
        raise fields.error("port", "it is the native port; put the port of HTTP into extra, as http_port")
    return native or _NATIVE_PORTS[secure], port or _HTTP_PORTS[secure]
