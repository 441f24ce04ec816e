# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The bucket through which files go: which warehouse can copy from it, and what the statement hands it."""

from __future__ import annotations

import base64
import json
import sys
from types import ModuleType

import pytest
from dlt.destinations.impl.snowflake.utils import gen_copy_sql

from limio_limitrail.api.errors import ConnectionFieldError, ParameterError
from limio_limitrail.hooks.destinations.find import find_destination, find_staging
from tests.support.warehouse_connections import AWS, CONNECTIONS, PASSWORD, SERVICE_ACCOUNT

ACCOUNT_KEY = base64.b64encode(b"the key of an account").decode()
AZURE_SAS = {"conn_type": "wasb", "login": "acmestore", "extra": {"sas_token": "?sv=1&sig=s1gnature"}}
GOOGLE = {"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": SERVICE_ACCOUNT}}


@pytest.fixture
def store(monkeypatch):
    def connect(connection):
        monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps(connection))

    return connect


def test_an_s3_bucket_keeps_its_letters_and_options(store):
    store(
        {
            **AWS,
            "extra": {**AWS["extra"], "endpoint_url": "http://127.0.0.1:9000", "config_kwargs": {"retries": {"max_attempts": 9}}},
        }
    )
    params = find_staging("s3://store@Bucket/Folder").config_params
    assert params["bucket_url"] == "s3://Bucket/Folder"
    assert params["config_kwargs"] == {"retries": {"max_attempts": 9}}
    assert params["as_staging_destination"] is True
    credentials = params["credentials"]
    assert credentials.to_s3fs_credentials() | {"config_kwargs": None} == {
        "key": "AKIAEXAMPLE",
        "secret": PASSWORD,
        "token": None,
        "profile": None,
        "endpoint_url": "http://127.0.0.1:9000",
        "client_kwargs": {"region_name": "eu-west-1"},
        "config_kwargs": None,
    }


def test_a_gcs_bucket(store):
    store(GOOGLE)
    params = find_staging("gcs://store@bucket/x").config_params
    assert params["bucket_url"] == "gs://bucket/x"
    token = params["credentials"].to_gcs_credentials()
    assert (token["project"], token["token"]["client_email"]) == ("acme-prod", SERVICE_ACCOUNT["client_email"])


def test_a_gcs_bucket_is_not_read_as_somebody_else(store):
    store({**GOOGLE, "extra": {"impersonation_chain": "other@acme-prod.iam.gserviceaccount.com"}})
    with pytest.raises(ConnectionFieldError, match="needs the key of a service account"):
        find_staging("gs://store@bucket/x")


def test_an_azure_container_by_sas_token(store):
    store(AZURE_SAS)
    params = find_staging("az://store@container/x").config_params
    assert params["credentials"].to_adlfs_credentials()["sas_token"] == "sv=1&sig=s1gnature"
    assert params["credentials"].azure_storage_account_name == "acmestore"


@pytest.mark.parametrize(
    "connection",
    [
        {"conn_type": "wasb", "login": "acmestore", "password": ACCOUNT_KEY},
        {"conn_type": "wasb", "login": "acmestore", "extra": {"extra__wasb__shared_access_key": ACCOUNT_KEY}},
        {"conn_type": "adls", "host": "https://acmestore.blob.core.windows.net", "extra": {"account_key": ACCOUNT_KEY}},
        {
            "conn_type": "wasb",
            "extra": {"connection_string": f"AccountName=acmestore;AccountKey={ACCOUNT_KEY};EndpointSuffix=core.windows.net"},
        },
    ],
)
def test_an_azure_container_by_account_key(store, connection, monkeypatch):
    store(connection)
    blob = ModuleType("azure.storage.blob")
    blob.ResourceTypes = dict  # type: ignore[attr-defined]
    blob.generate_account_sas = lambda *, account_name, account_key, **_: f"{account_name}:{account_key}"  # type: ignore[attr-defined]
    for name in ("azure", "azure.storage"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "azure.storage.blob", blob)
    credentials = find_staging("abfss://store@container/x").config_params["credentials"]
    assert credentials.azure_storage_account_name == "acmestore"
    assert credentials.azure_storage_account_key == ACCOUNT_KEY
    # Made as dlt makes it, which is what warehouses are handed.
    assert credentials.azure_storage_sas_token == f"acmestore:{ACCOUNT_KEY}"


def test_an_azure_container_by_service_principal(store):
    host = "https://acmestore.blob.core.windows.net"
    store({"conn_type": "wasb", "host": host, "login": "client", "password": PASSWORD, "extra": {"tenant_id": "tenant"}})
    adlfs = find_staging("az://store@container/x").config_params["credentials"].to_adlfs_credentials()
    assert adlfs == {
        "account_name": "acmestore",
        "account_host": None,
        "tenant_id": "tenant",
        "client_id": "client",
        "client_secret": PASSWORD,
    }


def test_snowflake_is_handed_the_buckets_credentials(store):
    store(AWS)
    credentials = find_staging("s3://store@bucket/x").config_params["credentials"]
    statement = gen_copy_sql("s3://bucket/x/f.parquet", "T", "parquet", False, staging_credentials=credentials)
    assert f"AWS_KEY_ID='AKIAEXAMPLE' AWS_SECRET_KEY='{PASSWORD}')" in statement


COPIES = {
    ("snowflake", "s3"), ("snowflake", "az"), ("bigquery", "gs"), ("redshift", "s3"), ("databricks", "s3"), ("databricks", "az"),
    ("clickhouse", "s3"), ("synapse", "az"), ("fabric", "az"),
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
@pytest.mark.parametrize("name", CONNECTIONS)
def test_which_warehouse_copies_from_which_store(find, store, name, scheme):
    store({"s3": AWS, "gs": GOOGLE, "az": AZURE_SAS}[scheme])
    staging = find_staging(f"{scheme}://store@bucket/x")
    if (name, scheme) in COPIES:
        config = find(name, staging=staging, **CONNECTIONS[name]).config_params
        assert "staging_config" not in config  # dlt's pipeline puts it there
    else:
        with pytest.raises(ParameterError, match="staging"):
            find(name, staging=staging, **CONNECTIONS[name])


def test_without_a_bucket_nothing_is_staged(find):
    assert find("snowflake", **CONNECTIONS["snowflake"]).config_params["staging_config"] is None


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("s3://bucket/x", "names no connection"),
        ("s3://store:secret@bucket/x", "without a password"),
        ("s3://store@bucket/x?a=b", "a query"),
        ("ftp://store@bucket/x", "must begin with"),
        ("relative/folder", "absolute path"),
        ("s3://other@bucket/x", "no connection 'other'"),
    ],
)
def test_urls_that_do_not_fit(store, url, match):
    store(AWS)
    with pytest.raises(ParameterError, match=match):
        find_staging(url)


def test_files_in_a_local_folder(tmp_path):
    destination = find_destination("filesystem", conn_id=None, url=str(tmp_path))
    assert destination.config_params["bucket_url"] == f"file://{tmp_path}"
    with pytest.raises(ParameterError, match="leave the connection out"):
        find_destination("filesystem", conn_id="wh", url=str(tmp_path))
