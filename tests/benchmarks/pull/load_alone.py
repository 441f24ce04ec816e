# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load what one pull has left by this package's own code and by dlt: ``load_alone.py --records 300000 --rounds 3``.

Each load has a process of its own, and they take turns. The figures are medians. The second time loads the same rows into the
table that has them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from compare import AGAIN, Figures, median, pull, source

from tests.support.databases import fresh_postgres, start_postgres

CONTESTANTS = ("sql_duckdb", "dlt_duckdb", "sql_postgres", "dlt_postgres")


def pulled(folder: Path, *, records: int) -> str:
    """Pull the list into parts once; gives their folder."""
    import os
    import subprocess

    with source(records=records, page=1000, milliseconds=0) as url:
        limio = {"conn_type": "limio", "host": url, "login": "bench", "password": "bench-secret"}
        environment = {**os.environ, "AIRFLOW_HOME": f"{folder}/airflow", "AIRFLOW_CONN_LIMIO_DEFAULT": json.dumps(limio)}
        command = [sys.executable, str(Path(__file__).with_name("measure.py")), "own", "parquet", url, str(folder)]
        subprocess.run(command, env=environment, capture_output=True, check=True)
    [manifest] = folder.rglob("manifest.json")
    return f"file://{manifest.parent}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="contestants with this in their names")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()
    found: defaultdict[str, list[Figures]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, start_postgres() as server:
        parts = pulled(Path(folder), records=options.records)
        for _ in range(options.rounds):
            for name in (f"loads.{one}{again}" for one in CONTESTANTS for again in ("", AGAIN) if options.only in one):
                with fresh_postgres(server) as database:
                    found[name].append(pull(name, url=parts, postgres=database))
    medians = {name: median(figures) for name, figures in found.items()}
    print(f"{'':28} {'seconds':>8} {'CPU s':>8} {'peak MB':>8}")
    for name, one in medians.items():
        print(f"{name:28} {one.seconds:8.1f} {one.cpu:8.1f} {one.peak:8.0f}")
    if options.json:
        about = {"records": options.records, "rounds": options.rounds}
        options.json.write_text(json.dumps(about | {"figures": {name: asdict(one) for name, one in medians.items()}}, indent=1))


if __name__ == "__main__":
    main()
