# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Reconcile the ledger with a list that lags, forgets and pages: no row is billed twice, and none is lost."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from limio_limitrail.emulator import Fault
from tests.support.usage import COMMIT, Code, make_rows

ROWS = make_rows(24)
BY_KEY = {"idempotencyKey": "idempotency_key"}
BY_VALUES = {"externalAccount": "account", "metadata.day": "kept.metadata.day"}
KEPT = {"amount": "plain", "metadata.day": "hash"}
OTHERS = pytest.mark.exhaustive
PAGED = Code(
    "Resource(name='usage', path='/v1/usage', time_column='committedAt', time_filter=TimeFilter(since='from', until='to', "
    "field='committedAt', required=True), paging=CursorString(cursor_param='cursor', cursor_member='nextCursor'))"
)


NOW = datetime.now(UTC)
# A run of all tests may take more than an hour where the machine is busy.
AROUND_NOW = {"since": (NOW - timedelta(days=1)).isoformat(), "until": (NOW + timedelta(days=1)).isoformat()}


def write_reconcile(place, **parameters):
    given = {"sql_conn_id": place.database.conn_id, "match": BY_KEY, **AROUND_NOW, **parameters}
    shown = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not ...)
    place.home.write_dag(
        "from limio_limitrail.api.pagination import CursorString\n"
        "from limio_limitrail.api.resource import TimeFilter\n"
        f"LimitRailReconcileUsageOperator(task_id='reconcile', {shown})",
        dag_id="month",
        name="dag_month",
    )


def reconcile(place, run_id="one", **parameters):
    write_reconcile(place, **parameters)
    done = place.home.attempt("reconcile", run_id=run_id, dag_id="month").task("reconcile")
    return done["state"], done["xcom"]


def differences(place):
    return place.database.query("SELECT * FROM limitrail_usage_differences ORDER BY kind, row_key")


def in_doubt(place_of, conn_id="lite", rows=ROWS, *, clean=8, **options):
    """A place where some rows were carried out with a clear answer, and after them some got none: carried out or not."""
    place = place_of(conn_id, rows, idempotency="off", **options)
    place.server.faults.add(Fault("reset_after", COMMIT, after=clean, times=4))
    place.server.faults.add(Fault("status", COMMIT, status=500, after=clean + 4, times=4))
    place.write_dag(max_parked="100%", concurrency=1, kept_members=KEPT)
    assert place.attempt("one").state == "success"
    place.server.faults.clear()
    return place


def billed_once(place, rows=ROWS):
    """Whether the independent journal has each row exactly once."""
    bodies = Counter((body["externalAccount"], body["metadata"]["day"]) for body in map(json.loads, journal_bodies(place)))
    return bodies == Counter((account, day) for account, day, *_ in rows)


def journal_bodies(place):
    return [entry.body for entry in place.server.limitrail.journal if entry.operation == "commit"]


@pytest.mark.parametrize("conn_id", ["lite", pytest.param("duck", marks=OTHERS), pytest.param("pg", marks=OTHERS)])
@pytest.mark.parametrize("by", ["key", pytest.param("values", marks=OTHERS)])
def test_after_reconcile_and_settle_no_row_is_billed_twice_and_none_is_lost(place_of, conn_id, by):
    place = in_doubt(place_of, conn_id, page_size=5)
    assert not billed_once(place)
    how = {"match": BY_KEY if by == "key" else BY_VALUES, "compare": {"amount": "kept.amount"}, "resource": PAGED}
    # As long as the list lags, it proves nothing.
    place.server.configure_limitrail(list_lag_seconds=3600)
    state, lagging = reconcile(place, settle=True, listed_after=0, **how)
    assert (state, lagging["list_records"], lagging["settlement"]["settled"]) == ("failed", 0, 0)
    place.server.configure_limitrail(list_lag_seconds=0)
    state, early = reconcile(place, settle=False, max_uncertain=None, listed_after=3600, **how)
    assert (early["uncertain_there"], early["uncertain_missing"], early["only_ours"]) == (4, 4, 0)
    assert (state, early["proposed"]) == ("success", {"committed": 4})
    state, done = reconcile(place, settle=True, listed_after=0, **how)
    assert (state, done["settlement"]["settled_as"]) == ("success", {"committed": 4, "send": 4}), done
    assert (done["equal"], done["only_theirs"], done["not_sent_because"]) == (16, 0, [])
    assert {(line["kind"], line["proposal"]) for line in differences(place)} == {
        ("uncertain_there", "committed"),
        ("uncertain_missing", "send"),
    }
    # The task is cleared, and runs again before and after the rows are sent.
    assert reconcile(place, settle=True, listed_after=0, **how)[1]["settlement"]["settled"] == 0
    place.write_dag(max_parked="100%", kept_members=KEPT)
    assert place.attempt("two").summary["sent"] == 4
    state, last = reconcile(place, settle=True, listed_after=0, **how)
    assert (state, last["equal"], last["uncertain_there"]) == ("success", 24, 0)
    assert billed_once(place)
    assert place.database.states() == {"committed": 24}
    assert differences(place) == []
    [total] = place.database.query("SELECT kind, ledger_rows, list_records FROM limitrail_usage_totals")
    assert total == {"kind": "equal", "ledger_rows": 24, "list_records": 24}


def test_hashes_are_keyed_by_a_connection(place_of):
    place = place_of("lite", ROWS)
    masking_key = {"conn_type": "generic", "password": "a long random text"}
    place.home.connect({"masking_key": masking_key})
    place.write_dag(kept_members=KEPT, mask_conn_id="masking_key")
    assert place.attempt("one").state == "success"
    state, summary = reconcile(place, match=BY_VALUES, amount={"amount": "kept.amount"}, mask_conn_id="masking_key")
    assert (state, summary["equal"], summary["ledger_amount"]) == ("success", 24, summary["list_amount"])
    assert summary["ledger_amount"] == "282"
    place.output()
    place.home.connect({"masking_key": {**masking_key, "password": "another long random text"}})
    assert reconcile(place, "two", match=BY_VALUES, mask_conn_id="masking_key")[0] == "failed"
    said = place.output()
    assert "24 rows keep hashes that were made with another secret" in said
    assert "long random text" not in said


def test_a_list_that_forgets_frees_nothing(place_of):
    place = in_doubt(place_of)
    now = datetime.now(UTC)
    # What it has left is another's, and younger than all of ours.
    place.server.limitrail.add_usage([{"committedAt": now, "externalAccount": "acme-1"}])
    journal = len(journal_bodies(place))
    place.server.configure_limitrail(list_keeps_seconds=(datetime.now(UTC) - now).total_seconds() + 0.5)
    state, summary = reconcile(place, settle=True, listed_after=0)
    assert state == "failed"
    assert summary["settlement"]["settled_as"].get("send") is None
    assert summary["uncertain_missing"] >= 4
    assert len(journal_bodies(place)) == journal


def test_all_that_can_differ_is_listed(place_of):
    place = in_doubt(place_of)
    ledger = place.database.ledger()
    done = [key for key, row in ledger.items() if row["state"] == "committed"]
    twice, changed, given_up, gone = done[:4]
    usage = place.server.limitrail.usage["demo"]
    by_key = {record.key: record for record in usage._records}
    again = {"committedAt": datetime.now(UTC), "externalAccount": "acme-1"}
    place.server.limitrail.add_usage([{**again, "idempotencyKey": twice}, again])
    by_key[changed].request["amount"] = "999.5"
    place.database.execute(
        f"UPDATE limitrail_usage_ledger SET state = 'given_up' WHERE idempotency_key = '{given_up}'",
        f"DELETE FROM limitrail_usage_ledger WHERE idempotency_key = '{gone}'",
    )
    state, summary = reconcile(place, settle=True, listed_after=0, compare={"amount": "kept.amount"})
    found = {line["kind"]: line for line in differences(place)}
    assert state == "failed"
    assert (summary["twice_there"], summary["different"], summary["unexpected_there"], summary["only_theirs"]) == (1, 1, 1, 2)
    assert (found["twice_there"]["idempotency_key"], found["unexpected_there"]["state"]) == (twice, "given_up")
    assert (found["different"]["idempotency_key"], json.loads(found["different"]["members"])) == (changed, ["amount"])
    # What was found is certain; what was not is not, as one record has no key.
    assert summary["settlement"]["settled_as"] == {"committed": 4}
    assert "no value for match=" in summary["not_sent_because"][0]
    # Nothing that a customer's row holds beyond its key is written.
    assert "999.5" not in json.dumps(differences(place), default=str)


# -- the command line ----------------------------------------------------------------------------------------------------


def command(place, *words, **more):
    given = {"conn-id": place.database.conn_id, "start": AROUND_NOW["since"], "end": AROUND_NOW["until"], **more}
    options = [word for name, value in given.items() if value is not ... for word in (f"--{name}", str(value))]
    return ["limitrail", "ledger", "reconcile", *options, *words]


def run_command(place, *words, **more):
    return place.home.command(*command(place, "--match", "idempotencyKey=idempotency_key", *words, **more))


def counts(out):
    return {line["kind"]: line["count"] for line in json.loads(out) if line["count"]}


def test_the_command_line_reconciles_and_settles(place_of):
    place = in_doubt(place_of)
    compared = ("--compare", "amount=kept.amount", "--resource", "tests.support.usage.PAGED_USAGE")
    before = place.database.ledger()
    # Neither the ledger nor another table is written.
    code, out, err = run_command(place, *compared, "-o", "json", **{"listed-after": 0})
    assert code == 3, err
    assert (code, counts(out)) == (3, {"equal": 16, "uncertain_there": 4, "uncertain_missing": 4}), err
    assert "max_uncertain=0" in err
    code, out, err = run_command(place, *compared, "-o", "json", **{"listed-after": 0, "max-uncertain": "any"})
    assert code == 0, err
    allowed = {line["kind"]: line["allowed"] for line in json.loads(out)}
    assert (allowed["different"], allowed["uncertain_there"]) == (0, "any")
    code, _, err = run_command(place, *compared, "--settle", **{"listed-after": 0})
    assert (code, "8 rows would be settled: look at them, and give --yes" in err) == (1, True), err
    assert place.database.ledger() == before
    # Another time the differences, in a table of the database, too.
    tables = {"differences-table": "found", "totals-table": "totals", "limit": 3}
    for output in ("table", "plain", "yaml"):
        code, out, err = run_command(place, "--list", "-o", output, **{"listed-after": 0}, **tables)
        assert (code, out.count("uncertain_"), "more than 3 differences" in err) == (3, 3, True), err
    assert len(place.database.query("SELECT * FROM found")) == 8
    assert place.database.query("SELECT DISTINCT dag_id FROM totals") == [{"dag_id": "airflow limitrail ledger"}]
    code, out, err = run_command(place, *compared, "--settle", "--yes", "--by", "ada", "-o", "json", **{"listed-after": 0})
    assert code == 0, err
    assert "Settled as committed: 4 rows" in err
    assert "clear the task commit in the run one of the Dag usage" in err
    assert place.database.states() == {"committed": 20, "free": 4}
    assert {row["settled_by"] for row in place.database.query("SELECT settled_by FROM limitrail_usage_ledger")} == {None, "ada"}
    place.write_dag(max_parked="100%", kept_members=KEPT)
    assert place.attempt("two").summary["sent"] == 4
    code, out, err = run_command(place, *compared, "-o", "json")
    assert (code, counts(out)) == (0, {"equal": 24}), err
    assert billed_once(place)


def test_the_command_line_says_what_is_wrong(place_of):
    place = in_doubt(place_of)
    key = ("--match", "idempotencyKey=idempotency_key")
    wrong = {
        "--match must be NAME=VALUE, got 'key'": (["--match", "key"], {}),
        "--compare names 'a' twice": ([*key, "--compare", "a=b", "--compare", "a=c"], {}),
        "--start must be an ISO 8601 time": (key, {"start": "yesterday"}),
        "nothing lies between them": (key, {"start": AROUND_NOW["until"]}),
        "--max-different must be": ([*key, "--max-different", "few"], {}),
        "--listed-after must be": ([*key, "--listed-after", "soon"], {}),
        "--operation must be": ([*key, "--operation", "usage.preview"], {}),
        "--limit must be": ([*key, "--limit", "0"], {}),
        "--resource 'no_such.USAGE' cannot be imported: ModuleNotFoundError": ([*key, "--resource", "no_such.USAGE"], {}),
        "--resource 'json.dumps' is not a Resource": ([*key, "--resource", "json.dumps"], {}),
        "'invoices'": ([*key, "--resource", "invoices"], {}),
        "is no ledger of this version": ([*key, "--ledger-table", "usage"], {}),
        "there is no table elsewhere": ([*key, "--ledger-table", "elsewhere"], {}),
        "holds no reconciliation": ([*key, "--totals-table", "usage"], {}),
        "is not a SQL connection": (key, {"conn-id": "limitrail_default"}),
        "nowhere": (key, {"limitrail-conn-id": "nowhere"}),
    }
    before = place.database.ledger()
    ran = place.home.commands([command(place, *words, **more) for words, more in wrong.values()])
    for said, (code, out, err) in zip(wrong, ran, strict=True):
        assert (code, out, said in err, "Traceback" in err) == (1, "", True, False), (said, err)
    place.server.faults.add(Fault("status", "/v1/usage", status=403))
    code, out, err = run_command(place)
    assert (code, out, "scope" in err, "Traceback" in err) == (1, "", True, False), err
    assert place.database.ledger() == before
