# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a Dag file pays for importing these modules, and how their small parts decide."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given

import limio_limitrail
from limio_limitrail.api.errors import ParameterError
from limio_limitrail.hooks.time_range import PastRange
from limio_limitrail.transfers import folders
from limio_limitrail.transfers.state import REMEMBERED_RUNS, AssetWatermark, WatermarkState, asset_watermark, mark_of
from limio_limitrail.transfers.summaries import first_names
from tests.support.airflow_versions import UNIMPORTABLE
from tests.support.stored import bad_values


def modules():
    rooms = {found.name for found in pkgutil.iter_modules(limio_limitrail.__path__)}
    for room in sorted(rooms & {"transfers", "operators", "sensors", "triggers"}):
        package = importlib.import_module(f"limio_limitrail.{room}")
        yield package.__name__
        for found in pkgutil.iter_modules(package.__path__):
            yield f"{package.__name__}.{found.name}"


POLL_LOOPS = {"limio_limitrail.triggers.poll_loops"}
"""A trigger that runs imports these in a thread: they bring the HTTP client."""


def test_importing_is_cheap():
    names = [name for name in modules() if name not in UNIMPORTABLE | POLL_LOOPS]
    code = "import sys\n" + "".join(f"import {name}\n" for name in names)
    code += "print(sorted({'aiohttp', 'requests', 'pandas', 'pyarrow', 'duckdb'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.strip().splitlines()[-1] == "[]"


class Accessor(dict):
    def set(self, key, value):
        self[key] = value


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SOURCE = {"base URL": "0123456789abcdef"}
PROGRESS = {
    "format_version": 1,
    "watermark": "2026-01-01T12:00:00+00:00",
    "runs": [
        ["7692c3ad3540bb80", None, "2026-01-01T12:00:00+00:00"],
        ["3fc4ccfe745870e2", "2026-01-01T12:00:00+00:00", "2026-01-01T13:00:00+00:00"],
    ],
    "forgotten": None,
    "reread": False,
    "source": SOURCE,
}
"""A watermark as it is stored."""


def past(since=None, until=NOON):
    return PastRange(since=since, until=until)


def move(mark, reached, *, run, since=None, until=NOON):
    return mark.move(reached, run=run, past=past(since, until), started_at=NOON)


def test_a_watermark_is_kept_with_the_ranges_of_runs():
    mark = AssetWatermark(Accessor(), target="t", source=SOURCE)
    assert mark.read() == WatermarkState()
    assert move(mark, NOON, run="one") == NOON
    assert move(mark, NOON - timedelta(days=1), run="two", since=NOON) == NOON
    assert move(mark, None, run="three", since=NOON, until=None) == NOON
    assert mark.read().runs == {
        mark_of("one"): past(),
        mark_of("two"): past(NOON),
        mark_of("three"): past(NOON, NOON + timedelta(microseconds=1)),
    }
    assert mark.read().forgotten is None


def test_a_range_that_begins_after_the_watermark_does_not_move_it():
    mark = AssetWatermark(Accessor(), target="t", source=SOURCE)
    move(mark, NOON, run="one")
    later = NOON + timedelta(days=9)
    assert move(mark, later, run="two", since=NOON + timedelta(days=1)) == NOON
    assert move(mark, later, run="three", since=NOON) == later


def test_so_many_runs_are_remembered():
    mark = AssetWatermark(Accessor(), target="t", source=SOURCE)
    move(mark, NOON, run="first", until=NOON + timedelta(days=1))
    move(mark, NOON, run="again", until=NOON)
    for number in range(REMEMBERED_RUNS - 1):
        move(mark, NOON, run=f"n{number}")
    assert len(mark.read().runs) == REMEMBERED_RUNS
    assert mark_of("first") not in mark.read().runs
    assert mark.read().forgotten == NOON + timedelta(days=1)
    move(mark, NOON, run="again", until=NOON)
    assert mark_of("again") in mark.read().runs, "made again, it is the last one"


def test_a_watermark_can_be_set_anew():
    mark = AssetWatermark(Accessor(), target="t", source=SOURCE)
    move(mark, NOON, run="one")
    mark.settle()
    assert mark.read().watermark == NOON
    mark.reset(reread=True)
    assert mark.read() == WatermarkState(reread=True, source=SOURCE)
    assert move(mark, NOON - timedelta(days=1), run="two") == NOON - timedelta(days=1), "back, this once"
    assert mark.read().reread
    mark.settle()
    assert not mark.read().reread
    assert mark.read().watermark == NOON - timedelta(days=1)


@pytest.mark.parametrize(
    "stored",
    [
        "x",
        1,
        {"format_version": 2, "watermark": None},
        {"format_version": 1},
        {"watermark": "soon"},
        {**PROGRESS, "watermark": "2026-01-01T12:00:00"},
        {**PROGRESS, "watermark": 7},
        {**PROGRESS, "runs": 7},
        {**PROGRESS, "runs": [["a", None]]},
        {**PROGRESS, "runs": [[1, None, None]]},
        {**PROGRESS, "forgotten": "soon"},
        {**PROGRESS, "loaded_at": "soon"},
        {**PROGRESS, "format_version": True},
        {**PROGRESS, "source": "x"},
        {**PROGRESS, "source": {"base URL": 7}},
    ],
)
def test_a_watermark_of_another_form_is_an_error_that_a_full_refresh_mends(stored, caplog):
    accessor = Accessor({"limio_limitrail.watermark:t": stored})
    mark = AssetWatermark(accessor, target="t", source=SOURCE)
    with pytest.raises(ParameterError, match="full_refresh=True"):
        mark.read()
    assert caplog.text == ""
    assert move(mark, NOON, run="r") == NOON
    assert mark.read().watermark == NOON
    assert "The watermark is reset: the watermark stored under 'limio_limitrail.watermark:t'" in caplog.text


def test_a_watermark_of_a_newer_version_says_so():
    mark = AssetWatermark(Accessor({"limio_limitrail.watermark:t": {**PROGRESS, "format_version": 2}}), target="t", source=SOURCE)
    with pytest.raises(ParameterError, match=r"'limio_limitrail.watermark:t' has format 2, and this version reads format 1"):
        mark.read()


def test_watermarks_stay_readable():
    accessor = Accessor({"limio_limitrail.watermark:t": PROGRESS})
    mark = AssetWatermark(accessor, target="t", source=SOURCE)
    hour = timedelta(hours=1)
    runs = {mark_of("one"): past(), mark_of("two"): past(NOON, NOON + hour)}
    assert mark.read() == WatermarkState(watermark=NOON, runs=runs, source=SOURCE)
    assert move(mark, None, run="two", since=NOON, until=NOON + hour) == NOON
    assert accessor["limio_limitrail.watermark:t"] == {**PROGRESS, "loaded_at": "2026-01-01T12:00:00+00:00"}
    mark.move(None, run="two", past=past(NOON, NOON + hour), started_at=NOON - hour)
    assert mark.read().loaded_at == NOON


@given(bad_values(PROGRESS))
def test_no_watermark_raises_anything_else(value):
    mark = AssetWatermark(Accessor({"limio_limitrail.watermark:t": value}), target="t", source=SOURCE)
    try:
        progress = mark.read()
    except ParameterError:
        return
    ranges = [time for one in progress.runs.values() for time in (one.since, one.until)]
    times = [progress.watermark, progress.forgotten, progress.loaded_at, *ranges]
    assert all(time is None or time.tzinfo is not None for time in times)


def test_runs_keep_their_names():
    """By it the rows of a run are found again in its table, and where it began."""
    ti = SimpleNamespace(dag_id="pull", task_id="land", run_id="scheduled__2026-10-01", map_index=None)
    assert str(folders.RunIdentity.of({"ti": ti})) == "pull/land/scheduled__2026-10-01"  # type: ignore[typeddict-item]
    ti.map_index = 3
    assert str(folders.RunIdentity.of({"ti": ti})) == "pull/land[3]/scheduled__2026-10-01"  # type: ignore[typeddict-item]
    assert mark_of("pull/land/scheduled__2026-10-01") == "436eb37ebc24a7f5"


def test_incremental_needs_an_outlet():
    with pytest.raises(ParameterError, match="outlets="):
        asset_watermark({"asset_state_store": {}}, outlets=[], target="t", source=SOURCE)
    with pytest.raises(ParameterError, match="outlets="):
        asset_watermark({"task_state_store": object()}, outlets=[], target="t", source=SOURCE)
    assert asset_watermark({}, outlets=[], target="t", source=SOURCE) is None


def test_names_stay_apart():
    names = ["a", "A", "a/b", "a b", "a-b", "..", "", "é", "x" * 400, "x" * 401]
    safe = [folders.safe_name(name) for name in names]
    assert len({name.lower() for name in safe}) == len(names)
    assert all(name.strip(".") and "/" not in name and len(name) <= 100 for name in safe)


def test_a_summary_names_a_few_of_many_columns():
    assert first_names(["a", "b"]) == ["a", "b"]
    assert first_names([f"{n}" * 99 for n in range(300)])[-1] == "and 292 more"
