# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which rows of a ledger are in doubt without a task that has them."""

from __future__ import annotations

import pytest

from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.other_rows import LeftInDoubt
from limio_limitrail.usage.ledger.states import State
from limio_limitrail.usage.row_buffer import RowBuffer
from tests.support.ledgers import PARK, make_rows, make_worker
from tests.support.pages import blocks

ROWS = make_rows(8)


def left(ledger, *own) -> LeftInDoubt:
    with RowBuffer() as row_buffer:
        for row in own:
            row_buffer.add(row)
        return ledger.left_in_doubt(row_buffer.among)


def test_only_what_stands_in_doubt_and_belongs_to_nobody_here(db, ledger_in):
    one, two = ledger_in(db, "monday"), ledger_in(db, "tuesday")
    assert left(two) == LeftInDoubt()
    one.claim(ROWS, policy=PARK)
    states = [State.COMMITTED, State.DENIED, State.REJECTED, State.PARKED, State.UNKNOWN]
    one.record({row.key: Outcome(state=state) for row, state in zip(ROWS, states, strict=False)})
    # The rest is on its way.
    assert left(two).states == {"parked": 1, "unknown": 1}
    db.execute("UPDATE ledger SET lease_until = 1, claim_id = 'dead' WHERE state = 'sending'")
    found = left(two)
    assert found.states == {"sending": 3, "parked": 1, "unknown": 1}
    assert (found.count, found.ages) == (5, {"under_1h": 5, "under_1d": 0, "under_7d": 0, "older": 0})
    assert "of task send in run monday of Dag usage" in found.oldest
    assert left(two, ROWS[3], ROWS[5]).states == {"sending": 2, "unknown": 1}
    assert left(two, *ROWS).count == 0
    shown = db.query(found.query)
    assert len(shown) == 5


def test_a_later_try_counts_what_the_earlier_one_was_sending(db, ledger_in):
    one = ledger_in(db, "monday")
    one.claim(ROWS, policy=PARK)
    assert left(ledger_in(db, "monday", attempt=2)).states == {"sending": 8}
    assert left(ledger_in(db, "monday", attempt=2), *ROWS[:3]).states == {"sending": 5}


def test_mapped_copies_of_one_run_leave_each_other_alone(db, ledger_in):
    one, two = ledger_in(db), ledger_in(db)
    one.worker, two.worker = make_worker("monday", map_index=0), make_worker("monday", map_index=1)
    one.claim(ROWS, policy=PARK)
    one.record({row.key: Outcome(state=State.PARKED) for row in ROWS})
    assert left(two).count == 0
    assert left(one).count == 8
    two.worker = make_worker("tuesday", map_index=1)
    assert left(two).count == 8
    # Damaged, and so nobody's.
    db.execute("UPDATE ledger SET dag_id = NULL")
    two.worker = make_worker("monday", map_index=1)
    assert left(two).count == 8


@pytest.mark.parametrize("key", ["no uuid", "", "0" * 40, "00000000-0000-0000-0000-000000000000"])
def test_keys_that_somebody_has_written_by_hand(db, ledger_in, key):
    ledger = ledger_in(db)
    ledger.claim(ROWS[:1], policy=PARK)
    db.execute(f"UPDATE ledger SET idempotency_key = '{key}', state = 'parked'")
    assert left(ledger, *ROWS).count == 1


def test_many_rows_are_told_apart(lite, ledger_in):
    rows = make_rows(3000)
    ledger = ledger_in(lite)
    for at in range(0, 3000, 500):
        ledger.claim(rows[at : at + 500], policy=PARK)
        ledger.record({row.key: Outcome(state=State.PARKED) for row in rows[at : at + 500]})
    assert left(ledger, *rows[::2]).count == 1500
    assert left(ledger, *rows).count == 0


def index() -> str:
    [block] = blocks("docs/how-to/settle-usage.md", section="Left in doubt", language="sql")
    return block.text.replace("limitrail_usage_ledger", "ledger").strip().rstrip(";")


def test_the_index_that_the_docs_advise_serves_in_sqlite(lite, ledger_in, monkeypatch):
    ledger = ledger_in(lite)
    ledger.claim(ROWS, policy=PARK)
    lite.execute(index())
    left(ledger)  # reads the schema anew
    plans = []
    with ledger._database.transaction() as session:
        query = type(session).query

    def explained(session, sql, *values):
        if "map_index" in sql:
            plans.append(str(query(session, f"EXPLAIN QUERY PLAN {sql}", *values)))
        return query(session, sql, *values)

    monkeypatch.setattr(type(session), "query", explained)
    left(ledger)
    assert len(plans) == 3
    assert all("limitrail_usage_in_doubt" in plan for plan in plans), plans


def test_the_index_that_the_docs_advise_serves_in_postgres(postgres, ledger_in, monkeypatch):
    ledger = ledger_in(postgres)
    ledger.claim(ROWS, policy=PARK)
    postgres.execute(index())
    plans = []
    with ledger._database.transaction() as session:
        query = type(session).query

    def explained(session, sql, *values):
        if "map_index" in sql:
            query(session, "SELECT set_config('enable_seqscan', 'off', true)")
            plans.append(str(query(session, f"EXPLAIN {sql}", *values)))
        return query(session, sql, *values)

    monkeypatch.setattr(type(session), "query", explained)
    left(ledger)
    assert len(plans) == 3
    assert all("limitrail_usage_in_doubt" in plan for plan in plans), plans
