# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What stands in a part: records byte for byte, typed columns, and what a transform made of them."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limio_limitrail.api.json_body import replace_lone_surrogates
from limio_limitrail.landing.column_types import Kind, arrow_type, cast
from limio_limitrail.landing.part_builders import make_builder
from limio_limitrail.landing.parts import PartFormat
from limio_limitrail.landing.shaping import RecordError, Shaping
from tests.support.record_pages import RecordPage
from tests.support.strategies import examples


def build(form, *pages, **shaping):
    builder = make_builder(PartFormat(form), Shaping(**shaping))
    for page in pages:
        builder.add(RecordPage(page if isinstance(page, bytes) else page.encode()))
    return builder.finish()


def lines(content):
    with pa.input_stream(pa.py_buffer(content.data), compression="zstd") as stream:
        return stream.read().split(b"\n")[:-1]


def rows(content):
    return pq.read_table(io.BytesIO(content.data)).to_pylist()


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
WRITTEN = st.tuples(st.dictionaries(TEXTS, VALUES, max_size=4), st.booleans(), st.sampled_from([(",", ":"), (", ", " : ")]))


@settings(max_examples=examples(150))
@given(st.lists(WRITTEN, max_size=8))
def test_lines_hold_records_byte_for_byte(records):
    texts = [json.dumps(record, ensure_ascii=escaped, separators=marks).encode() for record, escaped, marks in records]
    content = build("jsonl", b"[" + b" ,\n".join(texts) + b"]")
    assert lines(content) == texts
    assert content.rows == len(texts)


def test_odd_numbers_and_double_keys_stay_and_line_breaks_become_spaces():
    odd = '{"a":1.0e+05,"a":-0,"b":123456789012345678901234567890.10,"c":"\\u00e9\\ud83d\\ude00\\/"}'
    pretty = '{\n  "a": [\r\n 1\r],\n  "s": "x\\n"\n}'
    content = build("jsonl", f"[ {odd} ,\n{pretty}\r\n]")
    assert lines(content) == [odd.encode(), pretty.replace("\n", " ").replace("\r", " ").encode()]
    assert lines(build("jsonl", '[{"a":\r1}]')) == [b'{"a": 1}']


def test_lines_with_lifts_and_drops():
    content = build("jsonl", '[{"a":1.50,"b":{"c":[1e2]},"d":0},{"a":2,"b":3}]', nested_columns={"c": "b.c"}, dropped=["d", "b"])
    assert lines(content) == [b'{"a":1.50,"c":[1e2]}', b'{"a":2}']
    with pytest.raises(RecordError, match="choose another name"):
        build("jsonl", '[{"a":1,"b":{"c":2}}]', nested_columns={"a": "b.c"})
    with pytest.raises(RecordError, match="not a JSON object"):
        build("jsonl", "[1]", dropped=["d"])


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("transform", [None, lambda frame: frame.iloc[:0]])
@pytest.mark.parametrize(
    "shaping",
    [
        {"time_path": "t", "nested_columns": {}},
        {"time_path": "t", "dropped": ["t"]},
        {"time_path": "d.m", "nested_columns": {"t2": "d.m"}, "time_column": "t2"},
        {"time_path": "d.m", "nested_columns": {}, "time_column": "t2"},
        {"time_path": "d.m", "nested_columns": {"t2": "x"}, "time_column": "t2"},
    ],
)
def test_the_newest_time_is_found_however_the_part_is_shaped(form, transform, shaping):
    page = '[{"x":"2031-01-01T00:00:00Z","t":"2026-02-01T00:00:00Z","d":{"m":"2026-02-01T00:00:00Z"}},{"x":null,"t":null,"d":{}}]'
    content = build(form, page, **{"time_column": "t", "timestamps": ["t", "t2"], "transform": transform, **shaping})
    assert content.times.newest == datetime(2026, 2, 1, tzinfo=UTC)


def with_transform(
    transform,
    page='[{"id":1,"n":9007199254740993,"o":{"a":\n1},"s":"private"},{"id":2,"n":null,"o":null,"s":"x"}]',
    form="parquet",
):
    return build(form, page, transform=transform)


def test_a_transform_may_add_remove_and_change():
    def change(frame):
        assert str(frame["n"].dtype) == "int64[pyarrow]"
        frame = frame.drop(columns="s").assign(
            naive=pd.Timestamp("2026-01-01 12:00"),
            zoned=pd.Timestamp("2026-01-01 12:00", tz="Europe/Paris"),
            kind=pd.Categorical(["a", "b"]),
            nested=[{"k": [1, float("nan")]}, None],
            ratio=[0.5, float("inf")],
            big=[2**63, 1],
            nothing=None,
        )
        return pd.concat([frame, frame])

    content = with_transform(change)
    assert content.rows == 4
    assert content.schema == {
        "id": Kind.INTEGER, "n": Kind.BIGINT, "o": Kind.JSON, "naive": Kind.TIMESTAMP, "zoned": Kind.TIMESTAMP, "kind": Kind.TEXT,
        "nested": Kind.JSON, "ratio": Kind.DOUBLE, "big": Kind.TEXT, "nothing": Kind.NULL,
    }  # fmt: skip
    first, second = rows(content)[:2]
    assert first["n"] == 9007199254740993
    assert first["naive"] == datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert first["zoned"] == datetime(2026, 1, 1, 11, tzinfo=UTC)
    assert (first["nested"], second["nested"]) == ('{"k":[1,null]}', None)
    assert (first["ratio"], second["ratio"]) == (0.5, None)
    assert first["big"] == "9223372036854775808"


def spelled(*values):
    """How a text column has the values of one part."""
    page = json.dumps([{"id": number} for number in range(len(values))])
    content = with_transform(lambda frame: frame.assign(x=pd.Series(values, dtype=object)), page=page)
    [*found] = [row["x"] for row in rows(content)]
    column = pa.chunked_array([pa.array(found, arrow_type(content.schema["x"]))])
    return cast(column, source=content.schema["x"], target=Kind.TEXT).to_pylist()


@pytest.mark.parametrize(
    "values",
    [
        [Decimal("1.5"), Decimal("3.00"), Decimal("2.250"), Decimal("-0.0"), Decimal("1E+2"), Decimal("0.12345678901234567890")],
        [Decimal("1.50"), 7, 1.0, 0.1, "1.50", True, {"k": 1}],
        ["a", '"a"', '{"k":1}', {"k": 1}, [1, {"k": None}], (1, 2), np.array([1]), np.int64(3), np.float64(1.5)],
    ],
    ids=["decimals", "numbers", "objects and texts"],
)
def test_what_a_transform_returns_is_spelled_the_same_in_every_part(values):
    together = spelled(*values)
    assert together == [spelled(value)[0] for value in values]
    assert spelled(*values[::-1]) == together[::-1]


def test_decimals_without_a_value_or_of_a_billion_digits():
    assert spelled(Decimal("1.5"), Decimal("NaN"), Decimal("Infinity"), None) == ["1.5", None, None, None]
    for huge in ("1E+999999999", "1E-999999999"):
        with pytest.raises(RecordError, match=r"a column 'x' that cannot be landed \(OverflowError\)"):
            spelled(Decimal(huge), Decimal(1))


def test_times_that_microseconds_do_not_hold():
    def times(*texts, unit="ns", zone="UTC"):
        series = pd.Series(np.array(texts, dtype=f"datetime64[{unit}]")).dt.tz_localize(zone)
        return with_transform(lambda frame: frame.assign(x=series))

    content = times("2026-01-01T12:00:00.123456789", "2026-01-01T12:00", zone="Europe/Paris")
    assert content.schema["x"] is Kind.TEXT
    assert [row["x"] for row in rows(content)] == ["2026-01-01T11:00:00.123456789Z", "2026-01-01T11:00:00.000000Z"]
    assert times("2026-01-01T12:00:00.123456", "2026-01-01", zone=None).schema["x"] is Kind.TIMESTAMP
    with pytest.raises(RecordError, match="a column 'x' that cannot be landed"):
        times("300000-01-01", "2026-01-01", unit="s")


def test_json_that_a_transform_broke_is_text():
    content = with_transform(lambda frame: frame.assign(o=["1],[2", "[1"]))
    assert content.schema["o"] is Kind.TEXT
    assert rows(content)[0]["o"] == "1],[2"
    jsonl = with_transform(lambda frame: frame.assign(o=['{"a":1', None]), form="jsonl")
    assert [json.loads(line)["o"] for line in lines(jsonl)] == ['{"a":1', None]


def test_pretty_json_stays_on_one_line_after_a_transform():
    content = with_transform(lambda frame: frame, form="jsonl")
    assert [json.loads(line) for line in lines(content)] == [
        {"id": 1, "n": 9007199254740993, "o": {"a": 1}, "s": "private"},
        {"id": 2, "n": None, "o": None, "s": "x"},
    ]


HALVES = r'[{"id":"x\ud800","o":{"k":"y\udc00"},"s":"z"},{"id":"x\ud801","o":{"k":"y\udc01"},"s":"z"},{"s":"\ufffd�"}]'


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("transform", [None, lambda frame: frame])
def test_two_keys_with_half_a_surrogate_pair_do_not_become_one(form, transform):
    mended = replace_lone_surrogates(HALVES.encode())
    shaping = {"nested_columns": {"k": ("o", "k")}, "transform": transform}
    for key in ("id", "k", "o"):
        with pytest.raises(
            RecordError, match=f"2 records have half a surrogate pair in '{key}', which belongs to the primary key"
        ):
            build(form, mended, key=("s", key), **shaping)
        with pytest.raises(RecordError, match="half a surrogate pair"):
            build(form, mended, key=("s",), record_key=(key,), **shaping)
    if transform is None:
        assert build(form, mended, key=("s",), **shaping).rows == 3, "none of these keys was mended"
    assert build(form, mended, **shaping).rows == 3, "without a key, all of them land"
    whole = mended.replace(b"uFfFd", b"ufffd")
    assert build(form, whole, key=("id",), **shaping).rows == 3, "U+FFFD that came is a character like others"


LINES = '[{"id":"a","lines":[1,2]},{"id":"b","lines":[3]},{"id":"b","lines":[3]}]'


def exploded(frame):
    return frame.assign(line=[json.loads(text) for text in frame["lines"]]).explode("line")


def numbered(frame):
    frame = exploded(frame)
    return frame.assign(number=frame.groupby("id").cumcount())


@pytest.mark.parametrize(
    ("transform", "key", "more"),
    [
        (exploded, ["id"], 1),
        (lambda frame: exploded(frame).rename(columns={"id": "order"}), ["order"], 1),
        (lambda frame: exploded(frame).assign(id=7), ["id"], 2),
        (lambda frame: pd.concat([frame, frame]), ["id", "lines"], 3),
        (lambda frame: exploded(frame).assign(own=None), ["id", "own"], 0),
        (numbered, ["id", "number"], 0),
        (exploded, [], 0),
        (exploded, ["no such column"], 0),
        (lambda frame: frame.iloc[[0, 0]], ["id"], 0),
        (lambda frame: frame.rename(columns={"id": "order"}), ["order"], 0),
        (lambda frame: frame.groupby("lines", as_index=False).first(), ["lines"], 0),
    ],
)
def test_a_transform_must_not_make_rows_that_a_load_would_take_for_one(transform, key, more):
    """One record comes twice here, as records of a list that changes do: that many rows may have the key of another."""
    shaping = {"transform": transform, "key": tuple(key), "record_key": ("id",)}
    if not more:
        assert build("parquet", LINES, **shaping).rows
        return
    with pytest.raises(RecordError, match=rf"returned {more} rows more .* of another row \({', '.join(key)}\).*primary_key="):
        build("parquet", LINES, **shaping)


def test_a_transform_may_leave_nothing():
    assert with_transform(lambda frame: frame.iloc[:0]).rows == 0
    assert with_transform(lambda frame: frame[[]]).rows == 0
    assert build("parquet", "[{},{}]", transform=lambda frame: frame.assign(a=[1, 2])).rows == 2


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (lambda frame: frame["s"].astype("int64[pyarrow]"), r"transform raised \w+ at test_part_builders.py, line \d+"),
        (lambda frame: {}["private"], r"transform raised KeyError at test_part_builders.py, line \d+"),
        (lambda frame: None, "transform returned NoneType, expected a pandas DataFrame"),
        (lambda frame: frame.set_axis([1, "1", "a", "b"], axis=1), "two columns have the same name"),
        (lambda frame: frame.assign(mixed=["private", 1]), "transform returned a column 'mixed' that cannot be landed"),
        (lambda frame: frame.assign(c=[1 + 2j, 0]), "transform returned a column 'c' that cannot be landed"),
        (lambda frame: frame.assign(c=pd.Series([b"\xff", b""], dtype=object)), "transform returned a column 'c'"),
        (lambda frame: frame.assign(c=[{"k": 1}, pd.Timestamp(0)]), "transform returned a column 'c' that cannot be landed"),
        (lambda frame: frame.assign(c=pd.to_timedelta([1, 2])), r"transform returned a column 'c' of durations.*total_seconds"),
        (lambda frame: frame.assign(c=[timedelta(1), None]), r"transform returned a column 'c' of durations.*total_seconds"),
        (lambda: None, "transform raised TypeError before its first line"),
    ],
)
def test_a_failing_transform_is_named_and_no_value_is_told(transform, words):
    with pytest.raises(RecordError, match=words) as caught:
        with_transform(transform)
    assert "private" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_what_a_transform_raises_on_purpose_goes_through():
    from airflow.sdk.exceptions import AirflowFailException

    def refuse(frame):
        raise AirflowFailException("too few rows")

    with pytest.raises(AirflowFailException, match="too few rows"):
        with_transform(refuse)


def test_nothing_left_to_land_is_an_error():
    with pytest.raises(RecordError, match="no columns left"):
        build("parquet", "[{},{}]")
    with pytest.raises(RecordError, match="no columns left"):
        build("parquet", '[{"a":1}]', dropped=["a"])
