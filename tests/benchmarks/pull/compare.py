# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pull the same list with this package, by hand, and with what people use: ``compare.py --records 200000 --only duck``.

Each pull has a process of its own, and they take turns; the list is served by another process of this machine. The figures are
medians.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from processes import served

from tests.support.databases import fresh_postgres, start_postgres

HERE = Path(__file__).resolve().parent
CONTESTANTS = (
    "by_hand.nothing", "by_hand.lines", "own.lines", "by_hand.parquet", "own.parquet", "by_hand.requests_parquet",
    "peers.http_parquet", "peers.dlt_parquet", "by_hand.duckdb", "own.duckdb", "own.duckdb_held", "peers.http_duckdb",
    "peers.dlt_duckdb", "by_hand.postgres", "own.postgres", "own.duckdb_again", "own.duckdb_held_again", "own.postgres_again",
)  # fmt: skip
AGAIN = "_again"
"""Ends the name of a pull that is measured when it is made for the second time, into the table of the first."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one pull took.

    :param seconds: from its first line of code to its end.
    :param cpu: processor time of its process, in seconds.
    :param peak: the most memory, beyond bare Airflow, in MB.
    """

    rows: int
    seconds: float
    cpu: float
    peak: float


def source(*, records: int, page: int, milliseconds: float) -> contextlib.AbstractContextManager[str]:
    """Serve the list; gives its URL."""
    return served(HERE / "source.py", records, page, milliseconds)


def pull(contestant: str, *, url: str, postgres: dict[str, str]) -> Figures:
    """Run one contestant in a process of its own."""
    module, function = contestant.removesuffix(AGAIN).split(".")
    dsn = (
        [f"host={postgres['host']} user={postgres['login']} dbname={postgres['schema']}"] if function.endswith("postgres") else []
    )
    with tempfile.TemporaryDirectory() as folder:
        limio = {"conn_type": "limio", "host": url, "login": "bench", "password": "bench-secret"}
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
            "AIRFLOW_HOME": f"{folder}/airflow",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
            "AIRFLOW_CONN_LIMIO_DEFAULT": json.dumps(limio),
            "AIRFLOW_CONN_HTTP_DEFAULT": json.dumps({"conn_type": "http", "host": url}),
            "AIRFLOW_CONN_DUCK": json.dumps({"conn_type": "duckdb", "host": f"{folder}/own.duckdb"}),
            "AIRFLOW_CONN_POST": json.dumps(postgres),
            "RUNTIME__DLTHUB_TELEMETRY": "false",
        }
        command = [sys.executable, str(HERE / "measure.py"), module, function, url, folder, *dsn]
        for _ in range(2 if contestant.endswith(AGAIN) else 1):
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{contestant} failed:\n{done.stderr[-3000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
    return Figures(rows=found["rows"], seconds=found["seconds"], cpu=found["cpu"], peak=found["peak"] - found["bare"])


def compare(contestants: Sequence[str], *, records: int, milliseconds: float, rounds: int) -> dict[str, Figures]:
    """Let contestants take turns, and give the medians of each.

    :param milliseconds: how long the server takes for a page.
    """
    found: defaultdict[str, list[Figures]] = defaultdict(list)
    with start_postgres() as server, source(records=records, page=1000, milliseconds=milliseconds) as url:
        for _ in range(rounds):
            for name in contestants:
                with fresh_postgres(server) as database:
                    figures = pull(name, url=url, postgres=database)
                assert figures.rows == records, (name, figures)
                found[name].append(figures)
    return {name: median(figures) for name, figures in found.items()}


def median(figures: Sequence[Figures]) -> Figures:
    seconds, cpu, peak = (statistics.median(getattr(one, what) for one in figures) for what in ("seconds", "cpu", "peak"))
    return Figures(rows=figures[0].rows, seconds=seconds, cpu=cpu, peak=peak)


def _named(contestant: str, words: str) -> bool:
    return any(word in contestant for word in words.split(","))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--milliseconds", type=float, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="contestants with this in their names, or several words with commas between")
    parser.add_argument("--without", help="leave out contestants with this in their names, likewise")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()
    taking_part = [name for name in CONTESTANTS if _named(name, options.only)]
    if options.without:
        taking_part = [name for name in taking_part if not _named(name, options.without)]
    if importlib.util.find_spec("dlt") is None:
        print("dlt is not installed, and left out: pip install 'dlt[duckdb,parquet]'")
        taking_part = [name for name in taking_part if ".dlt_" not in name]
    found = compare(taking_part, records=options.records, milliseconds=options.milliseconds, rounds=options.rounds)
    print(f"{'':26} {'records/s':>10} {'CPU us':>8} {'peak MB':>8}")
    for name, one in found.items():
        print(f"{name:26} {one.rows / one.seconds:10,.0f} {1e6 * one.cpu / one.rows:8.1f} {one.peak:8.0f}")
    if options.json:
        about = {"records": options.records, "milliseconds": options.milliseconds, "rounds": options.rounds}
        options.json.write_text(json.dumps(about | {"figures": {name: asdict(one) for name, one in found.items()}}, indent=1))


if __name__ == "__main__":
    main()
