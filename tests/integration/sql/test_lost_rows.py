# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A table that has lost what its watermark stands for, and one that has not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import LandingError
from limio_limitrail.landing.sql.table_checks import Loss, find_loss, has_rows_of, has_rows_of_others, newest_of_runs
from tests.support.databases import NOON

ROWS = {"id": (Kind.TEXT, ["a", "b"]), "Updated": (Kind.TIMESTAMP, [NOON - timedelta(days=1), NOON])}

CASES = {
    "as it was": ([], None),
    "dropped": (["DROP TABLE subs"], Loss.MISSING),
    "renamed": (["ALTER TABLE subs RENAME TO former"], Loss.MISSING),
    "emptied": (["DELETE FROM subs"], Loss.EMPTY),
    "of an older backup": (["DELETE FROM subs WHERE id = 'b'"], Loss.OLDER),
    "without old rows": (["DELETE FROM subs WHERE id = 'a'"], None),
    "without its time": (['ALTER TABLE subs DROP COLUMN "Updated"'], None),
    "with its time renamed": (['ALTER TABLE subs RENAME COLUMN "Updated" TO moment'], None),
    "without times": (['UPDATE subs SET "Updated" = NULL'], Loss.OLDER),
}


def loss(db, *, reached=NOON, time="Updated", table="subs", loaded_at=None):
    return find_loss(db.hook(), table=table, time_column=time, reached=reached, loaded_at=loaded_at)


@pytest.mark.sampled
@pytest.mark.parametrize("case", CASES)
def test_what_is_noticed(db, case):
    db.land("append", ROWS, time="Updated")
    statements, expected = CASES[case]
    db.execute(*statements)
    assert loss(db) is expected
    assert loss(db, reached=NOON + timedelta(microseconds=1)) in ({expected} if expected else {Loss.OLDER, None})


@pytest.mark.every_driver
@pytest.mark.parametrize("time", ["Updated", None])
def test_a_table_that_others_have_filled_again(db, time):
    late = {"id": (Kind.TEXT, ["c"]), "Updated": (Kind.TIMESTAMP, [NOON + timedelta(days=1)])}
    db.land("merge", ROWS, time="Updated")
    db.land("merge", late, time="Updated", run="another", at=NOON + timedelta(hours=1))
    assert loss(db, time=time, loaded_at=NOON) is None
    db.execute("DROP TABLE subs")
    db.land("merge", late, time="Updated", run="another", at=NOON + timedelta(hours=1))
    assert loss(db, time=time, loaded_at=NOON) is Loss.REFILLED
    assert loss(db, time=time, loaded_at=NOON + timedelta(hours=1)) is None
    assert loss(db, time=time, loaded_at=None) is None


@pytest.mark.every_driver
def test_the_newest_rows_of_each_run(db):
    db.land("append", ROWS, time="Updated", run="d/t/1")
    db.land("append", {"id": (Kind.TEXT, ["c"]), "Updated": (Kind.TIMESTAMP, [None])}, time="Updated", run="d/t/2")
    exact = NOON.replace(microsecond=123456)
    db.land("append", {"id": (Kind.TEXT, ["d"]), "Updated": (Kind.TIMESTAMP, [exact])}, time="Updated", run="d/t[0]/1")
    assert newest_of_runs(db.hook(), table="subs", time_column="Updated") == {"d/t/1": NOON, "d/t[0]/1": exact}
    assert newest_of_runs(db.hook(), table="subs", time_column="id") == {}


def test_a_time_that_does_not_land_as_it_came_says_nothing(db):
    db.land("append", ROWS)
    assert loss(db, time=None, reached=NOON + timedelta(days=1)) is None
    assert loss(db, reached=NOON + timedelta(days=1)) is Loss.OLDER


def test_times_that_are_texts_say_nothing(db):
    db.land("append", {"id": (Kind.TEXT, ["a"]), "Updated": (Kind.TEXT, ["1.1.2026"])})
    assert loss(db, reached=NOON + timedelta(days=1)) is None


def test_looking_makes_nothing(db):
    assert loss(db) is Loss.MISSING
    assert not db.exists()
    assert not has_rows_of(db.hook(), table="subs", run_id="run-1")


def test_what_is_no_table_is_refused(db):
    db.land("append", ROWS)
    db.execute("CREATE VIEW seen AS SELECT * FROM subs")
    with pytest.raises(LandingError, match="table"):
        loss(db, table="seen")


def test_the_rows_of_a_run(db):
    db.land("append", ROWS, run="run-1")
    assert has_rows_of(db.hook(), table="subs", run_id="run-1")
    assert not has_rows_of(db.hook(), table="subs", run_id="run-10")


@pytest.mark.every_driver
def test_the_rows_of_other_runs(db):
    def others(task, run_id):
        return has_rows_of_others(db.hook(), table="subs", task=task, run_id=run_id)

    assert not others("d/t/", "d/t/1")
    db.land("append", ROWS, run="d/t/1")
    assert others("d/t/", "d/t/2")
    assert not others("d/t/", "d/t/1")
    assert not others("d/T/", "d/T/1")
    assert not others("d/t[0]/", "d/t[0]/2")
