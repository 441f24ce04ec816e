# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Commit the same rows with this package and with bare HTTP libraries: ``compare.py --rows 10000 --milliseconds 20``.

Each run has a process of its own, and they take turns; the API is another process of this machine, and it counts: every row must
have come once. The figures are medians.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from processes import served
from rows import FILL, TOKEN_PATH

from tests.support.databases import fresh_postgres, start_postgres

HERE = Path(__file__).resolve().parent
CONTESTANTS: dict[str, tuple[int, ...]] = {
    "own.commit": (8, 32, 64),
    "own.without_ledger": (8, 32, 64),
    "peers.aiohttp_": (8, 16, 32, 64),
    "peers.urllib3_": (1, 16, 32),
    "peers.requests_": (1, 8, 16, 32),
    "peers.http_hook": (1,),
}
"""Who takes part, and how many requests are under way at once."""

FEW = 2000
"""The most rows of those who send them one after the other."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one run took.

    :param seconds: from its beginning to its end.
    :param cpu: processor time of its process, in seconds.
    :param peak: the most memory, beyond bare Airflow, in MB.
    """

    contestant: str
    in_flight: int
    milliseconds: float
    rows: int
    seconds: float
    cpu: float
    peak: float


def api(milliseconds: float) -> contextlib.AbstractContextManager[str]:
    """Serve the API; gives its URL."""
    return served(HERE / "server.py", milliseconds)


def counts(url: str) -> dict[str, int]:
    """Read what has come since the last look."""
    with urllib.request.urlopen(f"{url}/counts", timeout=60) as answer:
        found: dict[str, int] = json.loads(answer.read())
    return found


def run(contestant: str, *, in_flight: int, rows: int, url: str, milliseconds: float, postgres: dict[str, str]) -> Figures:
    """Run one contestant in a process of its own, and see that every row has come once."""
    module, function = contestant.split(".")
    limitrail = {
        "conn_type": "limitrail",
        "host": url,
        "login": "bench",
        "password": "bench-secret",
        "extra": {"scope": "limitrail.usage.write", "auth_url": url + TOKEN_PATH},
    }
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
            "AIRFLOW_HOME": f"{folder}/airflow",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
            "AIRFLOW_CONN_LIMITRAIL_DEFAULT": json.dumps(limitrail),
            "AIRFLOW_CONN_HTTP_DEFAULT": json.dumps({"conn_type": "http", "host": url}),
            "AIRFLOW_CONN_POST": json.dumps(postgres),
        }
        command = [sys.executable, str(HERE / "measure.py"), module, function, url, str(rows), str(in_flight)]
        counts(url)
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{contestant} failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    came = counts(url)
    assert found["rows"] == came["keys"] == came["requests"] == rows, (contestant, found, came)
    return Figures(contestant=contestant, in_flight=in_flight, milliseconds=milliseconds, **found)


@contextlib.contextmanager
def usage(server: object, *, rows: int) -> Iterator[dict[str, str]]:
    """A new database with the rows in it."""
    import psycopg

    with fresh_postgres(server) as database:
        with psycopg.connect(host=database["host"], user=database["login"], dbname=database["schema"]) as connection:
            connection.execute(FILL.format(rows=rows))
        yield database


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--milliseconds", type=float, default=20)
    parser.add_argument("--in-flight", type=int, nargs="+", help="only runs with so many requests at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="only contestants whose name holds one of these words, separated by commas")
    parser.add_argument("--json", type=Path, help="where the figures of every run go, too")
    options = parser.parse_args()
    words = options.only.split(",")
    taking_part = [
        (name, in_flight)
        for name, each in CONTESTANTS.items()
        for in_flight in each
        if any(word in name for word in words) and in_flight in (options.in_flight or each)
    ]
    found: defaultdict[tuple[str, int], list[Figures]] = defaultdict(list)
    with start_postgres() as server, api(options.milliseconds) as url:
        for _ in range(options.rounds):
            for name, in_flight in taking_part:
                rows = options.rows if in_flight > 1 else min(options.rows, FEW)
                with usage(server, rows=rows) as database:
                    figures = run(
                        name, in_flight=in_flight, rows=rows, url=url, milliseconds=options.milliseconds, postgres=database
                    )
                found[name, in_flight].append(figures)
    print(f"{'':22} {'at once':>7} {'requests/s':>10} {'CPU us/row':>10} {'peak MB':>8}")
    for (name, in_flight), runs in found.items():
        rows = runs[0].rows
        seconds, cpu, peak = (statistics.median(getattr(one, what) for one in runs) for what in ("seconds", "cpu", "peak"))
        print(f"{name:22} {in_flight:7} {rows / seconds:10,.0f} {1e6 * cpu / rows:10.0f} {peak:8.0f}")
    if options.json:
        options.json.write_text(json.dumps([asdict(figures) for runs in found.values() for figures in runs], indent=1))


if __name__ == "__main__":
    main()
