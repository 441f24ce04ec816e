# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows that stand in the ledger under another key, in every kind of database."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from msgspec import structs

from limio_limitrail.usage import Column
from limio_limitrail.usage.ledger import other_rows as rekeyed_module
from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.other_rows import find_rekeyed
from limio_limitrail.usage.ledger.states import State
from limio_limitrail.usage.messages import UsageTemplate
from limio_limitrail.usage.row_buffer import RowBuffer
from tests.support.ledgers import PARK, RESEND, entries, make_worker
from tests.support.same_rows import DIFFERENT, SAME

COMMITTED = Outcome(state=State.COMMITTED, http_status=200, decision="ALLOWED")
REJECTED = Outcome(state=State.REJECTED, http_status=400)
DAY = {"id": 5, "day": "today"}
TEXT_DAY = {"id": "5", "day": "today"}


def build(*rows, tenant="client@api", namespace=None, key=("id", "day")):
    template = UsageTemplate(
        tenant=tenant, operation="usage.commit", path="/p", key_columns=key, body={"v": Column(key[0])}, namespace=namespace
    )
    return [template.build(row, number=number) for number, row in enumerate(rows, start=1)]


def settle(ledger, rows, outcome=COMMITTED):
    ledger.claim(rows, policy=PARK)
    if outcome is not None:
        ledger.record({row.key: outcome for row in rows})


def find(ledger, rows, *, zone=None):
    with RowBuffer() as row_buffer:
        for row in rows:
            row_buffer.add(row)
        row_buffer.check()
        return find_rekeyed(ledger, row_buffer, worker=ledger.worker, zone=zone, total=len(rows))


def numbered(pairs, side):
    return [{"id": pair[side], "day": name} for name, pair in pairs.items()]


def test_every_kind_of_change_is_found(db, ledger_in, monkeypatch):
    monkeypatch.setattr(rekeyed_module, "PAIRS_A_QUERY", 7)
    before, now = (build(*numbered(SAME, side), *numbered(DIFFERENT, side)) for side in (0, 1))
    settle(ledger_in(db, "monday"), before)
    found = find(ledger_in(db, "tuesday"), now)
    names = {row.key: name for row, name in zip(now, [*SAME, *DIFFERENT], strict=True)}
    assert {names[key] for key in found.keys} == set(SAME)
    by_name = {name: row.key for row, name in zip(before, [*SAME, *DIFFERENT], strict=True)}
    assert {names[key]: other for key, other in found.keys.items()} == {name: by_name[name] for name in SAME}
    assert sum(found.reasons.values()) == len(SAME)
    assert "committed by usage.send in the run monday" in str(found)


def test_rows_under_their_own_keys_are_none(db, ledger_in):
    rows = build(*numbered(SAME, 0))
    settle(ledger_in(db, "monday"), rows)
    assert not find(ledger_in(db, "tuesday"), rows).keys
    # A row of another key that is among the task's rows as well is another row.
    assert not find(ledger_in(db, "tuesday"), [*rows, *build(*numbered(SAME, 1))]).keys
    assert not find(ledger_in(db, "tuesday"), build({"id": 5, "day": "tomorrow"})).keys


def test_a_row_that_was_sent_under_both_keys(db, ledger_in):
    """Whoever has said that they are rows of their own is not asked again."""
    one, other = build(DAY), build(TEXT_DAY)
    settle(ledger_in(db, "monday"), one)
    assert find(ledger_in(db, "tuesday"), other).keys
    settle(ledger_in(db, "tuesday"), other)
    assert not find(ledger_in(db, "wednesday"), other).keys
    assert not find(ledger_in(db, "wednesday"), one).keys


@pytest.mark.parametrize(
    ("outcome", "is_found"),
    [
        (COMMITTED, True),
        (Outcome(state=State.DENIED, decision="DENIED_BY_POLICY"), True),
        (Outcome(state=State.UNKNOWN), True),
        (Outcome(state=State.PARKED, detail="timeout"), True),
        (None, True),
        (REJECTED, False),
    ],
    ids=lambda outcome: getattr(outcome, "state", outcome),
)
def test_what_the_other_entry_says(db, ledger_in, outcome, is_found):
    settle(ledger_in(db, "monday"), build(DAY), outcome)
    assert bool(find(ledger_in(db, "tuesday"), build(TEXT_DAY)).keys) is is_found


@pytest.mark.parametrize(
    ("change", "is_found"),
    [
        ("state = 'given_up'", True),
        # A task that has its key sends it: under another key, it would be sent twice.
        ("state = 'free', in_doubt_since = NULL", True),
        ("state = 'rejected'", False),
        ("state = 'rejected', in_doubt_since = 1790000000000", True),
        ("state = 'rejected', attempts = 2", False),
        ("operation = 'usage.reserve'", False),
    ],
)
def test_what_people_have_written(lite, ledger_in, change, is_found):
    settle(ledger_in(lite, "monday"), build(DAY))
    lite.execute(f"UPDATE ledger SET {change}")
    assert bool(find(ledger_in(lite, "tuesday"), build(TEXT_DAY)).keys) is is_found


ROTATED = [
    # tenant, connection, namespace and task of both senders; whether it is the same row
    (("a", None, "prod", None, "send"), ("b", None, "prod", None, "send"), True),
    (("a", None, "prod", None, "send"), ("b", None, "prod", None, "other"), True),
    (("a", None, "prod", None, "send"), ("b", None, "prod2", None, "send"), True),
    (("a", None, "prod", None, "send"), ("b", None, "prod2", None, "other"), False),
    (("a", None, "prod", None, "send"), ("T", "T", "prod", None, "send"), True),
    (("S", "S", "prod", None, "send"), ("T", "T", "prod", None, "send"), False),
    (("S", "S", "prod", None, "send"), ("T", "T", "prod2", None, "send"), False),
    (("T", "T", "prod", None, "send"), ("b", None, "prod", None, "send"), True),
    (("a", None, "prod", None, "send"), ("a", None, "prod", "storage", "send"), True),
    (("a", None, "prod", None, "send"), ("a", None, "prod", "storage", "other"), False),
    (("a", None, "prod", "traffic", "send"), ("a", None, "prod", "storage", "send"), False),
    (("a", None, "prod", "traffic", "send"), ("b", None, "prod", "traffic", "send"), True),
]


@pytest.mark.parametrize(("before", "now", "is_found"), ROTATED, ids=range(len(ROTATED)))
def test_another_client_tenant_connection_or_namespace(lite, ledger_in, before, now, is_found):
    found = None
    for run, (tenant, named, conn_id, namespace, task) in (("monday", before), ("tuesday", now)):
        ledger = ledger_in(lite, run, tenant=named, namespace=namespace)
        ledger.worker = make_worker(run, task=task)
        ledger.conn_id = ledger._about["conn_id"] = conn_id
        rows = build(DAY, tenant=tenant, namespace=namespace)
        found = find(ledger, rows)
        if run == "monday":
            assert not found.keys
            settle(ledger, rows)
    assert bool(found.keys) is is_found
    if is_found:
        same = before[3] == now[3]
        assert ("the tenant, or the connection's client id or host" if same else "key_namespace is 'storage'") in str(found)


def test_a_renamed_key_column_of_the_same_task(db, ledger_in):
    settle(ledger_in(db, "monday"), build(DAY))
    renamed = build({"customer": 5, "day": "today"}, key=("customer", "day"))
    found = find(ledger_in(db, "tuesday"), renamed)
    assert "the key columns are 'customer', 'day', and were 'day', 'id'" in str(found)
    ledger = ledger_in(db, "tuesday")
    ledger.worker = make_worker("tuesday", task="another_meter")
    assert not find(ledger, renamed).keys


def test_a_column_that_became_aware_in_a_session_of_another_zone(db, ledger_in):
    settle(ledger_in(db, "monday"), build({"id": datetime(2026, 7, 1, 12), "day": "x"}, {"id": date(2026, 7, 2), "day": "x"}))
    zone = ZoneInfo("Europe/Berlin")
    now = build(
        {"id": datetime(2026, 7, 1, 10, tzinfo=ZoneInfo("UTC")), "day": "x"},
        {"id": datetime(2026, 7, 2, tzinfo=zone), "day": "x"},
    )
    ledger = ledger_in(db, "tuesday")
    assert not find(ledger, now).keys
    assert len(find(ledger, now, zone=zone).keys) == 2


def test_the_zone_of_sessions_is_asked_for(opened, ledger_in):
    db = opened("psycopg3")
    db.execute(f"ALTER DATABASE {db.connection['schema']} SET timezone TO 'Europe/Berlin'")
    assert str(ledger_in(db).default_zone()) == "Europe/Berlin"
    db.execute(f"ALTER DATABASE {db.connection['schema']} SET timezone TO 'UTC'")
    assert ledger_in(db).default_zone() is None


# -- rows that count as settled by what stands under another key ------------------------------------------------------


@pytest.mark.parametrize("policy", [PARK, RESEND], ids=["park", "resend"])
def test_rows_are_settled_by_what_stands_elsewhere(db, ledger_in, policy):
    outcomes = {
        "committed": COMMITTED,
        "denied": Outcome(state=State.DENIED, decision="DENIED_BY_POLICY"),
        "unknown": Outcome(state=State.UNKNOWN, detail="timeout"),
        "parked": Outcome(state=State.PARKED, detail="timeout"),
    }
    before = build(*({"id": number, "day": name} for number, name in enumerate([*outcomes, "sending"])))
    monday = ledger_in(db, "monday")
    monday.claim(before, policy=PARK)
    monday.record({row.key: outcome for row, outcome in zip(before, outcomes.values(), strict=False)})
    now = build(*({"id": str(number), "day": name} for number, name in enumerate([*outcomes, "sending", "new"])))
    tuesday = ledger_in(db, "tuesday")
    found = find(tuesday, now)
    assert len(found.keys) == 5
    tuesday.settle_elsewhere(found.keys)
    settled = tuesday.settled(now, policy=policy)
    states = [settled[row.key].state.value for row in now[:5]]
    assert states == ["committed", "denied", "parked", "parked", "parked"]
    assert now[5].key not in settled
    assert all(settled[row.key].digest == row.digest for row in now[:5])
    assert "under another key" in settled[now[2].key].outcome.detail
    assert len(entries(db)) == 5


# -- what an entry holds ----------------------------------------------------------------------------------------------


def test_an_entry_says_what_its_row_is(db, ledger_in):
    ledger = ledger_in(db, "monday", tenant="acme", namespace="storage")
    [row] = build({"id": Decimal("1.50"), "day": "x"})
    settle(ledger, [row], Outcome(state=State.PARKED, detail="timeout"))
    asked = "SELECT row_identity, tenant, key_namespace, body_members, body_digest FROM ledger"
    assert db.query(asked) == [(row.identity, "acme", "storage", row.members, row.digest)]
    # Sent again with another body, and given back: which body was sent is not known to the last member.
    other = structs.replace(build({"id": Decimal("1.50"), "day": "x"})[0], digest="v2:" + "0" * 64, members='{"v":"000000"}')
    again = ledger_in(db, "tuesday")
    [claim] = again.claim([other], policy=replace(PARK, replay=State.PARKED))
    assert claim.granted
    assert db.query(asked)[0][3:] == (other.members, other.digest)
    again.release([claim])
    assert db.query(asked)[0][3:] == (None, row.digest)


def test_new_ledgers_have_an_index(opened, ledger_in):
    db = opened("psycopg3")
    ledger_in(db)
    [(found,)] = db.query("SELECT count(*) FROM pg_indexes WHERE tablename = 'ledger' AND indexdef LIKE '%row_identity%'")
    assert found == 1
    lite = opened("sqlite")
    ledger_in(lite)
    assert next(name for _, name, *_ in lite.query("PRAGMA index_list(ledger)")) == "ledger_row_identity"
