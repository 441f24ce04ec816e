# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Orders are waited for: a real scheduler, real workers, a real triggerer that is killed meanwhile."""

from __future__ import annotations

import json
from collections import Counter

from limio_limitrail.emulator import Call, EmulatorServer
from tests.support.airflow_whole import WholeAirflow
from tests.support.situations.hidden import secrets_of

DAG = "limio_order_wait"
CONN_ID = "limio_default"
RETRIES = 'default_args={"retries": 2, "retry_delay": 1}'
"""So that a task that fails once and for all can be told from one that may be tried again."""


class Orders:
    """Process events at the emulator, and how often each was looked at."""

    def __init__(self, emulator: EmulatorServer) -> None:
        self._emulator = emulator
        self._statuses: dict[str, str] = {}
        self.looks: Counter[str] = Counter()
        emulator.on_request(self._note)
        self.show()

    def _note(self, call: Call) -> None:
        self.looks[call.path.rpartition("/")[2]] += 1

    def show(self, **statuses: str) -> None:
        """Let process events have these statuses from now on; all others are not there."""
        self._statuses |= statuses
        records = [{"id": name, "status": status, "record_type": "process"} for name, status in self._statuses.items()]
        self._emulator.put_records("objects/limio/process", records)


class Runs:
    """One run of the example for each process event."""

    def __init__(self, airflow: WholeAirflow, orders: Orders, *names: str) -> None:
        self.airflow = airflow
        self.orders = orders
        self.ids = {name: airflow.trigger(DAG, conf={"process_id": name}) for name in names}

    def __getitem__(self, name: str):
        return self.airflow.run(DAG, self.ids[name])

    def wait_until_deferred(self, *names: str) -> None:
        self.airflow.wait_for(
            lambda: all(self[name].tasks["processed"].state == "deferred" for name in names), f"deferred: {names}"
        )

    def wait_until_looked_at(self, *names: str) -> None:
        """Wait for two more looks: the first of them may have been under way before this was called."""
        before = self.orders.looks.copy()
        self.airflow.wait_for(lambda: all(self.orders.looks[name] >= before[name] + 2 for name in names), f"looked at: {names}")

    def wait_until_ended(self, *names: str) -> None:
        self.airflow.wait_for(lambda: all(self[name].state in ("success", "failed") for name in names), f"ended: {names}")

    def trigger_of(self, name: str) -> tuple[int, str, int | None]:
        """Give the id of what waits for it, its stored arguments, and which triggerer has it."""
        [found] = self.airflow.query(
            "SELECT id, kwargs, triggerer_id FROM trigger WHERE id = %s", self[name].tasks["processed"].trigger_id
        )
        return found


def check_success(runs: Runs, name: str) -> None:
    run = runs[name]
    assert run.state == "success", (name, run)
    assert {task: found.state for task, found in run.tasks.items()} == {"processed": "success", "hand_over": "success"}
    assert {found.tries for found in run.tasks.values()} == {1}
    assert run.tasks["processed"].xcom == {"path_type": "process", "id": name, "status": "processed"}
    assert f"{name} is processed" in runs.airflow.task_log(runs.ids[name], "hand_over")


def check_failure(runs: Runs, name: str) -> None:
    run = runs[name]
    assert run.state == "failed", (name, run)
    assert {task: found.state for task, found in run.tasks.items()} == {"processed": "failed", "hand_over": "upstream_failed"}
    assert run.tasks["processed"].tries == 1
    assert run.tasks["processed"].xcom is None
    why = f"process/{name} to be processed: its status is 'failed', and no target status can be reached any more."
    log = runs.airflow.task_log(runs.ids[name], "processed")
    assert f'"exc_type":"AirflowFailException","exc_value":"{why}"' in log


def check_arguments(runs: Runs, name: str, hidden: set[str]) -> None:
    _, stored, _ = runs.trigger_of(name)
    plain = runs.airflow.plain(stored)
    arguments = json.loads(plain)
    assert arguments["limio_conn_id"] == "limio_default"
    assert arguments["condition"]["object_id"] == name
    assert arguments["poke_interval"] == 1.0
    assert [text for text in hidden if text in plain] == []


def check_orders(airflow: WholeAirflow, emulator: EmulatorServer) -> None:
    orders = Orders(emulator)
    quick = ("poke_interval=30", "poke_interval=1")
    airflow.write_example("limio_order_wait.py", quick, ("schedule=None,", f"schedule=None, {RETRIES},"))
    airflow.unpause(DAG)

    runs = Runs(airflow, orders, "event-good", "event-bad", "event-moved", "event-missed")
    runs.wait_until_deferred(*runs.ids)
    runs.wait_until_looked_at(*runs.ids)
    for name in runs.ids:
        check_arguments(runs, name, secrets_of(emulator))

    orders.show(**dict.fromkeys(runs.ids, "submitted"))
    runs.wait_until_looked_at(*runs.ids)
    runs.wait_until_deferred(*runs.ids)

    orders.show(**{"event-good": "processed", "event-bad": "failed"})
    runs.wait_until_ended("event-good", "event-bad")
    check_success(runs, "event-good")
    check_failure(runs, "event-bad")

    [trigger, arguments, triggerer] = runs.trigger_of("event-moved")
    airflow.kill("triggerer")
    orders.show(**{"event-missed": "processed"})
    airflow.start("triggerer")
    runs.wait_until_ended("event-missed")
    runs.wait_until_looked_at("event-moved")
    runs.wait_until_deferred("event-moved")
    assert runs.trigger_of("event-moved")[:2] == (trigger, arguments)
    assert runs.trigger_of("event-moved")[2] not in (None, triggerer)
    orders.show(**{"event-moved": "processed"})
    runs.wait_until_ended("event-moved")
    check_success(runs, "event-missed")
    check_success(runs, "event-moved")
    left = "SELECT count(*) FROM trigger WHERE classpath LIKE 'limio_limitrail.%%'"
    airflow.wait_for(lambda: airflow.query(left) == [(0,)], "no trigger is left")
    assert set(airflow.runs(DAG)) == set(runs.ids.values())

    # What is sure to be there is found, so that what must not be there would be.
    dump, logs = airflow.dump(), airflow.logs()
    for name in runs.ids:
        assert name in dump
        assert name in logs
    assert emulator.client_id in dump
    [(password,)] = airflow.query("SELECT password FROM connection WHERE conn_id = %s", CONN_ID)
    assert airflow.plain(password) == emulator.client_secret
