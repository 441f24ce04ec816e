# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Run one contestant in this process, and say what it took: ``measure.py MODULE FUNCTION URL ROWS IN_FLIGHT``.

The clock starts after all imports: Airflow's own, which a task process has behind it, and the contestant's, told on stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path

import airflow.sdk
import airflow.sdk.execution_time.task_runner  # noqa: F401 - what a task process has imported

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from processes import cpu, peak


def main(module: str, function: str, url: str, rows: str, in_flight: str) -> None:
    bare, began = peak(), time.perf_counter()
    run = getattr(importlib.import_module(module), function)
    imported = time.perf_counter() - began
    began, used = time.perf_counter(), cpu()
    done = run(url, rows=int(rows), in_flight=int(in_flight))
    figures = {"rows": done, "seconds": time.perf_counter() - began, "cpu": cpu() - used, "peak": peak() - bare}
    print(f"imports: {imported:.2f} s", file=sys.stderr)
    print(json.dumps(figures))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
