# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a pull into files knows of the run before it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from airflow.sdk import ObjectStoragePath

from limio_limitrail.landing.last_run import note_last_run, read_last_run
from limio_limitrail.landing.manifest import Manifest
from limio_limitrail.landing.parts import Part, PartFormat

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def manifest(rows: int, *, hour: int) -> Manifest:
    return Manifest(
        resource="things",
        run_id=f"run-{hour}",
        part_format=PartFormat.JSONL,
        pages=1,
        started_at=NOON + timedelta(hours=hour),
        since=None,
        newest=None,
        schema={},
        parts=(Part(name="part-00000.jsonl.zst", rows=rows, size=1, digest="0"),),
    )


def test_a_late_run_does_not_stand_for_the_last_one(tmp_path: Path) -> None:
    path = ObjectStoragePath(f"file://{tmp_path}/runs/_last_run-0.json")
    assert read_last_run(path) is None
    for rows, hour, noted in ((40, 2, 40), (9, 1, 40), (41, 2, 41), (50, 3, 50)):
        note_last_run(path, manifest(rows, hour=hour))
        found = read_last_run(path)
        assert found is not None
        assert found.rows == noted


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format_version": 2}', b'{"format_version": 1, "rows": -1}'])
def test_what_cannot_be_read_is_logged_and_replaced(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = ObjectStoragePath(f"file://{tmp_path}/_last_run-0.json")
    path.write_bytes(content)
    assert read_last_run(path) is None
    assert "how many rows the last run had is not known" in caplog.text
    note_last_run(path, manifest(5, hour=0))
    found = read_last_run(path)
    assert found is not None
    assert found.rows == 5
