# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Events as Airflow keeps them. The files in ``stored_watches`` are what an earlier version wrote: each later one reads them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.polling.changes import RecordFingerprint
from limio_limitrail.polling.events import MAX_IDS, ChangeEvent
from tests.support.stored import bad_values

WIRE = Path(__file__).parent / "stored_watches"
START = datetime(2026, 10, 1, 12, tzinfo=UTC)
SEEN = (
    RecordFingerprint(identity="basket-1", digest=2**64 - 1, when=START),
    RecordFingerprint(identity="basket-2", digest=7, when=START - timedelta(microseconds=1)),
    RecordFingerprint(identity="basket-3", digest=8, when=None),
)
WITH_TIMES = ChangeEvent.of(SEEN, resource="abandoned_baskets", watch="limio_limitrail.watch.0123", number=3)
WITHOUT_TIMES = ChangeEvent.of(SEEN[2:], resource="accounts", watch="limio_limitrail.watch.4567", number=0)


@pytest.mark.parametrize(("name", "news"), [("news", WITH_TIMES), ("news_without_times", WITHOUT_TIMES)])
def test_events_stay_readable(name, news):
    kept = json.loads((WIRE / f"{name}.json").read_text())
    assert news.to_json() == kept
    assert ChangeEvent.from_json(kept) == news


def test_what_a_later_version_adds():
    assert ChangeEvent.from_json({**WITH_TIMES.to_json(), "colour": "green"}) == WITH_TIMES


@pytest.mark.parametrize("change", [{}, {"count": None}, {"ids": {"first": "a"}}])
def test_a_format_of_a_later_version(change):
    with pytest.raises(ParameterError, match=r"has format 2, and this version reads format 1") as caught:
        ChangeEvent.from_json({**WITH_TIMES.to_json(), **change, "format": 2})
    assert WITH_TIMES.event_id in str(caught.value)


@given(bad_values(WITH_TIMES.to_json(), WITHOUT_TIMES.to_json()))
def test_no_payload_raises_anything_else(value):
    try:
        news = ChangeEvent.from_json(value)
    except ValueError:
        return
    assert ChangeEvent.from_json(json.loads(json.dumps(news.to_json()))) == news


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"event_id": "x"},
        {**WITH_TIMES.to_json(), "count": None},
        {**WITH_TIMES.to_json(), "count": "many"},
        {**WITH_TIMES.to_json(), "ids": 7},
        {**WITH_TIMES.to_json(), "ids": "abc"},
        {**WITH_TIMES.to_json(), "format": None},
        {**WITH_TIMES.to_json(), "format": "csv"},
        {"format": 2},
        None,
        [],
        "news",
        7,
    ],
)
def test_what_is_no_event(broken):
    with pytest.raises(ValueError) as caught:
        ChangeEvent.from_json(broken)
    assert not isinstance(caught.value, ParameterError), "of somebody else"


def test_what_an_event_lacks():
    with pytest.raises(ValueError, match=r"this is not an event of a watch \(Object missing required field `resource`\)"):
        ChangeEvent.from_json({"event_id": "x"})


def id_of(seen: Any = SEEN, *, resource: str = "abandoned_baskets", watch: str = "one", number: int = 3) -> str:
    return ChangeEvent.of(seen, resource=resource, watch=watch, number=number).event_id


def test_an_id_is_of_the_watch_its_number_and_the_records():
    assert re.fullmatch("[0-9a-f]{32}", id_of())
    assert id_of() == id_of(SEEN[::-1])
    others = [
        id_of(watch="two"),
        id_of(number=4),
        id_of(SEEN[:2]),
        id_of((*SEEN, replace(SEEN[0], digest=9))),
        id_of((replace(SEEN[0], digest=1), *SEEN[1:])),
    ]
    assert len({id_of(), *others}) == 1 + len(others)
    # Not of what is only told.
    assert id_of() == id_of(resource="baskets") == id_of(tuple(replace(one, identity="x", when=None) for one in SEEN))


@given(st.sets(st.integers(0, 2**64 - 1), min_size=1), st.sets(st.integers(0, 2**64 - 1), min_size=1), st.text(), st.text())
def test_ids_differ(some, others, watch, other_watch):
    def seen(digests: set[int]) -> list[RecordFingerprint]:
        return [RecordFingerprint(identity="a", digest=digest, when=None) for digest in digests]

    same = (some, watch) == (others, other_watch)
    assert (id_of(seen(some), watch=f"w{watch.encode('unicode_escape')!r}") ==
            id_of(seen(others), watch=f"w{other_watch.encode('unicode_escape')!r}")) is same  # fmt: skip


@pytest.mark.parametrize("count", [1, MAX_IDS - 1, MAX_IDS, MAX_IDS + 1, 5000])
def test_ids_are_bounded_and_the_count_is_not(count):
    seen = [
        RecordFingerprint(identity=f"b{number}", digest=number, when=START - timedelta(seconds=number)) for number in range(count)
    ]
    news = ChangeEvent.of(seen, resource="baskets", watch="one", number=0)
    assert news.count == count
    assert news.ids == tuple(f"b{number}" for number in range(min(count, 100)))
    assert news.watermark == START.isoformat()
    assert news.since == (START - timedelta(seconds=count - 1)).isoformat()
    assert ChangeEvent.from_json(json.loads(json.dumps(news.to_json()))) == news
