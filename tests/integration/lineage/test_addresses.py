# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""OpenLineage's names of databases, folders and lists hold no credential, in whatever way a connection holds one."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.addresses import UNREADABLE, without_credentials
from limio_limitrail.hooks.databases import find_database
from limio_limitrail.landing.sql import LandingError
from limio_limitrail.landing.sql.persistent_connection import PersistentConnection
from limio_limitrail.observability.lineage import LineageDataset, folder_dataset, list_dataset, table_dataset

SECRET = "S3cr/et?P4ss#w=rd&x@y Z;q"
PLAIN = "eyJhbGciOiJIUzI1NiJ9.S3cretPart.signature"


def pieces(secret: str) -> set[str]:
    """All that would show a part of a secret: four characters of it in a row."""
    return {secret[at : at + 4].lower() for at in range(len(secret) - 3)}


def shows(text: str, *secrets: str) -> bool:
    forms = {text.lower()}
    for _ in range(4):
        forms |= {unquote(form) for form in forms}
    return any(piece in form for secret in secrets for piece in pieces(secret) for form in forms)


def q(text: str, times: int = 1) -> str:
    for _ in range(times):
        text = quote(text, safe="")
    return text


# What a connection holds, and the namespace.
DUCKDB: dict[str, tuple[dict[str, Any], str]] = {
    "a file": ({"host": "/data/w.duckdb"}, "duckdb:///data/w.duckdb"),
    "a file with an @": ({"host": "/data/me@corp/w.duckdb"}, "duckdb:///data/me@corp/w.duckdb"),
    "a file with a space": ({"host": "/data/my files/w.duckdb"}, "duckdb:///data/my files/w.duckdb"),
    "a file below a partition": ({"host": "/data/day=2026-11-27/w.duckdb"}, "duckdb:///data/day=2026-11-27/w.duckdb"),
    "a relative file": ({"host": "data/w.duckdb"}, "duckdb://data/w.duckdb"),
    "token in the host": ({"host": f"md:db?motherduck_token={PLAIN}"}, "duckdb://md:db"),
    "token in the host, among others": ({"host": f"md:db?saas_mode=true&motherduck_token={PLAIN}&x=1"}, "duckdb://md:db"),
    "token in upper case": ({"host": f"MD:db?MOTHERDUCK_TOKEN={PLAIN}"}, "duckdb://md:db"),
    "token percent-encoded": ({"host": f"md:db%3Fmotherduck_token%3D{PLAIN}"}, "duckdb://md:db"),
    "token twice encoded": ({"host": q(f"md:db?motherduck_token={PLAIN}", 2)}, "duckdb://md:db"),
    "the long prefix": ({"host": f"motherduck:db?motherduck_token={PLAIN}"}, "duckdb://motherduck:db"),
    "token in extra": ({"schema": "db", "extra": {"motherduck_token": PLAIN}}, "duckdb://md:db"),
    "token in the password": ({"schema": "db", "password": PLAIN}, "duckdb://md:db"),
    "token in the schema": ({"schema": f"db?motherduck_token={PLAIN}", "password": PLAIN}, "duckdb://md:db"),
    "database in extra": ({"host": "/no", "extra": {"database": f"md:db?motherduck_token={PLAIN}"}}, "duckdb://md:db"),
    "a path with parameters": ({"host": f"/data/w.duckdb?access_key={PLAIN}"}, "duckdb:///data/w.duckdb"),
    "a path with a semicolon": ({"host": f"/data/w.duckdb;password={PLAIN}"}, "duckdb:///data/w.duckdb"),
    "a path with a fragment": ({"host": f"/data/w.duckdb#token={PLAIN}"}, "duckdb:///data/w.duckdb"),
    "a store": ({"host": f"s3://key:{PLAIN}@bucket/w.duckdb"}, "duckdb://s3://bucket/w.duckdb"),
    "a signed URL": ({"host": f"https://h.example/w.duckdb?X-Amz-Signature={PLAIN}"}, "duckdb://https://h.example/w.duckdb"),
    "another database's string": ({"host": f"postgres:host=h dbname=x password={PLAIN}"}, "duckdb://postgres:h"),
    "a lake's catalog": ({"host": f"ducklake:postgres:dbname=x password={PLAIN}"}, f"duckdb://ducklake:postgres:{UNREADABLE}"),
}
POSTGRES: dict[str, tuple[dict[str, Any], str]] = {
    "a host": ({"host": "H.Example.com"}, "postgres://h.example.com:5432"),
    "a port": ({"host": "h", "port": 6543}, "postgres://h:6543"),
    "an address": ({"host": "::1"}, "postgres://%3A%3A1:5432"),
    "two hosts": ({"host": "h1,h2"}, "postgres://h1%2Ch2:5432"),
    "a socket": ({"host": "/var/run/pg"}, "postgres://%2Fvar%2Frun%2Fpg:5432"),
    "user and password": ({"host": f"u:{PLAIN}@h"}, "postgres://h:5432"),
    "a password with everything": ({"host": f"u:{SECRET}@h.example"}, f"postgres://{UNREADABLE}"),
    "a user alone": ({"host": f"{PLAIN}@h"}, "postgres://h:5432"),
    "encoded": ({"host": q(f"u:{PLAIN}@h")}, "postgres://h:5432"),
    "twice encoded": ({"host": q(f"u:{PLAIN}@h", 2)}, "postgres://h:5432"),
    "a URI": ({"host": f"postgresql://u:{PLAIN}@h:6543/db?sslpassword={PLAIN}"}, "postgres://h:6543"),
    "a URI in upper case": ({"host": f"POSTGRESQL://u:{PLAIN}@h/db?PASSWORD={PLAIN}"}, "postgres://h:5432"),
    "a URI whose password has a slash": ({"host": "postgresql://u:abcd/EFGH/ijkl@h:1/db"}, "postgres://h:1"),
    "a query": ({"host": f"h?password={PLAIN}"}, "postgres://h:5432"),
    "a query with an @": ({"host": f"h?options=a@b&password={PLAIN}"}, "postgres://h:5432"),
    "a connection string": ({"host": f"host=h port=6543 password={PLAIN}"}, "postgres://h:6543"),
    "a quoted one": ({"host": f"password='a \\' {PLAIN}' host = 'h'"}, "postgres://h:5432"),
    "one without a host": ({"host": f"dbname=x password={PLAIN}"}, f"postgres://{UNREADABLE}"),
    "one with semicolons": ({"host": f"Server=h;Pwd={PLAIN};"}, "postgres://h:5432"),
    "extra": ({"host": "h", "extra": {"password": PLAIN, "sslpassword": PLAIN, "options": f"-c x={PLAIN}"}}, "postgres://h:5432"),
    "a colon without a host": ({"host": f"u:{PLAIN}"}, f"postgres://{UNREADABLE}"),
    "the password's own field": ({"host": "h", "login": "u", "password": SECRET}, "postgres://h:5432"),
}
SQLITE: dict[str, tuple[dict[str, Any], str]] = {
    "a file": ({"host": "/data/w.db"}, "sqlite:///data/w.db"),
    "with a key": ({"host": f"/data/w.db?key={PLAIN}"}, "sqlite:///data/w.db"),
    "a URI with a key": ({"host": f"file:/data/w.db?cipher=x&hexkey={PLAIN}"}, "sqlite://file:/data/w.db"),
    "an encoded key": ({"host": f"/data/w.db%3Fkey={PLAIN}"}, "sqlite:///data/w.db"),
}
CONNECTIONS = [
    pytest.param(kind, fields, namespace, id=f"{kind}-{name}")
    for kind, cases in {"duckdb": DUCKDB, "postgres": POSTGRES, "sqlite": SQLITE}.items()
    for name, (fields, namespace) in cases.items()
]


@pytest.mark.parametrize(("kind", "fields", "namespace"), CONNECTIONS)
def test_tables(monkeypatch: pytest.MonkeyPatch, kind: str, fields: dict[str, Any], namespace: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": kind, **fields}))
    place = table_dataset(find_database("warehouse"), table="main.orders")
    assert not shows(f"{place.namespace} {place.name}", PLAIN, SECRET, "abcd/EFGH/ijkl")
    assert (place.namespace, place.name) == (namespace, "main.orders")


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ("db", "db.main.orders"),
        ("My db", "My db.main.orders"),
        (f"postgresql://u:{PLAIN}@h/db", f"{UNREADABLE}.main.orders"),
        (f"dbname=db password={PLAIN}", f"{UNREADABLE}.main.orders"),
        (q(f"dbname=db password={PLAIN}"), f"{UNREADABLE}.main.orders"),
        (f"db?sslpassword={PLAIN}", f"{UNREADABLE}.main.orders"),
    ],
)
def test_databases(monkeypatch: pytest.MonkeyPatch, schema: str, name: str) -> None:
    fields = {"conn_type": "postgres", "host": "h", "schema": schema}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(fields))
    assert table_dataset(find_database("warehouse"), table="main.orders").name == name


UNREACHABLE = [
    ("postgres", {"host": f"u:{PLAIN}@nowhere.invalid"}),
    ("postgres", {"host": f"postgresql://u:{PLAIN}@127.0.0.1:9/db"}),
    ("postgres", {"host": f"host=127.0.0.1 port=9 password={PLAIN}"}),
    ("postgres", {"host": "127.0.0.1", "port": 9, "schema": f"postgresql://u:{PLAIN}@127.0.0.1:9/db?x={PLAIN}"}),
    ("postgres", {"host": "127.0.0.1", "port": 9, "extra": {"options": f"-c x={PLAIN}", "sslmode": PLAIN}}),
    ("duckdb", {"host": f"s3://key:{PLAIN}@bucket/w.duckdb"}),
    ("duckdb", {"host": f"postgres:host=127.0.0.1 port=9 password={PLAIN}"}),
    ("duckdb", {"host": f"/nowhere/w.duckdb?password={PLAIN}"}),
    ("duckdb", {"host": f"/nowhere/w.duckdb;token={PLAIN}"}),
    ("duckdb", {"host": f"md:db?motherduck_token={PLAIN}"}),
    ("duckdb", {"host": f"MD:db?saas_mode=true&MotherDuck_Token={PLAIN}"}),
    ("sqlite", {"host": f"/nowhere/x.db?key={PLAIN}"}),
]


@pytest.mark.parametrize(("kind", "fields"), UNREACHABLE, ids=range(len(UNREACHABLE)))
def test_a_database_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, kind: str, fields: dict[str, Any]) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": kind, "login": "me", **fields}))
    database = PersistentConnection(find_database("warehouse"), duckdb_wait=0.1)
    with pytest.raises(LandingError) as refused, database.transaction():
        pass
    assert not shows(str(refused.value), PLAIN)


STORES = {
    "s3://bucket/a/b": ("s3://bucket", "a/b"),
    "S3://Bucket/a/b": ("s3://Bucket", "a/b"),
    "s3://my_conn@bucket/a/b": ("s3://bucket", "a/b"),
    "s3://my_conn@bucket/a@b/c": ("s3://bucket", "a@b/c"),
    f"s3://key:{PLAIN}@bucket/a": ("s3://bucket", "a"),
    "s3://AKIA:abcd/EFGH+ijkl@bucket/a": ("s3://bucket", "a"),
    f"s3://key%3A{PLAIN}%40bucket/a": ("s3://bucket", "a"),
    f"s3://bucket/a?X-Amz-Signature={PLAIN}": ("s3://bucket", "a"),
    f"s3://bucket/a%3FX-Amz-Signature%3D{PLAIN}": ("s3://bucket", "a"),
    f"s3://bucket/a?GoogleAccessId=me@x.iam&Signature={PLAIN}": ("s3://bucket", "a"),
    f"s3://key:{PLAIN}": (f"s3://{UNREADABLE}", ""),
    "s3://bucket:9000/a": ("s3://bucket:9000", "a"),
    "s3://bucket/day=2026-11-27/a": ("s3://bucket", "day=2026-11-27/a"),
    f"s3://bucket/token={PLAIN}/a": ("s3://bucket", f"token={UNREADABLE}"),
    "gs://conn@bucket/a": ("gs://bucket", "a"),
    f"gs://bucket/a?access_token={PLAIN}": ("gs://bucket", "a"),
    "file:///lake/a b/c": ("file", "/lake/a b/c"),
    f"file:///lake/a?token={PLAIN}": ("file", "/lake/a"),
}


@pytest.mark.parametrize(("url", "expected"), STORES.items(), ids=range(len(STORES)))
def test_folders(url: str, expected: tuple[str, str]) -> None:
    from airflow.sdk import ObjectStoragePath

    place = folder_dataset(ObjectStoragePath(url))
    assert not shows(f"{place.namespace} {place.name}", PLAIN, "abcd/EFGH+ijkl")
    assert (place.namespace, place.name) == expected


BARE = {
    "abfss://box@acc.dfs.core.windows.net/a": "abfss://box@acc.dfs.core.windows.net/a",
    f"abfss://box@acc.dfs.core.windows.net/a?sv=1&sig={PLAIN}": "abfss://box@acc.dfs.core.windows.net/a",
    f"ABFSS://box@acc.dfs.core.windows.net/a?SIG={PLAIN}": "abfss://box@acc.dfs.core.windows.net/a",
    f"wasbs://box@acc.blob.core.windows.net/a?sig={PLAIN}": "wasbs://box@acc.blob.core.windows.net/a",
    f"wasb://box:{PLAIN}@acc.blob.core.windows.net/a": "wasb://acc.blob.core.windows.net/a",
    "abfs://my_conn@box/a": "abfs://box/a",
    f"AccountName=acc;AccountKey={PLAIN}==": UNREADABLE,
    "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine/a": "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine/a",
    "https://[::1]:8443/x": "https://[::1]:8443/x",
    f"https://u:{PLAIN}@[::1]:8443/x": "https://[::1]:8443/x",
    "https://h:99999999/x": f"https://{UNREADABLE}",
    f"sqlserver://h;user=sa;password={PLAIN}": "sqlserver://h",
    f"https://h/a#access_token={PLAIN}": "https://h/a",
    f"https://h/a\nAuthorization: Bearer {PLAIN}": f"https://h/{UNREADABLE}",
    q(f"https://u:{PLAIN}@h/a", 3): "https://h/a",
    q(f"https://u:{PLAIN}@h/a", 20): UNREADABLE,
    f"https://h/{'a' * 5000}?sig={PLAIN}": UNREADABLE,
    "": "",
}


@pytest.mark.parametrize(("address", "expected"), BARE.items(), ids=range(len(BARE)))
def test_addresses(address: str, expected: str) -> None:
    assert without_credentials(address) == expected


def test_lists() -> None:
    def named(url: str) -> LineageDataset:
        return list_dataset(scheme="limio", base_url=url, resource="orders")

    assert named("https://Acme.prod.limio.com:8443/api") == LineageDataset(
        namespace="limio://acme.prod.limio.com:8443", name="orders"
    )
    assert named(f"https://u:{PLAIN}@acme.example/api?key={PLAIN}") == LineageDataset(
        namespace="limio://acme.example", name="orders"
    )


HOSTS = st.from_regex(r"[a-z]{3,8}(\.[a-z]{2,5})?", fullmatch=True)
SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=40)


@given(host=HOSTS, secret=SECRETS, times=st.integers(0, 3), scheme=st.sampled_from(["s3", "https", "postgresql", ""]))
def test_whatever_the_password_it_goes(host: str, secret: str, times: int, scheme: str) -> None:
    # Percent-encoded, as a URI's has to be; and bare, as people paste it, from where no query can begin in it.
    made = f"u:{q(secret)}@{host}/x"
    found = without_credentials(q(f"{scheme}://{made}" if scheme else made, times))
    assert found in (f"{scheme}://{host}/x" if scheme else f"{host}/x", UNREADABLE, f"{scheme}://{UNREADABLE}")


@given(host=HOSTS, secret=SECRETS, name=st.sampled_from(["password", "X-Amz-Signature", "sig", "motherduck_token", "x"]))
def test_whatever_the_query_it_goes(host: str, secret: str, name: str) -> None:
    assert without_credentials(f"https://{host}/x?{name}={secret}") == f"https://{host}/x"


@given(text=st.text())
def test_any_text_is_an_address_or_none(text: str) -> None:
    once = without_credentials(text)
    assert without_credentials(once) == once
