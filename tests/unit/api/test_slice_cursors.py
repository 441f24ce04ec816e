# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What is left of a window, written down and read again."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.api.time_slices import BEGINNING, SliceCursor, SliceCursors, read_slice_cursors, slices
from tests.support.sliced import DAY, START

SIX = timedelta(hours=6)
PIECES = list(slices(**DAY))

texts = st.text(max_size=5)
places = st.builds(
    SliceCursor,
    page=st.dictionaries(texts | st.sampled_from(["slice.from", "0.page", "total"]), texts, min_size=1, max_size=2),
    records_read=st.integers(0, 10**20),
    total=st.none() | st.integers(0, 10**20),
)


@st.composite
def what_is_left(draw):
    """What is left of the day after some pages of some slices, each at its own place."""
    left = read_slice_cursors(None, **DAY)
    ended = set()
    for number in draw(st.lists(st.sampled_from(range(4)), max_size=8)):
        place = draw(st.none() | places)
        if number not in ended:
            left = left.after(PIECES[number].since, place)
        if place is None:
            ended.add(number)
    return left


@given(what_is_left())
def test_what_is_left_is_read_as_it_was_written(left):
    cursor = left.cursor()
    if cursor is None:
        assert list(left.remaining()) == []
        return
    assert all(isinstance(text, str) for item in cursor.items() for text in item)
    again = read_slice_cursors(json.loads(json.dumps(cursor)), **DAY)
    assert list(again.remaining()) == list(left.remaining())
    assert again.cursor() == cursor


@given(what_is_left())
def test_a_cursor_of_several_slices_says_nothing_to_who_knows_of_one(left):
    cursor = left.cursor() or {}
    several = len(left.open) > 1 or (left.open and left.rest != left._after(next(iter(left.open))))
    # The first version looked for the one, and took the others for parameters of the page.
    assert ("slice.from" not in cursor) == (bool(several) or not cursor)
    if several:
        assert not any(name.startswith("page.") for name in cursor)


H0, H6, H12, H18 = (piece.since for piece in PIECES)
P = {"page.cursor": "x"}


@pytest.mark.parametrize(
    ("cursor", "rest", "opened"),
    [
        # What one slice after another has been written as from the beginning.
        ({"slice.from": "2026-01-01T06:00:00Z"}, H6, {}),
        (
            {"slice.from": "2026-01-01T06:00:00Z", "slice.seen": "4", **P},
            H12,
            {H6: SliceCursor(page={"cursor": "x"}, records_read=4)},
        ),
        (
            {"slice.from": "2026-01-01T18:00:00Z", "slice.seen": "4", "slice.total": "9", "page.a": "1", "page.b.c": ""},
            None,
            {H18: SliceCursor(page={"a": "1", "b.c": ""}, records_read=4, total=9)},
        ),
        # Several slices.
        (
            {
                "slice.next": "2026-01-01T18:00:00Z",
                "0.slice.from": "2026-01-01T00:00:00Z",
                "0.slice.seen": "2",
                "0.page.cursor": "y",
                "1.slice.from": "2026-01-01T12:00:00Z",
            },
            H18,
            {H0: SliceCursor(page={"cursor": "y"}, records_read=2), H12: BEGINNING},
        ),
        ({"0.slice.from": "2026-01-01T06:00:00Z"}, None, {H6: BEGINNING}),
    ],
)
def test_the_words_of_a_cursor(cursor, rest, opened):
    left = read_slice_cursors(cursor, **DAY)
    assert (left.rest, left.open) == (rest, opened)
    assert left.cursor() == cursor


FROM, NEXT = {"slice.from": "2026-01-01T06:00:00Z"}, {"slice.next": "2026-01-01T12:00:00Z"}
ZERO = {"0.slice.from": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    "cursor",
    [
        {},
        P,
        {"slice.from": "soon"},
        {"slice.from": "2025-12-31T18:00:00Z"},
        {"slice.from": "2026-01-02T00:00:00Z"},
        {**FROM, "slice.seen": "4"},
        {**FROM, "slice.total": "4"},
        {**FROM, **P, "slice.seen": "many"},
        {**FROM, **P, "slice.total": ""},
        {**FROM, **P, "slice.colour": "red"},
        {**FROM, **NEXT},
        {**FROM, **ZERO},
        {**ZERO, **P},
        {**ZERO, "0.slice.seen": "4"},
        {**ZERO, "1.page.cursor": "x"},
        {**ZERO, "1.slice.from": "2026-01-01T00:00:00Z"},
        {**ZERO, "1.slice.from": "2026-01-01T05:59:59Z"},
        {"1.slice.from": "2026-01-01T00:00:00Z", "0.slice.from": "2026-01-01T06:00:00Z"},
        {"0.slice.from": "2026-01-01T12:00:00Z", **NEXT},
        {**ZERO, "slice.next": "2026-01-02T00:00:00Z"},
        {**ZERO, "slice.next": "never"},
        {**ZERO, "9" * 5: "x"},
    ],
)
def test_what_names_no_place_is_refused(cursor):
    assert read_slice_cursors(cursor, **DAY) is None


@given(st.dictionaries(st.sampled_from([*FROM, *NEXT, *ZERO, *P, "0.page.a", "1.slice.from", "slice.seen"]) | texts, texts))
def test_whatever_stands_there_is_read_or_refused(cursor):
    left = read_slice_cursors(cursor, **DAY)
    if left is None:
        return
    found = [piece for piece, _ in left.remaining()]
    assert all(before.until <= after.since for before, after in pairwise(found))


def test_the_end_of_time_is_no_obstacle():
    until = START.replace(year=9999, month=12, day=31, hour=23, minute=59)
    left = SliceCursors(end=until, slice_size=timedelta(days=3000), rest=until - timedelta(hours=2))
    assert left.after(left.rest, None).cursor() is None
    assert len(list(left.remaining())) == 1
