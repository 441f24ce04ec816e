# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""An Airflow that is spread out: CeleryExecutor, Redis for a broker, and workers that may be killed one by one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.support.airflow_home import AirflowHome
from tests.support.airflow_whole import WholeAirflow, database_url, processes_of_session

SLOTS = 4
"""Tasks that one worker runs at once."""
WORKERS = ("worker-1", "worker-2")
NO_REDIS = "redis-server is not on this machine: install the package redis-server"


@contextlib.contextmanager
def start_redis() -> Iterator[str]:
    """A Redis of one's own on a socket, which keeps nothing, for as long as the block lasts; gives its address for Celery."""
    program = shutil.which("redis-server")
    if program is None:
        raise FileNotFoundError(NO_REDIS)
    # Not below the test's folder: the path of a socket may have a hundred characters.
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    place = folder / "redis.sock"
    settings = {"port": "0", "unixsocket": str(place), "dir": str(folder), "save": "", "appendonly": "no", "daemonize": "no"}
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            [program, *(word for name, value in settings.items() for word in (f"--{name}", value))],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 30
        while not place.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"Redis did not start: {(folder / 'redis.log').read_text()[-2000:]}")
            time.sleep(0.05)
        yield f"redis+socket://{place}"
    finally:
        process.kill()
        process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


class CeleryAirflow(WholeAirflow):
    """An Airflow whose tasks run on workers that are started and killed one by one.

    :param broker: the address of Redis.
    """

    parts = ("api-server", "scheduler", "dag-processor")

    def __init__(self, home: AirflowHome, database: Mapping[str, Any], *, broker: str, **settings: str) -> None:
        super().__init__(
            home,
            database,
            AIRFLOW__CORE__EXECUTOR="CeleryExecutor",
            AIRFLOW__CORE__PARALLELISM="32",
            AIRFLOW__CELERY__BROKER_URL=broker,
            AIRFLOW__CELERY__RESULT_BACKEND=f"db+{database_url(database)}",
            AIRFLOW__CELERY__WORKER_CONCURRENCY=str(SLOTS),
            AIRFLOW__CELERY__SYNC_PARALLELISM="1",
            # A worker that is gone shows after so long: the usual five minutes would be too long for a test.
            AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL="2",
            AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT="15",
            AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL="2",
            # What a worker was handed and had not begun with goes to another one after so long.
            AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT="30",
            **settings,
        )
        self._orphaned: list[int] = []
        # One port for the logs of each worker: there is no triggerer.
        self._log_ports = dict(
            zip(
                WORKERS,
                (self._settings[f"AIRFLOW__LOGGING__{one}_LOG_SERVER_PORT"] for one in ("WORKER", "TRIGGER")),
                strict=True,
            )
        )

    @property
    def workers(self) -> list[str]:
        """Those that run."""
        return [name for name in WORKERS if name in self._parts]

    def have_workers(self, count: int) -> None:
        """Start or kill workers, until there are as many, and wait until they take tasks."""
        for name in self.workers[count:]:
            self.kill(name)
        begun = {name: len(self.printed(name)) for name in WORKERS[:count] if name not in self._parts}
        for name in begun:
            self._parts[name] = self.home.service(
                "celery",
                "worker",
                "--celery-hostname",
                f"{name}@%h",
                "--pid",
                str(self.home.path / f"{name}.pid"),
                name=name,
                **{**self._settings, "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": self._log_ports[name]},
            )
        self.wait_for(lambda: all(" ready." in self.printed(name)[start:] for name, start in begun.items()), "workers are ready")

    def kill(self, part: str) -> None:
        super().kill(part)
        (self.home.path / f"{part}.pid").unlink(missing_ok=True)

    def kill_all_but_tasks(self, worker: str, dag_id: str, run_id: str) -> dict[str, int]:
        """Kill a worker and what watches over its tasks, as a machine without memory may.

        Gives the tasks, which go on, and their processes.
        """
        process = self._parts.pop(worker)
        mine = self._tasks_of(process.pid, dag_id, run_id)
        self._orphaned.append(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
        (self.home.path / f"{worker}.pid").unlink(missing_ok=True)
        return {name: pid for name, pid in mine.items() if lives(pid)}

    def stop(self) -> None:
        super().stop()
        for leader in self._orphaned:
            for one in processes_of_session(leader):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)

    def clear(self, dag_id: str, run_id: str, *tasks: str) -> None:
        """Have tasks made again, as a person does it on Airflow's page."""
        named = [name.rstrip("]").split("[") for name in tasks]
        ids = [[task, int(index)] for task, index in named]
        self._ask("POST", f"dags/{dag_id}/clearTaskInstances", dag_run_id=run_id, task_ids=ids, only_failed=False, dry_run=False)
        self.wait_for(lambda: self.runs(dag_id)[run_id] not in ("success", "failed"), "the run goes on")

    def tasks_on(self, worker: str, dag_id: str, run_id: str) -> dict[str, int]:
        """Give the tasks of a run that run on a worker now, and their processes."""
        return self._tasks_of(self._parts[worker].pid, dag_id, run_id)

    def _tasks_of(self, session: int, dag_id: str, run_id: str) -> dict[str, int]:
        """The same for the session of a worker that may be gone."""
        processes = set(processes_of_session(session))
        return {name: pid for name, pid in self._running(dag_id, run_id) if pid in processes}

    def lost_tasks(self, dag_id: str, run_id: str) -> set[str]:
        """Give the tasks of a run that are said to be running, and whose process is gone."""
        return {name for name, pid in self._running(dag_id, run_id) if not lives(pid)}

    def tasks_with_state(self, dag_id: str, run_id: str) -> set[str]:
        """Give the tasks of a run that have kept something for their next try."""
        found = self.query("SELECT task_id, map_index FROM task_state_store WHERE dag_id = %s AND run_id = %s", dag_id, run_id)
        return {_name(task, index) for task, index in found}

    def _running(self, dag_id: str, run_id: str) -> list[tuple[str, int]]:
        found = self.query(
            "SELECT task_id, map_index, pid FROM task_instance WHERE dag_id = %s AND run_id = %s AND state = 'running'",
            dag_id,
            run_id,
        )
        return [(_name(task, index), pid) for task, index, pid in found if pid]


def _name(task: str, map_index: int) -> str:
    return task if map_index < 0 else f"{task}[{map_index}]"


def lives(pid: int) -> bool:
    """Tell whether a process runs. One that was killed may stay in the list of processes for a while."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
