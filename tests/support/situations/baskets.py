# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Abandoned baskets start Dag runs; the triggerer is killed again and again, and each basket is handed over once."""

from __future__ import annotations

import json
import random
import secrets
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from limio_limitrail.emulator import EmulatorServer
from tests.support.airflow_whole import WholeAirflow

DAG = "limio_abandoned_basket_followup"
ASSET = "limio/abandoned_baskets"


class Baskets:
    """The tenant's abandoned baskets."""

    def __init__(self, emulator: EmulatorServer) -> None:
        self._emulator = emulator
        self.shown: list[dict[str, Any]] = []
        self.email = f"{secrets.token_hex(8)}@example.com"
        self.leave(0)

    def leave(self, count: int) -> list[str]:
        """Let so many baskets be abandoned now, and give their ids."""
        first = len(self.shown)
        for number in range(first, first + count):
            now = datetime.now(tz=UTC).isoformat().replace("+00:00", "Z")
            self.shown.append({"id": f"basket-{number}", "created": now, "record_type": "basket", "data": {"email": self.email}})
        self._emulator.put_records("checkout/abandoned", self.shown)
        return [basket["id"] for basket in self.shown[first:]]


class Watched:
    """What Airflow keeps of the watch."""

    def __init__(self, airflow: WholeAirflow) -> None:
        self.airflow = airflow

    def progress(self) -> dict[str, Any] | None:
        found = self.airflow.query("SELECT value FROM asset_state_store WHERE key LIKE 'limio_limitrail.watch.%%'")
        return json.loads(found[0][0]) if found else None

    def events(self) -> list[dict[str, Any]]:
        """Give the events' payloads, in their order."""
        found = self.airflow.query(
            "SELECT event.extra FROM asset_event AS event JOIN asset ON asset.id = event.asset_id WHERE asset.name = %s "
            "ORDER BY event.id",
            ASSET,
        )
        return [extra["payload"] for (extra,) in found]

    def emitted(self) -> set[str]:
        return {identity for event in self.events() for identity in event["ids"]}

    def wait_until_emitted(self, ids: list[str]) -> None:
        self.airflow.wait_for(lambda: set(ids) <= self.emitted(), f"emitted: {ids}")

    def claims(self) -> dict[str, str]:
        """Give which run has which event."""
        found = self.airflow.query("SELECT value FROM asset_state_store WHERE key LIKE 'limio_limitrail.emitted.%%'")
        return {event: run for event, run, _ in json.loads(found[0][0])["claims"]} if found else {}

    def wait_until_done(self) -> None:
        """Wait until each event belongs to a run, and all runs have ended."""

        def done() -> bool:
            queued = self.airflow.query("SELECT count(*) FROM asset_dag_run_queue WHERE target_dag_id = %s", DAG)
            unclaimed = {event["event_id"] for event in self.events()} - set(self.claims())
            return queued == [(0,)] and not unclaimed and set(self.airflow.runs(DAG).values()) <= {"success", "failed"}

        self.airflow.wait_for(done, "all events belong to runs, which have ended")


def check_baskets(airflow: WholeAirflow, emulator: EmulatorServer, folder: Path) -> None:
    baskets = Baskets(emulator)
    warehouse = folder / "baskets.duckdb"
    airflow.add_connection("warehouse_of_baskets", json.dumps({"conn_type": "duckdb", "host": str(warehouse)}))
    baskets.leave(2)
    airflow.write_example(
        "limio_abandoned_basket_followup.py",
        ("poke_interval=timedelta(minutes=5)", "poke_interval=timedelta(seconds=1)"),
        ('"warehouse"', '"warehouse_of_baskets"'),
    )
    airflow.unpause(DAG)
    watched = Watched(airflow)
    airflow.wait_for(lambda: watched.progress() is not None, "the watch has begun")

    # What is there when a watch begins is not news.
    first = baskets.leave(3)
    watched.wait_until_emitted(first)
    watched.wait_until_done()
    assert watched.emitted() == set(first)
    assert [event["count"] for event in watched.events()] == [3]

    # Killed as soon as Airflow has kept an event, before the watch knows.
    second = baskets.leave(2)
    airflow.wait_for(lambda: len(watched.events()) >= 2, "kept", pause=0.01)
    airflow.kill("triggerer")
    assert [event["event_id"] for event in watched.progress()["unacknowledged"]] == [watched.events()[1]["event_id"]]
    third = baskets.leave(2)
    airflow.start("triggerer")
    watched.wait_until_emitted(third)
    watched.wait_until_done()
    assert set(second) <= watched.emitted()
    [again] = [event for event, times in Counter(json.dumps(event) for event in watched.events()).items() if times > 1]
    assert set(json.loads(again)["ids"]) == set(second)

    # Killed at any moment.
    left = first + second + third
    for _ in range(3):
        left += baskets.leave(random.randint(1, 3))
        time.sleep(random.uniform(0, 3))
        airflow.kill("triggerer")
        left += baskets.leave(random.randint(0, 2))
        airflow.start("triggerer")
        time.sleep(random.uniform(5, 9))
    watched.wait_until_emitted(left)
    watched.wait_until_done()

    assert watched.emitted() == set(left)
    told = {event["event_id"]: event for event in watched.events()}
    assert all(event == told[event["event_id"]] for event in watched.events())
    assert sorted(identity for event in told.values() for identity in event["ids"]) == sorted(left)
    assert set(airflow.runs(DAG).values()) == {"success"}, airflow.logs()[-5000:]
    with duckdb.connect(str(warehouse), read_only=True) as database:
        handed = [identity for (identity,) in database.execute("SELECT id FROM basket_follow_ups").fetchall()]
    assert sorted(handed) == sorted(left)
    # A run whose news another run had does nothing.
    handed_over = "SELECT state, count(*) FROM task_instance WHERE dag_id = %s AND task_id = 'hand_over' GROUP BY state"
    states = dict(airflow.query(handed_over, DAG))
    assert states["success"] == len(set(watched.claims().values()))

    dump, logs = airflow.dump(), airflow.logs()
    assert left[0] in dump
    assert baskets.email not in logs
    assert baskets.email not in dump
