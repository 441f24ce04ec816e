# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""An append or a replace that comes after one of a pull that began later: it must not put the older rows in their place."""

from __future__ import annotations

from datetime import timedelta

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.late_pulls import LatePullError, MappedReplaceError
from limio_limitrail.landing.sql.model import Scope
from tests.support.databases import NOON

LIST = Scope(digest="1" * 16, text="one list", task="sync/one")
OLD = {"id": (Kind.INTEGER, [1]), "v": (Kind.TEXT, ["old"])}
NEW = {"id": (Kind.INTEGER, [1, 2]), "v": (Kind.TEXT, ["new", "new"])}


def land(db, mode, rows, *, minute, run="sync/one/today", **more):
    about = {"scope": LIST, "full_scan": True, **more}
    return db.land(mode, rows, run=run, at=NOON + timedelta(minutes=minute), **about)


def values(db):
    return [row["v"] for row in db.rows()]


@pytest.mark.every_driver
@pytest.mark.parametrize("mode", ["append", "replace"])
def test_an_earlier_try_that_loads_last_changes_nothing(db, mode):
    land(db, mode, NEW, minute=9)
    with pytest.raises(LatePullError, match=r"began after this one \(sync/one/today\).*a retry pulls again"):
        land(db, mode, OLD, minute=0)
    assert values(db) == ["new", "new"]
    # The same try may be repeated, and a later one may have fewer rows.
    assert land(db, mode, NEW, minute=9).inserted == 2
    assert land(db, mode, OLD, minute=10).inserted == 1
    assert values(db) == ["old"]


def test_a_try_within_the_same_second(db):
    """The times are compared as times, and not as the texts that a database makes of them."""
    land(db, "append", NEW, minute=9 + 0.5 / 60)
    with pytest.raises(LatePullError):
        land(db, "append", OLD, minute=9)
    assert land(db, "append", OLD, minute=9 + 0.51 / 60).inserted == 1


def test_a_replace_of_an_earlier_run_that_loads_last_changes_nothing(db):
    land(db, "replace", NEW, minute=9)
    with pytest.raises(LatePullError):
        land(db, "replace", OLD, minute=0, run="sync/one/yesterday")
    assert values(db) == ["new", "new"]
    # Of another task it is not known which list it read.
    other = Scope(digest="2" * 16, text="another list", task="sync/other")
    assert land(db, "replace", OLD, minute=0, run="sync/other/yesterday", scope=other).inserted == 1


def test_an_append_of_an_earlier_run_adds_its_own_rows(db):
    land(db, "append", NEW, minute=9)
    assert land(db, "append", OLD, minute=0, run="sync/one/yesterday").inserted == 1
    assert sorted(values(db)) == ["new", "new", "old"]


def test_copies_of_a_mapped_task_replace_each_other(db):
    land(db, "replace", NEW, minute=1, run="sync/one[0]/today")
    with pytest.raises(MappedReplaceError, match="merge or append, or give each copy a table of its own") as refused:
        land(db, "replace", OLD, minute=2, run="sync/one[1]/today")
    assert refused.value.permanent
    assert values(db) == ["new", "new"]
    assert land(db, "replace", NEW, minute=3, run="sync/one[0]/today").inserted == 2
    # A list that is mapped to the table today may be another copy's tomorrow.
    assert land(db, "replace", OLD, minute=4, run="sync/one[1]/tomorrow").inserted == 1


@pytest.mark.parametrize("lacks", ["_run_id", "_extracted_at"])
def test_a_table_that_does_not_say_who_wrote_its_rows(db, lacks):
    land(db, "replace", NEW, minute=9)
    db.execute(f"ALTER TABLE subs DROP COLUMN {lacks}")
    assert land(db, "replace", OLD, minute=0).inserted == 1
