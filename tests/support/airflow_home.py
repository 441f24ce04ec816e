# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""An Airflow home with a migrated database, and a process that runs Dags in it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "COV_", "PYTEST_"))}
    return {
        **own,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        # Airflow's in-process API needs one if another was closed before it in the same process.
        "AIRFLOW__API_AUTH__JWT_SECRET": "a-secret-of-tests-only",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "TMPDIR": str(home / "tmp"),
        "PYTHONPATH": str(ROOT),
        **(more or {}),
    }


def make_template(folder: Path, **more: str) -> Path:
    """Migrate a database once; homes are copies of it.

    :param more: environment variables, such as those of a database elsewhere.
    """
    home = folder / "airflow-template"
    (home / "dags").mkdir(parents=True)
    (home / "tmp").mkdir()
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(command, env=environment(home, more), check=True, capture_output=True, timeout=800)
    # It holds the template's own paths.
    (home / "airflow.cfg").unlink(missing_ok=True)
    return home


@dataclass
class Outcome:
    """How a command ended.

    :param code: the process's exit code; minus the signal where one ended it.
    :param result: what it answered.
    """

    code: int
    result: dict[str, Any] = field(default_factory=dict)

    def task(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.result["tasks"][name]
        return found


class AirflowProcess:
    """A process that has Airflow imported, and forks for each command.

    Where one listens in the template's folder already, this is a fork of it: several test processes can share what it has
    imported. It ends when the process that has started it calls `stop`; the forks go on.

    :param template: the Airflow home that it is in. Only one process at a time may make one for it.
    """

    def __init__(self, template: Path) -> None:
        self._noise = template.parent / "process.log"
        self._listener: subprocess.Popen[bytes] | None = None
        address = template.parent / "process"
        self._connection = socket.socket(socket.AF_UNIX)
        try:
            self._connection.connect(str(address))
        except (FileNotFoundError, ConnectionRefusedError):
            self._listener = self._start(template, address=address)
            self._connection.connect(str(address))
        self._answers = self._connection.makefile("r")

    def _start(self, template: Path, *, address: Path) -> subprocess.Popen[bytes]:
        address.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.support.airflow_process", str(address)]
        with self._noise.open("w") as noise:
            process = subprocess.Popen(command, env=environment(template), stdin=subprocess.PIPE, stdout=noise, stderr=noise)
        while not address.exists():
            if process.poll() is not None:
                raise self._ended()
            time.sleep(0.05)
        return process

    def ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        self._connection.sendall(json.dumps(command, default=str).encode() + b"\n")
        answer = self._answers.readline()
        if not answer:
            raise self._ended()
        reply: dict[str, Any] = json.loads(answer)
        return reply

    def _ended(self) -> AssertionError:
        return AssertionError("the Airflow process has ended: " + self._noise.read_text(errors="replace")[-4000:])

    def stop(self) -> None:
        self._answers.close()
        self._connection.close()
        if self._listener is not None:
            self._listener.communicate(timeout=600)


class AirflowHome:
    """One test's own Airflow.

    :param process: what runs commands; none where only services are started.
    """

    def __init__(
        self, process: AirflowProcess | None, template: Path, home: Path, connections: Mapping[str, Mapping[str, Any] | str]
    ) -> None:
        shutil.copytree(template, home)
        self.path = home
        names = {
            f"AIRFLOW_CONN_{name.upper()}": text if isinstance(text, str) else json.dumps(text)
            for name, text in connections.items()
        }
        own = environment(home, names)
        self._environment = {name: own[name] for name in own if name.startswith("AIRFLOW") or name == "TMPDIR"}
        self._process = process

    def set(self, name: str, value: str) -> None:
        """Set an environment variable for what runs from now on."""
        self._environment[name] = value

    def connect(self, connections: Mapping[str, Mapping[str, Any]]) -> None:
        """Let what runs from now on know connections, by their ids."""
        for name, fields in connections.items():
            self.set(f"AIRFLOW_CONN_{name.upper()}", json.dumps(fields))

    def write_dag(self, text: str, *, dag_id: str = "pull", name: str = "dag_file") -> None:
        """Write a Dag; the text is the inside of its ``with``."""
        inside = textwrap.indent(textwrap.dedent(text).strip("\n"), "    ")
        (self.path / "dags" / f"{name}.py").write_text(
            "from datetime import datetime, timedelta\n"
            "from airflow.sdk import DAG, Asset, task\n"
            "from limio_limitrail.api.resource import Resource\n"
            "from limio_limitrail.transfers import Check\n"
            "from limio_limitrail.usage import Column, Json, Text\n"
            "from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator\n"
            "from limio_limitrail.operators.limitrail_approve import LimitRailApproveUsageOperator\n"
            "from limio_limitrail.operators.limitrail_ledger import LimitRailSettleUsageOperator\n"
            "from limio_limitrail.operators.limitrail_reconcile import LimitRailReconcileUsageOperator\n"
            "from limio_limitrail.sensors.limio import LimioObjectSensor, LimioResourceSensor\n"
            "from limio_limitrail.sensors.limitrail import LimitRailResourceSensor\n"
            "from limio_limitrail.transfers.limio_to_dlt import LimioToDltOperator\n"
            "from limio_limitrail.transfers.limio_to_object_storage import LimioToObjectStorageOperator\n"
            "from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator\n"
            "from limio_limitrail.transfers.limitrail_to_dlt import LimitRailToDltOperator\n"
            "from limio_limitrail.transfers.limitrail_to_object_storage import LimitRailToObjectStorageOperator\n"
            "from limio_limitrail.transfers.limitrail_to_sql import LimitRailToSqlOperator\n"
            "NOW = timedelta(0)\n"
            f"with DAG({dag_id!r}, schedule=None, start_date=datetime(2026, 1, 1)) as dag:\n{inside}\n"
        )

    def do(self, command: str, *args: Any, **kwargs: Any) -> Outcome:
        """Run a command of `airflow_process` in a fork of its own."""
        return self._outcome(self._process.ask(self._command(command, *args, **kwargs)))

    def begin(self, command: str, *args: Any, **kwargs: Any) -> int:
        """Begin with a command, and give the fork's process id; `join` waits for its end."""
        pid: int = self._process.ask({**self._command(command, *args, **kwargs), "beside": True})["pid"]
        return pid

    def join(self, pid: int) -> Outcome:
        """Wait for the end of what `begin` began."""
        return self._outcome(self._process.ask({"do": "join", "pid": pid}))

    def _command(self, command: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"do": command, "args": args, "kwargs": kwargs, "timeout": 800, "environment": self._environment}

    def _outcome(self, reply: Mapping[str, Any]) -> Outcome:
        assert reply["code"] <= 0, self.output()[-6000:]
        return Outcome(code=reply["code"], result=reply["result"] or {})

    def run(self, dag_id: str = "pull", **kwargs: Any) -> Outcome:
        """Run a whole Dag."""
        return self.do("run_dag", dag_id, **kwargs)

    def command(self, *words: str, text: str = "") -> tuple[int, str, str]:
        """Run an ``airflow`` command; return its exit code, its output and what it has written for people."""
        found = self.do("command_line", *words, text=text).result
        return found["code"], found["out"], found["err"]

    def commands(self, lines: Sequence[Sequence[str]]) -> list[tuple[int, str, str]]:
        """Run several commands; return what `command` does of each."""
        return [(found["code"], found["out"], found["err"]) for found in self.do("command_lines", lines).result]

    def attempt(self, task_id: str, *, run_id: str = "one", dag_id: str = "pull", **kwargs: Any) -> Outcome:
        """Try a task once."""
        return self.do("attempt", dag_id, task_id=task_id, run_id=run_id, **kwargs)

    def service(self, command: str, *arguments: str, name: str | None = None, **environment: str) -> subprocess.Popen[bytes]:
        """Start one of Airflow's own processes, in a session of its own.

        :param name: of the file that it prints into; else the command's.
        """
        with (self.path / f"{name or command}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "airflow", command, *arguments],
                env={**os.environ, **self._environment, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def output(self) -> str:
        """Give everything that was printed and logged."""
        log = self.path / "output.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def forget_output(self) -> None:
        with (self.path / "output.log").open("w"):
            pass
