# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Every row of the table, walked to the end."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from limio_limitrail.api.errors import InvalidRequestError, ParameterError
from limio_limitrail.api.pagination import CursorPair, CursorString
from limio_limitrail.api.resource import AuthMode, Resource
from limio_limitrail.limio.resources import PATH_TYPES, RECORD_TYPES, RESOURCES, credentials_for, find_resource

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
LEGACY = {
    "campaigns": "campaign",
    "pages": "page",
    "offers": "offers",
    "offers_v2": "offers2",
    "products": "product",
    "segments": "segment",
    "add_ons": "add_on",
}
BY_KEY = {"campaigns", "pages", "offers", "products", "segments", "assets"}
END_FORMS = ("absent", "null", "empty_object", "empty_string", "empty_items")


def ids(records):
    return [record["id"] for record in records]


def test_the_table():
    assert len(PATH_TYPES) == 13
    assert len(RECORD_TYPES) == 8
    expected = {*PATH_TYPES, *LEGACY, "assets", "abandoned_baskets", "partner_organisations"}
    expected |= {"identity_subscriptions", "identity_customers", "related"}
    expected |= {f"{kind}.{record_type}" for kind in ("catalog", "published_catalog") for record_type in RECORD_TYPES}
    assert set(RESOURCES) == expected
    assert "journeys" not in RESOURCES
    assert all(name == row.name for name, row in RESOURCES.items())


@pytest.mark.sampled(12)
@pytest.mark.parametrize("service", ["limio", "zuora", "salesforce"])
@pytest.mark.parametrize("name", PATH_TYPES)
def test_objects(hook, limio_emulator, name, service):
    params = None if service == "limio" else {"service": service}
    assert ids(hook.iter_records(name, path_params=params, page_size=7)) == limio_emulator.tenant.ids(f"{service}/{name}")


@pytest.mark.sampled(5)
@pytest.mark.parametrize("record_type", RECORD_TYPES)
@pytest.mark.parametrize(("family", "kind"), [("catalog", "catalog"), ("published_catalog", "published")])
def test_catalog(hook, limio_emulator, family, kind, record_type):
    found = ids(hook.iter_records(f"{family}.{record_type}", page_size=7))
    assert found == limio_emulator.tenant.ids(f"{kind}/{record_type}")
    assert found


@pytest.mark.parametrize("name", [*LEGACY, "assets"])
def test_legacy_lists(hook, limio_emulator, name):
    found = ids(hook.iter_records(name, page_size=7))
    assert len(found) == len(set(found)) == hook.count(name)
    if name in LEGACY:
        whole = set(limio_emulator.tenant.ids(f"catalog/{LEGACY[name]}"))
        assert set(limio_emulator.tenant.ids(f"published/{LEGACY[name]}")) <= set(found) <= whole


def test_baskets_and_partners(hook, limio_emulator):
    assert ids(hook.iter_records("abandoned_baskets", since=LONG_AGO, page_size=7)) == limio_emulator.tenant.ids("baskets")
    assert ids(hook.iter_records("partner_organisations", page_size=5)) == limio_emulator.tenant.ids("partner_organisations")


def test_what_belongs_to_an_identity_or_an_object(hook, limio_emulator):
    tenant = limio_emulator.tenant
    subscriptions, customers = [], []
    for identity in tenant.ids("salesforce/identities"):
        subscriptions += ids(hook.iter_records("identity_subscriptions", path_params={"id": identity}))
        customers += ids(hook.iter_records("identity_customers", path_params={"id": identity}))
    assert subscriptions
    assert set(subscriptions) <= set(tenant.ids("salesforce/subscriptions"))
    assert len(subscriptions) == len(set(subscriptions))
    assert customers == tenant.ids("salesforce/customers")[: len(customers)]
    subscription = tenant.ids("subscriptions")[3]
    related = ids(hook.iter_records("related", path_params={"path_type": "subscription", "id": subscription}))
    assert tenant.ids("orders")[3] in related


def test_every_row_is_walked():
    """A row that is added without a walk of its own fails here."""
    walked = {*PATH_TYPES, *LEGACY, "assets", "abandoned_baskets", "partner_organisations"}
    walked |= {"identity_subscriptions", "identity_customers", "related"}
    walked |= {f"{family}.{kind}" for family in ("catalog", "published_catalog") for kind in RECORD_TYPES}
    assert walked == set(RESOURCES)


@pytest.mark.parametrize("end", END_FORMS)
@pytest.mark.parametrize("catalog_cursor", ["scroll", "repeatable"])
def test_every_form_of_the_end(hook, limio_emulator, end, catalog_cursor):
    limio_emulator.configure(end_form=end, catalog_cursor=catalog_cursor)
    tenant = limio_emulator.tenant
    for size in (10, 30, 7):
        assert ids(hook.iter_records("catalog.offers2", page_size=size)) == tenant.ids("catalog/offers2")
        assert ids(hook.iter_records("identities", page_size=size)) == tenant.ids("identities")
        assert ids(hook.iter_records("abandoned_baskets", since=LONG_AGO, page_size=size)) == tenant.ids("baskets")
    limio_emulator.put_records("objects/limio/orders", [])
    assert list(hook.iter_records("orders")) == []


def test_single_use_cursors_are_used_once(hook, limio_emulator):
    limio_emulator.configure(object_cursor="single_use")
    assert ids(hook.iter_records("orders", page_size=20)) == limio_emulator.tenant.ids("orders")


def test_time_filters(hook, limio_emulator):
    start = datetime.fromisoformat(limio_emulator.tenant.now)
    step = limio_emulator.advance(3600, catalog_modified=8, baskets_added=4)
    changed = set(step.changed.get("catalog/offers2", []))
    found = {record["id"] for record in hook.iter_records("catalog.offers2", since=start)}
    assert len(changed) == len(found) == 2
    assert set(ids(hook.iter_records("abandoned_baskets", since=start))) == set(step.added["baskets"])
    with pytest.raises(ParameterError, match="needs a start in time"):
        hook.open_list("abandoned_baskets")
    with pytest.raises(ParameterError, match="cannot be filtered by time"):
        hook.open_list("orders", since=start)


# -- a Resource of one's own -----------------------------------------------------------------------------------------

OWN = Resource(name="things", path="/custom/{room}/things", detail_path="/custom/{room}/things/{id}")


def test_a_resource_of_ones_own_works_wherever_a_name_does(hook, limio_emulator):
    rows = [{"id": f"t{number}", "deep": {"n": number}} for number in range(25)]
    limio_emulator.put_records("custom/a/things", rows)
    params = {"room": "a"}
    assert list(hook.iter_records(OWN, path_params=params, page_size=4)) == rows
    assert list(hook.iter_records(OWN, path_params=params, page_size=4, detail=True)) == rows
    assert sum(len(page.raw_records) for page in hook.iter_pages(OWN, path_params=params, page_size=4)) == 25
    assert list(hook.get_df(OWN, path_params=params, flatten=True).columns) == ["id", "deep.n"]
    assert hook.count(OWN, path_params=params) == 25
    assert hook.find_resource(OWN) is OWN
    walk = hook.open_list(OWN, path_params=params, page_size=10)
    first = next(walk.pages())
    rest = hook.open_list(OWN, path_params=params, page_size=10, cursor=first.next_cursor, records_read=walk.records_read)
    assert sum(len(page.raw_records) for page in rest.pages()) == 15


def test_a_page_size_is_cut_to_what_a_resource_takes(hook, limio_emulator):
    limio_emulator.put_records("custom/things", [{"id": "1"}])
    small = Resource(name="things", path="/custom/things", max_page_size=3)
    list(hook.iter_pages(small, page_size=50))
    assert limio_emulator.counters.log[-1]["query"] == "limit=3"


def test_a_name_that_is_not_in_the_table_is_told_its_neighbours():
    with pytest.raises(ParameterError, match="Did you mean 'subscriptions'"):
        find_resource("subscription")
    with pytest.raises(ParameterError, match="Pass a Resource"):
        find_resource("journeys")


# -- the legacy key --------------------------------------------------------------------------------------------------


def test_the_rows_that_the_key_opens():
    assert {name for name, row in RESOURCES.items() if AuthMode.API_KEY in row.credentials} == BY_KEY


@pytest.mark.parametrize("name", sorted(BY_KEY))
def test_the_key_is_sent_as_it_is(key_hook, limio_emulator, name):
    seen = []
    limio_emulator.on_request(lambda call: seen.append(call.headers["authorization"]))
    assert list(key_hook.iter_records(name, page_size=7))
    assert set(seen) == {limio_emulator.api_key}
    assert limio_emulator.counters.tokens_minted == 0


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", sorted(set(RESOURCES) - BY_KEY))
def test_everything_else_refuses_the_key_before_a_request_is_sent(key_hook, limio_emulator, name):
    row = RESOURCES[name]
    params = dict.fromkeys(row.placeholders(), "x")
    since = LONG_AGO if row.time_filter and row.time_filter.required else None
    with pytest.raises(InvalidRequestError, match=r"auth_mode=oauth only.*nothing was sent"):
        list(key_hook.iter_pages(name, path_params=params, since=since))
    assert limio_emulator.counters.requests == 0


def test_the_key_opens_no_other_path_and_no_write(key_hook, limio_emulator):
    assert key_hook.request(path="/campaigns").status == 200
    limio_emulator.counters.reset()
    for call in ({"path": "/objects/limio/orders"}, {"path": "/campaigns", "method": "post"}, {"path": "/offers/v2"}):
        with pytest.raises(InvalidRequestError, match="nothing was sent"):
            key_hook.request(**call)
    assert limio_emulator.counters.requests == 0
    assert credentials_for(method="GET", path="/offers/") == {AuthMode.OAUTH, AuthMode.API_KEY}


def test_paging_styles_of_the_table():
    pairs = {name for name, row in RESOURCES.items() if isinstance(row.paging, CursorPair)}
    strings = {name for name, row in RESOURCES.items() if isinstance(row.paging, CursorString)}
    assert pairs == {*LEGACY, "assets", *(name for name in RESOURCES if "catalog." in name)}
    assert set(RESOURCES) - pairs - strings == {"related"}
