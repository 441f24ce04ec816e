# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A table of files that another load has written meanwhile. Its format says so; here plain Parquet, which cannot, plays Delta."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import dlt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk import ObjectStoragePath

from limio_limitrail.landing.column_parts import ColumnPart, new_writer
from limio_limitrail.landing.column_types import Kind, arrow_field
from limio_limitrail.landing.dlt.files import load as file_loads
from limio_limitrail.landing.dlt.files.delta import _conflicts
from limio_limitrail.landing.dlt.files.model import CommitConflictError
from limio_limitrail.landing.dlt.files.parquet import ParquetFiles
from limio_limitrail.landing.dlt.target import DltTarget
from limio_limitrail.landing.parts import Part, PartFormat
from limio_limitrail.landing.sql import Target, WriteMode


@pytest.fixture
def load(tmp_path: Path) -> Callable[[], list[int]]:
    """Load three rows, and return those of the table."""
    path = tmp_path / "part-1.arrow"
    rows = pa.table([pa.array([1, 2, 3])], schema=pa.schema([arrow_field(name="id", kind=Kind.INTEGER)]))
    with pa.OSFile(str(path), "wb") as sink, new_writer(sink, rows.schema, part_format=PartFormat.ARROW) as writer:
        writer.write_table(rows)
    content = path.read_bytes()
    part = Part(name=path.name, rows=3, size=len(content), digest=sha256(content).hexdigest())

    def run() -> list[int]:
        url = f"file://{tmp_path}/files"
        file_loads.load_files(
            to=DltTarget(
                destination=dlt.destinations.filesystem(bucket_url=url, layout="{table_name}/{file_id}.{ext}"),
                dataset="lake",
                table="subs",
                folder=tmp_path / "work",
                table_format="parquet",
            ),
            target=Target(
                table="subs",
                mode=WriteMode.APPEND,
                primary_key=("id",),
                time_column=None,
                run_id="one",
                extracted_at=datetime(2026, 1, 1, tzinfo=UTC),
            ),
            schema={"id": Kind.INTEGER},
            parts=[ColumnPart(folder=ObjectStoragePath(f"file://{tmp_path}"), part=part)],
        )
        found: list[int] = pq.read_table(tmp_path / "files" / "lake" / "subs", columns=["id"]).column("id").to_pylist()
        return sorted(found)

    return run


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Let another load be faster so many times; gives of each try how many rows it found in the table."""

    def lose(times: int) -> list[int]:
        tries: list[int] = []
        write = ParquetFiles.write

        def lost(self: ParquetFiles, rows: Any, **more: Any) -> None:
            tries.append(self.count())
            if len(tries) <= times:
                raise CommitConflictError
            write(self, rows, **more)

        monkeypatch.setattr(ParquetFiles, "write", lost)
        monkeypatch.setattr(file_loads.clock, "sleep", lambda _: None)
        return tries

    return lose


def test_a_load_that_came_second_begins_anew(load, written):
    tries = written(2)
    assert load() == [1, 2, 3]
    assert tries == [0, 0, 0]


def test_what_is_logged_after_a_load_is_seen(load, caplog):
    """dlt's own logger keeps what it gets to itself."""
    load()
    logging.getLogger("limio_limitrail.landing.sql").info("Loaded into the next table")
    assert "Loaded into the next table" in caplog.text


def test_it_gives_up_in_the_end_and_says_why(load, written, monkeypatch):
    written(1000)
    monkeypatch.setattr(file_loads, "LOCK_WAIT", -1.0)
    with pytest.raises(file_loads.AnotherLoadError, match=r"lake\.subs: other loads have written the table again and again"):
        load()


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("CommitFailedError", "version 3 is there", CommitConflictError),
        ("DeltaError", "a Delta table already exists at that location", CommitConflictError),
        ("DeltaError", "no space left", None),
    ],
)
def test_what_deltalake_calls_a_conflict(kind, text, expected, monkeypatch):
    """Its package is not in this environment: `make test-dlt` sees that it raises these."""
    fake = ModuleType("deltalake.exceptions")
    fake.DeltaError = type("DeltaError", (Exception,), {})
    fake.CommitFailedError = type("CommitFailedError", (fake.DeltaError,), {})
    monkeypatch.setitem(sys.modules, "deltalake", ModuleType("deltalake"))
    monkeypatch.setitem(sys.modules, "deltalake.exceptions", fake)
    raised = getattr(fake, kind)
    with pytest.raises(expected or raised), _conflicts():
        raise raised(text)
