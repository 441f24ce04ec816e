# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows in a file: in order, each once, and two bodies under one key found before anything is sent."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import make_row

from limio_limitrail.ledger.spool import ClashError, Spool

ROWS = st.lists(st.tuples(st.integers(0, 12), st.sampled_from([b"1", b"1", b"1", b"22", b""])), max_size=40)


def spooled(pairs):
    return [make_row(name, body=body, number=number) for number, (name, body) in enumerate(pairs, start=1)]


@given(ROWS)
def test_it_does_what_a_list_would_do(pairs):
    rows = spooled(pairs)
    once, duplicates, clashing = [], 0, []
    for at, row in enumerate(rows):
        earlier = [other for other in rows[:at] if other.key == row.key]
        if not earlier:
            once.append(row)
        elif any(other.digest != row.digest for other in earlier):
            clashing.append((row, earlier))
        else:
            duplicates += 1
    with Spool() as spool:
        for row in rows:
            spool.add(row)
        assert spool.total == len(rows)
        if clashing:
            other, earlier = clashing[0]
            with pytest.raises(ClashError) as caught:
                spool.check()
            first, second = re.match(r"row (\d+) .* and row (\d+) ", str(caught.value)).groups()
            assert int(second) == other.number
            assert int(first) in {row.number for row in earlier if row.digest != other.digest}
        else:
            spool.check()
            assert list(spool.rows()) == once
            assert list(spool.rows()) == once, "a second reading"
            assert spool.duplicates == duplicates


def test_a_clash_names_both_rows_and_says_how_many():
    rows = spooled([("a", b"1"), ("b", b"1"), ("a", b"1"), ("b", b"2"), ("a", b"2"), ("c", b"1")])
    with Spool() as spool:
        for row in rows:
            spool.add(row)
        with pytest.raises(
            ClashError, match=r'^row 2 \{"id": "b"\} and row 4 \{"id": "b"\} have .*\(2 such rows in all\).*Nothing was sent'
        ):
            spool.check()


@given(st.binary(max_size=3000), st.text(max_size=300))
def test_rows_come_back_whole(body, name):
    row = make_row(name.encode("utf-8", "replace").decode(), body=body)
    with Spool() as spool:
        spool.add(row)
        spool.check()
        assert list(spool.rows()) == [row]


def test_the_first_repetition_is_shown_with_what_it_repeats():
    rows = spooled([("c", b"1"), ("a", b"1"), ("b", b"1"), ("b", b"1"), ("a", b"1"), ("b", b"1"), ("c", b"1")])
    with Spool() as spool:
        for row in rows:
            spool.add(row)
        spool.check()
        assert spool.repetition == (rows[2], rows[3])
        assert spool.duplicates == 4


def test_nothing_is_nothing():
    with Spool() as spool:
        spool.check()
        assert (list(spool.rows()), spool.total, spool.duplicates, spool.repetition) == ([], 0, 0, None)


def test_rows_may_be_added_after_a_check():
    one, two, three = spooled([("a", b""), ("b", b""), ("a", b"")])
    with Spool() as spool:
        spool.add(one)
        spool.add(two)
        spool.check()
        spool.add(three)
        spool.check()
        assert list(spool.rows()) == [one, two]
