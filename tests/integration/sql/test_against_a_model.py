# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Random pulls, one after the other, against a model of the table in plain Python."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from limio_limitrail.landing.column_types import EXACT_IN_DOUBLE, Kind, arrow_type, cast, widen
from limio_limitrail.landing.sql import LandingError, LoadResult
from limio_limitrail.landing.sql.names import ascii_lower, column_names
from tests.support.databases import HELD, WHILE_PULLING, kept_open, widest
from tests.support.strategies import examples

INT, L, T, D, B, J, S, N = (
    Kind.INTEGER, Kind.BIGINT, Kind.TEXT, Kind.DOUBLE, Kind.BOOLEAN, Kind.JSON, Kind.TIMESTAMP, Kind.NULL,
)  # fmt: skip

VALUES = {
    B: st.booleans(),
    INT: st.integers(-EXACT_IN_DOUBLE, EXACT_IN_DOUBLE) | st.integers(-2, 2),
    L: st.integers(-(2**63), 2**63 - 1) | st.just(EXACT_IN_DOUBLE + 1),
    # Databases take the two zeros for equal, so the model knows only one.
    D: st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0)
    | st.sampled_from([0.5, 1.0, 1e22, 1.5e-7]),
    S: st.datetimes(timezones=st.just(UTC)) | st.just(datetime(2024, 1, 1, tzinfo=UTC)),
    T: st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    | st.sampled_from(["0123", "true", "1", "", "\0", "\\.", '"']),
    J: st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=2)).map(
        lambda value: json.dumps([value])
    ),
    N: st.none(),
}
KEYS = {
    INT: st.integers(0, 4),
    L: st.sampled_from([1, 2, 2**60]),
    T: st.sampled_from(["1", "2", "a", "A", "a ", "\0", "01"]),
    D: st.sampled_from([0.5, 1.0, 2.0]),
}
NAMES = ["a", "A", "b", "at", "x y", "_run_id", "é"]


@dataclass
class Pull:
    mode: str
    run: str
    parts: list[dict[str, tuple[Kind, list[Any]]]]
    time: str | None

    @property
    def schema(self) -> dict[str, Kind]:
        names = list(dict.fromkeys(name for part in self.parts for name in part))
        return {name: widest(part[name][0] for part in self.parts if name in part) for name in names}


@st.composite
def part(draw: st.DrawFn) -> dict[str, tuple[Kind, list[Any]]]:
    rows = draw(st.integers(0, 5))
    key_kind = draw(st.sampled_from([INT, INT, INT, T, L, D]))
    columns = {"id": (key_kind, draw(st.lists(KEYS[key_kind], min_size=rows, max_size=rows)))}
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4)):
        kind = draw(st.sampled_from(list(VALUES)))
        columns[name] = (kind, draw(st.lists(st.none() | VALUES[kind], min_size=rows, max_size=rows)))
    for name, (kind, values) in columns.items():
        # What the reader of the API does: numbers are INTEGER unless one is too big for a double.
        if kind in (INT, L):
            big = any(value is not None and abs(value) > EXACT_IN_DOUBLE for value in values)
            columns[name] = (L if big else INT, values)
    return columns


@st.composite
def pull(draw: st.DrawFn) -> Pull:
    return Pull(
        mode=draw(st.sampled_from(["merge", "merge", "append", "replace"])),
        run=draw(st.sampled_from(["run-1", "run-2", "run-3"])),
        parts=draw(st.lists(part(), max_size=3)),
        time=draw(st.sampled_from([None, "at"])),
    )


def as_kind(value: Any, source: Kind, target: Kind) -> Any:
    """Give a value in a wider kind."""
    if value is None:
        return None
    if source is L and abs(value) <= EXACT_IN_DOUBLE:
        # A column of big numbers that holds none by now is one of plain integers.
        source = INT
    column = pa.chunked_array([pa.array([value], arrow_type(source))])
    value = cast(column, source=source, target=target).to_pylist()[0]
    return value.replace("\0", "\\u0000") if isinstance(value, str) else value


@dataclass
class Model:
    kinds: dict[str, Kind] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    exists: bool = False

    def load(self, pull: Pull) -> LoadResult | None:
        """Do what a load does; ``None`` when it has to be refused."""
        schema = pull.schema
        came = [
            {name: as_kind(values[at], kind, schema[name]) for name, (kind, values) in part.items()}
            for part in pull.parts
            for at in range(len(part["id"][1]))
        ]
        if not self.exists and not schema and not came:
            return LoadResult()
        kinds = {**self.kinds, **{name: self.kind_with(name, kind) for name, kind in schema.items()}}
        newest: dict[Any, dict[str, Any]] = {}
        for row in came:
            key = as_kind(row["id"], schema["id"], kinds["id"])
            rival = newest.get(key)
            if rival is None or self.is_newer(row, rival, pull.time):
                newest[key] = row
        converted = [{name: as_kind(value, schema[name], kinds[name]) for name, value in row.items()} for row in newest.values()]
        held = [{name: as_kind(value, self.kinds[name], kinds[name]) if name in self.kinds else value
                 for name, value in row.items()} for row in self.rows]  # fmt: skip
        counts = {"rows": len(came), "duplicates": len(came) - len(newest)}
        own = {"run": pull.run}
        match pull.mode:
            case "merge":
                for row in converted:
                    same = [other for other in held if other["id"] == row["id"]]
                    if len(same) > 1:
                        return None
                    whole = {name: row.get(name) for name in kinds}
                    if not same:
                        counts["inserted"] = counts.get("inserted", 0) + 1
                    elif whole == {name: same[0].get(name) for name in kinds}:
                        counts["unchanged"] = counts.get("unchanged", 0) + 1
                        continue
                    elif pull.time and newness(same[0].get(pull.time)) > newness(row.get(pull.time)):
                        counts["outdated"] = counts.get("outdated", 0) + 1
                        continue
                    else:
                        counts["updated"] = counts.get("updated", 0) + 1
                        held.remove(same[0])
                    held.append({**row, **own})
            case "append":
                kept = [row for row in held if row["run"] != pull.run]
                counts |= {"deleted": len(held) - len(kept), "inserted": len(converted)}
                held = [*kept, *({**row, **own} for row in converted)]
            case "replace":
                counts |= {"deleted": len(held), "inserted": len(converted)}
                held = [{**row, **own} for row in converted]
        self.kinds, self.rows, self.exists = kinds, held, True
        return LoadResult(**counts)

    def kind_with(self, name: str, comes: Kind) -> Kind:
        held = self.kinds.get(name)
        if held is None:
            return T if comes is N else comes
        numbers = [row[name] for row in self.rows if row.get(name) is not None] if held in (INT, L) else []
        if held in (INT, L):
            held = L if any(abs(number) > EXACT_IN_DOUBLE for number in numbers) else INT
        return widen(held, comes)

    @staticmethod
    def is_newer(row: dict[str, Any], rival: dict[str, Any], time: str | None) -> bool:
        return time is None or newness(row.get(time)) >= newness(rival.get(time))

    def doubled(self) -> bool:
        return len({repr(row["id"]) for row in self.rows}) < len(self.rows)

    def content(self) -> list[tuple[Any, ...]]:
        return sorted((tuple(seen(row.get(name)) for name in [*self.kinds, "run"]) for row in self.rows), key=repr)


def newness(value: Any) -> tuple[int, Any]:
    """Rank a value among times: instants by their time, before them numbers by their value, before these all else."""
    if isinstance(value, datetime):
        return 2, value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 1, Fraction(repr(value))
    if isinstance(value, str):
        if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", value):
            return 1, Fraction(value)
        with contextlib.suppress(ValueError):
            return 2, datetime.strptime(value, "%Y-%m-%dT%H:%M:%S.%f%z")
    return 0, 0


def seen(value: Any) -> Any:
    """Give a value as the table shows it, with its type, since Python takes 1, 1.0 and True for equal."""
    if isinstance(value, datetime):
        value = value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")
    return type(value).__name__, value


@pytest.fixture(
    params=[
        "duckdb",
        *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("duckdb files", HELD)),
        "sqlite",
        "psycopg3",
        WHILE_PULLING,
    ]
)
def emptied(request, opened, file_database):
    """A maker of empty databases, of which the model's test needs many."""
    if request.param.startswith("psycopg3"):
        db = opened(request.param)

        @contextlib.contextmanager
        def maker():
            db.execute("DROP TABLE IF EXISTS subs")
            yield db

        return maker

    @contextlib.contextmanager
    def file_maker():
        with (
            tempfile.TemporaryDirectory() as folder,
            kept_open(file_database(request.param, folder=Path(folder))) as database,
        ):
            yield database

    return file_maker


@settings(max_examples=examples(60))
@given(pulls=st.lists(pull(), min_size=1, max_size=5))
def test_the_table_is_what_the_model_says(emptied, pulls):
    with emptied() as db:
        model = Model()
        for number, pull in enumerate(pulls):
            follow(db=db, model=model, pull=pull, number=number)


def follow(*, db: Any, model: Model, pull: Pull, number: int) -> None:
    """Land one pull, and compare the table with the model."""
    arguments = {"run": pull.run, "time": pull.time, "at": datetime(2024, 1, 1 + number, tzinfo=UTC)}
    before = db.rows(own=True) if db.exists() else []
    # Where the database disregards case, a key may take over a column whose name differs from it in case only.
    same = str if db.postgres else ascii_lower
    columns = column_names(pull.schema, existing=db.types(), same=same)
    expected = model.load(replace(pull, parts=[{columns[key]: values for key, values in part.items()} for part in pull.parts]))
    if expected is None:
        with pytest.raises(LandingError, match="more than one"):
            db.land(pull.mode, *pull.parts, **arguments)
        assert db.rows(own=True) == before
        return
    unique = "PRIMARY KEY" in constraints(db)
    if unique and pull.mode == "append" and model.doubled():
        with pytest.raises(LandingError, match="duplicate key"):
            db.land(pull.mode, *pull.parts, **arguments)
        # The table keeps each key once, so from here on the two part ways.
        assume(False)
    result = db.land(pull.mode, *pull.parts, **arguments)
    counted = ("rows", "inserted", "updated", "unchanged", "outdated", "deleted", "duplicates")
    assert {what: getattr(result, what) for what in counted} == {what: getattr(expected, what) for what in counted}
    assert db.exists() == model.exists
    if not model.exists:
        return
    assert {*model.kinds, "_extracted_at", "_run_id"} == set(db.types())
    found = [(*(seen(row[column]) for column in model.kinds), seen(row["_run_id"])) for row in db.rows(own=True)]
    assert sorted(found, key=repr) == model.content()


def constraints(db: Any) -> str:
    if not db.postgres:
        return ""
    return str(
        db.query("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p' AND conrelid = to_regclass('subs')")
    )
