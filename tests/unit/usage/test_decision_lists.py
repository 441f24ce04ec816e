# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Decisions as a Dag, a form or a file gives them."""

from __future__ import annotations

import json

import pytest

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.usage.decision_lists import Decisions, decisions
from limio_limitrail.usage.ledger.settlement import Decision, RowDecision

ROW = {"key": "k", "decision": "send", "version": "v", "note": "n"}
READ = RowDecision(key="k", decision=Decision.SEND, version="v", note="n")


@pytest.mark.parametrize("given", [[ROW], (ROW,), json.dumps([ROW]), str([ROW]), {"decisions": [ROW]}, [READ], iter([ROW])])
def test_one_decision_in_many_forms(given):
    found = decisions("decisions", given)
    assert found == Decisions(rows=(READ,))
    assert decisions("decisions", found) is found


@pytest.mark.parametrize("given", [None, "", "None", "[]", [], {"decisions": None}, {"decisions": [], "by": None}])
def test_nothing_is_no_decision(given):
    assert decisions("decisions", given) == Decisions()


def test_who_has_decided_may_come_with_the_list():
    assert decisions("decisions", {"decisions": [ROW], "by": "ada"}).by == "ada"


@pytest.mark.parametrize("word", ["give_up", "Give up", " GIVE-UP\n"])
def test_words_as_people_write_them(word):
    assert decisions("d", [{"key": "k", "decision": word}]).rows[0].decision is Decision.GIVE_UP


@pytest.mark.parametrize("word", [None, "", "None"])
def test_a_row_that_nobody_has_filled_in_stays_as_it_is(word):
    assert decisions("d", [{"key": "k", "decision": word}]).rows[0].decision is Decision.LEAVE


def test_what_the_apis_list_shows():
    api = {"decision": "ALLOWED", "reservation_id": 7, "trace_id": None}
    [row] = decisions("d", [{"key": "k", "decision": "committed", "api": api}]).rows
    assert (row.api_decision, row.reservation_id, row.trace_id) == ("ALLOWED", "7", None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (5, "d must be a list of mappings with a key and a decision, got an int"),
        ("send", "d must be a list"),
        ({"rows": []}, "it has 'rows'"),
        ({"decisions": [ROW], "by": 5}, "a text as by, got an int"),
        ([5], r"d\[0\] must be a mapping"),
        ([{"decision": "send"}], r"d\[0\] needs a key"),
        ([{"key": 5, "decision": "send"}], r"d\[0\] needs a key"),
        ([{"key": " ", "decision": "send"}], r"d\[0\] needs a key"),
        ([ROW, {"key": "k"}], r"d\[1\] has no decision"),
        ([{"key": "k", "desicion": "send"}], "unknown member 'desicion'"),
        ([{**ROW, "decision": "yes"}], "must be one of committed, denied, send, give_up, accept, leave, got 'yes'"),
        ([{**ROW, "decision": True}], "must be one of"),
        ([{**ROW, "version": 1.5}], "holds a float where a text belongs"),
        ([{**ROW, "note": ["a"]}], "holds a list where a text belongs"),
        ([{**ROW, "api": "ALLOWED"}], "has an api that must be a mapping"),
        ([{**ROW, "api": {"status": 1}}], "some of decision, reservation_id, trace_id"),
        ([{"key": "k"}] * 30, r"d\[9\] has no decision; and 20 more"),
    ],
)
def test_what_is_none(given, said):
    with pytest.raises(ParameterError, match=said):
        decisions("d", given)
