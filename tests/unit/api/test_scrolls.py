# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Lists whose place the API keeps: known by their cursors, read to the end, and begun again where a page may be lost."""

from __future__ import annotations

import base64
import json
from itertools import islice
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.api.errors import CursorRefusedError, ProtocolError
from limio_limitrail.api.list_reader import ListReader
from limio_limitrail.api.pagination import CursorPair, CursorString, is_scroll
from limio_limitrail.api.resource import Resource, TimeFilter
from limio_limitrail.api.retry import RetryLimits
from limio_limitrail.emulator import Fault

ORDERS = Resource(name="orders", path="/objects/limio/orders")
BASKETS = Resource(
    name="baskets",
    path="/checkout/abandoned",
    params={"createdAfter": "2020-01-01"},
    time_filter=TimeFilter(since="a", field="b"),
)
LISTS = [(ORDERS, "orders"), (BASKETS, "baskets")]


def b64(text: bytes, *, safe: bool = False) -> str:
    return (base64.urlsafe_b64encode if safe else base64.b64encode)(text).decode()


ELASTIC = "DnF1ZXJ5VGhlbkZldGNoAwAAAAAAAAAD4WYm9laVYtZndUQlNsdDcwakFMNjU1QQ=="
SCROLLS = {
    "documented by Limio": "DnF1ZXJ5VGhlbkZldGNo",
    "Elasticsearch 2 to 7.6": ELASTIC,
    "one shard": "DXF1ZXJ5QW5kRmV0Y2gBAAAAAAAAAD4WYm9laVYtZndUQlNsdDcwakFMNjU1QQ==",
    "since 7.7, and OpenSearch": "FGluY2x1ZGVfY29udGV4dF91dWlkDXF1ZXJ5QW5kRmV0Y2gBFjZ3",
    "Elasticsearch 1": b64(b"queryThenFetch;2;320407:IlFQWNYNS-62raQUrKpSWA;320410:IlFQ;0;"),
    "a scan": b64(b"scan;5;77682:60dTi6bpTfOuJQ6HvrdAJg;1;total_hits:2;"),
    "a scan of Elasticsearch 2": b64(b"\x04scan\x01\x00\x00"),
    "without padding": ELASTIC.rstrip("="),
    "URL-safe": b64(b"\x0equeryThenFetch\xfb\xff\xbf", safe=True),
    "percent-encoded": quote(b64(b"\x0equeryThenFetch\xfb\xff\xbf"), safe=""),
    "not in Base64": "queryThenFetch;2;320407",
    "in JSON": json.dumps({"id": ELASTIC, "size": 5}),
    "in JSON in Base64": b64(json.dumps({"id": ELASTIC}).encode()),
    "twice in Base64": b64(ELASTIC.encode()),
    "behind a word": f"scroll-{ELASTIC}",
    "behind a number": f"3|{ELASTIC}",
    "behind another in Base64": b64(b"v1:" + b"\x0equeryThenFetch"),
    "JSON that says so": b64(b'{"scroll_id":"abc"}'),
    "JSON that says so otherwise": b64(b'{"v":1,"scrollId":"abc"}', safe=True),
}
OTHERS = [
    "",
    "2",
    "abc",
    "01gxx0000001abcAAA-2000",
    b64(json.dumps({"v": 1, "c": "9f1c2d1e-0000-4000-8000-000000000000", "r": "2026-01-01T00:00:00Z"}).encode()),
    b64(json.dumps({"offset": 100, "sort": [1, "a"]}).encode()),
    b64(bytes(range(256))),
    "eyJhbGciOiJIUzI1NiJ9.eyJvZmZzZXQiOjF9.c2lnbmF0dXJl",
    "AoEuLw==",
    "next page, scan; of things",
    "%",
    "\ud83d\ude00",
]


@pytest.mark.parametrize("form", SCROLLS)
@pytest.mark.parametrize("name", ["queryMore", "opt.queryMoreFrom", "cursor"])
def test_a_scroll_id_is_known_in_every_form(form, name):
    assert is_scroll({"opt.all": "true", name: SCROLLS[form]})


@pytest.mark.parametrize("cursor", OTHERS)
def test_another_cursor_is_none(cursor):
    assert not is_scroll({"queryMore": cursor})


def test_a_cursor_that_is_called_a_scroll_id_is_one():
    assert is_scroll({"scroll_id": "abc"})
    assert is_scroll({"scroll": "1m", "scrollId": "abc"})


@given(before=st.binary(max_size=6), after=st.binary(max_size=6), word=st.sampled_from([b"queryThenFetch", b"queryAndFetch"]))
def test_a_scroll_id_is_known_wherever_it_stands(before, after, word):
    assert is_scroll({"queryMore": b64(before + word + after)})
    assert is_scroll({"queryMore": b64(b64(before + word + after).encode(), safe=True)})


@given(st.text(max_size=40))
def test_any_text_is_looked_at(text):
    is_scroll({"queryMore": text})


# -- walks, through sockets ------------------------------------------------------------------------------------------


def walk_of(make_client, server, resource=ORDERS, *, page_size=20, limits=None, **more):
    client = make_client(server, limits=limits)
    return ListReader(client=client, resource=resource, path=resource.path, params=resource.params, page_size=page_size, **more)


def ids(pages):
    return [row["id"] for page in pages for row in json.loads(page.records)]


@pytest.fixture(params=["stay", "change"])
def scrolled(request, limio_emulator_factory):
    return limio_emulator_factory(object_cursor="scroll", scroll_ids=request.param)


@pytest.mark.parametrize(("resource", "kind"), LISTS)
@pytest.mark.parametrize("page_size", [1, 7, 20, 1000])
def test_a_scroll_is_read_to_its_end(scrolled, make_client, resource, kind, page_size):
    walk = walk_of(make_client, scrolled, resource, page_size=page_size)
    pages = list(walk.pages())
    truth = scrolled.tenant.ids(kind)
    assert ids(pages) == truth
    assert walk.server_keeps_position
    assert [page.resumable for page in pages] == [False] * (len(pages) - 1) + [True]
    assert len(pages) == -(-len(truth) // page_size) + 1


@pytest.mark.parametrize(("resource", "kind"), LISTS)
def test_no_cursor_leads_back_into_its_middle(scrolled, make_client, resource, kind):
    page = next(walk_of(make_client, scrolled, resource).pages())
    before = scrolled.counters.requests
    with pytest.raises(CursorRefusedError, match="the API keeps the position in this list itself"):
        next(
            walk_of(
                make_client, scrolled, resource, cursor=page.next_cursor, records_read=20, total=len(scrolled.tenant.ids(kind))
            ).pages()
        )
    assert scrolled.counters.requests == before


LOST = [
    Fault("reset_after", match="/api", after=2),
    Fault("truncated", match="/api", after=2),
    *(Fault("status_after", match="/api", after=2, status=status) for status in (500, 502, 503, 504)),
    Fault("status", match="/api", after=2, status=503),
    Fault("reset", match="/api", after=2),
]


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: f"{fault.kind} {fault.status}")
def test_a_page_that_may_be_lost_is_not_asked_for_again(scrolled, make_client, fault):
    scrolled.faults.add(fault)
    found = []
    with pytest.raises(CursorRefusedError, match="the API keeps the position in this list itself, so that the page may be gone"):  # noqa: PT012
        for page in walk_of(make_client, scrolled, page_size=60).pages():
            found += ids([page])
    assert found == scrolled.tenant.ids("orders")[:120]
    assert scrolled.counters.requests == 1 + 3  # a token, two pages, and the lost one


def test_a_page_that_is_too_large_is_lost_and_the_next_walk_asks_for_less(scrolled, make_client):
    scrolled.faults.add(Fault("status_after", match="/api", after=1, status=413))
    walk = walk_of(make_client, scrolled, page_size=60)
    with pytest.raises(CursorRefusedError):
        list(walk.pages())
    assert walk.page_size == 30


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", match="/api", after=1, status=429, headers={"Retry-After": "0"}, times=3),
        Fault("status", match="/api", after=1, status=401),
    ],
    ids=["429", "401"],
)
def test_what_the_api_has_not_acted_on_is_asked_again(scrolled, make_client, fault):
    scrolled.faults.add(fault)
    assert ids(walk_of(make_client, scrolled, page_size=60).pages()) == scrolled.tenant.ids("orders")


def test_what_never_left_is_sent_again(scrolled, make_client):
    walk = walk_of(make_client, scrolled, page_size=60)
    exchange, failed = walk.client.transport.exchange, []

    def refuse_once(**request):
        if "queryMore" in (request.get("params") or {}) and not failed:
            failed.append(request)
            return exchange(**{**request, "url": "http://127.0.0.1:9/api/objects/limio/orders"})
        return exchange(**request)

    walk.client.transport.exchange = refuse_once
    assert ids(walk.pages()) == scrolled.tenant.ids("orders")
    assert failed


@pytest.mark.parametrize("kind", ["reset_after", "truncated", "status_after"])
def test_the_first_page_is_asked_for_again(scrolled, make_client, kind):
    """It opens another scroll."""
    scrolled.faults.add(Fault(kind, match="/api", status=503, times=2))
    assert ids(walk_of(make_client, scrolled, page_size=60).pages()) == scrolled.tenant.ids("orders")


@pytest.mark.parametrize("status", [400, 404, 410, 502])
def test_a_scroll_that_has_expired_says_so(scrolled, make_client, status):
    scrolled.configure(cursor_expired_status=status)
    pages = walk_of(make_client, scrolled, page_size=60).pages()
    next(pages)
    scrolled.expire_cursors()
    with pytest.raises(CursorRefusedError):
        next(pages)


def answering(site, respond):
    token = b'{"access_token": "token-of-the-site-123456", "expires_in": 3600}'
    site.respond = lambda request: (200, {}, token) if "oauth" in request["target"] else respond(request)


def scroll_site(site, pages, *, cursor, lose=(), end=None):
    """A server that keeps the position behind a cursor of any form; it loses the answers to some requests."""
    state = {"at": 0, "asked": 0}

    def respond(request):
        state["asked"] += 1
        if "queryMore" not in request["target"]:
            state["at"] = 0
        at = state["at"]
        state["at"] += 1
        if state["asked"] in lose:
            return 503, {}, b"{}"
        rows = pages[at] if at < len(pages) else []
        body = {"items": rows}
        if not (end == "absent" and at >= len(pages) - 1):
            body["queryMore"] = cursor(at)
        return 200, {}, json.dumps(body).encode()

    answering(site, respond)
    return state


PAGES = [[{"id": 1}], [{"id": 2}], [{"id": 3}], [{"id": 4}]]


@pytest.mark.sampled(10)
@pytest.mark.parametrize("end", [None, "absent"])
@pytest.mark.parametrize("form", ["opaque", *SCROLLS])
def test_a_cursor_that_stays_leads_to_the_next_page_whatever_its_form(site, make_client, form, end):
    state = scroll_site(site, PAGES, cursor=lambda _: SCROLLS.get(form, "0f9e8d7c"), end=end)
    walk = walk_of(make_client, site)
    pages = list(walk.pages())
    assert ids(pages) == [1, 2, 3, 4]
    assert walk.server_keeps_position
    assert state["asked"] == (4 if end else 5)
    assert not any(page.resumable for page in pages[:-1])


def test_a_scan_begins_with_nothing(site, make_client):
    scroll_site(site, [[], *PAGES], cursor=lambda _: SCROLLS["a scan"])
    assert ids(walk_of(make_client, site).pages()) == [1, 2, 3, 4]


def test_a_scroll_of_nothing_ends_at_once(site, make_client):
    state = scroll_site(site, [], cursor=lambda _: ELASTIC)
    assert ids(walk_of(make_client, site).pages()) == []
    assert state["asked"] == 1


def test_two_cursors_that_take_turns_are_a_kept_place_as_well(site, make_client):
    scroll_site(site, PAGES, cursor=lambda at: "ab"[at % 2], end="absent")
    walk = walk_of(make_client, site)
    assert ids(walk.pages()) == [1, 2, 3, 4]
    assert walk.server_keeps_position


def test_a_page_that_was_asked_for_twice_before_the_cursor_was_known_is_a_lost_one(site, make_client):
    """The cursor is of no known form. That it stays is seen only after the page behind it was asked for twice."""
    state = scroll_site(site, PAGES, cursor=lambda _: "0f9e8d7c", lose=(2,))
    with pytest.raises(CursorRefusedError, match="may have advanced between two requests"):
        list(walk_of(make_client, site).pages())
    assert state["asked"] == 3


def test_a_walk_that_was_gone_on_with_finds_out_that_it_cannot(site, make_client):
    state = scroll_site(site, PAGES, cursor=lambda _: "0f9e8d7c")
    state["at"] = 2
    with pytest.raises(CursorRefusedError, match="the API keeps the position"):
        list(walk_of(make_client, site, cursor={"queryMore": "0f9e8d7c"}, records_read=1).pages())


def test_a_first_cursor_does_not_show_yet_that_it_changes(site, make_client):
    def respond(request):
        at = int(request["target"].partition("queryMore=c")[2].partition("&")[0] or 0)
        more = {"queryMore": f"c{at + 1}"} if at < 3 else {}
        return 200, {}, json.dumps({"items": PAGES[at], **more}).encode()

    answering(site, respond)
    pages = list(walk_of(make_client, site).pages())
    assert [page.resumable for page in pages] == [False, True, True, True]
    again = list(walk_of(make_client, site, cursor=pages[1].next_cursor, records_read=2).pages())
    assert (ids(again), [page.resumable for page in again]) == ([3, 4], [True, True])


@pytest.mark.parametrize("many", [1, 2, 3, 5])
@pytest.mark.parametrize("scroll", [False, True])
def test_pages_that_take_turns_under_ever_new_cursors_are_an_error(site, make_client, many, scroll):
    asked = []

    def respond(request):
        asked.append(request)
        cursor = f"{ELASTIC if scroll else ''}{len(asked)}"
        return 200, {}, json.dumps({"items": [{"id": len(asked) % many}], "queryMore": cursor}).encode()

    answering(site, respond)
    with pytest.raises(ProtocolError, match="repeats page 1: the list would never end"):
        list(walk_of(make_client, site).pages())
    assert len(asked) == many + 1


def test_many_more_records_than_reported_are_an_error(site, make_client):
    asked = []

    def respond(request):
        asked.append(request)
        return 200, {}, json.dumps({"items": [{"id": len(asked)}], "queryMore": str(len(asked)), "hits": 5}).encode()

    answering(site, respond)
    with pytest.raises(ProtocolError, match="reported 5: it runs in circles"):
        list(walk_of(make_client, site, Resource(name="x", path="/x", total="hits"), page_size=2).pages())
    # Nothing was reported here.
    resource = Resource(name="x", path="/x")
    assert sum(len(page.raw_records) for page in islice(walk_of(make_client, site, resource).pages(), 30)) == 30


@pytest.mark.parametrize("paging", [CursorString(resumable=False), CursorString(cursor_repeats=True), CursorPair()])
def test_a_paging_style_may_say_so_beforehand(site, make_client, paging):
    resource = Resource(name="x", path="/x", paging=paging)
    walk = walk_of(make_client, site, resource)
    assert walk.server_keeps_position
    with pytest.raises(CursorRefusedError):
        next(walk_of(make_client, site, resource, cursor={"queryMore": "x"}).pages())
    assert site.seen == []


def test_a_look_of_a_sensor_does_not_ask_twice_either(scrolled, make_client):
    scrolled.faults.add(Fault("status_after", match="/api", after=1, status=503))
    with pytest.raises(CursorRefusedError):
        list(walk_of(make_client, scrolled, page_size=60, limits=RetryLimits(attempts=1)).pages())
