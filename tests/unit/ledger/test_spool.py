# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows in a file: in order, each once, and two bodies under one key found before anything is sent."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.ledger.spool import ClashError, Spool
from limio_limitrail.limitrail.usage import UsageTemplate
from tests.support.ledgers import make_row, make_rows

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


def test_rows_that_are_alike_and_have_other_keys():
    template = UsageTemplate(tenant="t", operation="o", path="/p", key=("id",), body=None)
    values = ["x", "x ", "x", "X", "\u00e9", "e\u0301", 5, "5", "y"]
    with Spool() as spool:
        assert list(spool.alike()) == []
        for number, value in enumerate(values, start=1):
            spool.add(template.build({"id": value}, number=number))
        spool.check()
        assert {(one.number, other.number) for one, other in spool.alike()} == {(1, 2), (5, 6), (7, 8)}
        assert [spool.row(index).number for index in (0, 8)] == [1, 9]
        found = [pair for pairs in spool.identities(at_once=3) for pair in pairs]
        assert [index for index, _, _ in found] == [0, 1, 3, 4, 5, 6, 7, 8]
        assert all(spool.row(index).key == key and spool.row(index).identity == identity for index, key, identity in found)
        assert all(spool.has_key(key) for _, key, _ in found)
        assert not spool.has_key("9b69959e-b092-5f53-b059-6ac49fcb3b30")
        assert not spool.has_key("no key")


def test_rows_without_an_identity_are_not_looked_at():
    with Spool() as spool:
        for row in make_rows(3):
            spool.add(row)
        spool.check()
        assert list(spool.alike()) == []
        assert list(spool.identities(at_once=10)) == []
