# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What is removed after a load, and what must stay because it is another run's."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import ObjectStoragePath

from limio_limitrail.transfers.folders import RunIdentity, remove_empty, run_folder


def folder_of(root: ObjectStoragePath, run_id: str, *, task_id: str = "orders") -> ObjectStoragePath:
    run = RunIdentity(dag_id="sync", task_id=task_id, run_id=run_id, map_index=-1)
    folder = run_folder(root, resource="orders", run=run)
    Path(folder.path).mkdir(parents=True)
    return folder


def test_empty_folders_go_up_to_the_root(tmp_path: Path) -> None:
    root = ObjectStoragePath(f"file://{tmp_path}/staging")
    remove_empty(folder_of(root, "one"), root=root)
    assert [path.name for path in tmp_path.rglob("*")] == ["staging"]


def test_another_runs_parts_stay(tmp_path: Path) -> None:
    root = ObjectStoragePath(f"file://{tmp_path}")
    others = [folder_of(root, "two"), folder_of(root, "one", task_id="orders_of_another")]
    parts = [Path(other.path) / "part-00000.parquet" for other in others]
    for part in parts:
        part.write_bytes(b"rows")
    mine = folder_of(root, "one")
    remove_empty(mine, root=root)
    assert not Path(mine.path).exists()
    assert [part.read_bytes() for part in parts] == [b"rows", b"rows"]


def test_what_is_in_the_own_folder_stays(tmp_path: Path) -> None:
    root = ObjectStoragePath(f"file://{tmp_path}")
    mine = folder_of(root, "one")
    (Path(mine.path) / "notes.txt").write_text("somebody's")
    remove_empty(mine, root=root)
    assert (Path(mine.path) / "notes.txt").read_text() == "somebody's"
