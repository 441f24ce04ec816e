# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""``limit=10``: ten rows are sent in a run, whatever happens to its tries and copies, and the rest later."""

from __future__ import annotations

import pytest

from limio_limitrail.emulator import Fault
from tests.support.usage import COMMIT, SIGKILL, Code, make_rows

OUTLET = Code('[Asset("committed")]')


def keys_sent(place) -> set[str]:
    return {entry["headers"]["idempotency-key"] for entry in place.sent()}


def events_of(place, run_id: str) -> list[dict[str, object]]:
    found = place.home.do("describe", "usage", run_id).result["tasks"]["commit"]["events"]
    return list(found)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
def test_ten_are_sent_and_the_rest_later(place_of, conn_id):
    place = place_of(conn_id, make_rows(25))
    place.write_dag(limit=10, outlets=OUTLET)
    numbers = []
    for run_id in ("one", "one", "two", "three", "four"):
        last = place.attempt(run_id)
        assert last.state == "success", last.error
        numbers.append([last.summary[name] for name in ("rows", "sent", "settled_before", "left_for_later", "not_tried")])
        assert ("rows were left for later" in place.output()) == bool(last.summary["left_for_later"])
    # A cleared task is another try of the same run.
    assert numbers == [[25, 10, 0, 15, 0], [25, 0, 10, 15, 0], [25, 10, 10, 5, 0], [25, 5, 20, 0, 0], [25, 0, 25, 0, 0]]
    assert len(place.agree()) == len(place.sent()) == 25
    # The first rows of the input come first, and consumers learn of a ledger that is whole only.
    assert [len(events_of(place, run_id)) for run_id in ("one", "two", "three")] == [0, 0, 1]
    first = [entry for entry in place.database.ledger().values() if entry["run_id"] == "one"]
    assert {entry["row_key"] for entry in first} == {
        f'{{"account":"{account}","day":"day-0000"}}' for account in sorted(f"acme-{n}" for n in range(25))[:10]
    }


@pytest.mark.exhaustive
def test_without_the_limit_a_cleared_task_sends_the_rest(place_of):
    place = place_of("duck", make_rows(30))
    place.write_dag(limit="{{ dag_run.conf.get('limit', 10) if ti.try_number == 1 else none }}", outlets=OUTLET, concurrency=1)
    assert place.attempt("one").summary["left_for_later"] == 20
    last = place.attempt("one")
    assert (last.summary["sent"], last.summary["left_for_later"]) == (20, 0)
    assert len(place.agree()) == 30


@pytest.mark.covering
@pytest.mark.sampled(1)
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
@pytest.mark.parametrize("on_unknown", ["park", "resend"])
def test_a_killed_run_sends_no_more(place_of, conn_id, on_unknown):
    place = place_of(conn_id, make_rows(60), idempotency="header" if on_unknown == "resend" else "off")
    place.write_dag(limit=10, on_unknown=on_unknown, max_parked=10, retries=9, concurrency=2)
    for kill in (["before sending", 2], ["after claim", 1], ["before record", 1], ["after claiming", 2]):
        assert place.attempt(kill=kill).code in (0, SIGKILL)
        assert len(keys_sent(place)) <= 10
        assert len(place.database.ledger()) <= 10
    last = place.attempt()
    assert last.state == "success", last.error
    assert last.summary["left_for_later"] == 50
    assert last.summary["committed"] + last.summary["parked"] == len(place.database.ledger()) == 10
    if on_unknown == "resend":
        assert (last.summary["committed"], len(place.agree())) == (10, 10)
    assert len(place.journal()) <= len(keys_sent(place)) <= 10
    last = place.attempt("two")
    assert (last.summary["sent"], last.summary["left_for_later"]) == (10, 40)


def test_lost_answers_are_sent_again_and_nothing_else(place_of):
    place = place_of("duck", make_rows(40), extra={"max_attempts": 1})
    place.server.faults.add(Fault("reset_after", COMMIT, times=3))
    place.write_dag(limit=10, on_unknown="resend", retries=5, sql="SELECT * FROM usage ORDER BY account DESC")
    for _ in range(5):
        last = place.attempt()
        if last.state == "success":
            break
    assert last.state == "success", last.error
    assert len(place.journal()) == len(keys_sent(place)) == len(place.agree()) == 10


def test_thresholds_are_shares_of_the_rows_that_were_tried(place_of):
    place = place_of("duck", [*make_rows(40), *((f"a-ghost-{n}", "x", "PAYMENT", "1") for n in range(5))])
    place.server.limitrail.add_accounts([])
    place.database.execute("UPDATE usage SET account = 'a' || account WHERE account NOT LIKE 'a-ghost%'")
    place.server.limitrail.add_accounts([f"aacme-{n}" for n in range(40)])
    # Five of forty-five rows are less than 20%; five of ten are not.
    place.write_dag(limit=10, max_rejected="20%", sql="SELECT * FROM usage ORDER BY account")
    place.server.faults.add(Fault("status", COMMIT, times=5, status=422))
    last = place.attempt()
    assert last.state == "failed"
    assert "of 10 rows were rejected (max_rejected=20%)" in last.error
    assert "All other rows that were tried are done" in last.error
    assert last.summary["left_for_later"] == 35


@pytest.mark.exhaustive
def test_a_replay_is_limited_too(place_of):
    ghosts = [(f"ghost-{n:02}", "x", "PAYMENT", "1") for n in range(12)]
    place = place_of("lite", [*make_rows(3), *ghosts])
    place.write_dag(max_rejected=12)
    assert place.attempt("one").summary["rejected"] == 12
    place.server.limitrail.add_accounts([ghost[0] for ghost in ghosts])
    place.write_dag(limit=5, replay="rejected", max_rejected=12)
    numbers = []
    for run_id in ("two", "two", "three", "four"):
        summary = place.attempt(run_id).summary
        numbers.append([summary[name] for name in ("sent", "committed", "left_for_later", "rejected_before")])
    assert numbers == [[5, 8, 7, 0], [0, 8, 7, 0], [5, 13, 2, 0], [2, 15, 0, 0]]


@pytest.mark.exhaustive
def test_a_preview_is_limited_too(place_of):
    place = place_of("duck", make_rows(20))
    place.write_dag(operation="preview", limit=3)
    last = place.attempt()
    assert (last.summary["sent"], last.summary["left_for_later"], last.state) == (3, 17, "success")
    assert len(place.sent("/v1/usage/preview")) == 3


@pytest.mark.exhaustive
def test_two_limited_runs_send_ten_each(place_of):
    place = place_of("pg", make_rows(60))
    twin = place.twin()
    place.server.faults.add(Fault("latency", COMMIT, times=None, seconds=0.3))
    place.write_dag(limit=10)
    twin.write_dag(dag_id="twin", limit=10)
    processes = [place.begin("one"), twin.begin("one", dag_id="twin")]
    both = place.join(processes[0]), twin.join(processes[1])
    assert [(one.state, one.summary["sent"]) for one in both] == [("success", 10)] * 2
    assert len(keys_sent(place)) == len(place.agree()) == 20


@pytest.mark.exhaustive
def test_a_stopped_run_sends_the_rest_of_its_ten(place_of):
    place = place_of("duck", make_rows(60))
    place.server.faults.add(Fault("latency", COMMIT, times=None, seconds=1))
    place.write_dag(limit=20, retries=5, concurrency=2, execution_timeout=Code("timedelta(seconds=3)"))
    assert place.attempt("one").state == "up_for_retry"
    place.server.faults.clear()
    place.write_dag(limit=20, retries=5, max_parked=20)
    last = place.attempt("one")
    assert (last.state, last.summary["left_for_later"]) == ("success", 40)
    assert len(place.database.ledger()) == 20
    assert 0 < len(keys_sent(place)) <= 20


@pytest.mark.exhaustive
@pytest.mark.parametrize("conn_id", ["lite", "pg", "duck"])
def test_mapped_copies_share_the_limit(place_of, conn_id):
    place = place_of(conn_id, make_rows(40))
    parts = [f"SELECT * FROM usage WHERE account IN ({accounts})" for accounts in SHARDS]
    text = place.task(limit=15, sql=...).replace("LimitRailCommitUsageOperator(", "LimitRailCommitUsageOperator.partial(")
    place.home.write_dag(text.replace("partial(", "partial(task_id='commit', ", 1) + f".expand(sql={parts!r})", dag_id="usage")
    for sent in (15, 30, 40):
        outcome = place.home.run("usage")
        assert outcome.result["state"] == "success", place.home.output()[-3000:]
        summaries = [task["xcom"] for name, task in outcome.result["tasks"].items() if name.startswith("commit[")]
        assert len(summaries) == 4
        assert len(place.sent()) == len(place.agree()) == sent
        assert sum(summary["left_for_later"] for summary in summaries) == 40 - sent


SHARDS = [", ".join(f"'acme-{n}'" for n in numbers) for numbers in (range(3), range(3, 4), range(4, 15), range(15, 40))]
