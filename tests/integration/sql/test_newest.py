# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The newest version of a row is what a table ends with, whatever the order of runs and the spelling of times."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import LoadResult, outdated
from tests.support.databases import NOON, Database, kept_open, open_database
from tests.support.strategies import examples

INT, T, D, B, J, S, N = Kind.INTEGER, Kind.TEXT, Kind.DOUBLE, Kind.BOOLEAN, Kind.JSON, Kind.TIMESTAMP, Kind.NULL
EARLIER, LATER = NOON - timedelta(hours=1), NOON + timedelta(hours=1)
TEN = datetime(2026, 5, 1, 10, tzinfo=UTC)


@pytest.fixture(scope="module", params=["duckdb", "psycopg3", "sqlite", pytest.param("standard", marks=pytest.mark.exhaustive)])
def db(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One database for all cases, each of which has a table of its own."""
    folder = tmp_path_factory.mktemp("newest")
    opener = contextlib.contextmanager(open_database)
    with (
        pytest.MonkeyPatch.context() as patch,
        opener(request.param, request=request, tmp_path=folder, monkeypatch=patch) as database,
        kept_open(database),
    ):
        yield database


@pytest.fixture(scope="module")
def staging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for parts that are staged before the load."""
    return tmp_path_factory.mktemp("staged")


_numbers = itertools.count()


@pytest.fixture
def table() -> str:
    return f"t{next(_numbers)}"


def land(db: Database, table: str, time: tuple[Kind, Any] | None, v: str, **how: Any) -> LoadResult:
    """Land one version of the row 1."""
    columns = {} if time is None else {"at": (time[0], [time[1]])}
    return db.land("merge", {"id": (INT, [1]), **columns, "v": (T, [v])}, time="at", table=table, **how)


def text(value: str) -> tuple[Kind, str]:
    return T, value


# The first of each pair is older than the second.
PAIRS = {
    "instants": ((S, TEN), (S, TEN + timedelta(microseconds=1))),
    "another zone": (text("2026-04-01T12:00:00+02:00"), text("2026-04-01T11:30:00Z")),
    "a fraction": (text("2026-05-01T10:00:00Z"), text("2026-05-01T10:00:00.5Z")),
    "finer than a microsecond": (text("2026-05-01T10:00:00.1234567Z"), text("2026-05-01T10:00:00.12345671Z")),
    "an instant and one that is finer": ((S, TEN), text("2026-05-01T10:00:00.0000001Z")),
    "one that is finer and an instant": (text("2026-05-01T09:59:59.9999999Z"), (S, TEN)),
    "lower case": (text("2026-05-01T10:00:00Z"), text("2026-05-01t10:00:01z")),
    "no colon": (text("2026-05-01T10:00:00.5Z"), text("2026-05-01T10:00:00.600+0000")),
    "no zone": (text("2026-05-01T09:59:59"), text("2026-05-01T10:00:00Z")),
    "a day": (text("2026-05-01"), text("2026-05-01T00:00:00.1Z")),
    "a leap second": (text("2016-12-31T23:59:59.9Z"), text("2016-12-31T23:59:60Z")),
    "before 1970": (text("1969-12-31T23:59:59.25Z"), text("1969-12-31T23:59:59.5Z")),
    "years far apart": ((S, datetime(1, 1, 1, tzinfo=UTC)), (S, datetime(9999, 12, 31, tzinfo=UTC))),
    "nothing": ((S, None), (S, TEN)),
    "nothing of a kind": ((N, None), (S, TEN)),
    "an empty text": (text(""), (S, TEN)),
    "no date": (text("0000-00-00T00:00:00Z"), text("2026-05-01T10:00:00Z")),
    "a thirteenth month": (text("2026-13-01T00:00:00Z"), text("2026-05-01T10:00:00Z")),
    "another kind": ((B, True), (S, TEN)),
    "JSON": ((J, '["2027-01-01"]'), text("2026-05-01T10:00:00Z")),
    "numbers": ((INT, 9), (INT, 10)),
    "numbers of two kinds": ((D, 9.5), (INT, 10)),
    "epochs": ((D, 1714557600.123456), (D, 1714557600.123457)),
    "a number and a text of one": ((INT, 9), text("10")),
    "a number and a time": ((INT, 2_000_000_000), (S, TEN)),
}  # fmt: skip


@pytest.mark.sampled(24)
@pytest.mark.parametrize("case", PAIRS)
@pytest.mark.parametrize("late", [True, False])
def test_the_newer_version_stays_whichever_comes_first(db, table, case, late):
    """When each was pulled does not matter where their times differ."""
    older, newer = PAIRS[case]
    land(db, table, newer, "new", at=EARLIER if late else LATER, run="run-2")
    result = land(db, table, older, "old", at=LATER if late else EARLIER, run="run-1")
    assert (result.outdated, result.updated, result.unchanged, result.inserted) == (1, 0, 0, 0)
    assert [(row["v"], row["_run_id"]) for row in db.rows(table, own=True)] == [("new", "run-2")]
    other = f"{table}_"
    land(db, other, older, "old", at=LATER if late else EARLIER)
    assert land(db, other, newer, "new", at=EARLIER if late else LATER).updated == 1
    assert [row["v"] for row in db.rows(other)] == ["new"]


@pytest.mark.exhaustive
def test_the_newer_version_stays_where_rows_are_staged_while_pages_come(db, staging):
    """What stands for a time in the staging table depends on its kind, and later parts may widen it."""
    if not db.postgres:
        pytest.skip("loaded after the pull")
    db = replace(db, staging=staging)
    for number, (case, (older, newer)) in enumerate(PAIRS.items()):
        is_late = number % 2
        table = f"t{next(_numbers)}"
        land(db, table, newer if is_late else older, "1", run="run-1")
        result = land(db, table, older if is_late else newer, "2", run="run-2")
        assert (result.outdated, result.updated) == (is_late, 1 - is_late), case
        both = ({"id": (INT, [1]), "at": (kind, [time]), "v": (T, [v])} for (kind, time), v in ((newer, "new"), (older, "old")))
        assert db.land("merge", *both, time="at", table=table, run="run-3").duplicates == 1, case
        assert [row["v"] for row in db.rows(table)] == ["new"], case


TIES = {
    "instants": ((S, TEN), (S, TEN)),
    "spellings": (text("2026-05-01T10:00:00.000Z"), text("2026-05-01t12:00:00+0200")),
    "an instant and a text": ((S, TEN), text("2026-05-01T10:00:00.0000000Z")),
    "nothing": ((S, None), (S, None)),
    "two texts that are no times": (text("b"), text("a")),
    "no time column": (None, None),
    "nothing, and no column": ((T, None), None),
    "numbers": ((INT, 1), (D, 1.0)),
}


@pytest.mark.sampled(9)
@pytest.mark.parametrize("case", TIES)
def test_of_equal_times_the_version_that_was_pulled_later_stays(db, table, case):
    one, other = TIES[case]
    land(db, table, one, "later", at=LATER)
    assert land(db, table, other, "earlier", at=EARLIER).outdated == 1
    assert [row["v"] for row in db.rows(table)] == ["later"]
    assert land(db, table, other, "as late", at=LATER).updated == 1
    assert land(db, table, one, "latest", at=LATER + timedelta(microseconds=1)).updated == 1


def test_an_equal_row_is_neither_older_nor_newer(db, table):
    land(db, table, (S, TEN), "same", at=LATER, run="run-2")
    assert land(db, table, (S, TEN), "same", at=EARLIER, run="run-1") == LoadResult(rows=1, unchanged=1)
    assert db.rows(table, own=True)[0]["_run_id"] == "run-2"


def test_each_row_is_looked_at_by_itself(db, table):
    times = [TEN + timedelta(minutes=minute) for minute in range(4)]
    db.land("merge", {"id": (INT, [1, 2, 3]), "at": (S, times[:3]), "v": (T, ["a", "b", "c"])}, time="at", table=table)
    moved = [times[1], times[0], times[2], times[3]]
    result = db.land(
        "merge",
        {"id": (INT, [1, 2, 3, 4]), "at": (S, moved), "v": (T, ["a2", "b0", "c", "d"])},
        time="at",
        table=table,
        at=EARLIER,
    )
    assert result == LoadResult(rows=4, inserted=1, updated=1, unchanged=1, outdated=1)
    assert [row["v"] for row in db.rows(table)] == ["a2", "b", "c", "d"]


@pytest.mark.sampled(9)
@pytest.mark.parametrize("comes", [text(""), (N, None), (S, None), None])
@pytest.mark.parametrize("held", [(S, TEN), text("2026-05-01T10:00:00.1234567Z"), (INT, 5)])
def test_rows_that_say_no_time_where_the_table_does_are_told_of(db, table, held, comes, caplog):
    land(db, table, held, "private", at=EARLIER)
    with caplog.at_level(logging.WARNING, logger="limio_limitrail.landing.sql"):
        assert land(db, table, comes, "timeless", at=LATER).outdated == 1
    assert f"{table}: 1 rows came without a readable time in 'at'" in caplog.text
    assert "private" not in caplog.text
    assert [row["v"] for row in db.rows(table)] == ["private"]


def test_a_time_column_that_is_new(db, table):
    db.land("merge", {"id": (INT, [1, 2]), "v": (T, ["a", "b"])}, table=table, at=LATER)
    rows = {"id": (INT, [1, 2]), "at": (S, [TEN, None]), "v": (T, ["a2", "b2"])}
    result = db.land("merge", rows, table=table, time="at", at=EARLIER)
    assert (result.updated, result.outdated) == (1, 1)
    assert [row["v"] for row in db.rows(table)] == ["a2", "b"]


OWN_TYPES = {
    "duckdb": ["TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP_S", "VARCHAR", "TIMESTAMPTZ"],
    "psycopg3": ["timestamp", "varchar(40)", "text", "timestamptz"],
    "standard": ["timestamp", "varchar(40)", "text", "timestamptz"],
    "sqlite": ["TIMESTAMP", "VARCHAR(40)", "TEXT"],
}


@pytest.mark.sampled(12)
@pytest.mark.parametrize("own", ["none", "NULL", "text", "timestamp"])
@pytest.mark.parametrize("place", range(5))
def test_a_table_that_somebody_else_made(db, table, place, own):
    types = OWN_TYPES[db.name]
    if place >= len(types):
        pytest.skip("no such type here")
    extracted = {"none": "", "NULL": ", _extracted_at TIMESTAMP", "text": ", _extracted_at VARCHAR(40)"}.get(
        own, ", _extracted_at TIMESTAMP"
    )
    stamp = {"none": "", "NULL": ", NULL"}.get(own, ", '2024-05-06 12:00:00'")
    db.execute(
        f'CREATE TABLE {table} (id BIGINT, "at" {types[place]}, v VARCHAR(40){extracted})',
        f"INSERT INTO {table} VALUES (1, '2026-05-01 10:00:00', 'theirs'{stamp}), (2, NULL, 'theirs'{stamp})",
    )
    rows = {"id": (INT, [1, 2]), "at": (S, [TEN - timedelta(seconds=1), None]), "v": (T, ["old", "older pull"])}
    result = db.land("merge", rows, table=table, time="at", at=EARLIER)
    kept = own in ("text", "timestamp")
    assert (result.outdated, result.updated) == ((2, 0) if kept else (1, 1))
    assert [v for (v,) in db.query(f"SELECT v FROM {table} ORDER BY id")] == ["theirs", "theirs" if kept else "older pull"]
    rows = {"id": (INT, [1, 2]), "at": (S, [TEN, TEN]), "v": (T, ["later pull", "timed"])}
    result = db.land("merge", rows, table=table, time="at", at=LATER)
    assert (result.outdated, result.updated) == (0, 2)


def test_a_date_column_and_a_server_that_writes_dates_in_its_own_way(opened):
    db = opened("psycopg3")
    db.execute(f"ALTER DATABASE {db.connection['schema']} SET datestyle TO 'SQL, DMY'")
    db.execute("CREATE TABLE subs (id BIGINT, at DATE, v TEXT)", "INSERT INTO subs VALUES (1, '2026-05-02', 'theirs')")
    for day, left in ((datetime(2026, 5, 1, tzinfo=UTC), "theirs"), (datetime(2026, 5, 3, tzinfo=UTC), "ours")):
        db.land("merge", {"id": (INT, [1]), "at": (S, [day]), "v": (T, ["ours"])}, time="at")
        assert [v for (v,) in db.query("SELECT v FROM subs")] == [left]  # psycopg reads no instants of that style


def test_texts_of_every_spelling_that_stand_in_a_table(db, table):
    """A table that others filled, too: what each text means is what counts."""
    held = ["2026-05-01 10:00:00+00", "2026-05-01T12:00:00+02:00", "2026-05-01T10:00:00.000000001Z", "yesterday", "1777629600"]
    numbers = list(range(len(held)))
    db.execute(f'CREATE TABLE {table} (id BIGINT, "at" VARCHAR(60), v VARCHAR(20))')
    db.execute(*(f"INSERT INTO {table} VALUES ({number}, '{time}', 'held')" for number, time in enumerate(held)))
    result = db.land("merge", {"id": (INT, numbers), "at": (S, [TEN] * 5), "v": (T, ["new"] * 5)}, time="at", table=table)
    assert [row["v"] for row in db.rows(table)] == ["new", "new", "held", "new", "new"]
    assert (result.outdated, result.updated) == (1, 4)


def test_more_rows_than_are_looked_at_at_once(db, table, monkeypatch):
    monkeypatch.setattr(outdated, "BATCH_ROWS", 2)
    numbers = list(range(9))
    for mark, zone in (("first", "+00:00"), ("second", "+01:00"), ("third", "-01:00")):
        times = [f"2026-05-01T10:00:00.{number:07d}{zone if number % 2 else 'Z'}" for number in numbers]
        db.land("merge", {"id": (INT, numbers), "at": (T, times), "v": (T, [mark] * 9)}, time="at", table=table, at=EARLIER)
    assert [row["v"] for row in db.rows(table)] == ["third"] * 9
    times = [f"2026-05-01T{'11' if number % 3 else '09'}:00:00Z" for number in numbers]
    result = db.land(
        "merge", {"id": (INT, numbers), "at": (T, times), "v": (T, ["last"] * 9)}, time="at", table=table, at=EARLIER
    )
    kept = {0, 3, 6} | {1, 5, 7}
    assert [number for number in numbers if db.rows(table)[number]["v"] == "third"] == sorted(kept)
    assert (result.outdated, result.updated) == (len(kept), 9 - len(kept))


@pytest.mark.covering
@pytest.mark.sampled(24)
@pytest.mark.parametrize("mode", ["merge", "append", "replace"])
@pytest.mark.parametrize("case", PAIRS)
def test_of_duplicates_the_newest_wins(db, table, mode, case):
    older, newer = PAIRS[case]
    kinds = {older[0], newer[0]}
    both = [older, newer] if kinds == {T} or len(kinds) == 1 else None
    if both is not None:
        parts = [
            {"id": (INT, [1, 1]), "at": (T if T in kinds else older[0], [t for _, t in order])} for order in (both, both[::-1])
        ]
        loads = [[{**part, "v": (T, v)}] for part, v in zip(parts, (["old", "new"], ["new", "old"]), strict=True)]
    else:
        one, other = ({"id": (INT, [1]), "at": (kind, [t]), "v": (T, [v])} for (kind, t), v in ((older, "old"), (newer, "new")))
        loads = [[one, other], [other, one]]
    for number, parts in enumerate(loads):
        place = f"{table}_{number}"
        assert db.land(mode, *parts, time="at", table=place).duplicates == 1
        assert [row["v"] for row in db.rows(place)] == ["new"]


def test_of_duplicates_with_equal_times_the_later_in_the_list_wins(db, table):
    times = ["2026-05-01T10:00:00Z", "2026-05-01T12:00:00+02:00", "", "soon"]
    db.land("merge", {"id": (INT, [1, 1, 2, 2]), "at": (T, times), "v": (T, ["a", "b", "c", "d"])}, time="at", table=table)
    assert [row["v"] for row in db.rows(table)] == ["b", "d"]


# Seconds after TEN as exact fractions, each with its spellings; None is no time.
MOMENTS: list[tuple[Fraction | None, list[tuple[Kind, Any]]]] = [
    (None, [text(""), text("soon"), (T, None), (N, None), text("2026-02-30T00:00:00Z")]),
    (Fraction(0), [(S, TEN), text("2026-05-01T10:00:00Z"), text("2026-05-01t11:00:00+0100"),
                   text("2026-05-01T10:00:00.0000000Z")]),
    (Fraction(1, 10**9), [text("2026-05-01T10:00:00.000000001Z"), text("2026-05-01T11:00:00.0000000010+01:00")]),
    (Fraction(1, 2), [(S, TEN + timedelta(milliseconds=500)), text("2026-05-01T10:00:00.5Z"),
                      text("2026-05-01T05:00:00.50-05:00")]),
    (Fraction(3600), [(S, TEN + timedelta(hours=1)), text("2026-05-01T11:00:00Z"), text("2026-05-01 12:00:00+01:00")]),
]  # fmt: skip
VERSIONS = st.tuples(
    st.integers(1, 3), st.sampled_from(MOMENTS).flatmap(lambda moment: st.tuples(st.just(moment[0]), st.sampled_from(moment[1])))
)
RUNS = st.lists(st.lists(VERSIONS, min_size=1, max_size=5), min_size=1, max_size=5)


@settings(max_examples=examples(40))
@given(runs=RUNS, data=st.data())
def test_runs_in_any_order_end_in_the_newest_of_everything(db, staging, runs, data):
    """Cut into runs at will, loaded in any order and again: the table has of each key the newest version by time, and of equal
    times the one that was pulled last. Postgres may have got the rows while pages came."""
    if db.postgres and data.draw(st.booleans(), label="while pulling"):
        db = replace(db, staging=staging)
    table = f"t{next(_numbers)}"
    order = data.draw(st.permutations([*range(len(runs)), *data.draw(st.lists(st.integers(0, len(runs) - 1), max_size=3))]))
    newest: dict[int, tuple[Any, str]] = {}
    for number, run in enumerate(runs):
        for place, (key, (moment, _)) in enumerate(run):
            rank = (moment is not None, moment or 0, number, place)
            if key not in newest or rank > newest[key][0]:
                newest[key] = (rank, f"{number}.{place}")
    for number in order:
        parts = [
            {"id": (INT, [key]), "at": (kind, [value]), "v": (T, [f"{number}.{place}"])}
            for place, (key, (_, (kind, value))) in enumerate(runs[number])
        ]
        db.land("merge", *parts, table=table, time="at", run=f"run-{number}", at=NOON + timedelta(minutes=number))
    assert {row["id"]: row["v"] for row in db.rows(table)} == {key: v for key, (_, v) in newest.items()}
    db.execute(f"DROP TABLE {table}")
