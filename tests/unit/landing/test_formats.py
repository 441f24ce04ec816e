# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a pull leaves behind, as other versions wrote it. The files in ``wire`` are what they wrote: each later one reads them."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import ObjectStoragePath
from hypothesis import given
from msgspec.structs import replace

from limio_limitrail.landing.checkpoint import PullCheckpoint, SavedChildPart, SavedChildTable, SavedPart, restore
from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.manifest import Manifest, ManifestError, manifest_from_json, read_manifest, write_manifest
from limio_limitrail.landing.parts import Part, PartFormat
from tests.support.stored import bad_values

WIRE = Path(__file__).parent / "wire"
BEGAN = datetime(2026, 10, 1, 12, 0, 0, 250_000, tzinfo=UTC)
PARTS = tuple(
    Part(name=f"part-0000{number}.parquet", rows=50_000 - number, size=123_456, digest=f"{number}" * 64) for number in range(2)
)
MANIFEST = Manifest(
    resource="usage",
    run_id="pull/land[3]/scheduled__2026-10-01",
    part_format=PartFormat.PARQUET,
    parts=PARTS,
    schema={kind.value: kind for kind in Kind},
    pages=1001,
    started_at=BEGAN,
    since=datetime(2026, 9, 1, tzinfo=UTC),
    until=datetime(2026, 10, 1, tzinfo=UTC),
    newest=datetime(2026, 9, 30, 23, 59, 59, tzinfo=UTC),
    not_found=("email",),
)
MANIFESTS = {
    "manifest": MANIFEST,
    "manifest_of_nothing": replace(
        MANIFEST, part_format=PartFormat.JSONL, parts=(), schema={}, pages=1, since=None, until=None, newest=None, not_found=()
    ),
}
CHECKPOINT = PullCheckpoint(
    signature="a" * 64,
    started_at=BEGAN,
    saved_at=BEGAN,
    cursor={"page": "2", "token": "x"},
    page_size=50,
    total=99_999,
    read=99_999,
    pages=1001,
    parts=tuple(SavedPart(rows=part.rows, size=part.size, digest=part.digest) for part in PARTS),
    schema={kind.value: kind for kind in Kind},
    newest=BEGAN,
    found=("email",),
)
CHECKPOINTS = {
    "pull_checkpoint": CHECKPOINT,
    "pull_checkpoint_at_the_end": replace(
        CHECKPOINT, cursor=None, page_size=None, total=None, parts=(), schema={}, newest=None, finished=True, found=()
    ),
    "pull_checkpoint_of_child_tables": replace(
        CHECKPOINT,
        children=(
            SavedChildTable(
                parts=(SavedChildPart(parent=1, rows=7, size=123, digest="c" * 64),), schema={"_parent_id": Kind.TEXT}, found=True
            ),
            SavedChildTable(parts=(), schema={}, found=False),
        ),
    ),
}


def read(name: str) -> Any:
    return json.loads((WIRE / f"{name}.json").read_text())


def folder_with(path: Path, content: bytes) -> ObjectStoragePath:
    (path / "manifest.json").write_bytes(content)
    return ObjectStoragePath(f"file://{path}")


def restored(value: Any, *, now: datetime = BEGAN) -> PullCheckpoint | None:
    """Read a checkpoint as if it had been saved just now."""
    if isinstance(value, dict) and value.get("saved_at") == read("pull_checkpoint")["saved_at"]:
        value = {**value, "saved_at": datetime.now(UTC).isoformat()}
    checkpoint = restore(value, signature="a" * 64)
    return None if checkpoint is None else replace(checkpoint, saved_at=now)


# -- older ones ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_stay_readable(name, tmp_path):
    folder = ObjectStoragePath(f"file://{tmp_path}")
    write_manifest(folder, MANIFESTS[name])
    assert json.loads((tmp_path / "manifest.json").read_text()) == read(name)
    assert read_manifest(folder) == MANIFESTS[name]
    # A manifest of before the guard does not say how many rows the last run had.
    earlier = {member: value for member, value in read(name).items() if member != "previous_rows"}
    assert read_manifest(folder_with(tmp_path, json.dumps(earlier).encode())) == MANIFESTS[name]


def test_a_checkpoint_has_the_masked_names_if_there_are_any():
    masked = replace(CHECKPOINT, masked=("email",))
    assert masked.to_json() == {**read("pull_checkpoint"), "masked": ["email"]}
    assert restored(masked.to_json()) == masked


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_stay_readable(name):
    assert CHECKPOINTS[name].to_json() == read(name)
    assert restored(read(name)) == CHECKPOINTS[name]
    assert CHECKPOINTS[name].named_parts(PartFormat.PARQUET) == PARTS[: len(read(name)["parts"])]


def test_no_file_is_left_over():
    assert {path.stem for path in WIRE.glob("*")} == {*MANIFESTS, *CHECKPOINTS}


# -- newer and damaged ones ----------------------------------------------------------------------------------------


def test_a_newer_manifest_is_refused(tmp_path):
    newer = {"format_version": 2, "files": []}
    with pytest.raises(ManifestError, match=r"has format 2, and this version reads format 1: a newer version") as caught:
        read_manifest(folder_with(tmp_path, json.dumps(newer).encode()))
    assert str(tmp_path) in str(caught.value)
    assert "or pull again with this one" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"[]", b"7", b"{}"])
def test_a_damaged_manifest_is_refused(tmp_path, content):
    with pytest.raises(ManifestError, match=r"[Pp]ull again") as caught:
        read_manifest(folder_with(tmp_path, content))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"started_at": "2026-10-01T12:00:00"},
        {"newest": "2026-10-01T12:00:00"},
        {"since": 7},
        {"until": ""},
        {"pages": "7"},
        {"format": "csv"},
        {"schema": []},
        {"schema": {"a": "colour"}},
        {"parts": [{}]},
        {"parts": [{"name": "part-00000.parquet", "rows": "7", "size": 1, "sha256": "0"}]},
        {"run_id": None},
    ],
)
def test_a_manifest_with_something_wrong_in_it_is_refused(change):
    with pytest.raises(ManifestError, match=r"the manifest in here is damaged .*Pull again"):
        manifest_from_json({**read("manifest"), **change}, folder="here")


@given(bad_values(*(read(name) for name in MANIFESTS)))
def test_no_manifest_raises_anything_else(value):
    try:
        manifest = manifest_from_json(value, folder="here")
    except ManifestError:
        return
    assert manifest.rows >= 0
    assert manifest.watermark is None or manifest.watermark.tzinfo is not None
    assert len(manifest.digest) == 64


def test_a_newer_checkpoint_is_no_help(caplog):
    with caplog.at_level(logging.INFO):
        assert restored({**read("pull_checkpoint"), "format_version": 2}) is None
    assert "has format 2, and this version reads format 1" in caplog.text
    assert "starts over" in caplog.text


@given(bad_values(*(read(name) for name in CHECKPOINTS)))
def test_no_checkpoint_raises_anything(value):
    checkpoint = restored(value)
    if checkpoint is not None:
        assert checkpoint.to_json()
        assert isinstance(checkpoint.read + checkpoint.pages + len(checkpoint.cursor or ()), int)
        assert checkpoint.started_at <= datetime.now(UTC) or checkpoint.started_at.tzinfo is not None
        assert checkpoint.finished in (True, False)


@pytest.mark.parametrize(
    "change",
    [
        {"cursor": ["x"]},
        {"cursor": {"page": 2}},
        {"page_size": "50"},
        {"total": -1},
        {"read": None},
        {"parts": [[1, 2]]},
        {"parts": [["1", 2, "x"]]},
        {"parts": [[1, 2, "x", 3]]},
        {"schema": []},
        {"schema": {"a": "colour"}},
        {"saved_at": "2026-10-01T12:00:00"},
        {"started_at": "2026-10-01T12:00:00"},
        {"newest": 7},
        {"finished": "no"},
        {"format_version": True},
        {"format_version": "1"},
    ],
)
def test_a_damaged_checkpoint_is_no_help(change, caplog):
    assert restored({**read("pull_checkpoint"), **change}) is None
    assert "starts over" in caplog.text


# Without masks there are no masked names, and without child tables no children: the signature says whether there are.
@pytest.mark.parametrize("name", sorted({*PullCheckpoint.__struct_fields__} - {"children", "masked"}))
def test_a_checkpoint_without_one_of_its_members_is_no_help(name, caplog):
    """Its defaults would be taken instead: of a cursor without parts, the rows before it would be missing."""
    assert restored({key: value for key, value in read("pull_checkpoint").items() if key != name}) is None
    assert "starts over" in caplog.text
