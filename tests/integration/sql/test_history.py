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
            if (changes[-1:] and changes[-1][1] == now) or (not changes and now is None):
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


@settings(max_examples=examples(50))
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


@settings(max_examples=examples(50))
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


NOON = timedelta(hours=12)


def day(number: int, hours: int = 0) -> str | None:
    return text(DAYS[number] + timedelta(hours=hours))


def full(number: int, *records: Record, pull: str = "a") -> Run:
    return Run(pull=pull, start=DAYS[number], records=records, judges=True)


def test_a_late_version_goes_into_its_place(db, table):
    first, second, third = (Record(1, DAYS[number] + NOON, v) for number, v in enumerate("xyz"))
    land(db, table, Run("a", DAYS[1], (first,)))
    land(db, table, Run("a", DAYS[3], (third,)))
    result = land(db, table, Run("a", DAYS[2], (second,)))
    assert (result.inserted, result.unchanged) == (1, 0)
    assert versions(db, table) == [
        (1, "x", day(0, 12), day(1, 12)),
        (1, "y", day(1, 12), day(2, 12)),
        (1, "z", day(2, 12), None),
    ]


def test_an_unchanged_record_adds_nothing(db, table):
    run = Run("a", DAYS[1], tuple(Record(number, None if number % 2 else DAYS[0], "x") for number in range(50)))
    land(db, table, run)
    seen = len(db.rows(f"{table}__seen"))
    for number in range(2, 5):
        result = land(db, table, Run("a", DAYS[number], run.records))
        assert (result.inserted, result.updated, result.unchanged) == (0, 0, 50)
    assert len(versions(db, table)) == 50
    assert len(db.rows(f"{table}__seen")) == seen == 50
    assert len(db.rows(f"{table}__runs")) == 4


@pytest.mark.sampled
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_of_two_versions_of_one_time_the_later_pull_wins(db, table, order):
    runs = [Run("a", DAYS[number + 1], (Record(1, DAYS[0], v),)) for number, v in enumerate("xyx")]
    results = [land(db, table, runs[number]) for number in order]
    assert versions(db, table) == [(1, "x", day(0), None)]
    assert results[order.index(1)].outdated == (order.index(1) > order.index(2))


def test_a_late_run_without_a_time_does_not_replace_what_a_later_run_saw_at_that_time(db, table):
    runs = [Run("a", DAYS[2], (Record(1, DAYS[1], "x"),)), Run("a", DAYS[1], (Record(1, None, "y"),))]
    for run in runs:
        result = land(db, table, run)
    assert (result.outdated, result.updated) == (1, 0)
    assert versions(db, table) == expected(runs) == [(1, "x", day(1), None)]


def test_one_pull_may_bring_several_versions_of_a_record(db, table):
    records = tuple(Record(1, DAYS[number], v) for number, v in ((2, "z"), (0, "x"), (1, "y"), (1, "w")))
    result = land(db, table, Run("a", DAYS[5], records))
    assert (result.rows, result.inserted, result.duplicates) == (4, 3, 1)
    assert versions(db, table) == [(1, "w", day(1), day(2)), (1, "x", day(0), day(1)), (1, "z", day(2), None)]


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("kind", "value", "starts"),
    [
        (T, "2026-04-01T12:00:00.1234567+02:00", "2026-04-01T10:00:00.123456Z"),
        (T, "2026-04-01", "2026-04-01T00:00:00.000000Z"),
        (T, "soon", "2026-05-06T12:00:00.000000Z"),
        (INT, 17, "2026-05-06T12:00:00.000000Z"),
        (N, None, "2026-05-06T12:00:00.000000Z"),
    ],
)
def test_a_version_starts_at_its_time_or_else_with_the_run(db, table, kind, value, starts):
    at = datetime(2026, 5, 6, 12, tzinfo=UTC)
    db.land("history", {"id": (INT, [1]), "at": (kind, [value])}, table=table, time="at", at=at)
    assert [row["_valid_from"] for row in db.rows(table)] == [starts]


def test_columns_are_added_and_widened_and_old_versions_keep_their_values(db, table):
    land(db, table, Run("a", DAYS[0], (Record(1, None, "x"), Record(2, None, "x"))))
    columns = {"id": (T, ["1", "two"]), "at": (N, [None] * 2), "v": (T, ["x", "x"]), "more": (J, ["[1]", None])}
    result = db.land("history", columns, table=table, time="at", at=DAYS[2])
    assert (result.columns_added, result.columns_widened) == (("more",), ("id",))
    late = db.land("history", {**columns, "more": (J, ["[2]", None])}, table=table, time="at", at=DAYS[1])
    assert (late.inserted, late.updated) == (1, 1)
    found = [(row["id"], row["more"], row["_valid_from"], row["_valid_to"]) for row in db.rows(table)]
    assert sorted(found, key=repr) == [
        ("1", "[1]", day(2), None),
        ("1", "[2]", day(1), day(2)),
        ("1", None, day(0), day(1)),
        ("2", None, day(0), None),
        ("two", None, day(1), None),
    ]


def test_a_missing_record_closes_and_a_returning_one_opens_a_new_version(db, table):
    one, two = Record(1, DAYS[0], "x"), Record(2, None, "x")
    land(db, table, full(1, one, two))
    result = land(db, table, full(2))
    assert (result.marked, result.missing_checked) == (2, True)
    result = land(db, table, full(3, one, two))
    assert result.returned == 1
    assert versions(db, table) == [
        (1, "x", day(0), day(2)),
        (1, "x", day(3), None),
        (2, "x", day(1), day(2)),
        (2, "x", day(3), None),
    ]


def test_only_a_full_scan_of_the_same_list_closes(db, table):
    record = Record(1, DAYS[0], "x")
    land(db, table, full(1, record))
    land(db, table, full(1, record, pull="b"))
    # A part of the list, or a scan that is to keep everything.
    land(db, table, Run("a", DAYS[2], ()))
    # The other list has it.
    assert land(db, table, full(3)).marked == 0
    assert versions(db, table) == [(1, "x", day(0), None)]
    assert land(db, table, full(4, pull="b")).marked == 1
    assert versions(db, table) == [(1, "x", day(0), day(4))]


def test_a_list_that_shrank_closes_nothing(db, table):
    records = tuple(Record(number, None, "x") for number in range(20))
    guard = ShrinkGuard(most="20%", show_key=str)
    land(db, table, full(1, *records), guard=guard)
    before = db.rows(table, own=True), db.rows(f"{table}__seen"), db.rows(f"{table}__runs")
    with pytest.raises(ShrunkListError, match=r"11 of 20 known rows .* \('9'|11 of 20 known rows .*'10', '11'") as refused:
        land(db, table, full(2, *records[:9]), guard=guard)
    assert "max_missing=" in str(refused.value)
    with pytest.raises(ShrunkListError, match="20 of 20"):
        land(db, table, full(2), guard=guard)
    assert (db.rows(table, own=True), db.rows(f"{table}__seen"), db.rows(f"{table}__runs")) == before
    assert land(db, table, full(2, *records[:10]), guard=guard).marked == 10
    assert land(db, table, full(3), guard=ShrinkGuard(most="100%")).marked == 10


def test_a_late_list_that_shrank_closes_nothing(db, table):
    records = tuple(Record(number, None, "x") for number in range(20))
    guard = ShrinkGuard(most="20%", show_key=str)
    for number in (1, 3):
        land(db, table, full(number, *records), guard=guard)
    before = versions(db, table)
    with pytest.raises(ShrunkListError, match="11 of 20"):
        land(db, table, full(2, *records[:9]), guard=guard)
    assert versions(db, table) == before
    assert land(db, table, full(2, *records[:10]), guard=guard).marked == 10


def test_an_old_run_brings_no_closed_record_back(db, table):
    record = Record(1, DAYS[0], "x")
    for number in (1, 2):
        land(db, table, full(number, record))
    land(db, table, full(4))
    land(db, table, full(3, record))
    assert versions(db, table) == [(1, "x", day(0), day(4))]


def test_a_table_of_rows_is_no_history_and_the_reverse(db, table):
    columns = {"id": (INT, [1]), "v": (T, ["x"])}
    db.land("merge", columns, table=table)
    with pytest.raises(LandingError, match="not a history"):
        db.land("history", columns, table=table)
    other = new_table()
    db.land("history", columns, table=other)
    before = db.rows(other, own=True)
    for mode in ("merge", "append", "replace"):
        with pytest.raises(LandingError, match="is a history"):
            db.land(mode, columns, table=other)
    with pytest.raises(LandingError, match="another primary key"):
        db.land("history", columns, table=other, key=("v",))
    with pytest.raises(LandingError, match="no value in 'id'"):
        db.land("history", {**columns, "id": (INT, [None])}, table=other)
    assert db.rows(other, own=True) == before


def test_a_table_that_is_dropped_begins_again(db, table):
    land(db, table, full(1, Record(1, None, "x")))
    land(db, table, full(2))
    db.execute(f"DROP TABLE {table}")
    land(db, table, full(1, Record(1, None, "y")))
    assert versions(db, table) == [(1, "y", day(1), None)]


def test_the_key_may_have_several_columns_and_names_that_differ_from_the_records(db, table):
    for at, v in enumerate("xyy"):
        columns = {"a": (T, ["1", "12"]), "B b": (D, [2.5, 0.5]), "_valid_from": (T, ["mine"] * 2), "v": (T, [v, "x"])}
        db.land("history", columns, table=table, key=("a", "B b"), at=DAYS[at])
    rows = [(row["a"], row["B b"], row["v"], row["_valid_from"], row["_valid_to"]) for row in db.rows(table)]
    assert sorted(rows, key=repr) == [
        ("1", 2.5, "x", day(0), day(1)),
        ("1", 2.5, "y", day(1), None),
        ("12", 0.5, "x", day(0), None),
    ]
    [mine] = [name for name in db.types(table) if name.startswith("_valid_from__")]
    assert {row[mine] for row in db.rows(table)} == {"mine"}


def test_a_key_of_a_name_that_the_table_beside_it_needs_is_refused(db, table):
    with pytest.raises(LandingError, match=r"names '_pull'.*nested_columns="):
        db.land("history", {"_pull": (INT, [1]), "v": (T, ["x"])}, table=table, key=("_pull",))
    assert not db.exists(table)


def test_another_database_is_refused(opened, table):
    with pytest.raises(LandingError, match="DuckDB, Postgres or SQLite"):
        opened("standard").land("history", {"id": (INT, [1])}, table=table)


def test_a_late_run_of_another_list_keeps_a_version_open(db, table):
    record = Record(2, None, "x")
    runs = [Run("b", DAYS[0], (record,)), full(2, pull="b"), Run("a", DAYS[1], (record,))]
    for run in runs:
        land(db, table, run)
    assert versions(db, table) == expected(runs) == [(2, "x", day(0), None)]


def test_a_record_that_returned_gets_the_version_from_before_it_was_missing(db, table):
    first, second = Record(1, DAYS[0] + NOON, "x"), Record(1, DAYS[1] + NOON, "y")
    runs = [full(1, first), full(2), full(3, first), full(4, second)]
    for run in runs:
        land(db, table, run)
    assert versions(db, table) == expected(runs) == [
        (1, "x", day(0, 12), day(1, 12)),
        (1, "y", day(1, 12), day(2)),
        (1, "y", day(3), None),
    ]  # fmt: skip


def test_a_pull_with_many_versions_of_one_record_says_that_the_key_may_lack_a_column(db, table, caplog, monkeypatch):
    monkeypatch.setattr("limio_limitrail.landing.sql.history.MANY_VERSIONS", 2)
    land(db, table, Run("a", DAYS[9], tuple(Record(1, at, "x") for at in DAYS[:2])))
    assert "primary_key=" not in caplog.text
    land(db, table, Run("a", DAYS[9], tuple(Record(2, at, "x") for at in DAYS[:3])))
    assert "3 versions of one record" in caplog.text
    assert "primary_key=" in caplog.text
