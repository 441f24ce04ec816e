# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Connections of ``apache-airflow-providers-snowflake``."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from limio_limitrail.hooks.destinations.fields import ConnectionFields, fail, hide, provider_hook
from limio_limitrail.hooks.destinations.model import Mapped, complete

_LARGEST_KEY = 4096
"""Bytes of a private key's file, as in the provider's hook."""

_HOOK = "airflow.providers.snowflake.hooks.snowflake:SnowflakeHook"
_PACKAGE = "apache-airflow-providers-snowflake"
_OAUTH_FIELDS = ("grant_type", "refresh_token", "token_endpoint", "scope", "redirect_uri", "oauth_username", "oauth_password")


def map_snowflake(fields: ConnectionFields) -> Mapped:
    """Map password, key pair, OAuth, programmatic access token, workload identity, MFA and Okta."""
    from dlt.destinations.impl.snowflake.configuration import SnowflakeCredentials

    account = fields.needed("account", fields.text("account"), meaning="account identifier, such as myorg-myaccount")
    values: dict[str, Any] = {
        "host": account,
        "database": fields.needed("database", fields.text("database"), meaning="database"),
        "warehouse": fields.text("warehouse"),
        "role": fields.text("role"),
    }
    connector = _connector_options(fields)
    if "TIMEZONE" in {str(name).upper() for name in connector.get("session_parameters", {})}:
        values["session_timezone"] = None
    values |= _authentication(fields, connector)
    fields.without_effect("schema", "host", "port")
    return Mapped(credentials=complete(SnowflakeCredentials, query=connector, **values))


def _connector_options(fields: ConnectionFields) -> dict[str, Any]:
    """Read what goes to the connector as it is."""
    flags = ("insecure_mode", "json_result_force_utf8_decoding", "client_request_mfa_token", "client_store_temporary_credential")
    options: dict[str, Any] = {name: True for name in flags if fields.flag(name)}
    ocsp_fail_open = fields.flag("ocsp_fail_open")
    if ocsp_fail_open is not None:
        options["ocsp_fail_open"] = ocsp_fail_open
    session_parameters = fields.mapping("session_parameters")
    if session_parameters:
        options["session_parameters"] = session_parameters
    texts = {name: fields.text(name) for name in ("region", "host", "proxy_host", "proxy_user")}
    texts["proxy_password"] = fields.secret("proxy_password")
    wholes = {name: fields.whole(name) for name in ("port", "proxy_port")}
    return options | {name: value for name, value in (texts | wholes).items() if value is not None}


def _authentication(fields: ConnectionFields, connector: dict[str, Any]) -> dict[str, Any]:
    authenticator = fields.text("authenticator")
    if authenticator == "oauth" or fields.has("refresh_token", "grant_type"):
        return {"authenticator": "oauth", "token": _oauth_token(fields)}
    user, password = fields.login(), fields.password()
    key = _private_key(fields)
    method = (authenticator or "snowflake").lower()
    if method == "externalbrowser":
        raise fields.error("authenticator", "a task has no browser; use a key pair, OAuth or a programmatic access token")
    if method == "workload_identity":
        token_file = fields.text("token_file_path")
        if token_file is not None:
            connector["token_file_path"] = token_file
        provider = fields.needed("workload_identity_provider", fields.text("workload_identity_provider"), meaning="provider")
        return {
            "authenticator": authenticator,
            "workload_identity_provider": provider,
            "token": fields.secret("token"),
            "username": user,
        }
    values: dict[str, Any] = {"username": fields.needed("login", user, meaning="user"), "authenticator": authenticator}
    if key is not None:
        return values | {"private_key": key, "private_key_passphrase": password}
    password = fields.needed("password", password, meaning="password or access token, or set private_key_content")
    if method == "programmatic_access_token":
        return values | {"token": password}
    return values | {"password": password}


def _private_key(fields: ConnectionFields) -> str | None:
    """Read the key pair's private key, as PEM."""
    path, content = fields.text("private_key_file"), fields.secret("private_key_content")
    if path is not None and content is not None:
        raise fields.error("private_key_file", "private_key_content is set, too; remove one of them")
    if path is not None:
        file = Path(path)
        if not file.is_file() or not 0 < file.stat().st_size <= _LARGEST_KEY:
            raise fields.error("private_key_file", f"expected a file of 1 to {_LARGEST_KEY} bytes on the worker")
        content = file.read_text("ascii", errors="replace")
        hide(content)
    if content is not None and "-----BEGIN" not in content:
        try:
            content = base64.b64decode(content, validate=False).decode("ascii")
        except (binascii.Error, ValueError):
            content = ""
        if "-----BEGIN" not in content:
            raise fields.error("private_key_content", "it is neither a PEM nor the Base64 of one")
        hide(content)
    return content


def _oauth_token(fields: ConnectionFields) -> str:
    """Return a token: the connection's own, or one that the provider's hook gets for it."""
    fields.login()
    fields.password()
    azure = fields.text("azure_conn_id")
    if azure is None and not fields.has("grant_type", "refresh_token"):
        return fields.needed("token", fields.secret("token"), meaning="token, or set grant_type")
    grant_type = fields.text("grant_type") or "refresh_token"
    for name in ("refresh_token", "oauth_password"):
        fields.secret(name)
    fields.leave_to_hook(*_OAUTH_FIELDS)
    because = "grant_type" if azure is None else "azure_conn_id"
    hook = provider_hook(fields, _HOOK, package=_PACKAGE, because=because)(snowflake_conn_id=fields.conn_id)
    try:
        token: str = hook.get_oauth_token(grant_type=grant_type) if azure is None else hook.get_azure_oauth_token(azure)
    except Exception as error:  # noqa: BLE001 - the texts of what an identity provider says may quote the secret
        fail(
            fields, because, "no token could be had for it; check client id (login), client secret (password) and endpoint", error
        )
    hide(token)
    return token
