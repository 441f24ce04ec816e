# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Connections of ``apache-airflow-providers-amazon``: Redshift, Athena, and S3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limio_limitrail.hooks.destinations.fields import ConnectionFields, fail, hide, provider_hook
from limio_limitrail.hooks.destinations.model import Mapped, complete

if TYPE_CHECKING:
    from dlt.common.configuration.specs import AwsCredentials

_PACKAGE = "apache-airflow-providers-amazon"
_AWS_HOOK = "airflow.providers.amazon.aws.hooks.base_aws:AwsGenericHook"
_REDSHIFT_HOOK = "airflow.providers.amazon.aws.hooks.redshift_sql:RedshiftSQLHook"
_ROLE = (
    "role_arn", "assume_role_method", "assume_role_kwargs", "external_id", "assume_role_with_saml",
    "assume_role_with_web_identity_token_file", "assume_role_with_web_identity_federation",
    "assume_role_with_web_identity_federation_audience", "assume_role_with_web_identity_client_id",
)  # fmt: skip
"""What the provider's hook exchanges for credentials of a role."""

_REDSHIFT_IAM = ("is_serverless", "serverless_work_group", "serverless_token_duration_seconds", "cluster_identifier")
_REDSHIFT_PORT = 5439


def map_s3(fields: ConnectionFields) -> Mapped:
    """Map the connection of a bucket, and how its client connects."""
    settings: dict[str, Any] = {}
    config, verify = fields.mapping("config_kwargs"), fields.raw("verify")
    if config:
        settings["config_kwargs"] = config
    if verify not in (None, True):
        settings["client_kwargs"] = {"verify": verify}
    endpoint = _service_endpoint(fields, "s3")
    fields.without_effect("host", "port", "schema")
    return Mapped(credentials=aws_credentials(fields, endpoint_url=endpoint), settings=settings)


def map_athena(fields: ConnectionFields) -> Mapped:
    """Map the connection of Athena; what PyAthena knows beside it goes there as it is."""
    region = fields.needed("region_name", fields.raw("region_name"), meaning="region")
    if (fields.text("driver") or "rest") != "rest":
        raise fields.error("driver", "dlt uses PyAthena's rest")
    if (fields.text("aws_domain") or "amazonaws.com") != "amazonaws.com":
        raise fields.error("aws_domain", "dlt knows only amazonaws.com")
    fields.refuse("verify", "dlt verifies certificates; remove it")
    fields.refuse("config_kwargs", "dlt cannot be given it; remove it, or use another connection")
    settings: dict[str, Any] = {
        "query_result_bucket": fields.needed("s3_staging_dir", fields.text("s3_staging_dir"), meaning="bucket for query results"),
        "athena_work_group": fields.text("work_group"),
    }
    catalog = fields.text("catalog_name") or fields.text("catalog")
    if catalog is not None:
        settings["aws_data_catalog"] = catalog
    credentials = aws_credentials(fields, endpoint_url=_service_endpoint(fields, "athena"))
    credentials.region_name = region
    fields.without_effect("schema", "schema_name", "host", "port")
    rest = fields.rest()
    if rest:
        settings["connection_params"] = rest
    return Mapped(credentials=credentials, settings=settings)


def _service_endpoint(fields: ConnectionFields, service: str) -> str | None:
    """Return the endpoint of a service, which has precedence over that of the connection."""
    endpoint = fields.text("endpoint_url")
    for name, settings in fields.mapping("service_config").items():
        if name == service and isinstance(settings, dict):
            unknown = set(settings) - {"endpoint_url", "bucket_name"}
            if unknown:
                raise fields.error("service_config", f"dlt cannot be given {', '.join(sorted(map(repr, unknown)))} of {service}")
            endpoint = settings.get("endpoint_url", endpoint)
    return endpoint


def aws_credentials(fields: ConnectionFields, *, endpoint_url: str | None) -> AwsCredentials:
    """Map access key, session token, profile, role, and the worker's own credentials where there is none of these."""
    region = fields.text("region_name")
    if fields.has("role_arn"):
        credentials = _of_role(fields)
    else:
        credentials = _of_key(fields) or _of_worker(fields, profile=fields.text("profile_name"), region=region)
    credentials.region_name = region or credentials.region_name
    credentials.endpoint_url = endpoint_url
    return credentials


def _of_key(fields: ConnectionFields) -> AwsCredentials | None:
    from dlt.common.configuration.specs import AwsCredentials

    login, password = fields.login(), fields.password()
    key, secret, token = (fields.secret(name) for name in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token"))
    session = fields.mapping("session_kwargs")
    if session:
        raise fields.error("session_kwargs", "put its members into extra themselves")
    key, secret = (login, password) if login and password else (key, secret)
    if bool(key or login) is not bool(secret or password):
        raise fields.error("password", "access key id (login) and secret access key (password) go together")
    if not key or not secret:
        if token:
            raise fields.error("aws_session_token", "it needs login and password, which are empty")
        return None
    if fields.has("profile_name"):
        raise fields.error("profile_name", "login and password are set, too; remove one of them")
    return complete(AwsCredentials, aws_access_key_id=key, aws_secret_access_key=secret, aws_session_token=token)


def _of_worker(fields: ConnectionFields, *, profile: str | None, region: str | None) -> AwsCredentials:
    """Take what botocore finds on the worker, as the provider's hook does for a connection without a key."""
    from dlt.common.configuration.specs import AwsCredentials

    credentials = AwsCredentials()
    credentials.profile_name, credentials.region_name = profile, region
    try:
        session = credentials._to_botocore_session()  # noqa: SLF001 - the only road to default credentials without look-ups
        found = session.get_credentials()
    except Exception as error:  # noqa: BLE001 - many kinds
        fail(fields, "login", "it is empty, and the worker has no credentials of its own", error)
    if found is None:
        raise fields.error("login", "it is empty, and the worker has no credentials of its own; put the access key id there")
    credentials.region_name = region or session.get_config_variable("region")
    credentials._set_default_credentials(session)  # noqa: SLF001 - likewise
    credentials.__is_resolved__ = True
    return credentials


def _of_role(fields: ConnectionFields) -> AwsCredentials:
    from dlt.common.configuration.specs import AwsCredentials

    fields.login()
    fields.password()
    for name in ("aws_secret_access_key", "aws_session_token"):
        fields.secret(name)
    fields.leave_to_hook(*_ROLE, "aws_access_key_id", "session_kwargs", "profile_name")
    hook = provider_hook(fields, _AWS_HOOK, package=_PACKAGE, because="role_arn")(aws_conn_id=fields.conn_id)
    try:
        session = hook.get_session()
        found, region = session.get_credentials().get_frozen_credentials(), session.region_name
    except Exception as error:  # noqa: BLE001 - many kinds
        fail(fields, "role_arn", "the role could not be assumed", error)
    for value in (found.secret_key, found.token):
        hide(value)
    # As they are: of a session dlt hands only the keys to some clients, and others would find credentials of their own.
    return complete(
        AwsCredentials,
        aws_access_key_id=found.access_key,
        aws_secret_access_key=found.secret_key,
        aws_session_token=found.token,
        region_name=region,
    )


def map_redshift(fields: ConnectionFields) -> Mapped:
    """Map password, and IAM through the provider's hook. The connection is encrypted unless ``ssl`` is false."""
    from dlt.destinations.impl.redshift.configuration import RedshiftCredentials

    database = fields.needed("schema", fields.schema(), meaning="database")
    host = fields.needed("host", fields.host(), meaning="host of the cluster or workgroup")
    login, password, port = fields.login(), fields.password(), fields.port()
    if fields.flag("iam"):
        login, password, port = _iam_token(fields)
    # Without it, libpq would go on in plain text where the server wants no encryption; Amazon's driver does not.
    sslmode = "disable" if fields.flag("ssl") is False else fields.text("sslmode") or "require"
    query: dict[str, Any] = {"sslmode": sslmode}
    application = fields.text("application_name")
    if application is not None:
        query["application_name"] = application
    credentials = complete(
        RedshiftCredentials,
        host=host,
        port=port or _REDSHIFT_PORT,
        database=database,
        username=fields.needed("login", login, meaning="user"),
        password=fields.needed("password", password, meaning="password"),
        query=query,
    )
    timeout = fields.whole("timeout")
    if timeout is not None:
        credentials.connect_timeout = timeout
    return Mapped(credentials=credentials)


def _iam_token(fields: ConnectionFields) -> tuple[str, str, int]:
    fields.leave_to_hook(*_REDSHIFT_IAM)
    hook = provider_hook(fields, _REDSHIFT_HOOK, package=_PACKAGE, because="iam")(redshift_conn_id=fields.conn_id)
    try:
        login, password, port = hook.get_iam_token(fields.connection)
    except Exception as error:  # noqa: BLE001 - many kinds
        fail(fields, "iam", "no token could be had for it with the connection aws_default", error)
    hide(password)
    return login, password, port
