# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Walks: every page exactly once, an end in every form, and no circle without one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import chain, islice
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from limio_limitrail.api.client import ApiClient
from limio_limitrail.api.errors import (
    CursorRefusedError,
    InvalidRequestError,
    PageTooLargeError,
    ParameterError,
    ProtocolError,
    ServerError,
)
from limio_limitrail.api.list_reader import MAX_EMPTY_PAGES, ListReader
from limio_limitrail.api.pagination import CursorPair, CursorString, SinglePage
from limio_limitrail.api.redact import remember_secret
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.resource import AuthMode, Resource
from limio_limitrail.api.responses import Response
from limio_limitrail.api.secret import Secret
from limio_limitrail.emulator import Fault
from limio_limitrail.polling.changes import WatchedList, WatchFilter
from limio_limitrail.polling.conditions import RecordsCondition
from limio_limitrail.polling.poll import PollStatus
from tests.support.secrets_left import FORMS, readable_pieces

LIST = Resource(name="things", path="/things")
COUNTED = Resource(name="counted", path="/counted", total="hits")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CATALOG = Resource(name="catalog", path="/catalog", paging=CursorPair(), total="hits")


def client_of(answer: Any) -> ApiClient:
    """A client whose answers a function makes out of the query."""

    def exchange(*, params: Any, context: RequestContext, **_: object) -> Response:
        found = answer(dict(params))
        status, body, headers = (*found, {})[:3] if isinstance(found, tuple) else (200, found, {})
        return Response(status=status, headers=headers, body=body if isinstance(body, bytes) else json.dumps(body).encode())

    auth = SimpleNamespace(
        mode=AuthMode.OAUTH,
        credential=lambda: Secret("the-token"),
        header=lambda _: "x",
        renew=lambda _: False,
        granted_scopes=lambda: None,
        secrets=lambda: (Secret("the-token"),),
    )
    transport = SimpleNamespace(exchange=exchange)
    return ApiClient(api="Limio", base_url="http://app/api", transport=transport, auth=auth, sleep=lambda _: None)  # type: ignore[arg-type]


def walk_of(answer: Any, resource: Resource = LIST, *, page_size: int = 100, **more: Any) -> ListReader:
    return ListReader(client=client_of(answer), resource=resource, path=resource.path, params={}, page_size=page_size, **more)


def rows_of(walk: ListReader) -> list[Any]:
    # Bounded, so that a walk without an end fails instead of hanging.
    return [row for page in islice(walk.pages(), 500) for row in json.loads(page.records)]


SIZES = st.lists(st.integers(1, 5), max_size=12)
ENDS = st.sampled_from(["absent", None, "", {}, "empty_items"])


def paged(sizes: list[int]) -> list[list[dict[str, int]]]:
    serial = iter(range(10**6))
    return [[{"id": next(serial)} for _ in range(size)] for size in sizes] or [[]]


def ended(pages: list[Any], at: int, end: Any, cursor: Any) -> dict[str, Any]:
    if at < len(pages) - 1 or (end == "empty_items" and at < len(pages) and pages[at]):
        return {"items": pages[at], "queryMore": cursor}
    rows = pages[at] if at < len(pages) else []
    return {"items": rows} if end in ("absent", "empty_items") else {"items": rows, "queryMore": end}


@given(sizes=SIZES, end=ENDS)
def test_a_cursor_string_gives_every_page_once(sizes, end):
    pages = paged(sizes)

    def answer(query):
        at = int(query["queryMore"]) if "queryMore" in query else 0
        assert query["limit"] == "100"
        return ended(pages, at, end, str(at + 1))

    assert rows_of(walk_of(answer)) == list(chain(*pages))


@given(sizes=st.lists(st.integers(0, 3), max_size=15), end=ENDS)
def test_empty_pages_in_the_middle_lose_nothing(sizes, end):
    """As a store gives them that filters after reading: no rows, and a cursor that leads on."""
    pages = paged(sizes)
    gaps = "".join("0" if size == 0 else "1" for size in sizes).split("1")
    assume(max(map(len, gaps)) < MAX_EMPTY_PAGES)

    def answer(query):
        at = int(query.get("queryMore", 0))
        return ended(pages, at, end, str(at + 1))

    assert rows_of(walk_of(answer)) == list(chain(*pages))


def test_empty_pages_without_end_are_an_error():
    asked = []

    def answer(query):
        asked.append(query)
        return {"items": [{"id": 1}] if len(asked) == 1 else [], "queryMore": str(len(asked))}

    with pytest.raises(ProtocolError, match=f"{MAX_EMPTY_PAGES} empty pages came in a row"):
        list(walk_of(answer).pages())
    assert len(asked) == 1 + MAX_EMPTY_PAGES


@pytest.mark.parametrize("cursor", ["the same", "an older one"])
def test_an_empty_page_with_a_cursor_that_was_there_is_the_end(cursor):
    answers = iter([{"items": [{"id": 1}], "queryMore": "a"}, {"items": [{"id": 2}], "queryMore": "b"}])
    last = {"items": [], "queryMore": "b" if cursor == "the same" else "a"}
    assert rows_of(walk_of(lambda _: next(answers, last))) == [{"id": 1}, {"id": 2}]


@given(sizes=SIZES, end=ENDS, scroll=st.booleans())
def test_a_cursor_pair_gives_every_page_once_whether_its_cursor_moves_or_not(sizes, end, scroll):
    pages = paged(sizes)
    state = [0]

    def answer(query):
        assert query["opt.all"] == "true"
        if "opt.queryMoreFrom" not in query:
            state[0] = 0
        else:
            assert query["opt.queryMoreAlias"] == "alias"
            state[0] = state[0] + 1 if scroll else int(query["opt.queryMoreFrom"])
        cursor = {"from": "same" if scroll else str(state[0] + 1), "alias": "alias"}
        return {"hits": sum(sizes), **ended(pages, state[0], end, cursor)}

    assert rows_of(walk_of(answer, CATALOG)) == list(chain(*pages))


@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=12), data=st.data())
def test_a_walk_goes_on_from_any_cursor(sizes, data):
    pages = paged(sizes)

    def answer(query):
        at = int(query.get("queryMore", 0))
        return ended(pages, at, "absent", str(at + 1))

    stop = data.draw(st.integers(0, len(pages) - 2))
    first = walk_of(answer)
    head, cursor = [], None
    for number, page in enumerate(first.pages()):
        head += json.loads(page.records)
        if number == stop:
            cursor = page.next_cursor
            break
    assert head + rows_of(walk_of(answer, cursor=cursor, records_read=first.records_read)) == list(chain(*pages))


@given(length=st.integers(1, 6), back=st.integers(0, 5), resource=st.sampled_from([LIST, CATALOG]), hits=st.booleans())
def test_a_list_that_runs_in_circles_ends_in_an_error(length, back, resource, hits):
    """After its last page the list leads back to an earlier one."""
    target = back % length
    state = [-1]

    def answer(query):
        state[0] = state[0] + 1 if state[0] + 1 < length else target
        cursor = (
            {"from": "same", "alias": "a"} if resource is CATALOG else f"c{(state[0] + 1) if state[0] + 1 < length else target}"
        )
        return {**({"hits": 10**6} if hits else {}), "items": [{"id": state[0]}], "queryMore": cursor}

    with pytest.raises(ProtocolError, match="never end"):
        rows_of(walk_of(answer, resource))


def test_a_repeated_cursor_is_refused(make_client, limio_emulator):
    limio_emulator.faults.add(Fault("repeat_cursor", "/api/objects/limio/orders", after=2, times=None))
    client = make_client(limio_emulator)
    orders = Resource(name="orders", path="/objects/limio/orders")
    # The cursor may lead to where the API stands now, until the records tell that it does not.
    with pytest.raises(ProtocolError, match="page 4 repeats page 3: the list would never end"):
        list(ListReader(client=client, resource=orders, path=orders.path, params={}, page_size=10).pages())
    assert limio_emulator.counters.requests == 5


def test_a_repeated_page_is_refused(make_client, limio_emulator):
    limio_emulator.faults.add(Fault("repeat_page", "/api/objects/limio/orders", after=2))
    client = make_client(limio_emulator)
    orders = Resource(name="orders", path="/objects/limio/orders")
    with pytest.raises(ProtocolError, match="page 3 repeats page 2"):
        list(ListReader(client=client, resource=orders, path=orders.path, params={}, page_size=10).pages())


# -- totals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "missing"), [(5, 0), (4, 0), (7, 2)])
def test_the_total_is_compared_with_what_came(hits, missing):
    walk = walk_of(lambda _: {"hits": hits, "items": [{"id": n} for n in range(5)]}, CATALOG)
    if not missing:
        assert len(rows_of(walk)) == 5
        return
    with pytest.raises(CursorRefusedError, match="reported 7 records and 5 came: 2 are missing"):
        rows_of(walk)


def test_a_shortfall_of_a_list_that_keeps_its_cursors_is_a_protocol_error():
    with pytest.raises(ProtocolError, match="1 are missing"):
        rows_of(walk_of(lambda _: {"hits": 2, "items": [{}]}, COUNTED))


def test_records_before_the_cursor_count():
    walk = walk_of(lambda _: {"items": [{"id": 4}]}, COUNTED, cursor={"queryMore": "x"}, records_read=4, total=5)
    assert rows_of(walk) == [{"id": 4}]
    assert walk.records_read == 5


# -- page sizes and cursors ------------------------------------------------------------------------------------------


def test_a_page_that_is_too_large_is_asked_for_at_half_the_size():
    asked = []

    def answer(query):
        asked.append((query.get("queryMore"), int(query["limit"])))
        if int(query["limit"]) > 10:
            return 413, {}
        at = int(query.get("queryMore", 0))
        return ended(paged([3, 3]), at, "absent", str(at + 1))

    walk = walk_of(answer, page_size=90)
    assert [row["id"] for row in rows_of(walk)] == [0, 1, 2, 3, 4, 5]
    assert asked == [(None, 90), (None, 45), (None, 22), (None, 11), (None, 5), ("1", 5)]
    assert walk.page_size == 5


def test_halving_stops_at_one_record():
    asked = []

    def answer(query):
        asked.append(int(query["limit"]))
        return 413, {}

    with pytest.raises(PageTooLargeError):
        rows_of(walk_of(answer, page_size=9))
    assert asked == [9, 4, 2, 1]


def test_a_502_on_a_large_page_is_tried_smaller_down_to_the_documented_default():
    asked = []

    def answer(query):
        asked.append(int(query["limit"]))
        return (502, {"message": "Response too large"}) if int(query["limit"]) > 60 else {"items": [{}]}

    assert len(rows_of(walk_of(answer, page_size=400))) == 1
    assert asked == [400, 400, 400, 200, 100, 50]


def test_a_502_that_stays_is_an_error_with_what_the_body_said():
    asked = []

    def answer(query):
        asked.append(int(query["limit"]))
        return 502, {"message": "Invalid field"}

    with pytest.raises(ServerError, match="Invalid field"):
        rows_of(walk_of(answer, page_size=100))
    assert asked == [100, 100, 100, 50]


def test_a_502_on_a_small_page_is_not_halved():
    asked = []

    def answer(query):
        asked.append(query)
        return 502, {}

    with pytest.raises(ServerError):
        rows_of(walk_of(answer, page_size=60))
    assert len(asked) == 3


NUMBERED = Resource(name="things", path="/things", paging=CursorString(cursor_param="page", cursor_member="next"))
CURSORS = {
    "pages from 1": lambda at, size: at // size + 1,
    "pages from 0": lambda at, size: at // size,
    "offsets": lambda at, size: at,
    "ids": lambda at, size: at - 1,
}


def thousand(cursors, *, too_large_at, status):
    """A list of a thousand records, of which the page at a position is too large with a hundred of them."""
    cursor_of = CURSORS[cursors]

    def answer(query):
        size = int(query["limit"])
        starts = {str(cursor_of(at, size)): at for at in range(0, 1001, size if "pages" in cursors else 1)}
        at = starts[query["page"]] if "page" in query else 0
        if at <= too_large_at < at + size and size > 50:
            return status, {}
        rows = [{"id": number} for number in range(at, min(at + size, 1000))]
        return {"items": rows, "next": str(cursor_of(at + size, size))} if at + size < 1000 else {"items": rows}

    return answer


@pytest.mark.parametrize("status", [413, 502])
@pytest.mark.parametrize("too_large_at", [0, 150, 950])
@pytest.mark.parametrize("cursors", CURSORS)
def test_a_page_in_the_middle_that_is_too_large(cursors, too_large_at, status):
    """The third page of a hundred records is another one than the third of fifty."""
    answer = thousand(cursors, too_large_at=too_large_at, status=status)
    walk = walk_of(answer, NUMBERED)
    if "pages" in cursors and too_large_at:
        with pytest.raises(CursorRefusedError, match=r"a page's number.*read the list from its start with page_size=50"):
            rows_of(walk)
        assert walk.page_size == 50
        walk = walk_of(answer, NUMBERED, page_size=walk.page_size)
    assert [row["id"] for row in rows_of(walk)] == list(range(1000))


@pytest.mark.parametrize("cursors", CURSORS)
def test_a_poll_reads_numbered_pages_again_by_itself(cursors):
    client = client_of(thousand(cursors, too_large_at=950, status=502))
    found = RecordsCondition(resource=NUMBERED, min_records=1000).poll(client)
    assert (found.status, found.summary) == (PollStatus.FOUND, "there are 1000 records")
    watched = WatchedList(resource=NUMBERED).poll(client, filters={"one": WatchFilter(changed_after=None)}, now=NOON)
    assert [one.identity for one in watched["one"]] == [str(number) for number in range(1000)]


@pytest.mark.parametrize("cursors", CURSORS)
def test_a_page_that_is_too_large_where_reading_continues(cursors):
    answer = thousand(cursors, too_large_at=350, status=413)
    walk = walk_of(answer, NUMBERED, cursor={"page": str(CURSORS[cursors](300, 100))}, records_read=300)
    if "pages" in cursors:
        with pytest.raises(CursorRefusedError, match="a page's number"):
            rows_of(walk)
    else:
        assert [row["id"] for row in rows_of(walk)] == list(range(300, 1000))


@pytest.mark.parametrize("cursors", CURSORS)
def test_a_position_of_pages_of_another_size(cursors):
    """As in a slice that was begun before another one got smaller pages, and that a retry continues."""
    position = {"cursor": {"page": str(CURSORS[cursors](300, 100))}, "records_read": 300}
    walk_of(None, NUMBERED, **position, page_size=100).check_page_size()
    smaller = walk_of(None, NUMBERED, **position, page_size=50)
    if "pages" in cursors:
        with pytest.raises(CursorRefusedError, match="a page's number"):
            smaller.check_page_size()
    else:
        smaller.check_page_size()


@pytest.mark.parametrize("paging", [CursorString(page_size_param=None), SinglePage()], ids=["string", "single"])
def test_a_list_without_a_page_size_is_never_asked_for_one(paging):
    asked = []

    def answer(query):
        asked.append(query)
        return 413, {}

    with pytest.raises(PageTooLargeError):
        rows_of(walk_of(answer, Resource(name="x", path="/x", paging=paging)))
    assert asked == [{}]


@pytest.mark.parametrize("status", [400, 404, 410, 422, 502])
@pytest.mark.parametrize("resource", [LIST, CATALOG], ids=["string", "pair"])
def test_a_refused_cursor_says_that_the_walk_must_begin_again(status, resource):
    def answer(query):
        if {"queryMore", "opt.queryMoreFrom"} & set(query):
            return status, {"message": "expired"}
        cursor = "x" if resource is LIST else {"from": "f", "alias": "a"}
        return {"items": [{}], "queryMore": cursor}

    with pytest.raises(CursorRefusedError, match="expired") as caught:
        rows_of(walk_of(answer, resource))
    assert caught.value.status == status


@pytest.mark.parametrize(("status", "kind"), [(400, InvalidRequestError), (502, ServerError)])
def test_a_first_page_that_is_refused_is_no_matter_of_cursors(status, kind):
    with pytest.raises(kind):
        rows_of(walk_of(lambda _: (status, {})))


def test_a_resumed_walk_with_the_wrong_credentials_does_not_blame_the_cursor():
    key_only = Resource(name="x", path="/x", credentials=frozenset({AuthMode.API_KEY}))
    with pytest.raises(InvalidRequestError, match="auth_mode=api_key only"):
        rows_of(walk_of(lambda _: {}, key_only, cursor={"queryMore": "x"}))


def test_paging_wins_over_parameters_of_the_same_name():
    seen = []

    def answer(query):
        seen.append(query)
        return {"items": []}

    walk = walk_of(answer, CATALOG)
    walk.params = {"opt.all": "false", "opt.pageSize": "1", "record_type": "offers"}
    rows_of(walk)
    assert seen == [{"opt.all": "true", "opt.pageSize": "100", "record_type": "offers"}]


# -- details ---------------------------------------------------------------------------------------------------------


def detailed(answer: Any, path: str = "/objects/{service}/things", **parts: str) -> list[Any]:
    from limio_limitrail.api.details import with_details

    resource = Resource(name="things", path=path, detail_path=f"{path}/{{id}}")
    list_path = resource.path_for({"service": "limio", **parts})
    client = client_of(lambda query: {"items": [{"id": "a"}, {"id": "b"}]})
    walk = ListReader(client=client, resource=resource, path=list_path, params={}, page_size=10)
    inner = client.send

    def send(*, path: str, **more: Any) -> Any:
        return inner(path=path, **more) if path == list_path else answer(path)

    client.send = send  # type: ignore[method-assign, assignment]
    pages = with_details(walk.pages(), client=client, resource=resource, list_path=list_path, concurrency=3)
    return [row for page in pages for row in json.loads(page.records)]


def whole(path: str) -> Any:
    return SimpleNamespace(status=200, body=json.dumps({"id": path.rpartition("/")[2], "path": path}).encode())


def test_objects_take_the_place_of_summaries_in_order():
    assert detailed(whole) == [{"id": name, "path": f"/objects/limio/things/{name}"} for name in "ab"]


def test_the_detail_path_takes_the_values_of_the_list():
    rows = detailed(whole, "/objects/{service}/x-{kind}.y/{service}/things", service="a/b c", kind="%")
    assert rows[0]["path"] == "/objects/a%2Fb%20c/x-%25.y/a%2Fb%20c/things/a"


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'{"id":"a"', b"", b'{"id":"\xff"}', b'{"id":"a"},{"id":"c"}'])
def test_a_broken_object_does_not_spoil_the_page(body):
    with pytest.raises(ProtocolError, match="expected"):
        detailed(lambda _: SimpleNamespace(status=200, body=body))


def test_an_object_with_half_a_surrogate_pair_is_mended():
    rows = detailed(lambda path: SimpleNamespace(status=200, body=rb' {"v":"\ud800","id":"%s"} ' % path[-1:].encode()))
    assert rows == [{"v": "\ufffd", "id": "a"}, {"v": "\ufffd", "id": "b"}]


@pytest.mark.parametrize("identity", [None, True, 5.5, ["a"], "", ".", ".."])
def test_a_record_without_a_usable_id_breaks_the_contract(identity):
    from limio_limitrail.api.details import with_details

    resource = Resource(name="things", path="/things", detail_path="/things/{id}")
    walk = walk_of(lambda _: {"items": [{"id": identity}]}, resource)
    with pytest.raises(ProtocolError, match="no usable text in 'id'"):
        list(with_details(walk.pages(), client=walk.client, resource=resource, list_path="/things", concurrency=2))


def test_a_resource_without_a_detail_path_says_so():
    from limio_limitrail.api.details import with_details

    walk = walk_of(lambda _: {"items": []})
    with pytest.raises(ParameterError, match="has no path for a single record"):
        list(with_details(walk.pages(), client=walk.client, resource=LIST, list_path="/things", concurrency=2))


@pytest.mark.parametrize("form", FORMS)
def test_a_saved_cursor_that_repeats_a_credential_is_not_sent(form):
    """An older version may have saved it: the pull begins its window again, instead of failing at each try."""
    remember_secret(held := Secret("q8Zt+Lw/92kd=Xx7?m"))
    asked = []
    walk = walk_of(lambda query: asked.append(query) or {"items": []}, cursor={"queryMore": f"a{FORMS[form](held.reveal())}"})
    with pytest.raises(CursorRefusedError, match="repeats a credential") as caught:
        list(walk.pages())
    assert asked == []
    assert readable_pieces(str(caught.value), held.reveal()) == set()


@pytest.mark.parametrize("resource", [LIST, CATALOG], ids=["string", "pair"])
@pytest.mark.parametrize("form", FORMS)
def test_a_cursor_that_repeats_a_credential_is_neither_given_on_nor_sent(resource, form):
    remember_secret(held := Secret("q8Zt+Lw/92kd=Xx7?m"))
    said = FORMS[form](held.reveal())
    more = {"from": "f", "alias": said} if resource is CATALOG else said
    asked = []
    walk = walk_of(lambda query: asked.append(query) or {"items": [{"id": 1}], "queryMore": more}, resource)
    with pytest.raises(ProtocolError, match="its cursor repeats a credential") as caught:
        next(walk.pages())
    assert len(asked) == 1
    assert readable_pieces(str(caught.value), held.reveal()) == set()
