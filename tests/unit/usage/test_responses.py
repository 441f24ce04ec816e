# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What an answer with a 2xx means for its row: carried out only where a JSON object says so, once, and nothing in it objects."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.api.responses import Response
from limio_limitrail.usage.conventions import DECISIONS, OPERATIONS, ResponseMapping
from limio_limitrail.usage.ledger.states import State
from limio_limitrail.usage.messages import read_answer


def read(body: bytes, *, status: int = 200, keep: bool = False, required: bool = True, **members):
    answer = Response(status=status, headers={}, body=body)
    return read_answer(answer, response=ResponseMapping(**members), required=required, keep=keep)


READINGS = {
    "a decision is needed": {},
    "none is needed": {"required": False},
    "none is looked for": {"decision_field": None},
    "it is nested": {"decision_field": "result.decision"},
    "an empty 204 is known": {"committed_statuses": frozenset({204})},
}

NO_OBJECTS = {
    "nothing": b"",
    "blanks": b" \r\n\t ",
    "HTML": b"<!doctype html><html><body>We will be back soon.</body></html>",
    "HTML after a blank": b"\n <html>",
    "XML": b'<?xml version="1.0"?><decision>ALLOWED</decision>',
    "a text": b'"ALLOWED"',
    "a bare word": b"ALLOWED",
    "OK": b"OK",
    "a number": b"1",
    "true": b"true",
    "null": b"null",
    "an empty list": b"[]",
    "a list with the decision": b'[{"decision":"ALLOWED"}]',
    "two objects": b'{"decision":"ALLOWED"}{"decision":"ALLOWED"}',
    "an object and more": b'{"decision":"ALLOWED"} trailing',
    "half an object": b'{"decision":"ALLOWED"',
    "no UTF-8": b'{"decision":"ALLOWED","a":"\xff"}',
    "UTF-16": '{"decision":"ALLOWED"}'.encode("utf-16"),
    "single quotes": b"{'decision':'ALLOWED'}",
    "NaN": b'{"decision":"ALLOWED","a":NaN}',
    "a script": b'callback({"decision":"ALLOWED"})',
    "too deep": b'{"decision":"ALLOWED","a":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "zeros": b"\0\0\0",
}


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("body", NO_OBJECTS)
def test_what_is_no_json_object_is_never_carried_out(body, reading):
    for status in (200, 201, 202):
        outcome = read(NO_OBJECTS[body], status=status, **READINGS[reading])
        assert outcome.state is State.PARKED
        assert (outcome.http_status, outcome.decision) == (status, None)
        assert outcome.detail.startswith("the answer is ")
        assert "ALLOWED" not in outcome.detail


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner)))
def test_json_that_is_no_object_is_never_carried_out(value):
    for reading in READINGS.values():
        assert read(json.dumps(value).encode(), **reading).state is State.PARKED


@given(st.binary() | st.text().map(str.encode))
def test_bytes_of_any_kind_are_read_without_an_error(body):
    for reading in READINGS.values():
        outcome = read(body, keep=True, **reading)
        assert outcome.state is State.PARKED or json.loads(body).keys() >= set()


UNCLEAR = {
    "no decision": (b'{"ok":1}', "has no 'decision'; it has ok"),
    "an empty object": (b"{}", "it has nothing"),
    "null": (b'{"decision":null}', "has no 'decision'"),
    "a list": (b'{"decision":["ALLOWED"]}', "is a list"),
    "an object": (b'{"decision":{"value":"ALLOWED"}}', "is an object"),
    "true": (b'{"decision":true}', "is true or false"),
    "a number": (b'{"decision":1}', "is a number"),
    "no text": (b'{"decision":""}', "is a text"),
    "another case": (b'{"decision":"allowed"}', "'allowed' is none of those"),
    "a blank behind it": (b'{"decision":"ALLOWED "}', "none of those"),
    "another word": (b'{"decision":"HELD"}', "'HELD' is none of those"),
    "two, of which one denies": (b'{"decision":"DENIED_BY_POLICY","decision":"ALLOWED"}', "'decision' more than once"),
    "two that agree": (b'{"decision":"ALLOWED","a":1,"decision":"ALLOWED"}', "more than once"),
    "two, one with escapes": (b'{"decision":"ALLOWED","d\\u0065cision":"DENIED_BY_POLICY"}', "more than once"),
    "two, the first with escapes": (b'{"\\u0064ecision":"DENIED_BY_POLICY","decision":"ALLOWED"}', "more than once"),
    "two in other cases": (b'{"decision":"ALLOWED","Decision":"DENIED_BY_POLICY"}', "both 'decision' and 'Decision'"),
    "another case of the name": (b'{"DECISION":"ALLOWED"}', "no 'decision' but 'DECISION'"),
    "two reservations": (b'{"decision":"ALLOWED","reservationId":"a","reservationId":"b"}', "'reservationId' more than once"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_a_decision_is_not_guessed(case):
    body, said = UNCLEAR[case]
    outcome = read(body)
    assert outcome.state is State.PARKED
    assert said in outcome.detail


@pytest.mark.parametrize("case", [case for case in UNCLEAR if case not in ("no decision", "an empty object", "null")])
def test_a_decision_that_need_not_be_there_is_not_guessed_either(case):
    assert read(UNCLEAR[case][0], required=False).state is State.PARKED


@pytest.mark.parametrize(
    "body",
    [
        b'{"decision":"ALLOWED","a":{"decision":"DENIED_BY_POLICY"}}',
        b'{"a":[{"decision":"DENIED_BY_POLICY"},{"decision":"ALLOWED"}],"decision":"ALLOWED"}',
        b'{"decision":"ALLOWED","note":"he said \\"decision\\"","x":1,"x":2}',
        b'{"decision":"ALLOWED","note":"\\u0064ecision","big":' + b"9" * 300 + b"}",
        b'{"decision":"ALLOWED","ReservationId":"r","reservationid":"s"}',
        b' \n{"decision" : "ALLOWED"}\r\n',
    ],
)
def test_a_decision_that_stands_once_counts(body):
    assert read(body).state is State.COMMITTED


# -- statuses --------------------------------------------------------------------------------------------------------

ALLOWED, DENIED, BARE = b'{"decision":"ALLOWED"}', b'{"decision":"DENIED_BY_POLICY"}', b'{"id":7}'


@pytest.mark.parametrize("status", [200, 201, 202])
def test_a_decision_counts_with_these_statuses(status):
    assert read(ALLOWED, status=status).state is State.COMMITTED
    assert read(DENIED, status=status).state is State.DENIED
    assert read(ALLOWED, status=status, required=False).state is State.COMMITTED


def test_accepted_is_not_yet_carried_out():
    for reading in ({"decision_field": None}, {"required": False}):
        assert read(BARE, status=200, **reading).state is State.COMMITTED
        outcome = read(BARE, status=202, **reading)
        assert outcome.state is State.PARKED
        assert "status 202" in outcome.detail
        assert "committed_statuses=(202,)" in outcome.detail
        assert read(BARE, status=202, committed_statuses=frozenset({202}), **reading).state is State.COMMITTED
    assert read(b'{"decision":"HELD"}', status=202, committed_statuses=frozenset({202})).state is State.PARKED


@pytest.mark.parametrize("status", [203, 204, 205, 206, 207, 208, 226, 250, 299])
@pytest.mark.parametrize("body", [ALLOWED, DENIED, BARE])
@pytest.mark.parametrize("reading", [{}, {"decision_field": None}, {"required": False}])
def test_other_statuses_are_parked_unless_somebody_vouches_for_them(status, body, reading):
    outcome = read(body, status=status, **reading)
    assert outcome.state is State.PARKED
    assert outcome.detail
    known = read(body, status=status, committed_statuses=frozenset({status}), **reading)
    assert known.state is read(body, **reading).state


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_an_empty_answer_counts_only_where_its_status_is_known_for_it(status):
    for reading in READINGS.values():
        given_ = {**reading, "committed_statuses": frozenset()}
        outcome = read(b"", status=status, **given_)
        assert outcome.state is State.PARKED
        assert f"response=ResponseMapping(committed_statuses=({status},))" in outcome.detail
        outcome = read(b" \n", status=status, **{**given_, "committed_statuses": frozenset({status})})
        assert (outcome.state, outcome.http_status, outcome.detail) == (State.COMMITTED, status, None)


def test_a_status_that_is_known_for_empty_answers_lets_no_page_through():
    for body in NO_OBJECTS.values():
        if body.strip():
            assert read(body, committed_statuses=frozenset({200}), decision_field=None).state is State.PARKED


# -- members that object ---------------------------------------------------------------------------------------------

OBJECTIONS = {
    "error": b'"error":"account is locked"',
    "errors": b'"errors":[{"code":"E1"}]',
    "error.code": b'"error":{"code":7}',
    "errorCode": b'"errorCode":"LIMIT_STORE_DOWN"',
    "success": b'"success":false',
    "a failed status": b'"status":"FAILED"',
    "a rejected state": b'"state":"rejected"',
    "a failed result": b'"result":" Failure "',
    "a declined outcome": b'"outcome":"declined"',
    "a cancelled status": b'"Status":"cancelled"',
    "status": b'"status":500',
    "problem": b'"title":"Not found","status":404',
    "fault": b'"fault":{"faultstring":"x"}',
    "result": b'"result":{"error":"x"}',
    "partial": b'"partial":true',
    "another case": b'"ERRORS":["x"]',
}


@pytest.mark.parametrize("objection", OBJECTIONS.values(), ids=OBJECTIONS)
@pytest.mark.parametrize("reading", [{}, {"required": False}, {"decision_field": None}])
def test_an_answer_that_says_that_something_failed_is_parked(objection, reading):
    for body in (b"{%b}" % objection, b'{"decision":"ALLOWED",%b}' % objection, b'{%b,"decision":"ALLOWED"}' % objection):
        outcome = read(body, **reading)
        assert outcome.state is State.PARKED
        assert "says that something failed" in outcome.detail
        assert "locked" not in outcome.detail


@pytest.mark.parametrize(
    "nothing",
    [b'"error":null', b'"errors":[]', b'"error":""', b'"errors":{}', b'"success":true', b'"status":200', b'"errorCode":"OK"',
     b'"status":"done"', b'"state":"ACTIVE"', b'"result":"ok"', b'"outcome":{"status":"x"}', b'"warnings":["x"]',
     b'"status":"ok"', b'"result":{"error":null}', b'"code":0'],
)  # fmt: skip
def test_members_that_say_that_nothing_failed_change_nothing(nothing):
    assert read(b'{"decision":"ALLOWED",%b}' % nothing).state is State.COMMITTED
    assert read(b"{%b}" % nothing, decision_field=None).state is State.COMMITTED


def test_no_success_agrees_with_a_denial_and_an_error_does_not():
    assert read(b'{"decision":"DENIED_BY_POLICY","success":false}').state is State.DENIED
    assert read(b'{"decision":"DENIED_BY_POLICY","status":"rejected"}').state is State.DENIED
    assert read(b'{"decision":"DENIED_BY_POLICY","errors":["policy store down"]}').state is State.PARKED
    assert read(b'{"decision":"ALLOWED","success":false}').state is State.PARKED


def test_a_decision_may_stand_in_a_member_that_means_a_failure_elsewhere():
    decisions = {"fail": State.DENIED, "NONE": State.COMMITTED}
    assert read(b'{"result":"fail"}', decision_field="result", decisions=decisions).state is State.DENIED
    assert read(b'{"error":"NONE"}', decision_field="error", decisions=decisions).state is State.COMMITTED
    assert read(b'{"error":{"code":"NONE"}}', decision_field="error.code", decisions=decisions).state is State.COMMITTED


# -- nested members --------------------------------------------------------------------------------------------------

NESTED = {
    "in an object": (b'{"result":{"decision":"ALLOWED"}}', "result.decision", "ALLOWED"),
    "three deep": (b'{"a":{"b":{"c":"WARNING"}}}', "a.b.c", "WARNING"),
    "a name with a dot": (b'{"result.decision":"ALLOWED"}', "result.decision", "ALLOWED"),
    "a name with a dot goes first": (b'{"result":{"decision":"DENIED_BY_POLICY"},"result.decision":"ALLOWED"}', "result.decision",
                                     "ALLOWED"),
    "an object whose name has a dot": (b'{"a.b":{"c":"ALLOWED"}}', "a.b.c", "ALLOWED"),
    "a name with a dot in an object": (b'{"a":{"b.c":"ALLOWED"}}', "a.b.c", "ALLOWED"),
    "an object that leads nowhere": (b'{"a.b":{"x":1},"a":{"b":{"c":"ALLOWED"}}}', "a.b.c", "ALLOWED"),
    "other names beside it": (b'{"decision":"DENIED_BY_POLICY","result":{"decision":"ALLOWED"}}', "result.decision", "ALLOWED"),
    "through a list": (b'{"result":[{"decision":"ALLOWED"}]}', "result.decision", None),
    "through a text": (b'{"result":"{\\"decision\\":\\"ALLOWED\\"}"}', "result.decision", None),
    "through null": (b'{"result":null}', "result.decision", None),
    "not there": (b'{"decision":"ALLOWED"}', "result.decision", None),
    "twice": (b'{"result":{"decision":"DENIED_BY_POLICY","decision":"ALLOWED"}}', "result.decision", None),
    "its object twice": (b'{"result":{"decision":"DENIED_BY_POLICY"},"result":{"decision":"ALLOWED"}}', "result.decision", None),
    "another case": (b'{"result":{"Decision":"ALLOWED"}}', "result.decision", None),
    "another case of its object": (b'{"Result":{"decision":"ALLOWED"}}', "result.decision", None),
    "dots that lead nowhere": (b'{"decision":"ALLOWED"}', ".decision.", None),
}  # fmt: skip


@pytest.mark.parametrize("case", NESTED)
def test_a_decision_may_be_nested(case):
    body, path, decision = NESTED[case]
    outcome = read(body, decision_field=path)
    assert outcome.decision == decision
    assert outcome.state is (DECISIONS[decision] if decision else State.PARKED)
    assert bool(outcome.detail) is (decision is None)


@pytest.mark.parametrize("case", ["another case", "another case of its object", "twice", "its object twice"])
def test_a_nested_decision_that_need_not_be_there_is_not_guessed(case):
    assert read(NESTED[case][0], decision_field="result.decision", required=False).state is State.PARKED


def test_reservations_and_fees_may_be_nested():
    body = b'{"decision":"ALLOWED","data":{"reservation":{"id":"r-1"},"fees":[{"amount":0.1000}]},"data.reservation.id":"own"}'
    outcome = read(body, reservation_field="data.reservation.id", fees_field="data.fees", keep=True)
    assert (outcome.reservation_id, outcome.fees) == ("own", '[{"amount":0.1000}]')
    body = body.replace(b',"data.reservation.id":"own"', b"")
    assert read(body, reservation_field="data.reservation.id").reservation_id == "r-1"
    assert read(body, reservation_field="data.nothing").reservation_id is None


def test_what_failed_in_the_object_around_a_decision_counts():
    body = b'{"outcome":{"decision":"ALLOWED","errors":["x"]}}'
    assert read(body, decision_field="outcome.decision").state is State.PARKED
    assert read(body.replace(b'["x"]', b"[]"), decision_field="outcome.decision").state is State.COMMITTED


NAMES = st.text(st.sampled_from('ab.é"\\ '), min_size=1, max_size=4)


@given(st.lists(NAMES, min_size=1, max_size=3), st.dictionaries(NAMES, st.integers(), max_size=3))
def test_a_path_finds_what_was_put_there(names, beside):
    tree: object = "ALLOWED"
    for name in reversed(names):
        tree = {**{other: value for other, value in beside.items() if other.casefold() != name.casefold()}, name: tree}
    outcome = read(json.dumps(tree).encode(), decision_field=".".join(names))
    # Names with dots may lead to another member; the decision is then not there, and never another one.
    assert outcome.decision == "ALLOWED" or outcome.state is State.PARKED
    if all("." not in name for name in [*names, *beside]):
        assert outcome.state is State.COMMITTED


@pytest.mark.parametrize("operation", OPERATIONS)
def test_in_no_operation_does_a_page_count(operation):
    for reading in READINGS.values():
        given_ = {"required": OPERATIONS[operation].decides, **reading}
        assert read(NO_OBJECTS["HTML"], **given_).state is State.PARKED
