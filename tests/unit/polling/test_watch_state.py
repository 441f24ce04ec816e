# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a watch keeps between restarts."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.polling.changes import RecordFingerprint
from limio_limitrail.polling.events import ChangeEvent
from limio_limitrail.polling.watch_state import WatchState, Watermark, watch_key
from tests.support.stored import bad_values

WIRE = Path(__file__).parent / "stored_watches"
START = datetime(2026, 10, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def news(number: int) -> ChangeEvent:
    seen = RecordFingerprint(identity=f"basket-{number}", digest=number, when=START)
    return ChangeEvent.of([seen], resource="abandoned_baskets", watch="one", number=number)


PROGRESS = WatchState(
    watermark=Watermark(changed_after=START, remembered={1: 1_790_000_000, 2**64 - 1: 2**32 - 1, 2: 0}),
    emitted=7,
    unacknowledged=(news(5), news(6)),
    source={"base URL": "0123456789abcdef"},
)
KEPT = {
    "progress": PROGRESS,
    "progress_of_a_list_without_times": WatchState(watermark=Watermark(changed_after=None, remembered={3: 0})),
}


@pytest.mark.parametrize("name", KEPT)
def test_progress_stays_readable(name):
    kept = json.loads((WIRE / f"{name}.json").read_text())
    assert KEPT[name].to_json() == kept
    assert WatchState.from_json(kept) == KEPT[name]


def test_no_file_is_left_over():
    assert {path.stem for path in WIRE.glob("*")} == {*KEPT, "emitted", "news", "news_without_times"}


def test_events_come_and_are_heard():
    position = Watermark(changed_after=START)
    one = WatchState(watermark=Watermark(changed_after=None)).emit(news(0), watermark=position)
    two = one.emit(news(1), watermark=position)
    assert (two.emitted, two.unacknowledged, two.watermark) == (2, (news(0), news(1)), position)
    assert two.acknowledge([news(0).event_id]) == WatchState(watermark=position, emitted=2, unacknowledged=(news(1),))
    assert two.acknowledge([news(1).event_id, news(0).event_id, "another"]).unacknowledged == ()
    assert two.acknowledge([]) == two


@pytest.mark.parametrize(
    "broken",
    [
        None,
        7,
        [],
        "progress",
        {},
        {**PROGRESS.to_json(), "format": 2},
        {**PROGRESS.to_json(), "format": "1"},
        {**PROGRESS.to_json(), "format": True},
        {**PROGRESS.to_json(), "format": 0},
        {**PROGRESS.to_json(), "unacknowledged": [{**news(5).to_json(), "format": 2}]},
        {**PROGRESS.to_json(), "watermark": {"changed_after": "2026-10-01T12:00:00", "remembered": ""}},
        {"format": 1},
        {**PROGRESS.to_json(), "watermark": None},
        {**PROGRESS.to_json(), "watermark": {"changed_after": None}},
        {**PROGRESS.to_json(), "watermark": {"changed_after": 7, "remembered": ""}},
        {**PROGRESS.to_json(), "watermark": {"changed_after": "yesterday", "remembered": ""}},
        {**PROGRESS.to_json(), "watermark": {"changed_after": "0001-01-01T00:00:00+10:00", "remembered": ""}},
        {**PROGRESS.to_json(), "watermark": {"changed_after": None, "remembered": "\u00e9"}},
        {**PROGRESS.to_json(), "watermark": {"changed_after": None, "remembered": "0000"}},
        {**PROGRESS.to_json(), "watermark": {"changed_after": None, "remembered": 7}},
        {**PROGRESS.to_json(), "emitted": "some"},
        {**PROGRESS.to_json(), "emitted": float("inf")},
        {**PROGRESS.to_json(), "unacknowledged": 7},
        {**PROGRESS.to_json(), "unacknowledged": [{}]},
        {**PROGRESS.to_json(), "unacknowledged": ["x"]},
        {**PROGRESS.to_json(), "source": ["x"]},
        {**PROGRESS.to_json(), "source": {"base URL": None}},
    ],
)
def test_what_cannot_be_read(broken):
    with pytest.raises(ParameterError, match=r"the state of the watch cannot be read.*remove the value") as caught:
        WatchState.from_json(broken)
    assert "newer version" in str(caught.value)


def test_progress_of_a_newer_version():
    with pytest.raises(ParameterError, match=r"what is stored has format 2, and this version reads format 1"):
        WatchState.from_json({**PROGRESS.to_json(), "format": 2})


@given(bad_values(*(json.loads((WIRE / f"{name}.json").read_text()) for name in KEPT)))
def test_no_progress_raises_anything_else(value):
    try:
        progress = WatchState.from_json(value)
    except ParameterError:
        return
    assert WatchState.from_json(json.loads(json.dumps(progress.to_json()))) == progress


WATCH: dict[str, Any] = {
    "api": "LimioResourceEventTrigger",
    "conn_id": "limio_default",
    "resource": "abandoned_baskets",
    "path": "/checkout/abandoned",
    "params": {"a": "1", "b": "2"},
    "predicate": None,
}


def test_keys():
    """It is under this that what is stored is found again: it never changes."""
    assert watch_key(**WATCH) == "limio_limitrail.watch.ebd943aee16af2732bacc9e2"
    assert watch_key(**{**WATCH, "params": {"b": "2", "a": "1"}}) == watch_key(**WATCH)
    changes: list[dict[str, Any]] = [
        {"api": "LimitRailResourceEventTrigger"},
        {"conn_id": "limio_other"},
        {"resource": "baskets"},
        {"path": "/checkout/other"},
        {"params": {"a": "1"}},
        {"params": {"a": "2", "b": "1"}},
        {"predicate": "operator.truth"},
    ]
    keys = {watch_key(**{**WATCH, **change}) for change in [{}, *changes]}
    assert len(keys) == 1 + len(changes)
    assert all(re.fullmatch(r"limio_limitrail\.watch\.[0-9a-f]{24}", key) for key in keys)
