# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Object lists and reads by id."""

from __future__ import annotations

import json

import pytest

from limio_limitrail.emulator import TenantSize
from limio_limitrail.emulator.limio.tenant import PARTNERS, PATH_TYPES, SERVICES


@pytest.mark.sampled(8)
@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("path_type", PATH_TYPES)
def test_every_list_to_the_end(client, limio_emulator, service, path_type):
    kind = f"{service}/{path_type}"
    rows = client.walk(f"api/objects/{kind}", limit=7)
    assert [row["id"] for row in rows] == limio_emulator.tenant.ids(kind)
    assert rows == list(limio_emulator.tenant.rows_of(kind))


def test_partner_organisations(client, limio_emulator):
    rows = client.walk("api/partner-organisations", limit=5)
    assert [row["id"] for row in rows] == limio_emulator.tenant.ids(PARTNERS)


@pytest.mark.parametrize("path_type", [*PATH_TYPES, "subscription", "customer"])
def test_by_id(client, limio_emulator, path_type):
    kind = {"subscription": "subscriptions", "customer": "customers"}.get(path_type, path_type)
    id_ = limio_emulator.tenant.ids(kind)[3]
    answer = client.get(f"api/objects/limio/{path_type}/{id_}")
    assert answer.status_code == 200
    assert answer.json() == limio_emulator.tenant.record(kind, id_)


@pytest.mark.parametrize(
    "path",
    ["objects", "objects/", "objects/limio", "objects/limio/subscription", "objects/limio/nothing", "objects/stripe/orders",
     "objects/limio/orders/nope", "objects/limio/orders/nope/related", "objects/limio/orders/a/b", "objects/limio//x",
     "objects/salesforce/identities/nope/subscriptions", "nothing", ""],
)  # fmt: skip
def test_unknown_paths(client, path):
    answer = client.get(f"api/{path}")
    assert answer.status_code == 404
    assert "message" in answer.json()


def test_paths_outside_the_api_are_unknown(client):
    assert client.get("elsewhere").status_code == 404


def test_other_methods(client, limio_emulator):
    assert client.session.post(f"{limio_emulator.url}/api/objects/limio/orders", json={}).status_code == 405


def test_page_size(client, limio_emulator_factory, connect):
    assert len(client.get("api/objects/limio/orders").json()["items"]) == 50
    assert len(client.get("api/objects/limio/orders", limit=1000).json()["items"]) == 200
    capped = connect(limio_emulator_factory(max_limit=30, default_limit=10))
    pages = list(capped.pages("api/objects/limio/orders", limit=1000))
    assert [len(page["items"]) for page in pages] == [30] * 6 + [20]
    assert len(capped.get("api/objects/limio/orders").json()["items"]) == 10


@pytest.mark.parametrize("limit", ["abc", "0", "-1", "1.5", "", "1e3"])
def test_bad_limit_is_a_502(client, limit):
    answer = client.get("api/objects/limio/orders", limit=limit)
    assert answer.status_code == 502
    assert set(answer.json()) == {"message"}


@pytest.mark.parametrize("name", ["email", "q", "reference", "updatedAfter", "opt.pageSize"])
def test_unknown_parameters_are_a_400(client, name):
    assert client.get("api/objects/limio/orders", **{name: "x"}).status_code == 400


def test_cursor_needs_encoding(client, limio_emulator):
    cursor = client.get("api/objects/limio/orders", limit=3).json()["queryMore"]
    assert {"+", "/", "="} <= set(cursor)
    url = f"{limio_emulator.url}/api/objects/limio/orders?limit=3&queryMore={cursor}"
    assert client.session.get(url).status_code == 502


def test_cursor_of_another_list_is_refused(client):
    cursor = client.get("api/objects/limio/orders", limit=3).json()["queryMore"]
    assert client.get("api/objects/limio/customers", queryMore=cursor).status_code == 502
    assert client.get("api/objects/zuora/orders", queryMore=cursor).status_code == 502
    assert client.get("api/objects/limio/orders", queryMore=cursor[:-3]).status_code == 502
    assert client.get("api/objects/limio/orders", queryMore="bm90aGluZw==").status_code == 502


def test_cursor_may_be_asked_again(client):
    cursor = client.get("api/objects/limio/orders", limit=3).json()["queryMore"]
    pages = [client.get("api/objects/limio/orders", limit=3, queryMore=cursor).json() for _ in range(3)]
    assert pages[0] == pages[1] == pages[2]


def test_single_use_cursor(limio_emulator_factory, connect):
    client = connect(limio_emulator_factory(object_cursor="single_use", cursor_expired_status=410))
    ids = [row["id"] for row in client.walk("api/objects/limio/orders", limit=9)]
    assert ids == client.server.tenant.ids("orders")
    cursor = client.get("api/objects/limio/orders", limit=3).json()["queryMore"]
    assert client.get("api/objects/limio/orders", limit=3, queryMore=cursor).status_code == 200
    assert client.get("api/objects/limio/orders", limit=3, queryMore=cursor).status_code == 410


@pytest.mark.parametrize("status", [400, 404, 410, 502])
def test_expired_cursor(limio_emulator_factory, connect, status):
    server = limio_emulator_factory(cursor_expired_status=status, cursor_ttl_requests=2)
    client = connect(server)
    cursor = client.get("api/objects/limio/orders", limit=3).json()["queryMore"]
    assert client.get("api/objects/limio/orders", limit=3, queryMore=cursor).status_code == 200
    assert client.get("api/objects/limio/orders", limit=3, queryMore=cursor).status_code == 200
    answer = client.get("api/objects/limio/orders", limit=3, queryMore=cursor)
    assert answer.status_code == status
    assert "message" in answer.json()
    cursor = client.get("api/objects/limio/orders", limit=3).json()["queryMore"]
    server.expire_cursors()
    assert client.get("api/objects/limio/orders", limit=3, queryMore=cursor).status_code == status


def test_cursor_expires_with_time(limio_emulator_factory, connect):
    server = limio_emulator_factory(cursor_ttl_seconds=3600)
    client = connect(server)
    cursor = client.get("api/objects/limio/orders", limit=3).json()["queryMore"]
    assert client.get("api/objects/limio/orders", limit=3, queryMore=cursor).status_code == 200
    server.configure(cursor_ttl_seconds=-1)
    assert client.get("api/objects/limio/orders", limit=3, queryMore=cursor).status_code == 400


@pytest.mark.parametrize(("form", "expected"), [("absent", "-"), ("null", None), ("empty_object", {}), ("empty_string", "")])
def test_how_the_last_page_ends(limio_emulator_factory, connect, form, expected):
    client = connect(limio_emulator_factory(end_form=form))
    *_, last = client.pages("api/objects/limio/orders", limit=80)
    assert last.get("queryMore", "-") == expected
    assert len(last["items"]) == 40


def test_an_empty_page_at_the_end(limio_emulator_factory, connect):
    client = connect(limio_emulator_factory(end_form="empty_items"))
    pages = list(client.pages("api/objects/limio/orders", limit=80))
    assert [len(page["items"]) for page in pages] == [80, 80, 40, 0]
    assert [bool(page.get("queryMore")) for page in pages] == [True, True, True, False]


def test_an_empty_list(limio_emulator_factory, connect):
    client = connect(limio_emulator_factory(size=TenantSize(subscriptions=0)))
    assert client.get("api/objects/limio/orders").json() == {"items": []}


def test_related(client, limio_emulator):
    tenant = limio_emulator.tenant
    position = 7
    for singular in ("subscription", "subscriptions"):
        answer = client.get(f"api/objects/limio/{singular}/{tenant.ids('subscriptions')[position]}/related").json()
        assert set(answer) == {"items"}
        found = {row["record_type"]: row["id"] for row in answer["items"]}
        assert found["order"] == tenant.ids("orders")[position]
        assert found["event"] == tenant.ids("events")[position]
        assert found["customer"] == tenant.record("subscriptions", tenant.ids("subscriptions")[position])["customer"]
    customer = tenant.ids("customers")[position]
    rows = client.get(f"api/objects/limio/customer/{customer}/related").json()["items"]
    held = [row["id"] for row in rows if row["record_type"] == "subscription"]
    assert held == tenant.record("customers", customer)["data"]["subscriptions"]
    assert len({row["record_type"] for row in rows}) > 2


def test_events_of_events_are_always_empty(client, limio_emulator):
    id_ = limio_emulator.tenant.ids("subscriptions")[0]
    assert client.get(f"api/objects/limio/events/{id_}/events").json() == {"items": [], "unpackedItems": []}


def test_subscriptions_of_an_identity(limio_emulator_factory, connect):
    server = limio_emulator_factory(size=TenantSize(subscriptions=200, customers=40))
    client = connect(server)
    tenant = server.tenant
    for position, identity in enumerate(tenant.ids("salesforce/identities")):
        pages = list(client.pages(f"api/objects/salesforce/identities/{identity}/subscriptions"))
        subscriptions = [row["id"] for page in pages for row in page["subscriptions"]]
        customers = [row["id"] for page in pages for row in page["customers"]]
        held = tenant.links["salesforce"].subscriptions_of(position)
        assert subscriptions == [tenant.ids("salesforce/subscriptions")[one] for one in held]
        assert customers == [tenant.ids("salesforce/customers")[position]]
        assert len(pages) == len(held) == 5


def test_a_list_that_grows_is_still_read_whole(client, limio_emulator):
    ids = []
    for number, page in enumerate(client.pages("api/objects/limio/subscriptions", limit=60)):
        ids += [row["id"] for row in page["items"]]
        if number == 1:
            limio_emulator.advance(60, added=100)
    assert ids == limio_emulator.tenant.ids("subscriptions")


def test_records_of_a_tests_own(client, limio_emulator):
    odd = [
        b'{"id":"a","n":1e400,"n":2}',
        b'{"id":"b","text":"\\ud800","nul":"\\u0000","big":123456789012345678901234567890}',
        {"id": "c", "half": "\udc00", "ok": "é"},
        '{"id":"d"}',
    ]
    limio_emulator.put_records("objects/limio/subscriptions", odd)
    answer = client.get("api/objects/limio/subscriptions", limit=10)
    assert b'"n":1e400,"n":2' in answer.content
    assert b'"\\ud800"' in answer.content
    assert [row["id"] for row in json.loads(answer.content)["items"]] == ["a", "b", "c", "d"]
    assert [row["id"] for row in client.walk("api/objects/limio/subscriptions", limit=1)] == ["a", "b", "c", "d"]
    assert client.get("api/objects/limio/subscriptions/a").content == odd[0]
    assert client.get("api/objects/limio/subscription/d").json() == {"id": "d"}
    assert client.get("api/objects/limio/subscriptions/e").status_code == 404
    limio_emulator.remove_records("/api/objects/limio/subscriptions/")
    assert len(client.get("api/objects/limio/subscriptions", limit=500).json()["items"]) == 200


@pytest.mark.parametrize("path", ["custom/things", "partner-organisations"])
def test_records_anywhere(client, limio_emulator, path):
    limio_emulator.put_records(path, [{"id": str(number)} for number in range(25)])
    assert [row["id"] for row in client.walk(f"api/{path}", limit=10)] == [str(number) for number in range(25)]
    assert client.get(f"api/{path}/7").json() == {"id": "7"}
    assert client.get(f"api/{path}/77").status_code == 404


def test_an_unknown_style_is_refused(limio_emulator):
    with pytest.raises(ValueError, match="style"):
        limio_emulator.put_records("custom/things", [], style="pages")
