# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A history has the same versions whatever the order in which runs are loaded."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.shrinking import ShrinkGuard, ShrunkListError
from limio_limitrail.landing.sql import LandingError, LoadResult
from limio_limitrail.landing.sql.model import OnMissing, Scope
from tests.support.databases import Database, kept_open, open_database
from tests.support.strategies import examples

INT, D, T, S, J, N = Kind.INTEGER, Kind.DOUBLE, Kind.TEXT, Kind.TIMESTAMP, Kind.JSON, Kind.NULL
START = datetime(2026, 5, 1, tzinfo=UTC)
DAYS = [START + timedelta(days=number) for number in range(10)]


@pytest.fixture(scope="module", params=["duckdb", "psycopg3", "sqlite"])
def db(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One database for all cases, each of which has a table of its own."""
    folder = tmp_path_factory.mktemp("history")
    opener = contextlib.contextmanager(open_database)
    with (
        pytest.MonkeyPatch.context() as patch,
        opener(request.param, request=request, tmp_path=folder, monkeypatch=patch) as database,
        kept_open(database),
    ):
        yield database


_numbers = itertools.count()


@pytest.fixture
def table() -> str:
    return new_table()


def new_table() -> str:
    return f"h{next(_numbers)}"


@dataclass(frozen=True)
class Record:
    id: int
    at: datetime | None
    v: str


@dataclass(frozen=True)
class Run:
    pull: str
    start: datetime
    records: tuple[Record, ...]
    judges: bool = False
    """Whether it is a full scan that closes what is missing."""


def land(db: Database, table: str, run: Run, *, guard: ShrinkGuard | None = None) -> LoadResult:
    """Load what a run brought."""
    times = [record.at for record in run.records]
    columns = {
        "id": (INT, [record.id for record in run.records]),
        "at": (S if any(times) else N, times),
        "v": (T, [record.v for record in run.records]),
    }
    name = f"{run.pull}/{run.start:%d}"
    return db.land(
        "history",
        *([columns] if run.records else []),
        table=table,
        time="at",
        run=name,
        at=run.start,
        scope=Scope(digest=run.pull * 16, text=run.pull, task=run.pull),
        full_scan=run.judges,
        on_missing=OnMissing.MARK if run.judges else OnMissing.KEEP,
        max_missing=guard,
    )


def versions(db: Database, table: str) -> list[tuple[Any, ...]]:
    """Read the versions: id, value, from, to."""
    names = ("id", "v", "_valid_from", "_valid_to")
    return sorted((tuple(row[name] for name in names) for row in db.rows(table)), key=repr)


def text(instant: datetime | None) -> str | None:
    return None if instant is None else instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def expected(runs: Sequence[Run]) -> list[tuple[Any, ...]]:
    """Say which versions there are: a function of what runs saw, and not of their order."""
    runs = sorted(runs, key=lambda run: run.start)
    found = []
    for number in {record.id for run in runs for record in run.records}:
        states: dict[datetime, tuple[datetime | None, str]] = {}
        for run in runs:
            # The later run wins where two have a version of one time.
            states.update({record.at or run.start: (record.at, record.v) for record in run.records if record.id == number})
        present = {run.start: is_listed(number, runs, run.start) for run in runs if run.judges and not sees(run, number)}
        present.update({run.start: True for run in runs if sees(run, number)})
        # A version that starts while the record was missing shows that it was back.
        present.update(dict.fromkeys(states, True))
        state, there, changes = None, False, []
        for when in sorted(present):
            state, there = states.get(when, state), present[when]
            now = state if there else None
            if changes[-1:] and changes[-1][1] == now or not changes and now is None:
                continue
            changes.append((when, now))
        ends = [when for when, _ in changes[1:]] + [None]
        found += [
            (number, now[1], text(when), text(end)) for (when, now), end in zip(changes, ends, strict=True) if now is not None
        ]
    return sorted(found, key=repr)


def sees(run: Run, number: int) -> bool:
    return number in {record.id for record in run.records}


def is_listed(number: int, runs: Sequence[Run], when: datetime) -> bool:
    """Return whether a pull has seen the record since its last full scan, or there was nothing to be missing."""
    before = [run for run in runs if run.start <= when]
    listed = False
    for pull in {run.pull for run in before}:
        judged = max((run.start for run in before if run.pull == pull and run.judges), default=START)
        listed |= any(run.pull == pull and run.start >= judged and sees(run, number) for run in before)
    return listed or not any(sees(run, number) for run in before)


records = st.builds(
    Record,
    id=st.integers(1, 2),
    # No record's time is the start of a run.
    at=st.none() | st.sampled_from([day + timedelta(hours=6) for day in DAYS[:4]]),
    v=st.sampled_from("xy"),
)
runs = st.lists(
    st.builds(Run, pull=st.sampled_from("ab"), start=st.sampled_from(DAYS[:6]), records=st.lists(records, max_size=3).map(tuple)),
    min_size=1,
    max_size=5,
    unique_by=lambda run: run.start,
)


@settings(max_examples=examples(80))
@given(data=st.data())
def test_any_order_of_runs_and_retries_leaves_the_same_versions(db, data):
    loaded = data.draw(runs)
    again = data.draw(st.lists(st.sampled_from(loaded), max_size=2))
    table = new_table()
    for number, run in enumerate(order := data.draw(st.permutations([*loaded, *again]))):
        result = land(db, table, run)
        kept = result.inserted + result.updated + result.unchanged + result.outdated
        assert kept == result.rows - result.duplicates == len({(record.id, record.at) for record in run.records})
        if any(before.records for before in order[: number + 1]):
            assert versions(db, table) == expected(order[: number + 1])


timed = st.builds(
    Record, id=st.just(1), at=st.sampled_from([day + timedelta(hours=6) for day in DAYS[:5]]), v=st.sampled_from("xy")
)
timeless = st.builds(Record, id=st.just(2), at=st.none(), v=st.sampled_from("xy"))
scans = st.lists(
    st.builds(
        Run,
        pull=st.sampled_from("aab"),
        start=st.sampled_from(DAYS[:6]),
        records=st.lists(timed | timeless, max_size=2).map(tuple),
        judges=st.booleans(),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda run: run.start,
)


@settings(max_examples=examples(80))
@given(data=st.data())
def test_missing_records_close_and_returning_ones_open_in_any_order_of_runs(db, data):
    loaded = data.draw(scans)
    table = new_table()
    known: list[Run] = []
    for run in data.draw(st.permutations(loaded)):
        if not known and not run.records:
            continue  # an empty list creates no table
        land(db, table, run)
        known.append(run)
        assert versions(db, table) == expected(known)
