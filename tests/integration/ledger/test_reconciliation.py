# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Reconcile and settle in every kind of database, with lists that lose, repeat and change records while they are read."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import itemgetter
from typing import Any

import pytest
from msgspec import structs

from limio_limitrail.api.resource import Resource
from limio_limitrail.api.secret import Secret
from limio_limitrail.usage.approval import make_form
from limio_limitrail.usage.conventions import ResponseMapping
from limio_limitrail.usage.hash_keys import hash_key
from limio_limitrail.usage.ledger import ledger_scan
from limio_limitrail.usage.ledger import settlement as settlement_module
from limio_limitrail.usage.ledger.kept_members import HashKey, keep_members
from limio_limitrail.usage.ledger.ledger_scan import ScanFilter
from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.settlement import Settlements
from limio_limitrail.usage.ledger.states import Keep, State
from limio_limitrail.usage.reconciliation.parameters import LedgerField, field, match
from limio_limitrail.usage.reconciliation.reconcile import HashSecretError, Reconciliation
from limio_limitrail.usage.reconciliation.sides import Sides
from limio_limitrail.usage.reconciliation.tables import ReconciliationTables
from limio_limitrail.usage.settling import open_settlements
from tests.support.ledgers import PARK, FailingDatabase, make_rows
from tests.support.settlements import states

ROWS = make_rows(8)
HOUR = 3_600_000
BY_KEY = {"key": "idempotency_key"}
KEY = HashKey(salt="t")


@dataclass(frozen=True)
class Listed:
    """The records of a reading, and when the API says that it began."""

    records: Iterable[Mapping[str, Any]]
    server_time: datetime | None = None

    def __iter__(self):
        return iter(self.records)


@pytest.fixture
def reconcile(monkeypatch):
    """Reconcile with a list, or with one for each reading of it."""
    # A page of the ledger holds few rows.
    monkeypatch.setattr(ledger_scan, "SCAN_ROWS", 3)

    def run(
        db,
        *lists,
        match_by=BY_KEY,
        tenant=None,
        settles=True,
        settlement_id="one",
        primary_key=("id",),
        time_of=None,
        read=None,
        amount=None,
        key=KEY,
        api_clock=None,
        **more,
    ):
        held = FailingDatabase(db.hook())
        settlements = Settlements(database=held, table="ledger", changes_table="changes")
        settlements.prepare()
        # The second reading is in parts.
        readings = iter([*lists, *[lists[-1]] * 4] if lists else [])
        now = settlements.now()
        resource = Resource(name="usage", path="/v1/usage", time_column="at", primary_key=primary_key)
        sides = Sides(
            resource=resource,
            response=ResponseMapping(),
            match=match("match", match_by),
            compare={},
            time_of=None if time_of is None else field("time_of", time_of),
            salt=key.salt,
            secret_id=key.secret_id,
            amount=amount,
        )
        asked = {"since": now - HOUR, "until": now + HOUR, "listed_after": 0, "retention": 2 * HOUR, "max_sent": 100, **more}
        span = {name: asked[name] for name in ("since", "until")}
        wanted = ScanFilter(operation="usage.commit", tenant=tenant, conn_id="limitrail", **span)
        made = Reconciliation(
            settlements=settlements,
            sides=sides,
            read_list=lambda *span: Listed(read(*span) if read else next(readings), server_time=api_clock),
            wanted=wanted,
            **{"margin": 1000, **asked},
        )
        run_of = ["usage", "reconcile", -1, "s", "u"]
        tables = ReconciliationTables(
            held, differences_table="differences", totals_table="totals", run=run_of, operation="usage.commit"
        )
        try:
            return made.run(tables=tables, settles=settles, by="test", settlement_id=settlement_id)
        finally:
            held.close()

    return run


@pytest.fixture
def doubtful(db, ledger_in):
    """A ledger of which half is committed, and half is parked; the last row of it is left by a worker that has died."""
    ledger = ledger_in(db, "monday")
    ledger.claim(ROWS, policy=PARK)
    half = [State.COMMITTED] * 4 + [State.PARKED] * 3
    ledger.record({row.key: Outcome(state=state) for row, state in zip(ROWS, half, strict=False)})
    db.execute("UPDATE ledger SET lease_until = 1, claim_id = 'dead' WHERE state = 'sending'")
    # Nothing was sent in the millisecond in which the list is read.
    time.sleep(0.002)
    return db


def item(row, **more):
    return {"id": f"id-{row.number}", "key": row.key, **more}


DONE = [item(row) for row in ROWS[:4]]


def kinds(db):
    return {(key, kind, proposal) for key, kind, proposal in db.query("SELECT idempotency_key, kind, proposal FROM differences")}


def test_a_database_clock_that_is_ahead_frees_no_row_before_its_time(doubtful, reconcile):
    # By the database's clock, which has jumped ahead since then, the rows were sent long ago; by the API's, they have yet to be.
    summary = reconcile(doubtful, DONE, api_clock=datetime.now(UTC) - timedelta(hours=2), listed_after=0)
    assert summary["settlement"]["settled_as"] == {}
    assert summary["uncertain_missing"] == 4
    # An API that does not say the time, or the same time, has them free.
    same = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    assert reconcile(doubtful, DONE, api_clock=same, settlement_id="two")["settlement"]["settled_as"] == {"send": 4}


def test_a_database_clock_that_is_behind_frees_no_row_that_the_list_may_have_forgotten(doubtful, reconcile):
    summary = reconcile(doubtful, DONE, api_clock=datetime.now(UTC) + timedelta(days=1), retention=2 * HOUR)
    assert summary["settlement"]["settled_as"] == {}
    assert summary["outside"] == 4


def test_what_is_there_is_committed_and_what_is_not_is_free(doubtful, reconcile):
    found = item(ROWS[4], decision="WARNING", reservationId="r-1", traceId="t-1")
    denied = item(ROWS[5], decision="DENIED_BY_POLICY")
    # Pages that shift repeat records.
    summary = reconcile(doubtful, [*DONE, *DONE, found, denied])
    assert summary["settlement"]["settled_as"] == {"committed": 1, "denied": 1, "send": 2}
    assert (summary["ledger_rows"], summary["list_records"], summary["equal"]) == (8, 6, 4)
    assert [states(doubtful)[row.key] for row in ROWS[4:]] == ["committed", "denied", "free", "free"]
    [said] = doubtful.query(f"SELECT decision, reservation_id, trace_id, settled_by FROM ledger WHERE {_is(ROWS[4])}")
    assert tuple(said) == ("WARNING", "r-1", "t-1", "test")
    # Again: nothing is left to settle, and the lines of the first time are replaced.
    again = reconcile(doubtful, [*DONE, found, denied], settlement_id="two")
    assert (again["settlement"]["settled"], again["equal"], again["absent"], kinds(doubtful)) == (0, 6, 2, set())


AMOUNT = ("amount", LedgerField.of("kept.amount"))
GREAT = "12345678901234567890.01"


def totals(db):
    lines = db.query("SELECT kind, ledger_amount, list_amount, unknown_amounts FROM totals ORDER BY kind")
    return {kind: amounts for kind, *amounts in lines}


def test_amounts_are_summed_exactly(doubtful, reconcile):
    doubtful.execute(
        """UPDATE ledger SET kept_members = '{"amount":0.1}'""",
        f"""UPDATE ledger SET kept_members = '{{"amount":"{GREAT}"}}' WHERE {_is(ROWS[3])}""",
    )
    listed = [*(item(row, amount=0.1) for row in ROWS[:3]), item(ROWS[3], amount=Decimal(GREAT)), item(ROWS[4], amount=" 1e-1")]
    # A table of an earlier version has no amounts.
    reconcile(doubtful, listed, settles=False)
    for column in ("ledger_amount", "list_amount", "unknown_amounts"):
        doubtful.execute(f"ALTER TABLE totals DROP COLUMN {column}")
    summary = reconcile(doubtful, listed, settles=False, amount=AMOUNT)
    assert totals(doubtful) == {
        "equal": ["12345678901234567890.31", "12345678901234567890.31", 0],
        "uncertain_missing": ["0.3", "0", 0],
        "uncertain_there": ["0.1", "0.1", 0],
    }
    assert (summary["ledger_amount"], summary["list_amount"]) == ("12345678901234567890.41", "12345678901234567890.41")


def test_amounts_that_are_not_known_are_not_zero(doubtful, reconcile):
    doubtful.execute(
        """UPDATE ledger SET kept_members = '{"amount":1}'""",
        f"UPDATE ledger SET kept_members = NULL WHERE {_is(ROWS[0])}",
        f"""UPDATE ledger SET kept_members = '{{"amount":"ten"}}' WHERE {_is(ROWS[4])}""",
    )
    listed = [*(item(row, amount=2) for row in ROWS[:3]), item(ROWS[3], amount="NaN"), item(ROWS[4], amount=1)]
    summary = reconcile(doubtful, listed, amount=AMOUNT)
    assert totals(doubtful) == {"equal": [None, "6", 1], "not_compared": [None, None, 2], "uncertain_missing": ["3", "0", 0]}
    assert (summary["ledger_amount"], summary["list_amount"], summary["unknown_amounts"]) == (None, None, 3)
    reasons = doubtful.query("SELECT reason FROM differences WHERE kind = 'not_compared' ORDER BY reason")
    assert [reason for (reason,) in reasons] == ["the ledger's amount is no number", "the list's amount is no number"]
    # What cannot be compared settles nothing.
    assert states(doubtful)[ROWS[4].key] == "parked"


def test_a_person_is_asked_about_what_the_list_cannot_settle(doubtful, reconcile):
    summary = reconcile(doubtful, [*DONE, item(ROWS[4])], listed_after=None)
    assert summary["settlement"]["settled_as"] == {"committed": 1}
    with open_settlements(doubtful.hook(), ledger_table="ledger", changes_table="changes") as settlements:
        form = make_form(settlements.list_open(), table="ledger", listed_rows=20)
    assert {key for group in form.shown.groups for key, _ in group.rows} == {row.key for row in ROWS[5:]}


def _is(row):
    return f"idempotency_key = '{row.key}'"


@pytest.mark.parametrize(
    ("lists", "more", "reason"),
    [
        ([DONE[:3]], {}, "lacks 1 rows"),
        ([[]], {}, "lacks 4 rows"),
        ([[*DONE, {"id": "x"}]], {}, "have no value for match="),
        ([DONE], {"max_sent": 3}, "max_sent=3"),
        ([[*DONE, {"id": "x", "key": "another"}], DONE], {}, "has lost 1 records"),
        ([DONE, DONE[:3]], {}, "has lost 1 records"),
    ],
)
def test_a_list_that_proves_nothing_frees_nothing(doubtful, reconcile, lists, more, reason):
    summary = reconcile(doubtful, *lists, **more)
    assert summary["settlement"]["settled"] == 0
    assert any(reason in why for why in summary["not_sent_because"]), summary["not_sent_because"]
    assert sorted(states(doubtful).values()) == ["committed"] * 4 + ["parked"] * 3 + ["sending"]
    assert {proposal for _, kind, proposal in kinds(doubtful) if kind == "uncertain_missing"} == {None}


def test_a_list_without_a_promise_frees_nothing(doubtful, reconcile):
    for more in ({"listed_after": None}, {"listed_after": HOUR}, {"retention": None}):
        assert reconcile(doubtful, DONE, **more)["settlement"]["settled"] == 0, more
    # An older record shows that the list reaches back.
    older = {"id": "o", "key": "other", "at": "2020-01-01T00:00:00Z"}
    assert reconcile(doubtful, [*DONE, older], retention=None)["settlement"]["settled_as"] == {"send": 4}


def test_a_record_that_comes_with_the_second_reading_is_taken(doubtful, reconcile):
    summary = reconcile(doubtful, DONE, [*DONE, item(ROWS[4])])
    assert summary["settlement"]["settled_as"] == {"committed": 1, "send": 3}
    assert states(doubtful)[ROWS[4].key] == "committed"


def test_records_without_an_id_are_read_twice_and_counted_once(doubtful, reconcile):
    nameless = [{"key": row.key} for row in ROWS[:4]]
    lost = {"key": "another"}
    summary = reconcile(doubtful, [*nameless, lost, lost], [*nameless, lost], primary_key=())
    assert (summary["twice_there"], summary["equal"], summary["settlement"]["settled"]) == (0, 4, 0)
    assert summary["not_sent_because"] == ["the list has lost 1 records while it was read twice"]
    summary = reconcile(doubtful, nameless, primary_key=())
    assert (summary["list_records"], summary["equal"], summary["settlement"]["settled_as"]) == (4, 4, {"send": 4})


def test_a_record_that_changes_between_two_readings_is_one(doubtful, reconcile):
    first, second = ([{**DONE[0], "decision": decision}, *DONE[1:]] for decision in ("ALLOWED", "WARNING"))
    summary = reconcile(doubtful, first, second)
    assert (summary["list_records"], summary["equal"], summary["twice_there"]) == (4, 4, 0)
    assert summary["settlement"]["settled_as"] == {"send": 4}


def timed(db, ledger_in):
    """A ledger whose rows are about one minute after the other; return the records of the list that are of them."""
    begin = datetime.now(UTC) - timedelta(minutes=30)
    times = [(begin + timedelta(minutes=row.number)).isoformat() for row in ROWS]
    rows = [structs.replace(row, kept=f'{{"at":"{at}"}}') for row, at in zip(ROWS, times, strict=True)]
    ledger = ledger_in(db, "monday")
    ledger.claim(rows, policy=PARK)
    done = [State.COMMITTED] * 4 + [State.PARKED] * 4
    ledger.record({row.key: Outcome(state=state) for row, state in zip(rows, done, strict=True)})
    time.sleep(0.002)
    return [item(row, at=at) for row, at in zip(rows, times, strict=True)]


def read_part(records, *, cap=None):
    """A list that has a filter by time, and ends silently after a number of records."""

    def read(since, until):
        found = [one for one in records if since - 1000 <= datetime.fromisoformat(one["at"]).timestamp() * 1000 < until + 1000]
        return sorted(found, key=itemgetter("at"))[:cap]

    return read


def test_a_list_that_is_cut_off_silently_is_found_out(db, ledger_in, reconcile):
    records = timed(db, ledger_in)
    # All but two were carried out; the list ends before the first that nobody is sure about.
    summary = reconcile(db, time_of="kept.at", read=read_part(records[:6], cap=4))
    assert summary["settlement"]["settled_as"] == {"committed": 2, "send": 2}
    assert [states(db)[row.key] for row in ROWS] == ["committed"] * 6 + ["free"] * 2


def test_a_list_that_is_cut_by_another_time_frees_nothing(db, ledger_in, reconcile):
    records = timed(db, ledger_in)
    # The rows' own times are named wrongly: the list's are when the API got them.
    summary = reconcile(db, read=read_part(records[:4]))
    assert summary["settlement"]["settled"] == 0
    [why] = summary["not_sent_because"]
    assert "the times of 4 records lie further than margin=" in why
    assert reconcile(db, time_of="kept.at", read=read_part(records[:4]))["settlement"]["settled_as"] == {"send": 4}


def test_a_row_that_was_set_free_and_is_there_after_all_is_not_sent_again(doubtful, reconcile):
    assert reconcile(doubtful, DONE)["settlement"]["settled_as"] == {"send": 4}
    summary = reconcile(doubtful, [*DONE, item(ROWS[4])], settlement_id="two")
    assert (summary["unexpected_there"], summary["free_there"], summary["settlement"]["settled_as"]) == (1, 1, {"committed": 1})
    assert states(doubtful)[ROWS[4].key] == "committed"


def test_when_a_row_may_have_been_sent(doubtful, reconcile):
    before = int(time.time() * 1000) - 3 * HOUR
    # One was in doubt long before its last request; that of the dead worker may have left until its lease ended.
    doubtful.execute(f"UPDATE ledger SET in_doubt_since = {before} WHERE {_is(ROWS[4])}")
    doubtful.execute(f"UPDATE ledger SET lease_until = {before + 6 * HOUR} WHERE {_is(ROWS[7])}")
    summary = reconcile(doubtful, DONE, settles=False, retention=9 * HOUR)
    assert (summary["outside"], summary["uncertain_missing"]) == (1, 3)
    assert summary["proposed"] == {"send": 2}


def test_a_row_that_was_sent_again_after_the_range_is_compared(doubtful, reconcile):
    now = int(time.time() * 1000)
    begun = now - 2 * HOUR
    doubtful.execute(f"UPDATE ledger SET in_doubt_since = {begun}, attempts = 2 WHERE {_is(ROWS[4])}")
    # All were claimed after the range; only the one that was sent again may be of it.
    over = {"since": begun - HOUR, "until": now - HOUR}
    summary = reconcile(doubtful, [item(ROWS[4])], **over)
    assert (summary["ledger_rows"], summary["settlement"]["settled_as"]) == (1, {"committed": 1})


def test_a_decision_that_nobody_knows_settles_nothing(doubtful, reconcile):
    summary = reconcile(doubtful, [*DONE, item(ROWS[4], decision="REVERSED")])
    assert (summary["different"], summary["settlement"]["settled_as"]) == (1, {"send": 3})
    assert states(doubtful)[ROWS[4].key] == "parked"


def test_two_candidates_are_none(doubtful, reconcile):
    twice = [item(ROWS[4]), {**item(ROWS[4]), "id": "other"}]
    summary = reconcile(doubtful, [*DONE, *twice])
    assert (summary["twice_there"], summary["settlement"]["settled_as"]) == (1, {"send": 3})
    assert states(doubtful)[ROWS[4].key] == "parked"


def test_two_rows_with_one_record_are_not_guessed(db, ledger_in, reconcile):
    rows = [structs.replace(row, kept='{"amount":1}') for row in ROWS]
    ledger = ledger_in(db, "monday")
    ledger.claim(rows, policy=PARK)
    ledger.record({row.key: Outcome(state=State.PARKED) for row in rows})
    time.sleep(0.002)
    summary = reconcile(db, [{"id": "x", "amount": 1}], match_by={"amount": "kept.amount"})
    assert (summary["ambiguous"], summary["settlement"]["settled"]) == (8, 0)


def test_hashes_of_another_secret_are_refused(db, ledger_in, reconcile):
    former, now = (hash_key("acme", secret=Secret(f"a long random text {number}")) for number in (1, 2))
    bare = hash_key("acme")
    kept = [keep_members({"meter": f"m-{row.number}"}, rules={"meter": Keep.HASH}, key=former) for row in ROWS]
    rows = [structs.replace(row, kept=text) for row, text in zip(ROWS, kept, strict=True)]
    ledger = ledger_in(db, "monday")
    ledger.claim(rows, policy=PARK)
    ledger.record({row.key: Outcome(state=State.PARKED) for row in rows})
    listed = [{"id": f"id-{row.number}", "meter": f"m-{row.number}"} for row in ROWS]
    by_meter = {"meter": "kept.meter"}
    for other in (now, bare):
        with pytest.raises(HashSecretError, match="8 rows keep hashes that were made with another secret"):
            reconcile(db, listed, match_by=by_meter, key=other)
        assert set(states(db).values()) == {"parked"}
    # What lies outside of the range is not compared.
    summary = reconcile(db, listed, match_by=by_meter, key=now, since=0, until=1)
    assert summary["settlement"]["settled"] == 0
    summary = reconcile(db, listed, match_by=by_meter, key=former)
    assert (summary["uncertain_there"], summary["settlement"]["settled_as"]) == (8, {"committed": 8})
    assert "m-1" not in str(kept)


def test_rows_that_were_sent_before_anything_was_kept_settle_nothing(doubtful, reconcile):
    doubtful.execute(f"""UPDATE ledger SET kept_members = '{{"amount":1}}' WHERE {_is(ROWS[4])}""")
    summary = reconcile(doubtful, [{"id": "x", "amount": 1}], match_by={"amount": "kept.amount"})
    assert (summary["uncertain_there"], summary["not_compared"], summary["settlement"]["settled"]) == (1, 7, 0)


def test_a_live_worker_keeps_its_rows(db, ledger_in, reconcile):
    ledger_in(db, "monday").claim(ROWS, policy=PARK)
    time.sleep(0.002)
    summary = reconcile(db, [item(ROWS[0])])
    assert (summary["in_flight"], summary["settlement"]["settled"]) == (8, 0)


def test_a_row_that_is_settled_meanwhile_stays_so(doubtful, reconcile):
    def records():
        doubtful.execute(f"UPDATE ledger SET state = 'given_up', settlement = 'by hand' WHERE {_is(ROWS[4])}")
        yield from DONE

    summary = reconcile(doubtful, DONE, records())
    assert states(doubtful)[ROWS[4].key] == "given_up"
    assert summary["settlement"]["settled_as"] == {"send": 3}


def test_rows_of_other_tenants_are_not_compared(doubtful, reconcile):
    doubtful.execute(
        f"UPDATE ledger SET tenant = 'b' WHERE {_is(ROWS[0])}", f"UPDATE ledger SET conn_id = 'c' WHERE {_is(ROWS[1])}"
    )
    summary = reconcile(doubtful, DONE[2:], tenant="a")
    assert (summary["ledger_rows"], summary["equal"], summary["only_ours"]) == (6, 2, 0)


def test_a_settlement_that_is_killed_goes_on(doubtful, reconcile, monkeypatch):
    if doubtful.name.startswith("duckdb"):
        pytest.skip("a DuckDB file is not opened across a fork")
    pid = os.fork()
    if pid == 0:
        write, written = settlement_module.write_settlements, []

        def write_and_die(*args, **more):
            if written:
                os.kill(os.getpid(), signal.SIGKILL)
            write(*args, **more)
            written.append(1)

        monkeypatch.setattr(settlement_module, "BATCH", 1)
        monkeypatch.setattr(settlement_module, "write_settlements", write_and_die)
        reconcile(doubtful, [*DONE, item(ROWS[4])])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    reconcile(doubtful, [*DONE, item(ROWS[4])])
    assert [states(doubtful)[row.key] for row in ROWS] == ["committed"] * 5 + ["free"] * 3
