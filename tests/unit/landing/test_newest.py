# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The newest instant of a page is the same, however it is found."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from limio_limitrail.landing.values import newest_instant, to_instants

WHEN = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30))
FORMS = st.sampled_from(["Z", ".Z", "+00:00", "+02:00", "-11:30"])


def written(when: datetime, form: str) -> str:
    if form == ".Z":
        return f"{when.isoformat(timespec='milliseconds')}Z"
    if form == "Z":
        return f"{when.isoformat(timespec='seconds')}Z"
    hours, minutes = int(form[1:3]), int(form[4:])
    offset = timedelta(hours=hours, minutes=minutes) * (1 if form[0] == "+" else -1)
    return when.replace(tzinfo=timezone(offset)).isoformat()


def by_arrow(texts: list[str | None]) -> datetime | None:
    instants = to_instants(pa.array(texts, pa.string()))
    return None if instants is None else pc.max(instants).as_py()


@given(st.lists(st.none() | st.tuples(WHEN, FORMS)))
@example([(datetime(2026, 1, 2), "Z"), (datetime(2026, 1, 3), ".Z"), None])
def test_as_arrow_would_find_it(found):
    texts = [None if one is None else written(*one) for one in found]
    raw = [None if text is None else json.dumps(text).encode() for text in texts]
    assert newest_instant(raw) == by_arrow(texts)


@given(st.lists(WHEN, min_size=1))
def test_instants_that_are_written_alike(found):
    raw = [json.dumps(written(when, ".Z")).encode() for when in found]
    newest = max(when.replace(microsecond=when.microsecond // 1000 * 1000, tzinfo=UTC) for when in found)
    assert newest_instant([*raw, b"null", None]) == newest


@pytest.mark.parametrize(
    "raw",
    [
        [],
        [None, b"null"],
        [b'"2026-01-01T00:00:00Z"', b'"tomorrow"'],
        [b'"2026-01-01T00:00:00Z"', b'"2026-13-01T00:00:00Z"'],
        [b'"2026-01-01T00:00:00Z"', b'"2026-02-30T00:00:00Z"'],
        [b'"2026-01-01T00:00:00Z"', b"7"],
        [b'"2026-01-01T00:00:00"'],
        [b'"2026-01-01"'],
        [b"{}"],
    ],
)
def test_where_one_is_no_instant_there_is_none(raw):
    assert newest_instant(raw) is None
