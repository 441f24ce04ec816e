# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A thousand waits in one real triggerer: ``python tests/benchmarks/waits.py [waits]``.

Each looks every ten seconds at an emulator in a process of its own that takes 50 ms to answer. Printed are the processor time and
the memory of the triggerer's processes, the time between two looks, and how long it takes until all waits have heard that what
they wait for has come.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from airflow_home import AirflowHome, AirflowProcess, make_template

INTERVAL = 10.0
WATCHED = 60.0
LATENCY = 0.05
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def ask(url: str, path: str, body: object = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/_emulator/{path}", data=data), timeout=60) as answer:
        return json.load(answer)


def group(pid: int) -> list[int]:
    """The processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == pid:
                found.append(int(entry.name))
    return found


def usage(pids: list[int]) -> tuple[float, dict[int, float]]:
    """Seconds of processor time, and MiB of memory of each process."""
    seconds, memory = 0.0, {}
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / TICK
        memory[pid] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 2**20
    return seconds, memory


def measure(waits: int, folder: Path) -> None:
    command = [sys.executable, "-m", "limio_limitrail.emulator", "--port", "0"]
    command += ["--client-id", "bench", "--client-secret", "bench-s"]
    emulator = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert emulator.stdout is not None
    url = emulator.stdout.readline().split()[-1]
    template = make_template(folder)
    process = AirflowProcess(template)
    connection = {"conn_type": "limio", "host": url, "login": "bench", "password": "bench-s"}
    home = AirflowHome(process, template, folder / "home", {"limio_default": connection})
    home.write_dag(
        f"""
        for number in range({waits}):
            LimioObjectSensor(
                task_id=f"wait_{{number}}", path_type="orders", object_id=f"order-{{number}}", target_statuses=["active"]
            )
        """
    )
    ask(url, "records/objects/limio/orders", [])
    ask(url, "faults", {"kind": "latency", "match": "/api", "seconds": LATENCY, "times": None})
    home.do("defer_all", "pull", run_id="one", interval=INTERVAL, seconds=3600.0)
    triggerer = home.service("triggerer", AIRFLOW__TRIGGERER__DEFAULT_CAPACITY=str(waits + 100))
    try:
        while ask(url, "counters")["by_status"].get("404", 0) < waits:
            time.sleep(1)
        pids = group(triggerer.pid)
        before, began = usage(pids)[0], time.monotonic()
        time.sleep(WATCHED)
        after, memory = usage(pids)
        elapsed = time.monotonic() - began
        log = ask(url, "counters?log=1")["log"]
        ask(url, "records/objects/limio/orders", [{"id": f"order-{number}", "status": "active"} for number in range(waits)])
        came = time.monotonic()
        while True:
            states = home.do("deferred", "pull", run_id="one").result
            ended = sum(found["state"] == "scheduled" for found in states.values())
            if ended == waits or time.monotonic() - came > 120:
                break
            time.sleep(0.5)
        heard = time.monotonic() - came
    finally:
        os.killpg(triggerer.pid, signal.SIGKILL)
        triggerer.wait()
        process.stop()
        emulator.terminate()
    looks = defaultdict(list)
    for entry in log:
        if entry["path"].startswith("/api"):
            looks[entry["path"]].append(entry["at"])
    gaps = sorted(later - earlier for times in looks.values() for earlier, later in pairwise(times))
    text = (home.path / "triggerer.log").read_text(errors="replace")
    print(f"waits                        {waits:,}")
    print(f"looks a second               {len(gaps) / WATCHED:,.0f} or more, each of {LATENCY * 1000:.0f} ms")
    print(f"processor, all processes     {(after - before) / elapsed:.2f} of a core")
    sizes = ", ".join(f"{mib:.0f}" for mib in sorted(memory.values(), reverse=True))
    print(f"memory of each process       {sizes} MiB")
    late = gaps[int(len(gaps) * 0.99)]
    print(f"between two looks            median {statistics.median(gaps):.1f} s, 99% {late:.1f} s, most {gaps[-1]:.1f} s")
    print(f"tokens minted                {sum(entry['path'] == '/oauth2/token' for entry in log)}")
    print(f"all heard                    {ended:,} of {waits:,}, {heard:.1f} s after it had come")
    blocked = [line for line in text.splitlines() if "async thread was blocked" in line]
    print(f"warnings of a blocked loop   {len(blocked)}")
    for line in blocked:
        print("   " + line[:200])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="waits-") as place:
        measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, Path(place))
