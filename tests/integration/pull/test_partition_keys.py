# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Partition keys of asset events in real task runs: one event a touched day, none without changes, and none lost to a kill."""

from __future__ import annotations

import json
from typing import Any

import pytest

from limio_limitrail.emulator import EmulatorServer
from tests.support.airflow_home import AirflowHome

pytestmark = pytest.mark.needs_state_store


def rows(*days: int, n: int = 0) -> list[bytes]:
    return [json.dumps({"id": str(at), "day": f"2026-05-{day:02}T10:00:00Z", "n": n}).encode() for at, day in enumerate(days)]


@pytest.fixture
def daily(home: AirflowHome) -> AirflowHome:
    home.write_dag(
        """
        things = Resource(name="things", path="/custom/things", primary_key=("id",), timestamps=("day",))
        common = dict(resource=things, sql_conn_id="duck", table="things", partition_column="{{ 'day' }}")
        LimioToSqlOperator(task_id="land", outlets=[Asset("things"), Asset("others")], max_partitions=3, **common)
        LimioToSqlOperator(task_id="dry", outlets=[Asset("things")], dry_run=True, **common)
        LimioToSqlOperator(task_id="no_outlet", **common)
        LimioToSqlOperator(task_id="by_name", outlets=[Asset.ref(name="things"), Asset.ref(name="unknown")], **common)
        LimioToSqlOperator(task_id="unknown", outlets=[Asset.ref(name="unknown")], **common)
        LimioToSqlOperator(
            task_id="offers", outlets=[Asset.ref(name="things")], resource="catalog.offers2", sql_conn_id="duck", table="o",
            incremental=True,
        )
        LimioToSqlOperator(task_id="replace", outlets=[Asset("things")], mode="replace", **common)
        """
    )
    return home


def keys_of(home: AirflowHome, task: str, run: str) -> list[tuple[str, str | None]]:
    return [tuple(event) for event in home.do("keys_of_events", "pull", task_id=task, run_id=run).result["events"]]


@pytest.mark.exhaustive
def test_each_touched_day_gets_its_event(daily: AirflowHome, limio_emulator: EmulatorServer) -> None:
    def land(run: str, **more: Any) -> dict[str, Any]:
        done = daily.attempt("land", run_id=run, **more).task("land")
        assert done["state"] == "success", daily.output()[-3000:]
        return done

    limio_emulator.put_records("custom/things", rows(1, 2, 2))
    first = land("one")
    both = [("others", "2026-05-01"), ("others", "2026-05-02"), ("things", "2026-05-01"), ("things", "2026-05-02")]
    assert keys_of(daily, "land", "one") == both
    assert first["xcom"]["partitions"] == ["2026-05-01", "2026-05-02"]
    assert first["events"] == [first["xcom"]] * 4

    # Nothing changes: no event.
    assert land("two")["events"] == []
    limio_emulator.put_records("custom/things", rows(1, 2, 3))
    assert daily.attempt("dry", run_id="dry").task("dry")["xcom"]["partitions"] == ["2026-05-02", "2026-05-03"]
    assert keys_of(daily, "dry", "dry") == []
    # Killed after the commit, before it could say so.
    daily.attempt("land", run_id="three", kill=["before announcement", 1])
    assert keys_of(daily, "land", "three") == []
    assert land("three")["xcom"]["unchanged"] == 3
    assert keys_of(daily, "land", "three") == [(name, f"2026-05-0{day}") for name in ("others", "things") for day in (2, 3)]

    # Too many of them: nothing is written, and the next run finds them still.
    limio_emulator.put_records("custom/things", rows(4, 5, 6))
    failed = daily.attempt("land", run_id="four")
    assert "touches 6 partitions of 'day', and max_partitions is 3" in failed.result["error"]
    assert keys_of(daily, "land", "four") == []


def test_an_outlet_may_refer_to_an_asset(daily: AirflowHome, limio_emulator: EmulatorServer) -> None:
    limio_emulator.put_records("custom/things", rows(1, 2))
    done = daily.attempt("by_name").task("by_name")
    assert keys_of(daily, "by_name", "one") == [("things", "2026-05-01"), ("things", "2026-05-02")]
    assert done["events"] == [done["xcom"]] * 2
    assert "refers to an asset that no Dag has" in daily.output()
    first, second = (daily.attempt("offers", run_id=run).task("offers") for run in ("one", "two"))
    assert first["events"] == [first["xcom"]]
    assert (first["xcom"]["since"], second["xcom"]["rows"]) == (None, 1)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("no_outlet", "the task has none: give it one"),
        ("unknown", "the task has none: give it one"),
        ("replace", "writes every partition in each run"),
    ],
)
def test_what_cannot_have_keys_is_refused_first(
    daily: AirflowHome, limio_emulator: EmulatorServer, task: str, message: str
) -> None:
    daily.attempt(task)
    assert message in daily.output()
    assert limio_emulator.counters.log == []
