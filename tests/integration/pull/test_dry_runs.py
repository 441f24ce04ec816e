# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A dry run in a real task: the summary, and no commit, watermark, event or file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from limio_limitrail.emulator import EmulatorServer
from tests.support.airflow_home import AirflowHome
from tests.support.landed import duck

pytestmark = pytest.mark.needs_state_store
COUNTS = ("rows", "inserted", "updated", "unchanged", "outdated", "deleted", "columns_added", "watermark", "reason")


def test_a_dry_run_moves_nothing(home: AirflowHome, limio_emulator: EmulatorServer, tmp_path: Path) -> None:
    home.write_dag(
        """
        common = dict(resource="subscriptions", sql_conn_id="duck", table="subs", incremental=True, outlets=[Asset("subs")])
        LimioToSqlOperator(task_id="dry", dry_run="{{ 'yes' }}", **common)
        LimioToSqlOperator(task_id="land", **common)
        """
    )
    home.write_dag(
        """
        LimioToSqlOperator.partial(
            task_id="land", resource="subscriptions", sql_conn_id="duck", table="subs", outlets=[Asset("subs")]
        ).expand(dry_run=[True])
        """,
        dag_id="mapped",
        name="mapped",
    )

    def attempt(task: str, run: str) -> dict[str, Any]:
        done = home.attempt(task, run_id=run).task(task)
        assert done["state"] == "success", home.output()[-3000:]
        return done

    file = tmp_path / "warehouse.duckdb"
    dry = attempt("dry", "one")
    assert home.do("state_of", "pull", run_id="one").result["asset"] == []
    assert dry["xcom"]["dry_run"] is True
    assert dry["events"] == []
    assert duck(file, "SELECT count(*) FROM duckdb_tables()") == [(0,)]
    mapped = home.run("mapped").task("land[0]")
    assert (mapped["xcom"]["dry_run"], mapped["events"]) == (True, [])
    real = attempt("land", "one")
    assert real["xcom"]["dry_run"] is False
    assert real["events"] == [real["xcom"]]
    assert {name: dry["xcom"][name] for name in COUNTS} == {name: real["xcom"][name] for name in COUNTS}

    table = "SELECT * EXCLUDE data FROM subs ORDER BY id"
    stored, rows = home.do("state_of", "pull", run_id="one").result["asset"], duck(file, table)
    limio_emulator.advance(60, changed=20, added=10)
    dry = attempt("dry", "two")
    assert (dry["xcom"]["updated"], dry["xcom"]["inserted"], dry["events"]) == (20, 10, [])
    assert home.do("state_of", "pull", run_id="two").result["asset"] == stored
    assert duck(file, table) == rows
    assert [path for path in (home.path / "tmp").rglob("*") if path.suffix == ".parquet"] == []


def test_a_dry_run_does_not_set_a_watermark_anew(home: AirflowHome, limio_emulator: EmulatorServer, tmp_path: Path) -> None:
    limio_emulator.put_records(
        "checkout/abandoned", [b'{"id":"1","created":"2026-03-01T00:00:00Z"}', b'{"id":"2","created":"2026-03-02T00:00:00Z"}']
    )
    home.write_dag(
        """
        common = dict(
            resource="abandoned_baskets", sql_conn_id="duck", table="b", incremental=True, since="2026-01-01",
            outlets=[Asset("b")],
        )
        LimioToSqlOperator(task_id="dry", dry_run=True, **common)
        LimioToSqlOperator(task_id="land", **common)
        """
    )
    assert home.attempt("land").task("land")["xcom"]["inserted"] == 2
    stored = home.do("state_of", "pull", run_id="one").result["asset"]
    assert stored
    # A real run would set the watermark anew, because the table is gone; the dry run only says so.
    (tmp_path / "warehouse.duckdb").unlink()
    tried = home.attempt("dry", run_id="two").task("dry")["xcom"]
    assert "is not there" in tried["reason"]
    assert tried["inserted"] == 2
    assert home.do("state_of", "pull", run_id="one").result["asset"] == stored
