# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whole pulls from LimitRail: windows, slices, resume, watermarks, and what fails before anything is asked."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import pytest

from limio_limitrail.emulator import Fault, LimitRailClient, LimitRailOptions
from tests.support.landed import duck, duck_rows, manifest_of, records_of

START = datetime(2026, 3, 1, tzinfo=UTC)
READ, ACCOUNTS = "limitrail.usage.read", "limitrail.accounts.read"
SIGKILL = -9
WINDOW = "since='2026-03-01', until='2026-03-03'"
PAGED = (
    "Resource(name='paged', path='/v1/usage', "
    "paging=CursorString(page_size_param='limit', cursor_param='cursor', cursor_member='nextCursor'), "
    "time_column='committedAt', timestamps=('committedAt',), "
    "time_filter=TimeFilter(since='from', until='to', field='committedAt', required=True))"
)


def asked(server, path="/v1/"):
    return [dict(parse_qsl(entry["query"])) for entry in server.counters.log if entry["path"].startswith(path)]


def day(first, last):
    return {"from": f"2026-03-0{first}T00:00:00Z", "to": f"2026-03-0{last}T00:00:00Z"}


@pytest.mark.exhaustive
@pytest.mark.sampled(1)
def test_the_data_interval_is_the_window(home, write_dag, usage, limitrail_emulator, tmp_path):
    write_dag(
        f"""
        LimitRailToObjectStorageOperator(task_id="land", resource="usage", destination="file://{tmp_path}/out")
        LimitRailToSqlOperator(task_id="load", resource="usage", sql_conn_id="duck", table="usage", outlets=[Asset("usage")])
        LimitRailToSqlOperator(task_id="accounts", resource="accounts", sql_conn_id="lite", table="accounts", slice_size=None)
        LimitRailToSqlOperator(
            task_id="later", resource="usage", sql_conn_id="duck", table="later",
            since="{{{{ data_interval_end }}}}", until="{{{{ data_interval_end + macros.timedelta(hours=2) }}}}",
        )
        LimitRailToSqlOperator(
            task_id="none", resource="reservations", sql_conn_id="duck", table="reservations", outlets=[Asset("r")],
        )
        """
    )
    done = home.run(logical_date="2026-03-02T00:00:00+00:00")
    assert done.result["state"] == "success", home.output()[-4000:]
    queries = asked(limitrail_emulator, "/v1/usage")
    assert sorted(map(json.dumps, queries)) == sorted(
        map(json.dumps, [day(1, 2)] * 3 + [{"from": "2026-03-02T00:00:00Z", "to": "2026-03-02T02:00:00Z"}])
    )
    summary = done.task("land")["xcom"]
    assert (summary["since"], summary["until"]) == ("2026-03-01T00:00:00+00:00", "2026-03-02T00:00:00+00:00")
    assert [row["id"] for row in records_of(summary["folder"])] == [row["id"] for row in usage[:24]]
    assert summary["rows"] == 24
    rows = duck_rows(tmp_path / "warehouse.duckdb", "usage")
    assert {row["id"]: row["committedAt"] for row in rows} == {
        row["id"]: datetime.fromisoformat(row["committedAt"]) for row in usage[:24]
    }
    assert done.task("load")["events"][0]["until"] == "2026-03-02T00:00:00+00:00"
    assert done.task("later")["xcom"]["rows"] == 2
    # Nothing is a result like any other.
    none = done.task("none")["xcom"]
    assert (none["rows"], none["parts"], none["pages"]) == (0, 0, 1)
    accounts = done.task("accounts")["xcom"]
    assert accounts["rows"] == len(limitrail_emulator.limitrail.accounts)
    assert (accounts["since"], "until" in accounts) == (None, False)
    assert "pulling from 2026-03-01T00:00:00+00:00 to 2026-03-02T00:00:00+00:00 (the data interval's start;" in home.output()


WRONG = """
ways = dict(retries=3, retry_delay=NOW, sql_conn_id="duck", table="t")
LimitRailToSqlOperator(task_id="no_window", resource="usage", **ways)
LimitRailToSqlOperator(task_id="no_start", resource="usage", until="2026-03-02", **ways)
LimitRailToSqlOperator(task_id="backwards", resource="usage", since="2026-03-02", until="2026-03-01", **ways)
LimitRailToSqlOperator(task_id="no_time", resource="accounts", since="2026-03-02", until="2026-03-03", **ways)
LimitRailToSqlOperator(task_id="no_span", resource="usage", since="2026-03-02", until="2026-03-03", slice_size=NOW, **ways)
LimitRailToSqlOperator(task_id="no_resource", resource="usages", since="2026-03-02", until="2026-03-03", **ways)
LimitRailToSqlOperator(task_id="no_scope", resource="accounts", limitrail_conn_id="no_scope", **ways)
LimitRailToSqlOperator(task_id="bad_scope", resource="accounts", scope="a,b", **ways)
LimitRailToSqlOperator(task_id="bad_path", resource="accounts", limitrail_conn_id="bad_path", **ways)
"""


@pytest.mark.exhaustive
def test_what_cannot_be_asked_fails_at_once_and_sends_nothing(make_home, write_dag, limitrail_emulator):
    home = make_home(
        limitrail_emulator,
        name="wrong",
        no_scope=limitrail_emulator.limitrail_connection_json(scope=""),
        bad_path=limitrail_emulator.limitrail_connection_json(paths={"accounts": "v2/accounts"}),
    )
    write_dag(WRONG, schedule="CronTriggerTimetable('0 0 * * *', timezone='UTC')", into=home)
    done = home.run(logical_date="2026-03-02T00:00:00+00:00")
    for name, task in done.result["tasks"].items():
        assert (task["state"], task["tries"]) == ("failed", 1), name
    assert limitrail_emulator.counters.requests == 0
    output = home.output()
    for said in (
        "an empty one, as Airflow 3 makes them by default",
        "CronDataIntervalTimetable(...), or [scheduler] create_cron_data_intervals = True",
        "since=2026-03-02T00:00:00+00:00 (since=) is not before until=2026-03-01T00:00:00+00:00 (until=)",
        "cannot be filtered by time: leave since and until out",
        "in whole seconds: a timedelta, seconds, or an ISO 8601 duration",
        "known are: accounts, reservations, usage",
        "LimitRail requires a scope",
        "as a list or as a text with spaces between them",
        "field 'paths'",
    ):
        assert said in output, said


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_slices_bring_each_record_once(home, write_dag, usage, limitrail_emulator, tmp_path, form):
    limitrail_emulator.configure_limitrail(max_window_seconds=5 * 3600)
    write_dag(
        f"""
        ways = dict(destination="file://{tmp_path}/out", format={form!r}, since="2026-02-28T12:00:00Z", until="2026-03-03")
        LimitRailToObjectStorageOperator(task_id="whole", resource="usage", **ways)
        LimitRailToObjectStorageOperator(task_id="sliced", resource="usage", slice_size=timedelta(hours=5), **ways)
        """
    )
    done = home.run(logical_date="2026-03-03T00:00:00+00:00")
    assert done.task("whole")["state"] == "failed"
    summary = done.task("sliced")["xcom"]
    # 60 hours in steps of 5, the first two of which and half of the third are empty.
    assert (summary["requests"], summary["pages"], summary["rows"], summary["parts"]) == (12, 12, 48, 10)
    manifest = manifest_of(summary["folder"])
    assert (manifest["since"], manifest["until"]) == (summary["since"], summary["until"])
    assert [part["rows"] for part in manifest["parts"]] == [3, *[5] * 9]
    if form == "jsonl":
        assert [row["id"] for row in records_of(summary["folder"])] == [row["id"] for row in usage]


# What was finished when the task was killed: slices that need not be asked for again. Slices are asked for while others are
# written, at most two of them: there it is how many are finished at most.
STEPS = [
    ("before request", 1, 0), ("before request", 4, 3), ("after request", 4, 3), ("half a part", 3, 2), ("after part", 3, 2),
    ("before state", 3, 2), ("after state", 3, 3), ("after state", 8, 8), ("before manifest", 1, 8), ("after manifest", 1, 8),
]  # fmt: skip


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
@pytest.mark.parametrize("hours", [0, 12], ids=["full slices", "an empty slice first"])
def test_a_killed_pull_goes_on_with_the_slices_that_are_left(home, write_dag, usage, limitrail_emulator, tmp_path, hours):
    start = START - timedelta(hours=hours)
    write_dag(
        f"""
        LimitRailToObjectStorageOperator(
            task_id="land", resource="usage", destination="file://{tmp_path}/out", since={start.isoformat()!r},
            until="2026-03-03", slice_size=timedelta(hours={6 + hours / 8}),
        )
        """
    )
    steps = STEPS if not hours else [("after state", 1, 1), ("before request", 3, 2), ("after state", 2, 2)]
    for number, (step, count, finished) in enumerate(steps):
        run_id = f"run-{number}"
        assert home.attempt("land", run_id=run_id, kill=[step, count]).code == SIGKILL, step
        saved = sum(json.loads(value)["pages"] for _, value in home.do("state_of", "pull", run_id=run_id).result["task"])
        assert max(0, finished - 2) <= saved <= finished if step.endswith("request") else saved == finished, step
        limitrail_emulator.counters.reset()
        again = home.attempt("land", run_id=run_id).task("land")
        assert again["state"] == "success", home.output()[-4000:]
        assert len(asked(limitrail_emulator)) == 8 - saved, step
        assert [row["id"] for row in records_of(again["xcom"]["folder"])] == [row["id"] for row in usage], step


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
def test_slices_of_pages_go_on_in_the_middle_of_a_slice(home, write_dag, usage, limitrail_emulator, tmp_path):
    limitrail_emulator.configure_limitrail(page_size=5)
    write_dag(
        f"""
        LimitRailToObjectStorageOperator(
            task_id="land", resource={PAGED}, destination="file://{tmp_path}/out", {WINDOW}, slice_size=timedelta(hours=12),
            page_size=4, part_rows=8,
        )
        LimitRailToSqlOperator(
            task_id="load", resource={PAGED}, sql_conn_id="duck", table="usage", {WINDOW}, slice_size=timedelta(hours=12),
            page_size=4,
        )
        """
    )
    # Three pages a slice, and a part after the second and the third of them.
    for number, (step, count, finished) in enumerate([("after state", 1, 2), ("after state", 2, 3), ("before state", 4, 5)]):
        run_id = f"run-{number}"
        assert home.attempt("land", run_id=run_id, kill=[step, count]).code == SIGKILL
        limitrail_emulator.counters.reset()
        again = home.attempt("land", run_id=run_id).task("land")
        assert again["state"] == "success", home.output()[-4000:]
        assert len(asked(limitrail_emulator)) == 12 - finished, step
        assert [row["id"] for row in records_of(again["xcom"]["folder"])] == [row["id"] for row in usage]
    # A cursor that is no longer accepted: the whole window again, each record once.
    assert home.attempt("load", run_id="lost", kill=["after state", 1]).code == SIGKILL
    state = json.loads(home.do("state_of", "pull", run_id="lost").result["task"][0][1])
    assert state["cursor"] == {"slice.from": "2026-03-01T12:00:00Z"}
    state["cursor"] = {**state["cursor"], "slice.seen": "4", "page.cursor": "long-gone"}
    home.do("put_state", "pull", run_id="lost", value=state)
    again = home.attempt("load", run_id="lost").task("load")
    assert again["state"] == "success", home.output()[-4000:]
    assert "the position in the list is lost" in home.output()
    assert again["xcom"]["rows"] == 48
    assert duck(tmp_path / "warehouse.duckdb", "SELECT count(*), count(DISTINCT id) FROM usage") == [(48, 48)]


@pytest.mark.needs_state_store
def test_another_end_or_another_span_is_another_pull(home, write_dag, usage, limitrail_emulator, tmp_path):
    def dag(until, hours):
        write_dag(
            f"""
            LimitRailToObjectStorageOperator(
                task_id="land", resource="usage", destination="file://{tmp_path}/out", since="2026-03-01", until={until!r},
                slice_size=timedelta(hours={hours}),
            )
            """
        )

    for run_id, until, hours, rows in (("end", "2026-03-02", 6, 24), ("span", "2026-03-03", 8, 48)):
        dag("2026-03-03", 6)
        assert home.attempt("land", run_id=run_id, kill=["after state", 3]).code == SIGKILL
        dag(until, hours)
        again = home.attempt("land", run_id=run_id).task("land")
        assert again["state"] == "success", home.output()[-4000:]
        assert "with other parameters; this one starts over" in home.output()
        assert len(records_of(again["xcom"]["folder"])) == rows
        home.forget_output()


def watermarks(home):
    return [json.loads(value)["watermark"] for _, value in home.do("state_of", "pull", run_id="-").result["asset"]]


@pytest.mark.needs_state_store
def test_an_incremental_pull_merges_what_came_since_the_watermark(home, write_dag, limitrail_emulator, tmp_path):
    write_dag(
        """
        LimitRailToSqlOperator(
            task_id="load", resource="usage", sql_conn_id="duck", table="usage", incremental=True, since="2026-03-01",
            until="{{ dag_run.conf['until'] }}", overlap=timedelta(hours=1), outlets=[Asset("usage")],
        )
        """
    )

    def run(until):
        limitrail_emulator.counters.reset()
        done = home.run(conf={"until": until}, logical_date=f"{until}T00:00:00+00:00")
        assert done.result["state"] == "success", home.output()[-4000:]
        (query,) = asked(limitrail_emulator)
        return query, done.task("load")["xcom"]

    add = limitrail_emulator.limitrail.add_usage
    add([{"id": "a", "committedAt": "2026-03-01T10:00:00Z"}, {"id": "b", "committedAt": "2026-03-01T20:00:00Z"}])
    query, summary = run("2026-03-02")
    assert query == {"from": "2026-03-01T00:00:00Z", "to": "2026-03-02T00:00:00Z"}
    assert summary["inserted"] == 2
    assert watermarks(home) == ["2026-03-01T20:00:00+00:00"]
    add([{"id": "late", "committedAt": "2026-03-01T19:30:00Z"}, {"id": "c", "committedAt": "2026-03-02T05:00:00Z"}])
    query, summary = run("2026-03-03")
    assert query == {"from": "2026-03-01T19:00:00Z", "to": "2026-03-03T00:00:00Z"}
    assert (summary["inserted"], summary["unchanged"], summary["watermark"]) == (2, 1, "2026-03-02T05:00:00+00:00")
    query, summary = run("2026-03-04")
    assert query == {"from": "2026-03-02T04:00:00Z", "to": "2026-03-04T00:00:00Z"}
    assert (summary["inserted"], summary["watermark"]) == (0, "2026-03-02T05:00:00+00:00")
    assert duck(tmp_path / "warehouse.duckdb", "SELECT id FROM usage ORDER BY id") == [("a",), ("b",), ("c",), ("late",)]


READER = LimitRailClient("lr_reader", "reader-secret", "demo", (READ, ACCOUNTS))


def test_a_missing_scope_fails_the_task_before_the_api_is_asked(make_home, limitrail_emulator_factory):
    server = limitrail_emulator_factory(limitrail=LimitRailOptions(clients=(READER,)))
    home = make_home(server)
    home.write_dag(
        """
        ways = dict(resource="accounts", sql_conn_id="duck", retries=3, retry_delay=NOW)
        LimitRailToSqlOperator(task_id="lacks", table="t", scope=["limitrail.usage.write"], **ways)
        LimitRailToSqlOperator(task_id="fine", table="fine", scope="limitrail.usage.read", **ways)
        """
    )
    done = home.run()
    assert (done.task("lacks")["state"], done.task("lacks")["tries"]) == ("failed", 1)
    assert done.task("fine")["state"] == "success"
    assert len(asked(server)) == 1
    output = home.output()
    assert "the token lacks requested scopes: limitrail.usage.write. No request was sent to the API itself" in output
    assert f"the token was granted: {ACCOUNTS} {READ}" in output


def test_a_403_on_the_way_fails_at_once_and_names_scopes(home, write_dag, usage, limitrail_emulator, tmp_path):
    limitrail_emulator.faults.add(Fault("status", "/v1/usage", status=403, times=None, after=3))
    write_dag(
        f"""
        LimitRailToObjectStorageOperator(
            task_id="land", resource="usage", destination="file://{tmp_path}/out", {WINDOW}, slice_size=timedelta(hours=6),
            retries=3, retry_delay=NOW,
        )
        """
    )
    task = home.run(logical_date="2026-03-03T00:00:00+00:00").task("land")
    assert (task["state"], task["tries"]) == ("failed", 1)
    assert len(asked(limitrail_emulator)) == 4
    assert limitrail_emulator.counters.tokens_minted == 1
    assert "The scope that it needs is not documented; the token was granted: limitrail." in home.output()


def test_another_oauth_host_other_paths_and_a_resource_of_ones_own(make_home, limitrail_emulator_factory, write_dag, tmp_path):
    server = limitrail_emulator_factory(limitrail=LimitRailOptions(separate_oauth=True))
    server.limitrail.add_usage([{"id": "a", "committedAt": "2026-03-01T10:00:00Z"}])
    home = make_home(server, name="other", moved=server.limitrail_connection_json(paths={"reservations": "/v1/usage"}))
    write_dag(
        f"""
        ways = dict(destination="file://{tmp_path}/out", {WINDOW})
        LimitRailToObjectStorageOperator(task_id="moved", resource="reservations", limitrail_conn_id="moved", **ways)
        LimitRailToObjectStorageOperator(task_id="own", resource={PAGED}, **ways)
        """,
        into=home,
    )
    done = home.run(logical_date="2026-03-03T00:00:00+00:00")
    assert done.result["state"] == "success", home.output()[-4000:]
    for name in ("moved", "own"):
        assert [row["id"] for row in records_of(done.task(name)["xcom"]["folder"])] == ["a"], name
    tokens = [entry for entry in server.counters.log if entry["path"] == "/connect/token"]
    assert [entry["status"] for entry in tokens] == [200, 200]
