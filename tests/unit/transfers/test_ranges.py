# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a pull remembers of ranges, and what it does about a table that was lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.resource import Resource, TimeFilter
from limio_limitrail.hooks.time_range import PastRange
from limio_limitrail.landing.sql.table_checks import Loss
from limio_limitrail.transfers import state
from limio_limitrail.transfers.folders import RunIdentity
from limio_limitrail.transfers.incremental import IncrementalPull, TargetLoss
from limio_limitrail.transfers.state import AssetWatermark

NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SOURCE = {"base URL": "0123456789abcdef", "client": "0123456789abcdef"}
CATALOG = Resource(name="catalog", path="/catalog", time_column="at", time_filter=TimeFilter(since="after", field="at"))
BASKETS = Resource(name="b", path="/b", time_column="at", time_filter=TimeFilter(since="after", field="at", required=True))
RUN = RunIdentity(dag_id="d", task_id="t", run_id="now", map_index=-1)
EMPTY = TargetLoss(what="the table is empty", kind=Loss.EMPTY)
MISSING = TargetLoss(what="it is not there", kind=Loss.MISSING)
REFILLED = TargetLoss(what="others have filled it", kind=Loss.REFILLED)


class Accessor(dict[str, Any]):
    def set(self, key: str, value: Any) -> None:
        self[key] = value


@dataclass
class Pull(IncrementalPull):
    found: TargetLoss | None = None
    rows_of: tuple[str, ...] = ()
    appends: bool = True
    full_refresh: bool | str = False
    since: str | None = None
    watermark: AssetWatermark = field(default_factory=lambda: AssetWatermark(Accessor(), target="t", source=SOURCE))

    incremental, overlap, until, slice_size = True, timedelta(minutes=5), None, None

    def own_rows(self):
        return self.appends

    def find_loss(self, resource, *, watermark, loaded_at):
        assert loaded_at is not None
        return self.found

    def has_output(self, run, *, folder):
        return run in self.rows_of

    def note(self, run, reached=NOON):
        self.watermark.move(reached, run=run, past=PastRange(since=None, until=reached), started_at=reached)

    def choose(self, run, *, due):
        context = {"dag_run": SimpleNamespace(run_after=due, run_type="scheduled")}
        return self.choose_range(context, resource=CATALOG, run=run, folder=None, watermark=self.watermark)

    def notice(self, resource=CATALOG):
        return self.reset_after_loss(resource, self.watermark, run=RUN)


@pytest.fixture
def forgetful(monkeypatch):
    """Pulls of which three runs are remembered, after five."""
    monkeypatch.setattr(state, "REMEMBERED_RUNS", 3)

    def make(**how):
        pull = Pull(rows_of=("r0", "r1", "r2", "r3", "r4", "r9"), **how)
        for number in range(5):
            pull.note(f"r{number}", NOON + number * DAY)
        return pull

    return make


def test_a_run_that_was_forgotten_is_not_replaced_by_less(forgetful):
    pull = forgetful()
    for number in range(2):
        with pytest.raises(ParameterError, match=r"its range of time is not known any more.*replace what it left by less"):
            pull.choose(f"r{number}", due=NOON + number * DAY)
    assert pull.choose("r2", due=NOON + 2 * DAY).kept_until == NOON + 2 * DAY
    # One that left nothing, one that was due later and was killed before it was noted, and a merge are in order.
    for run, due, made in [("never", NOON, pull), ("r9", NOON + 9 * DAY, pull), ("r0", NOON, forgetful(appends=False))]:
        assert made.choose(run, due=due).since == NOON + 4 * DAY - timedelta(minutes=5)


def test_a_table_that_is_there_is_read_again_once(caplog):
    pull = Pull()
    pull.note("one")
    pull.found = EMPTY
    assert pull.notice() == "the table is empty"
    assert pull.choose("two", due=NOON).since is None
    assert pull.notice() is None, "there is no watermark to compare with"
    pull.note("two")
    caplog.clear()
    assert pull.notice() is None
    assert pull.watermark.read().watermark == NOON
    assert [record.levelname for record in caplog.records if record.levelname == "WARNING"] == []
    pull.found = None
    assert pull.notice() is None
    pull.found = EMPTY
    assert pull.notice() == "the table is empty", "in between it was as it should be"


def test_a_table_that_is_gone_is_read_again_each_time():
    pull = Pull(found=MISSING)
    for number in range(3):
        pull.note(f"{number}")
        assert pull.notice() == "it is not there"
        assert pull.watermark.read().watermark is None


def test_what_has_nothing_to_lose_is_not_looked_at():
    pull = Pull(found=MISSING)
    assert pull.notice() is None
    pull.note("one")
    assert pull.notice(Resource(name="objects", path="/objects")) is None
    pull.full_refresh = "true"
    assert pull.notice() is None
    assert pull.reset_after_loss(CATALOG, None, run=RUN) is None


def test_a_list_that_needs_a_start_says_so_and_keeps_the_watermark():
    pull = Pull(found=MISSING)
    pull.note("one")
    with pytest.raises(ParameterError, match=r"it is not there, so the pull has to read from the start, and 'b' needs one"):
        pull.notice(BASKETS)
    assert pull.watermark.read().watermark == NOON
    pull.since = "2026-01-01"
    assert pull.notice(BASKETS) == "it is not there"


def older(**newest):
    """A table whose newest rows are these days after noon, by run."""
    left = {run.replace("__", "/"): NOON + days * DAY for run, days in newest.items()}
    return TargetLoss(what="it has no row as new as that", kind=Loss.OLDER, newest=lambda: left)


def test_rows_that_are_left_do_not_come_a_second_time(caplog):
    pull = Pull()
    for number in range(4):
        pull.note(f"other/dag/{number}", NOON + number * DAY)
    # A run of another Dag that shares the watermark; one of the task, from long ago; and one of another list.
    pull.found = older(other__dag__2=1, d__t__long_ago=0, another__list__1=2)
    assert pull.notice() == "it has no row as new as that"
    assert pull.watermark.read().watermark == NOON + DAY
    assert "moved back to the newest row that is left, 2026-01-11T12:00:00+00:00" in caplog.text
    assert pull.choose("next", due=NOON + 9 * DAY).since == NOON + DAY - timedelta(minutes=5)
    assert pull.choose("other/dag/2", due=NOON).kept_until == NOON + 2 * DAY, "it has rows, and keeps its range"
    pull.found = older(d__t__long_ago=0)
    pull.watermark.settle()
    assert pull.notice() is not None
    assert pull.watermark.read().watermark == NOON


def test_rows_of_others_alone_and_a_merge_begin_from_the_start():
    for pull in (Pull(found=older(another__list__1=2)), Pull(found=older(d__t__1=1), appends=False)):
        pull.note("d/t/1")
        assert pull.notice() == "it has no row as new as that"
        assert pull.watermark.read().watermark is None


def test_a_target_that_cannot_tell_what_is_left_is_not_doubled():
    pull = Pull(found=TargetLoss(what="it has no row as new as that", kind=Loss.OLDER))
    pull.note("d/t/1")
    with pytest.raises(ParameterError, match=r"would add the rows that are left a second time.*full_refresh=True and since="):
        pull.notice()
    assert pull.watermark.read().watermark == NOON


def test_a_table_that_others_have_filled_again(caplog):
    pull = Pull(found=REFILLED, appends=False)
    for number in range(3):
        pull.note(f"{number}")
        # Once more in a row is how it is meant to be.
        assert pull.notice() == ("others have filled it" if not number else None)
        assert pull.watermark.read().watermark == (NOON if number else None)
    caplog.clear()
    pull = Pull(found=REFILLED)
    pull.note("one")
    assert pull.notice() is None
    assert pull.watermark.read().watermark == NOON
    assert "others have filled it. If another task has replaced the rows, nothing is missing" in caplog.text
