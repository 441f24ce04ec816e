# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Slices that are fetched side by side bring what they bring one after another, and go on wherever they were left."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.api.details import with_details
from limio_limitrail.api.errors import CursorRefusedError, InvalidRequestError, PageTooLargeError, ProtocolError, RateLimitError
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.responses import Response
from limio_limitrail.api.time_slices import read_slice_cursors, slices
from tests.support.sliced import DAY, PAGED, START, USAGE, Usage, ids, join_slices, walk_through

PATIENCE = 120
pytestmark = pytest.mark.usefixtures("no_thread_is_left")
HOURS = {**DAY, "slice_size": timedelta(hours=1)}
EVERY_TEN_MINUTES = [START + timedelta(minutes=10 * number) for number in range(144)]

spans = st.integers(min_value=1, max_value=30 * 3600)
delays = st.lists(st.sampled_from([0, 0, 0.0005, 0.002]), min_size=1, max_size=7)
at_once = st.integers(min_value=1, max_value=8)


@st.composite
def worlds(draw, **ways):
    """An API, and how to walk through a window of its records."""
    seconds = draw(spans)
    window = timedelta(seconds=max(seconds // draw(st.integers(1, 12)), 60))
    records = [START + timedelta(seconds=at) for at in draw(st.lists(st.integers(0, seconds - 1), max_size=30))]
    api = Usage(records, paged=draw(st.booleans()), delays=draw(delays), **ways)
    span = {"since": START, "until": START + timedelta(seconds=seconds), "slice_size": window}
    return api, span


def check_pages(pages, *, api, span, concurrency):
    assert sorted(ids(pages)) == [row["id"] for row in api.records]
    assert [page.number for page in pages] == list(range(1, len(pages) + 1))
    assert [page.next_cursor is None for page in pages] == [False] * (len(pages) - 1) + [True]
    assert api.most_at_once <= concurrency
    # Within a slice the records stay in order.
    for piece in slices(**span):
        own = [row["id"] for row in api.records if piece.since <= row["at"] < piece.until]
        assert [one for one in ids(pages) if one in own] == own


@given(data=st.data(), world=worlds())
def test_each_record_comes_once_and_any_cursor_leads_on(data, world):
    api, span = world
    walk = partial(walk_through, replace(PAGED, total="total"), client=api.client(), **span)
    concurrency = data.draw(at_once)
    pages = list(walk(concurrency=concurrency).pages())
    check_pages(pages, api=api, span=span, concurrency=concurrency)
    # Left at any page, and again, and again.
    cursor, most, taken = None, 0, []
    while True:
        concurrency = data.draw(at_once)
        most = max(most, concurrency)
        for left, page in enumerate(walk(cursor=cursor, concurrency=concurrency).pages()):
            taken.append(page)
            if left >= data.draw(st.integers(0, 9)):
                break
        cursor = page.next_cursor
        if cursor is None:
            break
        assert all(isinstance(part, str) for item in cursor.items() for part in item)
        cursor = json.loads(json.dumps(cursor))
        assert len(read_slice_cursors(cursor, **span).open) <= 2 * most
    assert sorted(ids(taken)) == [row["id"] for row in api.records]


def rest_of(api, span, *, cursor, concurrency, resource):
    """Go on from a cursor as a pull does: None where the place is lost."""
    try:
        return ids(walk_through(resource, client=api.client(), cursor=cursor, concurrency=concurrency, **span).pages())
    except CursorRefusedError:
        return None


@given(data=st.data(), world=worlds(scrolled=True), total=st.sampled_from([None, "total"]))
def test_a_place_that_the_api_keeps_itself_is_lost_or_right(data, world, total):
    api, span = world
    resource = replace(PAGED, paging=replace(PAGED.paging, resumable=False), total=total)
    concurrency = data.draw(at_once)
    pages = walk_through(resource, client=api.client(), concurrency=concurrency, **span).pages()
    taken, cursor, resumable = [], None, True
    for number, page in enumerate(pages):
        taken += ids([page])
        cursor, resumable = page.next_cursor, page.resumable
        if page.ends_slice and cursor is not None:
            assert not any(".cursor" in name for name in cursor)
        if number >= data.draw(st.integers(0, 9)):
            break
    pages.close()
    if cursor is None:
        assert sorted(taken) == [row["id"] for row in api.records]
        return
    # A late request would move the place that the next walk reads from.
    join_slices()
    rest = rest_of(api, span, cursor=cursor, concurrency=data.draw(at_once), resource=resource)
    assert (rest is not None) == resumable
    if rest is not None:
        assert sorted(taken + rest) == [row["id"] for row in api.records]


def test_a_place_that_the_api_passed_is_no_place_whatever_it_reported():
    api = Usage(EVERY_TEN_MINUTES, paged=True, scrolled=True)
    resource = replace(PAGED, paging=replace(PAGED.paging, resumable=False), total="total")
    walk = partial(walk_through, resource, client=api.client(), **HOURS)
    page = next(walk(concurrency=2).pages())
    assert not page.resumable
    with pytest.raises(CursorRefusedError, match="the API keeps the position"):
        list(walk(cursor=page.next_cursor).pages())


def test_parts_end_with_slices_only_one_after_another():
    api = Usage(EVERY_TEN_MINUTES, paged=True)
    walk = partial(walk_through, PAGED, client=api.client(), **HOURS)
    assert sum(page.ends_slice for page in walk(concurrency=1).pages()) == 24
    assert sum(page.ends_slice for page in walk(concurrency=4).pages()) == 0


@pytest.mark.parametrize("concurrency", [2, 5, 16])
def test_as_many_slices_as_asked_for_are_under_way_at_once(concurrency):
    api = Usage(EVERY_TEN_MINUTES[: concurrency * 6], paged=False)
    together = threading.Barrier(concurrency, timeout=PATIENCE)
    api.before = lambda _: together.wait()
    span = {**HOURS, "until": START + timedelta(hours=concurrency)}
    assert len(ids(walk_through(USAGE, client=api.client(), concurrency=concurrency, **span).pages())) == concurrency * 6
    assert api.most_at_once == concurrency


def test_pages_that_nobody_takes_are_not_fetched_without_end():
    api = Usage(EVERY_TEN_MINUTES, paged=True)
    pages = walk_through(PAGED, client=api.client(), concurrency=3, **HOURS).pages()
    next(pages)
    time.sleep(0.05)  # for what must not happen
    assert len(api.asked) <= 1 + 2 * 3
    pages.close()


def failure(status):
    return RequestContext(api="LimitRail", status=status)


@pytest.mark.parametrize("kind", [InvalidRequestError, RateLimitError, ProtocolError, KeyError])
def test_the_first_failure_ends_all_and_a_new_walk_goes_on(kind):
    api = Usage(EVERY_TEN_MINUTES, paged=True, delays=[0, 0.001])
    bad = {"from": "2026-01-01T05:00:00Z"}

    def fail(query):
        if bad.items() <= query.items():
            raise kind(failure(400)) if kind is not KeyError else kind("x")

    api.before = fail
    walk = partial(walk_through, PAGED, client=api.client(), **HOURS)
    taken = []
    with pytest.raises(kind):  # noqa: PT012 - what came before it counts
        for page in walk(concurrency=4).pages():
            taken.append(page)
    cursor = taken[-1].next_cursor
    asked = len(api.asked)
    time.sleep(0.05)  # for what must not happen
    assert len(api.asked) - asked <= 3
    api.before = lambda _: None
    assert sorted(ids(taken) + ids(walk(cursor=cursor, concurrency=3).pages())) == [row["id"] for row in api.records]


def test_a_refused_place_of_one_slice_is_a_lost_one():
    api = Usage(EVERY_TEN_MINUTES, paged=True)
    walk = partial(walk_through, PAGED, client=api.client(), **HOURS)
    pages = walk(concurrency=3).pages()
    cursor = next(page for page in pages if len(read_slice_cursors(page.next_cursor, **HOURS).begun) > 1).next_cursor
    pages.close()

    def refuse(query):
        if "cursor" in query:
            raise InvalidRequestError(failure(400))

    api.before = refuse
    for concurrency in (1, 4):
        with pytest.raises(CursorRefusedError):
            list(walk(cursor=cursor, concurrency=concurrency).pages())


def test_records_that_a_slice_lacks_are_noticed():
    api = Usage(EVERY_TEN_MINUTES, paged=True)
    counted = replace(PAGED, total="total")
    walk = partial(walk_through, counted, client=api.client(), **HOURS)
    pages = walk(concurrency=3).pages()
    cursor = next(page for page in pages if read_slice_cursors(page.next_cursor, **HOURS).begun).next_cursor
    pages.close()
    first = next(since for since, place in read_slice_cursors(cursor, **HOURS).open.items() if place.page)
    api.records = [row for row in api.records if not first + timedelta(minutes=40) <= row["at"] < first + timedelta(hours=1)]
    with pytest.raises(CursorRefusedError, match="reported 6 records and 4 came"):
        list(walk(cursor=cursor, concurrency=3).pages())


def test_smaller_pages_stay_small_in_slices_that_begin_later():
    api = Usage(EVERY_TEN_MINUTES, paged=True)

    def too_large(query):
        if int(query["limit"]) > 25:
            raise PageTooLargeError(failure(413))

    api.before = too_large
    walk = walk_through(PAGED, client=api.client(), page_size=100, concurrency=3, **HOURS)
    assert len(ids(walk.pages())) == 144
    assert walk.page_size == 25
    # Each of the three may have found out by itself, and none after them.
    assert sum(int(query["limit"]) > 25 for query in api.asked) <= 3 * 2
    sizes = [int(query["limit"]) for query in api.asked]
    assert set(sizes[-50:]) == {25}


def test_waits_end_with_the_walk_and_refusals_are_borne_by_all():
    api = Usage(EVERY_TEN_MINUTES, paged=True)
    client = api.client()
    found = []
    waiting = threading.Event()

    def send(*, params, limits, sleep, **_):
        found.append(limits.rate_limit_attempts)
        if params["from"] != "2026-01-01T00:00:00Z":
            waiting.set()
            sleep(PATIENCE * 4)
        assert waiting.wait(PATIENCE)
        return api.send(params)

    client.send = send
    pages = walk_through(PAGED, client=client, concurrency=3, **HOURS).pages()
    next(pages)
    before = time.monotonic()
    pages.close()
    while any(thread.name.startswith("slices-") for thread in threading.enumerate()):
        assert time.monotonic() - before < PATIENCE
    assert set(found) == {client.limits.rate_limit_attempts * 3}


def test_the_api_began_to_answer_with_the_earliest_answer():
    api = Usage(EVERY_TEN_MINUTES, paged=True)
    client = api.client()

    def send(*, params, **ways):
        hour = int(params["from"][11:13])
        answered = api.send(params, **ways)
        return msgspec.structs.replace(answered, headers={"Date": f"Thu, 01 Jan 2026 {(hour + 12) % 24:02}:00:00 GMT"})

    client.send = send
    walk = walk_through(PAGED, client=client, concurrency=2, **HOURS)
    assert walk.server_time is None
    assert len(list(walk.pages())) == 72
    assert walk.server_time == START


def test_what_is_left_is_gone_on_with_in_time_s_order():
    api = Usage(EVERY_TEN_MINUTES, paged=True)
    walk = partial(walk_through, PAGED, client=api.client(), **HOURS)
    pages = walk(concurrency=8).pages()
    cursor = next(page for page in pages if len(read_slice_cursors(page.next_cursor, **HOURS).begun) > 3).next_cursor
    pages.close()
    join_slices()
    asked = len(api.asked)
    list(walk(cursor=cursor).pages())
    begun = [query["from"] for query in api.asked[asked:]]
    assert all(before <= after for before, after in pairwise(begun))


def test_whole_records_take_the_place_of_summaries():
    api = Usage(EVERY_TEN_MINUTES, paged=True, delays=[0, 0.001])
    client = api.client()
    listed = client.send

    def send(*, path, params=None, **ways):
        if params is not None:
            return listed(params=params, **ways)
        return Response(status=200, headers={}, body=b'{"id": %s, "whole": true}' % path.rpartition("/")[2].encode())

    client.send = send
    resource = replace(PAGED, detail_path="/usage/{id}")
    # An id that is a text, as it takes to be fetched.
    body = api.body
    api.body = lambda query: re.sub(rb'"id": (\d+)', rb'"id": "\1"', body(query))
    walk = walk_through(resource, client=client, concurrency=4, **HOURS)
    pages = list(with_details(walk.pages(), client=client, resource=resource, list_path="/usage", concurrency=3))
    assert all(row["whole"] for page in pages for row in json.loads(page.records))
    assert sorted(ids(pages)) == [row["id"] for row in api.records]
    assert pages[-1].next_cursor is None
