# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A connection that leads to each of dlt's destinations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PASSWORD = "p4ss-W0rd/1+2=;x"

KEY = "-----BEGIN PRIVATE KEY-----\nbm90LWEta2V5LWJ1dC1zZWNyZXQ=\n-----END PRIVATE KEY-----\n"
SERVICE_ACCOUNT = {
    "type": "service_account",
    "project_id": "acme-prod",
    "private_key_id": "0123456789abcdef",
    "private_key": KEY,
    "client_email": "loader@acme-prod.iam.gserviceaccount.com",
    "token_uri": "https://oauth2.googleapis.com/token",
}

CONNECTIONS: Mapping[str, dict[str, Any]] = {
    "snowflake": {
        "conn_type": "snowflake",
        "login": "loader",
        "password": PASSWORD,
        "extra": {"account": "acme-eu", "database": "ANALYTICS", "warehouse": "LOADS", "role": "LOADER"},
    },
    "bigquery": {"conn_type": "gcpbigquery", "extra": {"keyfile_dict": SERVICE_ACCOUNT, "location": "EU"}},
    "redshift": {"conn_type": "redshift", "host": "acme.eu", "schema": "analytics", "login": "loader", "password": PASSWORD},
    "databricks": {
        "conn_type": "databricks",
        "host": "https://acme.cloud.databricks.com/",
        "password": PASSWORD,
        "extra": {"http_path": "/sql/1.0/warehouses/abc", "catalog": "main"},
    },
    "mssql": {"conn_type": "mssql", "host": "db.acme", "schema": "Analytics", "login": "loader", "password": PASSWORD},
    "synapse": {"conn_type": "odbc", "host": "db.acme", "schema": "pool", "login": "loader", "password": PASSWORD},
    "fabric": {
        "conn_type": "odbc",
        "host": "x.datawarehouse.fabric.microsoft.com",
        "schema": "wh",
        "login": "client",
        "password": "p4ss-W0rd/1+2=x",
        "extra": {"tenant_id": "tenant"},
    },
    "clickhouse": {"conn_type": "clickhouse", "host": "ch.acme", "login": "loader", "password": PASSWORD, "schema": "analytics"},
    "motherduck": {"conn_type": "duckdb", "schema": "analytics", "password": PASSWORD},
    "duckdb": {"conn_type": "duckdb", "host": "/data/analytics.duckdb"},
    "postgres": {"conn_type": "postgres", "host": "db.acme", "schema": "analytics", "login": "loader", "password": PASSWORD},
    "sqlalchemy": {
        "conn_type": "mysql",
        "host": "db.acme",
        "login": "loader",
        "password": PASSWORD,
        "extra": {"client": "pymysql"},
    },
}
"""By the name of the destination; Athena and files need more than a connection."""

AWS = {"conn_type": "aws", "login": "AKIAEXAMPLE", "password": PASSWORD, "extra": {"region_name": "eu-west-1"}}
