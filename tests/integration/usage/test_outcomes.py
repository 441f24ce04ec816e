# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What the API says of a row, and what becomes of the row and of the task."""

from __future__ import annotations

import json
import threading
from collections import Counter

import pytest

from limio_limitrail.emulator import Fault, Reply
from tests.support.usage import COMMIT, make_rows


def answering(place, answer):
    """Have the API carry a row out and say something else about it: `answer` takes the row's day and the request's number."""
    seen = Counter()

    def replace(call):
        if not call.path.startswith(COMMIT):
            return None
        body = json.loads(call.body)
        seen[body["externalAccount"]] += 1
        return answer(body)

    return place.server.on_request(replace)


def problem(status: int, code: str, **more: object) -> Reply:
    body = {"title": "No", "detail": f"{code} for you", "status": status, "errorCode": code, "resourceKey": f"errors.{code}",
            "traceId": f"trace-{code}", **more}  # fmt: skip
    return Reply(status, json.dumps(body).encode(), content_type="application/problem+json")


def test_every_decision(place_of):
    rows = make_rows(40)
    for number, (operation, amount) in enumerate([("PAYMENT", "1000.01"), ("PAYMENT", "900"), ("EXPORT", "1")]):
        rows[number] = (rows[number][0], rows[number][1], operation, amount)
    place = place_of("duck", rows)
    place.write_dag()
    last = place.attempt()
    assert last.state == "success"
    assert last.summary["decisions"] == {"ALLOWED": 37, "DENIED_BY_POLICY": 1, "WARNING": 1, "FEE_CALCULATED": 1}
    assert (last.summary["committed"], last.summary["denied"]) == (39, 1)
    ledger = place.agree()
    assert all(
        entry["trace_id"] and entry["attempts"] == 1 and entry["conn_id"] == "limitrail_default" for entry in ledger.values()
    )
    assert "1 x denied" in place.output()


REFUSALS = {
    "acme-1": problem(400, "BAD", field="Amount"),
    "acme-2": problem(404, "GONE"),
    "acme-3": problem(409, "TWICE"),
    "acme-4": problem(422, "ODD", field="Operation"),
    "acme-5": problem(413, "HUGE"),
}


def test_refusals_are_in_the_ledger_and_in_the_message(place_of):
    place = place_of("duck", make_rows(330))
    answering(place, lambda body: REFUSALS.get(body["externalAccount"]))
    place.write_dag(retries=3)
    last = place.attempt()
    assert last.state == "failed"
    assert "AirflowFailException" in last.error
    assert "20 of 330 rows were rejected (max_rejected=0)" in last.error
    assert "4 x rejected: status 400, errorCode BAD, field Amount" in last.error
    for account, reply in REFUSALS.items():
        code = json.loads(reply.body)["errorCode"]
        assert f"4 x rejected: status {reply.status}, errorCode {code}" in last.error
        assert f'"account":"{account}"' in last.error
    ledger = place.agree()
    assert Counter(entry["state"] for entry in ledger.values()) == {"committed": 310, "rejected": 20}
    for entry in ledger.values():
        reply = REFUSALS.get(json.loads(entry["row_key"])["account"])
        assert (entry["state"] == "rejected") == (reply is not None)
        if reply is not None:
            said = json.loads(reply.body)
            found = [entry[name] for name in ("http_status", "error_code", "resource_key", "trace_id", "field")]
            assert found == [said["status"], said["errorCode"], said["resourceKey"], said["traceId"], said.get("field")]
    assert {name: last.summary[name] for name in ("committed", "rejected", "parked", "unknown")} == {
        "committed": 310,
        "rejected": 20,
        "parked": 0,
        "unknown": 0,
    }
    sent = len(place.sent())
    assert sent == 330
    assert place.attempt().state == "failed"
    assert len(place.sent()) == sent


def test_the_five_most_frequent_reasons(place_of):
    place = place_of("duck", make_rows(100))

    def answer(body):
        number = int(body["externalAccount"].removeprefix("acme-"))
        which = next((which for which in range(1, 8) if number < which * (which + 1)), None)
        return problem(400, f"CODE_{'ABCDEFG'[which - 1]}", detail=f"Account {number} is wrong") if which else None

    answering(place, answer)
    place.write_dag()
    last = place.attempt()
    assert last.state == "failed"
    found = [code for code in "ABCDEFG" if f"CODE_{code}" in last.error]
    assert found == list("CDEFG")
    assert last.error.index("CODE_G") < last.error.index("CODE_C")
    assert "14 x rejected" in last.error


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("most", "passes"), [(10, True), (9, False), ("10%", True), ("9%", False), ("10 %", True)])
def test_how_many_may_be_rejected(place_of, most, passes):
    rows = make_rows(90) + [(f"ghost-{n}", "x", "PAYMENT", "1") for n in range(10)]
    place = place_of("duck", rows)
    place.write_dag(max_rejected=most)
    last = place.attempt()
    assert last.state == ("success" if passes else "failed")
    assert (last.summary["committed"], last.summary["rejected"]) == (90, 10)
    place.agree()


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"result": "OK", "id": 7}', "it has id, result"),
        (b'{"decision": "HELD"}', "'HELD'"),
        (b"fine", "no JSON object"),
        (b'{"decision": "ALLOWED", "fees": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "nested too deeply"),
    ],
)
def test_a_success_without_a_known_decision_is_parked_and_stops_the_task(place_of, body, said):
    place = place_of("duck", make_rows(300))
    answering(place, lambda _: Reply(200, body))
    place.write_dag(retries=3)
    last = place.attempt()
    assert last.state == "failed"
    assert said in last.error
    assert "response=ResponseMapping(" in last.error
    states = place.database.states()
    assert set(states) == {"parked"}
    assert 10 <= states["parked"] <= 10 + 8
    assert len(place.sent()) == states["parked"] == last.summary["parked"]
    for entry in place.database.ledger().values():
        assert said in entry["detail"]


def test_a_few_successes_without_a_decision_do_not_stop_the_task(place_of):
    place = place_of("duck", make_rows(300))
    answering(place, lambda body: Reply(200, b'{"decision": "HELD"}') if body["externalAccount"] == "acme-7" else None)
    place.write_dag(max_parked=3)
    last = place.attempt()
    assert last.state == "success"
    assert (last.summary["committed"], last.summary["parked"]) == (297, 3)
    assert '"account":"acme-7"' in place.output()
    place.write_dag()
    last = place.attempt("next")
    assert last.state == "failed"
    assert "3 of 300 rows are parked (max_parked=0)" in last.error
    assert "airflow limitrail ledger settle" in last.error


def test_further_decisions_and_none_at_all(place_of):
    place = place_of("duck", make_rows(40))
    stop = answering(
        place, lambda body: Reply(200, b'{"outcome": "%s"}' % (b"HELD" if "1" in body["externalAccount"] else b"OK"))
    )
    place.write_dag(response={"decision_field": "outcome", "decisions": {"HELD": "denied", "OK": "committed"}})
    last = place.attempt()
    assert last.state == "success"
    held = len([row for row in make_rows(40) if "1" in row[0]])
    assert last.summary["decisions"] == {"OK": 40 - held, "HELD": held}
    assert (last.summary["committed"], last.summary["denied"]) == (40 - held, held)
    stop()
    answering(place, lambda _: Reply(204, b""))
    place.write_dag(ledger_table="other", response={"decision_field": None, "committed_statuses": [204]})
    last = place.attempt("next")
    assert last.state == "success"
    assert last.summary["committed"] == 40


@pytest.mark.sampled(2)
@pytest.mark.parametrize("body", [b"<html>We will be back soon.</html>", b"", b'["ALLOWED"]', b'{"error": "try later"}'])
@pytest.mark.parametrize("decision_field", [None, "decision"])
def test_a_page_with_status_200_carries_nothing_out(place_of, body, decision_field):
    place = place_of("duck", make_rows(60))
    answering(place, lambda _: Reply(200, body))
    place.write_dag(response={"decision_field": decision_field}, retries=3)
    last = place.attempt()
    assert last.state == "failed"
    assert set(place.database.states()) == {"parked"}
    assert last.summary["committed"] == 0
    assert "soon" not in place.output()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("of_the_connection", [False, True])
def test_a_nested_decision(place_of, of_the_connection):
    where = {"decision_field": "result.decision", "reservation_field": "result.reservation.id"}
    place = place_of("duck", make_rows(40), extra={"response": where} if of_the_connection else None)
    answering(
        place,
        lambda body: Reply(
            200,
            b'{"result": {"decision": "%s", "reservation": {"id": "%s"}}}'
            % (b"DENIED_BY_POLICY" if body["externalAccount"] == "acme-7" else b"ALLOWED", body["externalAccount"].encode()),
        ),
    )
    place.write_dag(**({} if of_the_connection else {"response": where}))
    last = place.attempt()
    assert last.state == "success"
    assert (last.summary["committed"], last.summary["denied"]) == (39, 1)
    for entry in place.database.ledger().values():
        assert entry["reservation_id"] == json.loads(entry["row_key"])["account"]
        assert (entry["state"] == "denied") == (entry["reservation_id"] == "acme-7")


def test_a_token_that_expires_in_mid_run(place_of):
    place = place_of("duck", make_rows(200))
    limited = []

    def expire(call):
        if call.path == COMMIT and len(place.sent()) >= 100 and not limited:
            limited.append(True)
            place.server.expire_tokens()

    place.server.on_request(expire)
    place.write_dag()
    last = place.attempt()
    assert last.state == "success"
    assert last.summary["committed"] == 200
    assert place.server.counters.tokens_minted == 2
    assert len(place.agree()) == 200


@pytest.mark.sampled(1)
@pytest.mark.parametrize("on_unknown", ["park", "resend"])
def test_an_api_that_is_down(place_of, on_unknown):
    place = place_of("duck", make_rows(2000), extra={"timeout": 2})
    place.write_dag(on_unknown=on_unknown, retries=3, retry_delay=0)
    stopped = []

    def stop(call):
        if call.path == COMMIT and len(place.sent()) > 60 and not stopped:
            stopped.append(True)
            # In another thread, as this one is the server's.
            threading.Thread(target=place.server.stop).start()

    place.server.on_request(stop)
    last = place.attempt()
    assert last.state == "up_for_retry"
    states = place.database.states()
    assert "sending" not in states
    assert states["committed"] >= 50
    assert set(states) <= {"committed", "unknown" if on_unknown == "resend" else "parked"}
    assert sum(states.values()) < 2000
    assert states["parked"] + states["unknown"] <= 10 + 8
    journal, ledger = place.journal(), place.database.ledger()
    assert set(journal) <= set(ledger)
    assert {key for key, entry in ledger.items() if entry["state"] == "committed"} <= set(journal)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("on_unknown", ["park", "resend"])
def test_503_throughout(place_of, on_unknown):
    place = place_of("duck", make_rows(300))
    fault = place.server.faults.add(Fault("status", COMMIT, status=503, times=None))
    place.write_dag(on_unknown=on_unknown, retries=3, retry_delay=0)
    # Fewer where each is tried several times.
    few = 10 if on_unknown == "park" else 3
    last = place.attempt(patch={"limio_limitrail.usage.committer.MOST_DOUBTS": few})
    assert last.state == "up_for_retry"
    states = place.database.states()
    assert set(states) == {"unknown" if on_unknown == "resend" else "parked"}
    assert few <= sum(states.values()) <= few + 8
    assert place.server.limitrail.journal == []
    place.server.faults.remove(fault.number)
    place.write_dag(on_unknown=on_unknown, retries=3, replay="parked" if on_unknown == "park" else None)
    last = place.attempt("one" if on_unknown == "resend" else "next")
    assert last.state == "success"
    assert last.summary["committed"] == 300
    assert len(place.agree()) == 300


@pytest.mark.exhaustive
@pytest.mark.parametrize("on_unknown", ["park", "resend"])
def test_an_answer_that_comes_too_late(place_of, on_unknown):
    place = place_of("duck", make_rows(60), extra={"timeout": 4})
    place.server.faults.add(Fault("latency_after", COMMIT, seconds=60, after=20, times=3))
    place.write_dag(on_unknown=on_unknown, max_parked=3)
    last = place.attempt()
    assert last.state == "success"
    journal = place.journal()
    assert len(journal) == 60
    if on_unknown == "resend":
        assert last.summary["committed"] == 60
        assert len(place.agree()) == 60
        assert len(place.sent()) == 63
        return
    assert (last.summary["committed"], last.summary["parked"]) == (57, 3)
    ledger = place.agree(doubtful=frozenset({"parked"}))
    late = {key for key, statuses in place.statuses().items() if statuses == [0]}
    parked = {key for key, entry in ledger.items() if entry["state"] == "parked"}
    assert len(parked) == 3
    assert len(place.sent()) == 60
    assert late <= parked


def test_a_request_that_came_too_slowly_leaves_its_row_in_doubt(place_of):
    place = place_of("duck", make_rows(40))
    answering(place, lambda body: problem(408, "SLOW") if body["externalAccount"] == "acme-1" else None)
    place.write_dag(max_parked="100%")
    last = place.attempt()
    assert last.state == "success", last.error
    ledger = place.agree(doubtful=frozenset({"parked"}))
    parked = [entry for entry in ledger.values() if entry["state"] == "parked"]
    assert {json.loads(entry["row_key"])["account"] for entry in parked} == {"acme-1"}
    assert {entry["http_status"] for entry in parked} == {408}
    assert last.summary["parked"] == len(parked) > 0
