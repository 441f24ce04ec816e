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
from airflow_versions import UNIMPORTABLE
from hypothesis import HealthCheck, given, settings
from stored import bad_values

import limio_limitrail
from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.resource import Resource, TimeFilter
from limio_limitrail.transfers import folders, window
from limio_limitrail.transfers.base import some_of
from limio_limitrail.transfers.state import REMEMBERED_RUNS, AssetWatermark, Progress, asset_watermark, mark_of

settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


def modules():
    rooms = {found.name for found in pkgutil.iter_modules(limio_limitrail.__path__)}
    for room in sorted(rooms & {"transfers", "operators", "sensors", "triggers"}):
        package = importlib.import_module(f"limio_limitrail.{room}")
        yield package.__name__
        for found in pkgutil.iter_modules(package.__path__):
            yield f"{package.__name__}.{found.name}"


def test_importing_is_cheap():
    code = "import sys\n" + "".join(f"import {name}\n" for name in modules() if name not in UNIMPORTABLE)
    code += "print(sorted({'aiohttp', 'requests', 'pandas', 'pyarrow', 'duckdb'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip().splitlines()[-1] == "[]"


class Accessor(dict):
    def set(self, key, value):
        self[key] = value


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PROGRESS = {
    "format_version": 1,
    "watermark": "2026-01-01T12:00:00+00:00",
    "starts": [["7692c3ad3540bb80", None], ["3fc4ccfe745870e2", "2026-01-01T12:00:00+00:00"]],
}
"""A watermark as it is stored."""
FILTERED = Resource(name="things", path="/things", time_filter=TimeFilter(since="from", field="updated"))
DEMANDING = Resource(name="things", path="/things", time_filter=TimeFilter(since="from", field="updated", required=True))


def choose(resource=FILTERED, *, context=None, watermark=None, **how):
    defaults = {"incremental": True, "full_refresh": False, "since": None, "overlap": timedelta(minutes=5), "run": "r"}
    return window.choose_window(resource=resource, context=context or {}, watermark=watermark, **{**defaults, **how})


def test_a_watermark_is_kept_with_where_runs_began():
    accessor = Accessor()
    mark = AssetWatermark(accessor, target="t")
    assert choose(watermark=mark, since=NOON).since == NOON
    assert mark.move(NOON, run="one", since=None) == NOON
    assert choose(watermark=mark, run="two").since == NOON - timedelta(minutes=5)
    assert choose(watermark=mark, run="one").since is None
    assert choose(watermark=mark, run="one", full_refresh=True, since=NOON).since == NOON
    assert mark.move(NOON - timedelta(days=1), run="two", since=NOON) == NOON
    assert mark.move(None, run="three", since=NOON) == NOON
    for number in range(REMEMBERED_RUNS):
        mark.move(NOON, run=f"n{number}", since=NOON)
    assert len(mark.read().starts) == REMEMBERED_RUNS
    assert choose(watermark=mark, run="one").since == NOON - timedelta(minutes=5)


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
        {**PROGRESS, "starts": 7},
        {**PROGRESS, "starts": [["a"]]},
        {**PROGRESS, "starts": [[1, None]]},
        {**PROGRESS, "format_version": True},
    ],
)
def test_a_watermark_of_another_form_is_an_error_that_a_full_refresh_mends(stored, caplog):
    accessor = Accessor({"limio_limitrail.watermark:t": stored})
    mark = AssetWatermark(accessor, target="t")
    with pytest.raises(ParameterError, match="full_refresh=True"):
        choose(watermark=mark)
    assert choose(watermark=mark, full_refresh=True).since is None
    assert caplog.text == ""
    assert mark.move(NOON, run="r", since=None) == NOON
    assert mark.read().watermark == NOON
    assert "The watermark is set anew: the watermark stored under 'limio_limitrail.watermark:t'" in caplog.text


def test_a_watermark_of_a_newer_version_says_so():
    mark = AssetWatermark(Accessor({"limio_limitrail.watermark:t": {**PROGRESS, "format_version": 2}}), target="t")
    with pytest.raises(ParameterError, match=r"'limio_limitrail.watermark:t' has format 2, and this version reads format 1"):
        mark.read()


def test_watermarks_stay_readable():
    """What an earlier version has stored, each later one reads; the first did not remember where runs began."""
    accessor = Accessor({"limio_limitrail.watermark:t": PROGRESS})
    mark = AssetWatermark(accessor, target="t")
    assert mark.read() == Progress(watermark=NOON, starts={mark_of("one"): None, mark_of("two"): NOON})
    assert mark.move(None, run="two", since=NOON) == NOON
    assert accessor["limio_limitrail.watermark:t"] == PROGRESS
    first = {"format_version": 1, "watermark": "2026-01-01T12:00:00+00:00"}
    assert AssetWatermark(Accessor({"limio_limitrail.watermark:t": first}), target="t").read() == Progress(watermark=NOON)


@given(bad_values(PROGRESS))
def test_no_watermark_raises_anything_else(value):
    mark = AssetWatermark(Accessor({"limio_limitrail.watermark:t": value}), target="t")
    try:
        progress = mark.read()
    except ParameterError:
        return
    times = [progress.watermark, *progress.starts.values()]
    assert all(time is None or time.tzinfo is not None for time in times)


def test_runs_keep_their_names():
    """By it the rows of a run are found again in its table, and where it began."""
    ti = SimpleNamespace(dag_id="pull", task_id="land", run_id="scheduled__2026-10-01", map_index=None)
    assert str(folders.RunIdentity.of({"ti": ti})) == "pull/land/scheduled__2026-10-01"  # type: ignore[typeddict-item]
    ti.map_index = 3
    assert str(folders.RunIdentity.of({"ti": ti})) == "pull/land[3]/scheduled__2026-10-01"  # type: ignore[typeddict-item]
    assert mark_of("pull/land/scheduled__2026-10-01") == "436eb37ebc24a7f5"


def test_where_a_pull_begins():
    interval = {"data_interval_start": NOON}
    assert choose(context=interval).since == NOON - timedelta(minutes=5)
    assert choose(context=interval, since=NOON - timedelta(days=9)).since == NOON - timedelta(days=9)
    assert choose(incremental=False, context=interval).since is None
    assert choose(DEMANDING, incremental=False, context=interval).since == NOON
    assert choose(Resource(name="x", path="/x"), context=interval).since is None
    with pytest.raises(ParameterError, match="neither a watermark nor a data interval"):
        choose(DEMANDING)
    with pytest.raises(ParameterError, match="leave since out"):
        choose(Resource(name="x", path="/x"), since=NOON)


def test_incremental_needs_an_outlet():
    with pytest.raises(ParameterError, match="outlets="):
        asset_watermark({"asset_state_store": {}}, outlets=[], target="t")
    with pytest.raises(ParameterError, match="outlets="):
        asset_watermark({"task_state_store": object()}, outlets=[], target="t")
    assert asset_watermark({}, outlets=[], target="t") is None


def test_names_stay_apart():
    names = ["a", "a/b", "a b", "a-b", "..", "", "é", "x" * 400, "x" * 401]
    safe = [folders.safe_name(name) for name in names]
    assert len(set(safe)) == len(names)
    assert all(name.strip(".") and "/" not in name and len(name) < 170 for name in safe)


def test_staging_that_others_can_reach_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(folders.tempfile, "gettempdir", lambda: str(tmp_path))
    root = folders.default_staging()
    assert folders.default_staging() == root
    (tmp_path / root.rpartition("/")[2]).chmod(0o755)
    with pytest.raises(PermissionError, match="staging="):
        folders.default_staging()


def test_a_summary_names_a_few_of_many_columns():
    assert some_of(["a", "b"]) == ["a", "b"]
    assert some_of([f"{n}" * 99 for n in range(300)])[-1] == "and 292 more"
