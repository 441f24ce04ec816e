# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Records after the end of a run's own range are left out."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from limio_limitrail.landing.time_column import UpperBound
from tests.support.record_pages import RecordPage

END = datetime(2026, 1, 1, 12, tzinfo=UTC)


def left(times, *, path="at", until=END):
    bound = UpperBound(path=path, until=until)
    records = [{"n": number} if time is ... else {"n": number, "at": time} for number, time in enumerate(times)]
    page = bound.apply(RecordPage(json.dumps(records, indent=1).encode()))
    assert json.loads(page.records) == [json.loads(bytes(raw)) for raw in page.raw_records]
    assert bound.left_out == len(times) - len(page.raw_records)
    return [json.loads(bytes(raw))["n"] for raw in page.raw_records]


@pytest.mark.parametrize(
    ("times", "kept"),
    [
        ([], []),
        (["2026-01-01T11:59:59.999999Z", "2026-01-01T12:00:00Z", "2026-01-01T12:00:00.000001Z"], [0]),
        (["2026-01-01T11:00:00Z", "2026-01-01T12:00:00Z"], [0]),
        (["2026-01-01T12:30:00+01:00", "2026-01-01T11:30:00-01:00"], [0]),
        (["2026-01-01T13:00:00Z", "2027-01-01T00:00:00Z"], []),
        # What has no time that can be read stays: nobody knows that it belongs to another run.
        ([..., None, "", "soon", 7, {"a": 1}, "2026-01-01T13:00:00Z"], [0, 1, 2, 3, 4, 5]),
        (["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"], [1]),
    ],
)
def test_what_stays(times, kept):
    assert left(times) == kept


def test_the_time_may_stand_deeper():
    assert left(["2026-01-01T13:00:00Z"], path="data.at") == [0], "there is none there"
