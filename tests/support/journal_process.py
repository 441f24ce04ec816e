# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Try usage tasks, each try in a process of its own that may be killed, without Airflow's supervisor around them.

Airflow is imported once, in the parent. Reads pickled commands from its standard input, each after its length, and answers
likewise. Started by `journal_runs`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import logging
import os
import pickle
import struct
import sys
import traceback
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

from tests.support.airflow_process import arm

PATIENCE = 150
"""Seconds after which a try that hangs says where, and ends."""

LIMITS = {"first_wait": 0.01, "longest_wait": 0.02, "attempts": 3}


def read(source: BinaryIO) -> Any:
    head = source.read(4)
    if len(head) < 4:
        return None
    return pickle.loads(source.read(struct.unpack("!I", head)[0]))


def write(target: BinaryIO, value: Any) -> None:
    data = pickle.dumps(value)
    target.write(struct.pack("!I", len(data)) + data)
    target.flush()


def attempt(command: dict[str, Any]) -> dict[str, Any]:
    """Try the task once, in this process."""
    from airflow.sdk.bases.operator import ExecutorSafeguard
    from airflow.sdk.exceptions import AirflowFailException

    from limio_limitrail.api.retry import RetryLimits
    from limio_limitrail.hooks import connection
    from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator

    ExecutorSafeguard.test_mode = True
    connection.RetryLimits = partial(RetryLimits, **LIMITS)
    os.environ.update(command["environment"])
    operator = LimitRailCommitUsageOperator(task_id=command["task_id"], **command["parameters"])
    xcom: dict[str, Any] = {}
    began = datetime.fromisoformat(command["began"])
    run = SimpleNamespace(
        run_id=command["run_id"],
        dag_id=command["dag_id"],
        logical_date=began,
        queued_at=began,
        start_date=began,
        run_after=began,
        conf={},
        run_type="manual",
    )
    ti = SimpleNamespace(
        dag_id=command["dag_id"],
        task_id=command["task_id"],
        run_id=command["run_id"],
        map_index=-1,
        try_number=command["try_number"],
        start_date=datetime.now(UTC),
        log_url="http://localhost/",
        get_dagrun=lambda: run,
        xcom_push=lambda key, value: xcom.__setitem__(key, value),
    )
    context: Any = {
        "ti": ti,
        "task_instance": ti,
        "dag_run": run,
        "run_id": run.run_id,
        "logical_date": began,
        "outlet_events": {},
        "task": operator,
    }
    if command["kill"]:
        arm(*command["kill"], deadly=True)
    state, error = "success", ""
    try:
        operator.execute(context)
    except AirflowFailException as failure:
        state, error = "failed", str(failure)
    except Exception as failure:  # noqa: BLE001 - Airflow would try the task again
        state, error = "up_for_retry", f"{type(failure).__name__}: {failure}"
    return {"state": state, "error": error, "summary": xcom.get("return_value") or {}, "modules": list(sys.modules)}


def child(command: dict[str, Any]) -> None:
    code = 1
    try:
        log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s", force=True)
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        Path(f"{command['log']}.{os.getpid()}").write_bytes(pickle.dumps(attempt(command)))
        code = 0
    except BaseException:  # noqa: BLE001 - this is the end of the process
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def warm_up() -> None:
    """Import what each fork would import anew; what else it needs, the first ones tell."""
    from airflow.providers_manager import ProvidersManager
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

    ProvidersManager().initialize_providers_hooks()
    assert ProvidersManagerTaskRuntime().hooks


def import_all(names: list[str]) -> None:
    for name in names:
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    # What is there stays there: forks do not copy it when they collect garbage.
    gc.freeze()


def main() -> None:
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    warm_up()
    write(target, "ready")
    while (command := read(source)) is not None:
        if command["do"] == "begin":
            pid = os.fork()
            if pid == 0:
                child(command)
            write(target, pid)
            continue
        _, status = os.waitpid(command["pid"], 0)
        answer = Path(f"{command['log']}.{command['pid']}")
        result = pickle.loads(answer.read_bytes()) if answer.exists() else {}
        answer.unlink(missing_ok=True)
        import_all(result.pop("modules", []))
        write(target, (os.waitstatus_to_exitcode(status), result))


if __name__ == "__main__":
    main()
