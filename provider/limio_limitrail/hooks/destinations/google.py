# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Connections of ``apache-airflow-providers-google``: BigQuery, and Google Cloud Storage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from limio_limitrail.hooks.destinations.fields import ConnectionFields, fail, provider_hook, secrets_of
from limio_limitrail.hooks.destinations.model import Mapped, complete

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlt.common.configuration.specs import CredentialsConfiguration

    FromHook = Callable[[ConnectionFields, str | None], CredentialsConfiguration]

_HOOK = "airflow.providers.google.common.hooks.base_google:GoogleBaseHook"
_PACKAGE = "apache-airflow-providers-google"
_BY_HOOK = (
    "key_secret_name", "key_secret_project_id", "credential_config_file", "impersonation_chain", "idp_issuer_url", "client_id",
    "client_secret", "idp_extra_parameters", "idp_extra_params", "quota_project_id",
)  # fmt: skip
"""What the provider's hook exchanges for credentials of Google's own library."""

_CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
_TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
_UNIVERSE = "googleapis.com"


def map_bigquery(fields: ConnectionFields) -> Mapped:
    """Map a service account's key, application default credentials, and what the provider's hook exchanges."""
    location = fields.needed("location", fields.text("location"), meaning="location of the datasets, such as EU or europe-west3")
    for name in ("use_legacy_sql", "api_resource_configs", "labels"):
        fields.refuse(name, "dlt's queries cannot be given it; remove it, or use another connection")
    if (fields.text("priority") or "INTERACTIVE").upper() != "INTERACTIVE":
        raise fields.error("priority", "dlt's queries are interactive; remove it, or use another connection")
    credentials = google_credentials(fields, from_hook=_from_hook)
    return Mapped(credentials=credentials, settings={"location": location, "project_id": credentials["project_id"]})


def map_gcs(fields: ConnectionFields) -> Mapped:
    """Map the connection of a bucket: a key, or application default credentials."""
    return Mapped(credentials=google_credentials(fields, from_hook=_not_for_files))


def google_credentials(fields: ConnectionFields, *, from_hook: FromHook) -> CredentialsConfiguration:
    """Map a connection's credentials.

    :param from_hook: makes those that only the provider's hook can make.
    """
    fields.refuse("is_anonymous", "anonymous access cannot write")
    scopes = fields.raw("scope")
    if scopes not in (None, _CLOUD_PLATFORM):
        raise fields.error("scope", f"dlt asks for {_CLOUD_PLATFORM}; remove it, or use another connection")
    fields.without_effect("num_retries", "host", "login", "password", "schema", "port")
    project = fields.text("project")
    if fields.has(*_BY_HOOK):
        return from_hook(fields, project)
    key = _service_account_key(fields)
    if key is None:
        return _application_default(fields, project)
    if key.get("type") == "service_account":
        return _service_account(fields, key, project)
    if key.get("type") == "authorized_user":
        return _authorized_user(fields, key, project)
    return from_hook(fields, project)


def _service_account_key(fields: ConnectionFields) -> dict[str, Any] | None:
    path = fields.text("key_path")
    if path is None:
        return fields.mapping("keyfile_dict") or None
    if fields.has("keyfile_dict"):
        raise fields.error("key_path", "keyfile_dict is set, too; remove one of them")
    try:
        key = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        fail(fields, "key_path", "there is no JSON in such a file on the worker", error)
    if not isinstance(key, dict):
        raise fields.error("key_path", "the file holds JSON, but not an object")
    return key


def _service_account(fields: ConnectionFields, key: dict[str, Any], project: str | None) -> CredentialsConfiguration:
    from dlt.common.configuration.specs import GcpServiceAccountCredentials

    secrets_of(key, "private_key", "private_key_id")
    missing = [name for name in ("private_key", "client_email") if not isinstance(key.get(name), str) or not key[name]]
    if missing:
        raise fields.error("keyfile_dict", f"the key has no {' and no '.join(missing)}")
    if key.get("token_uri", _TOKEN_URI) != _TOKEN_URI or key.get("universe_domain", _UNIVERSE) != _UNIVERSE:
        raise fields.error("keyfile_dict", "dlt knows only the universe googleapis.com and its token_uri")
    return complete(
        GcpServiceAccountCredentials,
        project_id=_project(fields, project or key.get("project_id")),
        # Without the last line's end the library cannot read it.
        private_key=key["private_key"].rstrip("\n") + "\n",
        private_key_id=key.get("private_key_id"),
        client_email=key["client_email"],
    )


def _authorized_user(fields: ConnectionFields, key: dict[str, Any], project: str | None) -> CredentialsConfiguration:
    from dlt.common.configuration.specs import GcpOAuthCredentials

    secrets_of(key, "client_secret", "refresh_token")
    needed = ("client_id", "client_secret", "refresh_token")
    if not all(isinstance(key.get(name), str) and key[name] for name in needed):
        raise fields.error("keyfile_dict", f"a key of type authorized_user has {', '.join(needed)}")
    return complete(
        GcpOAuthCredentials,
        project_id=_project(fields, project or key.get("quota_project_id")),
        **{name: key[name] for name in needed},
    )


def _application_default(fields: ConnectionFields, project: str | None) -> CredentialsConfiguration:
    """Take the credentials of the worker, as the provider's hook does for a connection without a key."""
    try:
        import google.auth
    except ImportError as error:
        fail(fields, "keyfile_dict", "it is empty, and application default credentials need google-auth on the workers", error)
    try:
        credentials, found = google.auth.default(scopes=[_CLOUD_PLATFORM])
    except Exception as error:  # noqa: BLE001 - many kinds
        fail(fields, "keyfile_dict", "it is empty, and the worker has no application default credentials", error)
    return _native(credentials, _project(fields, project or found))


def _from_hook(fields: ConnectionFields, project: str | None) -> CredentialsConfiguration:
    fields.secret("client_secret")
    fields.leave_to_hook(*_BY_HOOK, "keyfile_dict", "key_path")
    hook = provider_hook(fields, _HOOK, package=_PACKAGE, because="extra")(gcp_conn_id=fields.conn_id)
    try:
        credentials, found = hook.get_credentials_and_project_id()
    except Exception as error:  # noqa: BLE001 - many kinds, some of which quote the key
        fail(fields, "extra", "the provider's hook could not make credentials of it", error)
    return _native(credentials, _project(fields, project or found))


def _not_for_files(fields: ConnectionFields, _project: str | None) -> NoReturn:
    # dlt would let gcsfs find credentials of its own: another identity.
    raise fields.error("extra", "a bucket needs the key of a service account, or application default credentials")


def _native(credentials: object, project: str) -> CredentialsConfiguration:
    from dlt.common.configuration.specs import GcpServiceAccountCredentials

    found = GcpServiceAccountCredentials()
    # It would take credentials of a service account apart, which loses who is impersonated.
    found._set_default_credentials(credentials)  # noqa: SLF001
    found.project_id = project
    found.__is_resolved__ = True
    return found


def _project(fields: ConnectionFields, project: object) -> str:
    return fields.needed("project", project if isinstance(project, str) else None, meaning="project")
