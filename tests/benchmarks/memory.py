# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How much memory a pull needs, at 50,000 and at 500,000 records: ``python tests/benchmarks/memory.py [records ...]``.

Each pull runs in a process of its own, against an emulator in another one. Airflow's part of a task process is not
in the figures.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EMULATOR = [
    sys.executable,
    "-m",
    "limio_limitrail.emulator",
    "--port",
    "0",
    "--client-id",
    "bench",
    "--client-secret",
    "bench-secret",
]


class Store:
    """Keeps nothing: there is no second try here."""

    def load(self) -> None:
        return None

    def save(self, value: object) -> None: ...

    def clear(self) -> None: ...


def pull(url: str, form: str, folder: str) -> None:
    from airflow.providers.duckdb.hooks.duckdb import DuckDBHook
    from airflow.sdk import Connection, ObjectStoragePath

    from limio_limitrail.hooks.limio import LimioHook
    from limio_limitrail.landing.parts import ParquetPart, PartFormat
    from limio_limitrail.landing.pull import Pull, run_pull
    from limio_limitrail.landing.shaping import Shaping
    from limio_limitrail.landing.sql import Target, WriteMode, load

    hook = LimioHook()
    hook.get_connection = lambda _: Connection(  # type: ignore[method-assign]
        conn_id="limio_default", conn_type="limio", host=url, login="bench", password="bench-secret"
    )
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.monotonic()
    part_format = PartFormat.JSONL if form == "jsonl" else PartFormat.PARQUET
    root = ObjectStoragePath(f"file://{folder}/parts")
    manifest = run_pull(
        Pull(
            resource="subscriptions",
            run_id="bench",
            signature="bench",
            folder=root,
            part_format=part_format,
            shaping=Shaping(time_column="updated", time_path="updated", timestamps=("created", "updated")),
            since=None,
            store=Store(),
            walk=lambda state: hook.walk("subscriptions", page_size=1000),
        )
    )
    if form == "duckdb":
        duck = DuckDBHook()
        duck.get_connection = lambda _: Connection(conn_id="duck", conn_type="duckdb", host=f"{folder}/warehouse.duckdb")
        load(
            hook=duck,
            target=Target(
                table="subscriptions",
                mode=WriteMode.MERGE,
                primary_key=("id",),
                time_column="updated",
                run_id="bench",
                extracted_at=manifest.started_at,
            ),
            schema=manifest.schema,
            parts=[ParquetPart(folder=root, part=part) for part in manifest.parts],
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{form:8} {manifest.rows:>9,} rows {len(manifest.parts):>4} parts  {time.monotonic() - began:6.1f} s  "
        f"peak {peak:6.0f} MiB, of which imports {imported:4.0f} MiB",
        flush=True,
    )


def main(counts: list[int]) -> None:
    for count in counts:
        with subprocess.Popen([*EMULATOR, "--subscriptions", str(count)], stdout=subprocess.PIPE, text=True) as emulator:
            assert emulator.stdout is not None
            url = next(word for line in emulator.stdout for word in line.split() if word.startswith("http://"))
            for form in ("jsonl", "parquet", "duckdb"):
                with tempfile.TemporaryDirectory() as folder:
                    subprocess.run([sys.executable, str(Path(__file__)), "--pull", url, form, folder], check=True)
            emulator.terminate()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pull"]:
        pull(*sys.argv[2:])
    else:
        main([int(word) for word in sys.argv[1:]] or [50_000, 500_000])
