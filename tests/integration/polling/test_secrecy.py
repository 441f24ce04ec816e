# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What Airflow keeps of a wait in its metadata database holds no secret."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from limio_limitrail.emulator import EmulatorServer, Fault
from tests.support.airflow_home import AirflowHome

TASKS = """
common = dict(poke_interval=1, timeout=600, deferrable=True)
LimioObjectSensor(task_id="order", path_type="orders", object_id="not-there", **common)
LimioResourceSensor(task_id="baskets", resource="abandoned_baskets", since="2099-01-01", **common)
LimitRailResourceSensor(task_id="usage", resource="usage", since="2020-01-01", until="2020-01-02", **common)
LimioObjectSensor(task_id="slow", path_type="process", object_id="slow", **common)
"""
WAITING = ("order", "baskets", "usage", "slow")


def rows_of(home: AirflowHome, statement: str) -> list[Any]:
    with closing(sqlite3.connect(home.path / "airflow.db")) as connection:
        return connection.execute(statement).fetchall()


def everything_in(home: AirflowHome) -> Iterable[bytes]:
    """Give the database as it lies on the disk, and every log."""
    for path in sorted(Path(home.path).rglob("*")):
        if path.is_file():
            yield path.read_bytes()


def trigger_kwargs(home: AirflowHome) -> dict[str, str]:
    """Give what each task's trigger is made of. These homes have no key to encrypt it with."""
    joined = "SELECT ti.task_id, t.kwargs FROM task_instance ti JOIN trigger t ON t.id = ti.trigger_id"
    kept = rows_of(home, joined)
    return dict(kept)


def secrets_of(server: EmulatorServer) -> list[str]:
    clients = [client.client_secret for client in server.limitrail.options.clients]
    return [server.client_secret, *clients, *server.minted_tokens, *server.limitrail.tokens]


def wait_everywhere(home: AirflowHome, server: EmulatorServer) -> None:
    server.faults.add(Fault("status", match="/api/objects/limio/process", status=503, times=None))
    home.write_dag(TASKS)
    for task in WAITING:
        assert home.attempt(task).task(task)["state"] == "deferred", home.output()[-3000:]


def test_what_is_kept_of_a_wait(home: AirflowHome, limio_emulator: EmulatorServer) -> None:
    wait_everywhere(home, limio_emulator)
    kept = trigger_kwargs(home)
    assert set(kept) == set(WAITING)
    next_kwargs = dict(rows_of(home, "SELECT task_id, next_kwargs FROM task_instance"))
    secrets = secrets_of(limio_emulator)
    assert len(secrets) >= 3 + len(WAITING)
    for task, text in kept.items():
        assert json.loads(text)
        for secret in secrets:
            assert secret not in text
            assert secret not in str(next_kwargs[task])
        assert not re.search("password|client_secret|Bearer|access_token", text)
    assert "not-there" in kept["order"]
    assert '"failures": 1' in kept["slow"]
    for content in everything_in(home):
        for secret in secrets:
            assert secret.encode() not in content
