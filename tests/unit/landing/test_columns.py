# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Any records in any split into pages become the table that a plain model in Python makes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limio_limitrail.landing.arrow_tables import merge_schemas, schema_of, stack
from limio_limitrail.landing.column_types import EXACT_IN_DOUBLE, Kind, widen
from limio_limitrail.landing.columns import ColumnReader
from limio_limitrail.landing.nested_paths import NestedPathReader
from limio_limitrail.landing.shaping import RecordError
from tests.support.databases import widest
from tests.support.strategies import examples

NUMBERS = ["0", "-1", "1.5", "1.50", "1e3", "1e400", "-1e-400", "9007199254740993", "9223372036854775808",
           "12345678901234567890123",
           "0.1", "0.1000000000000000055", "100.0", "2.5e-7", "9007199254740992", "9007199254740994", "-0", "-0.0",
           "100000000000000000000", "1e15", "1000000000000000", "1e10", "1e16", "123456789012345.6"]  # fmt: skip
KEYS = st.sampled_from(["a", "b", "c", "", 'q"uote', "back\\slash", "new\nline", "nul\x00", "ünï", "a.b", "_id", "A"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def texts_of_json() -> st.SearchStrategy[str]:
    plain = TEXTS.map(json.dumps)
    nested = st.recursive(
        plain | st.sampled_from(NUMBERS),
        lambda inner: (
            st.lists(inner, max_size=2).map(lambda items: "[" + " ,".join(items) + "]")
            | st.dictionaries(TEXTS, inner, max_size=2).map(
                lambda d: "{" + ",".join(f"{json.dumps(k)}: {v}" for k, v in d.items()) + "}"
            )
        ),
        max_leaves=4,
    )
    return st.sampled_from(["null", "true", "false", *NUMBERS]) | plain | nested


RECORDS = st.lists(st.dictionaries(KEYS, texts_of_json(), max_size=4), min_size=1, max_size=8)


def written(record: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in record.items()) + "}"


def split(items: Sequence[Any], cuts: Sequence[int]) -> list[Sequence[Any]]:
    places = sorted({cut % (len(items) + 1) for cut in cuts} | {0, len(items)})
    return [items[start:end] for start, end in pairwise(places)]


def read_in_pages(pages: Sequence[Sequence[str]], **how: Any) -> Any:
    reader = ColumnReader(**how)
    return stack([reader.read(("[" + ",".join(page) + "]").encode()) for page in pages])


def is_number(text: str) -> bool:
    return text[:1] in "-0123456789"


def model_kind(text: str) -> Kind:
    """What one value asks of its column."""
    if text == "null":
        return Kind.NULL
    if text in ("true", "false"):
        return Kind.BOOLEAN
    if text[0] in "{[":
        return Kind.JSON
    if text[0] == '"':
        return Kind.TEXT
    if not set(text) & set(".eE"):
        number = int(text)
        return Kind.INTEGER if abs(number) <= EXACT_IN_DOUBLE else Kind.BIGINT if -(2**63) <= number < 2**63 else Kind.TEXT
    number = Decimal(repr(float(text))) if float(text) not in (float("inf"), float("-inf")) else None
    return Kind.DOUBLE if number == Decimal(text) else Kind.TEXT


def same(landed: Any, text: str, kind: Kind) -> bool:
    """Tell whether a landed value gives the written one back."""
    if text == "null":
        return landed is None
    if kind is Kind.JSON:
        return landed == text
    if kind in (Kind.BOOLEAN, Kind.INTEGER, Kind.BIGINT, Kind.DOUBLE):
        return landed == json.loads(text)
    if text[0] == '"':
        return landed == json.loads(text)
    return landed == spelled(text)


def spelled(text: str) -> str:
    """What a column of texts has of a number, a boolean or an object, whatever else is in it."""
    if not is_number(text):
        return text
    if not set(text) & set(".eE"):
        return "0" if text == "-0" else text
    if model_kind(text) is Kind.TEXT:
        return text
    number = float(text)
    if number == int(number) and abs(number) <= EXACT_IN_DOUBLE:
        return str(int(number))
    return str(pa.scalar(number).cast(pa.string()))


@settings(max_examples=examples(300))
@given(RECORDS, st.lists(st.integers(0, 8), max_size=4))
def test_any_records_in_any_pages_become_the_same_table(records, cuts):
    table = read_in_pages(split([written(record) for record in records], cuts))
    names = list(dict.fromkeys(key for record in records for key in record))
    assert set(table.column_names) == set(names)
    assert table.num_rows == len(records)
    kinds = schema_of(table)
    for name in names:
        values = [record.get(name, "null") for record in records]
        assert kinds[name] is widest(model_kind(value) for value in values)
        for landed, value in zip(table.column(name).to_pylist(), values, strict=True):
            assert same(landed, value, kinds[name]), (name, value, landed, kinds[name])


@settings(max_examples=examples(150))
@given(
    RECORDS, st.lists(st.integers(0, 8), max_size=3), st.sampled_from(["a.b", ["a", "c"], ['q"uote', "a"], ["", "nul\x00"], "b"])
)
def test_lifts_find_what_a_plain_walk_finds(records, cuts, path):
    parts = path.split(".") if isinstance(path, str) else path
    text = [
        "{" + ",".join([f'"in": {written(record)}', *(f"{json.dumps(k)}:{v}" for k, v in record.items())]) + "}"
        for record in records
    ]
    for page in split(text, cuts):
        body = ("[" + ",".join(page) + "]").encode()
        if not all(parts):
            with pytest.raises(ValueError, match="not a path into a record"):
                NestedPathReader({"x": path})
            return
        found = NestedPathReader({"x": path, "y": ["in", *parts]}).read(body)
        for name, way in (("x", parts), ("y", ["in", *parts])):
            for raw, record in zip(found[name], json.loads(body), strict=True):
                value: Any = record
                for part in way:
                    value = value.get(part) if isinstance(value, dict) else None
                assert (None if raw is None else json.loads(raw)) == value


KINDS = st.sampled_from(list(Kind))
SCHEMAS = st.dictionaries(st.sampled_from("abcd"), KINDS, max_size=4)


@given(KINDS, KINDS, KINDS)
def test_widening_is_commutative_associative_and_idempotent(one, two, three):
    assert widen(one, two) is widen(two, one)
    assert widen(widen(one, two), three) is widen(one, widen(two, three)), (one, two, three)
    assert widen(one, one) is one


@given(SCHEMAS, SCHEMAS, SCHEMAS)
def test_schemas_merge_in_any_order(one, two, three):
    whole = merge_schemas([one, two, three])
    assert merge_schemas([merge_schemas([one, two]), three]) == whole
    assert merge_schemas([one, merge_schemas([two, three])]) == whole
    assert merge_schemas([three, one, two]) == whole
    assert list(whole) == list(dict.fromkeys([*one, *two, *three]))


@pytest.mark.parametrize(
    ("values", "kind", "landed"),
    [
        (["9007199254740993", "0.5"], Kind.TEXT, ["9007199254740993", "0.5"]),
        (["1", "0.5"], Kind.DOUBLE, [1.0, 0.5]),
        (["18446744073709551616"], Kind.TEXT, ["18446744073709551616"]),
        (["1e999"], Kind.TEXT, ["1e999"]),
        (["0.12345678901234567890"], Kind.TEXT, ["0.12345678901234567890"]),
        (['"a\\u0000b"'], Kind.TEXT, ["a\x00b"]),
        (["null", "null"], Kind.NULL, [None, None]),
        (['{ "b": 1.0,\\n "a": [] }'.replace("\\n", "\n")], Kind.JSON, ['{ "b": 1.0,\n "a": [] }']),
        (["true", "1"], Kind.TEXT, ["true", "1"]),
        (["9" * 6000], Kind.TEXT, ["9" * 6000]),
    ],
)
def test_a_value_that_no_narrow_kind_gives_back_is_text(values, kind, landed):
    table = read_in_pages([[f'{{"v":{value}}}' for value in values]])
    assert schema_of(table) == {"v": kind}
    assert table.column("v").to_pylist() == landed


def test_timestamps_are_instants_where_every_value_is_one():
    good, bad = '{"t":"2026-01-01T01:00:00.5+01:00"}', '{"t":"2026-13-01T00:00:00Z"}'
    assert schema_of(read_in_pages([[good]], timestamps=["t"])) == {"t": Kind.TIMESTAMP}
    table = read_in_pages([[good], [bad]], timestamps=["t"])
    assert table.column("t").to_pylist() == ["2026-01-01T00:00:00.500000Z", "2026-13-01T00:00:00Z"]
    nano = read_in_pages([['{"t":"2026-01-01T00:00:00.123456789Z"}']], timestamps=["t"])
    assert nano.column("t").to_pylist() == ["2026-01-01T00:00:00.123456789Z"]


def test_records_without_keys_are_counted():
    table = read_in_pages([["{}", "{}"], ['{"a":1}'], ["{}"]])
    assert table.column("a").to_pylist() == [None, None, 1, None]
    assert read_in_pages([["{}"] * 3]).num_rows == 3


def test_what_is_no_object_is_refused_without_its_value():
    with pytest.raises(RecordError, match="record 1 of the page") as caught:
        read_in_pages([['{"a":1}', '"private"']])
    assert "private" not in str(caught.value)


def test_a_lift_may_not_take_the_place_of_a_key():
    with pytest.raises(RecordError, match="choose another name"):
        read_in_pages([['{"a":1,"b":{"c":2}}']], nested_columns={"a": "b.c"})


def keyed(records: int, *, start: int = 0) -> bytes:
    return json.dumps([{"id": at, f"key{at}": 1} for at in range(start, start + records)]).encode()


@pytest.mark.parametrize(
    ("pages", "how", "found"),
    [
        ([keyed(16_000)], {}, 16_001),
        ([keyed(100, start=at) for at in range(0, 16_000, 100)], {}, 1_001),
        ([keyed(999), b'[{"one": null}]'], {}, 1_001),
        ([keyed(999)], {"nested_columns": {"lifted": "key5.x"}}, 1_001),
        ([keyed(1_000)], {"dropped": ["absent"]}, 1_001),
        ([json.dumps([{f'odd"{at}': 1} for at in range(1_001)]).encode()], {}, 1_001),
    ],
)
def test_a_key_for_each_record_is_refused_before_columns_are_made_of_them(pages, how, found):
    reader = ColumnReader(max_columns=1_000, **how)
    with pytest.raises(RecordError, match=rf"have {found:,} different keys so far.* max_columns= allows 1,000"):
        list(map(reader.read, pages))


@pytest.mark.parametrize(
    ("page", "how", "columns"),
    [
        (keyed(999), {}, 1_000),
        (keyed(1_000), {"dropped": ["key7"]}, 1_000),
        (keyed(998), {"nested_columns": {"lifted": "key5.x"}}, 1_000),
    ],
)
def test_as_many_columns_as_are_allowed(page, how, columns):
    assert ColumnReader(max_columns=1_000, **how).read(page).num_columns == columns


def test_a_page_has_the_columns_that_it_fills():
    """So that a thousand keys, of which each page has some, do not make a thousand columns of nothing in each."""
    reader = ColumnReader()
    assert reader.read(b'[{"a":1,"b":"x","c":null}]').column_names == ["a", "b", "c"]
    assert reader.read(b'[{"b":"y"},{"a":null}]').column_names == ["b"]
    assert reader.read(b'[{"a":null}]').column_names == ["a", "b", "c"]
    assert reader.read(b"[{}]").num_rows == 1
