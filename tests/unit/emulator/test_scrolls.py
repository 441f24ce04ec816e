# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Lists that are scrolls: the server keeps the place, and moves it on with each request."""

from __future__ import annotations

import base64

import pytest
import requests

from limio_limitrail.emulator import Fault, TenantSize

ORDERS = "api/objects/limio/orders"
BASKETS = "api/checkout/abandoned"
LISTS = [(ORDERS, "orders", {}), (BASKETS, "baskets", {"createdAfter": "2020-01-01"})]


@pytest.fixture(params=["stay", "change"])
def scrolled(request, limio_emulator_factory, connect):
    return connect(limio_emulator_factory(object_cursor="scroll", scroll_ids=request.param))


def ids(answer):
    return [row["id"] for row in answer.json()["items"]]


@pytest.mark.parametrize(("path", "kind", "params"), LISTS)
def test_the_whole_list_and_a_page_of_nothing_at_the_end(scrolled, path, kind, params):
    truth = scrolled.server.tenant.ids(kind)
    found, cursors, cursor = [], [], {}
    while True:
        answer = scrolled.get(path, limit=7, **params, **cursor)
        cursors.append(answer.json()["queryMore"])
        if not ids(answer):
            break
        found += ids(answer)
        cursor = {"queryMore": cursors[-1]}
    assert found == truth
    assert all(b"queryThenFetch" in base64.b64decode(cursor) for cursor in cursors)
    assert len(set(cursors)) == (1 if scrolled.server.options.scroll_ids == "stay" else len(cursors))


def test_an_old_id_leads_to_where_the_scroll_stands_now_in_pages_of_the_first_size(scrolled):
    truth = scrolled.server.tenant.ids("orders")
    first = scrolled.get(ORDERS, limit=10).json()["queryMore"]
    pages = [ids(scrolled.get(ORDERS, limit=3, queryMore=first)) for _ in range(3)]
    assert pages == [truth[10:20], truth[20:30], truth[30:40]]
    assert scrolled.get("api/objects/limio/customers", queryMore=first).status_code == 400


def test_another_scroll_is_another_place(scrolled):
    truth = scrolled.server.tenant.ids("orders")
    one, other = (scrolled.get(ORDERS, limit=10).json()["queryMore"] for _ in range(2))
    assert ids(scrolled.get(ORDERS, queryMore=one)) == truth[10:20]
    assert ids(scrolled.get(ORDERS, queryMore=one)) == truth[20:30]
    assert ids(scrolled.get(ORDERS, queryMore=other)) == truth[10:20]


@pytest.mark.parametrize("kind", ["reset_after", "truncated", "status_after"])
def test_a_page_whose_answer_is_lost_is_gone(scrolled, kind):
    truth = scrolled.server.tenant.ids("orders")
    cursor = scrolled.get(ORDERS, limit=10).json()["queryMore"]
    scrolled.server.faults.add(Fault(kind, match=f"/{ORDERS}", status=504))
    try:
        assert scrolled.get(ORDERS, queryMore=cursor).status_code == 504
    except requests.RequestException:
        assert kind != "status_after"
    assert ids(scrolled.get(ORDERS, queryMore=cursor)) == truth[20:30]


def test_a_status_after_is_counted_as_what_it_is(limio_emulator_factory, connect):
    client = connect(limio_emulator_factory(object_cursor="scroll"))
    client.server.faults.add(Fault("status_after", match="/api", status=502, body={"message": "x"}))
    assert client.get(ORDERS).json() == {"message": "x"}
    assert client.server.counters.log[-1]["status"] == 502


def test_what_comes_meanwhile_is_not_in_it(scrolled):
    truth = scrolled.server.tenant.ids("orders")
    cursor = scrolled.get(ORDERS, limit=150).json()["queryMore"]
    scrolled.server.advance(60, added=30)
    assert ids(scrolled.get(ORDERS, queryMore=cursor)) == truth[150:]
    assert ids(scrolled.get(ORDERS, queryMore=cursor)) == []


def test_records_of_a_tests_own_stay_as_they_were(scrolled):
    scrolled.server.put_records("objects/limio/orders", [{"id": "a"}, {"id": "b"}])
    cursor = scrolled.get(ORDERS, limit=1).json()["queryMore"]
    scrolled.server.put_records("objects/limio/orders", [{"id": "c"}])
    assert ids(scrolled.get(ORDERS, queryMore=cursor)) == ["b"]


def test_it_expires_and_each_request_renews_it(limio_emulator_factory, connect):
    server = limio_emulator_factory(object_cursor="scroll", cursor_ttl_requests=2, cursor_expired_status=404)
    client = connect(server)
    cursor = client.get(ORDERS, limit=3).json()["queryMore"]
    assert [client.get(ORDERS, queryMore=cursor).status_code for _ in range(5)] == [200] * 5
    for _ in range(3):
        client.get("api/objects/limio/customers")
    assert client.get(ORDERS, queryMore=cursor).status_code == 404
    cursor = client.get(ORDERS, limit=3).json()["queryMore"]
    server.expire_cursors()
    assert client.get(ORDERS, queryMore=cursor).status_code == 404


def test_an_empty_list(limio_emulator_factory, connect):
    client = connect(limio_emulator_factory(object_cursor="scroll", size=TenantSize(subscriptions=0)))
    answer = client.get(ORDERS).json()
    assert answer["items"] == []
    assert answer["queryMore"]


@pytest.mark.parametrize("option", [{"object_cursor": "scrolls"}, {"scroll_ids": "both"}])
def test_a_misspelt_option_is_refused(limio_emulator_factory, option):
    with pytest.raises(ValueError, match="choose one of"):
        limio_emulator_factory(**option)
