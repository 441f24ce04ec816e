# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which partitions a load touches: those of rows that it inserted, updated or deleted, as they were and as they are."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import Contract, LandingError, LoadResult, NewColumns, Partitions
from limio_limitrail.landing.sql.model import OnMissing, Scope
from tests.support.databases import Database

INT, T, D, J, S, B = Kind.INTEGER, Kind.TEXT, Kind.DOUBLE, Kind.JSON, Kind.TIMESTAMP, Kind.BOOLEAN
BY_DAY = Partitions(column="day", most=10)


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 5, day, hour, 30, tzinfo=UTC)


@pytest.mark.every_driver
def test_only_what_changed_is_touched(db: Database) -> None:
    days = [at(1), at(2, 23), at(2), at(4)]
    first = db.land("merge", {"id": (INT, [1, 2, 3, 4]), "day": (S, days), "n": (INT, [1, 2, 3, 4])}, partitions=BY_DAY)
    assert first.partitions == ("2026-05-01", "2026-05-02", "2026-05-04")
    same = {"id": (INT, [1, 2, 3]), "day": (S, days[:3]), "n": (INT, [1, 2, 3])}
    assert db.land("merge", same, run="run-2", partitions=BY_DAY).partitions == ()
    # One row is changed, one moves to another day, and one is new.
    changed = {"id": (INT, [1, 2, 4, 5]), "day": (S, [at(1), at(2, 23), at(5), at(7)]), "n": (INT, [1, 0, 4, 5])}
    result = db.land("merge", changed, run="run-3", partitions=BY_DAY)
    assert (result.inserted, result.updated, result.unchanged) == (1, 2, 1)
    assert result.partitions == ("2026-05-02", "2026-05-04", "2026-05-05", "2026-05-07")
    # A run that is loaded again touches again what it wrote.
    again = db.land("merge", changed, run="run-3", partitions=BY_DAY)
    assert again.unchanged == 4
    assert again.partitions == ("2026-05-02", "2026-05-05", "2026-05-07")


def test_outdated_rows_touch_nothing(db: Database) -> None:
    db.land("merge", {"id": (INT, [1]), "day": (S, [at(2)]), "n": (INT, [1])}, time="day", partitions=BY_DAY)
    result = db.land("merge", {"id": (INT, [1]), "day": (S, [at(1)]), "n": (INT, [2])}, time="day", run="2", partitions=BY_DAY)
    assert (result.outdated, result.partitions) == (1, ())


def test_appended_rows_and_those_that_they_replace(db: Database) -> None:
    db.land("append", {"id": (INT, [1]), "day": (S, [at(1)])}, partitions=BY_DAY)
    result = db.land("append", {"id": (INT, [2]), "day": (S, [at(2)])}, run="run-2", partitions=BY_DAY)
    assert result.partitions == ("2026-05-02",)
    result = db.land("append", {"id": (INT, [2]), "day": (S, [at(3)])}, run="run-2", partitions=BY_DAY)
    assert result.partitions == ("2026-05-02", "2026-05-03")


@pytest.mark.parametrize("on_missing", [OnMissing.DELETE, OnMissing.MARK])
def test_rows_that_vanish_and_return(db: Database, on_missing: OnMissing) -> None:
    scope = Scope(digest="0" * 16, text="subscriptions", task="d/t")
    more: dict[str, Any] = {"scope": scope, "full_scan": True, "on_missing": on_missing, "partitions": BY_DAY}
    every = {"id": (INT, [1, 2]), "day": (S, [at(1), at(2)])}
    runs = [datetime(2026, 6, day, tzinfo=UTC) for day in (1, 2, 3)]
    db.land("merge", every, run="d/t/1", at=runs[0], **more)
    gone = db.land("merge", {"id": (INT, [1]), "day": (S, [at(1)])}, run="d/t/2", at=runs[1], **more)
    assert (gone.deleted + gone.marked, gone.partitions) == (1, ("2026-05-02",))
    assert db.land("merge", every, run="d/t/3", at=runs[2], **more).partitions == ("2026-05-02",)


@pytest.mark.every_driver
def test_days_are_the_same_whatever_the_columns_type(db: Database) -> None:
    texts = ["2026-05-01", "2026-05-01T23:30:00-05:00", "2026-05-03 10:00", "2026-05-04T00:00:00.123456789Z", "north", "20260501"]
    pulled = {"id": (INT, list(range(6))), "day": (T, texts)}
    wanted = ("2026-05-01", "2026-05-02", "2026-05-03", "2026-05-04", "20260501", "north")
    assert db.land("merge", pulled, partitions=BY_DAY).partitions == wanted
    # A column of times that becomes text keeps its days.
    db.land("merge", {"id": (INT, [1]), "day": (S, [at(1, 5)])}, table="drifts", partitions=BY_DAY)
    moved = db.land("merge", {"id": (INT, [1]), "day": (T, ["2026-05-09"])}, table="drifts", run="2", partitions=BY_DAY)
    assert moved.partitions == ("2026-05-01", "2026-05-09")
    numbers = {"id": (INT, [1, 2]), "year": (INT, [2025, 2026])}
    assert db.land("merge", numbers, table="years", partitions=Partitions(column="year", most=2)).partitions == ("2025", "2026")


def test_a_column_of_dates(typed: Database) -> None:
    typed.execute("CREATE TABLE subs (id bigint, day date)")
    result = typed.land("merge", {"id": (INT, [1, 2]), "day": (T, ["2026-05-01", "2026-05-02"])}, partitions=BY_DAY)
    assert result.partitions == ("2026-05-01", "2026-05-02")


def test_rows_without_a_value_belong_to_no_partition(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    result = db.land("merge", {"id": (INT, [1, 2, 3]), "day": (T, [None, " ", "a"])}, partitions=BY_DAY)
    assert result.partitions == ("a",)
    assert "rows without a value in 'day'" in caplog.text
    # The records have no such column any more: the row leaves its partition.
    result = db.land("merge", {"id": (INT, [3])}, run="run-2", partitions=BY_DAY)
    assert (result.updated, result.partitions) == (1, ("a",))


def test_too_many_partitions_are_refused(db: Database) -> None:
    pulled = {"id": (INT, [1, 2, 3]), "day": (T, ["a", "b", "c"])}
    with pytest.raises(LandingError, match="touches 3 partitions of 'day', and max_partitions is 2; nothing was written"):
        db.land("merge", pulled, partitions=Partitions(column="day", most=2))
    assert not db.exists()
    assert db.land("merge", pulled, partitions=Partitions(column="day", most=3)).inserted == 3


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ((D, [0.5]), "which is double. Partitions are made of times, dates, texts and whole numbers"),
        ((B, [True]), "which is boolean"),
        ((J, ["{}"]), "which is json"),
        ((T, ["x" * 251]), "longer than the 250 characters"),
        (None, "which neither the records nor the table have"),
    ],
)
def test_what_makes_no_partitions(db: Database, column: Any, message: str) -> None:
    pulled = {"id": (INT, [1]), **({} if column is None else {"day": column})}
    with pytest.raises(LandingError, match=message):
        db.land("merge", pulled, partitions=BY_DAY)
    assert not db.exists()
    assert db.land("merge", partitions=BY_DAY) == LoadResult()


def test_a_column_that_the_contract_leaves_out_makes_no_partitions(duck: Database) -> None:
    duck.land("merge", {"id": (INT, [1])})
    ignore = Contract(new_columns=NewColumns.IGNORE)
    with pytest.raises(LandingError, match="names 'day', which the table lacks, and new_columns=\"ignore\" leaves out; nothing"):
        duck.land("merge", {"id": (INT, [1]), "day": (S, [at(1)])}, partitions=BY_DAY, contract=ignore)


def test_what_is_called_before_the_commit_can_undo_it(db: Database) -> None:
    seen: list[LoadResult] = []

    def refuse(result: LoadResult) -> None:
        seen.append(result)
        raise OSError("no")

    pulled = {"id": (INT, [1]), "day": (T, ["a"])}
    with pytest.raises(OSError, match="no"):
        db.land("merge", pulled, partitions=BY_DAY, before_commit=refuse)
    assert not db.exists()
    assert [one.partitions for one in seen] == [("a",)]
    assert db.land("merge", pulled, partitions=BY_DAY, before_commit=refuse, dry_run=True).partitions == ("a",)
    assert db.land("merge", pulled, partitions=BY_DAY, before_commit=seen.append) == seen[-1]


def test_a_history_touches_the_versions_that_it_changes(db: Database) -> None:
    scope = Scope(digest="0" * 16, text="subscriptions", task="d/t")
    runs = [datetime(2026, 6, day, tzinfo=UTC) for day in (1, 2, 3, 4, 5)]

    def land(run: int, ids: list[int], days: list[str], times: list[datetime]) -> LoadResult:
        return db.land(
            "history",
            {"id": (INT, ids), "day": (T, days), "at": (S, times)},
            time="at",
            run=f"d/t/{run}",
            at=runs[run],
            scope=scope,
            full_scan=True,
            on_missing=OnMissing.MARK,
            partitions=BY_DAY,
        )

    assert land(0, [1, 2], ["a", "b"], [at(1), at(1)]).partitions == ("a", "b")
    assert land(1, [1, 2], ["a", "b"], [at(1), at(1)]).partitions == ()
    # The version of day b ends, and one of day c begins.
    assert land(2, [1, 2], ["a", "c"], [at(1), at(2)]).partitions == ("b", "c")
    gone = land(3, [2], ["c"], [at(2)])
    assert (gone.marked, gone.partitions) == (1, ("a",))
    assert land(4, [1, 2], ["a", "c"], [at(1), at(2)]).partitions == ("a",)
