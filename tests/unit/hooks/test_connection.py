# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A connection is read, or refused with the name of the field that is wrong."""

from __future__ import annotations

import itertools
import json

import pytest
from airflow.sdk import Connection
from airflow.sdk._shared.secrets_masker import should_hide_value_for_key

from limio_limitrail.api.errors import ConnectionFieldError
from limio_limitrail.api.resource import AuthMode
from limio_limitrail.hooks.api_connections import read_limio_connection
from limio_limitrail.hooks.clients import make_limio_client
from limio_limitrail.hooks.connection import Settings
from limio_limitrail.hooks.limio import LimioHook
from limio_limitrail.hooks.limitrail import LimitRailHook
from limio_limitrail.provider_info import get_provider_info

SECRET = "s3cret-Value/1+2="
FIELDS = get_provider_info()["connection-types"][0]["conn-fields"]


def connection(**fields: object) -> Connection:
    extra = {name: fields.pop(name) for name in list(fields) if name in FIELDS}
    values = {"conn_id": "acme", "conn_type": "limio", "host": "acme.prod.limio.com", "login": "the-client", "password": SECRET}
    if extra:
        values["extra"] = json.dumps(extra)
    return Connection(**{**values, **fields})  # type: ignore[arg-type]


def read(**fields: object) -> Settings:
    return read_limio_connection(connection(**fields))


@pytest.mark.parametrize(
    ("fields", "app_url"),
    [
        ({"host": "acme.prod.limio.com"}, "https://acme.prod.limio.com"),
        ({"host": " acme.prod.limio.com/ "}, "https://acme.prod.limio.com"),
        ({"host": "acme", "region": "eu"}, "https://acme.prod.limio.com"),
        ({"host": "acme", "region": "US"}, "https://acme.prod-us.limio.com"),
        ({"host": "acme", "region": "eu", "port": 8443}, "https://acme:8443"),
        ({"host": "acme", "region": "eu", "port": 443}, "https://acme.prod.limio.com"),
        ({"host": "acme.prod.limio.com", "port": 443}, "https://acme.prod.limio.com"),
        ({"host": "http://127.0.0.1", "port": 443}, "http://127.0.0.1:443"),
        ({"host": "https://acme.prod.limio.com"}, "https://acme.prod.limio.com"),
        ({"host": "HTTPS://acme.prod.limio.com/api/"}, "https://acme.prod.limio.com"),
        ({"host": "https://acme.prod.limio.com/api", "port": 8443}, "https://acme.prod.limio.com:8443"),
        ({"host": "acme.prod.limio.com:8443", "port": 1}, "https://acme.prod.limio.com:8443"),
        ({"host": "http://127.0.0.1:8080"}, "http://127.0.0.1:8080"),
        ({"host": "127.0.0.1", "port": 8080, "schema": "http"}, "http://127.0.0.1:8080"),
        ({"host": "localhost", "schema": "http"}, "http://localhost"),
        ({"host": "http://[::1]:8080"}, "http://[::1]:8080"),
        ({"host": "http://[::1]", "port": 8080}, "http://[::1]:8080"),
    ],
)
def test_the_host_in_every_form(fields, app_url):
    settings = read(**fields)
    assert settings.app_url == app_url
    assert settings.auth_url == f"{app_url}/oauth2/token"


SPELLINGS = ["", "https://", "HTTPS://"], ["acme.prod.limio.com", "ACME.prod.Limio.com"], ["", "."], ["", ":443", ":0443"]


@pytest.mark.parametrize("host", ["".join(parts) for parts in itertools.product(*SPELLINGS)])
def test_a_host_in_another_spelling_is_the_same_tenant(monkeypatch, host):
    """What watches and watermarks know of a list counts only for whom it belongs to."""
    for kind, hook in (("limio", LimioHook), ("limitrail", LimitRailHook)):
        monkeypatch.setenv("AIRFLOW_CONN_HERE", json.dumps({"conn_type": kind, "host": host, "login": "c", "password": "canary"}))
        assert hook("here").owner() == {"base URL": "https://acme.prod.limio.com", "client": "c"}


@pytest.mark.parametrize("host", ["acme.prod-us.limio.com", "acme.prod.limio.com:8443", "acme.prod.limio.com.:8443"])
def test_another_host_is_another_tenant(host):
    assert read(host=host).owner()["base URL"] == f"https://{host.replace('.:', ':')}"


def test_defaults():
    settings = read()
    assert settings == Settings(
        app_url="https://acme.prod.limio.com",
        auth_url="https://acme.prod.limio.com/oauth2/token",
        auth_mode=AuthMode.OAUTH,
        client_id="the-client",
        secret=settings.secret,
        read_timeout=60.0,
        total_timeout=300.0,
        max_response=256_000_000,
        page_size=None,
        verify=True,
    )
    assert settings.secret.reveal() == SECRET


def test_every_extra(tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    settings = read(auth_url="https://auth.example/t", timeout="12.5", page_size="25", verify=str(bundle))
    assert settings.auth_url == "https://auth.example/t"
    assert (settings.read_timeout, settings.page_size, settings.verify) == (12.5, 25, str(bundle))


@pytest.mark.parametrize(
    ("extra", "total", "budget"),
    [
        ({}, 300.0, 600.0),
        ({"timeout": 120}, 300.0, 600.0),
        ({"timeout": 500}, 1000.0, 2000.0),
        ({"total_timeout": "900"}, 900.0, 1800.0),
        ({"timeout": 5, "total_timeout": 5.5}, 5.5, 600.0),
        ({"total_timeout": ""}, 300.0, 600.0),
        ({"total_timeout": 20}, 20.0, 600.0),
    ],
)
def test_the_total_is_longer_than_a_silence_and_another_try_fits_in(extra, total, budget):
    settings = read(**extra)
    assert settings.total_timeout == total
    assert settings.read_timeout == float(extra.get("timeout", min(60.0, total)))
    assert make_limio_client(settings).limits.budget == budget
    assert make_limio_client(settings).transport.timeouts.total == total


@pytest.mark.parametrize(("given", "found"), [(1, 1_000_000), ("1.5", 1_500_000), (16384, 16_384_000_000), (None, 256_000_000)])
def test_the_largest_answer_is_given_in_megabytes(given, found):
    settings = read(max_response_mb=given)
    assert settings.max_response == found
    assert make_limio_client(settings).transport.max_response == found


def test_a_key_needs_no_login():
    settings = read(auth_mode="api_key", login=None)
    assert settings.auth_mode is AuthMode.API_KEY
    assert settings.secret.reveal() == SECRET


@pytest.mark.parametrize(
    ("verify", "expected"),
    [("true", True), ("FALSE", False), ("no", False), ("1", True), (True, True), (False, False), ("", True), (None, True)],
)
def test_verify(verify, expected):
    assert read(verify=verify).verify is expected


WRONG = [
    ({"host": None}, "host", "empty"),
    ({"host": "  "}, "host", "empty"),
    ({"host": "acme"}, "region", "bare tenant 'acme'"),
    ({"host": "http://acme.prod.limio.com"}, "host", "https"),
    ({"host": "http://localhost.evil.com"}, "host", "https"),
    ({"host": "http://127.evil.com"}, "host", "https"),
    ({"host": "ftp://acme.prod.limio.com"}, "host", "neither https nor http"),
    ({"schema": "ftp"}, "schema", "neither https nor http"),
    ({"host": "https://acme.prod.limio.com/shop"}, "host", "'/shop'"),
    ({"host": "https://acme.prod.limio.com?x=1"}, "host", "query"),
    ({"host": "https://acme.prod.limio.com#x"}, "host", "fragment"),
    ({"host": f"https://u:{SECRET.replace('/', '')}@acme.prod.limio.com"}, "host", "user or a password"),
    ({"host": f"u:{SECRET.replace('/', '')}@acme"}, "host", "user or a password"),
    ({"host": "https://@acme.prod.limio.com"}, "host", "user or a password"),
    ({"host": "acme .prod.limio.com"}, "host", "white space"),
    ({"host": "acme.prod.limio.com\\@evil"}, "host", ""),
    ({"host": "acme.prod.limio.com:port"}, "host", "no host and no URL"),
    ({"host": "https://"}, "host", ""),
    ({"login": None}, "login", "client id"),
    ({"login": " "}, "login", "client id"),
    ({"password": None}, "password", "client secret"),
    ({"password": "", "auth_mode": "api_key"}, "password", "publishable API key"),
    ({"password": f"{SECRET}\nsecond line"}, "password", "pasted whole"),
    ({"password": f"{SECRET}é"}, "password", "pasted whole"),
    ({"region": "mars"}, "region", "'mars'"),
    ({"region": 5}, "region", "text"),
    ({"auth_mode": "basic"}, "auth_mode", "oauth, api_key"),
    ({"auth_mode": ["oauth"]}, "auth_mode", "text"),
    ({"auth_url": "http://auth.example/t"}, "auth_url", "https"),
    ({"auth_url": "auth.example/t"}, "auth_url", "no host and no URL"),
    ({"auth_url": f"https://u:{SECRET.replace('/', '')}@auth.example/t"}, "auth_url", "user or a password"),
    ({"auth_url": 5}, "auth_url", "text"),
    ({"timeout": 0}, "timeout", "number from 0.1 to 3600"),
    ({"timeout": "nan"}, "timeout", "number"),
    ({"timeout": "soon"}, "timeout", "'soon'"),
    ({"timeout": True}, "timeout", "number"),
    ({"timeout": 1e9}, "timeout", "number"),
    ({"timeout": 10**400}, "timeout", "number"),
    ({"total_timeout": 0}, "total_timeout", "number from 0.2 to 86400"),
    ({"total_timeout": "soon"}, "total_timeout", "'soon'"),
    ({"total_timeout": True}, "total_timeout", "number"),
    ({"total_timeout": "inf"}, "total_timeout", "number"),
    ({"total_timeout": 60, "timeout": 60}, "total_timeout", "longer than timeout (60 s)"),
    ({"total_timeout": 10, "timeout": 20}, "total_timeout", "longer than timeout (20 s)"),
    ({"max_response_mb": 0}, "max_response_mb", "number from 1 to 16384"),
    ({"max_response_mb": -1}, "max_response_mb", "number"),
    ({"max_response_mb": "256 MB"}, "max_response_mb", "'256 MB'"),
    ({"page_size": 0}, "page_size", "number from 1"),
    ({"page_size": 1.5}, "page_size", "whole number"),
    ({"page_size": "ten"}, "page_size", "'ten'"),
    ({"page_size": [10]}, "page_size", "number"),
    ({"verify": "/nowhere/ca.pem"}, "verify", "not there"),
    ({"verify": 5}, "verify", "CA bundle"),
    ({"extra": "{not json"}, "extra", "not JSON"),
    ({"extra": "[1]"}, "extra", "not an object"),
]


@pytest.mark.parametrize(("fields", "field", "what"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_field_is_named_with_its_connection_and_no_secret(fields, field, what):
    with pytest.raises(ConnectionFieldError) as caught:
        read(**fields)
    message = str(caught.value)
    assert message.startswith(f"connection 'acme', field {field!r}: ")
    assert what in message
    assert SECRET not in message
    assert SECRET.replace("/", "") not in message


def test_settings_show_no_secret():
    assert SECRET not in f"{read()} {read()!r}"


def test_field_names_do_not_look_like_secrets():
    assert should_hide_value_for_key("token_url"), "the masker no longer hides what this test guards against"
    assert [name for name in (*FIELDS, "host", "login") if should_hide_value_for_key(name)] == []
    assert should_hide_value_for_key("password")


def values_of(schema: dict[str, object]) -> list[object]:
    """Values that a form makes of a field, as they come and as texts."""
    kinds = schema["type"]
    assert isinstance(kinds, list)
    values: list[object] = [None] if "null" in kinds else []
    if "enum" in schema:
        return [*values, *schema["enum"]]  # type: ignore[misc]
    if schema.get("format") == "uri":
        return [*values, "https://auth.example/oauth2/token", ""]
    if "number" in kinds or "integer" in kinds:
        return [*values, schema["minimum"], schema["maximum"], str(schema["minimum"]), 60, ""]
    if "object" in kinds:
        return [*values, {}, {"*": "/"}, '{"*": "/"}', ""]
    return [*values, "true", "false", ""]


@pytest.mark.parametrize(
    ("name", "value"),
    list(itertools.chain(*([(name, value) for value in values_of(field["schema"])] for name, field in FIELDS.items()))),
)
def test_whatever_the_form_produces_is_read(name, value):
    assert read(**{name: value}).app_url == "https://acme.prod.limio.com"


@pytest.mark.parametrize(
    "extra",
    [None, {"region": "eu", "timeout": 12.5, "page_size": 25, "verify": False, "auth_url": "https://auth.example/t?"[:-1]}],
)
@pytest.mark.parametrize("host", ["acme.prod.limio.com", "http://127.0.0.1:8080", "https://acme.prod.limio.com"])
@pytest.mark.parametrize("form", ["uri", "json", "environment uri", "environment json"])
def test_round_trips(monkeypatch, form, host, extra):
    from airflow.models.connection import Connection as Model

    model = Model(
        conn_id="acme", conn_type="limio", host=host, login="the client/@:", password=SECRET, extra=extra and json.dumps(extra)
    )
    before = read_limio_connection(model)
    if form == "uri":
        after = read_limio_connection(Model(conn_id="acme", uri=model.get_uri()))
    elif form == "json":
        after = read_limio_connection(Model.from_json(model.as_json(), conn_id="acme"))
    else:
        from airflow.sdk.bases.hook import BaseHook

        monkeypatch.setenv("AIRFLOW_CONN_ACME", model.get_uri() if form.endswith("uri") else model.as_json())
        after = read_limio_connection(BaseHook.get_connection("acme"))
    assert after == before
    assert after.secret.reveal() == SECRET


def test_the_emulator_gives_connections_in_both_forms(monkeypatch, limio_emulator):
    from airflow.sdk.bases.hook import BaseHook

    read_back = []
    for text in (limio_emulator.connection_uri(page_size=5), limio_emulator.airflow_connection_json(page_size=5)):
        monkeypatch.setenv("AIRFLOW_CONN_ACME", text)
        read_back.append(read_limio_connection(BaseHook.get_connection("acme")))
    assert read_back[0] == read_back[1]
    assert (read_back[0].app_url, read_back[0].page_size) == (limio_emulator.url, 5)
