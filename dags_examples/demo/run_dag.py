# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Run example Dags as ``dag.test()`` does it, in one process of Airflow: each line of stdin is a JSON object.

Its ``dags`` are names of modules, whose Dags run once each; its ``environment`` is set before. After each Dag, its run's id is
printed. The process ends with stdin, or at the first Dag with a task that has failed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path


def warm_up() -> None:
    """Send the in-process API of Airflow its first request, for which it takes seconds, while nothing is asked for yet."""
    import httpx
    from airflow.sdk.execution_time.supervisor import in_process_api_server

    # Airflow 3.2 makes another one for each task.
    if hasattr(in_process_api_server, "cache_info"):
        httpx.Client(transport=in_process_api_server().transport, base_url="http://in-process").get("/health")


def main() -> int:
    """Run what is asked for; return the exit status."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    warm_up()
    for line in sys.stdin:
        asked = json.loads(line)
        os.environ |= asked["environment"]
        for name in asked["dags"]:
            run = importlib.import_module(name).dag.test()
            print(f"run_id={run.run_id}", flush=True)
            if str(run.state) != "success":
                return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # What Airflow does at the end of a process takes seconds, and nothing is left to be done.
    os._exit(status)
