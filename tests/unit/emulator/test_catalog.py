# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Catalog reads."""

from __future__ import annotations

import base64

import pytest

from limio_limitrail.emulator import TenantSize
from limio_limitrail.emulator.limio.catalog import LEGACY, RECORD_TYPES, UNIFIED

pytestmark = pytest.mark.exhaustive


@pytest.mark.sampled(4)
@pytest.mark.parametrize("path", sorted(UNIFIED))
@pytest.mark.parametrize("record_type", RECORD_TYPES)
def test_unified_to_the_end(client, limio_emulator, path, record_type):
    kind = f"{UNIFIED[path]}/{record_type}"
    pages = list(client.catalog_pages(f"api/{path}", **{"record_type": record_type, "opt.pageSize": 4}))
    rows = [row for page in pages for row in page["items"]]
    assert rows == limio_emulator.tenant.catalog(kind)
    assert all(page["hits"] == len(rows) for page in pages)
    assert all(len(page["header"]["commitId"]) == 40 for page in pages)
    assert len({page["queryMore"]["from"] for page in pages[:-1]}) == 1, "a scroll keeps its id"


@pytest.mark.parametrize("path", sorted(LEGACY))
def test_per_type_to_the_end(client, limio_emulator, path):
    rows = client.catalog(f"api/{path}", **{"opt.pageSize": 7})
    assert rows == limio_emulator.tenant.catalog(f"published/{LEGACY[path]}")


def test_published_is_a_part_of_all(limio_emulator):
    everything = limio_emulator.tenant.ids("catalog/offers2")
    live = limio_emulator.tenant.ids("published/offers2")
    assert set(live) < set(everything)


@pytest.mark.parametrize("params", [{}, {"record_type": ""}, {"record_type": "offer"}, {"record_type": "asset"}])
def test_record_type_is_required(client, params):
    for path in UNIFIED:
        assert client.get(f"api/{path}", **params).status_code == 400


def test_without_all_there_is_one_page_and_no_cursor(client):
    page = client.get("api/catalog_items", **{"record_type": "offers2", "opt.pageSize": 10}).json()
    assert len(page["items"]) == 10
    assert page["hits"] == 30
    assert "queryMore" not in page


def test_default_page_size(limio_emulator_factory, connect):
    client = connect(limio_emulator_factory(size=TenantSize(catalog=120)))
    sizes = [len(page["items"]) for page in client.catalog_pages("api/catalog_items", record_type="page")]
    assert sizes == [50, 50, 20]


def _cursor(page):
    return {"opt.queryMoreFrom": page["queryMore"]["from"], "opt.queryMoreAlias": page["queryMore"]["alias"]}


def _first(client, **more):
    params = {"record_type": "offers2", "opt.all": "true", "opt.pageSize": "10", **more}
    return params, client.get("api/catalog_items", **params).json()


def test_a_scroll_is_one_way(client, limio_emulator):
    params, page = _first(client)
    assert base64.b64decode(page["queryMore"]["from"])[1:15] == b"queryThenFetch"
    ids = limio_emulator.tenant.ids("catalog/offers2")
    second, third, after = (client.get("api/catalog_items", **params, **_cursor(page)).json() for _ in range(3))
    assert [row["id"] for row in second["items"]] == ids[10:20]
    assert [row["id"] for row in third["items"]] == ids[20:]
    assert second["queryMore"]["from"] == page["queryMore"]["from"]
    assert "queryMore" not in third
    assert after["items"] == []


def test_two_scrolls_do_not_disturb_each_other(client):
    params, one = _first(client)
    _, other = _first(client)
    assert one["queryMore"]["from"] != other["queryMore"]["from"]
    again = client.get("api/catalog_items", **params, **_cursor(one)).json()
    assert client.get("api/catalog_items", **params, **_cursor(other)).json()["items"] == again["items"]


def test_a_scroll_shows_what_was_there_when_it_was_opened(client, limio_emulator):
    params, page = _first(client)
    old = limio_emulator.tenant.catalog("catalog/offers2")
    limio_emulator.advance(60, catalog_modified=120)
    assert limio_emulator.tenant.catalog("catalog/offers2") != old
    assert client.get("api/catalog_items", **params, **_cursor(page)).json()["items"] == old[10:20]


def test_a_repeatable_cursor(limio_emulator_factory, connect):
    client = connect(limio_emulator_factory(catalog_cursor="repeatable"))
    params, page = _first(client)
    second, again = (client.get("api/catalog_items", **params, **_cursor(page)).json() for _ in range(2))
    assert second["items"] == again["items"]
    third = client.get("api/catalog_items", **params, **_cursor(second)).json()
    assert [row["id"] for row in third["items"]] == client.server.tenant.ids("catalog/offers2")[20:]
    assert "queryMore" not in third


def test_wrong_cursors(client):
    params, page = _first(client)
    cursor = _cursor(page)
    assert client.get("api/catalog_items", **params, **{**cursor, "opt.queryMoreAlias": "x"}).status_code == 400
    assert client.get("api/catalog_items", **params, **{**cursor, "opt.queryMoreFrom": "x"}).status_code == 400
    params["record_type"] = "page"
    assert client.get("api/catalog_items", **params, **cursor).status_code == 400


@pytest.mark.parametrize("status", [400, 404, 410, 502])
def test_expired_scroll(limio_emulator_factory, connect, status):
    server = limio_emulator_factory(cursor_expired_status=status, cursor_ttl_requests=1)
    client = connect(server)
    params, page = _first(client)
    client.get("api/objects/limio/orders")
    assert client.get("api/catalog_items", **params, **_cursor(page)).status_code == status
    assert client.get("api/catalog_items", **params, **_cursor(page)).status_code == status
    params, page = _first(client)
    assert client.get("api/catalog_items", **params, **_cursor(page)).status_code == 200, "its life is renewed"
    assert client.get("api/catalog_items", **params, **_cursor(page)).status_code == 200
    params, page = _first(client)
    server.expire_cursors()
    assert client.get("api/catalog_items", **params, **_cursor(page)).status_code == status


@pytest.mark.parametrize(("form", "expected"), [("absent", "-"), ("null", None), ("empty_object", {}), ("empty_string", "")])
def test_how_the_last_page_ends(limio_emulator_factory, connect, form, expected):
    client = connect(limio_emulator_factory(end_form=form))
    *_, last = client.catalog_pages("api/catalog_items", **{"record_type": "offers", "opt.pageSize": 15})
    assert last.get("queryMore", "-") == expected
    assert len(last["items"]) == 15


@pytest.mark.parametrize("cursor", ["scroll", "repeatable"])
def test_an_empty_page_at_the_end(limio_emulator_factory, connect, cursor):
    client = connect(limio_emulator_factory(end_form="empty_items", catalog_cursor=cursor))
    pages = list(client.catalog_pages("api/catalog_items", **{"record_type": "offers", "opt.pageSize": 15}))
    assert [len(page["items"]) for page in pages] == [15, 15, 0]
    assert "queryMore" not in pages[-1]


def test_modified_after_includes_its_bound(client, limio_emulator):
    items = limio_emulator.tenant.catalog("catalog/offers2")
    moments = sorted(item["data"]["modified"] for item in items)
    for bound in (moments[0], moments[12], moments[-1], moments[12].replace("+00:00", "Z"), "2025-12-01", "2030-01-01"):
        rows = client.catalog("api/catalog_items", **{"record_type": "offers2", "opt.modifiedAfter": bound})
        assert rows == [item for item in items if item["data"]["modified"] >= bound.replace("Z", "+00:00")], bound


@pytest.mark.parametrize("value", ["", "yesterday", "01/02/2025", "2025-13-45"])
def test_malformed_modified_after(client, value):
    answer = client.get("api/catalog_items", **{"record_type": "offers2", "opt.modifiedAfter": value})
    assert answer.status_code == 400


def test_modified_after_finds_what_advance_modified(client, limio_emulator):
    clock = limio_emulator.tenant.now
    step = limio_emulator.advance(3600, catalog_modified=12)
    rows = client.catalog("api/catalog_items", **{"record_type": "product", "opt.modifiedAfter": clock})
    assert [row["id"] for row in rows] == step.changed["catalog/product"]


def test_other_filters(client, limio_emulator):
    items = limio_emulator.tenant.catalog("catalog/offers2")
    one = items[4]

    def read(**more):
        return client.catalog("api/catalog_items", record_type="offers2", **more)

    assert read(path=one["path"]) == [one]
    assert read(id=one["id"]) == read(id=one["id"].partition(".")[0]) == [one]
    tag = one["data"]["tags"][1]
    assert read(tags=tag) == [item for item in items if tag in item["data"]["tags"]]
    assert read(**{"attributes.channel": "app"}) == [item for item in items if item["attributes"]["channel"] == "app"]
    assert read(**{"attributes.label": "label-1"}) == [item for item in items if item["attributes"]["label__limio"] == "label-1"]
    assert read(**{"attributes.nothing": "x"}) == []
    reduced = read(reducedData="true")
    assert [row["id"] for row in reduced] == [item["id"] for item in items]
    assert "headline" not in reduced[0]["data"]
    assert "modified" in reduced[0]["data"]


@pytest.mark.parametrize("status", [413, 502])
def test_a_response_that_is_too_large(limio_emulator_factory, connect, status):
    client = connect(limio_emulator_factory(max_response_bytes=12_000, too_large_status=status))
    params = {"record_type": "offers2", "opt.all": "true"}
    answer = client.get("api/catalog_items", **params)
    assert answer.status_code == status
    assert set(answer.json()) == {"message"}
    rows = client.catalog("api/catalog_items", **{"record_type": "offers2", "opt.pageSize": 5})
    assert [row["id"] for row in rows] == client.server.tenant.ids("catalog/offers2")


@pytest.mark.parametrize("size", ["0", "x", "-5"])
def test_bad_page_size(client, size):
    assert client.get("api/catalog_items", **{"record_type": "page", "opt.pageSize": size}).status_code == 502


def test_journeys_have_a_start(client):
    header = client.get("api/journeys").json()["header"]
    assert {"start", "fallbackTag"} <= set(header)


@pytest.mark.parametrize(
    ("path", "read"),
    [("custom/list", "api/custom/list"), ("offers", "api/offers"), ("catalog_items", "api/catalog_items?record_type=page"),
     ("catalog_items?record_type=page", "api/catalog_items?record_type=page")],
)  # fmt: skip
def test_records_of_a_tests_own(client, limio_emulator, path, read):
    records = [
        b'{"id":"a","data":{"modified":"2026-01-01T00:00:00+00:00"}, "odd" : 1.50}',
        {"id": "b", "data": {"modified": "2026-02-01T00:00:00+00:00"}},
        b"[1,2]",
    ]
    limio_emulator.put_records(path, records, style="catalog")
    answer = client.get(read, **{"opt.pageSize": 2})
    assert b'"odd" : 1.50' in answer.content
    assert answer.json()["hits"] == 3
    path, _, query = read.partition("?")
    more = {"record_type": "page"} if query else {}
    assert len(client.catalog(path, **more, **{"opt.pageSize": 1})) == 3
    newer = client.catalog(path, **more, **{"opt.modifiedAfter": "2026-01-15"})
    assert newer[0]["id"] == "b"


def test_one_record_type_is_put_and_others_stay(client, limio_emulator):
    limio_emulator.put_records("catalog_items?record_type=page", [{"id": "only"}])
    assert client.get("api/catalog_items", record_type="page").json()["hits"] == 1
    assert client.get("api/catalog_items", record_type="offers").json()["hits"] == 30
