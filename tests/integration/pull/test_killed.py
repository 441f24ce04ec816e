# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The task's process is killed at every kind of step, and the next try ends with exactly the rows that the API holds."""

from __future__ import annotations

import json

import pytest

from tests.support.landed import duck_rows, manifest_of, records_of
from tests.support.tiers import EVERYTHING

SIGKILL = -9
PAGES = 12
PAGES_A_PART = 2

pytestmark = pytest.mark.needs_state_store

# The step, and the n-th time that it is reached; how many pages are in parts that were finished by then. Pages are asked for
# while others are landed, at most two of them: there it is how many pages are in such parts at least.
PULL_STEPS = [
    ("before request", 1, 0),
    ("before request", 4, 0),
    ("after request", 6, 2),
    ("half a part", 1, 0),
    ("half a part", 3, 4),
    ("before part", 2, 2),
    ("after part", 1, 0),
    ("before state", 3, 4),
    ("after state", 1, 2),
    ("after state", 6, 12),
    ("before manifest", 1, 12),
    ("after manifest", 1, 12),
    ("after removal", 1, 0),
]
LOAD_STEPS = [
    ("before load", 1, 12),
    ("before reading", 3, 12),
    ("after reading", 6, 12),
    ("after load", 1, 12),
    ("before watermark", 1, 12),
    ("after watermark", 1, 12),
    ("before forgetting", 2, 12),
    ("after forgetting", 2, 0),
    ("before removal", 3, 0),
    ("after removal", 3, 0),
    ("before removal of folders", 1, 0),
    ("before announcement", 1, 0),
    ("after announcement", 1, 0),
]


STAY, CHANGE = {"object_cursor": "scroll", "scroll_ids": "stay"}, {"object_cursor": "scroll", "scroll_ids": "change"}


@pytest.fixture
def limio_emulator(request, limio_emulator_factory):
    """Where the API keeps the place, a retry goes on from nowhere but the end of the list."""
    return limio_emulator_factory(**getattr(request, "param", {}))


def is_scroll(emulator):
    return emulator.options.object_cursor == "scroll"


def all_pages(emulator):
    """How many pages the list has: a scroll ends with one of nothing."""
    return PAGES + is_scroll(emulator)


def truth(emulator, kind="subscriptions"):
    return {row["id"]: row for row in emulator.tenant.rows_of(kind)}


def asked(emulator, path="/api/objects/limio/subscriptions"):
    """How often a list was asked for."""
    return sum(entry["path"] == path for entry in emulator.counters.log)


def pages_saved(home, run_id, *, step, finished, emulator):
    """How many pages the next try has not to ask for again."""
    finished = all_pages(emulator) if finished == PAGES else finished
    saved = sum(json.loads(value)["pages"] for _, value in home.do("state_of", "pull", run_id=run_id).result["task"])
    if step.endswith(" request"):
        assert finished <= saved <= finished + PAGES_A_PART, step
    else:
        assert saved == finished, step
    return 0 if is_scroll(emulator) and finished < PAGES else saved


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("limio_emulator", "mode"),
    [({}, "merge"), ({}, "append"), ({}, "replace"), (STAY, "append"), (CHANGE, "replace")],
    indirect=["limio_emulator"],
    ids=["merge", "append", "replace", "append of a scroll", "replace by a scroll"],
)
def test_a_killed_load_is_made_good(home, limio_emulator, tmp_path, place, mode):
    steps = {
        "merge": [*PULL_STEPS[1::4], *LOAD_STEPS[::5]],
        "append": [*PULL_STEPS[::6], *LOAD_STEPS],
        "replace": [*PULL_STEPS[3::5], *LOAD_STEPS[3::5]],
    }[mode]
    if is_scroll(limio_emulator):
        steps = [*PULL_STEPS[1::4], *LOAD_STEPS[:2]]
    home.write_dag(
        f"""
        LimioToSqlOperator(
            task_id="load", resource="subscriptions", sql_conn_id="duck", table="subs", mode={mode!r}, page_size=17, part_rows=34,
            incremental={mode != "replace"}, outlets=[Asset("subs")], staging={place.url if place.connections else None!r},
        )
        """
    )
    expected = truth(limio_emulator)
    for number, (step, count, finished) in enumerate(steps, start=1):
        run_id = f"run-{number}"
        killed = home.attempt("load", run_id=run_id, kill=[step, count])
        assert killed.code == SIGKILL, step
        saved = pages_saved(home, run_id, step=step, finished=finished, emulator=limio_emulator)
        limio_emulator.counters.reset()
        again = home.attempt("load", run_id=run_id)
        assert again.task("load")["state"] == "success", (step, home.output()[-3000:])
        assert asked(limio_emulator) == all_pages(limio_emulator) - saved, step
        assert again.task("load")["xcom"]["rows"] == len(expected), step
        found = duck_rows(tmp_path / "warehouse.duckdb", "subs")
        of_run = [row for row in found if row["_run_id"] == f"pull/load/{run_id}"]
        if mode == "append":
            assert sorted(row["id"] for row in of_run) == sorted(expected), step
            assert len(found) == number * len(expected), step
        else:
            assert sorted(row["id"] for row in found) == sorted(expected), step
        for row in found:
            assert json.loads(row["data"]) == expected[row["id"]]["data"]
        left = [path for path in (home.path / "tmp").rglob("*") if path.is_file()]
        assert left == place.names() == [], step


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("limio_emulator", "form"),
    [({}, "jsonl"), ({}, "parquet"), (STAY, "jsonl"), (CHANGE, "parquet")],
    indirect=["limio_emulator"],
    ids=["jsonl", "parquet", "jsonl of a scroll", "parquet of a scroll"],
)
def test_a_killed_pull_is_made_good(home, limio_emulator, place, form):
    home.write_dag(
        f"""
        LimioToObjectStorageOperator(
            task_id="land", resource="subscriptions", destination="{place.url}", format={form!r},
            page_size=17, part_rows=34,
        )
        """
    )
    expected = list(limio_emulator.tenant.rows_of("subscriptions"))
    steps = PULL_STEPS if EVERYTHING and form == "jsonl" and not is_scroll(limio_emulator) else PULL_STEPS[2::3]
    for number, (step, count, finished) in enumerate(steps, start=1):
        run_id = f"run-{number}"
        assert home.attempt("land", run_id=run_id, kill=[step, count]).code == SIGKILL, step
        saved = pages_saved(home, run_id, step=step, finished=finished, emulator=limio_emulator)
        limio_emulator.counters.reset()
        again = home.attempt("land", run_id=run_id).task("land")
        assert again["state"] == "success", step
        assert asked(limio_emulator) == all_pages(limio_emulator) - saved, step
        folder = again["xcom"]["folder"]
        here = place.here(folder)
        manifest = manifest_of(here)
        assert manifest["rows"] == len(expected)
        if form == "jsonl":
            assert records_of(here) == expected, step
        files = [name.rpartition("/")[2] for name in place.names(f"{place.inside(folder)}/")]
        assert files == sorted(["manifest.json", *(part["name"] for part in manifest["parts"])]), step
