# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A part that is written in groups holds what it would hold if it were written at once, whatever its groups brought."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.landing import part_builders as builders
from limio_limitrail.landing.arrow_tables import schema_of, stack
from limio_limitrail.landing.column_parts import read_groups
from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.columns import ColumnReader
from limio_limitrail.landing.part_builders import make_builder
from limio_limitrail.landing.parts import PartFormat
from limio_limitrail.landing.row_group_writer import RowGroupWriter
from limio_limitrail.landing.shaping import Shaping
from tests.support.record_pages import RecordPage

VALUES = st.sampled_from(
    [None, True, 1, 2**52, -(2**60), 1.5, 10**30, "a", "é", "", "2026-01-01T00:00:00Z", {"a": [1]}, [], "2026-13-01T00:00:00Z"]
)
RECORDS = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), VALUES, min_size=1)
GROUPS = st.lists(st.lists(RECORDS, min_size=1, max_size=4), min_size=1, max_size=6)


def columns(records: list[dict]) -> pa.Table:
    """Read records as columns by themselves, so that each group has the narrowest kinds."""
    return ColumnReader(timestamps=("a", "b")).read(json.dumps(records).encode())


FORMATS = [PartFormat.PARQUET, PartFormat.ARROW]


def written(data: bytes, part_format: PartFormat) -> pa.Table:
    return pa.concat_tables(read_groups(pa.py_buffer(data), part_format=part_format))


@given(GROUPS, st.sampled_from(FORMATS))
def test_the_file_holds_what_all_groups_brought(groups, form):
    tables = [columns(records) for records in groups]
    one, expected = RowGroupWriter(form), stack(tables)
    for table in tables:
        one.add(table)
    assert one.schema == schema_of(expected)
    found = written(one.finish(), form)
    assert list(found.column_names) == list(expected.column_names)
    assert schema_of(found) == schema_of(expected)
    assert found.equals(expected)
    assert one.schema == {}


@given(GROUPS, st.integers(1, 6), st.sampled_from(FORMATS))
def test_a_part_is_the_same_in_groups_of_any_size(monkeypatch_group_rows, groups, size, form):
    def build(rows: int):
        monkeypatch_group_rows(rows)
        builder = make_builder(form, Shaping(time_column="a", time_path="a", timestamps=("a", "b")))
        contents = []
        for _ in range(2):
            for records in groups:
                builder.add(RecordPage(json.dumps(records).encode()))
            contents.append(builder.finish())
        return contents

    for small, whole in zip(build(size), build(10**6), strict=True):
        assert (small.rows, small.schema, small.times) == (whole.rows, whole.schema, whole.times)
        assert written(small.data, form).equals(written(whole.data, form))
        assert small.rows == sum(map(len, groups))


@pytest.fixture(scope="module")
def monkeypatch_group_rows():
    with pytest.MonkeyPatch.context() as patch:
        yield lambda rows: patch.setattr(builders, "GROUP_ROWS", rows)


@pytest.mark.parametrize("form", FORMATS)
def test_whole_numbers_are_not_written_as_others_before_they_become_text(form):
    one = RowGroupWriter(form)
    for value in (2**52, 0.5, 2**52, "much"):
        one.add(columns([{"n": value}]))
    assert written(one.finish(), form).column("n").to_pylist() == [str(2**52), "0.5", str(2**52), "much"]


@pytest.mark.parametrize("form", FORMATS)
def test_groups_are_written_as_rows_come(monkeypatch, form):
    monkeypatch.setattr(builders, "GROUP_ROWS", 10)
    builder = make_builder(form, Shaping())
    for page in range(7):
        builder.add(RecordPage(json.dumps([{"n": 5 * page + row} for row in range(5)]).encode()))
    content = builder.finish()
    groups = list(read_groups(pa.py_buffer(content.data), part_format=form))
    assert [group.num_rows for group in groups] == [10, 10, 10, 5]
    assert written(content.data, form).column("n").to_pylist() == list(range(35))
    assert content.schema == {"n": Kind.INTEGER}


@pytest.mark.parametrize("form", FORMATS)
def test_rows_before_the_first_column_are_rows(monkeypatch, form):
    monkeypatch.setattr(builders, "GROUP_ROWS", 2)
    builder = make_builder(form, Shaping())
    builder.add(RecordPage(b"[{}, {}]"))
    builder.add(RecordPage(b'[{}, {"a": 1}]'))
    builder.add(RecordPage(b'[{"b": 2}]'))
    assert written(builder.finish().data, form).to_pylist() == [
        {"a": None, "b": None},
        {"a": None, "b": None},
        {"a": None, "b": None},
        {"a": 1, "b": None},
        {"a": None, "b": 2},
    ]
