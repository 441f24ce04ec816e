# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Where a run's parts go, what is refused there, and what is removed after a load."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from airflow.sdk import ObjectStoragePath
from hypothesis import example, given
from hypothesis import strategies as st

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.landing.parts import write_file
from limio_limitrail.transfers import folders
from limio_limitrail.transfers.folders import (
    FolderInUseError,
    RunIdentity,
    default_staging,
    hold_folder,
    prepare_folder,
    remove_empty,
    run_folder,
)


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


# -- no two runs have one folder ----------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        "sales",
        "SALES",
        "limio",
        ".",
        "..",
        "-",
        "_",
        "/",
        "=",
        ":",
        "+",
        "é",
        "ß",
        "\u0130",
        "\ud800",
        "map_index=0",
        "a" * 70,
        "\x00",
        " ",
    ]
)
NAMES = st.one_of(st.lists(PIECES, max_size=5).map("".join), st.text(max_size=300))
RUNS = st.builds(RunIdentity, dag_id=NAMES, task_id=NAMES, run_id=NAMES, map_index=st.integers(-1, 2))
ROOT = ObjectStoragePath("file:///data")


def parts_of(resource: str, run: RunIdentity) -> tuple[str, ...]:
    return Path(run_folder(ROOT, resource=resource, run=run).path).relative_to("/data").parts


@given(NAMES, RUNS, NAMES, RUNS)
@example(
    "orders", RunIdentity(dag_id="sales.limio", task_id="orders", run_id="r", map_index=-1),
    "orders", RunIdentity(dag_id="sales", task_id="limio.orders", run_id="r", map_index=-1),
)  # fmt: skip
@example(
    "orders", RunIdentity(dag_id="sales", task_id="orders", run_id="r", map_index=-1),
    "orders", RunIdentity(dag_id="Sales", task_id="orders", run_id="r", map_index=-1),
)  # fmt: skip
@example(
    "orders", RunIdentity(dag_id="d", task_id="t", run_id="r/map_index=0", map_index=-1),
    "orders", RunIdentity(dag_id="d", task_id="t", run_id="r", map_index=0),
)  # fmt: skip
@example(
    "orders", RunIdentity(dag_id="d" * 130, task_id="t" * 130, run_id="r" * 250, map_index=-1),
    "orders", RunIdentity(dag_id="d" * 130, task_id="t" * 130, run_id="r" * 249, map_index=-1),
)  # fmt: skip
def test_two_runs_have_two_folders(one_list: str, one: RunIdentity, other_list: str, other: RunIdentity) -> None:
    first, second = parts_of(one_list, one), parts_of(other_list, other)
    # Also where the file system takes capitals and small letters for the same.
    alike = tuple(name.lower() for name in first) == tuple(name.lower() for name in second)
    assert alike == ((one_list, one) == (other_list, other))
    for name in (*first, *second):
        assert len(name.encode()) <= 100
        assert name.strip(".")
        assert not set(name) & set("/\\:*?[]\x00 ")


def test_a_digest_cannot_be_typed() -> None:
    changed = parts_of("Orders", RunIdentity(dag_id="Sales", task_id="t", run_id="R", map_index=-1))
    typed = parts_of(changed[0], RunIdentity(dag_id=changed[1], task_id="t", run_id=changed[2], map_index=-1))
    assert not set(changed) & set(typed)


def test_plain_names_stay_readable() -> None:
    assert parts_of("catalog.offers", RunIdentity(dag_id="sync", task_id="land", run_id="manual_1", map_index=3)) == (
        "catalog.offers", "sync.land", "manual_1", "map_index=3",
    )  # fmt: skip
    resource, task, run = parts_of(
        "orders", RunIdentity(dag_id="Sales", task_id="a.b", run_id="manual__2026-01-01T00:00:00+00:00", map_index=-1)
    )
    assert resource == "orders"
    assert task.startswith("Sales.a.b-")
    assert run.startswith("manual__2026-01-01T00-00-00-00-00-")


# -- links, and folders that others may write -----------------------------------------------------------------------------


def linked_run(root: Path, run: Path) -> None:
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    run.parent.mkdir(parents=True)
    run.symlink_to(elsewhere)


def linked_above(root: Path, run: Path) -> None:
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    root.mkdir()
    (root / run.relative_to(root).parts[0]).symlink_to(elsewhere)


def linked_part(root: Path, run: Path) -> None:
    run.mkdir(parents=True)
    (root.parent / "secret").write_text("kept")
    (run / "part-00000.jsonl.zst").symlink_to(root.parent / "secret")


def dangling(root: Path, run: Path) -> None:
    run.parent.mkdir(parents=True)
    run.symlink_to(root.parent / "not there")


def a_file(root: Path, run: Path) -> None:
    run.parent.mkdir(parents=True)
    run.write_text("somebody's")


def open_run(root: Path, run: Path) -> None:
    run.mkdir(parents=True)
    run.chmod(0o777)


def open_above(root: Path, run: Path) -> None:
    run.mkdir(parents=True)
    run.parent.chmod(0o702)


def open_root(root: Path, run: Path) -> None:
    root.mkdir()
    root.chmod(0o777)


@pytest.mark.parametrize("scheme", ["file", "local"])
@pytest.mark.parametrize("spoil", [linked_run, linked_above, linked_part, dangling, a_file, open_run, open_above, open_root])
def test_an_unsafe_folder_is_refused(spoil: Callable[[Path, Path], None], scheme: str, tmp_path: Path) -> None:
    root = tmp_path / "out"
    place = ObjectStoragePath(f"{scheme}://{root}")
    folder = run_folder(place, resource="orders", run=RunIdentity(dag_id="d", task_id="t", run_id="r", map_index=-1))
    spoil(root, Path(folder.path))
    before = {str(path): path.lstat().st_mode for path in tmp_path.rglob("*")}
    with pytest.raises(ParameterError, match=r"remove it|chmod o-w") as refused:
        prepare_folder(folder, root=place)
    assert str(root) in str(refused.value)
    assert before.items() <= {str(path): path.lstat().st_mode for path in tmp_path.rglob("*")}.items()


def shared_with_a_group(root: Path, run: Path) -> None:
    run.mkdir(parents=True)
    for folder in (root, run.parent, run):
        folder.chmod(0o2770)


def sticky(root: Path, run: Path) -> None:
    root.mkdir()
    root.chmod(0o1777)


def root_is_a_link(root: Path, run: Path) -> None:
    disk = root.parent / "disk"
    disk.mkdir()
    root.symlink_to(disk)


@pytest.mark.parametrize("scheme", ["file", "local"])
@pytest.mark.parametrize("prepare", [lambda root, run: None, shared_with_a_group, sticky, root_is_a_link])
def test_a_usual_folder_is_taken(prepare: Callable[[Path, Path], None], scheme: str, tmp_path: Path) -> None:
    root = tmp_path / "out"
    place = ObjectStoragePath(f"{scheme}://{root}")
    folder = run_folder(place, resource="orders", run=RunIdentity(dag_id="d", task_id="t", run_id="r", map_index=-1))
    prepare(root, Path(folder.path))
    prepare_folder(folder, root=place)
    prepare_folder(folder, root=place)
    assert Path(folder.path).is_dir()
    if prepare is not shared_with_a_group:
        assert Path(folder.path).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("scheme", ["file", "local"])
def test_a_link_that_comes_later_is_not_written_through(scheme: str, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "part-00000.parquet").symlink_to(tmp_path / "kept")
    with pytest.raises(OSError, match="part-00000"):
        write_file(ObjectStoragePath(f"{scheme}://{tmp_path}/part-00000.parquet"), b"rows")
    assert (tmp_path / "kept").read_text() == "kept"


@pytest.mark.parametrize("spoil", ["open", "readable", "link", "file", "foreign"])
def test_staging_that_others_can_reach_is_refused(spoil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders.tempfile, "gettempdir", lambda: str(tmp_path))
    root = Path(default_staging())
    assert default_staging() == str(root)
    assert root.stat().st_mode & 0o777 == 0o700
    match spoil:
        case "open":
            root.chmod(0o770)
        case "readable":
            root.chmod(0o755)
        case "foreign":
            if os.getuid() != 0:
                pytest.skip("only root can give a folder away")
            os.chown(root, 12345, 12345)
        case _:
            shutil.rmtree(root)
            (tmp_path / "mine").mkdir(mode=0o700)
            if spoil == "link":
                root.symlink_to(tmp_path / "mine")
            else:
                root.write_text("")
    with pytest.raises(ParameterError, match=r"remove it, or give the task"):
        default_staging()


@pytest.fixture
def held(tmp_path: Path) -> Callable[[], AbstractContextManager[None]]:
    place = ObjectStoragePath(f"file://{tmp_path}/out")
    folder = run_folder(place, resource="orders", run=RunIdentity(dag_id="d", task_id="t", run_id="r", map_index=-1))
    return lambda: hold_folder(folder, root=place)


def test_one_try_at_a_time_has_a_folder(
    held: Callable[[], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "LOCK_WAIT", 0.0)
    with held(), pytest.raises(FolderInUseError, match=r"earlier try.*fuser -v /.*/out/orders/d\.t/r'"), held():
        pass
    with held():
        pass


def test_a_folder_that_was_removed_at_the_end_of_the_other_try_is_made_again(
    held: Callable[[], AbstractContextManager[None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out" / "orders" / "d.t" / "r"
    other = ExitStack()
    other.enter_context(held())

    def end_other(_: float) -> None:
        folder.rmdir()
        other.close()

    monkeypatch.setattr(folders.time, "sleep", end_other)
    with held():
        assert folder.is_dir()
        monkeypatch.undo()
        monkeypatch.setattr(folders, "LOCK_WAIT", 0.0)
        with pytest.raises(FolderInUseError), held():
            pass
