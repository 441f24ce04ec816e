# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The plugin: off unless configured, cheap, and never a reason for the API server not to start."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from types import SimpleNamespace

import pytest

from limio_limitrail.plugins.usage import UsagePlugin
from limio_limitrail.plugins.usage_page import runs as runs_module
from limio_limitrail.plugins.usage_page.runs import show_freshness, show_runs
from limio_limitrail.provider_info import get_provider_info

NOON = datetime(2026, 5, 6, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def off_again():
    yield
    UsagePlugin.fastapi_apps, UsagePlugin.external_views = [], []


def test_both_ways_to_load_it_name_the_same_class():
    [named] = [one for one in entry_points(group="airflow.plugins") if one.name == "limio_limitrail"]
    assert named.load() is UsagePlugin
    [plugin] = get_provider_info()["plugins"]
    assert plugin["plugin-class"] == f"{UsagePlugin.__module__}.{UsagePlugin.__qualname__}"
    assert plugin["name"] == UsagePlugin.name


def test_there_is_no_page_unless_it_is_configured(monkeypatch):
    UsagePlugin.on_load()
    assert (UsagePlugin.fastapi_apps, UsagePlugin.external_views) == ([], [])


@pytest.mark.parametrize("option", ["LEDGERS", "PULLS"])
def test_a_configuration_that_cannot_be_read_is_no_reason_to_fail(monkeypatch, option):
    monkeypatch.setenv(f"AIRFLOW__LIMIO_LIMITRAIL__{option}", "{")
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://example.com/airflow/")
    UsagePlugin.on_load()
    [app] = UsagePlugin.fastapi_apps
    [view] = UsagePlugin.external_views
    assert app["url_prefix"] == "/limio-limitrail"
    assert view["href"] == "/airflow/limio-limitrail/"


def test_importing_it_costs_little():
    """Each process of Airflow does: schedulers and workers, too."""
    code = (
        "import sys, airflow.plugins_manager; before = set(sys.modules); import limio_limitrail.plugins.usage; "
        "print(sorted(name for name in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, timeout=300)
    found = done.stdout.strip().splitlines()[-1]
    assert found == "['limio_limitrail.plugins', 'limio_limitrail.plugins.usage']"


def task(state="success", *, hours, index=-1, seconds=2.0):
    return SimpleNamespace(state=state, map_index=index, start_date=NOON - timedelta(hours=hours), duration=seconds)


def run_of(*copies, **summaries):
    found = {("r", int(index.strip("_").replace("m", "-"))): runs_module._facts(value) for index, value in summaries.items()}
    return runs_module._task_run("r", copies, summaries=found)


def freshness(*runs, promise=timedelta(hours=26)):
    return show_freshness(runs, promise=promise, now=NOON)


def test_a_table_is_as_fresh_as_the_newest_run_that_read_it_whole():
    found = freshness(run_of(task("failed", hours=1)), run_of(task(hours=3)), run_of(task(hours=30)))
    assert (found["age"], found["is_late"]) == (3 * 3600, False)
    assert freshness(run_of(task("running", hours=1)), run_of(task(hours=30)))["is_late"]
    assert freshness(run_of(task("skipped", hours=1)), promise=None) == {
        "as_of": None, "age": None, "promised": None, "is_late": False,
    }  # fmt: skip
    assert freshness()["is_late"]


def test_a_run_for_an_old_range_makes_nothing_fresh():
    until = (NOON - timedelta(days=90)).isoformat()
    found = freshness(run_of(task(hours=1), _m1={"rows": 5, "until": until}))
    assert (found["age"], found["is_late"]) == (90 * 86400, True)
    # A range that ends in the future says nothing of the future.
    later = (NOON + timedelta(days=1)).isoformat()
    assert freshness(run_of(task(hours=1), _m1={"until": later}))["age"] == 3600


def test_a_mapped_task_is_whole_if_all_copies_are():
    copies = [task(hours=2, index=0), task(hours=1, index=1, seconds=9.0)]
    summaries = {"_0": {"rows": 5, "watermark": "2026-05-06T01:00:00Z"}, "_1": {"rows": 7, "watermark": "2026-05-06T02:00:00Z"}}
    [shown] = show_runs([run_of(*copies, **summaries)])
    assert (shown["rows"], shown["seconds"], shown["state"]) == (12, 9.0, "success")
    assert shown["watermark"] == int(datetime(2026, 5, 6, 2, tzinfo=UTC).timestamp() * 1000)
    assert run_of(*copies, task("failed", hours=1, index=2)).as_of is None


@pytest.mark.parametrize("value", [None, 5, [1], "s3://bucket/xcom.json", {"rows": "secret", "watermark": 5, "detail": "secret"}])
def test_what_is_no_summary_is_not_shown(value):
    [shown] = show_runs([run_of(task(hours=1), _m1=value)])
    assert set(shown) == {"run_id", "state", "started", "seconds"}
