# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A load holds one part at a time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from airflow.providers.duckdb.hooks.duckdb import DuckDBHook

from limio_limitrail.landing.column_types import Kind, arrow_field
from limio_limitrail.landing.sql import Target, WriteMode, load

ROWS = 5_000


class WatchedPart:
    """A part that notes how much Arrow memory is in use when it is read."""

    def __init__(self, number: int, seen: list[int]) -> None:
        self.name = f"part-{number}"
        self._number = number
        self._seen = seen

    def groups(self) -> Iterator[pa.Table]:
        self._seen.append(pa.total_allocated_bytes())
        ids = [f"{self._number}-{row}" for row in range(ROWS)]
        schema = pa.schema([arrow_field(name="id", kind=Kind.TEXT), arrow_field(name="text", kind=Kind.TEXT)])
        yield pa.Table.from_arrays([pa.array(ids), pa.array(["x" * 500] * ROWS)], schema=schema)


def test_parts_that_are_staged_are_let_go(tmp_path: Path) -> None:
    seen: list[int] = []
    target = Target(
        table="t",
        mode=WriteMode.MERGE,
        primary_key=("id",),
        time_column=None,
        run_id="run",
        extracted_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    result = load(
        hook=DuckDBHook(database=str(tmp_path / "w.duckdb"), duckdb_conn_id="duckdb_default"),
        target=target,
        schema={"id": Kind.TEXT, "text": Kind.TEXT},
        parts=[WatchedPart(number, seen) for number in range(12)],
    )
    assert result.inserted == 12 * ROWS
    # Two parts' worth of room for what Arrow frees late; every part kept would be eleven.
    assert max(seen) - seen[0] < 2 * ROWS * 520
