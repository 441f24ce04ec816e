# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pulls that find what other versions have left in Airflow's state stores."""

from __future__ import annotations

import json

import pytest

from tests.support.landed import duck_rows

pytestmark = pytest.mark.needs_state_store

BASKETS = "checkout/abandoned"
WATERMARK = "limio_limitrail.watermark:abandoned_baskets:a6b95ce9823f88f5"
"""Under it, the watermark of the task below has been kept ever since: under another, none would be found."""


def asked(emulator, path):
    return [entry for entry in emulator.counters.log if entry["path"] == path]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": 2}, "The checkpoint of the pull has format 2, and this version reads format 1"),
        ({"cursor": [1]}, "The checkpoint of the pull is damaged"),
    ],
)
def test_a_saved_pull_that_cannot_be_read_starts_over(home, limio_emulator, tmp_path, change, says):
    home.write_dag(
        """
        LimioToSqlOperator(task_id="load", resource="subscriptions", sql_conn_id="duck", table="subs", page_size=50, part_rows=50)
        """
    )
    assert home.attempt("load", kill=["after state", 2]).code == -9
    [(key, text)] = home.do("state_of", "pull", run_id="one").result["task"]
    assert key == "limio_limitrail.pull"
    home.do("put_state", "pull", run_id="one", value={**json.loads(text), **change})
    limio_emulator.counters.reset()
    assert home.attempt("load").task("load")["state"] == "success"
    assert len(asked(limio_emulator, "/api/objects/limio/subscriptions")) == 4, "all of it"
    assert len(duck_rows(tmp_path / "warehouse.duckdb", "subs")) == len(list(limio_emulator.tenant.rows_of("subscriptions")))
    assert says in home.output()


@pytest.mark.exhaustive
def test_watermarks_of_other_versions(home, limio_emulator):
    text = """
        LimioToSqlOperator(
            task_id="load", resource="abandoned_baskets", sql_conn_id="duck", table="baskets", mode="merge",
            incremental=True, outlets=[Asset("baskets")], since="2026-01-01", full_refresh={refresh},
        )
        """
    home.write_dag(text.format(refresh=False))
    limio_emulator.put_records(BASKETS, [{"id": "a", "created": "2026-03-02T00:00:00.000Z"}])

    def load(run_id):
        limio_emulator.counters.reset()
        outcome = home.attempt("load", run_id=run_id)
        since = [entry["query"].split("createdAfter=")[1].split("&")[0] for entry in asked(limio_emulator, f"/api/{BASKETS}")]
        return outcome.task("load")["state"], since, outcome.result["error"] or ""

    assert load("1")[:2] == ("success", ["2026-01-01T00%3A00%3A00Z"])
    [(key, stored)] = home.do("state_of", "pull", run_id="-").result["asset"]
    assert key == WATERMARK
    stored = json.loads(stored)
    assert stored.keys() == {"format_version", "watermark", "runs", "forgotten", "reread", "loaded_at", "source"}

    home.do("put_asset_state", key, value={"format_version": 1, "watermark": "2026-02-01T00:00:00+00:00"})
    assert load("2")[:2] == ("success", ["2026-01-31T23%3A55%3A00Z"])

    newer = {"format_version": 2, "reached": {"table": "2026-02-01T00:00:00+00:00"}}
    home.do("put_asset_state", key, value=newer)
    state, since, error = load("3")
    assert (state, since) == ("failed", [])
    assert "has format 2, and this version reads format 1" in error
    assert key in error
    [(_, kept)] = home.do("state_of", "pull", run_id="-").result["asset"]
    assert json.loads(kept) == newer, "it is not overwritten"

    home.write_dag(text.format(refresh=True))
    assert load("4")[:2] == ("success", ["2026-01-01T00%3A00%3A00Z"])
    [(_, kept)] = home.do("state_of", "pull", run_id="-").result["asset"]
    assert json.loads(kept)["watermark"] == stored["watermark"]
