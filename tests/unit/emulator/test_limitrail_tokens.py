# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRail's token endpoint, its scopes and tenants, and connections to it."""

from __future__ import annotations

import json

import pytest
import requests

from limio_limitrail.emulator import EmulatorServer, LimitRailClient, LimitRailOptions

pytestmark = pytest.mark.exhaustive

WRITE, READ, ACCOUNTS = "limitrail.usage.write", "limitrail.usage.read", "limitrail.accounts.read"


def test_a_token(rail):
    answer = rail.token_request(scope=f"{READ} {WRITE}")
    body = answer.json()
    assert answer.status_code == 200
    assert (body["token_type"], body["expires_in"], body["scope"]) == ("Bearer", 3600, f"{READ} {WRITE}")
    assert body["access_token"].count(".") == 2
    assert rail.server.limitrail.tokens[-1] == body["access_token"]
    assert len(set(rail.server.limitrail.tokens)) == 2
    assert rail.server.counters.snapshot()["tokens_minted"] == 2
    assert rail.server.minted_tokens == [], "Limio's are others"


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({"scope": ""}, 400, "invalid_request"),
        ({"scope": "  "}, 400, "invalid_request"),
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_secret": "lr-other-secret"}, 401, "invalid_client"),
        ({"client_id": "wrong"}, 401, "invalid_client"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
    ],
)
def test_what_the_form_lacks(rail, form, status, error):
    answer = rail.token_request(**form)
    assert (answer.status_code, answer.json()) == (status, {"error": error})
    assert len(rail.server.limitrail.tokens) == 1


def test_scope_missing_wrong_content_type_wrong_method(rail, is_problem):
    url = f"{rail.server.url}/connect/token"
    form = {"grant_type": "client_credentials", "client_id": "lr_demo", "client_secret": "lr-demo-secret"}
    assert requests.post(url, data=form, timeout=120).json() == {"error": "invalid_request"}
    assert requests.post(url, json={**form, "scope": WRITE}, timeout=120).json() == {"error": "invalid_request"}
    assert requests.post(url, data={**form, "scope": WRITE}, timeout=120).status_code == 200
    is_problem(requests.get(url, timeout=120), 405)


def test_a_scope_that_is_not_to_be_had(limitrail_emulator_factory, connect_rail):
    clients = (LimitRailClient("a", "s", "demo", (READ,)),)
    rail = connect_rail(limitrail_emulator_factory(limitrail=LimitRailOptions(clients=clients)))
    assert rail.token_request(scope=f"{WRITE} nonsense {READ}").json()["scope"] == READ
    assert rail.token_request(scope="nonsense").json()["scope"] == ""
    rail.server.configure_limitrail(refuse_unknown_scopes=True)
    for scope in ("nonsense", f"{READ} {WRITE}"):
        answer = rail.token_request(scope=scope)
        assert (answer.status_code, answer.json()) == (400, {"error": "invalid_scope"})
    assert rail.token_request(scope=READ).status_code == 200


def test_forms_of_the_answer(limitrail_emulator_factory, connect_rail):
    options = LimitRailOptions(omit_scope=True, expires_in=7)
    body = connect_rail(limitrail_emulator_factory(limitrail=options)).token_request().json()
    assert "scope" not in body
    assert body["expires_in"] == 7


@pytest.mark.parametrize("path", ["v1/usage", "v1/accounts", "v1/usage/reservations", "v1/nothing"])
def test_no_answer_without_a_live_token(rail, is_problem, path):
    token = rail.server.limitrail.tokens[0]
    for value in (None, "", "Bearer", "Bearer nonsense", token, f"Basic {token}", f"Bearer {rail.server.mint_token()}"):
        rail.session.headers["Authorization"] = value
        is_problem(rail.get(path), 401)
    is_problem(rail.commit(), 401)


def test_tokens_are_good_for_one_api_and_one_server(rail, limitrail_emulator_factory, connect_rail, is_problem):
    limio = requests.get(f"{rail.server.url}/api/offers", headers=rail.session.headers, timeout=120)
    assert limio.status_code == 401
    other = connect_rail(limitrail_emulator_factory())
    assert other.get("v1/accounts").status_code == 200
    other.session.headers["Authorization"] = rail.session.headers["Authorization"]
    is_problem(other.get("v1/accounts"), 401)


def test_a_token_ends(limitrail_emulator_factory, connect_rail, is_problem):
    rail = connect_rail(limitrail_emulator_factory(limitrail=LimitRailOptions(token_requests=2)))
    assert [rail.get("v1/accounts").status_code for _ in range(3)] == [200, 200, 401]
    rail.authorize()
    assert rail.get("v1/accounts").status_code == 200
    rail.server.expire_tokens()
    is_problem(rail.get("v1/accounts"), 401)
    rail.authorize()
    rail.server.configure_limitrail(token_seconds=0)
    is_problem(rail.get("v1/accounts"), 401)


def test_scopes_of_the_endpoints(rail, is_problem):
    window = {"from": "2020-01-01", "to": "2099-01-01"}
    id_ = rail.post("v1/usage/reserve", rail.usage()).json()["reservationId"]
    calls = {
        WRITE: [
            rail.commit,
            lambda: rail.post("v1/usage/preview", rail.usage()),
            lambda: rail.post("v1/usage/reserve", rail.usage()),
            lambda: rail.post(f"v1/usage/reservations/{id_}/commit"),
        ],
        READ: [lambda: rail.get("v1/usage", **window), lambda: rail.get("v1/usage/reservations", **window)],
        ACCOUNTS: [lambda: rail.get("v1/accounts")],
    }
    for granted in (READ, ACCOUNTS, WRITE):
        rail.authorize(granted)
        for needed, some in calls.items():
            for call in some:
                if needed == granted:
                    assert call().status_code == 200
                else:
                    is_problem(call(), 403)
    rail.authorize(READ)
    is_problem(rail.post(f"v1/usage/reservations/{id_}/cancel"), 403)


def test_paths_and_methods_that_do_not_exist(rail, is_problem):
    for path in ("v1/nothing", "v1/usage/", "v1/usage/reservations/x/y", "connect/nothing"):
        is_problem(rail.get(path), 404)
    is_problem(rail.get("v1/usage/commit"), 405)
    is_problem(rail.post("v1/accounts"), 405)
    answer = rail.get("v1/usage/reservations/x/commit")
    is_problem(answer, 405)
    assert answer.headers["Allow"] == "POST"
    assert len({rail.get("v1/nothing").json()["traceId"] for _ in range(3)}) == 3


def test_a_port_for_tokens_alone(limitrail_emulator_factory, connect_rail, is_problem):
    server = limitrail_emulator_factory(limitrail=LimitRailOptions(separate_oauth=True))
    rail = connect_rail(server)
    assert server.oauth_url != server.url
    assert rail.commit().status_code == 200
    is_problem(requests.post(f"{server.url}/connect/token", timeout=120), 404)
    for path in ("v1/accounts", "api/offers", "oauth2/token", "_emulator/counters"):
        headers = {"Authorization": rail.session.headers["Authorization"]}
        is_problem(requests.get(f"{server.oauth_url}/{path}", headers=headers, timeout=120), 404)
    value = json.loads(server.limitrail_connection_json())
    assert value["extra"]["auth_url"] == f"{server.oauth_url}/connect/token"
    with pytest.raises(ValueError, match="separate_oauth"):
        server.configure_limitrail(separate_oauth=False)


def test_the_port_for_tokens_is_kept_and_closed():
    server = EmulatorServer(limitrail=LimitRailOptions(separate_oauth=True))
    urls = set()
    for _ in range(2):
        with server:
            urls.add(server.oauth_url)
            assert requests.post(f"{server.oauth_url}/connect/token", timeout=120).status_code == 400
        with pytest.raises(requests.ConnectionError):
            requests.post(f"{server.oauth_url}/connect/token", timeout=120)
    assert len(urls) == 1


def test_connection_json(limitrail_emulator):
    assert limitrail_emulator.oauth_url == limitrail_emulator.url
    assert json.loads(limitrail_emulator.limitrail_connection_json()) == {
        "conn_type": "limitrail",
        "host": limitrail_emulator.url,
        "login": "lr_demo",
        "password": "lr-demo-secret",
        "extra": {"scope": f"{WRITE} {READ} {ACCOUNTS}"},
    }
    other = json.loads(limitrail_emulator.limitrail_connection_json(1, timeout=5, scope=READ))
    assert (other["login"], other["password"]) == ("lr_other", "lr-other-secret")
    assert other["extra"] == {"scope": READ, "timeout": 5}


def test_options_that_mean_nothing():
    for wrong in ({"idempotency": "maybe"}, {"page_size": 0}, {"clients": ()}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LimitRailOptions(**wrong)
    twice = LimitRailClient("a", "s", "demo")
    with pytest.raises(ValueError, match="clients"):
        LimitRailOptions(clients=(twice, twice))
