# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What it costs that the package is there: ``cost.py [--json FILE]``.

The time to import each module that a Dag file imports, above Airflow's own, on the clock and of the processor, with byte code
that is written already; and of a pull of 1,000 records, the time from the operator's import to its first request, the requests
for tokens, and the look-ups of connections. Airflow has looked up the connection and made a path of an object storage once before
that clock starts: what it imports for that, any task's process imports. One process imports Airflow, and then each module again
and again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "pull"))

from compare import source

HERE = Path(__file__).resolve().parent
MODULES = (
    "limio_limitrail.api.resource",
    "limio_limitrail.hooks.limio",
    "limio_limitrail.hooks.limitrail",
    "limio_limitrail.operators.limitrail",
    "limio_limitrail.sensors.limio",
    "limio_limitrail.sensors.limitrail",
    "limio_limitrail.transfers.limio_to_object_storage",
    "limio_limitrail.transfers.limio_to_sql",
    "limio_limitrail.transfers.limitrail_to_object_storage",
    "limio_limitrail.transfers.limitrail_to_sql",
    "limio_limitrail.triggers.limio",
    "limio_limitrail.retry_policy",
)
IMPORTS = """
import gc, json, resource, sys, time
from datetime import datetime
from airflow.sdk import DAG, Asset, AssetWatcher, BaseHook, BaseOperator, BaseSensorOperator, ObjectStoragePath, Param, task
import airflow.sdk.bases.sensor, msgspec
from airflow.triggers.base import BaseEventTrigger, BaseTrigger, TriggerEvent
there = set(sys.modules)
def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), usage.ru_utime + usage.ru_stime
def measure(module):
    gc.collect()
    before = used()
    __import__(module)
    after = used()
    for name in sys.modules.keys() - there:
        del sys.modules[name]
    return [one - other for one, other in zip(after, before)]
modules = json.loads(sys.argv[1])
for module in modules:
    measure(module)  # writes the byte code
print(json.dumps({module: [measure(module) for _ in range(int(sys.argv[2]))] for module in modules}))
"""
PULL = """
import json, sys, time
from pathlib import Path
from airflow.sdk import BaseHook, ObjectStoragePath
import airflow.sdk.execution_time.task_runner
BaseHook.get_connection("limio_default")
ObjectStoragePath("file:///tmp").exists()
sys.path.insert(0, sys.argv[3])
looked_up = []
found = BaseHook.get_connection.__func__
BaseHook.get_connection = classmethod(lambda cls, conn_id: looked_up.append(conn_id) or found(cls, conn_id))
began, used = time.perf_counter(), time.process_time()
import own
from limio_limitrail.api.transport import Transport
first, tokens = [], []
exchange = Transport.exchange
def counted(self, **request):
    first.append((time.perf_counter() - began, time.process_time() - used))
    tokens.extend([request["url"]] if request["url"].endswith("/token") else [])
    return exchange(self, **request)
Transport.exchange = counted
rows = own.lines(sys.argv[1], Path(sys.argv[2]))
clock, processor = first[0]
times = {"first_request": clock, "first_request_cpu": processor}
print(json.dumps({"rows": rows, **times, "tokens": len(tokens), "look_ups": len(looked_up)}))
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=own | environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return done.stdout.splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = {"AIRFLOW_HOME": f"{folder}/airflow", "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"}
        measured = json.loads(run(IMPORTS, json.dumps(MODULES), str(options.rounds), **home))
        imports = {module: [statistics.median(times) for times in zip(*found, strict=True)] for module, found in measured.items()}
        with source(records=1000, page=1000, milliseconds=0) as url:
            limio = {"conn_type": "limio", "host": url, "login": "bench", "password": "bench-secret"}
            pulls = []
            for number in range(options.rounds):
                place = Path(folder) / str(number)
                place.mkdir()
                told = run(PULL, url, str(place), str(HERE / "pull"), **home, AIRFLOW_CONN_LIMIO_DEFAULT=json.dumps(limio))
                pulls.append(json.loads(told))
    for module, (seconds, processor) in imports.items():
        print(f"{module:56} {1000 * seconds:6.1f} ms {1000 * processor:6.1f} ms of the processor")
    first, first_cpu = (statistics.median(one[name] for one in pulls) for name in ("first_request", "first_request_cpu"))
    print(
        f"first request after {1000 * first:.0f} ms, {1000 * first_cpu:.0f} ms of the processor; "
        f"{pulls[0]['tokens']} for a token, {pulls[0]['look_ups']} connection look-ups"
    )
    if options.json:
        options.json.write_text(
            json.dumps({"imports": imports, **pulls[0], "first_request": first, "first_request_cpu": first_cpu}, indent=1)
        )


if __name__ == "__main__":
    main()
