# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A whole Airflow: api-server, scheduler with its workers, dag-processor and triggerer, each a process, on Postgres."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import psycopg
import requests
from cryptography.fernet import Fernet

from tests.support.airflow_home import AirflowHome

EXAMPLES = Path(__file__).resolve().parents[2] / "dags_examples"
PARTS = ("api-server", "scheduler", "dag-processor", "triggerer")
PORTS = 4
"""Ports of one Airflow: three that it listens on, and one that keeps others away."""
SEATS = 3000
"""How many Airflows there are ports for."""


def database_url(database: Mapping[str, Any]) -> str:
    """Give the address of a Postgres database, out of the fields of a connection."""
    return f"postgresql+psycopg2://{database['login']}@/{database['schema']}?host={database['host']}"


def take_ports() -> tuple[socket.socket, list[int]]:
    """Find ports that no other test takes as long as the socket, which is the first of them, is held."""
    # Below the ports that a system gives to outgoing connections: one of those could be taken at any time.
    for number in range(SEATS):
        first = 20_000 + (os.getpid() + number) % SEATS * PORTS
        guard, *others = [socket.socket() for _ in range(PORTS)]
        try:
            guard.bind(("127.0.0.1", first))
            for port, one in enumerate(others, first + 1):
                one.bind(("", port))
        except OSError:
            guard.close()
            continue
        finally:
            for one in others:
                one.close()
        return guard, list(range(first + 1, first + PORTS))
    raise OSError("no free ports")


@dataclass(frozen=True)
class Task:
    """A task of a run, as the metadata database has it.

    :param told: what its trigger has told it (``next_kwargs``).
    """

    state: str | None
    tries: int
    xcom: Any
    told: Any
    trigger_id: int | None


@dataclass(frozen=True)
class Run:
    """A run and its tasks."""

    state: str
    tasks: dict[str, Task]


class WholeAirflow:
    """All parts of Airflow, from ``start`` to ``stop`` or as a context manager.

    :param home: where Dags, logs and what the parts print are.
    :param database: a migrated metadata database, as the fields of a Postgres connection.
    :param settings: more environment variables for all parts.
    """

    parts: tuple[str, ...] = PARTS
    """What it is made of."""

    def __init__(self, home: AirflowHome, database: Mapping[str, Any], **settings: str) -> None:
        self.home = home
        self._fernet_key = Fernet.generate_key().decode()
        self._database = database
        self._guard, (api, workers, triggers) = take_ports()
        self.url = f"http://127.0.0.1:{api}"
        self._api = requests.Session()
        self._api.trust_env = False
        self._parts: dict[str, subprocess.Popen[bytes]] = {}
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._connecting = threading.Lock()
        # Where there is none, all parts write one at the same time.
        (home.path / "airflow.cfg").touch()
        self._settings = {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url(database),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_SIZE": "3",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(api),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "3",
            "AIRFLOW__CORE__FERNET_KEY": self._fernet_key,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(workers),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(triggers),
            "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "1",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
            "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "4",
            **settings,
        }

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self, *parts: str) -> None:
        """Start parts; all of them where none is named."""
        for part in parts or self.parts:
            assert part not in self._parts, f"{part} is running already"
            self._parts[part] = self.home.service(part, **self._settings)

    def kill(self, part: str) -> None:
        """End a part and all processes that it has started, at once and without warning (SIGKILL)."""
        process = self._parts.pop(part)
        # Its session, not only its group: the supervisor of a task gives each task's process a group of its own.
        while alive := processes_of_session(process.pid):
            for one in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            process.poll()
            time.sleep(0.02)
        process.wait(timeout=30)

    def stop(self) -> None:
        """End all parts; nothing of them stays."""
        for part in list(self._parts):
            self.kill(part)
        if self._connection is not None:
            self._connection.close()
        self._api.close()
        self._guard.close()

    def __enter__(self) -> WholeAirflow:
        """Start all parts, and wait until they are healthy."""
        try:
            self.start()
            self.wait_until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop."""
        self.stop()

    def wait_until_healthy(self, *, seconds: float = 180) -> None:
        """Wait until the api-server answers and says that all parts are well."""
        expected = {"metadatabase", *(part.replace("-", "_") for part in self.parts if part != "api-server")}

        def healthy() -> bool:
            try:
                parts = self._api.get(f"{self.url}/api/v2/monitor/health", timeout=10).json()
            except requests.RequestException:
                return False
            return all(parts[name]["status"] == "healthy" for name in expected)

        self.wait_for(healthy, "all parts are healthy", seconds=seconds)

    def wait_for(self, what: Callable[[], Any], name: str, *, seconds: float = 300, pause: float = 0.4) -> None:
        """Wait until something is true; fail, with what the parts have printed, where it does not become so or a part ends.

        Several threads may wait, and one of them may kill parts and start them again.
        """
        end = time.monotonic() + seconds
        while not what():
            ended = [part for part, process in list(self._parts.items()) if process.poll() is not None]
            if ended or time.monotonic() > end:
                why = f"ended: {', '.join(ended)}" if ended else f"not within {seconds:.0f} s"
                tails = [f"== {part}\n{self.printed(part)[-3000:]}" for part in ended or list(self._parts)]
                raise AssertionError("\n".join([f"{name}: {why}", *tails]))
            time.sleep(pause)

    # -- what one does with it -------------------------------------------------------------------------------------

    def log_in(self, user: str, password: str, *, session: requests.Session | None = None) -> None:
        """Log a session in, and the one that is used here if none is given."""
        reply = self._api.post(f"{self.url}/auth/token", json={"username": user, "password": password}, timeout=60)
        assert reply.ok, reply.text
        (session or self._api).cookies.set("_token", reply.json()["access_token"])

    def add_connection(self, conn_id: str, text: str) -> None:
        """Keep a connection, given in its JSON form, in the metadata database."""
        fields = json.loads(text)
        if "extra" in fields:
            fields["extra"] = json.dumps(fields["extra"])
        self._ask("POST", "connections", connection_id=conn_id, **fields)

    def write_example(self, name: str, *changes: tuple[str, str], dag_file: str | None = None) -> None:
        """Let there be an example Dag.

        :param changes: words of it, and what stands in their place.
        :param dag_file: another name for its file.
        """
        text = (EXAMPLES / name).read_text()
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        (self.home.path / "dags" / (dag_file or name)).write_text(text)

    def unpause(self, dag_id: str) -> None:
        """Let a Dag's runs begin; waits until the Dag's file has been read."""
        self.wait_for(lambda: self.query("SELECT 1 FROM dag WHERE dag_id = %s AND NOT is_stale", dag_id), f"{dag_id} is read")
        self._ask("PATCH", f"dags/{dag_id}", is_paused=False)

    def trigger(self, dag_id: str, *, conf: Mapping[str, Any] | None = None, logical_date: datetime | None = None) -> str:
        """Make a run, and give its id."""
        when = None if logical_date is None else logical_date.isoformat()
        run_id: str = self._ask("POST", f"dags/{dag_id}/dagRuns", logical_date=when, conf=dict(conf or {}))["dag_run_id"]
        return run_id

    def clear(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Clear a task of a run, and those after it."""
        what = {"dry_run": False, "dag_run_id": run_id, "task_ids": [task_id], "include_downstream": True, "only_failed": False}
        self._ask("POST", f"dags/{dag_id}/clearTaskInstances", **what)

    def form(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1) -> dict[str, Any]:
        """Wait until a task asks a person, and give its form."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/{map_index}/hitlDetails"
        name = task_id if map_index < 0 else f"{task_id}[{map_index}]"
        asks = {"awaiting_input", "deferred"}  # from Airflow 3.3 on, and before

        def state() -> str | None:
            task = self.run(dag_id, run_id).tasks.get(name)
            return task and task.state

        self.wait_for(lambda: state() in asks | {"failed", "success", "upstream_failed"}, f"{name} asks")
        assert state() in asks, self.task_log(run_id, "*")[-4000:]
        # An answer before the scheduler has read that the task's process ended makes Airflow take the task for a lost one.
        task = self._ask("GET", path.removesuffix("/hitlDetails"))
        key = f"task_id='{task_id}', run_id='{run_id}', try_number={task['try_number']}, map_index={map_index})"
        event = f"state success for task instance TaskInstanceKey(dag_id='{dag_id}', {key}"
        self.wait_for(lambda: event in self.printed("scheduler"), f"the scheduler sees that {name} waits")
        found: dict[str, Any] = self._ask("GET", path)
        return found

    def answer(self, dag_id: str, run_id: str, task_id: str, *, option: str, map_index: int = -1, **fields: Any) -> None:
        """Answer a task's form, as the page of Airflow does."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/{map_index}/hitlDetails"
        self._ask("PATCH", path, chosen_options=[option], params_input=fields)

    def _ask(self, method: str, path: str, **body: Any) -> Any:
        reply = self._api.request(method, f"{self.url}/api/v2/{path}", json=body or None, timeout=60)
        assert reply.ok, f"{method} {path}: {reply.status_code} {reply.text}"
        return reply.json()

    # -- what one sees of it ---------------------------------------------------------------------------------------

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the metadata database."""
        return self._database_connection().execute(sql, values).fetchall()

    def runs(self, dag_id: str) -> dict[str, str]:
        """Give the state of each run of a Dag."""
        return dict(self.query("SELECT run_id, state FROM dag_run WHERE dag_id = %s", dag_id))

    def run(self, dag_id: str, run_id: str) -> Run:
        """Give a run and its tasks."""
        where = (dag_id, run_id)
        [(state,)] = self.query("SELECT state FROM dag_run WHERE dag_id = %s AND run_id = %s", *where)
        xcoms = self.query(
            "SELECT task_id, map_index, value FROM xcom WHERE dag_id = %s AND run_id = %s AND key = 'return_value'", *where
        )
        values = {(task, index): json.loads(value) if isinstance(value, str) else value for task, index, value in xcoms}
        tasks = self.query(
            "SELECT task_id, map_index, state, try_number, next_kwargs, trigger_id FROM task_instance "
            "WHERE dag_id = %s AND run_id = %s",
            *where,
        )
        return Run(
            state=state,
            tasks={
                task if index < 0 else f"{task}[{index}]": Task(
                    state=state, tries=tries, xcom=values.get((task, index)), told=told, trigger_id=trigger
                )
                for task, index, state, tries, told, trigger in tasks
            },
        )

    def plain(self, stored: str) -> str:
        """Read what the metadata database has encrypted. The arguments of a task's trigger are plain JSON in it already."""
        return stored if stored.startswith("{") else Fernet(self._fernet_key).decrypt(stored.encode()).decode()

    def dump(self) -> str:
        """Give all that is in the metadata database, as text; what is packed there is unpacked."""
        return "\n".join(
            f"{table}: {' | '.join(_as_text(value) for value in row)}"
            for (table,) in self.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            for row in self.query(f'SELECT * FROM "{table}"')
        )

    def printed(self, part: str) -> str:
        """Give what a part has printed."""
        log = self.home.path / f"{part}.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def task_log(self, run_id: str, task_id: str) -> str:
        """Give what a task has logged, in all its tries and in the triggerer."""
        return self._logs(f"*/run_id={run_id}/task_id={task_id}/**/*")

    def logs(self) -> str:
        """Give all that any part has printed, and all that is in the folder of logs."""
        return "\n".join([*map(self.printed, self.parts), self._logs("**/*")])

    def _logs(self, pattern: str) -> str:
        files = sorted(path for path in (self.home.path / "logs").glob(pattern) if path.is_file())
        return "\n".join(path.read_text(errors="replace") for path in files)

    def _database_connection(self) -> psycopg.Connection[tuple[Any, ...]]:
        with self._connecting:
            if self._connection is None:
                where = {"host": self._database["host"], "user": self._database["login"], "dbname": self._database["schema"]}
                self._connection = psycopg.connect(**where, autocommit=True)
            return self._connection


def processes_of_session(leader: int) -> list[int]:
    """Give the processes of a session that still run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        with contextlib.suppress(zlib.error):
            value = zlib.decompress(value)
        return value.decode(errors="replace")
    return json.dumps(value, default=str) if isinstance(value, (dict, list)) else str(value)
