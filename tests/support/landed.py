# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read back what a pull left, without the package's own readers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.duckdb_files import open_duckdb


def local(folder: str | Path) -> Path:
    return Path(str(folder).removeprefix("file://"))


def lines_of(folder: str | Path) -> list[bytes]:
    """The lines of a run's JSON Lines parts, in order, as bytes."""
    lines: list[bytes] = []
    for path in sorted(local(folder).glob("part-*.jsonl.zst")):
        with pa.input_stream(path, compression="zstd") as stream:
            lines += stream.read().split(b"\n")[:-1]
    return lines


def records_of(folder: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(folder)]


def tables_of(folder: str | Path) -> list[pa.Table]:
    return [pq.read_table(io.BytesIO(path.read_bytes())) for path in sorted(local(folder).glob("part-*.parquet"))]


def rows_of(folder: str | Path) -> list[dict[str, Any]]:
    return [row for table in tables_of(folder) for row in table.to_pylist()]


def manifest_of(folder: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((local(folder) / "manifest.json").read_text())
    return found


def _arrow(found: Any) -> Any:
    # Newer versions of DuckDB have the one, older ones the other.
    return found.to_arrow_table() if hasattr(found, "to_arrow_table") else found.fetch_arrow_table()


def duck(path: str | Path, sql: str) -> list[tuple[Any, ...]]:
    with open_duckdb(path, read_only=True) as connection:
        table = _arrow(connection.sql(sql))
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def duck_rows(path: str | Path, table: str) -> list[dict[str, Any]]:
    with open_duckdb(path, read_only=True) as connection:
        found: list[dict[str, Any]] = _arrow(connection.sql(f"SELECT * FROM {table}")).to_pylist()
    return found
