# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Numbers come as they were written, or as text, but never rounded."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from limio_limitrail.api.errors import ProtocolError
from limio_limitrail.api.page import Page, decode_page, decode_records, exact_number, to_frame

DIGITS = st.text("0123456789", min_size=1, max_size=25)


@given(
    sign=st.sampled_from(["", "-"]),
    whole=st.one_of(st.just("0"), st.integers(1, 10**25).map(str)),
    fraction=st.one_of(st.just(""), DIGITS.map(lambda digits: f".{digits}")),
    exponent=st.one_of(st.just(""), st.tuples(st.sampled_from("eE"), st.integers(-420, 420)).map(lambda e: f"{e[0]}{e[1]}")),
)
@example(sign="", whole="1", fraction="", exponent="e-400")
@example(sign="", whole="3", fraction="", exponent="e-324")
@example(sign="", whole="1", fraction=".2345678", exponent="e-320")
@example(sign="-", whole="0", fraction=".0", exponent="")
@example(sign="", whole="1", fraction=".10", exponent="")
@example(sign="", whole="9007199254740993", fraction=".0", exponent="")
def test_a_number_is_exact_or_its_own_text(sign, whole, fraction, exponent):
    text = sign + whole + fraction + exponent
    found = exact_number(text)
    if isinstance(found, str):
        assert found == text
        value = float(text)
        assert Decimal(text) != Decimal(repr(value)), "a double holds it"
    else:
        assert Decimal(repr(found)) == Decimal(text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_comes_as_a_double(value):
    assert exact_number(repr(value)) == value


@pytest.mark.parametrize(
    "text", ["0.1234567890123456789", "1e400", "-1e400", "1e-400", "1e99999999999999999999", "1e-99999999999999999999"]
)
def test_what_no_double_holds_stays_a_text(text):
    assert exact_number(text) == text
    assert decode_records(f'[{{"n": {text}}}]'.encode()) == [{"n": text}]


def frame(*rows: str, flatten: bool = False) -> pd.DataFrame:
    return to_frame(decode_records(f"[{','.join(rows)}]".encode()), flatten=flatten)


def test_a_large_integer_beside_a_null_is_not_rounded():
    found = frame('{"n": 9007199254740993}', '{"n": null}', "{}")
    assert found["n"].dtype == "int64[pyarrow]"
    assert found["n"][0] == 2**53 + 1
    assert found["n"].isna().tolist() == [False, True, True]


def test_integers_of_any_length_are_whole():
    long = 123456789012345678901234567890
    found = frame(f'{{"n": {long}, "m": {2**63}}}', '{"n": 1, "m": -1}')
    assert found["n"].tolist() == [long, 1]
    assert found["m"].tolist() == [2**63, -1]


def test_an_integer_that_no_double_holds_is_not_rounded_by_its_neighbour():
    found = frame('{"n": 9007199254740993}', '{"n": 0.5}')
    assert found["n"].tolist() == [2**53 + 1, 0.5]
    assert frame('{"n": 3}', '{"n": 0.5}')["n"].dtype == "double[pyarrow]"


def test_columns_of_one_kind_have_a_type_and_mixed_ones_keep_their_objects():
    found = frame('{"s":"a","b":true,"f":1.10,"x":1,"o":{"k":[1]}}', '{"s":null,"b":false,"f":2.5,"x":"one","o":null}')
    assert [str(kind) for kind in found.dtypes] == ["string[pyarrow]", "bool[pyarrow]", "double[pyarrow]", "object", "object"]
    assert found["f"].tolist() == [1.1, 2.5]
    assert found["x"].tolist() == [1, "one"]
    assert found["o"].tolist() == [{"k": [1]}, None]


def test_a_boolean_is_no_number():
    assert frame('{"x": true}', '{"x": 1}')["x"].tolist() == [True, 1]
    assert [type(value) for value in frame('{"x": true}', '{"x": 1}')["x"]] == [bool, int]


def test_flattening_names_columns_by_their_path_in_order():
    found = frame('{"a":{"b":{"c":1},"d":2},"e":[1,2],"f":{}}', flatten=True)
    assert list(found.columns) == ["a.b.c", "a.d", "e", "f"]
    assert found.iloc[0].tolist() == [1, 2, [1, 2], {}]


@pytest.mark.parametrize("row", ['{"a.b":1,"a":{"b":2}}', '{"a":{"b":2},"a.b":1}'])
def test_flattening_loses_nothing_in_silence(row):
    with pytest.raises(ValueError, match=r"share the column 'a\.b'"):
        frame(row, flatten=True)


def test_frames_of_nothing():
    assert frame().shape == (0, 0)
    assert frame("{}", "{}").shape == (2, 0)


@pytest.mark.parametrize("records", [b"[1]", b'["canary"]', b"[[]]", b'[{"a":1},null]'])
def test_a_record_that_is_no_object_breaks_the_contract(records):
    page = Page(raw_records=msgspec.json.decode(records, type=list[msgspec.Raw]), next_cursor=None, total=None, number=3)
    with pytest.raises(ProtocolError, match="page 3: expected a list of objects") as caught:
        decode_page(page, api="Limio", resource="things")
    assert "canary" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), JSON, max_size=3), max_size=6))
def test_a_frame_holds_what_came(rows):
    found = to_frame(decode_records(msgspec.json.encode(rows)), flatten=False)
    assert len(found) == len(rows)
    for position, row in enumerate(rows):
        for name in found.columns:
            value = found[name].iloc[position]
            if row.get(name) is None:
                assert value is None or value is pd.NA
            else:
                assert value == row[name]
