# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a decision about a row is made upon, and what makes it an old one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from limio_limitrail.usage.approval import make_form, read_answer
from limio_limitrail.usage.approval_options import CARRY_OUT, LEAVE_ALL
from limio_limitrail.usage.ledger.decisions import Decision, LedgerRow, RowDecision, SettlementRecord, Verdict, judge
from limio_limitrail.usage.ledger.kept_members import hash_value
from limio_limitrail.usage.ledger.settlement_sql import staged_change
from limio_limitrail.usage.ledger.states import State
from tests.unit.usage.test_approval import NOON, ROWS

PARKED = LedgerRow(key="k", state=State.PARKED, word="parked", claim_id="c", attempts=1, digest="d", settlement="")


@pytest.mark.parametrize(
    "change",
    [{"word": "free"}, {"claim_id": "e"}, {"attempts": 2}, {"digest": "e"}, {"settlement": "{}"}, {"changed_to": "e"}],
)
def test_whatever_a_decision_is_made_upon_makes_another_version(change):
    assert replace(PARKED, **change).version != PARKED.version
    assert replace(PARKED, settled_at="now", settled_by="ada", is_listed=True).version == PARKED.version


def test_the_same_decision_by_another_settlement_is_not_carried_out_twice():
    decision = RowDecision(key="k", decision=Decision.SEND, version=PARKED.version)
    record = SettlementRecord(decision="send", was="parked", version=PARKED.version, id="reconcile of another run")
    # It was set free, sent, and parked again.
    later = replace(PARKED, settlement=record.to_text(), attempts=2)
    assert judge(later, decision, settlement_id="mine", is_alive=False) is Verdict.ALREADY
    otherwise = replace(decision, decision=Decision.COMMITTED)
    assert judge(later, otherwise, settlement_id="mine", is_alive=False) is Verdict.CONTRADICTED
    unversioned = replace(decision, version=None)
    assert judge(later, unversioned, settlement_id="mine", is_alive=False) is Verdict.APPLY
    assert judge(later, unversioned, settlement_id=record.id, is_alive=False) is Verdict.ALREADY


@pytest.mark.parametrize(("word", "doubt"), [("give_up", 7), ("send", None), ("committed", None), ("denied", None)])
def test_only_a_row_that_is_given_up_stays_in_doubt(word, doubt):
    names = ("claim_id", "body_digest", "settlement", "settled_by", "settled_at", "decision", "reservation_id", "trace_id")
    row = {**dict.fromkeys(names), "idempotency_key": "k", "state": "parked", "attempts": 1, "lease_until": 1}
    row |= {"in_doubt_since": 7, "body_members": None, "kept_members": None}
    decision = RowDecision(key="k", decision=Decision(word), version="v")
    assert staged_change(row, decision, settlement_id="s")["s_in_doubt_since"] == doubt


def test_a_hash_of_one_tenant_is_none_of_another():
    assert hash_value("acme", salt="a") != hash_value("acme", salt="b")


@pytest.mark.parametrize("chosen", [[], [LEAVE_ALL], [CARRY_OUT, LEAVE_ALL], [CARRY_OUT, CARRY_OUT]])
def test_an_answer_that_is_not_clear_decides_nothing(chosen):
    shown = make_form(ROWS, table="ledger", listed_rows=4).shown
    given = {shown.groups[0].field: "committed"}
    assert read_answer(shown, given, chosen=chosen, user=None, at=NOON)["decisions"] == []
    assert read_answer(shown, given, chosen=[CARRY_OUT], user=None, at=NOON)["decisions"] != []
