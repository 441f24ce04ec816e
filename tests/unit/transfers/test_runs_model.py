# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Any interleaving of runs, failures, retries, clears and backfills over a list that grows and changes: nothing gets lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from limio_limitrail.api.resource import Resource, TimeFilter
from limio_limitrail.landing.manifest import Manifest
from limio_limitrail.landing.parts import PartFormat
from limio_limitrail.landing.sql.table_checks import Loss
from limio_limitrail.transfers.incremental import IncrementalPull, TargetLoss
from limio_limitrail.transfers.state import AssetWatermark
from tests.support.strategies import examples

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SOURCE = {"base URL": "0123456789abcdef"}
LISTS = {
    "both ends": TimeFilter(since="from", until="to", field="time", required=True),
    "one end": TimeFilter(since="after", field="time", required=True),
    "no start asked": TimeFilter(since="modified", field="time"),
}


class Accessor(dict[str, Any]):
    def set(self, key: str, value: Any) -> None:
        self[key] = value


@dataclass(frozen=True)
class Run:
    """A run of the Dag.

    :param number: scheduled runs are numbered by the hours at whose end they are due.
    :param hours: how many hours its interval has; an empty one has none.
    """

    number: int
    hours: int
    backfill: bool = False

    @property
    def name(self) -> str:
        return f"{'backfill' if self.backfill else 'scheduled'}-{self.number}"

    @property
    def context(self) -> dict[str, Any]:
        end = BEGIN + self.number * HOUR
        run = SimpleNamespace(run_after=end, run_type="backfill" if self.backfill else "scheduled")
        return {"data_interval_start": end - self.hours * HOUR, "data_interval_end": end, "dag_run": run}


@dataclass
class Table(IncrementalPull):
    """A table and the task that fills it, pulling by the real rules."""

    resource: Resource
    appends: bool
    overlap: timedelta
    rows: dict[str, dict[str, datetime]] = field(default_factory=dict)
    """Of each run, what it left: the records' keys and times. A merge leaves it all in one place."""
    dropped: bool = False
    made: set[str] = field(default_factory=set)

    since, until, slice_size = BEGIN, None, None
    incremental, full_refresh = True, False

    def __post_init__(self) -> None:
        self.watermark = AssetWatermark(Accessor(), target="t", source=SOURCE)

    def own_rows(self) -> bool:
        return self.appends

    def find_loss(self, resource: Resource, *, watermark: datetime, loaded_at: datetime | None) -> TargetLoss | None:
        return TargetLoss(what="it is not there", kind=Loss.MISSING) if self.dropped else None

    def begin(self, run: Run, records: dict[str, datetime], now: datetime) -> tuple[Any, Manifest, dict[str, datetime]]:
        self.reset_after_loss(self.resource, self.watermark, run=run.name)  # type: ignore[arg-type]
        window = self.choose_range(
            run.context,  # type: ignore[arg-type]
            resource=self.resource,
            run=run.name,  # type: ignore[arg-type]
            folder=None,  # type: ignore[arg-type]
            watermark=self.watermark,
        )
        assert self.resource.time_filter is not None
        assert window.asked_until is None or self.resource.time_filter.until is not None
        came = {
            key: time
            for key, time in records.items()
            if (window.since is None or time >= window.since) and (window.until is None or time < window.until)
        }
        manifest = Manifest(
            resource="things",
            run_id=run.name,
            part_format=PartFormat.PARQUET,
            parts=(),
            schema={},
            pages=1,
            started_at=now,
            since=window.since,
            until=window.until,
            newest=max(came.values(), default=None),
        )
        job = SimpleNamespace(resource=self.resource, watermark=self.watermark, time_range=window, run=run.name)
        return job, manifest, came

    def load(self, run: Run, came: dict[str, datetime]) -> None:
        if self.dropped:
            self.rows, self.dropped, self.made = {}, False, set()
        if self.appends:
            if run.name in self.made:
                before = self.rows[run.name].items()
                assert came.items() <= before, "a run that is made again adds none"
            self.rows[run.name] = came
        else:
            there = self.rows.setdefault("all", {})
            there.update({key: time for key, time in came.items() if key not in there or time >= there[key]})

    def note(self, run: Run, job: Any, manifest: Manifest) -> None:
        before = self.watermark.read().watermark
        self.move_watermark(job, manifest)
        after = self.watermark.read().watermark
        assert before is None or (after is not None and after >= before), "it never moves back"
        self.made.add(run.name)


STEPS = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 5)),
    st.tuples(st.just("wait"), st.integers(20, 150)),
    st.tuples(st.just("run"), st.integers(0, 9)),
    st.tuples(st.just("fail"), st.integers(0, 9)),
    st.tuples(st.just("fail after the load"), st.integers(0, 9)),
    st.tuples(st.just("begin"), st.integers(0, 9)),
    st.tuples(st.just("end"), st.integers(0, 9)),
    st.tuples(st.just("backfill"), st.integers(1, 12)),
    st.tuples(st.just("drop"), st.integers(0, 3)),
)


@settings(max_examples=examples(400))
@given(
    steps=st.lists(STEPS, min_size=12, max_size=40),
    kind=st.sampled_from(sorted(LISTS)),
    appends=st.booleans(),
    hours=st.sampled_from([0, 1]),
    overlap=st.sampled_from([0, 5, 90]),
)
def test_in_the_end_the_table_has_everything(steps, kind, appends, hours, overlap):
    resource = Resource(name="things", path="/things", time_column="time", time_filter=LISTS[kind])
    table = Table(resource=resource, appends=appends, overlap=timedelta(minutes=overlap))
    now, due, records, open_runs, failed = BEGIN + HOUR, 0, {}, {}, set()

    def scheduled():
        """Give the run that is due next, as far as its time has come."""
        nonlocal due
        if BEGIN + (due + 1) * HOUR > now:
            return None
        due += 1
        return Run(due, hours)

    def whole(run):
        job, manifest, came = table.begin(run, records, now)
        table.load(run, came)
        table.note(run, job, manifest)
        failed.discard(run)
        return came

    for step, number in steps:
        now += timedelta(minutes=17)
        run = scheduled() if step in ("run", "fail", "fail after the load", "begin") and number < 6 else None
        if run is None and due and step in ("run", "fail", "fail after the load"):
            run = Run(1 + number % due, hours)  # it is made again
        match step:
            case "write":
                records[f"key {number}"] = now
            case "wait":
                now += timedelta(minutes=number)
            case "run" if run is not None and run not in open_runs:
                whole(run)
            case "fail" if run is not None and run not in open_runs:
                table.begin(run, records, now)
                failed.add(run)
            case "fail after the load" if run is not None and run not in open_runs:
                table.load(run, table.begin(run, records, now)[2])
                failed.add(run)
            case "begin" if run is not None:
                open_runs[run] = table.begin(run, records, now)
            case "end" if open_runs:
                run = list(open_runs)[number % len(open_runs)]
                job, manifest, came = open_runs.pop(run)
                table.load(run, came)
                table.note(run, job, manifest)
            case "backfill" if hours and BEGIN + number * HOUR <= now:
                run = Run(number, hours, backfill=True)
                came = whole(run)
                days = {key for key, time in records.items() if BEGIN + (number - 1) * HOUR <= time < BEGIN + number * HOUR}
                assert days <= came.keys(), "a backfill loads its days"
            case "drop" if not open_runs and number == 0:
                # A run that began before goes on without a table, and nobody can know.
                table.dropped = True
    for run, (job, manifest, came) in open_runs.items():
        table.load(run, came)
        table.note(run, job, manifest)
    for run in sorted(failed, key=lambda one: one.number):
        whole(run)
    now += 2 * HOUR
    while (run := scheduled()) is not None:
        whole(run)
    found = {}
    for rows in table.rows.values():
        found.update({key: max(time, found.get(key, time)) for key, time in rows.items()})
    assert found == records
