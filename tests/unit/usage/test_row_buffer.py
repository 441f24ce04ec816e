# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows in a file: in order, each once, and two bodies under one key found before anything is sent."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.usage.messages import UsageTemplate
from limio_limitrail.usage.row_buffer import ClashError, RowBuffer
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
    with RowBuffer() as row_buffer:
        for row in rows:
            row_buffer.add(row)
        assert row_buffer.total == len(rows)
        if clashing:
            other, earlier = clashing[0]
            with pytest.raises(ClashError) as caught:
                row_buffer.check()
            first, second = re.match(r"row (\d+) .* and row (\d+) ", str(caught.value)).groups()
            assert int(second) == other.number
            assert int(first) in {row.number for row in earlier if row.digest != other.digest}
        else:
            row_buffer.check()
            assert list(row_buffer.rows()) == once
            assert list(row_buffer.rows()) == once, "a second reading"
            assert row_buffer.duplicates == duplicates


def test_a_clash_names_both_rows_and_says_how_many():
    rows = spooled([("a", b"1"), ("b", b"1"), ("a", b"1"), ("b", b"2"), ("a", b"2"), ("c", b"1")])
    with RowBuffer() as row_buffer:
        for row in rows:
            row_buffer.add(row)
        with pytest.raises(
            ClashError, match=r'^row 2 \{"id": "b"\} and row 4 \{"id": "b"\} have .*\(2 such rows in all\).*Nothing was sent'
        ):
            row_buffer.check()


@given(st.binary(max_size=3000), st.text(max_size=300))
def test_rows_come_back_whole(body, name):
    row = make_row(name.encode("utf-8", "replace").decode(), body=body)
    with RowBuffer() as row_buffer:
        row_buffer.add(row)
        row_buffer.check()
        assert list(row_buffer.rows()) == [row]


def test_the_first_repetition_is_shown_with_what_it_repeats():
    rows = spooled([("c", b"1"), ("a", b"1"), ("b", b"1"), ("b", b"1"), ("a", b"1"), ("b", b"1"), ("c", b"1")])
    with RowBuffer() as row_buffer:
        for row in rows:
            row_buffer.add(row)
        row_buffer.check()
        assert row_buffer.repetition == (rows[2], rows[3])
        assert row_buffer.duplicates == 4


def test_nothing_is_nothing():
    with RowBuffer() as row_buffer:
        row_buffer.check()
        assert (list(row_buffer.rows()), row_buffer.total, row_buffer.duplicates, row_buffer.repetition) == ([], 0, 0, None)


def test_rows_may_be_added_after_a_check():
    one, two, three = spooled([("a", b""), ("b", b""), ("a", b"")])
    with RowBuffer() as row_buffer:
        row_buffer.add(one)
        row_buffer.add(two)
        row_buffer.check()
        row_buffer.add(three)
        row_buffer.check()
        assert list(row_buffer.rows()) == [one, two]


def test_rows_that_are_alike_and_have_other_keys():
    template = UsageTemplate(tenant="t", operation="o", path="/p", key_columns=("id",), body=None)
    values = ["x", "x ", "x", "X", "\u00e9", "e\u0301", 5, "5", "y"]
    with RowBuffer() as row_buffer:
        assert list(row_buffer.alike()) == []
        for number, value in enumerate(values, start=1):
            row_buffer.add(template.build({"id": value}, number=number))
        row_buffer.check()
        assert {(one.number, other.number) for one, other in row_buffer.alike()} == {(1, 2), (5, 6), (7, 8)}
        assert [row_buffer.row(index).number for index in (0, 8)] == [1, 9]
        found = [pair for pairs in row_buffer.identities(at_once=3) for pair in pairs]
        assert [index for index, _, _ in found] == [0, 1, 3, 4, 5, 6, 7, 8]
        assert all(
            row_buffer.row(index).key == key and row_buffer.row(index).identity == identity for index, key, identity in found
        )
        assert all(row_buffer.has_key(key) for _, key, _ in found)
        assert not row_buffer.has_key("9b69959e-b092-5f53-b059-6ac49fcb3b30")
        assert not row_buffer.has_key("no key")


def test_rows_without_an_identity_are_not_looked_at():
    with RowBuffer() as row_buffer:
        for row in make_rows(3):
            row_buffer.add(row)
        row_buffer.check()
        assert list(row_buffer.alike()) == []
        assert list(row_buffer.identities(at_once=10)) == []
