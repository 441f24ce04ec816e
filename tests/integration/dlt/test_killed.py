# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The task's process is killed in each of dlt's steps, and the next try ends with exactly the rows that the API holds."""

from __future__ import annotations

import pytest

SIGKILL = -9
STEPS = (
    "before dlt extract",
    "after dlt extract",
    "after dlt normalize",
    "before dlt copy",
    "after dlt copy",
    "before dlt statements",
    "after dlt statements",
    "after dlt load",
    "before watermark",
    "after watermark",
)

pytestmark = pytest.mark.needs_state_store


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("mode", "steps"),
    [("merge", STEPS[4:7:2]), ("append", STEPS), ("replace", ("after dlt copy", "before dlt statements", "after dlt load"))],
    ids=str,
)
def test_a_killed_load_is_made_good(dlt_home, limio_emulator, warehouse, mode, steps):
    dlt_home.write_dag(
        f"""
        LimioToDltOperator(
            task_id="load", resource="subscriptions", destination={warehouse.kind!r}, destination_conn_id={warehouse.conn_id!r},
            dataset="lake", table="subs", mode={mode!r}, page_size=50, part_rows=100,
            incremental={mode != "replace"}, outlets=[Asset("subs")],
        )
        """
    )
    truth = sorted(row["id"] for row in limio_emulator.tenant.rows_of("subscriptions"))
    for number, step in enumerate(steps, start=1):
        run_id = f"run-{number}"
        assert dlt_home.attempt("load", run_id=run_id, kill=[step, 1]).code == SIGKILL, step
        if mode == "replace" and number > 1:
            assert warehouse.count("lake.subs") == len(truth), step
        done = dlt_home.attempt("load", run_id=run_id)
        assert done.task("load")["state"] == "success", (step, dlt_home.output()[-6000:])
        found = [row_id for [row_id] in warehouse.query("SELECT id FROM lake.subs ORDER BY id")]
        assert found == sorted(truth * (number if mode == "append" else 1)), step
        assert warehouse.stages() == [], step
    assert [path for path in (dlt_home.path / "tmp").rglob("*") if "limio" in str(path.parent)] == []
