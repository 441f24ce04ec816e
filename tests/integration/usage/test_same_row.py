# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A row is the same row, whatever became of the types of its key columns, of the connection's client and of its body."""

from __future__ import annotations

import json

import pytest

from limio_limitrail.emulator import Fault, LimitRailClient
from tests.support.pages import blocks
from tests.support.usage import COMMIT, Code, make_rows

BODY = Code('{"externalAccount": "acme", "operation": "PAYMENT", "amount": Column("amount"), "metadata": {"day": "x"}}')
CLIENTS = (LimitRailClient("lr_old", "old-secret-1", "demo"), LimitRailClient("lr_new", "new-secret-2", "demo"))
NOT_SENT = "Sending them would carry them out twice, so nothing was sent"


def said_by(last):
    """Give a message without the escapes that its written form has."""
    return last.error.replace("\\'", "'")


def billed(place):
    return len(place.journal())


def fill(place, *statements):
    place.server.limitrail.add_accounts(["acme"])
    place.database.execute(*statements)


# -- under another key -------------------------------------------------------------------------------------------------


@pytest.mark.sampled(1)
@pytest.mark.parametrize("conn_id", ["duck", "pg"])
def test_a_key_column_that_changes_its_type(place_of, conn_id):
    place = place_of(conn_id)
    numbers = "range(1, 31) AS t(k)" if conn_id == "duck" else "generate_series(1, 30) AS t(k)"
    fill(place, f"CREATE TABLE metered AS SELECT CAST(k AS integer) AS k, 1.25 AS amount FROM {numbers}")
    usual = {"sql": "SELECT k, amount FROM metered ORDER BY k", "key_columns": "k", "body": BODY}
    place.write_dag(**usual)
    assert place.attempt("one").state == "success"
    place.database.execute("ALTER TABLE metered ALTER k TYPE text")
    before = place.database.ledger()
    place.write_dag(retries=3, **usual)
    last = place.attempt("two")
    assert last.state == "failed"
    assert f"30 of 30 rows are in the ledger limitrail_usage_ledger under other idempotency keys. {NOT_SENT}" in last.error
    assert "key column 'k' holds a text, and held a number (30 rows)" in said_by(last)
    assert "committed by usage.commit in the run one" in last.error
    assert (billed(place), len(place.sent())) == (30, 30)
    assert place.database.ledger() == before
    # Whoever says that they are done has them counted as done, and new rows are sent.
    place.database.execute("INSERT INTO metered VALUES ('31', 1.25)")
    place.write_dag(on_rekeyed="{{ 'settle' }}", **usual)
    last = place.attempt("three")
    assert last.state == "success"
    names = ("rows", "sent", "settled_before", "rekeyed", "committed", "changed")
    assert [last.summary[name] for name in names] == [31, 1, 30, 30, 31, 0]
    # Whoever says that they are rows of their own has them sent, once.
    place.write_dag(on_rekeyed="send", **usual)
    assert [place.attempt("four").summary["sent"], place.attempt("five").summary["sent"]] == [30, 0]
    place.write_dag(**usual)
    assert place.attempt("six").state == "success"
    assert billed(place) == 61


@pytest.mark.sampled(1)
@pytest.mark.parametrize("conn_id", ["duck", "pg"])
def test_every_key_column_changes_its_form_at_once(place_of, conn_id):
    place = place_of(conn_id)
    fill(
        place,
        "CREATE TABLE metered (a date, b timestamp, c uuid, d text, e text, f boolean, g decimal(9, 2), amount integer)",
        "INSERT INTO metered VALUES ('2026-01-05', '2026-01-05 12:00', '0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9', 'acme', "
        "'Zo\u00eb', true, 1.5, 1)",
    )
    key = ["a", "b", "c", "d", "e", "f", "g"]
    place.write_dag(sql="SELECT * FROM metered", key_columns=key, body=BODY)
    assert place.attempt("one").state == "success"
    changed = (
        "SELECT CAST(a AS timestamp) AS a, b AT TIME ZONE 'UTC' AS b, upper(CAST(c AS text)) AS c, d || ' ' AS d, "
        "'Zoe\u0308' AS e, CAST(f AS integer) AS f, CAST(g AS text) AS g, amount FROM metered"
    )
    place.write_dag(sql=changed, key_columns=key, body=BODY)
    last = place.attempt("two")
    assert (last.state, billed(place)) == ("failed", 1)
    for said in (
        "'a' holds a time without a zone, and held a date", "'b' holds a time with a zone, and held a time without a zone",
        "'c' is written in another way", "'d' is written in another way", "'e' is written in another way",
        "'f' holds a number, and held a boolean", "'g' holds a text, and held a number",
    ):  # fmt: skip
        assert said in said_by(last)


@pytest.mark.exhaustive
def test_a_client_that_was_rotated(place_of):
    place = place_of("duck", make_rows(20), clients=CLIENTS)
    place.write_dag()
    assert place.attempt("one").state == "success"
    rotated = json.loads(place.server.limitrail_connection_json(client=1))
    place.home.connect({"limitrail_default": rotated})
    last = place.attempt("two")
    assert (last.state, billed(place)) == ("failed", 20)
    assert "20 of 20 rows are in the ledger" in last.error
    assert "the tenant, or the connection's client id or host, is another (20 rows)" in said_by(last)
    # What the message advises makes the keys what they were.
    former = f"lr_old@{place.server.url}"
    place.home.connect({"limitrail_default": {**rotated, "extra": {**rotated["extra"], "tenant": former}}})
    last = place.attempt("three")
    assert (last.state, last.summary["settled_before"], last.summary["rekeyed"]) == ("success", 20, 0)
    # Two connections that name their tenants are two tenants.
    place.home.connect({"limitrail_default": {**rotated, "extra": {**rotated["extra"], "tenant": "another"}}})
    assert place.attempt("four").state == "failed"
    place.database.execute(f"UPDATE limitrail_usage_ledger SET tenant = '{former}'")
    assert place.attempt("five").summary["sent"] == 20


@pytest.mark.exhaustive
def test_two_meters_with_the_same_key_columns(place_of):
    place = place_of("duck", make_rows(10))
    place.write_dag(dag_id="traffic")
    assert place.attempt(dag_id="traffic").state == "success"
    storage = "SELECT account, day, operation, amount + 1 AS amount FROM usage"
    place.write_dag(dag_id="storage", sql=storage)
    last = place.attempt(dag_id="storage")
    assert (last.state, billed(place)) == ("failed", 10)
    assert "tell them apart with key_namespace=" in last.error
    place.write_dag(dag_id="storage", sql=storage, key_namespace="{{ 'storage' }}")
    for sent in (10, 0):
        last = place.attempt(f"run-{sent}", dag_id="storage")
        assert (last.state, last.summary["sent"]) == ("success", sent)
    # A namespace that comes later makes other keys of the same rows.
    place.write_dag(dag_id="traffic", key_namespace="traffic")
    last = place.attempt("two", dag_id="traffic")
    assert (last.state, billed(place)) == ("failed", 20)
    assert "key_namespace is 'traffic', and was None (10 rows)" in said_by(last)


def test_two_rows_of_one_task_that_seem_to_be_one(place_of):
    place = place_of("duck", [*make_rows(5), ("acme-3 ", "day-0000", "PAYMENT", "1"), ("ACME-3", "day-0000", "PAYMENT", "1")])
    place.write_dag(body=BODY)
    place.server.limitrail.add_accounts(["acme"])
    assert place.attempt().state == "success"
    assert billed(place) == 7
    output = place.output()
    assert "1 rows are written like others of this task" in output
    assert "acme-3 " in output


def test_previews_are_asked_for_under_any_key(place_of):
    place = place_of("duck", make_rows(5))
    place.write_dag(operation="preview")
    assert place.attempt("one").state == "success"
    body = Code('{"externalAccount": "acme-1", "operation": "PAYMENT", "amount": 1, "metadata": {"day": "x"}}')
    place.write_dag(operation="preview", sql="SELECT account || ' ' AS account, day FROM usage", body=body)
    assert place.attempt("two").state == "success"


# -- with another body -------------------------------------------------------------------------------------------------


def changes(place, table="limitrail_usage_changes"):
    found = place.database.query(f"SELECT * FROM {table} ORDER BY row_key")
    return [(json.loads(row["row_key"])["account"], json.loads(row["members"] or "null")) for row in found]


def of_the_docs():
    """Return the statement that settles changed rows, and the query for those that are open."""
    settle, still_open = blocks("docs/how-to/settle-usage.md", section="Changed rows in SQL", language="sql")
    return settle.text.rstrip().rstrip(";"), still_open.text.rstrip().rstrip(";")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
def test_rows_that_were_corrected_are_listed_and_fail_the_task(place_of, conn_id):
    place = place_of(conn_id, make_rows(30))
    place.write_dag()
    assert place.attempt("one").state == "success"
    place.database.execute(
        "UPDATE usage SET amount = amount + 1 WHERE account = 'acme-7'",
        "UPDATE usage SET amount = amount + 1, operation = 'PAYOUT' WHERE account = 'acme-8'",
        "INSERT INTO usage VALUES ('acme-1', 'new', 'PAYMENT', 1)",
    )
    place.write_dag(retries=3)
    last = place.attempt("two")
    assert last.state == "failed"
    assert "2 of 31 rows were carried out earlier with another body (max_changed=0)" in last.error
    assert (last.summary["changed"], last.summary["sent"]) == (2, 1)
    assert changes(place) == [("acme-7", ["amount"]), ("acme-8", ["amount", "operation"])]
    [listed, _] = place.database.query("SELECT * FROM limitrail_usage_changes ORDER BY row_key")
    assert (listed["operation"], listed["run_id"], listed["body"]) == ("usage.commit", "two", None)
    assert listed["finished_at"] is not None
    assert listed["idempotency_key"] in place.database.ledger()
    # Allowed, they are listed all the same, once a row.
    place.database.execute("UPDATE usage SET operation = 'DEPOSIT' WHERE account = 'acme-7'")
    place.write_dag(max_changed=2, changes_hold="bodies")
    last = place.attempt("three")
    assert (last.state, last.summary["changed"]) == ("success", 2)
    assert changes(place) == [("acme-7", ["amount", "operation"]), ("acme-8", ["amount", "operation"])]
    [listed, _] = place.database.query("SELECT * FROM limitrail_usage_changes ORDER BY row_key")
    assert json.loads(listed["body"])["operation"] == "DEPOSIT"
    # Settled as the docs say, they are as they are now.
    settle, still_open = of_the_docs()
    assert len(place.database.query(still_open)) == 2
    place.database.execute(settle)
    assert place.database.query(still_open) == []
    place.write_dag()
    last = place.attempt("four")
    assert (last.state, last.summary["changed"]) == ("success", 0)
    place.database.execute("UPDATE usage SET amount = amount + 1 WHERE account = 'acme-8'")
    assert place.attempt("five").state == "failed"
    assert changes(place)[1] == ("acme-8", ["amount"])
    assert len(place.sent()) == 31


def test_numbers_compare_by_value(place_of):
    place = place_of("duck", make_rows(30))
    place.write_dag()
    assert place.attempt("one").state == "success"
    place.database.execute("ALTER TABLE usage ALTER amount TYPE decimal(38, 9)")
    last = place.attempt("two")
    assert (last.state, last.summary["changed"], last.summary["sent"]) == ("success", 0, 0)
    place.database.execute("UPDATE usage SET amount = amount + 0.000000001 WHERE account = 'acme-3'")
    last = place.attempt("three")
    assert (last.state, last.summary["changed"]) == ("failed", 1)


def test_a_row_in_doubt_with_more_zeros_is_sent_again(place_of):
    place = place_of("duck", make_rows(50))
    place.write_dag(on_unknown="resend", retries=3, batch_size=5)
    assert place.attempt("one", kill=["after sending", 30]).code == -9
    place.database.execute("ALTER TABLE usage ALTER amount TYPE decimal(38, 9)")
    last = place.attempt("one")
    # This API takes other bytes for another body, and refuses those keys that it knows: they stay in doubt.
    parked = [entry for entry in place.database.ledger().values() if entry["state"] == "parked"]
    assert {entry["error_code"] for entry in parked} <= {"IDEMPOTENCY_KEY_REUSED"}
    assert (last.summary["committed"], last.summary["parked"]) == (50 - len(parked), len(parked))
    assert last.summary["sent"] >= len(parked) > 0
    assert billed(place) == 50


def test_what_changed_is_listed_when_the_api_halts_the_task(place_of):
    place = place_of("duck", make_rows(10))
    place.write_dag()
    assert place.attempt("one").state == "success"
    place.database.execute(
        "UPDATE usage SET amount = 3 WHERE account = 'acme-7'", "INSERT INTO usage VALUES ('acme-1', 'new', 'PAYMENT', 1)"
    )
    place.server.faults.add(Fault("status", COMMIT, times=None, status=403))
    last = place.attempt("two")
    assert (last.state, last.summary["changed"]) == ("failed", 1)
    assert changes(place) == [("acme-7", ["amount"])]


def test_a_table_that_cannot_hold_changes(place_of):
    place = place_of("duck", make_rows(10))
    place.write_dag()
    assert place.attempt("one").state == "success"
    place.database.execute(
        "UPDATE usage SET amount = 3 WHERE account = 'acme-7'", "INSERT INTO usage VALUES ('acme-1', 'new', 'PAYMENT', 1)"
    )
    place.write_dag(changes_table="usage", max_changed=5)
    last = place.attempt("two")
    assert last.state == "failed"
    assert "holds no changed rows" in last.error
    assert "changes_table=" in last.error
    assert last.summary["sent"] == 1


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"on_rekeyed": "guess"}, "on_rekeyed must be one of fail, settle, send, got 'guess'"),
        ({"changes_hold": "all"}, "changes_hold must be one of members, bodies, got 'all'"),
        ({"max_changed": -1}, "max_changed must be a whole number of rows"),
        ({"changes_table": ""}, "changes_table must be the name of a table, not empty"),
    ],
)
def test_parameters_that_are_wrong(place_of, parameters, said):
    place = place_of("duck", make_rows(3))
    place.write_dag(**parameters)
    last = place.attempt()
    assert last.state == "failed"
    assert said in said_by(last)
    assert place.server.counters.requests == 0
