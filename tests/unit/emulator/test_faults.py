# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Faults: each one as a client meets it."""

from __future__ import annotations

import contextlib
import json

import pytest
import requests

from limio_limitrail.emulator import Fault, Reply
from limio_limitrail.emulator.core.faults import KINDS

ORDERS = "api/objects/limio/orders"


def test_status_with_body_and_headers(client, limio_emulator):
    limio_emulator.faults.add(Fault("status", "/api/", status=429, body={"message": "slow"}, headers={"Retry-After": "7"}))
    answer = client.get(ORDERS)
    assert (answer.status_code, answer.json(), answer.headers["retry-after"]) == (429, {"message": "slow"}, "7")
    assert client.get(ORDERS).status_code == 200


def test_status_with_text(client, limio_emulator):
    headers = {"Content-Type": "text/html", "Retry-After": "Sun, 01 Nov 2026 00:00:00 GMT"}
    limio_emulator.faults.add(Fault("status", body="<h1>Bad</h1>", status=502, headers=headers))
    answer = client.get(ORDERS)
    assert answer.text == "<h1>Bad</h1>"
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["retry-after"].endswith("GMT")
    limio_emulator.faults.add(Fault("status"))
    assert set(client.get(ORDERS).json()) == {"message"}


def test_after_and_times(client, limio_emulator):
    planned = limio_emulator.faults.add(Fault("status", after=2, times=2))
    assert [client.get(ORDERS).status_code for _ in range(6)] == [200, 200, 503, 503, 200, 200]
    assert planned.hit == 2
    assert planned.done
    forever = limio_emulator.faults.add(Fault("status", times=None, status=500))
    assert {client.get(ORDERS).status_code for _ in range(4)} == {500}
    assert limio_emulator.faults.remove(forever.number)
    assert not limio_emulator.faults.remove(forever.number)
    assert client.get(ORDERS).status_code == 200


def test_faults_follow_each_other(client, limio_emulator):
    for status in (500, 502, 504):
        limio_emulator.faults.add(Fault("status", status=status))
    assert [client.get(ORDERS).status_code for _ in range(4)] == [500, 502, 504, 200]


def test_what_a_fault_matches(client, limio_emulator):
    faults = limio_emulator.faults
    limit = {"limit": 5}
    for fault, hits in (
        (Fault("status", "/api/objects/limio/orders"), True),
        (Fault("status", "/api/objects/limio/ord"), True),
        (Fault("status", "/api/*/orders"), True),
        (Fault("status", "/api/*/order"), False),
        (Fault("status", "/oauth2/token"), False),
        (Fault("status", query="limit=5"), True),
        (Fault("status", query="queryMore="), False),
        (Fault("status", method="POST"), False),
        (Fault("status", method="GET"), True),
    ):
        faults.clear()
        faults.add(fault)
        assert (client.get(ORDERS, **limit).status_code == 503) is hits, fault


def test_only_pages_with_a_cursor(client, limio_emulator):
    limio_emulator.faults.add(Fault("status", query="queryMore=", after=1))
    page = client.get(ORDERS, limit=10).json()
    page = client.get(ORDERS, limit=10, queryMore=page["queryMore"]).json()
    assert client.get(ORDERS, limit=10, queryMore=page["queryMore"]).status_code == 503
    assert client.get(ORDERS, limit=10, queryMore=page["queryMore"]).status_code == 200


def test_the_token_endpoint_can_fail_too(client, limio_emulator):
    limio_emulator.faults.add(Fault("status", "/oauth2/token", status=500))
    assert client.token_request().status_code == 500
    limio_emulator.faults.add(Fault("status", "/oauth2/token", status=200, body={"token_type": "Bearer"}))
    assert client.token_request().json() == {"token_type": "Bearer"}
    assert client.token_request().status_code == 200


@pytest.mark.parametrize("kind", ["reset", "reset_after"])
def test_reset(client, limio_emulator, kind):
    limio_emulator.faults.add(Fault(kind, "/api/"))
    with pytest.raises(requests.ConnectionError):
        client.get(ORDERS)
    assert client.get(ORDERS).status_code == 200
    assert limio_emulator.counters.snapshot()["connections"] == 2


def test_reset_before_and_after_the_work_is_done(client, limio_emulator):
    for kind, position in (("reset", 10), ("reset_after", 20)):
        params = {"record_type": "offers2", "opt.all": "true", "opt.pageSize": "10"}
        more = client.get("api/catalog_items", **params).json()["queryMore"]
        params |= {"opt.queryMoreFrom": more["from"], "opt.queryMoreAlias": more["alias"]}
        limio_emulator.faults.add(Fault(kind, "/api/"))
        with pytest.raises(requests.ConnectionError):
            client.get("api/catalog_items", **params)
        rows = client.get("api/catalog_items", **params).json()["items"]
        assert rows[0]["id"] == limio_emulator.tenant.ids("catalog/offers2")[position]


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_truncated(client, limio_emulator, encoding):
    limio_emulator.faults.add(Fault("truncated", "/api/"))
    client.session.headers["Accept-Encoding"] = encoding
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        _ = client.get(ORDERS, limit=200).content
    assert len(client.get(ORDERS, limit=200).json()["items"]) == 200


def test_truncated_without_a_body(client, limio_emulator):
    limio_emulator.faults.add(Fault("truncated", "/api/"))
    limio_emulator.put_records("custom/empty", [b""])
    limio_emulator.on_request(lambda call: Reply(200, b"") if limio_emulator.counters.requests == 2 else None)
    assert client.get("api/custom/empty").content == b"", "a callback's answer is sent as it is"
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        client.get(ORDERS)


@pytest.mark.parametrize("path", [ORDERS, "api/catalog_items"])
def test_a_cursor_that_never_ends(client, limio_emulator, path):
    limio_emulator.faults.add(Fault("repeat_cursor", "/api/", query="ueryMore", times=None))
    pages = client.catalog_pages(path, record_type="page") if "catalog" in path else client.pages(path, limit=190)
    counts = [len(page["items"]) for _, page in zip(range(12), pages, strict=False)]
    assert len(counts) == (12 if path == ORDERS else 1), "a list of one page has no cursor to repeat"


def test_bad_json(client, limio_emulator):
    limio_emulator.faults.add(Fault("bad_json", "/"))
    answer = client.get(ORDERS)
    assert answer.status_code == 200
    with pytest.raises(ValueError):
        json.loads(answer.content)
    limio_emulator.faults.add(Fault("bad_json", "/oauth2/token"))
    with pytest.raises(ValueError):
        client.token_request().json()


def test_items_missing_or_no_list(client, limio_emulator):
    limio_emulator.faults.add(Fault("items_missing", "/api/"))
    limio_emulator.faults.add(Fault("items_not_list", "/api/"))
    page = client.get(ORDERS, limit=5).json()
    assert set(page) == {"queryMore"}
    page = client.get(ORDERS, limit=5).json()
    assert isinstance(page["items"], dict)
    assert page["queryMore"]


def test_repeated_cursor(client, limio_emulator):
    first = client.get(ORDERS, limit=10).json()
    limio_emulator.faults.add(Fault("repeat_cursor", "/api/"))
    second = client.get(ORDERS, limit=10, queryMore=first["queryMore"]).json()
    assert second["queryMore"] == first["queryMore"]
    assert second["items"] != first["items"]
    limio_emulator.faults.add(Fault("repeat_cursor", "/api/", cursor="same"))
    assert client.get(ORDERS, limit=10).json()["queryMore"] == "same"


def test_repeated_page(client, limio_emulator):
    first = client.get(ORDERS, limit=10).json()
    limio_emulator.faults.add(Fault("repeat_page", "/api/"))
    second = client.get(ORDERS, limit=10, queryMore=first["queryMore"]).json()
    assert second["items"] == first["items"]
    assert second["queryMore"] != first["queryMore"]
    third = client.get(ORDERS, limit=10, queryMore=second["queryMore"]).json()
    assert third["items"][0]["id"] == limio_emulator.tenant.ids("orders")[20]


def test_dropped_cursor_and_empty_page(client, limio_emulator):
    limio_emulator.faults.add(Fault("drop_cursor", "/api/"))
    limio_emulator.faults.add(Fault("empty_page", "/api/"))
    page = client.get(ORDERS, limit=10).json()
    assert "queryMore" not in page
    assert len(page["items"]) == 10
    page = client.get(ORDERS, limit=10).json()
    assert page["items"] == []
    assert page["queryMore"]


def test_too_many_hits(client, limio_emulator):
    limio_emulator.faults.add(Fault("hits_too_large", "/api/", hits=3))
    assert client.get("api/catalog_items", record_type="page").json()["hits"] == 33
    limio_emulator.faults.add(Fault("hits_too_large", "/api/"))
    assert "hits" not in client.get(ORDERS).json()


@pytest.mark.parametrize("location", ["http://elsewhere.invalid/login", "/api/objects/limio/customers"])
def test_redirect(client, limio_emulator, location):
    limio_emulator.faults.add(Fault("redirect", "/api/", location=location))
    answer = client.get(ORDERS)
    assert answer.status_code == 302
    assert answer.headers["location"] == location
    limio_emulator.faults.add(Fault("redirect", "/api/", location=location, status=307))
    assert client.get(ORDERS).status_code == 307


def test_html(client, limio_emulator):
    limio_emulator.faults.add(Fault("html", "/api/"))
    answer = client.get(ORDERS)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "<h1>" in answer.text


def test_wrong_encoding(client, limio_emulator):
    limio_emulator.faults.add(Fault("wrong_encoding", "/api/"))
    with pytest.raises(requests.exceptions.ContentDecodingError):
        client.get(ORDERS)


def test_latency_goes_with_another_fault(client, limio_emulator):
    slow = limio_emulator.faults.add(Fault("latency", "/api/", seconds=0.01, times=None))
    limio_emulator.faults.add(Fault("status", "/api/", status=504))
    assert [client.get(ORDERS).status_code for _ in range(2)] == [504, 200]
    assert slow.hit == 2


def test_stopping_does_not_wait_for_a_slow_answer(limio_emulator_factory, connect):
    server = limio_emulator_factory()
    client = connect(server)
    server.faults.add(Fault("latency", "/api/", seconds=3600))
    server.on_request(lambda call: None)
    with pytest.raises(requests.exceptions.Timeout):
        client.session.get(f"{server.url}/{ORDERS}", timeout=0.05)
    server.stop()
    server.stop()


def test_every_kind_leaves_the_server_well(client, limio_emulator):
    for kind in KINDS:
        limio_emulator.faults.add(Fault(kind, "/api/objects", location="/x"))
        with contextlib.suppress(requests.RequestException):
            client.get(f"{ORDERS}/nope")
        assert client.get(ORDERS).status_code == 200, kind


@pytest.mark.parametrize("wrong", [{"kind": "typo"}, {"kind": "redirect"}])
def test_a_fault_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError):
        Fault(**wrong)


def test_callbacks(client, limio_emulator):
    seen = []
    forget = limio_emulator.on_request(lambda call: seen.append((call.method, call.path, call.params)))
    client.get(ORDERS, limit=5)
    assert seen == [("GET", "/api/objects/limio/orders", {"limit": "5"})]
    replace = limio_emulator.on_request(lambda call: Reply(418, b'{"short":true}'))
    assert client.get(ORDERS).status_code == 418
    replace()
    forget()
    broken = limio_emulator.on_request(lambda call: 1 / 0)
    answer = client.get(ORDERS)
    assert answer.status_code == 500
    assert "ZeroDivisionError" in answer.text
    broken()
    assert client.get(ORDERS).status_code == 200
    assert len(seen) == 2


def test_a_callback_may_change_the_tenant(client, limio_emulator):
    calls = []

    def grow(call):
        calls.append(call)
        if len(calls) == 2:
            limio_emulator.advance(60, added=50)

    limio_emulator.on_request(grow)
    ids = [row["id"] for row in client.walk("api/objects/limio/subscriptions", limit=80)]
    assert ids == limio_emulator.tenant.ids("subscriptions")
    assert len(ids) == 250
