# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Connections of Iceberg catalogs become properties of pyiceberg's."""

from __future__ import annotations

import json

import pytest

from limio_limitrail.api.errors import ConnectionFieldError, ParameterError
from limio_limitrail.hooks.destinations.catalogs import find_catalog
from tests.support.warehouse_connections import PASSWORD


@pytest.fixture
def catalog(monkeypatch):
    def _find(**fields):
        monkeypatch.setenv("AIRFLOW_CONN_CATALOG", json.dumps(fields))
        return dict(find_catalog("catalog"))

    return _find


def test_a_file(catalog):
    found = catalog(conn_type="sqlite", host="/srv/ice berg.db", extra={"catalog_name": "shop"})
    assert found == {"name": "shop", "type": "sql", "uri": "sqlite:////srv/ice berg.db"}


def test_a_database(catalog):
    fields = {"conn_type": "postgres", "host": "db.acme", "login": "l@der", "password": PASSWORD, "schema": "catalog"}
    found = catalog(**fields, extra={"sslmode": "require"})
    assert found["name"] == "default"
    assert found["uri"] == "postgresql+psycopg://l%40der:p4ss-W0rd%2F1+2%3D%3Bx@db.acme:5432/catalog?sslmode=require"
    by_socket = catalog(**{**fields, "host": "/var/run/postgresql"})["uri"]
    assert by_socket.endswith("@/catalog?host=%2Fvar%2Frun%2Fpostgresql")


def test_a_rest_service(catalog):
    found = catalog(
        conn_type="iceberg", host="https://ice.acme/api", login="me", password=PASSWORD, extra={"warehouse": "w", "scope": "s"}
    )
    assert found == {
        "name": "default",
        "type": "rest",
        "uri": "https://ice.acme/api",
        "credential": f"me:{PASSWORD}",
        "warehouse": "w",
        "scope": "s",
    }


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"conn_type": "duckdb", "host": "/x"}, ParameterError, "needs sqlite or postgres or iceberg"),
        ({"conn_type": "sqlite"}, ConnectionFieldError, "path of the file"),
        ({"conn_type": "sqlite", "host": "x.db"}, ConnectionFieldError, "absolute path"),
        ({"conn_type": "sqlite", "host": "/x.db", "extra": {"mode": "ro"}}, ConnectionFieldError, "'mode'"),
        ({"conn_type": "postgres", "host": "h", "login": "l", "password": PASSWORD}, ConnectionFieldError, "database"),
        ({"conn_type": "iceberg", "password": PASSWORD}, ConnectionFieldError, "URL of the catalog"),
    ],
)
def test_what_does_not_fit_is_named(catalog, fields, error, match):
    with pytest.raises(error, match=match) as refused:
        catalog(**fields)
    assert PASSWORD not in str(refused.value)
