# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Records whose times do not tell which is newer: what the newest pull of the list saw stays, whatever the order of runs."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import LoadResult
from limio_limitrail.landing.sql.model import OnMissing, Scope
from tests.support.databases import NOON, Database, kept_open, open_database

LIST = Scope(digest="1" * 16, text="one list", task="sync/one")
OTHER = Scope(digest="2" * 16, text="another list", task="sync/other")
SIDE = "_limio_whole_pulls"
TIMES = {
    "no time column": None,
    "nulls": (Kind.TIMESTAMP, None),
    "equal times": (Kind.TIMESTAMP, NOON),
    "equal texts": (Kind.TEXT, "2024-05-06T12:00:00.0000001Z"),
}


@pytest.fixture(scope="module", params=["duckdb", "psycopg3", "sqlite"])
def db(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One database for all cases, each of which has a table of its own."""
    opener = contextlib.contextmanager(open_database)
    with (
        pytest.MonkeyPatch.context() as patch,
        opener(request.param, request=request, tmp_path=tmp_path_factory.mktemp("late"), monkeypatch=patch) as database,
        kept_open(database),
    ):
        yield database


_numbers = itertools.count()


@pytest.fixture
def table() -> str:
    return f"late{next(_numbers)}"


def pull(
    db: Database, table: str, day: int, rows: dict[str, str], *, time: tuple[Kind, Any] | None = None, **more: Any
) -> LoadResult:
    """Land a pull of the whole list that began on a day."""
    columns = {"id": (Kind.TEXT, list(rows)), "v": (Kind.TEXT, list(rows.values()))}
    if time is not None:
        columns["at"] = (time[0], [time[1]] * len(rows))
    how = {"scope": LIST, "full_scan": True, "run": f"sync/one/day-{day}", "at": NOON + timedelta(day), **more}
    return db.land("merge", columns, table=table, time="at", **how)


def values(db: Database, table: str) -> dict[str, str]:
    return {row["id"]: row["v"] for row in db.rows(table)}


DAYS = 3
RECORDS = [
    # A record that has come is there from then on.
    "".join(("-" * begin, *versions))
    for begin in range(DAYS)
    for versions in itertools.product("xy", repeat=DAYS - begin)
]
"""All records that there can be: their versions by day, which are their keys, too."""


@pytest.mark.parametrize("time", TIMES)
def test_pulls_in_any_order_end_in_what_the_newest_saw(db, time):
    orders = itertools.permutations(range(DAYS)) if TIMES[time] is None else [(0, 2, 1)]
    for number, order in enumerate(orders):
        table = f"late{next(_numbers)}"
        for day in (*order, order[number % DAYS]):
            pull(db, table, day, {key: key[day] for key in RECORDS if key[day] != "-"}, time=TIMES[time])
        assert values(db, table) == {key: key[-1] for key in RECORDS}, order


@pytest.mark.parametrize("time", TIMES)
def test_a_late_pull_changes_nothing_that_a_newer_one_saw_and_adds_the_rest(db, table, time):
    pull(db, table, 1, {"a": "x", "b": "x"}, time=TIMES[time])
    assert pull(db, table, 3, {"a": "x", "b": "x"}, time=TIMES[time]).unchanged == 2
    late = pull(db, table, 2, {"a": "y", "b": "x", "c": "y"}, time=TIMES[time])
    assert (late.outdated, late.unchanged, late.inserted, late.updated) == (1, 1, 1, 0)
    assert values(db, table) == {"a": "x", "b": "x", "c": "y"}
    assert pull(db, table, 4, {"a": "y"}, time=TIMES[time]).updated == 1


def test_a_late_pull_with_a_later_time_replaces(db, table):
    for day in (1, 3):
        pull(db, table, day, {"a": "x"}, time=(Kind.TIMESTAMP, NOON))
    assert pull(db, table, 2, {"a": "y"}, time=(Kind.TIMESTAMP, NOON + timedelta(1))).updated == 1


def test_a_late_pull_of_a_part_of_the_list_is_late_too(db, table):
    for day in (1, 3):
        pull(db, table, day, {"a": "x"})
    assert pull(db, table, 2, {"a": "y"}, full_scan=False).outdated == 1


@pytest.mark.parametrize(
    "newer", [{"full_scan": False}, {"scope": OTHER}, {"at": NOON + timedelta(2)}, {"dry_run": True}], ids=str
)
def test_other_pulls_make_no_pull_late(db, table, newer):
    """Of those it is not known which rows they saw, or that they are newer."""
    pull(db, table, 1, {"a": "x"})
    pull(db, table, 3, {"a": "x"}, **newer)
    assert pull(db, table, 2, {"a": "y"}).updated == 1


def test_a_row_knows_the_lists_that_saw_it(db, table):
    """Where the table has them: a pull of any of them is newer, and one that did not find the row is not."""
    marks = {"on_missing": OnMissing.MARK}
    pull(db, table, 1, {"a": "x", "b": "x", "c": "x"}, **marks)
    pull(db, table, 3, {"a": "x", "b": "x"}, **marks)
    pull(db, table, 4, {"b": "x"}, **marks, scope=OTHER, run="sync/other/day-4")
    assert pull(db, table, 2, {"a": "y", "b": "y", "c": "y"}, **marks).outdated == 2
    assert values(db, table) == {"a": "x", "b": "x", "c": "y"}
    third = Scope(digest="3" * 16, text="a third list", task="sync/third")
    assert pull(db, table, 2, {"a": "z", "b": "z", "c": "z"}, **marks, scope=third, run="sync/third/day-2").outdated == 2


@pytest.mark.parametrize(
    ("before", "forgets"),
    [
        ("DROP TABLE {side}", True),
        ("DROP TABLE {table}", True),
        ("UPDATE {table} SET v = 'x'", False),
    ],
)
def test_what_was_dropped_is_forgotten(db, table, before, forgets):
    for day in (1, 3):
        pull(db, table, day, {"a": "x"})
    db.execute(before.format(side=SIDE, table=table))
    pull(db, table, 1, {"a": "x"}, full_scan=False)
    assert pull(db, table, 2, {"a": "y"}).updated == int(forgets)
    pull(db, table, 4, {"a": "x"})
    assert pull(db, table, 3, {"a": "y"}).outdated == 1


def test_a_replace_makes_all_rows_its_own(db, table):
    for day in (1, 3):
        pull(db, table, day, {"a": "x"})
    db.land("replace", {"id": (Kind.TEXT, ["a"]), "v": (Kind.TEXT, ["w"])}, table=table, at=NOON, scope=OTHER, full_scan=True)
    assert pull(db, table, 2, {"a": "y"}).updated == 1


def test_a_user_who_may_not_create_tables_loads_without(postgres):
    db, table = postgres, "subs"
    pull(db, table, 1, {"a": "x"})
    db.execute(
        f"DROP TABLE {SIDE}", "CREATE ROLE peon LOGIN", "REVOKE CREATE ON SCHEMA public FROM public",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO peon",
    )  # fmt: skip
    db.connection["login"] = "peon"
    try:
        assert pull(db, table, 3, {"a": "x"}).unchanged == 1
        db.connection["login"] = "postgres"
        pull(db, f"{table}_", 1, {"a": "x"})
        db.connection["login"] = "peon"
        assert pull(db, table, 2, {"a": "y"}).updated == 1
    finally:
        db.connection["login"] = "postgres"
        db.execute("DROP OWNED BY peon", "DROP ROLE peon")
