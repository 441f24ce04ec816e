# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A connection of the type ``limio``, read."""

from __future__ import annotations

from urllib.parse import urlsplit

from limio_limitrail.api.resource import AuthMode
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.hooks.connection import AirflowConnection, Fields, Settings, read_pages

APP_HOSTS = {"eu": "{tenant}.prod.limio.com", "us": "{tenant}.prod-us.limio.com"}
"""Where an app is, by region (Limio documentation, "Authentication overview")."""

TOKEN_PATH = "/oauth2/token"  # nosec B105 # noqa: S105 - a path (Limio documentation)
API_PREFIX = "/api"


@raises_bare
def read_limio_connection(connection: AirflowConnection) -> Settings:
    """Read a ``limio`` connection.

    Host is the app: a host name, a bare tenant together with ``region``, or a URL. Plain http is for this machine only.

    :raises ConnectionFieldError: a field is missing or wrong.
    """
    fields = Fields(connection)
    host, scheme = fields.host(example="acme.prod.limio.com")
    region = fields.choice("region", choices=tuple(APP_HOSTS))
    name = host.split("/", 1)[0]
    if "." not in name and ":" not in name and "@" not in name and name != "localhost":
        if region is None:
            raise fields.error(
                "region",
                f"host is the bare tenant {name[:60]!r}, so the region must say where it is: eu or us. Or give the whole host",
            )
        host = APP_HOSTS[region].format(tenant=name) + host[len(name) :]
    app_url = fields.base(f"{scheme or 'https'}://{host}", field="host")
    path = urlsplit(app_url).path
    if path.rstrip("/") not in {"", API_PREFIX}:
        raise fields.error("host", f"it ends in the path {path[:60]!r}; give the app's host alone")
    app_url = app_url[: len(app_url) - len(path)] if path else app_url

    mode = AuthMode(fields.choice("auth_mode", choices=tuple(AuthMode)) or AuthMode.OAUTH)
    auth_url = fields.text("auth_url") or app_url + TOKEN_PATH
    read_timeout, total_timeout = fields.timeouts()
    return Settings(
        app_url=app_url,
        auth_url=fields.base(auth_url, field="auth_url"),
        auth_mode=mode,
        client_id=fields.login(meaning="client id") if mode is AuthMode.OAUTH else "",
        secret=fields.password(meaning="client secret" if mode is AuthMode.OAUTH else "publishable API key"),
        read_timeout=read_timeout,
        total_timeout=total_timeout,
        max_response=fields.max_response(),
        page_size=fields.whole("page_size", least=1, most=100_000),
        verify=fields.verify(),
        pages=read_pages(fields),
    )
