# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pulling as a state machine: whatever breaks between whichever two steps, every record lands exactly once."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.io import attach
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from limio_limitrail.landing import pull as module
from limio_limitrail.landing.child_lists import ChildList
from limio_limitrail.landing.manifest import read_manifest
from limio_limitrail.landing.parts import PartFormat, remove_parts
from limio_limitrail.landing.pull import Pull
from limio_limitrail.landing.shaping import Shaping
from limio_limitrail.landing.shrinking import ShrinkGuard, ShrunkListError
from tests.support.record_pages import RecordPage
from tests.support.strategies import examples


class RefusedError(Exception):
    """The API refuses to go on from a cursor."""


class CrashError(BaseException):
    """The process died here."""


@dataclass
class World:
    """An API of a few pages, a state store, and what goes wrong when."""

    pages: list[list[int]]
    crashes: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    step: int = 0
    walked: int = 0
    stored: Any = None

    def tick(self) -> None:
        self.step += 1
        if self.step in self.crashes:
            raise CrashError

    # The state store.
    def load(self) -> Any:
        return json.loads(json.dumps(self.stored))

    def save(self, value: Any) -> None:
        self.tick()
        self.stored = value
        self.tick()

    def clear(self) -> None:
        self.tick()
        self.stored = None

    def check_owner(self) -> None:
        """There is no other try."""

    def walk(self, state: Any) -> Walk:
        return Walk(self, int(state.cursor["at"]) if state.cursor else 0)


@dataclass
class Walk:
    world: World
    at: int
    page_size: int = 5
    total: int | None = None
    server_time: datetime | None = None
    server_keeps_position: bool = False

    def pages(self) -> Iterator[RecordPage]:
        for number in range(self.at, len(self.world.pages)):
            self.world.tick()
            self.world.walked += 1
            if self.world.walked in self.world.lost:
                raise RefusedError("expired")
            following = {"at": str(number + 1)} if number + 1 < len(self.world.pages) else None
            yield RecordPage(json.dumps([{"id": one} for one in self.world.pages[number]]).encode(), following)


def ids_in(folder: Path, form: str) -> list[int]:
    found: list[int] = []
    for path in sorted(folder.glob("part-*")):
        if form == "parquet":
            found += pq.read_table(path).column("id").to_pylist()
        else:
            with pa.input_stream(path, compression="zstd") as stream:
                found += [json.loads(line)["id"] for line in stream.read().splitlines()]
    return found


def make_pull(world: World, folder: Path, form: str, rows: int, **changes: Any) -> Pull:
    whole = Pull(
        resource="things",
        run_id="run",
        signature="s",
        folder=ObjectStoragePath(f"file://{folder}"),
        part_format=PartFormat(form),
        shaping=Shaping(),
        since=None,
        store=world,
        open_list=world.walk,
        restart_on=RefusedError,
        part_rows=rows,
    )
    return replace(whole, **changes)


@settings(max_examples=examples(150))
@given(
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=8),
    crashes=st.lists(st.integers(1, 60), max_size=6),
    lost=st.lists(st.integers(1, 30), max_size=2, unique=True),
    rows=st.integers(1, 7),
    form=st.sampled_from(["jsonl", "parquet"]),
)
def test_every_record_lands_exactly_once(sizes, crashes, lost, rows, form):
    numbers = iter(range(1000))
    world = World([[next(numbers) for _ in range(size)] for size in sizes], crashes=crashes, lost=lost)
    store, write = module.store_part, module.write_manifest

    def store_part(path, content, **more):
        world.tick()
        if world.step + 1 in world.crashes:
            path.write_bytes(content[: len(content) // 2])  # torn
        world.tick()
        part = store(path, content, **more)
        world.tick()
        return part

    def write_manifest(*args):
        world.tick()
        write(*args)
        world.tick()

    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "store_part", store_part)
        patch.setattr(module, "write_manifest", write_manifest)
        folder = Path(name) / "run"
        for _ in range(len(crashes) + 1):
            try:
                manifest = make_pull(world, folder, form, rows).run()
            except CrashError:
                continue
            break
        expected = [one for page in world.pages for one in page]
        assert ids_in(folder, form) == expected
        assert manifest.rows == len(expected)
        assert read_manifest(ObjectStoragePath(f"file://{folder}")) == manifest
        assert {path.name for path in folder.iterdir()} == {"manifest.json", *(part.name for part in manifest.parts)}


def test_a_place_lost_again_and_again_is_an_error(tmp_path):
    world = World([[1], [2], [3]], lost=[2, 4, 6])
    with pytest.raises(RefusedError, match="expired"):
        make_pull(world, tmp_path / "run", "jsonl", 1).run()
    assert world.stored is None


def test_a_list_that_had_shrunk_is_read_again(tmp_path):
    """A retry that went on from what the short list showed would be refused for ever."""
    world = World([[1], [2]])
    guarded = {"previous_rows": 20, "shrink_guard": ShrinkGuard(most=1)}
    with pytest.raises(ShrunkListError, match="18 of 20 known rows"):
        make_pull(world, tmp_path / "run", "jsonl", 1, **guarded).run()
    assert not (tmp_path / "run" / "manifest.json").exists()
    world.pages = [list(range(20))]
    assert make_pull(world, tmp_path / "run", "jsonl", 1, **guarded).run().rows == 20


def test_a_part_that_nobody_counted_does_not_stay(tmp_path, monkeypatch):
    world = World([[1], [2], [3]])
    saves = iter([True, False])
    save = world.save
    monkeypatch.setattr(world, "save", lambda value: save(value) if next(saves, True) else world.crashes.append(world.step + 1))
    with pytest.raises(CrashError):
        make_pull(world, tmp_path / "run", "jsonl", 1).run()
    assert (tmp_path / "run" / "part-00001.jsonl.zst").exists()
    world.pages = [[1], []]
    manifest = make_pull(world, tmp_path / "run", "jsonl", 1).run()
    assert manifest.rows == 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["manifest.json", "part-00000.jsonl.zst"]


@pytest.mark.parametrize("damage", ["nothing", "a part", "the checkpoint"])
def test_a_retry_without_all_of_its_child_rows_starts_over(tmp_path, damage):
    # An id that is no list counts as a list of one element.
    children = (ChildList(table="ids", path="id", parent_key=("id",)),)
    world = World([[1, 2], [3], [4]])
    pull = make_pull(world, tmp_path, "parquet", 1, shaping=Shaping(children=children))
    whole = pull.run()
    assert [(table.rows, len(table.parts)) for table in whole.child_tables] == [(4, 3)]
    if damage == "a part":
        (tmp_path / whole.child_tables[0].parts[1].name).write_bytes(b"PAR1")
    if damage == "the checkpoint":
        del world.stored["children"]
    again = make_pull(world, tmp_path, "parquet", 1, shaping=Shaping(children=children)).run()
    assert again.child_tables == whole.child_tables
    assert world.walked == (3 if damage == "nothing" else 6)
    for part in again.child_tables[0].parts:
        assert pq.read_metadata(tmp_path / part.name).num_rows == part.rows


def test_a_member_of_an_element_that_cannot_be_named_ends_the_pull(tmp_path):
    class RefuseNames:
        watched = ()

        def check_part(self, schema):
            pass

        def check_names(self, schema):
            raise ValueError(", ".join(schema))

    children = (ChildList(table="ids", path="id", parent_key=("id",)),)
    pull = make_pull(World([[1]]), tmp_path, "parquet", 1, shaping=Shaping(children=children), checks=RefuseNames())
    with pytest.raises(ValueError, match="_parent_id, _position, value"):
        pull.run()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_emptied_in_part_counts_as_unfinished(tmp_path, monkeypatch):
    """Whoever reads it by its manifest finds all of its parts, or no manifest."""
    make_pull(World([[1], [2], [3]]), tmp_path, "jsonl", 1).run()
    remove, removed = LocalFileSystem.rm_file, []

    def die_at_the_second(self, path):
        removed.append(Path(path).name)
        if len(removed) == 2:
            raise CrashError
        remove(self, path)

    monkeypatch.setattr(LocalFileSystem, "rm_file", die_at_the_second)
    with pytest.raises(CrashError):
        remove_parts(ObjectStoragePath(f"file://{tmp_path}"))
    assert removed[0] == "manifest.json"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"part-0000{number}.jsonl.zst" for number in range(3)]


def test_a_store_in_the_cloud_works_the_same():
    world = World([[1, 2], [3]], crashes=[7])
    folder = ObjectStoragePath(f"memory://bucket-{id(world)}/out/run")
    with pytest.raises(CrashError):
        replace(make_pull(world, Path("-"), "jsonl", 1), folder=folder).run()
    manifest = replace(make_pull(world, Path("-"), "jsonl", 1), folder=folder).run()
    assert (manifest.rows, len(manifest.parts)) == (3, 2)
    assert read_manifest(folder) == manifest
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "part-00000.jsonl.zst", "part-00001.jsonl.zst"]


class NoFolders(MemoryFileSystem):
    """A store of keys, such as S3: a folder is what keys begin with, and there is none without a key."""

    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]

    def mkdir(self, path, create_parents=True, **kwargs):
        """Do nothing."""

    makedirs = mkdir


def test_a_store_without_empty_folders():
    attach("memory", conn_id="keys", fs=NoFolders(skip_instance_cache=True))
    world = World([[1, 2], [3]])
    folder = ObjectStoragePath("memory://keys@bucket/out/run")
    for _ in range(2):
        replace(make_pull(world, Path("-"), "jsonl", 1), folder=folder).run()
        assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "part-00000.jsonl.zst", "part-00001.jsonl.zst"]


def test_the_watermark_is_never_past_the_beginning(tmp_path):
    world = World([[1]])
    manifest = make_pull(world, tmp_path / "run", "jsonl", 1).run()
    late = structs.replace(manifest, newest=datetime(2099, 1, 1, tzinfo=UTC))
    assert late.watermark == manifest.started_at
    early = structs.replace(manifest, newest=datetime(2020, 1, 1, tzinfo=UTC))
    assert early.watermark == datetime(2020, 1, 1, tzinfo=UTC)
    assert manifest.watermark is None


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_time_that_passes_over_empty_pages_makes_no_part(tmp_path, form):
    world = World([[], [], [1, 2], [], [3]])
    manifest = make_pull(world, tmp_path, form, rows=1, part_seconds=0).run()
    assert ids_in(tmp_path, form) == [1, 2, 3]
    assert [part.rows for part in manifest.parts] == [2, 1]


@pytest.mark.parametrize("keeps", [False, True])
def test_no_page_is_requested_ahead_where_the_api_keeps_the_position(tmp_path, keeps):
    askers = []

    class Watched(Walk):
        def pages(self) -> Iterator[RecordPage]:
            for page in super().pages():
                askers.append(threading.current_thread())
                yield page

    world = World([[1], [2], [3], [4]])
    open_list = lambda _: Watched(world, 0, server_keeps_position=keeps)  # noqa: E731
    make_pull(world, tmp_path, "jsonl", rows=1, open_list=open_list).run()
    assert [thread is threading.current_thread() for thread in askers[1:]] == [keeps] * 3


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_a_thousandth_value_that_is_no_time_is_told_once_and_holds_nothing_up(tmp_path, caplog, form, rows):
    """In parts of any size: the newest time of the others is the pull's, and the warning counts the odd ones."""
    times = [*(f"2026-05-01T10:00:00.{number:09d}Z" for number in range(8)), "", "private", "2026-05-01t10:00:01z", None]
    world = World(pages=[[0]] * 3)

    class TimedWalk(Walk):
        def pages(self) -> Iterator[RecordPage]:
            for number in range(0, len(times), 4):
                following = {"at": str(number)} if number + 4 < len(times) else None
                page = [{"id": number, "t": time} for time in times[number : number + 4]]
                yield RecordPage(json.dumps(page).encode(), following)

    shaping = Shaping(time_column="t", time_path=("t",), timestamps=("t",))
    changes = {"shaping": shaping, "open_list": lambda checkpoint: TimedWalk(world, 0)}
    manifest = make_pull(world, tmp_path / "run", form, rows, **changes).run()
    assert manifest.newest == datetime(2026, 5, 1, 10, 0, 1, tzinfo=UTC)
    [told] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith("things: 2 values of 't' are not times")
    assert "private" not in told
