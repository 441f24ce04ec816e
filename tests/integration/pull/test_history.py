# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A task that keeps a history: runs, kills, and what the page about it shows."""

from __future__ import annotations

import pytest

from tests.support.landed import duck
from tests.support.pages import blocks

SIGKILL = -9


@pytest.mark.needs_state_store
def test_runs_and_kills_leave_each_version_once(home, limio_emulator, tmp_path):
    home.write_dag(
        """
        LimioToSqlOperator(
            task_id="load", resource="subscriptions", sql_conn_id="duck", table="subscription_versions", mode="history",
            on_missing="mark", page_size=40, part_rows=80, outlets=[Asset("subs")],
        )
        """
    )
    seen = {}
    summaries = []
    for number, step in enumerate(("after reading", "after load")):
        truth = {row["id"]: row for row in limio_emulator.tenant.rows_of("subscriptions")}
        seen.update({(row["id"], row["updated"]): row["status"] for row in truth.values()})
        run_id = f"run-{number}"
        assert home.attempt("load", run_id=run_id, kill=[step, 1]).code == SIGKILL
        done = home.attempt("load", run_id=run_id)
        assert done.task("load")["state"] == "success", home.output()[-3000:]
        summaries.append(done.task("load")["xcom"])
        limio_emulator.advance(60, changed=20, added=10)
    assert summaries[0]["inserted"] == 200
    # The second load was committed before its process was killed.
    assert (summaries[1]["inserted"], summaries[1]["unchanged"], summaries[1]["missing_checked"]) == (0, 210, True)
    path = tmp_path / "warehouse.duckdb"
    found = duck(
        path, "SELECT id, status, CAST(_valid_to IS NULL AS INTEGER) FROM subscription_versions ORDER BY id, _valid_from"
    )
    assert len(found) == len(seen) == 230
    assert sorted((identity, status) for identity, status, _ in found) == sorted(
        (identity, status) for (identity, _), status in seen.items()
    )
    assert {identity: status for identity, status, current in found if current} == {
        identity: row["status"] for identity, row in truth.items()
    }
    assert sum(current for *_, current in found) == 210

    [shown] = blocks("docs/how-to/history.md", section="History", language="sql")
    current, then = shown.text.strip().rstrip(";").split(";")
    assert sorted(duck(path, current)) == sorted((identity, status) for identity, status, valid in found if valid)
    valid = "_valid_from <= '2026-05-01' AND coalesce(_valid_to, '9999-01-01') > '2026-05-01'"
    assert sorted(duck(path, then)) == sorted(duck(path, f"SELECT id, status FROM subscription_versions WHERE {valid}"))
