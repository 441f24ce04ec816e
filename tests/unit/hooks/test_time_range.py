# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which range of time a run asks for: every kind of run, of list and of progress."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.query import build_query
from limio_limitrail.api.resource import Resource, TimeFilter
from limio_limitrail.hooks.time_range import Incremental, PastRange, RunTimes, choose_range, just_after

NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
HOUR, DAY, FIVE = timedelta(hours=1), timedelta(days=1), timedelta(minutes=5)
USAGE = Resource(name="usage", path="/usage", time_filter=TimeFilter(since="from", until="to", field="at", required=True))
BASKETS = Resource(name="baskets", path="/baskets", time_filter=TimeFilter(since="after", field="at", required=True))
CATALOG = Resource(name="catalog", path="/catalog", time_filter=TimeFilter(since="modified", field="at"))
OBJECTS = Resource(name="objects", path="/objects")
BETWEEN = Resource(name="between", path="/between", time_filter=TimeFilter(since="from", until="to", field="at"))
ALL = (USAGE, BASKETS, CATALOG, BETWEEN)


class Type(StrEnum):
    BACKFILL = "backfill"
    MANUAL = "manual"


def interval(start, end, **more):
    return RunTimes(start=start, end=end, due=more.pop("due", end), **more)


HOURLY = interval(NOON - HOUR, NOON)
EMPTY = interval(NOON, NOON)
MANUAL = RunTimes(due=NOON)
OLD = interval(NOON - 9 * DAY, NOON - 8 * DAY)
OLD_EMPTY = interval(NOON - 9 * DAY, NOON - 9 * DAY)


def going_on(watermark=NOON - HOUR, **more):
    return Incremental(overlap=more.pop("overlap", FIVE), watermark=watermark, **more)


FIRST = Incremental(overlap=FIVE)
NO_WATERMARK = "everything, because there is no watermark yet"
OLD_AIRFLOW = Incremental(overlap=FIVE, stored=False)
REFRESH = Incremental(overlap=FIVE, watermark=NOON - HOUR, full_refresh=True)
BEGINNING = datetime.min.replace(tzinfo=UTC)
AGAIN = PastRange(since=NOON - 3 * DAY, until=NOON - 2 * DAY)
LAST = "the watermark 2026-01-10T11:00:00+00:00 minus 0:05:00"
W = NOON - HOUR - FIVE
END, DUE = "the data interval's end", "the time after which the run was due"

# What is asked for, the run, the parameters; since, until, whether later records are left out here; why.
ROWS = {
    # Not incremental: since=, or what the run's interval says.
    "interval": (USAGE, HOURLY, {}, NOON - HOUR, NOON, False, f"the data interval's start; {END}"),
    "since": (USAGE, HOURLY, {"since": NOON - 5 * HOUR}, NOON - 5 * HOUR, NOON, False, f"since=; {END}"),
    "until": (USAGE, HOURLY, {"until": NOON + HOUR}, NOON - HOUR, NOON + HOUR, False, "the data interval's start; until="),
    "empty": (USAGE, EMPTY, {"since": NOON - HOUR}, NOON - HOUR, NOON, False, f"since=; {END}"),
    "manual": (USAGE, MANUAL, {"since": NOON - HOUR}, NOON - HOUR, NOON, False, f"since=; {DUE}"),
    "both": (USAGE, MANUAL, {"since": NOON, "until": NOON + HOUR}, NOON, NOON + HOUR, False, "since=; until="),
    "no end asked": (BETWEEN, HOURLY, {}, None, None, False, "everything"),
    "an end given": (BETWEEN, HOURLY, {"until": NOON}, None, NOON, False, "everything; until="),
    "slices": (BETWEEN, HOURLY, {"since": W, "slice_size": HOUR}, W, NOON, False, f"since=; {END}"),
    "one end": (BASKETS, HOURLY, {}, NOON - HOUR, None, False, "the data interval's start"),
    "one end of rows": (BASKETS, HOURLY, {"own_rows": True}, NOON - HOUR, NOON, True, f"the data interval's start; {END}"),
    "rows since the interval": (
        CATALOG, HOURLY, {"own_rows": True, "since": NOON - HOUR}, NOON - HOUR, NOON, True, f"since=; {END}",
    ),
    "rows since ever": (CATALOG, HOURLY, {"own_rows": True, "since": W}, W, None, False, "since="),
    "one end, empty": (BASKETS, EMPTY, {}, NOON, None, False, "the data interval's start"),
    "no filter": (OBJECTS, HOURLY, {}, None, None, False, "everything, because the API has no time filter for it"),
    # The first incremental pull.
    "first": (CATALOG, HOURLY, {"incremental": FIRST}, None, None, False, NO_WATERMARK),
    "first since": (USAGE, EMPTY, {"incremental": FIRST, "since": W}, W, NOON, False, f"since=; {END}"),
    "first of rows": (CATALOG, HOURLY, {"incremental": FIRST, "since": W, "own_rows": True}, W, NOON, True, f"since=; {END}"),
    "first of all": (BASKETS, EMPTY, {"incremental": FIRST}, NOON, None, False, "the data interval's start"),
    # It goes on from the watermark: scheduled, empty, manual, asset-triggered, mapped, catching up.
    "next": (USAGE, interval(NOON, NOON + DAY), {"incremental": going_on()}, W, NOON + DAY, False, f"{LAST}; {END}"),
    "next empty": (USAGE, EMPTY, {"incremental": going_on()}, W, NOON, False, f"{LAST}; {END}"),
    "next manual": (USAGE, MANUAL, {"incremental": going_on()}, W, NOON, False, f"{LAST}; {DUE}"),
    "next one end": (BASKETS, HOURLY, {"incremental": going_on()}, W, None, False, LAST),
    "next with since": (BASKETS, EMPTY, {"incremental": going_on(), "since": NOON - 9 * DAY}, W, None, False, LAST),
    "next of rows": (BASKETS, HOURLY, {"incremental": going_on(), "own_rows": True}, W, NOON, True, f"{LAST}; {END}"),
    "next of rows, empty": (BASKETS, EMPTY, {"incremental": going_on(), "own_rows": True}, W, None, False, LAST),
    "next of rows, manual": (BASKETS, MANUAL, {"incremental": going_on(), "own_rows": True}, W, None, False, LAST),
    "runs failed": (USAGE, HOURLY, {"incremental": going_on(NOON - 5 * DAY)}, NOON - 5 * DAY - FIVE, NOON, False, None),
    "continuous": (
        USAGE, interval(NOON - timedelta(seconds=7), NOON), {"incremental": going_on()}, W, NOON, False, f"{LAST}; {END}",
    ),
    # A full refresh.
    "refresh": (BASKETS, HOURLY, {"incremental": REFRESH, "since": AGAIN.since}, AGAIN.since, None, False, None),
    "refresh of rows, again": (
        BASKETS, EMPTY, {"incremental": replace(REFRESH, past=AGAIN), "since": W - 9 * DAY, "own_rows": True},
        W - 9 * DAY, AGAIN.until, True, "since=; where this run ended before",
    ),
    # Its interval ends before the watermark: a backfill, a late run, one that failed and is cleared.
    "backfill": (USAGE, replace(OLD, backfill=True), {"incremental": going_on()}, OLD.start, OLD.end, False, None),
    "cleared": (
        USAGE, OLD, {"incremental": going_on()}, OLD.start, OLD.end, False,
        f"the data interval's start, because it ends before the watermark 2026-01-10T11:00:00+00:00; {END}",
    ),
    "backfill one end": (BASKETS, replace(OLD, backfill=True), {"incremental": going_on()}, OLD.start, None, False, None),
    "backfill of rows": (
        CATALOG, replace(OLD, backfill=True), {"incremental": going_on(), "own_rows": True}, OLD.start, OLD.end, True, None,
    ),
    "backfill over the watermark": (
        USAGE, interval(NOON - DAY, NOON + DAY, backfill=True), {"incremental": going_on()}, NOON - DAY, NOON + DAY, False, None,
    ),
    "ends at the watermark": (USAGE, interval(NOON - DAY, NOON), {"incremental": going_on(NOON)}, NOON - DAY, NOON, False, None),
    # The same with empty intervals, which say nothing about what a run is about.
    "empty before the watermark": (
        USAGE, OLD_EMPTY, {"incremental": going_on()}, OLD_EMPTY.end - FIVE, OLD_EMPTY.end, False,
        ("0:05:00 before its end, because what came until then is loaded already: "
        f"the watermark is 2026-01-10T11:00:00+00:00; {END}"),
    ),
    "empty before the watermark, no overlap": (
        USAGE, OLD_EMPTY, {"incremental": going_on(overlap=timedelta(0))}, OLD_EMPTY.end - timedelta(seconds=1), OLD_EMPTY.end,
        False, None,
    ),
    "empty before the watermark, one end": (BASKETS, OLD_EMPTY, {"incremental": going_on()}, W, None, False, LAST),
    "manual, of another day": (CATALOG, replace(OLD_EMPTY, due=NOON), {"incremental": going_on()}, W, None, False, LAST),
    "empty backfill": (
        USAGE, replace(OLD_EMPTY, backfill=True), {"incremental": going_on(), "since": NOON - 30 * DAY},
        NOON - 30 * DAY, OLD_EMPTY.end, False, f"since=, because this run of a backfill has an empty data interval; {END}",
    ),
    "empty backfill of everything": (
        CATALOG, replace(OLD_EMPTY, backfill=True), {"incremental": going_on()}, None, None, False,
        "everything, because this run of a backfill has an empty data interval",
    ),
    "empty backfill, next": (BASKETS, replace(EMPTY, backfill=True), {"incremental": going_on()}, W, None, False, LAST),
    # Made again.
    "again": (USAGE, HOURLY, {"incremental": going_on(past=AGAIN)}, AGAIN.since, AGAIN.until, False, None),
    "again, one end": (BASKETS, EMPTY, {"incremental": going_on(past=AGAIN)}, AGAIN.since, None, False, None),
    "again, of rows": (
        BASKETS, EMPTY, {"incremental": going_on(past=AGAIN), "own_rows": True}, AGAIN.since, AGAIN.until, True,
        "where this run began before; where this run ended before",
    ),
    "again, nothing had come": (
        CATALOG, EMPTY, {"incremental": going_on(past=PastRange(since=W, until=W)), "own_rows": True}, W, W, True, None,
    ),
    # Airflow 3.2 has no state stores.
    "3.2": (USAGE, HOURLY, {"incremental": OLD_AIRFLOW}, W, NOON, False, f"the data interval's start minus 0:05:00; {END}"),
    "3.2 of rows": (BASKETS, HOURLY, {"incremental": OLD_AIRFLOW, "own_rows": True}, W, NOON, True, None),
    "3.2 since": (BASKETS, HOURLY, {"incremental": OLD_AIRFLOW, "since": AGAIN.since}, AGAIN.since, None, False, "since="),
    "3.2 empty": (CATALOG, EMPTY, {"incremental": OLD_AIRFLOW}, None, None, False, NO_WATERMARK),
    "3.2 empty, a start asked": (
        BASKETS, EMPTY, {"incremental": OLD_AIRFLOW}, NOON - FIVE, None, False, "the data interval's start minus 0:05:00",
    ),
    # Beyond all times.
    "overlap": (BASKETS, EMPTY, {"incremental": going_on(overlap=DAY * 1_095_000)}, BEGINNING, None, False, None),
    "overlap, no start asked": (CATALOG, EMPTY, {"incremental": going_on(overlap=timedelta.max)}, None, None, False, None),
    "year 1": (CATALOG, EMPTY, {"incremental": going_on(datetime(1, 1, 1, tzinfo=UTC))}, None, None, False, None),
    "overlap of 3.2": (CATALOG, HOURLY, {"incremental": replace(OLD_AIRFLOW, overlap=timedelta.max)}, None, None, False, None),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_the_range(row):
    resource, run, how, since, until, cut, reason = ROWS[row]
    chosen = choose_range(resource, run=run, **how)
    assert (chosen.since, chosen.until, chosen.cut) == (since, until, cut)
    assert reason is None or chosen.reason == reason
    assert (chosen.asked_until, chosen.kept_until) == ((None, until) if cut else (until, None))
    summary = {"since": since.isoformat() if since else None}
    assert chosen.summary() == (summary if until is None else {**summary, "until": until.isoformat()})
    # What is chosen can be asked for.
    _, query = build_query(resource, since=chosen.since, until=chosen.asked_until)
    assert all(len(text) == len("2026-01-01T00:00:00Z") for text in query.values())
    assert choose_range(resource, run=run, **how) == chosen, "the clock is not asked"


@pytest.mark.parametrize(
    ("resource", "run", "how", "says"),
    [
        (USAGE, EMPTY, {}, r"from and to.*an empty one.*since= \(and until=\).*CronDataIntervalTimetable.*create_cron_data"),
        (USAGE, MANUAL, {"until": NOON + HOUR}, r"no data interval.*it has none"),
        (USAGE, RunTimes(), {"incremental": FIRST}, "no watermark and no data interval"),
        (USAGE, RunTimes(), {"since": NOON}, "give until="),
        (BASKETS, MANUAL, {}, "neither a watermark nor a data interval: give since="),
        (USAGE, HOURLY, {"since": NOON}, r"since=2026-01-10T12.*\(since=\) is not before until=2026-01-10T12.*interval's end"),
        (USAGE, HOURLY, {"since": NOON + DAY}, "nothing lies between them"),
        (USAGE, EMPTY, {"incremental": going_on(), "until": AGAIN.until}, r"the watermark .* is not before until=.* \(until=\)"),
        (OBJECTS, HOURLY, {"until": NOON}, "leave until out"),
        (OBJECTS, HOURLY, {"since": NOON, "slice_size": HOUR}, "leave since and slice_size out"),
        (BASKETS, HOURLY, {"since": NOON, "until": NOON}, "leave until out"),
        (BASKETS, HOURLY, {"since": NOON, "slice_size": HOUR}, "leave slice_size out"),
        (BASKETS, replace(OLD_EMPTY, backfill=True), {"incremental": going_on()}, "empty.*no days of 'baskets' to load again"),
        (
            CATALOG,
            replace(OLD_EMPTY, backfill=True),
            {"incremental": going_on(), "since": AGAIN.since, "own_rows": True},
            "CronDataIntervalTimetable.*a task of its own",
        ),
    ],
)
def test_what_cannot_be_asked_for_is_refused(resource, run, how, says):
    with pytest.raises(ParameterError, match=says):
        choose_range(resource, run=run, **how)


@pytest.mark.parametrize(
    ("resource", "run", "how"),
    [
        (BASKETS, EMPTY, {}),
        (BASKETS, EMPTY, {"incremental": OLD_AIRFLOW}),
        (BASKETS, replace(OLD_EMPTY, backfill=True), {"incremental": going_on(), "since": AGAIN.since}),
    ],
)
def test_what_an_empty_interval_means_is_said(resource, run, how):
    assert "CronDataIntervalTimetable" in choose_range(resource, run=run, **how).warning
    assert choose_range(resource, run=HOURLY, **how).warning is None


@pytest.mark.parametrize("resource", ALL)
@pytest.mark.parametrize("own_rows", [True, False])
def test_a_late_run_leaves_what_came_after_it_to_the_next(resource, own_rows):
    """Of two runs in a row, each made late, nothing is left out between the two."""
    first = choose_range(resource, run=HOURLY, incremental=going_on(NOON - HOUR), own_rows=own_rows)
    end = first.until or NOON + 3 * HOUR
    # The newest time that came is before the end, whenever the run was made.
    after = choose_range(resource, run=interval(NOON, NOON + HOUR), incremental=going_on(end - FIVE / 5), own_rows=own_rows)
    assert after.since is not None
    assert after.since <= end - FIVE / 5


def test_what_airflow_says():
    zone = timezone(timedelta(hours=2))
    run = SimpleNamespace(run_after=NOON, run_type=Type.BACKFILL)
    context = {"data_interval_start": NOON.astimezone(zone) - DAY, "data_interval_end": NOON, "dag_run": run}
    assert RunTimes.of(context) == RunTimes(start=NOON - DAY, end=NOON, due=NOON, backfill=True)  # type: ignore[arg-type]
    assert RunTimes.of({"dag_run": SimpleNamespace(run_after=NOON, run_type=Type.MANUAL)}) == RunTimes(due=NOON)  # type: ignore[typeddict-item]
    assert RunTimes.of({}) == RunTimes()
    assert str(choose_range(USAGE, run=HOURLY)) == f"from {(NOON - HOUR).isoformat()} to {NOON.isoformat()}"
    assert str(choose_range(CATALOG, run=HOURLY)) == "from the beginning on"


def test_the_first_time_that_is_later():
    assert just_after(NOON) - NOON == timedelta.resolution
    assert just_after(datetime.max.replace(tzinfo=UTC)) == datetime.max.replace(tzinfo=UTC)
