# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What the server has seen."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from limio_limitrail.emulator import Fault


def test_counts(client, limio_emulator):
    client.walk("api/objects/limio/orders", limit=60)
    client.get(f"api/objects/limio/orders/{limio_emulator.tenant.ids('orders')[0]}")
    client.get("api/objects/limio/orders/nope")
    client.get("api/nothing")
    snapshot = limio_emulator.counters.snapshot()
    assert snapshot["requests"] == 1 + 4 + 3
    assert snapshot["by_path"] == {
        "/oauth2/token": 1,
        "/api/objects/limio/orders": 4,
        "/api/objects/limio/orders/{id}": 2,
        "/api/nothing": 1,
    }
    assert snapshot["by_status"] == {"200": 6, "404": 2}
    assert snapshot["connections"] == 1
    assert snapshot["tokens_minted"] == 1
    assert list(snapshot["by_credential"].values()) == [7]
    assert snapshot["bytes_out"] > 10_000
    assert snapshot["bytes_in"] > 50
    assert snapshot["most_in_flight"] == 1
    json.dumps(snapshot)
    limio_emulator.counters.reset()
    assert limio_emulator.counters.snapshot()["requests"] == 0
    assert limio_emulator.counters.log == []


def test_connections(limio_emulator):
    for _ in range(3):
        requests.get(f"{limio_emulator.url}/x", timeout=120)
    assert limio_emulator.counters.snapshot()["connections"] == 3


def test_log_holds_no_credential(client, limio_emulator):
    client.get("api/objects/limio/orders", limit=3)
    requests.get(f"{limio_emulator.url}/api/offers", headers={"Authorization": limio_emulator.api_key}, timeout=120)
    log = limio_emulator.counters.log
    assert [(one["method"], one["path"], one["query"], one["status"]) for one in log] == [
        ("POST", "/oauth2/token", "", 200),
        ("GET", "/api/objects/limio/orders", "limit=3", 200),
        ("GET", "/api/offers", "", 200),
    ]
    assert log[0]["at"] <= log[1]["at"] <= log[2]["at"]
    assert log[1]["headers"]["authorization"].startswith("Bearer sha256:")
    assert log[2]["headers"]["authorization"].startswith("- sha256:")
    text = json.dumps(log)
    for secret in (*limio_emulator.minted_tokens, limio_emulator.client_secret, limio_emulator.api_key):
        assert secret not in text


def test_log_is_bounded(client, limio_emulator):
    limio_emulator.counters._log_size = 5
    limio_emulator.counters.reset()
    for number in range(9):
        client.get("api/objects/limio/orders", limit=number + 1)
    assert [one["query"] for one in limio_emulator.counters.log] == [f"limit={number}" for number in range(5, 10)]


def test_faults_are_counted(client, limio_emulator):
    limio_emulator.faults.add(Fault("status", "/api/", status=503))
    limio_emulator.faults.add(Fault("reset", "/api/"))
    client.get("api/objects/limio/orders")
    with pytest.raises(requests.ConnectionError):
        client.get("api/objects/limio/orders")
    client.get("api/objects/limio/orders")
    snapshot = limio_emulator.counters.snapshot()
    assert snapshot["faults"] == 2
    assert snapshot["by_status"]["503"] == 1
    assert snapshot["by_status"]["0"] == 1
    assert [one.get("fault") for one in limio_emulator.counters.log] == [None, "status", "reset", None]


def test_compression(client, limio_emulator):
    plain = client.session.get(f"{limio_emulator.url}/api/objects/limio/orders", headers={"Accept-Encoding": "identity"})
    packed = client.session.get(
        f"{limio_emulator.url}/api/objects/limio/orders", headers={"Accept-Encoding": "gzip"}, stream=True
    )
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.raw.read(decode_content=False)) == plain.content
    small = client.get("api/objects/limio/orders/nope")
    assert "content-encoding" not in small.headers
    limio_emulator.configure(gzip=False)
    assert "content-encoding" not in client.get("api/objects/limio/orders").headers


def test_many_clients_at_once(limio_emulator, connect):
    clients = [connect(limio_emulator) for _ in range(6)]
    expected = limio_emulator.tenant.ids("subscriptions")

    def read(client):
        return [[row["id"] for row in client.walk("api/objects/limio/subscriptions", limit=20)] for _ in range(3)]

    with ThreadPoolExecutor(6) as pool:
        for results in pool.map(read, clients):
            assert results == [expected] * 3
    snapshot = limio_emulator.counters.snapshot()
    assert snapshot["requests"] == 6 * (1 + 3 * 10)
    assert snapshot["connections"] == 6
    assert snapshot["by_status"] == {"200": snapshot["requests"]}
