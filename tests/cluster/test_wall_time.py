# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How long both Dags take with one worker and with two: measured and told, not asserted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.airflow_cluster import SLOTS
from tests.support.cluster_world import COMMIT_SECONDS, HOURS, LIST_SECONDS, PULL, RESEND, ClusterWorld

REPORT = Path(__file__).resolve().parents[2] / "build" / "cluster.json"
AN_HOUR = 2_000
ROWS = 5_000


def test_wall_time(world: ClusterWorld, capsys: pytest.CaptureFixture[str]) -> None:
    seconds: dict[str, dict[str, float]] = {PULL: {}, RESEND: {}}
    for workers in (1, 2):
        world.airflow.have_workers(workers)
        day = f"2026-04-{workers:02}"
        world.list_usage(day, an_hour=AN_HOUR)
        run_id = world.begin(PULL, day)
        assert world.finish(PULL, run_id).state == "success"
        world.check_pulled(day, an_hour=AN_HOUR)
        seconds[PULL][str(workers)] = world.seconds_of(PULL, run_id)

        world.fill_usage(day, rows=ROWS)
        run_id = world.begin(RESEND, day)
        assert world.finish(RESEND, run_id).state == "success"
        world.check_committed(day, rows=ROWS)
        assert set(world.requests.values()) == {1}
        seconds[RESEND][str(workers)] = world.seconds_of(RESEND, run_id)

    what = {
        PULL: f"pull of {HOURS * AN_HOUR:,} records, twice: into a table, and into files that are loaded",
        RESEND: f"commit of {ROWS:,} rows in 16 shards",
    }
    REPORT.parent.mkdir(exist_ok=True)
    report = {
        "seconds": seconds,
        "slots_of_a_worker": SLOTS,
        "seconds_of_an_answer": {PULL: LIST_SECONDS, RESEND: COMMIT_SECONDS},
        "processors": os.cpu_count(),
    }
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    with capsys.disabled():
        print(
            f"\n{os.cpu_count()} processors, {SLOTS} tasks at once on a worker; answers take {report['seconds_of_an_answer']} s"
        )
        for dag_id, found in seconds.items():
            one, two = found["1"], found["2"]
            print(f"{what[dag_id]}: one worker {one:.0f} s, two workers {two:.0f} s: {one / two:.1f} times as fast")
