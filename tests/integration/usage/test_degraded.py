# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A task that is green but degraded says so, and no warning makes it red."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from limio_limitrail.emulator import Fault
from tests.support.usage import BODY, COMMIT, Code, make_rows

OUTLET = Code('[Asset("committed")]')
NOTIFY = Code("DegradedNotifier([Note('{{ degraded.title }}'), tell])")
BEFORE = """
from pathlib import Path
from airflow.sdk.bases.notifier import BaseNotifier
from limio_limitrail.notifications.degraded import DegradedNotifier

class Note(BaseNotifier):
    template_fields = ("title",)

    def __init__(self, title):
        super().__init__()
        self.title = title

    def notify(self, context):
        with open("{file}", "a") as file:
            file.write(self.title + "\\n")
        raise OSError("the chat is down")

def tell(context):
    with open("{file}", "a") as file:
        file.write(context["degraded"]["text"] + "\\n")
"""


def said(place) -> str:
    file = place.folder / "said"
    return file.read_text() if file.exists() else ""


def write_dag(place, **parameters) -> None:
    before = BEFORE.replace("{file}", str(place.folder / "said"))
    place.write_dag(before=before, outlets=OUTLET, on_success_callback=NOTIFY, **parameters)


def events_of(place, run_id: str) -> list[dict[str, object]]:
    return list(place.home.do("describe", "usage", run_id).result["tasks"]["commit"]["events"])


def widen(place, rows) -> None:
    """Give the place other rows, whose accounts exist but for ghosts."""
    place.database.fill(rows)
    place.server.limitrail.add_accounts(row[0] for row in rows if row[0] != "ghost")


def names(last) -> list[str]:
    assert last.state == "success", last.error
    assert last.summary["status"] == ("degraded" if last.summary["warnings"] else "ok")
    return [warning["name"] for warning in last.summary["warnings"]]


def usual(place, *counts) -> None:
    """Make earlier runs with so many rows: one that is whole, and further ones like it."""
    assert place.attempt("first").state == "success"
    names = "series, dag_id, task_id, map_index, operation, sent, milliseconds, finished_at, history_format"
    for number, count in enumerate(counts):
        place.database.execute(
            f"INSERT INTO limitrail_usage_runs (run_id, rows, {names}) SELECT 'usual-{number}', {count}, {names} "
            "FROM limitrail_usage_runs WHERE run_id = 'first'"
        )
    place.database.execute("DELETE FROM limitrail_usage_runs WHERE run_id = 'first'")


def test_a_degraded_task_is_green_and_says_why_everywhere(place_of):
    place = place_of("duck", [*make_rows(38), ("acme-98", "x", "PAYMENT", "5000"), ("acme-99", "x", "PAYMENT", "5000")])
    place.server.faults.add(Fault("status", COMMIT, times=3, status=422))
    limits = {"warn_rejected": 2, "warn_denied": "{{ '1%' }}", "warn_parked": 0, "warn_changed": 0, "warn_no_rows": True}
    write_dag(place, max_rejected="50%", **limits)
    last = place.attempt("one")
    assert names(last) == ["rejected", "denied"]
    rejected, denied = last.summary["warnings"]
    assert (rejected["count"], rejected["limit"], rejected["message"]) == (
        3,
        "2",
        "3 of 40 rows were rejected (warn_rejected=2)",
    )
    assert "3 x rejected: status 422" in rejected["reasons"][0]
    assert denied["limit"] == "1%"
    for warning in (rejected, denied):
        assert len(place.database.query(warning["query"])) == warning["count"]
    assert "how-to/degraded.md#rejected" in rejected["docs"]
    [event] = events_of(place, "one")
    assert (event["status"], event["warnings"]) == ("degraded", last.summary["warnings"])
    text = said(place)
    assert text.startswith("usage.commit is degraded: rejected, denied\n")
    assert all(part in text for part in (rejected["query"], rejected["docs"], rejected["reasons"][0], denied["message"]))
    log = place.output()
    assert "Note could not tell that the task is degraded (OSError)" in log
    assert f"degraded: {rejected['message']}" in log

    # What an earlier run was told of is not told again.
    assert names(place.attempt("two")) == []
    assert said(place) == text


def test_below_its_limits_nothing_is_said(place_of):
    place = place_of("duck", make_rows(40))
    place.server.faults.add(Fault("status", COMMIT, times=2, status=422))
    write_dag(place, max_rejected=5, warn_rejected=2, warn_no_rows=True, warn_fewer_rows="50%", warn_slower="300%")
    assert names(place.attempt("one")) == []
    assert said(place) == ""


def test_a_failed_task_is_failed_and_not_degraded(place_of):
    place = place_of("duck", make_rows(10))
    place.server.faults.add(Fault("status", COMMIT, times=3, status=422))
    write_dag(place, max_rejected=1, warn_rejected=0, warn_fewer_rows="50%")
    last = place.attempt("one")
    assert (last.state, last.summary["status"]) == ("failed", "failed")
    assert said(place) == ""
    assert "limitrail_usage_runs" not in json.dumps(place.database.query("SELECT table_name FROM information_schema.tables"))


@pytest.mark.exhaustive
def test_parked_and_changed_rows_warn(place_of):
    place = place_of("duck", make_rows(20), idempotency="off")
    place.server.faults.add(Fault("reset_after", COMMIT, times=1))
    limits = {"max_parked": 5, "max_changed": 5, "warn_parked": 0, "warn_changed": 0}
    write_dag(place, **limits)
    assert names(place.attempt("one")) == ["parked"]
    place.database.execute("UPDATE usage SET amount = amount + 1 WHERE account IN ('acme-7', 'acme-8')")
    last = place.attempt("two")
    assert names(last) == ["parked", "changed"]
    for warning in last.summary["warnings"]:
        assert len(place.database.query(warning["query"])) == warning["count"], warning
    assert "acme-" in last.summary["warnings"][1]["reasons"][0]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("given", [{"warn_no_rows": True}, {"warn_fewer_rows": 1}, {"warn_no_rows": True, "warn_fewer_rows": 1}])
def test_no_rows_at_all(place_of, given):
    place = place_of("lite")
    write_dag(place, **given)
    last = place.attempt("one")
    [warning] = last.summary["warnings"]
    assert (last.state, last.summary["status"], warning["count"]) == ("success", "degraded", 0)
    assert warning["name"] == ("no_rows" if "warn_no_rows" in given else "fewer_rows")
    # A holiday is a template.
    day = "dag_run.run_after.astimezone(dag.timezone).weekday() < 7"
    write_dag(place, warn_no_rows=f"{{{{ {day} and dag_run.run_id != 'holiday' }}}}", warn_fewer_rows="{{ none }}")
    assert names(place.attempt("holiday")) == []
    assert names(place.attempt("workday")) == ["no_rows"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
def test_far_fewer_than_usual(place_of, conn_id):
    place = place_of(conn_id, make_rows(5))
    write_dag(place, warn_fewer_rows="50%")
    usual(place, 20, 22, 24)
    last = place.attempt("few")
    assert names(last) == ["fewer_rows"]
    assert last.summary["warnings"][0]["message"] == "5 rows, usually about 22 (warn_fewer_rows=50%)"
    assert last.summary["warnings"][0]["usual"] == 22
    # The same run again is compared with the others, not with itself.
    assert names(place.attempt("few")) == ["fewer_rows"]
    assert len(place.database.query("SELECT * FROM limitrail_usage_runs")) == 4
    widen(place, make_rows(12))
    assert names(place.attempt("enough")) == []


@pytest.mark.exhaustive
def test_only_whole_runs_with_rows_that_are_alike_count(place_of):
    place = place_of("lite", make_rows(40))
    write_dag(
        place,
        warn_fewer_rows="50%",
        limit="{{ 5 if 'limit' in run_id else none }}",
        dry_run="{{ 'dry' in run_id }}",
        replay="{{ 'rejected' if 'replay' in run_id else none }}",
        max_rejected="{{ 0 if 'fail' in run_id else 1 }}",
    )
    backfill = {"times": {"run_type": "backfill"}}
    for run_id, kwargs in {"dry": {}, "limit": {}, "backfill": backfill, "replay": {}, "whole": {}}.items():
        assert place.attempt(run_id, **kwargs).state == "success"
    place.database.fill([*make_rows(40), ("ghost", "x", "PAYMENT", "1")])
    assert place.attempt("fails").state == "failed"
    assert [row["run_id"] for row in place.database.query("SELECT run_id FROM limitrail_usage_runs")] == ["whole"]
    # Neither are they compared: with a limit all rows are read, and a backfill's days may be small.
    usual(place, 100, 100, 100, 0, 0, 0, 0)
    place.database.fill(make_rows(40))
    assert [names(place.attempt(f"{run_id}-2", **kwargs)) for run_id, kwargs in {"replay": {}, "backfill": backfill}.items()] == [
        [],
        [],
    ]
    assert names(place.attempt("few")) == ["fewer_rows"]


@pytest.mark.exhaustive
def test_two_runs_make_nothing_usual(place_of):
    place = place_of("lite", make_rows(1))
    write_dag(place, warn_fewer_rows="50%")
    usual(place, 40, 40, 0, 0)
    assert names(place.attempt("few")) == []


@pytest.mark.exhaustive
def test_the_history_is_small(place_of):
    place = place_of("lite", make_rows(1))
    write_dag(place, warn_fewer_rows="50%")
    patch = {"limio_limitrail.usage.ledger.run_history.REMEMBERED_RUNS": 3}
    for number in range(5):
        place.attempt(str(number), patch=patch)
    newest = "SELECT run_id FROM limitrail_usage_runs ORDER BY finished_at"
    assert [row["run_id"] for row in place.database.query(newest)] == ["2", "3", "4"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
def test_runs_after_a_clock_that_was_ahead_are_remembered(place_of, conn_id):
    place = place_of(conn_id, make_rows(5))
    write_dag(place, warn_fewer_rows="50%")
    usual(place, 20, 20, 20)
    # A worker's clock was a year ahead for three runs. They are not usual for a year.
    future = (datetime.now(UTC) + timedelta(days=365)).isoformat(sep=" ")
    place.database.execute(f"UPDATE limitrail_usage_runs SET finished_at = '{future}'")
    patch = {"limio_limitrail.usage.ledger.run_history.REMEMBERED_RUNS": 3}
    assert [names(place.attempt(str(number), patch=patch)) for number in range(3)] == [["fewer_rows"], ["fewer_rows"], []]
    found = place.database.query("SELECT run_id FROM limitrail_usage_runs ORDER BY finished_at")
    assert [row["run_id"] for row in found] == ["0", "1", "2"]


@pytest.mark.covering
@pytest.mark.sampled(2)
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
@pytest.mark.parametrize(
    "damage",
    [
        ["DROP TABLE limitrail_usage_runs"],
        ["DROP TABLE limitrail_usage_runs", "CREATE TABLE limitrail_usage_runs (id integer)"],
        ["DROP TABLE limitrail_usage_runs", "CREATE VIEW limitrail_usage_runs AS SELECT * FROM usage"],
        ["UPDATE limitrail_usage_runs SET history_format = 2"],
        ["UPDATE limitrail_usage_runs SET rows = NULL, milliseconds = -1"],
        ["UPDATE limitrail_usage_runs SET series = 'of another deployment'"],
        ["UPDATE limitrail_usage_runs SET finished_at = NULL"],
    ],
)
def test_a_lost_history_is_no_warning_and_no_error(place_of, conn_id, damage):
    place = place_of(conn_id, make_rows(1))
    write_dag(place, warn_fewer_rows="50%", warn_slower="101%")
    usual(place, 20, 20, 20)
    place.database.execute(*damage)
    place.output()
    last = place.attempt("few")
    assert names(last) == []
    assert len([line for line in place.output().splitlines() if "limitrail_usage_runs" in line and "arning" in line]) <= 1
    place.agree()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("other", [{"task_id": "other"}, {"dag_id": "another"}, {"operation": "preview"}, {"key_namespace": "b"}])
def test_another_task_is_not_compared_with(place_of, other):
    place = place_of("lite", make_rows(1))
    write_dag(place, warn_fewer_rows="50%")
    usual(place, 20, 20, 20)
    place.write_dag(**{"warn_fewer_rows": "50%", "task_id": "commit", "on_rekeyed": "send", **other})
    task_id = other.get("task_id", "commit")
    found = place.home.attempt(task_id, run_id="few", dag_id=other.get("dag_id", "usage")).task(task_id)
    assert (found["state"], found["xcom"]["warnings"]) == ("success", [])


@pytest.mark.exhaustive
def test_rows_of_another_dag_in_the_same_ledger_are_not_warned_of(place_of):
    place = place_of("lite", make_rows(12), idempotency="off")
    limits = {"max_parked": 10, "max_rejected": 10, "warn_parked": 0, "warn_rejected": 0}
    place.server.faults.add(Fault("reset_after", COMMIT, times=2))
    place.server.faults.add(Fault("status", COMMIT, after=2, times=2, status=422))
    half = "SELECT * FROM usage ORDER BY account LIMIT 6"
    write_dag(place, sql=half, concurrency=1, **limits)
    assert names(place.attempt("one")) == ["rejected", "parked"]
    place.write_dag(dag_id="another", sql=f"{half} OFFSET 6", **limits)
    found = place.home.attempt("commit", run_id="one", dag_id="another").task("commit")
    assert (found["state"], found["xcom"]["rows"], found["xcom"]["warnings"]) == ("success", 6, [])
    # Rows that another Dag has parked, and that are among those of this one, count; what it has rejected does not.
    place.write_dag(dag_id="whole", **limits)
    found = place.home.attempt("commit", run_id="one", dag_id="whole").task("commit")
    [warning] = found["xcom"]["warnings"]
    assert (warning["name"], warning["count"]) == ("parked", 2)
    assert len(place.database.query(warning["query"])) == 2


@pytest.mark.exhaustive
def test_another_tenant_is_not_compared_with(place_of):
    place = place_of("lite", make_rows(1))
    write_dag(place, warn_fewer_rows="50%", on_rekeyed="send")
    usual(place, 20, 20, 20)
    place.home.set("AIRFLOW_CONN_LIMITRAIL_DEFAULT", place.server.limitrail_connection_json(tenant="another"))
    assert names(place.attempt("few")) == []


@pytest.mark.exhaustive
def test_mapped_copies_are_compared_each_with_itself(place_of):
    place = place_of("lite", make_rows(20))
    place.home.write_dag(
        "LimitRailCommitUsageOperator.partial(task_id='commit', sql_conn_id='lite', key_columns=['account', 'day'], "
        f"body={BODY}, warn_fewer_rows='50%').expand("
        "sql=[f'SELECT * FROM usage ORDER BY account LIMIT {count}' for count in (2, 20 if len(RUNS) < 3 else 2)])",
        dag_id="usage",
    )
    file = place.home.path / "dags" / "dag_file.py"
    text = file.read_text()
    for number in range(4):
        file.write_text(f"RUNS = {list(range(number))}\n" + text)
        tasks = place.home.run("usage", logical_date=f"2026-01-0{number + 1}T00:00:00+00:00").result["tasks"]
    found = {name: [warning["name"] for warning in task["xcom"]["warnings"]] for name, task in tasks.items()}
    assert found == {"commit[0]": [], "commit[1]": ["fewer_rows"]}


def test_a_slow_task_is_degraded(place_of):
    place = place_of("lite", make_rows(3))
    write_dag(place, warn_slower=Code("timedelta(microseconds=1)"))
    last = place.attempt()
    assert names(last) == ["slower"]
    assert "3 rows sent" in last.summary["warnings"][0]["reasons"]
    assert "usage.commit is degraded: slower" in said(place)


@pytest.mark.exhaustive
def test_only_some_warnings_are_told(place_of):
    place = place_of("lite")
    before = BEFORE.replace("{file}", str(place.folder / "said"))
    notify = Code("DegradedNotifier(tell, warnings=['denied'])")
    place.write_dag(before=before, on_success_callback=notify, warn_no_rows=True)
    assert names(place.attempt()) == ["no_rows"]
    assert said(place) == ""


# -- reconciliations -----------------------------------------------------------------------------------------------------


def reconcile(place, run_id, **parameters):
    now = datetime.now(UTC)
    given = {
        "sql_conn_id": place.database.conn_id,
        "match": {"idempotencyKey": "idempotency_key"},
        "since": (now - timedelta(hours=1)).isoformat(),
        "until": (now + timedelta(hours=1)).isoformat(),
        "outlets": OUTLET,
        "on_success_callback": NOTIFY,
        **parameters,
    }
    shown = ", ".join(f"{name}={value!r}" for name, value in given.items())
    before = BEFORE.replace("{file}", str(place.folder / "said"))
    place.home.write_dag(f"{before}\nLimitRailReconcileUsageOperator(task_id='compare', {shown})", dag_id="month", name="month")
    return place.home.attempt("compare", run_id=run_id, dag_id="month").task("compare")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
def test_a_degraded_reconciliation_is_green_and_says_why_everywhere(place_of, conn_id):
    place = place_of(conn_id, make_rows(20))
    write_dag(place, kept_members={"amount": "plain"})
    assert place.attempt("one").state == "success"
    place.server.limitrail.add_usage([{"committedAt": datetime.now(UTC), "externalAccount": "acme-1"}] * 2)
    place.database.execute("UPDATE limitrail_usage_ledger SET state = 'parked' WHERE row_key LIKE '%acme-7\"%'")
    allowed = {"max_only_theirs": "50%", "max_uncertain": 5}
    found = reconcile(place, "one", **allowed, warn_only_theirs="{{ 1 }}", warn_uncertain=0, warn_no_rows=True)
    assert (found["state"], found["xcom"]["status"]) == ("success", "degraded")
    theirs, uncertain = found["xcom"]["warnings"]
    assert (theirs["name"], theirs["count"], uncertain["name"], uncertain["count"]) == ("only_theirs", 2, "uncertain", 1)
    for warning in (theirs, uncertain):
        assert len(place.database.query(warning["query"])) == warning["count"]
        assert warning["message"] in said(place)
    assert "1 x the list has it; for example row {" in uncertain["reasons"][0]
    [event] = place.home.do("describe", "month", "one").result["tasks"]["compare"]["events"]
    assert (event["status"], event["warnings"]) == ("degraded", found["xcom"]["warnings"])
    log = place.output()
    assert f"reconcile: degraded: {theirs['message']}" in log
    assert "only_theirs: 2 x it has no value for match=; for example record" in log
    told = said(place)
    assert told.startswith("month.compare is degraded: only theirs, uncertain\n")

    # What the list is certain about is settled, and worth no warning; a failed task is failed.
    found = reconcile(place, "two", max_only_theirs=2, settle=True, warn_uncertain=0)
    assert (found["state"], found["xcom"]["status"], found["xcom"]["warnings"]) == ("success", "ok", [])
    found = reconcile(place, "three", warn_only_theirs=0)
    assert (found["state"], found["xcom"]["status"]) == ("failed", "failed")
    assert said(place) == told


def test_a_reconciliation_of_nothing_is_degraded(place_of):
    place = place_of("lite", make_rows(3))
    write_dag(place)
    assert place.attempt("one").state == "success"
    year = {"since": "2020-01-01", "until": "2021-01-01"}
    assert reconcile(place, "one", **year)["xcom"]["status"] == "ok"
    found = reconcile(place, "two", **year, warn_no_rows=True)
    assert (found["state"], [warning["name"] for warning in found["xcom"]["warnings"]]) == ("success", ["no_rows"])
