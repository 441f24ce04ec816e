# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Arrays made by their buffers are those that Arrow makes itself, and no pull of typed columns loads pandas."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.landing.arrow_tables import boolean_array, integer_array, text_array, utf8_array

TEXTS = st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), max_size=40)


def check(array: pa.Array, expected: pa.Array) -> None:
    array.validate(full=True)
    assert array.equals(expected)
    assert array.null_count == expected.null_count


@given(TEXTS)
def test_texts(values):
    check(text_array(values), pa.array(values, pa.string()))
    check(utf8_array([None if value is None else value.encode() for value in values]), pa.array(values, pa.string()))


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=40))
def test_integers(values):
    check(integer_array(values), pa.array(values, pa.int64()))


@given(st.lists(st.none() | st.booleans(), max_size=40))
def test_booleans(values):
    check(boolean_array(values), pa.array(values, pa.bool_()))


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_larger_integers_are_refused(number):
    with pytest.raises(OverflowError):
        integer_array([1, None, number])


PULL = """
import sys
from dataclasses import dataclass
import msgspec
from limio_limitrail.landing.part_builders import make_builder
from limio_limitrail.landing.parts import PartFormat
from limio_limitrail.landing.shaping import Shaping

@dataclass
class Page:
    records: bytes
    raw_records: list
    wrapped: bool = False

records = b'[{"id": "a", "n": 1, "x": 1.5, "b": true, "t": "2026-01-01T00:00:00Z", "o": {"p": [1]}}, {"id": "b", "n": null}]'
for form in PartFormat:
    builder = make_builder(form, Shaping(time_column="t", time_path="t", timestamps=("t",), nested_columns={"p": "o.p"}))
    builder.add(Page(records, msgspec.json.decode(records, type=list[msgspec.Raw])))
    assert builder.finish().times.newest.year == 2026
print("pandas" in sys.modules)
"""


def test_a_pull_does_not_load_pandas():
    done = subprocess.run([sys.executable, "-c", PULL], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
