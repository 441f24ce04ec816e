# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Times are read exactly, whatever their spelling, and the newest of them is found."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from limio_limitrail.landing.column_types import Kind, cast
from limio_limitrail.landing.part_builders import make_builder
from limio_limitrail.landing.parts import PartFormat
from limio_limitrail.landing.shaping import Shaping
from limio_limitrail.landing.timestamps import keys_of, to_timestamps
from limio_limitrail.landing.values import times_of
from tests.support.record_pages import RecordPage

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
NO_TIMES = [
    "", " ", "soon", "0000-00-00T00:00:00Z", "0000-01-01T00:00:00Z", "2026-13-01T00:00:00Z", "2026-02-29T00:00:00Z",
    "2026-04-31", "2026-01-00", "2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z", "2026-01-01T00:00:61Z",
    "2026-01-01T00:00:00+24:00",
    "2026-01-01T00:00:00+01:60", "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00Z ", "2026-01-01T00:00:00Z\n", "2026-01-01T",
    "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "12026-01-01T00:00:00Z", "2026-01-01T00:00:00 Europe/Paris",
    "٢٠٢٦-01-01T00:00:00Z", "infinity", "true", "{}",
]  # fmt: skip
NUMBERS = [
    "-1e5",
    "-100.5",
    "-100",
    "-3",
    "-0.5",
    "-0.0",
    "0.25",
    "1",
    "9",
    "10",
    "1e3",
    "20250101",
    "1714557600.123456789",
    "1e400",
]
# Each is one moment, in all of these spellings; the moments are in order.
MOMENTS = [
    ["0001-01-01T00:00:00Z", "0001-01-01"],
    ["1969-12-31T23:59:59.999999999Z", "1969-12-31T23:59:59.9999999990Z"],
    ["1970-01-01T00:00:00Z", "19700101T000000Z"],
    ["2016-12-31T23:59:59.9Z"],
    ["2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"],
    ["2026-05-01T10:00:00Z", "2026-05-01t10:00:00z", "2026-05-01 10:00:00Z", "2026-05-01T10:00:00.000+0000",
     "2026-05-01T12:00:00+02:00",
     "2026-05-01T12:00:00+02", "2026-04-30T22:30:00-11:30", "2026-05-01T10:00Z", "2026-05-01T10:00:00", "2026-05-01 10:00",
     "2026-05-01T10:00:00.0000000000Z", "2026-05-01T10:00:00,000Z", "2026-05-01T10:00:00-00:00", "2026-05-01T09:00:00\u221201:00",
     "2026-05-01 10:00:00+00"],
    ["2026-05-01T10:00:00.0000000000001Z"],
    ["2026-05-01T10:00:00.000001Z", "2026-05-01T15:30:00.000001+0530"],
    ["2026-05-01T10:00:00.1234567Z"],
    ["2026-05-01T10:00:00.12345678Z"],
    ["2026-05-01T10:00:00.5Z", "2026-05-01T10:00:00.500Z"],
    ["9999-12-31T23:59:59.999999999Z"],
]  # fmt: skip
SPELLINGS = [(at, text) for at, texts in enumerate(MOMENTS) for text in texts]


@pytest.mark.parametrize("text", NO_TIMES)
def test_what_is_no_time(text):
    assert keys_of([text]) == keys_of([text, "2026-01-01T00:00:00.123Z"])[:1] == [None]


@given(st.lists(st.sampled_from(SPELLINGS), min_size=2))
@example(SPELLINGS)
def test_times_compare_by_what_they_mean_however_they_are_written(spelled):
    keys = keys_of([text for _, text in spelled])
    for (one, first), key in zip(spelled, keys, strict=True):
        for (other, second), rival in zip(spelled, keys, strict=True):
            assert (key < rival, key == rival) == (one < other, one == other), (first, second)


def test_numbers_come_by_their_value_and_before_all_times():
    keys = keys_of([*NUMBERS, "0001-01-01"])
    assert None not in keys
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    assert keys_of(["1e3", "0", "0.25"]) == keys_of(["1000.0", "-0.0", "2.50e-1"])
    assert keys_of(["1e99999999999999999999999"]) == [None]


DIGITS = st.text("0123456789", max_size=11)
OFFSETS = st.integers(-23 * 60 - 59, 23 * 60 + 59)


@st.composite
def written(draw):
    """A moment as a fraction of seconds, in some spelling, and whether microseconds hold it."""
    when = draw(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)))
    digits, offset = draw(DIGITS), draw(OFFSETS | st.none())
    zone = (
        ""
        if offset is None
        else f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}{draw(st.sampled_from(['', ':']))}{abs(offset) % 60:02d}"
    )
    if offset == 0:
        zone = draw(st.sampled_from(["Z", "z", "+00", zone]))
    mark = draw(st.sampled_from("Tt "))
    text = f"{when:%Y-%m-%d}".rjust(10, "0") + f"{mark}{when:%H:%M:%S}{'.' if digits else ''}{digits}{zone}"
    seconds = (when - datetime(1, 1, 1)) // timedelta(seconds=1) - (offset or 0) * 60
    fraction = Fraction(int(digits or 0), 10 ** len(digits))
    return seconds + fraction, text, offset is not None and (fraction * 10**6).denominator == 1


@given(st.lists(written(), min_size=1))
def test_against_a_model(found):
    moments, texts, exact = zip(*found, strict=True)
    keys = keys_of(texts)
    assert sorted(range(len(texts)), key=lambda at: (keys[at], at)) == sorted(range(len(texts)), key=lambda at: (moments[at], at))
    newest = datetime(1, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(max(moments) * 10**6))
    assert times_of([json.dumps(text).encode() for text in texts]).newest == newest
    kind, array = to_timestamps(pa.array(texts))
    assert kind is (Kind.TIMESTAMP if all(exact) else Kind.TEXT)
    column = cast(pa.chunked_array([array]), source=kind, target=Kind.TEXT).to_pylist()
    for moment, text, same, spelled in zip(moments, texts, exact, column, strict=True):
        if same:
            when = datetime(1, 1, 1) + timedelta(microseconds=int(moment * 10**6))
            assert spelled == when.isoformat(timespec="microseconds") + "Z"
        else:
            assert spelled == text


ODD = [b'""', b'"tomorrow"', b"7", b"{}", b"true", b'"0000-00-00T00:00:00Z"']


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("how", ["as it is", "time dropped", "transform"])
@pytest.mark.parametrize("odd", ODD)
def test_one_value_that_is_no_time_hides_no_other(form, how, odd):
    """Whatever the part holds: the newest of the others is found, cut down to the microsecond, and the odd one is counted."""
    values = [b'"2026-05-01T10:00:00Z"', odd, b'"2026-05-01T12:00:00.1234567+01:00"', b"null"]
    shaping = Shaping(
        time_column="t",
        time_path=("t",),
        timestamps=("t",),
        dropped=("t",) if how == "time dropped" else (),
        transform=(lambda frame: frame) if how == "transform" else None,
    )
    for pages in ([values], [values[:1], values[1:]], [[value] for value in values]):
        builder = make_builder(PartFormat(form), shaping)
        for page in pages:
            builder.add(RecordPage(b"[" + b",".join(b'{"id":1,"t":' + value + b"}" for value in page) + b"]"))
        content = builder.finish()
        assert content.times.newest == datetime(2026, 5, 1, 11, 0, 0, 123456, tzinfo=UTC)
        assert content.times.unreadable == 1


@given(st.lists(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)), min_size=1))
def test_instants_that_are_written_alike(found):
    raw = [json.dumps(f"{when.isoformat(timespec='milliseconds')}Z").encode() for when in found]
    newest = max(when.replace(microsecond=when.microsecond // 1000 * 1000, tzinfo=UTC) for when in found)
    assert times_of([*raw, b"null", None]).newest == newest
    assert not times_of(raw).unreadable


@pytest.mark.parametrize(
    "raw", [[], [None, b"null"], [b'"soon"'], [b"1767225600"], [b'"1767225600"'], [b'"2026-02-30T00:00:00Z"']]
)
def test_where_there_is_no_time(raw):
    times = times_of(raw)
    assert times.newest is None
    assert times.unreadable == len([value for value in raw if value not in (None, b"null")])


def test_the_usual_form_is_read_as_any_other():
    usual = ["2026-01-01T00:00:00Z", "2026-01-01T01:30:00.25+01:00", None]
    assert keys_of(usual) == keys_of([*usual, "odd"])[:3]
    assert re.fullmatch(r"2\d+", keys_of(usual)[0])
