# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The same records land as the same values, whatever the page size, wherever a part or a run ended, and whatever came before."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limio_limitrail.landing.arrow_tables import merge_schemas
from limio_limitrail.landing.part_builders import make_builder
from limio_limitrail.landing.parts import PartFormat
from limio_limitrail.landing.shaping import Shaping
from limio_limitrail.landing.sql import Target, WriteMode, load
from tests.support.databases import NOON, Database, FilePart, Part, kept_open, open_database
from tests.support.record_pages import RecordPage
from tests.support.strategies import examples

_numbers = itertools.count()


@pytest.fixture(
    scope="module", params=["duckdb", pytest.param("duckdb files", marks=pytest.mark.exhaustive), "psycopg3", "sqlite"]
)
def db(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One database for all cases, each of which has a table of its own; DuckDB once with files that it reads itself."""
    folder = tmp_path_factory.mktemp("spelling")
    opener = contextlib.contextmanager(open_database)
    with (
        pytest.MonkeyPatch.context() as patch,
        opener(request.param, request=request, tmp_path=folder, monkeypatch=patch) as database,
        kept_open(database),
    ):
        yield database


Records = Sequence[dict[str, str]]


def pages_of(records: Records, size: int) -> list[Records]:
    return [records[at : at + size] for at in range(0, len(records), size)]


def add(db: Database, table: str, parts: Sequence[Sequence[Records]], *, run: str, transform: bool = False) -> None:
    """Land parts, each of some pages of records, whose values are JSON texts."""
    shaping = Shaping(timestamps=("at", "at2"), transform=(lambda frame: frame) if transform else None)
    sources: list[Part] = []
    schemas = []
    for number, pages in enumerate(parts):
        builder = make_builder(PartFormat.PARQUET, shaping)
        for page in pages:
            written = ("{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in record.items()) + "}" for record in page)
            builder.add(RecordPage(f"[{','.join(written)}]".encode()))
        content = builder.finish()
        schemas.append(content.schema)
        rows = pq.read_table(io.BytesIO(content.data))
        sources.append(FilePart(f"part-{number}", rows, folder=db.parts) if db.parts else Part(f"part-{number}", rows))
    target = Target(table=table, mode=WriteMode.APPEND, primary_key=(), time_column=None, run_id=run, extracted_at=NOON)
    load(hook=db.hook(), target=target, schema=merge_schemas(schemas), parts=sources)


def landed(db: Database, table: str) -> dict[int, dict[str, Any]]:
    return {row["row"]: {key: (type(value).__name__, value) for key, value in row.items()} for row in db.rows(table)}


# Column: values as they come, and as the table has them.
COLUMNS: dict[str, tuple[list[str], list[Any]]] = {
    "mixed": (
        ["1", "1.0", "1.50", "1e3", "-0.0", "-0", "9007199254740993", "12345678901234567890", "0.1234567890123456789", "1e15",
         "1000000000000000", "1e10", "1e16", "1e400", "1.5e-7", '"1.50"', "true", '{"a": 1.0}', "null", '"x"'],
        ["1", "1", "1.5", "1000", "0", "0", "9007199254740993", "12345678901234567890", "0.1234567890123456789",
         "1000000000000000", "1000000000000000", "10000000000", "1e+16", "1e400", "1.5e-7", "1.50", "true", '{"a": 1.0}', None,
         "x"],
    ),
    "doubles": (["1", "1.0", "1e3", "-0", "0.5", "9007199254740992", "1e300"], [1.0, 1.0, 1000.0, 0.0, 0.5, 2.0**53, 1e300]),
    "integers": (["1", "-0", "9223372036854775807"], [1, 0, 2**63 - 1]),
    "beyond doubles": (["0.5", "1", "9007199254740993"], ["0.5", "1", "9007199254740993"]),
    "just beyond": (["9007199254740994", "0.5", "2.0"], ["9007199254740994", "0.5", "2"]),
    "beyond integers": (["100000000000000000000", "0.5", "7"], ["100000000000000000000", "0.5", "7"]),
    "a long one at the end": (["1", "2.50", "0.1234567890123456789"], ["1", "2.5", "0.1234567890123456789"]),
    "truth and numbers": (["true", "1", "1.0", "null", "false"], ["true", "1", "1", None, "false"]),
    "nested and numbers": (['[1.0, {"a":2}]', "1.0", "{}"], ['[1.0, {"a":2}]', "1", "{}"]),
    "at": (
        ['"2026-05-01T10:00:00Z"', '"2026-05-01t12:00:00+0200"', '"2026-05-01T10:00:00.1234567Z"',
         '"2026-05-01T10:00:00.1230000Z"',
         '"2026-05-01"', '""', "1.50", "null", '"2026-05-01T10:00:00.5+00:00"', '"2016-12-31T23:59:60Z"',
         '"0000-01-01T00:00:00Z"'],
        ["2026-05-01T10:00:00.000000Z", "2026-05-01T10:00:00.000000Z", "2026-05-01T10:00:00.1234567Z",
         "2026-05-01T10:00:00.123000Z",
         "2026-05-01", "", "1.5", None, "2026-05-01T10:00:00.500000Z", "2016-12-31T23:59:60Z", "0000-01-01T00:00:00Z"],
    ),
    "at2": (
        ['"2026-05-01T10:00:00Z"', "null", '"2026-05-01 12:00:00.25+02"'],
        ["2026-05-01T10:00:00.000000Z", None, "2026-05-01T10:00:00.250000Z"],
    ),
    "no times": (['"2026-05-01T10:00:00Z"', '"2026-05-01t10:00:00z"'], ["2026-05-01T10:00:00Z", "2026-05-01t10:00:00z"]),
}  # fmt: skip
LENGTH = max(len(values) for values, _ in COLUMNS.values())
RECORDS = [
    {"row": str(at), **{name: values[at] for name, (values, _) in COLUMNS.items() if at < len(values)}} for at in range(LENGTH)
]
EXPECTED = {
    at: {name: (values[at] if at < len(values) else None) for name, (_, values) in COLUMNS.items()} for at in range(LENGTH)
}
SIZES = [1, 2, 3, 7, LENGTH]


def check(db: Database, table: str) -> None:
    found = landed(db, table)
    for name in COLUMNS:
        values = {at: row[name] for at, row in found.items()}
        assert values == {at: (type(row[name]).__name__, row[name]) for at, row in EXPECTED.items()}, name


@pytest.mark.covering
@pytest.mark.sampled(9)
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("transform", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_pages_and_parts_of_any_size(db, size, transform, backwards):
    records = RECORDS[::-1] if backwards else RECORDS
    cuts = {"pages": [pages_of(records, size)], "parts": [pages_of(part, 2) for part in pages_of(records, size)]}
    for parts in cuts.values():
        table = f"t{next(_numbers)}"
        add(db, table, parts, run="run-1", transform=transform)
        check(db, table)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("size", SIZES[:-1])
def test_a_table_that_was_there_shows_what_a_new_one_shows(db, size, backwards):
    """Its columns were narrower, or wider already: whoever reads the table cannot tell."""
    table = f"t{next(_numbers)}"
    for number, some in enumerate(pages_of(RECORDS[::-1] if backwards else RECORDS, size)):
        add(db, table, [[some]], run=f"run-{number}")
    check(db, table)


VALUES = st.sampled_from(
    [value for values, _ in COLUMNS.values() for value in values]
    + [
        "-1",
        "2.5",
        "-9007199254740992",
        "-9007199254740993.0",
        "9223372036854775808",
        "9.3e18",
        "123456789012345.6",
        "1e-400",
        '"é"',
    ]
)
ANY = st.lists(st.fixed_dictionaries({}, optional={"a": VALUES, "at": VALUES, "b": VALUES}), min_size=1, max_size=8)


@settings(max_examples=examples(30))
@given(records=ANY, data=st.data())
def test_any_cut_into_pages_parts_and_runs_lands_the_same_values(db, records, data):
    numbered = [{"row": str(at), **record} for at, record in enumerate(records)]
    whole, cut = f"t{next(_numbers)}", f"t{next(_numbers)}"
    add(db, whole, [[numbered]], run="run-1")
    size = st.integers(1, len(records))
    for number, some in enumerate(pages_of(numbered, data.draw(size))):
        parts = [pages_of(part, data.draw(size)) for part in pages_of(some, data.draw(size))]
        add(db, cut, parts, run=f"run-{number}")
    # A column may be wider than it has to be where a run brought nothing but nulls, which leave no kind behind.
    texts = {name for name, type_ in db.types(cut).items() if type_ != db.types(whole)[name]}
    found, expected = landed(db, cut), landed(db, whole)
    assert {name for name in texts if any(row[name][1] is not None for row in expected.values())} <= nullish(numbered)
    for at, row in expected.items():
        assert {name: value for name, value in found[at].items() if name not in texts} == {
            name: value for name, value in row.items() if name not in texts
        }
    db.execute(f"DROP TABLE {whole}", f"DROP TABLE {cut}")


def nullish(records: Records) -> set[str]:
    return {name for record in records for name, value in record.items() if value == "null"}
