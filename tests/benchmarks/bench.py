# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A triggerer full of deferred sensors, and the emulator that they look at; the sensors that are compared."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.airflow_home import AirflowHome, AirflowProcess, make_template

LATENCY = 0.05
DAGS = 10
CLIENT_ID, CLIENT_SECRET = "bench", "bench-secret"
TICK = os.sysconf("SC_CLK_TCK")
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
BLOCKED = re.compile(r"async thread was blocked for ([0-9.]+) seconds")


@dataclass(frozen=True, kw_only=True)
class Side:
    """A sensor, and how it is used.

    :param connections: its connections, by id, given the emulator's URL.
    :param task: the code that makes the task of a ``number``, given what mints a token.
    """

    connections: Callable[[str], dict[str, dict[str, str]]]
    task: Callable[[Callable[[], str]], str]


OWN = Side(
    connections=lambda url: {"limio_default": {"conn_type": "limio", "host": url, "login": CLIENT_ID, "password": CLIENT_SECRET}},
    task=lambda _: (
        """
        LimioObjectSensor(
            task_id=f"wait_{number}", path_type="orders", object_id=f"order-{number}", target_statuses=["active"]
        )
        """
    ),
)
HTTP = Side(
    connections=lambda url: {"http_default": {"conn_type": "http", "host": url}},
    task=lambda mint: (
        f"""
        from airflow.providers.http.sensors.http import HttpSensor
        HttpSensor(
            task_id=f"wait_{{number}}",
            endpoint=f"/api/objects/limio/orders/order-{{number}}",
            headers={{"Authorization": "Bearer {mint()}"}},
        )
        """
    ),
)
IDLE = Side(
    connections=lambda _: {},
    task=lambda _: (
        """
        from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
        DateTimeSensorAsync(task_id=f"wait_{number}", target_time="2099-01-01T00:00:00+00:00")
        """
    ),
)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What processes use.

    :param seconds: processor time of all of them.
    :param memory: MiB of each, in the order in which they began: the supervisor, the server of logs, the runner of triggers.
    """

    seconds: float
    memory: list[float]


class Emulator:
    """The emulator, in a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "limio_limitrail.emulator", "--port", "0"]
        command += ["--client-id", CLIENT_ID, "--client-secret", CLIENT_SECRET]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[-1]

    def ask(self, path: str, body: object = None) -> dict[str, Any]:
        """Ask its control."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_emulator/{path}", data=data, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def mint(self) -> str:
        """Mint a token."""
        form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        data = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(f"{self.url}/oauth2/token", data=data, timeout=60) as answer:
            return json.load(answer)["access_token"].removeprefix("Bearer ")

    def put_orders(self, number: int) -> None:
        """Make so many orders appear, and no others."""
        self.ask("records/objects/limio/orders", [{"id": f"order-{one}", "status": "active"} for one in range(number)])

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


class Bench:
    """A triggerer in which sensors wait."""

    def __init__(self, emulator: Emulator, home: AirflowHome, triggerer: subprocess.Popen[bytes]) -> None:
        self.emulator = emulator
        self._home = home
        self._triggerer = triggerer

    def counters(self) -> dict[str, Any]:
        """What the emulator has counted since the triggerer was started."""
        return self.emulator.ask("counters")

    def times(self) -> dict[str, list[float]]:
        """When each path of the API was asked for, among the emulator's last ten thousand requests."""
        times: dict[str, list[float]] = {}
        for entry in self.emulator.ask("counters?log=1")["log"]:
            if entry["path"].startswith("/api"):
                times.setdefault(entry["path"], []).append(entry["at"])
        return times

    def usage(self) -> Usage:
        """What the triggerer's processes use."""
        seconds, memory = 0.0, []
        for pid in sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except OSError:
                continue
            if int(fields[2]) == self._triggerer.pid:
                seconds += (int(fields[11]) + int(fields[12])) / TICK
                memory.append(pages * PAGE_SIZE / 2**20)
        return Usage(seconds=seconds, memory=memory)

    def started(self) -> int:
        """Triggers that have begun to run: each of them writes that into a log of its own."""
        return sum(1 for _ in (self._home.path / "logs").rglob("*.trigger.*.log"))

    def notified(self) -> int:
        """Tasks that have been told by their triggers, and would go on."""
        with closing(sqlite3.connect(self._home.path / "airflow.db", timeout=60)) as database:
            return database.execute("SELECT count(*) FROM task_instance WHERE state = 'scheduled'").fetchone()[0]

    def blocked(self) -> list[float]:
        """The seconds of each warning of Airflow's that the event loop was blocked."""
        text = (self._home.path / "triggerer.log").read_text(errors="replace")
        return [float(found) for found in BLOCKED.findall(text)]

    def logged(self) -> int:
        """Bytes of all logs."""
        files = [self._home.path / "triggerer.log", *(self._home.path / "logs").rglob("*.log")]
        return sum(file.stat().st_size for file in files)


class Homes:
    """Airflow homes, which are copies of one whose database is migrated."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._template = make_template(folder)
        self._process = AirflowProcess(self._template)
        self._made = 0

    def make(self, connections: dict[str, dict[str, str]]) -> AirflowHome:
        """Make another one."""
        self._made += 1
        return AirflowHome(self._process, self._template, self._folder / f"home-{self._made}", connections)

    def stop(self) -> None:
        self._process.stop()


@contextmanager
def bench(homes: Homes, side: Side, *, waits: int, interval: float, faults: Sequence[Mapping[str, Any]] = ()) -> Iterator[Bench]:
    """Start a triggerer and an emulator, with all waits in the state in which their first look has left them.

    :param faults: what goes wrong, besides that each answer takes its time.
    """
    emulator = Emulator()
    try:
        home = homes.make(side.connections(emulator.url))
        task = textwrap.indent(textwrap.dedent(side.task(emulator.mint)), "    ")
        # Airflow reads a whole Dag for each trigger that it starts: with all in one, that alone would take more than a minute.
        for number in range(DAGS):
            dag_id = f"waits_{number}"
            home.write_dag(f"for number in range({number}, {waits}, {DAGS}):\n{task}", dag_id=dag_id, name=dag_id)
        for number in range(DAGS):
            home.do("defer_all", f"waits_{number}", run_id="one", interval=interval, seconds=3600.0)
        emulator.put_orders(0)
        emulator.ask("faults", [{"kind": "latency", "match": "/api", "seconds": LATENCY, "times": None}, *faults])
        emulator.ask("counters/reset", [])
        triggerer = home.service("triggerer", AIRFLOW__TRIGGERER__CAPACITY=str(waits + 100))
        try:
            yield Bench(emulator, home, triggerer)
        finally:
            os.killpg(triggerer.pid, signal.SIGKILL)
            triggerer.wait()
    finally:
        emulator.stop()
