# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Two tries of one run on two workers: the earlier one ends when the later one has begun."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from airflow.sdk import ObjectStoragePath

from limio_limitrail.landing.checkpoint import CheckpointStore, TakenOverError
from limio_limitrail.landing.manifest import read_manifest
from limio_limitrail.landing.parts import PartFormat, read_verified
from limio_limitrail.landing.pull import Pull
from limio_limitrail.landing.shaping import Shaping
from tests.support.record_pages import RecordPage


class TaskState:
    """The state store of a task, which all of its tries share."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def set(self, key: str, value: Any) -> None:
        self.values[key] = value

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


@pytest.fixture
def tries():
    state = TaskState()
    return [CheckpointStore(state, try_number=number) for number in (1, 2)]


def test_the_earlier_try_ends_when_the_later_one_has_saved(tries):
    first, second = tries
    first.check_owner()
    first.save({"parts": []})
    second.check_owner()
    first.check_owner()
    second.save({"parts": []})
    with pytest.raises(TakenOverError, match="lost sight of try 1"):
        first.check_owner()
    second.check_owner()


def test_what_the_earlier_try_saves_late_does_not_end_the_later_one(tries):
    first, second = tries
    second.save({"parts": []})
    first.save({"parts": []})
    second.check_owner()


def test_the_earlier_try_ends_when_the_later_one_has_started_over_or_has_finished(tries):
    first, second = tries
    first.save({"parts": []})
    second.clear()
    with pytest.raises(TakenOverError):
        first.check_owner()


def test_a_try_may_start_over_itself(tries):
    first, _ = tries
    first.save({"parts": []})
    first.clear()
    first.check_owner()


def test_without_a_state_store_nothing_is_known():
    store = CheckpointStore(None, try_number=1)
    store.save({"parts": []})
    store.check_owner()


def test_a_store_that_keeps_nothing_ends_nobody():
    state = TaskState()
    state.set = lambda key, value: None
    store = CheckpointStore(state, try_number=1)
    store.save({"parts": []})
    store.check_owner()


def test_what_an_earlier_version_has_saved_is_nobodys():
    state = TaskState()
    state.set("limio_limitrail.pull", {"parts": []})
    CheckpointStore(state, try_number=1).check_owner()


@dataclass
class Reader:
    """A list of one record a page, before each of which something may happen."""

    records: list[int]
    before: Callable[[int], None]
    page_size: int = 1
    total: int | None = None
    server_time: datetime | None = None
    server_keeps_position: bool = True  # so that nothing is fetched ahead

    def pages(self) -> Iterator[RecordPage]:
        for number, one in enumerate(self.records):
            self.before(number)
            following = {"at": str(number + 1)} if number + 1 < len(self.records) else None
            yield RecordPage(json.dumps([{"id": one}]).encode(), following)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_what_the_later_try_has_written_stays_as_it_is(tmp_path, at):
    """In a folder that both workers share."""
    state, folder = TaskState(), ObjectStoragePath(f"file://{tmp_path}/run")
    manifests = []

    def pull(try_number: int, records: list[int], *, before: Callable[[int], None]) -> Pull:
        return Pull(
            resource="things",
            run_id="run",
            signature=f"of try {try_number}",
            folder=folder,
            part_format=PartFormat.JSONL,
            shaping=Shaping(),
            since=None,
            store=CheckpointStore(state, try_number=try_number),
            open_list=lambda _: Reader(records, before),
            restart_on=LookupError,
            part_rows=1,
        )

    def pull_beside(number: int) -> None:
        if number == at:
            manifests.append(pull(2, [10, 20, 30, 40], before=lambda _: None).run())

    with pytest.raises(TakenOverError):
        pull(1, [1, 2, 3], before=pull_beside).run()
    assert read_manifest(folder) == manifests[0]
    for part in manifests[0].parts:
        read_verified(folder, part)
