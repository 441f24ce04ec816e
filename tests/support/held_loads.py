# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Loads into a held DuckDB file that are killed, or whose disk is full, in a process of their own.

``python -m tests.support.held_loads kills FOLDER MODE STEP`` and ``full FOLDER`` print what they found as JSON.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import Target, WriteMode, duckdb_slices, load
from limio_limitrail.landing.sql import duckdb as duck_module
from limio_limitrail.landing.sql.errors import DatabaseError
from tests.support.databases import HELD, NOON, Columns, Database, RunParts, make_database, make_part

INT, T = Kind.INTEGER, Kind.TEXT
OWN_TABLES = "SELECT table_name FROM duckdb_tables() WHERE table_name ^@ '_limio_sta'"


def columns(ids: range, *, day: int, **values: str) -> Columns:
    return {
        "id": (INT, list(ids)),
        "u": (T, [f"2026-01-0{day}T00:00:00Z"] * len(ids)),
        **{name: (T, [value] * len(ids)) for name, value in values.items()},
    }


def land(database: Database, mode: str) -> None:
    parts = [columns(range(500, 1500), day=2, v="x"), columns(range(1500, 2000), day=2, w="y")]
    database.land(mode, *parts, run="2", time="u")


def kills(folder: Path, mode: str, step: int) -> dict[str, Any]:
    """Kill a load before every so many statements, each time into a copy of the same file, and try again.

    :return: how often, and after which statements the file or the retry were wrong.
    """
    # Slices, and rows that are replaced instead of updated, as in large merges.
    duckdb_slices.SLICE_SIZE, duckdb_slices.UPDATE_SIZE = 10_000, 0

    def copy(name: str) -> Database:
        shutil.copytree(folder / "before", folder / name)
        return make_database(HELD, folder=folder / name)

    (folder / "before").mkdir()
    before = make_database(HELD, folder=folder / "before")
    before.land("merge", columns(range(1000), day=1, v="a"), run="1", time="u")
    rows_before = before.rows(own=True)
    whole = copy("whole")
    land(whole, mode)
    expected = whole.rows()
    wrong, at = [], 1
    while _killed(copy(f"at-{at}"), mode, at=at):
        killed = make_database(HELD, folder=folder / f"at-{at}")
        if killed.rows(own=True) != rows_before and killed.rows() != expected:
            wrong.append(f"{at}: part of a load")
        land(killed, mode)
        if killed.rows() != expected:
            wrong.append(f"{at}: the retry")
        if killed.query(OWN_TABLES):
            wrong.append(f"{at}: a table is left")
        shutil.rmtree(folder / f"at-{at}")
        at += step
    return {"kills": at // step, "wrong": wrong}


def _killed(database: Database, mode: str, *, at: int) -> bool:
    """Load in a fork that is killed before a statement; return False if it has fewer of them."""
    if (pid := os.fork()) == 0:
        original = duck_module.DuckSession.query
        statements = 0

        def query(session: Any, sql: str, *values: object) -> Any:
            nonlocal statements
            statements += 1
            if statements == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(session, sql, *values)

        duck_module.DuckSession.query = query  # type: ignore[method-assign]
        try:
            land(database, mode)
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1] == signal.SIGKILL


def full(folder: Path) -> dict[str, Any]:
    """Merge more into a table than its disk has room for, make room, and try again."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder], check=True)
    parts_folder = Path(tempfile.mkdtemp(dir=folder.parent))
    draw = random.Random(4711)

    def texts(ids: range) -> Columns:
        return {"id": (INT, list(ids)), "v": (T, [f"{draw.getrandbits(2400):0600x}" for _ in ids])}

    database = make_database("duckdb", folder=folder)
    database.land("merge", texts(range(10_000)), run="1")
    rows_before = database.rows(own=True)
    parts = [make_part(texts(range(start, start + 4_000)), name=f"part-{start}") for start in range(0, 16_000, 4_000)]
    run = RunParts.stored(parts, folder=parts_folder)
    target = Target(table="subs", mode=WriteMode.MERGE, primary_key=("id",), time_column=None, run_id="2", extracted_at=NOON)
    schema = {"id": INT, "v": T}

    def go() -> Any:
        try:
            run.stage(target, hook=database.hook, schema=schema)
            return load(hook=database.hook(), target=target, schema=schema, parts=run.sources, staged=run.staged)
        finally:
            run.close()

    found: dict[str, Any] = {}
    try:
        go()
    except DatabaseError as error:
        found |= {"cause": error.cause.name, "message": str(error)}
    found["untouched"] = database.rows(own=True) == rows_before
    subprocess.run(["mount", "-o", "remount,size=400m", folder], check=True)
    retried = go()
    came: dict[int, str] = {}
    for part in parts:
        came |= dict(zip(part.table.column("id").to_pylist(), part.table.column("v").to_pylist(), strict=True))
    return {
        **found,
        "inserted": retried.inserted,
        "updated": retried.updated,
        "right": {row["id"]: row["v"] for row in database.rows()} == came,
        "left": database.query(OWN_TABLES),
    }


if __name__ == "__main__":
    command, where, *more = sys.argv[1:]
    print(json.dumps(kills(Path(where), more[0], int(more[1])) if command == "kills" else full(Path(where))))
