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
from limio_limitrail.transfers import state
from limio_limitrail.transfers.incremental import IncrementalPull
from limio_limitrail.transfers.state import AssetWatermark

NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SOURCE = {"base URL": "0123456789abcdef", "client": "0123456789abcdef"}
CATALOG = Resource(name="catalog", path="/catalog", time_column="at", time_filter=TimeFilter(since="after", field="at"))
BASKETS = Resource(name="b", path="/b", time_column="at", time_filter=TimeFilter(since="after", field="at", required=True))


class Accessor(dict[str, Any]):
    def set(self, key: str, value: Any) -> None:
        self[key] = value


@dataclass
class Pull(IncrementalPull):
    found: tuple[str, bool] | None = None
    rows_of: tuple[str, ...] = ()
    appends: bool = True
    full_refresh: bool | str = False
    since: str | None = None
    watermark: AssetWatermark = field(default_factory=lambda: AssetWatermark(Accessor(), target="t", source=SOURCE))

    incremental, overlap, until, slice_size = True, timedelta(minutes=5), None, None

    def own_rows(self):
        return self.appends

    def find_loss(self, resource, *, watermark):
        return self.found

    def has_output(self, run, *, folder):
        return run in self.rows_of

    def note(self, run, reached=NOON):
        self.watermark.move(reached, run=run, past=PastRange(since=None, until=reached), started_at=reached)

    def choose(self, run, *, due):
        context = {"dag_run": SimpleNamespace(run_after=due, run_type="scheduled")}
        return self.choose_range(context, resource=CATALOG, run=run, folder=None, watermark=self.watermark)

    def notice(self, resource=CATALOG):
        return self.reset_after_loss(resource, self.watermark)


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
    pull.found = ("the table is empty", True)
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
    pull.found = ("the table is empty", True)
    assert pull.notice() == "the table is empty", "in between it was as it should be"


def test_a_table_that_is_gone_is_read_again_each_time():
    pull = Pull(found=("it is not there", False))
    for number in range(3):
        pull.note(f"{number}")
        assert pull.notice() == "it is not there"
        assert pull.watermark.read().watermark is None


def test_what_has_nothing_to_lose_is_not_looked_at():
    pull = Pull(found=("it is not there", False))
    assert pull.notice() is None
    pull.note("one")
    assert pull.notice(Resource(name="objects", path="/objects")) is None
    pull.full_refresh = "true"
    assert pull.notice() is None
    assert pull.reset_after_loss(CATALOG, None) is None


def test_a_list_that_needs_a_start_says_so_and_keeps_the_watermark():
    pull = Pull(found=("it is not there", False))
    pull.note("one")
    with pytest.raises(ParameterError, match=r"it is not there, so the pull has to read from the start, and 'b' needs one"):
        pull.notice(BASKETS)
    assert pull.watermark.read().watermark == NOON
    pull.since = "2026-01-01"
    assert pull.notice(BASKETS) == "it is not there"
