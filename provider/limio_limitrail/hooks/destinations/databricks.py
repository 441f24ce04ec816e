# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Connections of ``apache-airflow-providers-databricks``."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from limio_limitrail.hooks.destinations.fields import ConnectionFields, fail, hide, provider_hook
from limio_limitrail.hooks.destinations.model import Mapped, complete

_HOOK = "airflow.providers.databricks.hooks.databricks_sql:DatabricksSqlHook"
_PACKAGE = "apache-airflow-providers-databricks"
_BY_HOOK = (
    "azure_tenant_id", "use_azure_managed_identity", "use_default_azure_credential", "federated_token_provider", "federated_k8s",
    "federated_aws",
)  # fmt: skip
"""What the provider's hook exchanges for a token, Entra first."""

_OF_BY_HOOK = (
    "azure_ad_endpoint", "azure_resource_id", "azure_managed_identity_client_id", "client_id", "aws_conn_id", "aws_jwt_audience",
    "aws_web_identity_token_duration", "k8s_token_path", "k8s_namespace_path", "k8s_projected_volume_token_path", "audience",
    "expiration_seconds",
)  # fmt: skip


def map_databricks(fields: ConnectionFields) -> Mapped:
    """Map a personal access token, OAuth of a service principal, and Entra and federation through the provider's hook."""
    from dlt.destinations.impl.databricks.configuration import DatabricksCredentials

    host = fields.text("host") or fields.host()
    values: dict[str, Any] = {
        "server_hostname": _hostname(fields.needed("host", host, meaning="host of the workspace")),
        "http_path": fields.needed("http_path", fields.text("http_path"), meaning="HTTP path of the SQL warehouse"),
        "catalog": fields.needed("catalog", fields.text("catalog"), meaning="catalog"),
    }
    if fields.port() not in (None, 443):
        raise fields.error("port", "dlt connects to 443; remove it")
    fields.refuse("proxies", "dlt cannot be given it; set HTTPS_PROXY on the workers")
    session = fields.mapping("session_configuration")
    if session:
        values["session_configuration"] = session
    values |= _authentication(fields)
    fields.without_effect("schema", "host")
    rest = fields.rest()
    if rest:
        # What databricks.sql.connect knows beside it, as in the provider's hook.
        values["connection_parameters"] = rest
    return Mapped(credentials=complete(DatabricksCredentials, **values))


def _hostname(host: str) -> str:
    return (urlsplit(host).hostname if "://" in host else host.strip("/")) or host


def _authentication(fields: ConnectionFields) -> dict[str, Any]:
    login, password, token = fields.login(), fields.password(), fields.secret("token")
    if token is not None:
        return {"access_token": token}
    if login is None and password is not None:
        return {"access_token": password}
    if fields.has(*_BY_HOOK) or login in ("federated_k8s", "federated_aws"):
        return {"access_token": _token_from_hook(fields)}
    if fields.flag("service_principal_oauth"):
        return {
            "client_id": fields.needed("login", login, meaning="client id of the service principal"),
            "client_secret": fields.needed("password", password, meaning="OAuth secret of the service principal"),
        }
    raise fields.error(
        "password", "expected a token there and no login, or the secret of a service principal with service_principal_oauth"
    )


def _token_from_hook(fields: ConnectionFields) -> str:
    because = next((name for name in _BY_HOOK if fields.has(name)), "login")
    fields.leave_to_hook(*_BY_HOOK, *_OF_BY_HOOK, "service_principal_oauth")
    hook = provider_hook(fields, _HOOK, package=_PACKAGE, because=because)(databricks_conn_id=fields.conn_id)
    try:
        token = str(hook.sqlalchemy_url.password)
    except Exception as error:  # noqa: BLE001 - many kinds
        fail(fields, because, "no token could be had for it", error)
    hide(token)
    return token
