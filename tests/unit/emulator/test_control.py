# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Control over HTTP, as another process uses it."""

from __future__ import annotations

import hashlib
import json

import pytest
import requests

ORDERS = "api/objects/limio/orders"


@pytest.fixture
def control(limio_emulator):
    def call(method, path, **more):
        return requests.request(method, f"{limio_emulator.url}/_emulator/{path}", timeout=300, **more)

    return call


def test_counters(client, control, limio_emulator):
    client.get(ORDERS)
    counts = control("GET", "counters").json()
    assert counts == limio_emulator.counters.snapshot()
    assert counts["requests"] == 2
    assert counts["connections"] == 1, "control connections do not count"
    assert [one["path"] for one in control("GET", "counters?log=1").json()["log"]] == ["/oauth2/token", f"/{ORDERS}"]
    assert control("POST", "counters/reset").json()["requests"] == 0
    client.get(ORDERS)
    assert control("DELETE", "counters").json()["requests"] == 0


def test_faults(client, control):
    one = {"kind": "status", "match": "/api/", "status": 429, "headers": {"Retry-After": "1"}}
    numbers = control("POST", "faults", json=one).json()["numbers"]
    control("POST", "faults", json=[{"kind": "html"}, {"kind": "status", "times": None}])
    assert [client.get(ORDERS).status_code for _ in range(3)] == [429, 200, 503]
    listed = control("GET", "faults").json()["faults"]
    assert [(fault["kind"], fault["hit"]) for fault in listed] == [("status", 1), ("html", 1), ("status", 1)]
    assert control("DELETE", f"faults/{numbers[0]}").json() == {"removed": True}
    assert control("DELETE", "faults").json() == {"faults": []}
    assert client.get(ORDERS).status_code == 200


def test_advance(control, limio_emulator):
    step = control("POST", "advance", json={"seconds": 3600, "changed": 4, "added": 2}).json()
    assert step["now"] == limio_emulator.tenant.now
    assert len(step["changed"]["subscriptions"]) == 4
    assert control("POST", "advance").status_code == 200


def test_records(client, control):
    assert control("PUT", "records/custom/things", json=[{"id": "a"}, {"id": "b"}]).json()["count"] == 2
    assert [row["id"] for row in client.walk("api/custom/things", limit=1)] == ["a", "b"]
    lines = b'{"id":"x", "n":1.0}\n{"id":"y"}\n'
    headers = {"Content-Type": "application/x-ndjson"}
    control("PUT", "records/custom/things?style=catalog", data=lines, headers=headers)
    answer = client.get("api/custom/things")
    assert answer.json()["hits"] == 2
    assert b'{"id":"x", "n":1.0}' in answer.content
    control("PUT", "records/catalog_items?record_type=page", json=[])
    assert client.get("api/catalog_items", record_type="page").json()["items"] == []
    assert control("DELETE", "records/custom/things").status_code == 200
    assert client.get("api/custom/things").status_code == 404


def test_truth(client, control, limio_emulator):
    tenant = limio_emulator.tenant
    overview = control("GET", "truth").json()
    assert overview["now"] == tenant.now
    assert overview["counts"]["subscriptions"] == 200
    assert control("GET", "truth?kind=subscriptions").json()["count"] == 200
    assert control("GET", "truth?kind=published/page&want=ids").json()["ids"] == tenant.ids("published/page")
    id_ = tenant.ids("orders")[2]
    assert control("GET", f"truth?kind=orders&want=record&id={id_}").json() == tenant.record("orders", id_)
    for kind, path in (("orders", ORDERS), ("catalog/page", None)):
        digest = control("GET", f"truth?kind={kind}&want=digest").json()
        rows = client.walk(path, limit=30) if path else client.catalog("api/catalog_items", record_type="page")
        texts = [json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":")) for row in rows]
        assert digest["count"] == len(rows)
        assert digest["ids"] == _digest([row["id"] for row in rows])
        assert digest["rows"] == _digest([hashlib.sha256(text.encode()).hexdigest() for text in texts])


def _digest(lines):
    return hashlib.sha256("".join(f"{line}\n" for line in sorted(lines)).encode()).hexdigest()


def test_expire(client, control):
    cursor = client.get(ORDERS, limit=5).json()["queryMore"]
    control("POST", "expire/cursors")
    assert client.get(ORDERS, queryMore=cursor).status_code == 400
    assert client.get(ORDERS).status_code == 200
    control("POST", "expire", json={"tokens": True})
    assert client.get(ORDERS).status_code == 401
    client.authorize()
    cursor = client.get(ORDERS, limit=5).json()["queryMore"]
    control("POST", "expire")
    assert client.get(ORDERS, queryMore=cursor).status_code == 401


def test_tokens(client, control, limio_emulator):
    client.authorize()
    assert control("GET", "tokens").json()["tokens"] == limio_emulator.minted_tokens
    assert len(limio_emulator.minted_tokens) == 2


def test_configure(client, control, limio_emulator):
    options = control("POST", "configure", json={"end_form": "null", "scopes": ["MMA"]}).json()
    assert options["end_form"] == "null"
    assert "client_secret" not in options
    assert limio_emulator.options.scopes == ("MMA",)
    *_, last = client.pages(ORDERS, limit=150)
    assert last["queryMore"] is None
    for wrong in ({"end_form": "never"}, {"seed": 3}, {"nothing": 1}):
        assert control("POST", "configure", json=wrong).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", "truth?kind=nothing", None), ("GET", "truth?kind=orders&want=x", None), ("POST", "faults", b"{"),
     ("POST", "faults", b'{"kind":"x"}'), ("GET", "truth?kind=orders&want=record&id=x", None),
     ("GET", "truth?kind=catalog/page&want=record&id=x", None), ("POST", "advance", b'{"days":1}')],
)  # fmt: skip
def test_what_is_asked_wrongly(control, method, path, body):
    answer = control(method, path, data=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


@pytest.mark.parametrize("path", ["nothing", "x/", "answer", "server"])
def test_unknown_controls(control, path):
    assert control("GET", path).status_code == 404
