# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Run one contestant in this process, and say what it took: ``measure.py MODULE FUNCTION URL FOLDER [DSN]``.

The clock starts after Airflow's own imports, which a task process has behind it; the contestant's own imports count.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path

import airflow.sdk
import airflow.sdk.execution_time.supervisor
import airflow.sdk.execution_time.task_runner  # noqa: F401 - what a task process has imported, which the supervisor forks
from airflow.sdk import BaseOperator, ObjectStoragePath, conf  # noqa: F401 - likewise

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from processes import cpu, peak


def main(module: str, function: str, url: str, folder: str, *dsn: str) -> None:
    run = getattr(importlib.import_module(module), function)
    before, began, used = peak(), time.perf_counter(), cpu()
    rows = run(url, Path(folder), *dsn)
    print(json.dumps({"rows": rows, "seconds": time.perf_counter() - began, "cpu": cpu() - used, "peak": peak(), "bare": before}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
