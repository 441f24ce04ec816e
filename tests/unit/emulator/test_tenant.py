# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The data: the same for the same seed, on demand, and moving on in a way one can predict."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.emulator import Tenant, TenantSize
from limio_limitrail.emulator.control import truth_digest
from limio_limitrail.emulator.core.random_values import hash64
from limio_limitrail.emulator.core.times import iso, parse_millis
from limio_limitrail.emulator.limio.record_store import IdCodec
from limio_limitrail.emulator.limio.tenant import BASKETS, PARTNERS, PATH_TYPES, SERVICES

KINDS = [*PATH_TYPES, "zuora/subscriptions", "salesforce/identities", BASKETS, PARTNERS]
CATALOG_KINDS = [
    f"{folder}/{name}"
    for folder in ("catalog", "published")
    for name in ("offers", "offers2", "product", "page", "campaign", "segment", "add_on", "discount", "asset", "journey")
]


@pytest.mark.parametrize("kind", KINDS + CATALOG_KINDS)
def test_same_seed_same_data(kind: str) -> None:
    one, other = Tenant(3), Tenant(3)
    assert list(one.rows_of(kind)) == list(other.rows_of(kind))
    assert one.ids(kind) == other.ids(kind)
    assert one.count(kind) == len(one.ids(kind)) > 0
    assert set(one.ids(kind)).isdisjoint(Tenant(4).ids(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_full_record_extends_its_row(kind: str) -> None:
    tenant = Tenant()
    rows = list(tenant.rows_of(kind))
    assert [row["id"] for row in rows] == tenant.ids(kind)
    for row in rows[:20]:
        full = tenant.record(kind, row["id"])
        assert set(row) <= set(full)
        for name, value in row.items():
            if name != "data":
                assert full[name] == value
        assert set(row.get("data", {})) <= set(full.get("data", {}))


def test_summary_holds_less_than_the_record() -> None:
    tenant = Tenant()
    row = next(iter(tenant.rows_of("subscriptions")))
    assert "offer" not in row["data"]
    assert tenant.record("subscriptions", row["id"])["data"]["offer"]["path"].startswith("/offers2/")


@pytest.mark.parametrize("kind", ["subscriptions", "customers", "orders", "events"])
def test_instants_lie_in_the_two_years_before_the_clock(kind: str) -> None:
    tenant = Tenant()
    for row in tenant.rows_of(kind):
        assert "2024-11-01" <= row["created"] <= row["updated"] <= tenant.now
        assert len(row["created"]) == len("2025-01-15T08:00:00.123Z")


def test_records_are_of_the_documented_shape() -> None:
    tenant = Tenant()
    for id_ in tenant.ids("subscriptions"):
        record = tenant.record("subscriptions", id_)
        assert record["id"].startswith("sub-")
        assert record["customer"] in tenant.ids("customers")
        assert record["ref"].split("/")[0] in tenant.ids("orders")
        assert record["record_type"] == "subscription"
    event = tenant.record("events", tenant.ids("events")[5])
    assert event["data"]["event"]["subscriptions"][0]["id"] == tenant.ids("subscriptions")[5]


def test_records_are_about_a_kilobyte() -> None:
    tenant = Tenant()
    sizes = [len(tenant.text("limio/subscriptions", id_) or "") for id_ in tenant.ids("subscriptions")]
    assert 900 < sum(sizes) / len(sizes) < 1600


def test_some_values_are_odd() -> None:
    tenant = Tenant()
    text = json.dumps(list(tenant.rows_of("customers")), ensure_ascii=False)
    assert "null" in text
    assert "陽菜" in text
    assert "O'Brien" in text
    assert '\\"Smithy\\"' in text
    assert any("<p>" in row["data"]["price"]["summary"]["headline"] for row in tenant.rows_of("subscriptions"))


def test_a_large_tenant_costs_no_memory() -> None:
    tracemalloc.start()
    try:
        tenant = Tenant(size=TenantSize(subscriptions=5_000_000))
        assert tenant.record("subscriptions", tenant.stores["limio/subscriptions"].ids.at(4_999_999))["status"]
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used < 2_000_000


def test_an_unknown_id_has_no_record() -> None:
    tenant = Tenant()
    for wrong in ("sub-", "sub-zz", "cus-" + "0" * 32, "sub-" + "0" * 32):
        with pytest.raises(KeyError):
            tenant.record("subscriptions", wrong)
    beyond = tenant.stores["limio/subscriptions"].ids.at(tenant.count("subscriptions"))
    with pytest.raises(KeyError):
        tenant.record("subscriptions", beyond)


@given(st.integers(0, 2**32 - 1), st.text(max_size=5), st.booleans())
def test_an_id_tells_its_position(position: int, seed: str, dashed: bool) -> None:
    ids = IdCodec("x-", hash64(seed), dashed=dashed)
    assert ids.position(ids.at(position)) == position
    assert ids.position(ids.at(position)[:-1] + "g") is None


@given(st.integers(0, 4_000_000_000_000))
def test_instants_round_trip(millis: int) -> None:
    assert parse_millis(iso(millis)) == millis


@pytest.mark.parametrize(
    ("text", "same"),
    [("2020-12-01", "2020-12-01T00:00:00.000Z"), ("2020-12-01T16:00", "2020-12-01T16:00:00.000Z"),
     ("2020-12-01T16:00:00+02:00", "2020-12-01T14:00:00.000Z"), ("2020-12-01T16:00:00.5Z", "2020-12-01T16:00:00.500Z")],
)  # fmt: skip
def test_instants_are_read_in_the_documented_forms(text: str, same: str) -> None:
    assert iso(parse_millis(text)) == same


@pytest.mark.parametrize("text", ["", "yesterday", "20201201", "2020-13-01", "2020-12-01 16:00:00", "1606838400"])
def test_other_forms_are_no_instants(text: str) -> None:
    with pytest.raises(ValueError):
        parse_millis(text)


def _steps(tenant: Tenant) -> list[object]:
    return [
        tenant.advance(3600, changed=11, added=7),
        tenant.advance(60.5, changed=3, added=0, baskets_added=2, baskets_completed=4, catalog_modified=8),
        tenant.advance(0, changed=1),
    ]


def test_advancing_is_the_same_every_time() -> None:
    one, other = Tenant(5), Tenant(5)
    assert _steps(one) == _steps(other)
    for kind in KINDS + CATALOG_KINDS:
        assert truth_digest(one, kind) == truth_digest(other, kind), kind
    assert one.now == "2026-11-01T01:01:00.500Z"


def test_advance_changes_exactly_what_it_says() -> None:
    tenant = Tenant()
    before = {kind: {row["id"]: row for row in tenant.rows_of(kind)} for kind in KINDS}
    clock = tenant.now
    step = tenant.advance(3600, changed=15, added=12)
    assert step.now == tenant.now == "2026-11-01T01:00:00.000Z"
    for kind in KINDS:
        after = {row["id"]: row for row in tenant.rows_of(kind)}
        old = before[kind]
        assert [id_ for id_ in after if id_ not in old] == step.added.get(kind, [])
        changed = {id_ for id_ in old if after[id_] != old[id_]}
        # A change may be one that only the full record shows, but never one that was not emitted.
        if kind == BASKETS:
            assert changed <= set(step.changed[kind])
            assert all(after[id_]["completed"] for id_ in step.changed[kind])
        else:
            assert changed == set(step.changed.get(kind, []))
        if kind not in (BASKETS, PARTNERS):
            for id_ in changed:
                assert clock < after[id_]["updated"] <= tenant.now
        for id_ in step.added.get(kind, []):
            assert clock < after[id_]["created"] <= tenant.now
    assert len(step.changed["subscriptions"]) == 15
    assert len(step.added["subscriptions"]) == len(step.added["orders"]) == len(step.added["events"]) == 12
    assert 8 <= len(step.added["customers"]) <= 11
    assert len(step.added[BASKETS]) == 2
    assert len(step.changed[BASKETS]) == 2


def test_every_added_subscription_has_a_customer_that_names_it() -> None:
    tenant = Tenant()
    for _ in range(4):
        tenant.advance(60, added=3)
    for id_ in tenant.ids("subscriptions"):
        record = tenant.record("subscriptions", id_)
        assert id_ in tenant.record("customers", record["customer"])["data"]["subscriptions"]


def test_advance_moves_catalog_items() -> None:
    tenant = Tenant()
    before = {kind: tenant.catalog(f"catalog/{kind}") for kind in ("offers2", "product", "page", "campaign")}
    clock = tenant.now
    step = tenant.advance(86_400, catalog_modified=8)
    assert sum(len(ids) for ids in step.changed.values()) == 8
    for kind, old in before.items():
        new = tenant.catalog(f"catalog/{kind}")
        moved = [item for item, earlier in zip(new, old, strict=True) if item != earlier]
        assert [item["id"] for item in moved] == step.changed.get(f"catalog/{kind}", [])
        assert all(item["data"]["modified"] >= clock[:19] for item in moved)


def test_a_fresh_page_follows_every_change() -> None:
    tenant = Tenant()
    first = tenant.rows("subscriptions", 0, 200)
    assert tenant.rows("subscriptions", 0, 200) == first
    tenant.advance(1, changed=5)
    assert tenant.rows("subscriptions", 0, 200) != first


def test_kept_pages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limio_limitrail.emulator.limio.tenant._PAGE_CACHE_BYTES", 20_000)
    tenant = Tenant()
    pages = [tenant.rows("orders", first, first + 5) for first in range(0, 200, 5)]
    assert sum(map(len, tenant._pages.values())) <= 20_000
    assert [tenant.rows("orders", first, first + 5) for first in range(0, 200, 5)] == pages
    assert len(tenant.rows("orders", 0, 200)) > 20_000


def test_baskets_are_in_order_of_creation() -> None:
    tenant = Tenant(size=TenantSize(baskets=500))
    tenant.advance(600, baskets_added=30)
    tenant.advance(0, baskets_added=3)
    created = [row["created"] for row in tenant.rows_of(BASKETS)]
    assert created == sorted(created)
    for moment in (created[0], created[250], created[-1], "2026-10-15T00:00:00Z", tenant.now):
        assert tenant.first_basket(parse_millis(moment)) == sum(one < iso(parse_millis(moment)) for one in created)


def test_empty_and_uneven_tenants() -> None:
    empty = Tenant(size=TenantSize(subscriptions=0, baskets=0, catalog=0, partners=0))
    for kind in KINDS + CATALOG_KINDS:
        assert list(empty.rows_of(kind)) == []
    empty.advance(60, changed=5, added=4)
    assert empty.count("subscriptions") == 4
    assert empty.count("customers") == 4
    many = Tenant(size=TenantSize(subscriptions=10, customers=25))
    assert many.count("customers") == 25
    assert sum(len(row["data"]["subscriptions"]) for row in many.rows_of("customers")) == 10
    assert set(SERVICES) == {"limio", "zuora", "salesforce"}
