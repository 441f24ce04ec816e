# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What people who look at a ledger see: counts by day, age and reason, in every kind of database; nothing is written."""

from __future__ import annotations

import time

import pytest

from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.open_rows import Filter
from limio_limitrail.usage.ledger.overview import DAY, LedgerReader
from limio_limitrail.usage.ledger.settlement import Settlements
from limio_limitrail.usage.ledger.states import LedgerError, State
from tests.support.ledgers import PARK, FailingDatabase, entries, make_rows

ROWS = make_rows(8)
HOUR = 3_600_000


@pytest.fixture
def reader_in():
    """A maker of readers, each with a connection of its own."""
    opened = []

    def make(database, *, seconds=60.0, table="ledger"):
        held = FailingDatabase(database.hook())
        opened.append(held)
        return LedgerReader(database=held, table=table, changes_table="changes", seconds=seconds)

    yield make
    for held in opened:
        held.close()


def at(milliseconds):
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(milliseconds / 1000))


def fill(db, ledger_in):
    """One row committed today, three denied in March, two parked of which one is old, one rejected, one sending by the dead."""
    ledger = ledger_in(db, "monday")
    ledger.claim(ROWS, policy=PARK)
    states = [State.COMMITTED, *[State.DENIED] * 3, State.PARKED, State.PARKED, State.REJECTED]
    details = [None, "limit 17 reached", "limit 18 reached", None, "timeout", "timeout", "bad meter"]
    outcomes = {
        row.key: Outcome(state=state, http_status=400, detail=detail)
        for row, state, detail in zip(ROWS, states, details, strict=False)
    }
    ledger.record(outcomes)
    now = int(time.time() * 1000)
    db.execute(
        "UPDATE ledger SET claimed_at = '2024-03-01 23:59:59+00:00' WHERE state = 'denied'",
        f"UPDATE ledger SET in_doubt_since = {now - 3 * DAY} WHERE idempotency_key = '{ROWS[4].key}'",
        f"UPDATE ledger SET in_doubt_since = NULL, claimed_at = '{at(now - 2 * HOUR)}' WHERE idempotency_key = '{ROWS[5].key}'",
        "UPDATE ledger SET lease_until = 1, claim_id = 'dead' WHERE state = 'sending'",
    )


def test_rows_are_counted_by_day_age_and_reason(db, ledger_in, reader_in):
    fill(db, ledger_in)
    before = entries(db)
    reader = reader_in(db)
    reader.require_ledger()

    counts = reader.count_rows(days=30)
    days = counts.days
    assert sum(one.rows for one in days) == len(ROWS)
    assert [one.rows for one in days if one.state == "denied" and one.day is None] == [3]
    [committed] = [one for one in days if one.state == "committed"]
    assert committed.day is not None
    assert committed.day % DAY == 0
    assert abs(committed.day - time.time() * 1000) < 2 * DAY

    # Just sent by one that has died; two hours; three days.
    assert counts.ages == [1, 1, 1, 0, 0]
    reasons = {(one.state, one.reason): one.rows for one in reader.count_reasons(limit=20)}
    assert reasons[State.DENIED, "status 400, limit … reached"] == 2
    assert reasons[State.PARKED, "status 400, timeout"] == 2
    assert len(reader.count_reasons(limit=1)) == 1
    assert reader.find_dags([ROWS[0].key, "another"]) == {"usage"}
    assert entries(db) == before


def test_each_day_and_each_age_has_its_rows(db, ledger_in, reader_in):
    """The day of each row is found by a tree of comparisons: each of its leaves is asked for."""
    rows = make_rows(40)
    ledger = ledger_in(db, "monday")
    ledger.claim(rows, policy=PARK)
    ledger.record({row.key: Outcome(state=State.PARKED) for row in rows})
    now = int(time.time() * 1000)
    today = now // DAY * DAY
    # The first moment of each day, a clock that is ahead, and no time at all.
    moments = [*(f"'{at(today - back * DAY)}'" for back in range(38)), f"'{at(now + 2 * DAY)}'", "NULL"]
    db.execute(
        *(
            f"UPDATE ledger SET in_doubt_since = NULL, claimed_at = {moment} WHERE idempotency_key = '{row.key}'"
            for row, moment in zip(rows, moments, strict=True)
        )
    )
    counts = reader_in(db).count_rows(days=30)
    found = {one.day: one.rows for one in counts.days}
    newest = max(day for day in found if day is not None)
    # Zero, unless midnight has passed meanwhile.
    later = (newest - today) // DAY
    assert found.pop(None) == 9 + later
    assert found == {newest - back * DAY: 1 for back in range(30)} | {newest: 2 - later}
    assert sum(counts.ages) == len(rows)
    assert counts.ages[-1] == 9


def test_the_oldest_rows_are_listed_as_a_settlement_lists_them(db, ledger_in, reader_in):
    fill(db, ledger_in)
    everything = reader_in(db).list_open(Filter())
    held = FailingDatabase(db.hook())
    try:
        assert everything == Settlements(database=held, table="ledger", changes_table="changes").list_open()
    finally:
        held.close()
    assert [row.kind for row in everything].count("parked") == 2
    dated = [row.key for row in everything if row.since is not None]
    for limit in (1, 2, 3, 10):
        found = reader_in(db).list_open(Filter(limit=limit))
        assert [row.key for row in found] == dated[:limit]


def test_a_table_that_is_no_ledger_is_not_made(db, reader_in):
    with pytest.raises(LedgerError, match="there is no table ledger"):
        reader_in(db).require_ledger()
    assert not db.exists("ledger")


def test_columns_of_a_later_version_are_not_added_by_a_reader(db, ledger_in, reader_in):
    fill(db, ledger_in)
    db.execute("ALTER TABLE ledger DROP COLUMN settled_by")
    with pytest.raises(LedgerError, match="lacks columns of this version: settled_by"):
        reader_in(db).require_ledger()
    assert "settled_by" not in db.types("ledger")


@pytest.mark.parametrize("name", ["duckdb", "psycopg3", "sqlite"])
def test_what_takes_too_long_is_ended(name, opened, ledger_in, reader_in, monkeypatch):
    db = opened(name)
    fill(db, ledger_in)
    endless = {
        "duckdb": "SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE a.range % 7 = b.range % 11",
        "psycopg3": "SELECT pg_sleep(600)",
        "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    }[name]
    reader = reader_in(db, seconds=0.5)
    with pytest.raises(LedgerError, match="did not answer within"):
        reader._read(lambda sql: sql.session.query(endless))
    # The connection is replaced.
    assert reader.count_rows(days=30).ages == [1, 1, 1, 0, 0]
