# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A row is known by what it is: one value in two forms is one, and what only looks alike is not."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.usage.body import as_json
from limio_limitrail.usage.ledger.row_identity import (
    coarse,
    describe_change,
    local_times,
    row_identity,
    same_row,
    same_value,
)
from limio_limitrail.usage.messages import UsageTemplate
from tests.support.same_rows import DIFFERENT, SAME

BERLIN = ZoneInfo("Europe/Berlin")
DECODER = msgspec.json.Decoder(float_hook=Decimal)


def plain(value):
    return as_json(value, number=1, column="id")


def built(value, **more):
    usual = {"tenant": "t", "operation": "usage.commit", "path": "/p", "key_columns": ("id",), "body": {}}
    return UsageTemplate(**{**usual, **more}).build({"id": value}, number=1)


def are_same(one, other):
    one, other = built(one), built(other)
    read = [DECODER.decode(row.row_key) for row in (one, other)]
    return one.identity == other.identity and same_row(*read)


@pytest.mark.parametrize("name", SAME)
def test_one_value_in_two_forms_is_the_same_row(name):
    one, other = SAME[name]
    assert built(one).key != built(other).key, "the key knows it already"
    assert are_same(one, other)
    assert are_same(other, one)


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_looks_alike_is_another_row(name):
    one, other = DIFFERENT[name]
    assert not are_same(one, other)
    assert not are_same(other, one)


VALUES = (
    st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(allow_nan=False, allow_infinity=False, places=4)
    | st.datetimes()
    | st.datetimes(timezones=st.just(UTC))
    | st.dates()
    | st.uuids()
    | st.sampled_from(["true", "F", "007", "7", "1.10", " ", "", "\u00e9", "e\u0301"])
    | st.text(max_size=8)
)


@given(VALUES, VALUES)
def test_the_same_values_have_one_coarse_form(one, other):
    """Else a row would not be found by its identity."""
    try:
        one, other = plain(one), plain(other)
    except ValueError:
        return
    for left, right in ((one, other), (one, str(other)), (str(one), other)):
        if same_value(left, right):
            assert coarse(left) == coarse(right)
        assert same_value(left, right) == same_value(right, left)


@given(VALUES, st.sampled_from(["", " ", "\t\n"]))
def test_a_value_is_the_same_as_its_text(value, blanks):
    try:
        value = plain(value)
    except ValueError:
        return
    text = str(value).lower() if isinstance(value, bool) else str(value)
    assert same_value(value, text + blanks)
    assert coarse(value) == coarse(text + blanks)


def test_operation_and_every_value_make_the_identity_and_names_do_not():
    row = {"a": 1, "b": "x"}
    assert row_identity("o", row) == row_identity("o", {"account": 1, "day": "x"})
    for operation, values in (("p", row), ("o", {"a": 1}), ("o", {**row, "c": "y"}), ("o", {**row, "b": "y"})):
        assert row_identity(operation, values) != row_identity("o", row)


def test_renamed_columns():
    assert same_row({"ACCOUNT": 1, "Day": "x"}, {"account": 1, "day": "x"})
    assert not same_row({"account": 1, "day": "x"}, {"customer": 1, "day": "x"})
    assert same_row({"account": 1, "day": "x"}, {"customer": "1", "day": "x"}, renamed=True)
    assert not same_row({"a": 1, "b": 2}, {"a": 2, "b": 1}, renamed=True)
    assert not same_row({"a": 1}, {"a": 1, "b": 2}, renamed=True)


def test_a_time_in_the_zone_of_the_session():
    """A column without a zone becomes one with a zone in a session that is not in UTC."""
    naive, aware = plain(datetime(2026, 7, 1, 12)), plain(datetime(2026, 7, 1, 10, tzinfo=UTC))
    day, midnight = plain(date(2026, 7, 1)), plain(datetime(2026, 6, 30, 22, tzinfo=UTC))
    for one, other in ((naive, aware), (day, midnight)):
        assert not same_value(one, other)
        assert same_value(one, other, zone=BERLIN)
        assert same_value(other, one, zone=BERLIN)
        assert row_identity("o", local_times({"t": one}, BERLIN)) == row_identity("o", {"t": other})
        assert row_identity("o", local_times({"t": other}, BERLIN)) == row_identity("o", {"t": one})
    assert local_times({"a": "x", "b": 5, "c": "5"}, BERLIN) is None


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        ({"id": "5"}, {"id": 5}, "key column 'id' holds a text, and held a number"),
        ({"id": True}, {"id": 1}, "key column 'id' holds a boolean, and held a number"),
        ({"d": "2026-01-01T00:00:00"}, {"d": "2026-01-01"}, "holds a time without a zone, and held a date"),
        ({"d": "2026-01-01T00:00:00Z"}, {"d": "2026-01-01T00:00:00"}, "holds a time with a zone, and held a time without a zone"),
        ({"id": "secret "}, {"id": "secret"}, "key column 'id' is written in another way"),
        ({"a": 1}, {"b": 1}, "the key columns are 'a', and were 'b'"),
        ({"a": 1}, {"a": 1}, ""),
    ],
)
def test_what_differs_is_said_without_any_value(now, before, said):
    assert said in describe_change(now, before)
    assert "secret" not in describe_change(now, before)
