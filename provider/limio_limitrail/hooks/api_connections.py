# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read connections of the types ``limio`` and ``limitrail``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from limio_limitrail.api.errors import ConnectionFieldError, ParameterError
from limio_limitrail.api.query import TENANT
from limio_limitrail.api.resource import AuthMode, split_scopes, unfit_scopes
from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.hooks.connection import Fields, Settings, read_pages
from limio_limitrail.parameters.given import is_nothing
from limio_limitrail.urls import origin_of, unfit_path

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from limio_limitrail.usage.conventions import Idempotency, ResponseMapping

T = TypeVar("T")

APP_HOSTS = {"eu": "{tenant}.prod.limio.com", "us": "{tenant}.prod-us.limio.com"}
"""Where an app is, by region (Limio documentation, "Authentication overview")."""

LIMIO_TOKEN_PATH = "/oauth2/token"  # nosec B105 # noqa: S105 - a path (Limio documentation)
API_PREFIX = "/api"
LIMITRAIL_TOKEN_PATH = "/connect/token"  # nosec B105 # noqa: S105 - a path (LimitRail developer console)

_PATH = re.compile(r"/(?!/)([^\\?#{}\s\x00-\x1f\x7f]|\{[A-Za-z_][A-Za-z0-9_]*\})*")


@raises_bare
def read_limio_connection(connection: Connection) -> Settings:
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
    auth_url = fields.text("auth_url") or app_url + LIMIO_TOKEN_PATH
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


class LimitRailSettings(Settings, frozen=True, kw_only=True):
    """What a LimitRail client needs to know, read out of a connection.

    :param scopes: the scopes that every token of the connection is asked with.
    :param paths: paths that replace the ones of the provider, as name of a resource or an operation and path.
    :param tenant: what stands for the tenant in idempotency keys; none where client id and host do.
    :param response: how this LimitRail answers; none where it answers as documented, or a task says how.
    :param idempotency: how it takes idempotency keys, likewise.
    """

    scopes: tuple[str, ...]
    paths: tuple[tuple[str, str], ...]
    tenant: str | None
    response: ResponseMapping | None = None
    idempotency: Idempotency | None = None

    def __hash__(self) -> int:
        # What a mapping cannot give.
        return hash((self.app_url, self.client_id, self.tenant))

    @property
    def tenant_name(self) -> str:
        """What stands for the tenant: the client decides it (LimitRail developer console), on one host."""
        return self.tenant or f"{self.client_id}@{origin_of(self.app_url)}"

    def owner(self) -> dict[str, str]:
        """Return what decides whose lists these are: where the connection names the tenant, its client may change."""
        return {**super().owner(), **({} if self.tenant is None else {TENANT: self.tenant})}


@raises_bare
def read_limitrail_connection(connection: Connection) -> LimitRailSettings:
    """Read a ``limitrail`` connection.

    Host is the API: a host name, or a URL. Plain http is for this machine only. LimitRail shows a host of its own for OAuth, so
    that ``auth_url`` is a field of its own, too.

    :raises ConnectionFieldError: a field is missing or wrong.
    """
    from limio_limitrail.usage.conventions import idempotency, response_mapping

    fields = Fields(connection)
    host, scheme = fields.host(example="stg-api.limitrail.com")
    api_url = fields.base(f"{scheme or 'https'}://{host}", field="host")
    if path := urlsplit(api_url).path:
        what = f"it ends in the path {path[:60]!r}; give the API's host alone, and paths in the field 'paths'"
        raise fields.error("host", what)
    scopes = split_scopes(fields.text("scope"))
    if unfit_scopes(scopes):
        raise fields.error("scope", "it holds characters that no scope has; separate scopes by spaces")
    paths = fields.mapping("paths")
    for name, path in paths.items():
        if not _PATH.fullmatch(path) or unfit_path(path) is not None:
            raise fields.error(
                "paths",
                f"the path of {name[:60]!r} must begin with one slash and hold no query, and no . or .. between slashes, encoded "
                "or not; a part that a task fills in is a name in braces",
            )
    read_timeout, total_timeout = fields.timeouts()
    return LimitRailSettings(
        app_url=api_url,
        auth_url=fields.base(fields.text("auth_url") or api_url + LIMITRAIL_TOKEN_PATH, field="auth_url"),
        auth_mode=AuthMode.OAUTH,
        client_id=fields.login(meaning="client id"),
        secret=fields.password(meaning="client secret"),
        read_timeout=read_timeout,
        total_timeout=total_timeout,
        max_response=fields.max_response(),
        page_size=fields.whole("page_size", least=1, most=100_000),
        verify=fields.verify(),
        pages=read_pages(fields),
        scopes=scopes,
        paths=tuple(sorted(paths.items())),
        tenant=fields.text("tenant"),
        response=_read_optional(fields, "response", response_mapping),
        idempotency=_read_optional(fields, "idempotency", idempotency),
    )


def _read_optional(fields: Fields, field: str, read: Callable[[str, object], T]) -> T | None:
    """Read an extra field as the parameter of the same name is read."""
    value = fields.value(field)
    try:
        return None if is_nothing(value) else read(field, value)
    except ParameterError as error:
        raise fields.error(field, error.what) from None


def scopes_to_ask(settings: LimitRailSettings, *, scope: str | Sequence[str] | None, conn_id: str) -> tuple[str, ...]:
    """Return the scopes to request a token with: the connection's and a task's own, sorted, each once.

    :raises ConnectionFieldError: neither names one, and LimitRail gives no token without (LimitRail developer console).
    :raises ParameterError: the task's are no scopes.
    """
    own = split_scopes(scope)
    if unfit_scopes(own):
        raise ParameterError(f"scope={scope!r} holds characters that no scope has; separate scopes by spaces")
    scopes = split_scopes((*settings.scopes, *own))
    if not scopes:
        raise ConnectionFieldError(
            f"connection {conn_id!r}, field 'scope': it is empty, and LimitRail requires a scope for each token. Put the scopes "
            "that the connection's tasks need there, separated by spaces, or give the task scope=...: committing usage needs "
            "limitrail.usage.write, and reading a list, as a reconciliation does, the one that LimitRail has given you for it. "
            "Nothing was sent"
        )
    return scopes
