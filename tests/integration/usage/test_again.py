# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Retries, cleared runs, new runs and backfills send nothing that is done."""

from __future__ import annotations

import json

import pytest

from tests.support.usage import COMMIT, Code, make_rows


@pytest.mark.sampled(1)
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
def test_what_is_done_is_not_sent_again(place_of, conn_id):
    rows = [*make_rows(100), ("ghost", "x", "PAYMENT", "1"), ("acme-1", "much", "PAYMENT", "1001")]
    place = place_of(conn_id, rows)
    place.write_dag(max_rejected=1, retries=9)
    last = place.attempt("one")
    assert last.state == "success"
    assert (last.summary["sent"], last.summary["denied"], last.summary["rejected"]) == (102, 1, 1)
    before = place.agree()
    for run_id in ("one", "two"):
        last = place.attempt(run_id)
        assert last.state == "success"
        assert (last.summary["sent"], last.summary["settled_before"], last.summary["requests"]) == (0, 102, 0)
    last = place.run(logical_date="2026-02-03T00:00:00+00:00")
    assert (last.state, last.summary["sent"]) == ("success", 0)
    assert len(place.sent()) == 102
    assert place.database.ledger() == before


@pytest.mark.exhaustive
def test_other_types_of_the_same_key_are_the_same_row(place_of):
    place = place_of("duck", make_rows(1))
    body = Code('{"externalAccount": "acme-0", "operation": "PAYMENT", "amount": 1, "metadata": {"day": "x"}}')
    forms = ["5", "5.0::DOUBLE", "5.00::DECIMAL(9, 2)", "5::HUGEINT", "5.000"]
    for number, form in enumerate(forms):
        place.write_dag(sql=f"SELECT {form} AS id", key_columns="id", body=body)
        assert place.attempt(f"run-{number}").state == "success"
    assert len(place.journal()) == 1
    place.write_dag(sql="SELECT '5' AS id", key_columns="id", body=body, on_rekeyed="send")
    assert place.attempt("text").state == "success"
    assert len(place.journal()) == 2


def test_a_changed_row_that_was_in_doubt_is_parked(place_of):
    place = place_of("duck", make_rows(50))
    place.write_dag(on_unknown="resend", retries=3, batch_size=5)
    assert place.attempt("one", kill=["after sending", 30]).code == -9
    hung = {key: entry for key, entry in place.database.ledger().items() if entry["state"] == "sending"}
    account = json.loads(next(iter(hung.values()))["row_key"])["account"]
    place.database.execute(f"UPDATE usage SET amount = 0.5 WHERE account = '{account}'")
    last = place.attempt("one")
    assert last.state == "failed"
    assert (last.summary["committed"], last.summary["parked"]) == (49, 1)
    [parked] = [entry for entry in place.database.ledger().values() if entry["state"] == "parked"]
    assert json.loads(parked["row_key"])["account"] == account
    assert "another body" in parked["detail"]
    place.journal()


@pytest.mark.exhaustive
def test_rejected_rows_are_sent_again_on_demand(place_of):
    rows = make_rows(40) + [(f"ghost-{n}", "x", "PAYMENT", "1") for n in range(5)]
    place = place_of("duck", rows)
    place.write_dag(replay="{{ dag_run.conf.get('replay') }}", max_rejected=5)
    last = place.run()
    assert (last.state, last.summary["rejected"]) == ("success", 5)
    place.server.limitrail.add_accounts([f"ghost-{n}" for n in range(4)])
    last = place.run()
    assert [last.summary[name] for name in ("sent", "rejected", "rejected_before")] == [0, 0, 5]
    last = place.run(conf={"replay": "rejected"})
    assert (last.state, last.summary["sent"], last.summary["committed"], last.summary["rejected"]) == ("success", 5, 44, 1)
    assert len(place.agree()) == 45
    seen = len(place.sent())
    place.write_dag(replay="rejected", max_rejected=5, retries=5)
    for run_id, sent in (("x", 1), ("x", 0), ("y", 1)):
        assert place.attempt(run_id).summary["sent"] == sent
    assert len(place.sent()) == seen + 2
    assert max(entry["attempts"] for entry in place.database.ledger().values()) == 4


def test_a_mapped_task(place_of):
    place = place_of("pg", make_rows(60))
    place.home.write_dag(
        """
        @task
        def split():
            return [f"SELECT account, day, amount FROM usage WHERE ascii(right(account, 1)) % 3 = {n}" for n in range(3)]

        LimitRailCommitUsageOperator.partial(
            task_id="commit", sql_conn_id="pg", key_columns=["account", "day"],
            body={"externalAccount": Column("account"), "operation": "PAYMENT", "amount": Column("amount"),
                  "metadata": {"day": Column("day")}},
        ).expand(sql=split())
        """,
        dag_id="usage",
    )
    tasks = place.home.run("usage").result["tasks"]
    summaries = [tasks[f"commit[{n}]"]["xcom"] for n in range(3)]
    assert sum(summary["sent"] for summary in summaries) == 60
    ledger = place.agree()
    assert {entry["map_index"] for entry in ledger.values()} == {0, 1, 2}
    assert len(place.sent(COMMIT)) == 60


def test_the_summary_is_in_the_asset_event(place_of):
    place = place_of("duck", make_rows(10))
    place.write_dag(outlets=Code('[Asset("billed")]'))
    outcome = place.home.run("usage").task("commit")
    [event] = outcome["events"]
    assert {name: event[name] for name in ("committed", "rows", "table")} == {
        "committed": 10,
        "rows": 10,
        "table": "limitrail_usage_ledger",
    }
