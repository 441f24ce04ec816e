# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A thousand deferred waits in one real triggerer: ``python tests/benchmarks/waits.py [--waits 1000] [--write]``.

Measured are `LimioObjectSensor`, the `HttpSensor` of Airflow's HTTP provider at the same endpoint, and a sensor that never
looks, which is Airflow's own share. Each has an Airflow home, a triggerer and an emulator for itself, one after the other. With
``--write``, the figures go into docs/explanation/performance.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from bench import HTTP, IDLE, OWN, Bench, Homes, Side, bench

SIDES = {"`LimioObjectSensor`": OWN, "`HttpSensor`": HTTP, "`DateTimeSensorAsync`": IDLE}
INTERVAL, SHORT = 10.0, 1.0
PATIENCE = 240.0
REFUSALS: dict[str, dict[str, object]] = {
    "403": {"status": 403},
    "429 with `Retry-After: 60`": {"status": 429, "headers": {"Retry-After": "60"}},
    "503": {"status": 503},
}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "performance.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"

Figures = dict[str, str]


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {PATIENCE:.0f} s")
        time.sleep(0.25)


def looks(running: Bench) -> int:
    """Looks that were answered so far."""
    return sum(count for path, count in running.counters()["by_path"].items() if path.startswith("/api"))


def between_looks(running: Bench) -> str:
    gaps = sorted(later - earlier for times in running.times().values() for earlier, later in pairwise(times))
    return f"{statistics.median(gaps):.1f} s, {gaps[int(len(gaps) * 0.99)]:.1f} s, {gaps[-1]:.1f} s"


def warnings(seconds: list[float]) -> str:
    return f"{len(seconds)}, {max(seconds):.2f} s" if seconds else "none"


def waiting(homes: Homes, side: Side, *, waits: int, seconds: float) -> Figures:
    """Let all wait for a while, and then let come what they wait for."""
    with bench(homes, side, waits=waits, interval=INTERVAL) as running:
        began = time.monotonic()
        until(lambda: (running.started() if side is IDLE else looks(running)) >= waits)
        first, at_start, logged = time.monotonic() - began, running.blocked(), running.logged()
        connections, used, began = running.counters()["connections"], running.usage().seconds, time.monotonic()
        time.sleep(seconds)
        usage, elapsed, counters = running.usage(), time.monotonic() - began, running.counters()
        blocked = running.blocked()
        figures = {
            "processor, all processes": f"{(usage.seconds - used) / elapsed:.2f} cores",
            "memory of supervisor, log server, runner": ", ".join(f"{mib:.0f}" for mib in usage.memory) + " MiB",
            "logs": f"{(running.logged() - logged) / 2**20 * 60 / elapsed:.1f} MiB a minute",
        }
        if side is not IDLE:
            figures |= {
                "TCP connections opened": f"{(counters['connections'] - connections) * 60 / elapsed:,.0f} a minute",
                "tokens requested by the triggerer": str(counters["tokens_minted"]),
                "all have polled once": f"{first:.0f} s after the triggerer's start",
                "between two polls of a wait: median, 99%, most": between_looks(running),
                "half notified, all notified": until_heard(running, waits=waits),
            }
        return figures | {
            "blocked loop, while all start: warnings, longest": warnings(at_start),
            f"blocked loop, in the {seconds:.0f} s after that": warnings(blocked[len(at_start) :]),
            "blocked loop, while all are notified": "" if side is IDLE else warnings(running.blocked()[len(blocked) :]),
        }


def until_heard(running: Bench, *, waits: int) -> str:
    running.emulator.put_orders(waits)
    came = time.monotonic()
    until(lambda: running.notified() >= waits / 2)
    half = time.monotonic() - came
    until(lambda: running.notified() == waits)
    return f"{half:.1f} s, {time.monotonic() - came:.1f} s after it has come"


def most_looks(homes: Homes, side: Side, *, waits: int, seconds: float) -> Figures:
    """Let all want to look more often than can be."""
    with bench(homes, side, waits=waits, interval=SHORT) as running:
        until(lambda: looks(running) >= 3 * waits)
        looked, used, began = looks(running), running.usage().seconds, time.monotonic()
        time.sleep(seconds)
        elapsed, usage = time.monotonic() - began, running.usage()
        return {
            "polls a second": f"{(looks(running) - looked) / elapsed:,.0f}",
            "processor, all processes": f"{(usage.seconds - used) / elapsed:.2f} cores",
            "between two polls of a wait: median, 99%, most": between_looks(running),
        }


def refused(homes: Homes, side: Side, *, seconds: float) -> Figures:
    """Count what waits ask an API that refuses them, five in each way."""
    waits = {name: range(5 * number, 5 * number + 5) for number, name in enumerate(REFUSALS)}
    path = "/api/objects/limio/orders/order-{}".format
    faults = [
        {"kind": "status", "match": path(number), "times": None, **REFUSALS[name]}
        for name, numbers in waits.items()
        # The longer path first: a fault befalls all that begins like it.
        for number in numbers
    ]
    with bench(homes, side, waits=5 * len(REFUSALS), interval=SHORT, faults=faults[::-1]) as running:
        until(lambda: len(running.times()) == 5 * len(REFUSALS))
        time.sleep(seconds)
        times = running.times()
    counts = {}
    for name, numbers in waits.items():
        asked = [at for number in numbers for at in times[path(number)]]
        counts[f"requests in {seconds:.0f} s, answered {name}"] = f"{sum(at < min(asked) + seconds for at in asked):,}"
    return counts


def table(columns: dict[str, Figures]) -> str:
    rows = dict.fromkeys(row for figures in columns.values() for row in figures)
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += ["| " + " | ".join([row, *(figures.get(row, "") for figures in columns.values())]) + " |" for row in rows]
    return "\n".join(lines)


def conditions() -> str:
    command = " ".join(["python", "tests/benchmarks/waits.py", *sys.argv[1:]])
    versions = [
        f"Airflow {version('apache-airflow')}",
        f"Python {platform.python_version()}",
        f"this package {version('airflow-provider-limio-limitrail')}",
        f"apache-airflow-providers-http {version('apache-airflow-providers-http')}",
    ]
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} with `{command}`: {', '.join(versions)}; {os.cpu_count()} cores, which the "
        f"triggerer and the emulator share. The load of the machine before it: {os.getloadavg()[0]:.1f}."
    )


def measured(homes: Homes, *, waits: int, seconds: float) -> str:
    lookers = {name: side for name, side in SIDES.items() if side is not IDLE}
    parts = {
        f"{waits:,} waits, polling every {INTERVAL:.0f} s, watched for {seconds:.0f} s:": {
            name: waiting(homes, side, waits=waits, seconds=seconds) for name, side in SIDES.items()
        },
        f"{waits:,} waits that want to poll every second, which is more than is possible:": {
            name: most_looks(homes, side, waits=waits, seconds=seconds / 2) for name, side in lookers.items()
        },
        "Waits that want to poll every second an API that refuses, five for each answer:": {
            name: refused(homes, side, seconds=5.0) for name, side in lookers.items()
        },
    }
    return "\n".join(f"{title}\n\n{table(columns)}\n" for title, columns in parts.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waits", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long all are watched")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/explanation/performance.md")
    chosen = parser.parse_args()
    head = conditions()
    with tempfile.TemporaryDirectory(prefix="waits-") as folder:
        homes = Homes(Path(folder))
        figures = measured(homes, waits=chosen.waits, seconds=chosen.seconds)
        homes.stop()
    text = f"\n{head}\n\n{figures}\n"
    print(text)
    if chosen.write:
        page = PAGE.read_text()
        PAGE.write_text(page.split(BEGIN)[0] + BEGIN + text + END + page.split(END)[1])


if __name__ == "__main__":
    main()
