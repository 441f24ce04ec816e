# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A LimitRail connection is read, or refused with the name of the field that is wrong."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from airflow.sdk import Connection
from airflow.sdk._shared.secrets_masker import should_hide_value_for_key

from limio_limitrail.api.errors import ConnectionFieldError, ParameterError
from limio_limitrail.hooks.api_connections import LimitRailSettings, read_limitrail_connection, split_scopes
from limio_limitrail.hooks.limitrail import LimitRailHook
from limio_limitrail.provider_info import get_provider_info
from limio_limitrail.usage import Idempotency, Refusal, ResponseMapping

SECRET = "s3cret-Value/1+2="
(FORM,) = [kind for kind in get_provider_info()["connection-types"] if kind["connection-type"] == "limitrail"]
FIELDS = FORM["conn-fields"]


def read(**fields: object) -> LimitRailSettings:
    extra = {name: fields.pop(name) for name in list(fields) if name in FIELDS}
    values = {"conn_id": "rail", "conn_type": "limitrail", "host": "stg-api.limitrail.com", "login": "lr_1", "password": SECRET}
    if extra:
        values["extra"] = json.dumps(extra)
    return read_limitrail_connection(Connection(**{**values, **fields}))  # type: ignore[arg-type]


def test_defaults():
    settings = read()
    assert settings.app_url == "https://stg-api.limitrail.com"
    assert settings.auth_url == "https://stg-api.limitrail.com/connect/token"
    assert (settings.client_id, settings.secret.reveal()) == ("lr_1", SECRET)
    assert (settings.scopes, settings.paths, settings.tenant) == ((), (), None)
    assert (settings.read_timeout, settings.page_size, settings.verify) == (60.0, None, True)
    assert settings.tenant_name == "lr_1@https://stg-api.limitrail.com"
    assert SECRET not in f"{settings} {settings!r}"


@pytest.mark.parametrize(
    ("fields", "api_url"),
    [
        ({"host": "https://api.limitrail.com/"}, "https://api.limitrail.com"),
        ({"host": "api.limitrail.com", "port": 8443}, "https://api.limitrail.com:8443"),
        ({"host": "api.limitrail.com", "port": 443}, "https://api.limitrail.com"),
        ({"host": "http://127.0.0.1:8080"}, "http://127.0.0.1:8080"),
        ({"host": "localhost", "schema": "http", "port": 80}, "http://localhost:80"),
    ],
)
def test_the_host_in_every_form(fields, api_url):
    settings = read(**fields)
    assert (settings.app_url, settings.auth_url) == (api_url, f"{api_url}/connect/token")


@pytest.mark.parametrize(
    "paths", [{"usage": "/v2/usage", "usage.commit": "/v2/commit"}, ' {"usage": "/v2/usage", "usage.commit": "/v2/commit"} ']
)
def test_every_extra(paths):
    settings = read(
        scope=" b  a b ", auth_url="https://stg-oauth.limitrail.com/connect/token", paths=paths, tenant=" acme ", timeout="5",
        page_size="50", verify="false",
    )  # fmt: skip
    assert settings.scopes == ("a", "b")
    assert settings.auth_url == "https://stg-oauth.limitrail.com/connect/token"
    assert dict(settings.paths) == {"usage": "/v2/usage", "usage.commit": "/v2/commit"}
    assert (settings.tenant, settings.tenant_name) == ("acme", "acme")
    assert (settings.read_timeout, settings.page_size, settings.verify) == (5.0, 50, False)
    assert hash(settings)


@pytest.mark.parametrize("form", [lambda value: value, json.dumps])
def test_how_the_api_answers_and_takes_keys(form):
    response = {"decision_field": None, "decisions": {"OK": "committed"}, "already_committed": [{"status": 409}]}
    settings = read(response=form(response), idempotency=form({"header": "X-Key", "resend_within": "PT6H"}))
    assert settings.response == ResponseMapping(
        decision_field=None, decisions={"OK": "committed"}, already_committed=(Refusal(status=409),)
    )
    assert settings.idempotency == Idempotency(header="X-Key", resend_within=timedelta(hours=6))
    assert hash(settings)
    assert settings != read(idempotency=form({"header": "X-Key", "resend_within": "PT6H"}))
    assert (read().response, read(response="").response, read().idempotency) == (None, None, None)


WRONG = [
    ({"host": None}, "host", "stg-api.limitrail.com"),
    ({"host": "https://stg-api.limitrail.com/v1"}, "host", "'/v1'"),
    ({"host": "http://stg-api.limitrail.com"}, "host", "https"),
    ({"login": ""}, "login", "client id"),
    ({"password": None}, "password", "client secret"),
    ({"auth_url": "http://stg-oauth.limitrail.com/connect/token"}, "auth_url", "https"),
    ({"scope": ["a"]}, "scope", "text"),
    ({"scope": "a,b"}, "scope", "spaces"),
    ({"scope": 'a "b"'}, "scope", "spaces"),
    ({"paths": "/v2"}, "paths", "not JSON"),
    ({"paths": "[]"}, "paths", "object"),
    ({"paths": {"usage": 5}}, "paths", "texts"),
    ({"paths": {"usage": "v2/usage"}}, "paths", "'usage'"),
    ({"paths": {"usage": "//evil.example/usage"}}, "paths", "one slash"),
    ({"paths": {"usage": "https://evil.example/usage"}}, "paths", "one slash"),
    ({"paths": {"usage": "/v2/../usage"}}, "paths", "one slash"),
    ({"paths": {"usage": "/v2?x=1"}}, "paths", "query"),
    ({"paths": {"usage": "/v2/{id"}}, "paths", "braces"),
    ({"paths": {"usage": "/v2/{}"}}, "paths", "braces"),
    ({"paths": {"usage": ""}}, "paths", "one slash"),
    ({"response": "x"}, "response", "mapping"),
    ({"response": {"decision": "d"}}, "response", "got the member 'decision'"),
    ({"response": {"decisions": {"HELD": "parked"}}}, "response", "one of committed, denied"),
    ({"response": {"committed_statuses": [404]}}, "response", "from 200 to 299"),
    ({"idempotency": [1]}, "idempotency", "Idempotency, or a mapping of header and field and resend_within"),
    ({"idempotency": {"header": "a b"}}, "idempotency", "the name of a header"),
    ({"idempotency": {"resend_within": "soon"}}, "idempotency", "a span of time"),
    ({"tenant": 5}, "tenant", "text"),
    ({"timeout": "soon"}, "timeout", "number"),
    ({"page_size": 0}, "page_size", "number"),
]


@pytest.mark.parametrize(("fields", "field", "what"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_field_is_named_with_its_connection_and_no_secret(fields, field, what):
    with pytest.raises(ConnectionFieldError) as caught:
        read(**fields)
    message = str(caught.value)
    assert message.startswith(f"connection 'rail', field {field!r}: ")
    assert what in message
    assert SECRET not in message


def test_field_names_do_not_look_like_secrets():
    assert [name for name in FIELDS if should_hide_value_for_key(name)] == []


@pytest.mark.parametrize(("name", "values"), [(name, ["", None]) for name in FIELDS])
def test_a_field_that_the_form_leaves_empty_counts_as_left_out(name, values):
    for value in values:
        assert read(**{name: value}) == read()


@pytest.mark.parametrize("form", ["uri", "json"])
def test_round_trips(monkeypatch, form):
    from airflow.models.connection import Connection as Model
    from airflow.sdk.bases.hook import BaseHook

    extra = {"scope": "a b", "paths": {"usage": "/v2/usage"}, "tenant": "t"}
    model = Model(
        conn_id="rail",
        conn_type="limitrail",
        host="stg-api.limitrail.com",
        login="lr 1/@:",
        password=SECRET,
        extra=json.dumps(extra),
    )
    monkeypatch.setenv("AIRFLOW_CONN_RAIL", model.get_uri() if form == "uri" else model.as_json())
    after = read_limitrail_connection(BaseHook.get_connection("rail"))
    assert after == read_limitrail_connection(model)
    assert after.secret.reveal() == SECRET


@pytest.mark.parametrize("scope", ["b a", ["b", "a"], ("a b", "b"), {"a", "b"}])
def test_scopes_in_every_form(scope):
    assert split_scopes(scope) == ("a", "b")
    assert split_scopes(None) == split_scopes(()) == split_scopes(" ") == ()


@pytest.fixture
def hook_of(monkeypatch):
    def make(scope=None, *, own=None, **extra):
        if own is not None:
            extra["scope"] = own
        connection = {"conn_type": "limitrail", "host": "api.invalid", "login": "lr_1", "password": SECRET, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_LIMITRAIL_DEFAULT", json.dumps(connection))
        return LimitRailHook(scope=scope)

    return make


def test_scopes_of_connection_and_hook_are_added_up(hook_of):
    assert hook_of(scope="c a", own="b a").scopes == ("a", "b", "c")
    assert hook_of(scope=["c", "a"]).scopes == ("a", "c")
    assert hook_of(own="b").scopes == ("b",)


def test_without_any_scope_nothing_is_asked(hook_of):
    hook = hook_of()
    with pytest.raises(ConnectionFieldError, match=r"'limitrail_default', field 'scope'.*LimitRail requires a scope"):
        _ = hook.client
    assert hook.test_connection()[0] is False
    with pytest.raises(ParameterError, match="spaces"):
        _ = hook_of(scope="a,b").client


def test_paths_of_the_connection(hook_of):
    hook = hook_of(paths={"usage": "/v2/usage", "usage.commit": "/v2/commit"})
    assert hook.find_resource("usage").path == "/v2/usage"
    assert hook.find_resource("reservations").path == "/v1/usage/reservations"
    assert hook.path_for("usage.commit", default="/v1/usage/commit") == "/v2/commit"
    assert hook.path_for("usage.reserve", default="/v1/usage/reserve") == "/v1/usage/reserve"
    with pytest.raises(ParameterError, match="accounts, reservations, usage"):
        hook.find_resource("usages")
