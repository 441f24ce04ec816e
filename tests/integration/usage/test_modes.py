# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Previews, reservations and what becomes of them, other paths, and the key in the body."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from limio_limitrail.emulator import Fault
from tests.support.usage import COMMIT, SIGKILL, Code, make_rows

RESERVED = """
SELECT reservation_id, row_key FROM limitrail_usage_ledger
WHERE operation = 'usage.reserve' AND state = 'committed'
"""


def test_previews(place_of):
    rows = make_rows(60)
    rows[3] = (rows[3][0], rows[3][1], "PAYMENT", "5000")
    rows[4] = (rows[4][0], rows[4][1], "EXPORT", "5")
    rows[5] = ("ghost", "x", "PAYMENT", "5")
    place = place_of("duck", rows)
    place.write_dag(operation="preview", max_rejected=1)
    for run_id, seen in (("one", 60), ("two", 120)):
        last = place.attempt(run_id)
        assert last.state == "success"
        assert (last.summary["committed"], last.summary["denied"], last.summary["rejected"]) == (58, 1, 1)
        assert len(place.sent("/v1/usage/preview")) == seen
        found = place.database.query(
            "SELECT idempotency_key, state, row_key, decision, fees, answer, error_code, run_id FROM limitrail_usage_preview"
        )
        assert len(found) == 60
        assert {row["run_id"] for row in found} == {run_id}
        by_account = {json.loads(row["row_key"])["account"]: row for row in found}
        assert by_account["acme-3"]["decision"] == "DENIED_BY_POLICY"
        assert json.loads(by_account["acme-4"]["fees"]) == [{"code": "EXPORT_FEE", "amount": "0.50", "currency": "EUR"}]
        assert json.loads(by_account["acme-3"]["answer"])["impactedLimits"]
        assert by_account["ghost"]["error_code"] == "ACCOUNT_NOT_FOUND"
    assert place.server.limitrail.journal == []
    assert place.database.ledger() == {}


@pytest.mark.exhaustive
def test_a_preview_that_was_killed_is_made_good(place_of):
    place = place_of("duck", make_rows(200))
    place.write_dag(operation="preview")
    assert place.attempt(kill=["before sending", 100]).code == SIGKILL
    last = place.attempt()
    assert last.state == "success"
    assert last.summary["committed"] == 200
    assert len(place.database.query("SELECT idempotency_key FROM limitrail_usage_preview")) == 200


@pytest.mark.exhaustive
@pytest.mark.parametrize("conn_id", ["duck", "pg"])
def test_reservations(place_of, conn_id):
    rows = make_rows(60)
    rows[3] = (rows[3][0], rows[3][1], "PAYMENT", "5000")
    place = place_of(conn_id, rows)
    place.write_dag(operation="reserve", dag_id="reserve")
    last = place.attempt(dag_id="reserve")
    assert last.state == "success"
    assert (last.summary["committed"], last.summary["denied"]) == (59, 1)
    reserved = {entry.reservation_id for entry in place.server.limitrail.journal if entry.reservation_id}
    held = {entry["reservation_id"] for entry in place.database.ledger().values() if entry["state"] == "committed"}
    assert held == reserved
    assert len(held) == 59
    common = {"key_columns": "reservation_id", "body": ...}
    ordered = RESERVED + " ORDER BY reservation_id"
    place.write_dag(operation="commit_reservation", dag_id="keep", sql=ordered + " LIMIT 40", **common)
    place.write_dag(operation="cancel_reservation", dag_id="cancel", sql=ordered + " LIMIT 19 OFFSET 40", **common)
    for dag_id, count in (("keep", 40), ("cancel", 19)):
        last = place.attempt(dag_id=dag_id)
        assert last.state == "success"
        assert last.summary["committed"] == count
        again = place.attempt("again", dag_id=dag_id)
        assert (again.state, again.summary["sent"]) == ("success", 0)
    journal = place.server.limitrail.journal
    assert Counter(entry.operation for entry in journal) == {"reserve": 60, "commit_reservation": 40, "cancel_reservation": 19}
    closed = [entry.reservation_id for entry in journal if entry.operation != "reserve"]
    assert sorted(closed) == sorted(held)
    assert Counter(entry["operation"] for entry in place.database.ledger().values()) == {
        "usage.reserve": 60,
        "usage.commit_reservation": 40,
        "usage.cancel_reservation": 19,
    }


@pytest.mark.exhaustive
def test_paths_of_the_connection_and_of_the_task(place_of):
    place = place_of("duck", make_rows(20), extra={"paths": {"usage.commit": "/v1/usage/reserve"}})
    place.write_dag()
    assert place.attempt().state == "success"
    assert len(place.sent("/v1/usage/reserve")) == 20
    assert place.sent() == []
    # The same rows: a path that is corrected does not make them new ones.
    place.write_dag(path=COMMIT)
    last = place.attempt("next")
    assert (last.state, last.summary["sent"], last.summary["settled_before"]) == ("success", 0, 20)
    assert last.summary["changed"] == 0
    place.write_dag(path=COMMIT, ledger_table="other")
    assert place.attempt("last").summary["sent"] == 20
    assert len(place.sent()) == 20


def test_a_path_with_columns(place_of):
    place = place_of("duck", make_rows(3))
    place.write_dag(path="/v1/usage/{operation}/{account}", max_rejected=3)
    last = place.attempt()
    assert last.summary["rejected"] == 3
    assert sorted(entry["path"] for entry in place.sent("/v1/")) == [f"/v1/usage/PAYMENT/acme-{n}" for n in range(3)]


@pytest.mark.exhaustive
@pytest.mark.parametrize("member", ["idempotencyKey", "metadata.key"])
def test_the_key_in_the_body(place_of, member):
    place = place_of("duck", make_rows(100), idempotency="field")
    nested = member != "idempotencyKey"
    if not nested:
        place.server.faults.add(Fault("reset_after", COMMIT, times=None, share=0.1, seed=3))
    place.write_dag(idempotency={"field": member}, on_unknown="resend")
    assert place.attempt().state == "success"
    entries = place.server.limitrail.journal
    bodies = [json.loads(entry.body) for entry in entries]
    keys = [body["metadata"]["key"] if nested else body["idempotencyKey"] for body in bodies]
    assert len(entries) == len(set(keys)) == 100
    assert set(keys) == set(place.database.ledger())
    assert all("idempotency-key" not in entry["headers"] for entry in place.sent())


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("of_the_connection", "of_the_task"),
    [
        (None, Code('Idempotency(header="X-Request-Key")')),
        ({"header": "X-Request-Key"}, None),
        ({"header": "X-No"}, {"header": "X-Request-Key"}),
    ],
)  # fmt: skip
def test_another_header_for_the_key(place_of, of_the_connection, of_the_task):
    extra = None if of_the_connection is None else {"idempotency": of_the_connection}
    place = place_of("duck", make_rows(20), extra=extra, idempotency_header="X-Request-Key")
    place.write_dag(before="from limio_limitrail.usage import Idempotency", idempotency=of_the_task)
    assert place.attempt().state == "success"
    assert set(place.agree()) == {entry["headers"]["x-request-key"] for entry in place.sent()}
