# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which window of time a pull asks for where the API demands both ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.resource import Resource, TimeFilter
from limio_limitrail.transfers import window
from limio_limitrail.transfers.state import AssetWatermark

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BOTH = TimeFilter(since="from", until="to", field="at", required=True)
USAGE = Resource(name="usage", path="/usage", time_filter=BOTH)
INTERVAL = {"data_interval_start": NOON - HOUR, "data_interval_end": NOON}
EMPTY = {"data_interval_start": NOON, "data_interval_end": NOON, "dag_run": SimpleNamespace(run_after=NOON + HOUR)}
MANUAL = {"dag_run": SimpleNamespace(run_after=NOON + HOUR)}


class Accessor(dict):
    def set(self, key, value):
        self[key] = value


def watermark(reached):
    mark = AssetWatermark(Accessor(), target="t")
    if reached is not None:
        mark.move(reached, run="earlier", since=None)
    return mark


def choose(context, *, resource=USAGE, **how):
    defaults = {"incremental": False, "full_refresh": False, "since": None, "overlap": timedelta(minutes=5), "run": "r"}
    return window.choose_window(resource=resource, context=context, **{"watermark": None, **defaults, **how})


@pytest.mark.parametrize(
    ("context", "how", "since", "until", "why"),
    [
        (INTERVAL, {}, NOON - HOUR, NOON, "the data interval's start; the data interval's end"),
        (INTERVAL, {"since": NOON - 5 * HOUR}, NOON - 5 * HOUR, NOON, "since=; the data interval's end"),
        (INTERVAL, {"until": NOON + HOUR}, NOON - HOUR, NOON + HOUR, "the data interval's start; until="),
        (EMPTY, {"since": NOON - HOUR}, NOON - HOUR, NOON, "since=; the data interval's end"),
        (MANUAL, {"since": NOON}, NOON, NOON + HOUR, "since=; the time after which the run was due"),
        (MANUAL, {"since": NOON, "until": NOON + 2 * HOUR}, NOON, NOON + 2 * HOUR, "since=; until="),
    ],
)
def test_where_the_ends_come_from(context, how, since, until, why):
    chosen = choose(context, **how)
    assert (chosen.since, chosen.until, chosen.why) == (since, until, why)
    assert str(chosen) == f"from {since.isoformat()} to {until.isoformat()}"
    assert chosen.summary() == {"since": since.isoformat(), "until": until.isoformat()}


@pytest.mark.parametrize(
    "how", [{}, {"until": NOON + HOUR}, {"incremental": True, "watermark": watermark(None)}, {"incremental": True}]
)
@pytest.mark.parametrize("context", [EMPTY, MANUAL, {}])
def test_an_interval_that_is_empty_or_absent_is_said(context, how):
    with pytest.raises(
        ParameterError, match=r"from and to.*since= \(and until=\).*CronDataIntervalTimetable.*create_cron_data"
    ) as caught:
        choose(context, **how)
    assert ("an empty one" in str(caught.value)) is (context is EMPTY)
    assert ("no watermark" in str(caught.value)) is ("incremental" in how)


def test_an_incremental_pull_goes_from_the_watermark_to_the_interval():
    mark = watermark(NOON - 3 * HOUR)
    chosen = choose(EMPTY, incremental=True, watermark=mark)
    assert (chosen.since, chosen.until) == (NOON - 3 * HOUR - timedelta(minutes=5), NOON)
    mark.move(NOON, run="r", since=chosen.since)
    assert choose(EMPTY, incremental=True, watermark=mark) == replace(
        chosen, why="where this run began before; the data interval's end"
    )
    first = choose(EMPTY, incremental=True, watermark=watermark(None), since=NOON - 9 * HOUR)
    assert (first.since, first.until) == (NOON - 9 * HOUR, NOON)


def test_before_airflow_has_a_store_the_interval_stands_in():
    chosen = choose(INTERVAL, incremental=True)
    assert (chosen.since, chosen.until) == (NOON - HOUR - timedelta(minutes=5), NOON)


@pytest.mark.parametrize("since", [NOON, NOON + HOUR])
def test_a_window_without_anything_in_it_names_both_ends(since):
    with pytest.raises(ParameterError, match=r"since=2026-01-01T1.*\(since=\) is not before until=2026-01-01T12.*interval's end"):
        choose(INTERVAL, since=since)


def test_an_end_can_be_nowhere():
    with pytest.raises(ParameterError, match="give until="):
        choose({}, since=NOON)


@pytest.mark.parametrize(
    ("resource", "given", "message"),
    [
        (replace(USAGE, time_filter=None), {"until": NOON}, "leave until out"),
        (replace(USAGE, time_filter=None), {"since": NOON, "window": HOUR}, "leave since and window out"),
        (replace(USAGE, time_filter=replace(BOTH, until=None)), {"since": NOON, "until": NOON}, "leave until out"),
        (replace(USAGE, time_filter=replace(BOTH, until=None)), {"since": NOON, "window": HOUR}, "leave window out"),
    ],
)
def test_what_the_resource_cannot_do_is_refused(resource, given, message):
    with pytest.raises(ParameterError, match=message):
        choose(INTERVAL, resource=resource, **given)


def test_where_no_end_is_demanded_none_is_made_up():
    optional = replace(USAGE, time_filter=replace(BOTH, required=False))
    assert choose(INTERVAL, resource=optional).until is None
    assert choose(INTERVAL, resource=optional, until=NOON).summary() == {"since": None, "until": NOON.isoformat()}
    assert choose(INTERVAL, resource=optional, since=NOON - HOUR, window=HOUR).until == NOON
    assert choose(INTERVAL, resource=replace(USAGE, time_filter=None)).summary() == {"since": None}
