# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Connections of ``apache-airflow-providers-microsoft-azure`` for Blob Storage and Data Lake Storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from limio_limitrail.hooks.destinations.fields import ConnectionFields, fail, hide
from limio_limitrail.hooks.destinations.model import Mapped, complete

if TYPE_CHECKING:
    from dlt.common.configuration.specs import CredentialsConfiguration

_BLOB_HOST = ".blob.core.windows.net"
_IDENTITY = ("managed_identity_client_id", "workload_identity_client_id", "workload_identity_tenant_id")


def map_azure(fields: ConnectionFields) -> Mapped:
    """Map account key, SAS token, connection string, service principal, and the worker's own identity."""
    fields.without_effect("port", "schema")
    fields.refuse("anon", "anonymous access cannot write")
    fields.refuse("client_secret_auth_config", "dlt cannot be given it; remove it, or use another connection")
    for name in _IDENTITY:
        fields.refuse(name, "dlt cannot be given it; set AZURE_CLIENT_ID on the workers, or use a service principal")
    credentials = _of_string(fields) or _of_fields(fields)
    return Mapped(credentials=credentials)


def _of_string(fields: ConnectionFields) -> CredentialsConfiguration | None:
    text = fields.secret("connection_string")
    if text is None:
        return None
    parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    known = {"DefaultEndpointsProtocol", "AccountName", "AccountKey", "SharedAccessSignature", "EndpointSuffix"}
    if set(parts) - known or parts.get("EndpointSuffix", "core.windows.net") != "core.windows.net":
        raise fields.error("connection_string", f"dlt knows only {', '.join(sorted(known))}, and the suffix core.windows.net")
    for field, value in (("login", fields.login()), ("password", fields.password()), ("host", fields.host())):
        if value:
            raise fields.error(field, "connection_string is set, too; remove one of them")
    account = fields.needed("connection_string", parts.get("AccountName"), meaning="AccountName")
    return _shared(fields, account, key=parts.get("AccountKey"), sas=parts.get("SharedAccessSignature"), host=None)


def _of_fields(fields: ConnectionFields) -> CredentialsConfiguration:
    login, password = fields.login(), fields.password()
    tenant, sas = fields.text("tenant_id"), fields.secret("sas_token")
    account, account_host = _account(fields, None if tenant else login)
    keys = [fields.secret(name) for name in ("shared_access_key", "account_key")]
    if tenant is not None:
        return _service_principal(fields, account, tenant=tenant, host=account_host, login=login, password=password)
    given = [value for value in (password, *keys, sas) if value]
    if len(given) > 1:
        raise fields.error("password", "more than one of password, shared_access_key, account_key and sas_token is set; keep one")
    if not given:
        return _of_worker(fields, account, host=account_host)
    return _shared(fields, account, key=None if sas else given[0], sas=sas, host=account_host)


def _account(fields: ConnectionFields, login: str | None) -> tuple[str, str | None]:
    """Return the name of the account, and its host where it is not Microsoft's usual one."""
    host, name = fields.host(), fields.text("account_name")
    account_host = fields.text("account_host")
    found = (urlsplit(host if "://" in host else f"//{host}").hostname or "") if host else ""
    if found and "." not in found:
        found = ""  # the id of a directory, as older connections have it
    if found and account_host is None and not found.endswith(_BLOB_HOST):
        account_host = found
    account = fields.needed("login", name or login or found.partition(".")[0], meaning="storage account")
    return account, account_host


def _service_principal(
    fields: ConnectionFields, account: str, *, tenant: str, host: str | None, login: str | None, password: str | None
) -> CredentialsConfiguration:
    from dlt.common.configuration.specs import AzureServicePrincipalCredentials

    return complete(
        AzureServicePrincipalCredentials,
        azure_storage_account_name=account,
        azure_account_host=host,
        azure_tenant_id=tenant,
        azure_client_id=fields.needed("login", login, meaning="client id of the service principal"),
        azure_client_secret=fields.needed("password", password, meaning="secret of the service principal"),
    )


def _shared(
    fields: ConnectionFields, account: str, *, key: str | None, sas: str | None, host: str | None
) -> CredentialsConfiguration:
    from dlt.common.configuration.specs import AzureCredentials

    if not key and not sas:
        raise fields.error("connection_string", "it has neither AccountKey nor SharedAccessSignature")
    if sas and "://" in sas:
        raise fields.error("sas_token", "expected the token, without its URL")
    values: dict[str, Any] = {"azure_storage_account_key": key, "azure_storage_sas_token": sas.lstrip("?") if sas else None}
    for value in values.values():
        if value:
            hide(value)
    credentials = complete(AzureCredentials, azure_storage_account_name=account, azure_account_host=host, **values)
    if key:
        # Warehouses that copy from the storage need a SAS token; of a key dlt makes one, on this machine.
        try:
            credentials.create_sas_token()
        except ImportError as error:
            fail(fields, "password", "a token is made of it with azure-storage-blob: install dlt[az] on the workers", error)
        except ValueError as error:
            fail(fields, "password", "it is not the key of a storage account", error)
        hide(credentials.azure_storage_sas_token)
    return credentials


def _of_worker(fields: ConnectionFields, account: str, *, host: str | None) -> CredentialsConfiguration:
    from dlt.common.configuration.specs import AzureCredentials

    try:
        from azure.identity import DefaultAzureCredential
    except ImportError as error:
        fail(fields, "password", "it is empty, and the worker's identity needs azure-identity: install dlt[az] there", error)
    credentials = complete(AzureCredentials, azure_storage_account_name=account, azure_account_host=host)
    credentials._set_default_credentials(DefaultAzureCredential())  # noqa: SLF001 - the only road to them without look-ups
    return credentials
