# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows whose records a list no longer has: which are marked or deleted, and which never."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.shrinking import ShrinkGuard, ShrunkListError
from limio_limitrail.landing.sql import LandingError, LoadResult
from limio_limitrail.landing.sql.model import OnMissing, Scope
from tests.support.databases import NOON, Database
from tests.support.pages import blocks

DAY = timedelta(days=1)


def scope(name: str, *, task: str = "sync/orders", is_only_list: bool = True) -> Scope:
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return Scope(digest=digest, text=f"the list {name}", task=task, is_only_list=is_only_list)


A, B = scope("A"), scope("B", task="sync/others")


def scan(db: Database, *keys: str, on_missing: str = "mark", of: Scope = A, day: int = 0, **more: Any) -> LoadResult:
    """Load a full scan that found these keys."""
    part = {"id": (Kind.TEXT, list(keys)), "v": (Kind.TEXT, [more.pop("v", "same")] * len(keys))}
    options = {"full_scan": True, "scope": of, "on_missing": OnMissing(on_missing), "run": f"{of.task}/day-{day}"} | more
    return db.land(options.pop("mode", "merge"), *([part] if keys else []), at=NOON + day * DAY, **options)


def state(db: Database) -> dict[str, str]:
    """Return which rows are there, and since when they are marked."""
    return {row["id"]: (row.get("_deleted_at") or "")[:10] for row in db.rows()}


def day(number: int) -> str:
    return (NOON + number * DAY).date().isoformat()


def many(count: int) -> list[str]:
    return [f"key-{number:03}" for number in range(count)]


def test_a_vanished_row_is_marked_until_it_returns(db: Database) -> None:
    scan(db, "a", "b")
    result = scan(db, "a", day=1)
    assert (result.marked, result.deleted, result.unchanged, result.missing_checked) == (1, 0, 1, True)
    assert state(db) == {"a": "", "b": day(1)}
    assert scan(db, "a", day=2).marked == 0
    assert state(db) == {"a": "", "b": day(1)}
    result = scan(db, "a", "b", day=3)
    assert (result.returned, result.unchanged) == (1, 2)
    assert state(db) == {"a": "", "b": ""}


def test_a_vanished_row_is_deleted(db: Database) -> None:
    scan(db, "a", "b", on_missing="delete")
    result = scan(db, "a", on_missing="delete", day=1)
    assert (result.marked, result.deleted, result.missing_checked) == (0, 1, True)
    assert state(db) == {"a": ""}
    assert scan(db, "a", "b", on_missing="delete", day=2).inserted == 1


def test_rows_of_other_lists_and_tasks_are_never_touched(db: Database) -> None:
    db.execute("CREATE TABLE subs (id TEXT, v TEXT)", "INSERT INTO subs VALUES ('mine', 'by hand')")
    region = {name: scope(name, task="sync/regions", is_only_list=False) for name in ("eu", "us")}
    scan(db, "shared", "eu", of=region["eu"], on_missing="delete")
    scan(db, "shared", "us", of=region["us"], on_missing="delete", run="sync/regions[1]/day-0")
    scan(db, "kept", of=B, on_missing="keep")
    assert scan(db, of=region["eu"], on_missing="delete", day=1).deleted == 1
    assert set(state(db)) == {"mine", "shared", "us", "kept"}
    assert scan(db, "us", of=region["us"], on_missing="delete", day=1).deleted == 1
    assert set(state(db)) == {"mine", "us", "kept"}


def test_two_copies_of_one_list_do_no_harm(db: Database) -> None:
    mapped = scope("the same", task="sync/twice", is_only_list=False)
    for number in range(3):
        for copy in (number % 2, 1 - number % 2):
            keys = ["a", "b"] if number < 2 else ["a"]
            scan(db, *keys, of=mapped, on_missing="delete", day=number, run=f"sync/twice[{copy}]/day-{number}")
    assert set(state(db)) == {"a"}


@pytest.mark.parametrize("on_missing", ["mark", "delete"])
def test_an_older_run_judges_nothing_and_brings_nothing_back(db: Database, on_missing: str) -> None:
    scan(db, "a", on_missing=on_missing)
    scan(db, "a", "new", on_missing=on_missing, day=3)
    result = scan(db, "a", "gone", on_missing=on_missing, day=2)
    assert (result.missing_checked, result.marked, result.deleted) == (False, 0, 0)
    expected = {"a": "", "new": ""} | ({"gone": day(3)} if on_missing == "mark" else {})
    assert state(db) == expected
    assert (result.inserted, result.outdated) == ((1, 0) if on_missing == "mark" else (0, 1))


def test_an_incremental_run_judges_nothing_and_stops_older_scans(db: Database) -> None:
    scan(db, "a", "b", on_missing="delete")
    assert not scan(db, "a", on_missing="delete", day=2, full_scan=False).missing_checked
    assert not scan(db, "a", on_missing="delete", day=1).missing_checked
    assert set(state(db)) == {"a", "b"}
    assert scan(db, "a", on_missing="delete", day=3).deleted == 1


@pytest.mark.parametrize("on_missing", ["mark", "delete"])
def test_two_runs_of_the_same_second(db: Database, on_missing: str) -> None:
    scan(db, "a", "b", on_missing=on_missing)
    scan(db, "a", "b", "new", on_missing=on_missing, day=1, run="sync/orders/fast")
    result = scan(db, "a", "b", on_missing=on_missing, day=1, run="sync/orders/slow")
    assert (result.missing_checked, state(db)) == (False, {"a": "", "b": "", "new": ""})
    assert scan(db, "a", "b", "new", on_missing=on_missing, day=1, run="sync/orders/fast").missing_checked


def test_runs_after_an_older_one_are_older_too(db: Database) -> None:
    scan(db, "a", "new", on_missing="keep", day=3)
    for number in (1, 2):
        assert not scan(db, "a", on_missing="delete", day=number).missing_checked
    assert set(state(db)) == {"a", "new"}


LOSSES = {
    "the scopes are dropped": ("DROP TABLE _limio_scopes", "subs"),
    "the table is renamed": ("ALTER TABLE subs RENAME TO other", "other"),
    "the table is copied": ("CREATE TABLE other AS SELECT * FROM subs", "other"),
}


@pytest.mark.parametrize("statement", LOSSES)
def test_an_older_run_judges_nothing_after_a_loss(db: Database, statement: str) -> None:
    scan(db, "a", "new", on_missing="delete", day=5)
    change, table = LOSSES[statement]
    db.execute(change)
    for number in (3, 4):
        assert not scan(db, "a", on_missing="delete", day=number, table=table).missing_checked
    assert {row["id"] for row in db.rows(table)} == {"a", "new"}
    assert scan(db, "a", on_missing="delete", day=6, table=table).deleted == 1


@pytest.mark.parametrize("kind", [Kind.TIMESTAMP, Kind.TEXT])
@pytest.mark.parametrize("on_missing", ["mark", "delete"])
def test_a_long_pull_brings_what_is_younger_than_the_scan(db: Database, on_missing: str, kind: Kind) -> None:
    def pull(*, day: int, full: bool = True, **found: int) -> LoadResult:
        times: list[Any] = [NOON + changed * DAY for changed in found.values()]
        if kind is Kind.TEXT:
            times = [time.strftime("%Y-%m-%dT%H:%M:%S.%f000Z") for time in times]
        return db.land(
            "merge", {"id": (Kind.TEXT, list(found)), "at": (kind, times)}, time="at", at=NOON + day * DAY,
            run=f"{A.task}/{day}", scope=A, full_scan=full, on_missing=OnMissing(on_missing),
        )  # fmt: skip

    pull(day=0, a=0, again=0)
    pull(day=3, a=0)
    # It began before that scan, and read on after it: while the scan ran, records were made, and one was deleted.
    result = pull(day=2, full=False, a=0, again=4, young=4, gone=1)
    found = state(db)
    assert (found["a"], found["again"], found["young"]) == ("", "", "")
    assert found.get("gone", day(3)) == day(3)
    assert (result.returned, result.outdated) == ((1, 0) if on_missing == "mark" else (0, 1))
    # They are rows of the list, and are judged by the next scan.
    result = pull(day=6, a=0)
    assert result.marked + result.deleted == 2


def test_a_retry_judges_again(db: Database) -> None:
    scan(db, "a", "b")
    for _ in range(2):
        assert scan(db, "a", day=1).missing_checked
        assert state(db) == {"a": "", "b": day(1)}


# -- a table from before --------------------------------------------------------------------------------------


def test_rows_from_before(db: Database) -> None:
    scan(db, "theirs", of=B, on_missing="keep")
    scan(db, "a", "gone", on_missing="keep")
    assert "_sources" not in db.types()
    assert scan(db, "a", day=1).marked == 1
    assert state(db) == {"theirs": "", "a": "", "gone": day(1)}


@pytest.mark.parametrize("on_missing", ["mark", "delete"])
def test_a_table_with_a_primary_key_of_its_own(db: Database, on_missing: str) -> None:
    db.execute("CREATE TABLE subs (id TEXT PRIMARY KEY, v TEXT)", "INSERT INTO subs VALUES ('a', 'old'), ('b', 'old')")
    scan(db, "a", "c", v="new", on_missing=on_missing)
    result = scan(db, "a", v="newer", on_missing=on_missing, day=1)
    assert (result.updated, result.marked + result.deleted) == (1, 1)
    result = scan(db, "a", "c", v="newest", on_missing=on_missing, day=2)
    assert (result.updated + result.inserted, result.outdated) == (2, 0)
    assert {row["id"]: row["v"] for row in db.rows()} == {"a": "newest", "b": "old", "c": "newest"}


def test_rows_from_before_of_a_task_with_other_lists(db: Database) -> None:
    slices = scope("eu", is_only_list=False)
    scan(db, "eu", "us", on_missing="keep", of=slices)
    assert scan(db, "eu", of=slices, on_missing="delete", day=1).deleted == 0
    assert scan(db, of=slices, on_missing="delete", day=2).deleted == 1
    assert set(state(db)) == {"us"}


def test_an_older_run_is_no_judge_of_rows_from_before(db: Database) -> None:
    scan(db, "a", "new", on_missing="keep", day=2)
    assert not scan(db, "a", on_missing="delete", day=1).missing_checked
    assert set(state(db)) == {"a", "new"}


@pytest.mark.parametrize("name", ["_sources", "_deleted_at"])
def test_a_column_of_the_records_is_not_taken(db: Database, name: str) -> None:
    db.land("merge", {"id": (Kind.TEXT, ["a"]), name: (Kind.TEXT, ["theirs"])})
    with pytest.raises(LandingError, match=f"'{name}'.*rename or drop"):
        scan(db, "a")
    scan(db, "b", on_missing="keep")
    assert [row[name] for row in db.rows()] == ["theirs", None]


@pytest.mark.parametrize("on_missing", ["delete", "keep"])
def test_no_load_goes_on_without_the_sources(db: Database, on_missing: str) -> None:
    scan(db, "a", "b", on_missing="delete")
    db.execute(f"INSERT INTO subs (id, v, _sources) VALUES ('by hand', 'same', '{A.digest}')")
    with pytest.raises(LandingError, match="1 rows have something else in the column '_sources' than digests between bars"):
        scan(db, "b", of=B, on_missing=on_missing, day=1)
    db.execute(f"UPDATE subs SET _sources = '|{A.digest}|' WHERE id = 'by hand'")
    scan(db, "b", of=B, on_missing=on_missing, day=1)
    assert scan(db, "a", on_missing="delete", day=2).deleted == 1
    assert set(state(db)) == {"a", "b"}


def test_records_have_other_columns_than_loads(db: Database) -> None:
    db.land(
        "merge",
        {"id": (Kind.TEXT, ["a"]), "_sources": (Kind.TEXT, ["theirs"]), "_deleted_at": (Kind.TEXT, ["never"])},
        scope=A,
        on_missing=OnMissing.MARK,
        full_scan=True,
    )
    [row] = db.rows()
    assert (row["_sources"], row["_deleted_at"]) == (f"|{A.digest}|", None)
    assert {"theirs", "never"} <= set(row.values())


def test_a_new_table_of_the_name_begins_anew(db: Database) -> None:
    scan(db, "a", on_missing="delete", day=5)
    db.execute("DROP TABLE subs")
    scan(db, "a", "b", on_missing="delete", day=1)
    assert set(state(db)) == {"a", "b"}


def test_a_renamed_table_keeps_its_sources(db: Database) -> None:
    scan(db, "a", "b", on_missing="delete")
    db.execute("ALTER TABLE subs RENAME TO renamed")
    assert scan(db, "a", on_missing="delete", day=1, table="renamed").deleted == 1


def test_the_page_hands_rows_over(db: Database) -> None:
    former, now = scope("former", task="old/orders"), scope("now", task="new/orders")
    scan(db, "a", "b", of=former, table="orders")
    scan(db, "a", of=now, day=1, table="orders")
    look, hand_over, _ = blocks("docs/how-to/deletes.md", section="Whose rows they are", language="sql")
    assert {row[2] for row in db.query(look.text)} == {former.text, now.text}
    db.execute(*hand_over.text.replace("old", former.digest).replace("new", now.digest).strip().rstrip(";").split(";"))
    assert scan(db, "a", of=now, day=2, table="orders").marked == 1
    assert {row["id"]: row["_sources"] for row in db.rows("orders")} == {"a": f"|{now.digest}|", "b": "|"}


def test_the_page_removes_a_list_that_is_no_longer_pulled(db: Database) -> None:
    scan(db, "a", "b", "c", on_missing="delete", table="orders")
    scan(db, "b", of=B, on_missing="delete", table="orders")
    scan(db, "b", "c", on_missing="mark", day=1, table="orders")
    *_, remove = blocks("docs/how-to/deletes.md", section="Whose rows they are", language="sql")
    db.execute(*remove.text.replace("old", A.digest).strip().rstrip(";").split(";"))
    # What was marked stays.
    assert {row["id"]: row["_sources"] for row in db.rows("orders")} == {"a": "|", "b": f"|{B.digest}|"}
    assert db.query("SELECT scope FROM _limio_scopes") == [(B.digest,)]


# -- a list that shrank ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_missing", ["mark", "delete"])
def test_a_list_that_shrank_writes_nothing(db: Database, on_missing: str) -> None:
    guard = ShrinkGuard(most="20%", show_key=str)
    scan(db, *many(60), on_missing=on_missing, max_missing=guard)
    before = db.rows(own=True)
    with pytest.raises(ShrunkListError, match=r"subs: 13 of 60 known rows .*'key-047', 'key-048', 'key-049'\).*max_missing"):
        scan(db, *many(47), "more", on_missing=on_missing, day=1, max_missing=guard)
    assert db.rows(own=True) == before
    result = scan(db, *many(48), on_missing=on_missing, day=1, max_missing=guard)
    assert result.marked + result.deleted == 12
    allowed = scan(db, *many(1), on_missing=on_missing, day=2, max_missing=ShrinkGuard(most="100%"))
    assert allowed.marked + allowed.deleted == 47


@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_an_empty_list_empties_no_table(db: Database, mode: str) -> None:
    on_missing = "delete" if mode == "merge" else "keep"
    scan(db, "a", "b", on_missing=on_missing)
    for guard in (ShrinkGuard(most="20%"), ShrinkGuard(most="99%"), ShrinkGuard(most=1)):
        with pytest.raises(ShrunkListError, match="2 of 2 known rows"):
            scan(db, on_missing=on_missing, day=1, mode=mode, max_missing=guard)
    assert set(state(db)) == {"a", "b"}
    scan(db, on_missing=on_missing, day=1, mode=mode, max_missing=ShrinkGuard(most=2))
    assert state(db) == {}


def test_a_replace_compares_keys_of_whole_lists_and_numbers_of_others(db: Database) -> None:
    guard = ShrinkGuard(most="20%", show_key=str)
    scan(db, *many(30), on_missing="keep", mode="replace", max_missing=guard)
    others = [f"other-{number}" for number in range(30)]
    with pytest.raises(ShrunkListError, match=r"30 of 30 .*key-000.*nothing was replaced"):
        scan(db, *others, on_missing="keep", mode="replace", max_missing=guard, day=1)
    scan(db, *others, on_missing="keep", mode="replace", max_missing=guard, day=1, full_scan=False)
    with pytest.raises(ShrunkListError, match="15 of 30"):
        scan(db, *others[:15], on_missing="keep", mode="replace", max_missing=guard, day=2, full_scan=False)
    assert len(db.rows()) == 30


def test_a_trigger_that_keeps_rows_fails_the_load(lite: Database) -> None:
    scan(lite, "a", "b", on_missing="delete")
    lite.execute("CREATE TRIGGER keep BEFORE DELETE ON subs BEGIN SELECT RAISE(IGNORE); END")
    with pytest.raises(LandingError, match="the database counts 0"):
        scan(lite, "a", on_missing="delete", day=1)
