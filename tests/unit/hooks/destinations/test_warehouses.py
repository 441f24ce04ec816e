# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What each kind of authentication becomes, as dlt hands it to the driver; and fields that correspond to nothing."""

from __future__ import annotations

import base64
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from limio_limitrail.api.errors import ConnectionFieldError, ParameterError
from limio_limitrail.api.redact import safe_text
from limio_limitrail.hooks.destinations.find import destination_names, find_destination
from tests.support.warehouse_connections import CONNECTIONS, KEY, PASSWORD, SERVICE_ACCOUNT


def changed(name, *, extra=None, **fields):
    """Return a connection with other fields."""
    connection = CONNECTIONS[name]
    return {**connection, **fields, "extra": {**connection.get("extra", {}), **(extra or {})}}


def without(name, *fields):
    connection = CONNECTIONS[name]
    return {**connection, "extra": {key: value for key, value in connection["extra"].items() if key not in fields}}


@pytest.fixture
def credentials(find):
    def make(name, connection):
        return find(name, **connection).config_params["credentials"]

    return make


@pytest.fixture
def hook(monkeypatch):
    """A provider's hook, which is not installed here."""

    def install(path, **methods):
        module, _, name = path.partition(":")
        made = []

        def make(**arguments):
            made.append(arguments)
            return SimpleNamespace(**methods)

        stub = ModuleType(module)
        setattr(stub, name, make)
        monkeypatch.setitem(sys.modules, module, stub)
        return made

    return install


def failing(*_args, **_kwargs):
    raise RuntimeError(f"401 for {PASSWORD}")


# Snowflake


def test_snowflake_by_password(credentials):
    params = credentials("snowflake", CONNECTIONS["snowflake"]).to_connector_params()
    assert params == {
        "account": "acme-eu",
        "database": "ANALYTICS",
        "user": "loader",
        "password": PASSWORD,
        "warehouse": "LOADS",
        "role": "LOADER",
        "application": "dltHub_dlt",
        "timezone": "UTC",
    }


@pytest.mark.parametrize("stored", ["pem", "base64", "file", "encrypted"])
def test_snowflake_by_key_pair(credentials, tmp_path, stored):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    cipher = BestAvailableEncryption(PASSWORD.encode()) if stored == "encrypted" else NoEncryption()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cipher).decode()
    (tmp_path / "key.p8").write_text(pem)
    extra = {
        "pem": {"private_key_content": pem},
        "encrypted": {"private_key_content": pem},
        "base64": {"extra__snowflake__private_key_content": base64.b64encode(pem.encode()).decode()},
        "file": {"private_key_file": str(tmp_path / "key.p8")},
    }[stored]
    password = {"password": PASSWORD if stored == "encrypted" else ""}
    params = credentials("snowflake", changed("snowflake", extra=extra, **password)).to_connector_params()
    assert params["private_key"] == key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert (params["user"], params["password"]) == ("loader", None)
    assert "private_key_passphrase" not in params
    body = pem.splitlines()[2]
    assert body not in (safe_text(f"bad key {body}") or "")


def test_snowflake_by_access_token(credentials):
    extra = {"authenticator": "programmatic_access_token"}
    params = credentials("snowflake", changed("snowflake", extra=extra)).to_connector_params()
    assert (params["authenticator"], params["token"], params["password"]) == ("programmatic_access_token", PASSWORD, None)


def test_snowflake_by_workload_identity(credentials):
    extra = {"authenticator": "WORKLOAD_IDENTITY", "workload_identity_provider": "OIDC", "token_file_path": "/run/token"}
    params = credentials("snowflake", changed("snowflake", extra=extra, password="")).to_connector_params()
    assert {name: params[name] for name in extra} == extra


SNOWFLAKE_HOOK = "airflow.providers.snowflake.hooks.snowflake:SnowflakeHook"


@pytest.mark.parametrize(
    "extra", [{"refresh_token": "r3fresh-token"}, {"authenticator": "oauth", "grant_type": "client_credentials"}]
)
def test_snowflake_by_oauth_through_the_providers_hook(credentials, hook, extra):
    asked = []
    made = hook(SNOWFLAKE_HOOK, get_oauth_token=lambda grant_type: asked.append(grant_type) or "acc3ss-token")
    params = credentials(
        "snowflake", changed("snowflake", extra={**extra, "token_endpoint": "https://idp/token"})
    ).to_connector_params()
    assert (params["authenticator"], params["token"], params["user"], params["password"]) == ("oauth", "acc3ss-token", None, None)
    assert (made, asked) == ([{"snowflake_conn_id": "wh"}], [extra.get("grant_type", "refresh_token")])
    assert "acc3ss" not in (safe_text("refused acc3ss-token") or "")


def test_snowflake_by_entra(credentials, hook):
    hook(SNOWFLAKE_HOOK, get_azure_oauth_token=lambda conn_id: f"token-of-{conn_id}")
    extra = {"authenticator": "oauth", "azure_conn_id": "entra"}
    assert credentials("snowflake", changed("snowflake", extra=extra)).token == "token-of-entra"


def test_snowflake_by_a_ready_oauth_token(credentials):
    extra = {"authenticator": "oauth", "token": "r3ady-token"}
    assert credentials("snowflake", changed("snowflake", extra=extra)).to_connector_params()["token"] == "r3ady-token"


def test_what_goes_to_snowflakes_connector(credentials):
    extra = {
        "region": "eu-central-1",
        "host": "acme.privatelink.snowflakecomputing.com",
        "port": 8443,
        "ocsp_fail_open": "false",
        "insecure_mode": True,
        "client_request_mfa_token": "",
        "session_parameters": {"TIMEZONE": "Europe/Berlin", "QUERY_TAG": "x"},
        "proxy_host": "proxy",
        "proxy_port": "3128",
        "proxy_user": "me",
        "proxy_password": "pr0xy-secret",
    }
    params = credentials("snowflake", changed("snowflake", extra=extra)).to_connector_params()
    expected = {**extra, "ocsp_fail_open": False, "proxy_port": 3128}
    del expected["client_request_mfa_token"]
    assert {name: params[name] for name in expected} == expected
    assert "timezone" not in params


# BigQuery


def test_bigquery_by_key(find):
    params = find("bigquery", **changed("bigquery", extra={"keyfile_dict": json.dumps(SERVICE_ACCOUNT)})).config_params
    key = params["credentials"]
    assert (key.project_id, key.client_email, key.private_key) == ("acme-prod", SERVICE_ACCOUNT["client_email"], KEY)
    assert (params["location"], params["project_id"]) == ("EU", "acme-prod")


def test_bigquery_by_a_keys_file(find, tmp_path):
    (tmp_path / "key.json").write_text(json.dumps(SERVICE_ACCOUNT))
    extra = {
        "extra__google_cloud_platform__key_path": str(tmp_path / "key.json"),
        "extra__google_cloud_platform__project": "acme-other",
        "extra__google_cloud_platform__num_retries": 5,
        "location": "EU",
    }
    params = find("bigquery", conn_type="google_cloud_platform", extra=extra).config_params
    assert params["credentials"].private_key == KEY
    assert params["project_id"] == "acme-other"


def test_bigquery_by_a_users_key(credentials):
    key = {
        "type": "authorized_user",
        "client_id": "c",
        "client_secret": "cl13nt",
        "refresh_token": "r3fresh",
        "quota_project_id": "p",
    }
    found = credentials("bigquery", changed("bigquery", extra={"keyfile_dict": key}))
    assert (found.client_id, found.client_secret, found.refresh_token, found.project_id) == ("c", "cl13nt", "r3fresh", "p")


def test_bigquery_by_the_workers_own_credentials(find, monkeypatch):
    auth = ModuleType("google.auth")
    auth.default = lambda scopes: ("the worker", "acme-gke")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "google.auth", auth)
    monkeypatch.setattr("google.auth", auth, raising=False)
    params = find("bigquery", conn_type="gcpbigquery", extra={"location": "EU"}).config_params
    assert params["credentials"].to_native_credentials() == "the worker"
    assert params["project_id"] == "acme-gke"


@pytest.mark.parametrize(
    "extra",
    [
        {"impersonation_chain": "other@acme-prod.iam.gserviceaccount.com"},
        {"key_secret_name": "loader", "key_secret_project_id": "acme-secrets"},
        {"credential_config_file": "/etc/federation.json"},
        {"quota_project_id": "acme-billing"},
        {"keyfile_dict": {"type": "external_account"}},
    ],
)
def test_bigquery_through_the_providers_hook(credentials, hook, extra):
    path = "airflow.providers.google.common.hooks.base_google:GoogleBaseHook"
    hook(path, get_credentials_and_project_id=lambda: ("impersonated", "acme-prod"))
    found = credentials("bigquery", changed("bigquery", extra=extra))
    assert (found.to_native_credentials(), found.project_id) == ("impersonated", "acme-prod")


# Amazon


def test_redshift_by_password_is_encrypted(credentials):
    found = credentials("redshift", CONNECTIONS["redshift"])
    assert (found.host, found.port, found.database, found.username, found.password) == (
        "acme.eu",
        5439,
        "analytics",
        "loader",
        PASSWORD,
    )
    assert found.get_query()["sslmode"] == "require"
    found = credentials("redshift", changed("redshift", extra={"sslmode": "verify-full", "timeout": 7}, port=5440))
    assert (found.port, found.get_query()["sslmode"], found.get_query()["connect_timeout"]) == (5440, "verify-full", 7)
    assert credentials("redshift", changed("redshift", extra={"ssl": False})).get_query()["sslmode"] == "disable"


def test_redshift_by_iam(credentials, hook):
    path = "airflow.providers.amazon.aws.hooks.redshift_sql:RedshiftSQLHook"
    hook(path, get_iam_token=lambda connection: (f"IAM:{connection.login}", "t0ken-of-iam", 5441))
    found = credentials("redshift", changed("redshift", extra={"iam": True, "cluster_identifier": "acme"}, password=""))
    assert (found.username, found.password, found.port) == ("IAM:loader", "t0ken-of-iam", 5441)


def test_a_role_is_assumed_by_the_providers_hook(monkeypatch, hook):
    key = SimpleNamespace(access_key="ASIA", secret_key="s3cret-of-role", token="t0ken-of-role")
    session = SimpleNamespace(
        get_credentials=lambda: SimpleNamespace(get_frozen_credentials=lambda: key), region_name="eu-central-1"
    )
    made = hook("airflow.providers.amazon.aws.hooks.base_aws:AwsGenericHook", get_session=lambda: session)
    extra = {"role_arn": "arn:aws:iam::1:role/loader", "assume_role_kwargs": {"ExternalId": "x"}}
    monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps({"conn_type": "aws", "extra": extra}))
    found = find_destination("filesystem", conn_id="store", url="s3://bucket/x").config_params["credentials"]
    assert found.to_session_credentials() == {
        "aws_access_key_id": "ASIA",
        "aws_secret_access_key": "s3cret-of-role",
        "aws_session_token": "t0ken-of-role",
    }
    assert found.region_name == "eu-central-1"
    assert made == [{"aws_conn_id": "store"}]


# Databricks


def test_databricks_by_token(credentials):
    extra = {"session_configuration": {"a": "b"}, "_socket_timeout": 9}
    params = credentials("databricks", changed("databricks", extra=extra)).to_connector_params
    with pytest.raises(TypeError, match="_socket_timeout"):  # of dlt's own, twice: the driver is told nothing silently
        params()
    params = credentials("databricks", changed("databricks", extra={"session_configuration": {"a": "b"}, "max_retries": 3}))
    assert params.to_connector_params() == {
        "catalog": "main",
        "server_hostname": "acme.cloud.databricks.com",
        "http_path": "/sql/1.0/warehouses/abc",
        "access_token": PASSWORD,
        "session_configuration": {"a": "b"},
        "_socket_timeout": 180,
        "max_retries": 3,
        "user_agent_entry": "dltHub_dlt",
    }


def test_databricks_by_service_principal(credentials):
    found = credentials("databricks", changed("databricks", extra={"service_principal_oauth": True}, login="client"))
    assert (found.client_id, found.client_secret, found.access_token) == ("client", PASSWORD, None)


@pytest.mark.parametrize(
    ("extra", "login"),
    [
        ({"azure_tenant_id": "tenant", "azure_resource_id": "/subscriptions/x"}, "client"),
        ({"use_azure_managed_identity": True}, "x"),
        ({"federated_token_provider": "a.b", "client_id": "client"}, "x"),
        ({}, "federated_k8s"),
    ],
)
def test_databricks_through_the_providers_hook(credentials, hook, extra, login):
    path = "airflow.providers.databricks.hooks.databricks_sql:DatabricksSqlHook"
    hook(path, sqlalchemy_url=SimpleNamespace(password="t0ken-of-entra"))
    assert credentials("databricks", changed("databricks", extra=extra, login=login)).access_token == "t0ken-of-entra"


# Microsoft


def test_sql_server(credentials):
    dsn = credentials("mssql", changed("mssql", extra={"encryption": "require", "appname": "loads"})).to_odbc_dsn()
    assert dsn == (
        "DRIVER=ODBC Driver 18 for SQL Server;SERVER=db.acme,1433;DATABASE=Analytics;UID=loader;"
        f"PWD={{{PASSWORD}}};ENCRYPT=yes;APP=loads"
    )


def test_sql_server_by_entra(credentials):
    extra = {
        "Driver": "{ODBC Driver 17 for SQL Server}",
        "Authentication": "ActiveDirectoryServicePrincipal",
        "TrustServerCertificate": "no",
    }
    dsn = credentials("mssql", changed("mssql", conn_type="odbc", extra=extra, login="client")).to_odbc_dsn()
    assert "DRIVER=ODBC Driver 17 for SQL Server" in dsn
    assert f"UID=client;PWD={{{PASSWORD}}};AUTHENTICATION=ActiveDirectoryServicePrincipal;TRUSTSERVERCERTIFICATE=no" in dsn


def test_sql_server_by_managed_identity(credentials):
    extra = {"Authentication": "ActiveDirectoryMsi"}
    found = credentials("mssql", changed("mssql", conn_type="odbc", extra=extra, login="", password=""))
    assert "AUTHENTICATION=ActiveDirectoryMsi" in found.to_odbc_dsn()


def test_synapse(credentials):
    assert "LONGASMAX=yes" in credentials("synapse", CONNECTIONS["synapse"]).to_odbc_dsn()


def test_fabric(credentials):
    dsn = credentials("fabric", CONNECTIONS["fabric"]).to_odbc_dsn()
    assert "UID=client@tenant;PWD=p4ss-W0rd/1+2=x" in dsn
    assert "AUTHENTICATION=ActiveDirectoryServicePrincipal" in dsn


# ClickHouse


@pytest.mark.parametrize(
    ("fields", "native", "http", "secure"),
    [
        ({}, 9000, 8123, 0),
        ({"extra": {"secure": True}}, 9440, 8443, 1),
        ({"port": 8443, "extra": {"secure": "true"}}, 9440, 8443, 1),
        ({"port": 18123, "extra": {"native_port": 19000}}, 19000, 18123, 0),
        ({"port": 9000, "extra": {"http_port": 8123}}, 9000, 8123, 0),
        ({"extra": {"native_port": 1, "http_port": 2}}, 1, 2, 0),
    ],
)
def test_both_ports_of_clickhouse(credentials, fields, native, http, secure):
    found = credentials("clickhouse", changed("clickhouse", **fields))
    assert (found.port, found.http_port, found.secure) == (native, http, secure)
    assert (found.username, found.password, found.database) == ("loader", PASSWORD, "analytics")


# DuckDB, MotherDuck, Postgres, MySQL


def test_a_file_of_duckdb_downloads_nothing(credentials, tmp_path):
    extra = {"threads": 2, "memory_limit": "1GB", "settings": {"preserve_insertion_order": False}}
    found = credentials("duckdb", {"conn_type": "duckdb", "host": str(tmp_path / "a.duckdb"), "extra": extra})
    assert found.global_config["memory_limit"] == "1GB"
    connection = found.conn_pool.borrow_conn()
    try:
        settings = dict(connection.sql("SELECT name, value FROM duckdb_settings()").fetchall())
    finally:
        found.conn_pool.return_conn(connection)
    assert (settings["threads"], settings["autoinstall_known_extensions"]) == ("2", "false")
    assert (tmp_path / "a.duckdb").exists()
    without = credentials("duckdb", {"conn_type": "duckdb", "host": str(tmp_path / "a.duckdb")})
    assert without.global_config["memory_limit"] == "512MB"


@pytest.mark.parametrize(
    "connection",
    [
        CONNECTIONS["motherduck"],
        {"conn_type": "duckdb", "schema": "analytics", "extra": {"motherduck_token": PASSWORD}},
        {"conn_type": "duckdb", "password": PASSWORD, "extra": {"database": "md:analytics"}},
        {"conn_type": "duckdb", "extra": {"database": "md:analytics?motherduck_token=p4ss-W0rd%2F1%2B2%3D%3Bx"}},
    ],
)
def test_motherduck(credentials, connection):
    found = credentials("motherduck", connection)
    assert (found.database, found.password) == ("analytics", PASSWORD)


def test_postgres(credentials):
    libpq = {"sslmode": "verify-full", "sslrootcert": "/etc/ca.pem", "connect_timeout": 5, "options": "-c a=b"}
    found = credentials("postgres", changed("postgres", extra={**libpq, "cursor": "dictcursor"}, port=5433))
    assert (found.host, found.port, found.database) == ("db.acme", 5433, "analytics")
    assert (found.username, found.password) == ("loader", PASSWORD)
    assert found.get_query() == libpq


def test_postgres_over_a_socket(credentials):
    url = credentials("postgres", changed("postgres", host="/var/run/postgresql")).to_native_representation()
    assert url.startswith("postgresql://loader:p4ss-W0rd%2F1+2%3D%3Bx@localhost:5432/analytics?")
    assert "host=%2Fvar%2Frun%2Fpostgresql" in url


def test_postgres_by_iam(credentials, hook):
    path = "airflow.providers.postgres.hooks.postgres:PostgresHook"
    hook(path, get_iam_token=lambda connection: (connection.login, "t0ken-of-iam", 5432))
    found = credentials("postgres", changed("postgres", extra={"iam": True, "aws_conn_id": "aws"}, password=""))
    assert found.password == "t0ken-of-iam"


def test_mysql(credentials):
    found = credentials("sqlalchemy", changed("sqlalchemy", extra={"ssl": '{"ca": "/etc/ca.pem"}'}, schema="base"))
    assert found.to_native_representation() == ("mysql+pymysql://loader:p4ss-W0rd%2F1+2%3D%3Bx@db.acme:3306/base?charset=utf8mb4")
    assert found.engine_kwargs == {"connect_args": {"ssl": {"ca": "/etc/ca.pem"}}}


@pytest.mark.parametrize(
    ("client", "drivername"),
    [("mysqlclient", "mysql+mysqldb"), ("mysql-connector-python", "mysql+mysqlconnector"), ("pymysql", "mysql+pymysql")],
)
def test_the_driver_of_mysql(credentials, client, drivername):
    assert credentials("sqlalchemy", changed("sqlalchemy", extra={"client": client})).drivername == drivername


# What does not fit


REFUSED = [
    ("snowflake", changed("snowflake", extra={"authenticator": "externalbrowser"}), "authenticator"),
    ("snowflake", changed("snowflake", extra={"private_key_content": "x", "private_key_file": "y"}), "private_key_file"),
    ("snowflake", changed("snowflake", extra={"private_key_file": "/nowhere"}), "private_key_file"),
    ("snowflake", changed("snowflake", extra={"private_key_content": "no key"}), "private_key_content"),
    ("snowflake", changed("snowflake", extra={"grant_type": "client_credentials"}), "apache-airflow-providers-snowflake"),
    ("snowflake", without("snowflake", "account"), "account"),
    ("snowflake", without("snowflake", "database"), "database"),
    ("snowflake", changed("snowflake", password=""), "password"),
    ("bigquery", without("bigquery", "location"), "location"),
    ("bigquery", changed("bigquery", extra={"priority": "BATCH"}), "priority"),
    ("bigquery", changed("bigquery", extra={"labels": {"a": "b"}}), "labels"),
    ("bigquery", changed("bigquery", extra={"scope": "https://www.googleapis.com/auth/bigquery"}), "scope"),
    ("bigquery", changed("bigquery", extra={"is_anonymous": True}), "is_anonymous"),
    ("bigquery", changed("bigquery", extra={"key_path": "/x"}), "key_path"),
    ("bigquery", changed("bigquery", extra={"keyfile_dict": {**SERVICE_ACCOUNT, "token_uri": "https://e.vil"}}), "token_uri"),
    ("bigquery", changed("bigquery", extra={"keyfile_dict": "{"}), "keyfile_dict"),
    ("bigquery", changed("bigquery", extra={"impersonation_chain": "x"}), "apache-airflow-providers-google"),
    ("redshift", changed("redshift", extra={"tcp_keepalive": True}), "tcp_keepalive"),
    ("redshift", changed("redshift", extra={"iam": True}), "apache-airflow-providers-amazon"),
    ("databricks", without("databricks", "http_path"), "http_path"),
    ("databricks", without("databricks", "catalog"), "catalog"),
    ("databricks", changed("databricks", login="me"), "service_principal_oauth"),
    ("databricks", changed("databricks", extra={"proxies": {"https": "x"}}), "proxies"),
    ("mssql", changed("mssql", extra={"tds_version": "7.0"}), "tds_version"),
    ("mssql", changed("mssql", extra={"driver": "FreeTDS"}), "driver"),
    ("mssql", changed("mssql", extra={"Authentication": "ActiveDirectoryInteractive"}), "Authentication"),
    ("mssql", changed("mssql", schema=""), "schema"),
    ("synapse", changed("synapse", extra={"driver": "ODBC Driver 17 for SQL Server"}), "driver"),
    ("fabric", without("fabric", "tenant_id"), "tenant_id"),
    ("fabric", changed("fabric", password="a;b"), "password"),
    ("clickhouse", changed("clickhouse", port=9000), "http_port"),
    ("clickhouse", changed("clickhouse", extra={"verify": False}), "verify"),
    ("clickhouse", changed("clickhouse", extra={"session_settings": {"a": 1}}), "session_settings"),
    ("motherduck", changed("motherduck", password=""), "token of MotherDuck"),
    ("motherduck", changed("motherduck", schema=""), "schema"),
    ("duckdb", {"conn_type": "duckdb"}, "in memory"),
    ("duckdb", changed("duckdb", host=":memory:"), "in memory"),
    ("duckdb", changed("duckdb", extra={"read_only": True}), "read_only"),
    ("duckdb", CONNECTIONS["motherduck"] | {"host": "x"}, "motherduck"),
    ("postgres", changed("postgres", extra={"iam": True, "redshift": True}), "t"),
    ("postgres", changed("postgres", schema=""), "schema"),
    ("postgres", changed("postgres", host=""), "host"),
    ("sqlalchemy", changed("sqlalchemy", extra={"client": "other"}), "client"),
    ("sqlalchemy", changed("sqlalchemy", extra={"ssl_mode": "REQUIRED"}), "ssl_mode"),
    ("sqlalchemy", changed("sqlalchemy", extra={"init_command": "x"}), "init_command"),
]


@pytest.mark.parametrize(("name", "connection", "match"), REFUSED, ids=[f"{case[0]}-{case[2]}" for case in REFUSED])
def test_what_does_not_fit_is_named(find, name, connection, match):
    with pytest.raises(ConnectionFieldError, match=match) as refused:
        find(name, **connection)
    assert "'wh'" in str(refused.value)
    assert PASSWORD not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None


@pytest.mark.parametrize("name", sorted(CONNECTIONS.keys() - {"postgres", "databricks"}))
def test_a_field_that_nothing_corresponds_to_is_named(find, name):
    with pytest.raises(ConnectionFieldError, match="warp_factor"):
        find(name, **changed(name, extra={"warp_factor": "9"}))


def test_drivers_that_take_any_option_get_it_as_from_the_providers_hook(credentials):
    assert credentials("postgres", changed("postgres", extra={"warp_factor": "9"})).get_query()["warp_factor"] == "9"
    assert (
        credentials("databricks", changed("databricks", extra={"warp_factor": "9"})).to_connector_params()["warp_factor"] == "9"
    )


@pytest.mark.parametrize("name", CONNECTIONS)
def test_fields_of_older_pages(find, name):
    connection = CONNECTIONS[name]
    extra = {f"extra__{connection['conn_type']}__{field}": value for field, value in connection.get("extra", {}).items()}
    old = find(name, **{**connection, "extra": extra}).config_params["credentials"]
    new = find(name, **connection).config_params["credentials"]
    assert {**old, "conn_pool": None} == {**new, "conn_pool": None}


def test_both_names_of_a_field_that_differ(find):
    with pytest.raises(ConnectionFieldError, match="differ"):
        find("snowflake", **changed("snowflake", extra={"extra__snowflake__account": "other"}))


@pytest.mark.parametrize("extra", ["{", "[1]"])
def test_extra_that_is_no_object(monkeypatch, extra):
    monkeypatch.setenv("AIRFLOW_CONN_WH", json.dumps({**CONNECTIONS["postgres"], "extra": extra}))
    with pytest.raises(ConnectionFieldError, match="extra"):
        find_destination("postgres", conn_id="wh")


def test_a_failed_exchange_says_nothing_of_what_the_provider_said(find, hook):
    hook(SNOWFLAKE_HOOK, get_oauth_token=failing)
    with pytest.raises(ConnectionFieldError, match=r"no token could be had.*RuntimeError") as failed:
        find("snowflake", **changed("snowflake", extra={"grant_type": "client_credentials"}))
    assert PASSWORD not in str(failed.value)
    assert failed.value.__context__ is None


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "oracle", "conn_id": "wh"}, "must be one of"),
        ({"name": "snowflake", "conn_id": None}, "needs destination_conn_id"),
        ({"name": "snowflake", "conn_id": "nowhere"}, "no connection 'nowhere'"),
        ({"name": "snowflake", "conn_id": "wh"}, "has the type 'postgres'"),
        ({"name": "postgres", "conn_id": "wh", "url": "s3://x/y"}, "a URL is for"),
        ({"name": "filesystem", "conn_id": "wh"}, "needs the URL"),
        ({"name": "athena", "conn_id": "wh"}, "from a bucket only"),
    ],
)
def test_what_does_not_go_together(monkeypatch, arguments, match):
    monkeypatch.setenv("AIRFLOW_CONN_WH", json.dumps(CONNECTIONS["postgres"]))
    with pytest.raises(ParameterError, match=match):
        find_destination(arguments.pop("name"), **arguments)


def test_all_names_are_destinations_of_dlt():
    import dlt.destinations

    assert all(hasattr(dlt.destinations, name) for name in destination_names())
