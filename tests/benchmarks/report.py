# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Measure pulls, commits and the overhead, and write docs/explanation/performance.md and its plots: ``report.py``.

``report.py --from FOLDER`` writes them out of figures that were measured before, ``--keep FOLDER`` keeps what is measured.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from plots import bars

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "explanation" / "performance.md"
IMAGES = HERE.parents[1] / "docs" / "images"
PULL = "tests/benchmarks/pull/compare.py"
SLICES = "tests/benchmarks/pull/slices.py"
LOAD = "tests/benchmarks/pull/load_alone.py"
COMMIT = "tests/benchmarks/commit/compare.py"
RUNS = {
    "pull": f"{PULL} --records 200000 --rounds 3",
    "pull20": f"{PULL} --records 200000 --rounds 1 --milliseconds 20 --only nothing,own --without again",
    "pull100": f"{PULL} --records 100000 --rounds 1 --milliseconds 100 --only nothing,own --without again",
    "large": f"{PULL} --records 2000000 --rounds 1 --only own",
    "loads": f"{LOAD} --records 300000 --rounds 3",
    "slices": f"{SLICES} --milliseconds 20 --parallel 1 4 8 --rounds 1",
    "commit": f"{COMMIT} --rows 100000 --milliseconds 20 --rounds 1 --in-flight 1 32 64",
    "commit0": f"{COMMIT} --rows 100000 --milliseconds 0 --rounds 1 --in-flight 32 --only own,aiohttp",
    "commit100": f"{COMMIT} --rows 20000 --milliseconds 100 --rounds 1 --in-flight 64 --only own,aiohttp",
    "cost": "tests/benchmarks/cost.py",
}
NAMES = {
    "by_hand.nothing": "fetched by hand, thrown away",
    "by_hand.lines": "by hand → JSON Lines, not compressed",
    "own.lines": "**this package → JSON Lines**",
    "by_hand.parquet": "by hand → Parquet",
    "own.parquet": "**this package → Parquet**",
    "by_hand.requests_parquet": "ordinary code (requests, `.json()`) → Parquet",
    "peers.http_parquet": "Airflow's `HttpOperator` → Parquet",
    "peers.dlt_parquet": "dlt `rest_api` → Parquet",
    "by_hand.duckdb": "by hand → DuckDB",
    "own.duckdb": "**this package → DuckDB**",
    "own.duckdb_held": '**this package → DuckDB, `load="while_pulling"`**',
    "peers.http_duckdb": "Airflow's `HttpOperator` → DuckDB",
    "peers.dlt_duckdb": "dlt `rest_api` → DuckDB",
    "by_hand.postgres": "by hand → Postgres",
    "own.postgres": "**this package → Postgres**",
    "own.duckdb_again": "**this package → DuckDB, all of it there already**",
    "own.duckdb_held_again": '**this package → DuckDB, `load="while_pulling"`, all of it there already**',
    "own.postgres_again": "**this package → Postgres, all of it there already**",
}
LOADS = {"duckdb": "DuckDB", "postgres": "Postgres"}
CLIENTS = {"own.commit": "**this package**", "own.without_ledger": "**this package, without its ledger**"}
PACKAGES = ("apache-airflow", "duckdb", "pyarrow", "pandas", "requests", "aiohttp", "msgspec", "dlt")


def measure(folder: Path, *, only: list[str]) -> None:
    """Run what has to be run, one after the other."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for name in only:
        print(f"== {name}", flush=True)
        command = [sys.executable, *RUNS[name].split(), "--json", str(folder / f"{name}.json")]
        subprocess.run(command, check=True, env=environment, cwd=HERE.parents[1])


def table(head: str, rows: list[str]) -> str:
    """Write a table."""
    return "\n".join([head, "|".join(["", *["---"] * head.count(" | "), "---", ""]), *rows]) + "\n"


def pulls(folder: Path) -> str:
    figures = json.loads((folder / "pull.json").read_text())["figures"]
    large = json.loads((folder / "large.json").read_text())["figures"]
    rows = []
    for name, one in figures.items():
        at_scale = f"{large[name]['peak']:.0f}" if name in large else ""
        speed, cost = one["rows"] / one["seconds"], 1e6 * one["cpu"] / one["rows"]
        rows.append(f"| {NAMES[name]} | {speed:,.0f} | {cost:.1f} | {one['peak']:.0f} | {at_scale} |")
    bars(
        IMAGES / "pull.svg",
        title="Records a second, 200,000 records of 0.9 KB over loopback, 2 cores",
        values={
            NAMES[name].replace("*", "").replace("`", ""): one["rows"] / one["seconds"]
            for name, one in figures.items()
            if not name.endswith("_again")
        },
        own="this package",
    )
    return table("| | records/s | CPU, µs a record | peak MB, 200,000 records | peak MB, 2,000,000 records |", rows)


def loads(folder: Path) -> str:
    figures = json.loads((folder / "loads.json").read_text())["figures"]
    rows = []
    for name, told in LOADS.items():
        for time, again in (("first", ""), ("second", "_again")):
            own, dlt = (figures[f"loads.{who}_{name}{again}"] for who in ("sql", "dlt"))
            cells = [f"{one['seconds']:.1f} s | {one['cpu']:.1f} s | {one['peak']:.0f} MB" for one in (own, dlt)]
            rows.append(f"| {told}, {time} time | {' | '.join(cells)} | {dlt['cpu'] / own['cpu']:.2f} |")
    head = "| | `…ToSqlOperator`: clock | processor | peak memory | `…ToDltOperator`: clock | processor | peak memory | times |"
    return table(head, rows)


def waits(folder: Path) -> str:
    rows = []
    for name in ("pull20", "pull100"):
        told = json.loads((folder / f"{name}.json").read_text())
        bare = told["figures"]["by_hand.nothing"]["seconds"]
        latencies = told["records"] / 1000 * told["milliseconds"] / 1000
        shown = ("lines", "parquet", "duckdb", "duckdb_held", "postgres")
        cells = [f"{told['figures'][f'own.{what}']['seconds'] / bare:.2f}" for what in shown]
        rows.append(f"| {told['milliseconds']:.0f} ms | {latencies:.1f} s | {bare:.1f} s | {' | '.join(cells)} |")
    return table("| a page takes | all pages | bare loop | JSON Lines | Parquet | DuckDB | DuckDB, file held | Postgres |", rows)


def commits(folder: Path) -> str:
    rows = []
    shown: dict[str, float] = {}
    for name in ("commit0", "commit", "commit100"):
        found: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for one in json.loads((folder / f"{name}.json").read_text()):
            found.setdefault((one["contestant"], one["in_flight"]), []).append(one)
        for (contestant, in_flight), runs in found.items():
            seconds = statistics.median(one["seconds"] for one in runs)
            cpu = statistics.median(one["cpu"] for one in runs)
            first = runs[0]
            told = CLIENTS.get(contestant, contestant.removeprefix("peers.").strip("_"))
            speed = first["rows"] / seconds
            rows.append(
                f"| {told} | {in_flight} | {first['milliseconds']:.0f} ms | {speed:,.0f} | {1e6 * cpu / first['rows']:,.0f} |"
            )
            if name == "commit" and in_flight in (1, 32, 64):
                shown[f"{told.replace('*', '')}, {in_flight} at once"] = speed
    bars(IMAGES / "commit.svg", title="Usage rows a second at 20 ms a request, 2 cores", values=shown, own="this package")
    return table("| client | at once | a request takes | rows/s | CPU, µs a row |", rows)


def costs(folder: Path) -> str:
    told = json.loads((folder / "cost.json").read_text())
    rows = [f"| `{module}` | {1000 * clock:.1f} ms | {1000 * cpu:.1f} ms |" for module, (clock, cpu) in told["imports"].items()]
    return (
        table("| import, above Airflow's own | on the clock | processor |", rows)
        + f"\nA pull sends its first request {1000 * told['first_request']:.0f} ms after its operator is imported,\n"
        f"{1000 * told['first_request_cpu']:.0f} ms of them the processor's, most of it imports.\n"
        f"It requests {told['tokens']} token and looks up {told['look_ups']} connection.\n"
    )


def slices(folder: Path) -> str:
    rows = []
    for one in json.loads((folder / "slices.json").read_text()):
        cells = f"{one['bare_seconds']:.2f} s | {one['ours_seconds']:.2f} s"
        rows.append(f"| {one['milliseconds']:.0f} ms | {one['slices']} x {one['pages']} | {one['parallel']} | {cells} |")
    return table("| a page takes | slices x pages | at once | bare loop | this package |", rows)


SECTIONS = {
    "pulls": (pulls, ("pull", "large")),
    "loads": (loads, ("loads",)),
    "waiting": (waits, ("pull20", "pull100")),
    "slices": (slices, ("slices",)),
    "commits": (commits, ("commit", "commit0", "commit100")),
    "costs": (costs, ("cost",)),
}
"""The parts of the page, and the runs that they are made of."""


def write(folder: Path) -> None:
    """Put the figures between their marks. What was not measured stays as it is, also where older figures lack a part of it."""
    text = PAGE.read_text()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES if _installed(name))
    about = (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} with what `make bench` runs:\n"
        + textwrap.fill(
            f"Python {platform.python_version()}, {versions}; {os.cpu_count()} cores, which the server shares.",
            width=100,
            break_on_hyphens=False,
        )
        + "\n\n"
    )
    for name, (part, needed) in SECTIONS.items():
        if not all((folder / f"{run}.json").exists() for run in needed):
            continue
        try:
            figures = part(folder)
        except KeyError as error:
            print(f"{name}: left as it is, because {error} is not in the figures; measure again with --only {','.join(needed)}")
            continue
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        before, _, rest = text.partition(begin)
        text = before + begin + "\n" + about + figures + "\n" + end + rest.partition(end)[2]
    PAGE.write_text(text)


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="source", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--only", default=",".join(RUNS), help="only these runs, with commas between")
    options = parser.parse_args()
    if options.source:
        write(options.source)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        measure(folder, only=options.only.split(","))
        write(folder)


if __name__ == "__main__":
    main()
