# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The token endpoint, and who is let in."""

from __future__ import annotations

import pytest
import requests

pytestmark = pytest.mark.exhaustive


def test_a_token_for_the_right_secret(client, limio_emulator):
    answer = client.token_request()
    body = answer.json()
    assert answer.status_code == 200
    assert body["token_type"] == "Bearer"
    assert body["expires_in"] == 3600
    assert body["access_token"].startswith("eyJ")
    assert body["access_token"].count(".") == 2
    assert set(body) == {"access_token", "token_type", "expires_in"}
    assert limio_emulator.minted_tokens[-1] == body["access_token"]


def test_never_the_same_twice(client, limio_emulator):
    for _ in range(5):
        client.authorize()
    assert len(set(limio_emulator.minted_tokens)) == 6
    assert limio_emulator.counters.snapshot()["tokens_minted"] == 6


@pytest.mark.parametrize("form", [{"client_secret": "wrong"}, {"client_id": "wrong"}, {"client_secret": ""}])
def test_wrong_credentials(client, form):
    answer = client.token_request(**form)
    assert answer.status_code == 401
    assert answer.json() == {"error": "invalid_client"}


def test_wrong_grant_type_and_content_type(client, limio_emulator):
    assert client.token_request(grant_type="password").status_code == 400
    url = f"{limio_emulator.url}/oauth2/token"
    assert requests.post(url, json={"grant_type": "client_credentials"}, timeout=120).status_code == 400
    assert requests.get(url, timeout=120).status_code == 405


def test_forms_of_the_answer(limio_emulator_factory, connect):
    server = limio_emulator_factory(
        omit_expires_in=True, token_type="bearer", token_prefix="Bearer ", include_scope=True, scopes=("a", "b")
    )
    body = connect(server).token_request().json()
    assert "expires_in" not in body
    assert body["token_type"] == "bearer"
    assert body["access_token"].startswith("Bearer eyJ")
    assert body["scope"] == "a b"
    assert not server.minted_tokens[-1].startswith("Bearer")


def test_api_needs_a_live_token(limio_emulator):
    url = f"{limio_emulator.url}/api/objects/limio/orders"
    token = limio_emulator.mint_token()
    for value in (None, "", "Bearer", "Bearer ", "Bearer nonsense", token, f"Basic {token}", limio_emulator.api_key):
        answer = requests.get(url, headers={"Authorization": value}, timeout=120)
        assert answer.status_code == 401, value
        assert set(answer.json()) == {"message"}
    for scheme in ("Bearer", "bearer"):
        assert requests.get(url, headers={"Authorization": f"{scheme} {token}"}, timeout=120).status_code == 200


def test_a_token_is_good_for_so_many_requests(limio_emulator_factory, connect):
    client = connect(limio_emulator_factory(token_requests=3))
    statuses = [client.get("api/objects/limio/orders", limit=1).status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 401, 401]
    client.authorize()
    assert client.get("api/objects/limio/orders", limit=1).status_code == 200
    assert list(client.server.token_uses.values()) == [3, 1]
    assert list(client.server.token_uses) == client.server.minted_tokens


def test_a_token_expires_with_time_and_on_demand(limio_emulator_factory, connect):
    server = limio_emulator_factory(expires_in=60)
    client = connect(server)
    assert client.token_request().json()["expires_in"] == 60
    server.expire_tokens()
    assert client.get("api/objects/limio/orders").status_code == 401
    client.authorize()
    assert client.get("api/objects/limio/orders").status_code == 200
    server.configure(token_seconds=0)
    assert client.get("api/objects/limio/orders").status_code == 401


@pytest.mark.parametrize("path", ["campaigns", "offers", "products", "pages", "segments", "assets", "journeys"])
def test_publishable_key_reads_the_older_catalog(limio_emulator, path):
    headers = {"Authorization": limio_emulator.api_key}
    answer = requests.get(f"{limio_emulator.url}/api/{path}", headers=headers, timeout=120)
    assert answer.status_code == 200
    assert answer.json()["items"]


@pytest.mark.parametrize(
    "path",
    ["offers/v2", "add-ons", "published_catalog_items?record_type=offers", "catalog_items?record_type=offers",
     "objects/limio/orders", "checkout/abandoned?limit=1&createdAfter=2020-01-01", "partner-organisations", "nothing"],
)  # fmt: skip
def test_publishable_key_reads_nothing_else(limio_emulator, path):
    headers = {"Authorization": limio_emulator.api_key}
    answer = requests.get(f"{limio_emulator.url}/api/{path}", headers=headers, timeout=120)
    assert answer.status_code == 401


def test_partner_scope(limio_emulator_factory, connect):
    client = connect(limio_emulator_factory(scopes=("MMA",)))
    answer = client.get("api/partner-organisations")
    assert answer.status_code == 403
    assert "partner" in answer.json()["message"]
    assert client.get("api/objects/limio/orders").status_code == 200
