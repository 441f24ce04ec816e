# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Slices cover a window exactly, and a walk through them goes on wherever it was left."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.api.errors import CursorRefusedError, ParameterError, ProtocolError
from limio_limitrail.api.pagination import CursorPair
from limio_limitrail.api.resource import TimeFilter
from limio_limitrail.api.time_slices import check_concurrency, check_slices, slices
from tests.support.sliced import DAY, PAGED, START, USAGE, Usage, ids, walk_through

SECOND = timedelta(seconds=1)

instants = st.datetimes(datetime(2026, 1, 1), datetime(2026, 1, 3)).map(lambda when: when.replace(tzinfo=UTC))
SLICED_DAY = {"since": DAY["since"], "until": DAY["until"], "slice_size": DAY["slice_size"]}
windows = st.integers(min_value=600, max_value=300_000).map(lambda seconds: timedelta(seconds=seconds))


@given(since=instants, length=st.timedeltas(timedelta(microseconds=1), timedelta(days=2)), slice_size=windows)
def test_slices_cover_the_window_exactly(since, length, slice_size):
    until = since + length
    found = list(slices(since=since, until=until, slice_size=slice_size))
    assert timedelta(0) <= since - found[0].since < SECOND
    assert timedelta(0) <= found[-1].until - until < SECOND
    assert all(before.until == after.since for before, after in pairwise(found))
    assert all(timedelta(0) < piece.until - piece.since <= slice_size for piece in found)
    assert all(piece.until - piece.since == slice_size for piece in found[:-1])
    for number, piece in enumerate(found):
        assert list(slices(since=piece.since, until=until, slice_size=slice_size)) == found[number:]


def test_the_end_of_time_is_no_obstacle():
    since = datetime(9999, 12, 31, 23, tzinfo=UTC)
    assert len(list(slices(since=since, until=since + timedelta(minutes=59), slice_size=timedelta(days=400)))) == 1


@pytest.fixture
def walk_of(site, make_client):
    site_client = make_client(site)
    site_client.auth.credential = lambda: None
    site_client.auth.header = lambda _: "x"

    return partial(walk_through, client=site_client)


@pytest.mark.parametrize("resource", [USAGE, PAGED], ids=["whole", "paged"])
@given(data=st.data())
def test_each_record_comes_once_and_any_cursor_leads_on(walk_of, resource, data):
    since = data.draw(instants)
    until = since + data.draw(st.timedeltas(timedelta(seconds=1), timedelta(hours=30)))
    slice_size = timedelta(seconds=data.draw(st.integers(min_value=5000, max_value=60_000)))
    inside = st.timedeltas(timedelta(0), until - since - timedelta(microseconds=1)).map(lambda offset: since + offset)
    api = Usage(data.draw(st.lists(inside, max_size=9)), paged=resource is PAGED)
    ways = {"since": since, "until": until, "slice_size": slice_size, "client": api.client()}
    pages = list(walk_of(resource, **ways).pages())
    assert ids(pages) == [row["id"] for row in api.records]
    assert [page.number for page in pages] == list(range(1, len(pages) + 1))
    pieces = list(slices(since=since, until=until, slice_size=slice_size))
    assert sum(page.ends_slice for page in pages) == len(pieces)
    assert pages[-1].ends_slice
    assert pages[-1].next_cursor is None
    if resource is USAGE:
        assert len(api.asked) == len(pieces)
    number = data.draw(st.integers(min_value=0, max_value=len(pages) - 1))
    cursor = pages[number].next_cursor
    if cursor is not None:
        assert all(isinstance(part, str) for item in cursor.items() for part in item)
        kept = json.loads(json.dumps(cursor))
        assert ids(list(walk_of(resource, cursor=kept, **ways).pages())) == ids(pages[number + 1 :])


@pytest.mark.parametrize(
    "cursor",
    [
        {"slice.from": "2025-12-31T00:00:00Z"},
        {"slice.from": "2026-01-02T00:00:00Z"},
        {"slice.from": "soon"},
        {"cursor": "x"},
        {"slice.from": "2026-01-01T00:00:00Z", "slice.seen": "many"},
    ],
)
def test_a_place_outside_of_the_window_is_a_lost_one(walk_of, cursor):
    with pytest.raises(CursorRefusedError, match="no slice of this time range"):
        list(walk_of(USAGE, cursor=cursor, **DAY).pages())


def test_a_cursor_that_the_api_refuses_is_a_lost_place(site, walk_of):
    site.respond = lambda request: (
        (400, {}, b"{}") if "cursor" in request["target"] else (200, {}, b'{"items": [1], "next": "x"}')
    )
    with pytest.raises(CursorRefusedError):
        list(walk_of(PAGED, **DAY).pages())


def test_a_slice_that_lacks_records_ends_before_its_last_page_is_given(site, walk_of):
    counted = replace(USAGE, total="total")
    site.respond = lambda request: (200, {}, b'{"items": [{"id": 1}], "total": 2}')
    pages = walk_of(counted, **DAY).pages()
    with pytest.raises(ProtocolError, match="reported 2 records and 1 came"):
        next(pages)


def test_what_was_reported_counts_within_a_slice_that_is_gone_on_with(site, walk_of):
    api = Usage([START + timedelta(minutes=number) for number in range(5)], paged=True)
    site.respond = api.respond
    counted = replace(PAGED, total="total")
    pages = list(walk_of(counted, **DAY).pages())
    assert pages[1].next_cursor is not None
    assert ids(list(walk_of(counted, cursor=pages[1].next_cursor, **DAY).pages())) == [4]
    api.records.pop()
    with pytest.raises(CursorRefusedError, match="reported 5 records and 4 came"):
        list(walk_of(counted, cursor=pages[1].next_cursor, **DAY).pages())


def test_a_place_that_the_api_keeps_itself_is_a_lost_one_whatever_was_reported(walk_of):
    scrolled = replace(USAGE, paging=CursorPair())
    inside = {"slice.from": "2026-01-01T06:00:00Z", "slice.seen": "2", "page.opt.queryMoreFrom": "x"}
    for cursor in (inside, {**inside, "slice.total": "5"}):
        with pytest.raises(CursorRefusedError, match="the API keeps the position"):
            list(walk_of(scrolled, cursor=cursor, **DAY).pages())


LIMIO = replace(USAGE, time_filter=TimeFilter(since="from", field="at"))


@pytest.mark.parametrize(
    ("resource", "change", "message"),
    [
        (LIMIO, {}, "no filter by time with two bounds"),
        (replace(USAGE, time_filter=None), {}, "leave slice_size out"),
        (USAGE, {"since": None}, "give both"),
        (USAGE, {"until": None}, "give both"),
        (USAGE, {"query_params": {"to": "2026"}}, "leave to out"),
        (USAGE, {"slice_size": timedelta(0)}, "whole seconds"),
        (USAGE, {"slice_size": timedelta(seconds=-5)}, "whole seconds"),
        (USAGE, {"slice_size": timedelta(seconds=1.5)}, "whole seconds"),
    ],
)
def test_what_cannot_be_cut_is_refused(resource, change, message):
    with pytest.raises(ParameterError, match=message):
        check_slices(resource, **{"query_params": {"from": None, "x": 1}, **SLICED_DAY, **change})
    assert check_slices(USAGE, query_params=None, **SLICED_DAY) == (DAY["since"], DAY["until"])


@pytest.mark.parametrize("parallel", [0, -1, 17, True, False, 2.0, "4", None])
def test_a_number_that_is_none_is_refused(parallel):
    with pytest.raises(ParameterError, match="must be a whole number from 1 to 16"):
        check_concurrency(parallel, slice_size=timedelta(hours=1))


def test_what_is_not_cut_is_not_fetched_side_by_side():
    with pytest.raises(ParameterError, match=r"concurrency=2 .*give slice_size=timedelta\(\.\.\.\), or leave concurrency out"):
        check_concurrency(2, slice_size=None)
    check_concurrency(1, slice_size=None)
    check_concurrency(16, slice_size=timedelta(hours=1))
