# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Settle rows: compare-and-set, in every kind of database, whatever fails and whoever else settles or sends."""

from __future__ import annotations

import json
import signal
import threading
import uuid
from contextlib import closing
from dataclasses import replace

import pytest
from msgspec import structs

from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.usage.ledger import settlement as settlement_module
from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.settlement import Decision, Filter, RowDecision, SettlementError, Settlements
from limio_limitrail.usage.ledger.states import LedgerError, State
from limio_limitrail.usage.ledger.table import LEDGER, find_name, make_table
from tests.support.ledgers import PARK, RESEND, FailingDatabase, entries, make_ledger, make_row, make_rows, make_worker
from tests.support.settlements import columns, settle_in_a_process, states

pytestmark = pytest.mark.every_driver

ROWS = make_rows(6)
OUTCOMES = [State.COMMITTED, State.DENIED, State.REJECTED, State.PARKED, State.UNKNOWN]


@pytest.fixture
def settlements_in():
    """A maker of `Settlements`, each with a connection of its own."""
    opened = []

    def make(database, **more):
        held = FailingDatabase(database.hook())
        opened.append(held)
        made = Settlements(database=held, table="ledger", changes_table="changes", **more)
        made.prepare()
        return made

    yield make
    for held in opened:
        held.close()


def one_of_each(db, ledger_in):
    """Leave a row in each state: ROWS[0] committed, and so on; ROWS[5] sending, by a worker that has died."""
    ledger = ledger_in(db, "monday")
    ledger.claim(ROWS, policy=PARK)
    ledger.record({row.key: Outcome(state=state, http_status=500) for row, state in zip(ROWS, OUTCOMES, strict=False)})
    db.execute("UPDATE ledger SET lease_until = 1, claim_id = 'dead' WHERE state = 'sending'")
    return ledger


def decide(row, word, **more):
    return RowDecision(key=row.key, decision=Decision(word), **more)


def versions(settlements):
    return {row.key: row.version for row in settlements.list_open()}


def test_what_needs_a_person_is_listed(db, ledger_in, settlements_in):
    ledger = one_of_each(db, ledger_in)
    changed = structs.replace(ROWS[0], digest="another", members='{"quantity": "123456"}')
    ledger.list_changes([changed], table="changes", with_bodies=False)
    settlements = settlements_in(db)
    found = {row.key: row for row in settlements.list_open()}
    assert {row.key: found[row.key].kind for row in ROWS if row.key in found} == {
        ROWS[0].key: "changed",
        ROWS[2].key: "rejected",
        ROWS[3].key: "parked",
        ROWS[4].key: "unknown",
        ROWS[5].key: "sending",
    }
    assert {row.kind: row.in_doubt for row in found.values()} == {
        "changed": False, "rejected": False, "parked": True, "unknown": True, "sending": True
    }  # fmt: skip
    parked = found[ROWS[3].key]
    assert (parked.reason, parked.operation, parked.row_key) == ("status 500", "usage.commit", ROWS[3].row_key)
    assert (parked.dag_id, parked.task_id, parked.run_id, parked.attempts) == ("usage", "send", "monday", 1)
    assert "ended without writing down an answer" in found[ROWS[5].key].reason
    assert settlements.list_open(Filter(kinds=["parked"])) == [parked]
    assert settlements.list_open(Filter(limit=2)) == settlements.list_open()[:2]
    assert settlements.list_open(Filter(older_than=3600)) == []
    assert settlements.list_open(Filter(run_id="tuesday")) == settlements.list_open(Filter(operation="x")) == []
    assert {(one.operation, one.state): one.rows for one in settlements.count_states()} == {
        ("usage.commit", state): 1 for state in ("committed", "denied", "parked", "rejected", "sending", "unknown")
    }


def test_what_a_live_worker_sends_is_no_business_of_others(db, ledger_in, settlements_in):
    ledger = ledger_in(db)
    ledger.claim(ROWS, policy=PARK)
    settlements = settlements_in(db)
    assert settlements.list_open() == []
    result = settlements.settle([decide(row, "send") for row in ROWS], by="ada")
    assert (result.count, result.stale) == (0, 6)
    ledger.record({row.key: Outcome(state=State.COMMITTED) for row in ROWS})
    assert set(states(db).values()) == {"committed"}


def test_decisions_are_carried_out_and_written_down(db, ledger_in, settlements_in):
    one_of_each(db, ledger_in)
    settlements = settlements_in(db)
    result = settlements.settle(
        [
            decide(ROWS[2], "give_up", note="the account is closed"),
            decide(ROWS[3], "committed", api_decision="ALLOWED", reservation_id="r-1", trace_id="t-1"),
            decide(ROWS[4], "send"),
            decide(ROWS[5], "denied"),
            decide(ROWS[0], "leave"),
        ],
        by="ada",
    )
    assert result.settled == {"give_up": 1, "committed": 1, "send": 1, "denied": 1}
    assert (result.left, result.already, result.stale, result.contradicted) == (1, 0, 0, 0)
    assert result.to_send == {("usage", "send", "monday"): 1}
    assert [states(db)[row.key] for row in ROWS] == ["committed", "denied", "given_up", "committed", "free", "denied"]
    written = columns(db, "settled_by", "settlement", "decision", "reservation_id", "trace_id", "in_doubt_since")
    by, settlement, decision, reservation, trace, since = written[ROWS[3].key]
    assert (by, decision, reservation, trace, since) == ("ada", "ALLOWED", "r-1", "t-1", None)
    assert json.loads(settlement)["was"] == "parked"
    assert json.loads(written[ROWS[2].key][1])["note"] == "the account is closed"
    assert written[ROWS[4].key][5] is None
    assert columns(db, "CASE WHEN settled_at IS NULL OR finished_at IS NULL THEN 0 ELSE 1 END")[ROWS[5].key] == (1,)
    assert settlements.list_open() == []
    [free] = settlements.list_open(Filter(kinds=["free"]))
    assert (free.key, free.kind, free.since is None) == (ROWS[4].key, "free", False)
    # A task that does not have it says so, and does not count it as a doubt.
    tuesday = ledger_in(db, "tuesday")
    assert [tuesday.left_in_doubt(among).free for among in (lambda _: (), lambda keys: keys)] == [1, 0]
    assert tuesday.left_in_doubt(lambda _: ()).count == 0


def test_a_row_that_is_free_is_sent_by_the_next_run_once(db, ledger_in, settlements_in):
    one_of_each(db, ledger_in)
    settlements_in(db).settle([decide(row, "send") for row in ROWS[2:]], by="ada")
    tuesday, wednesday = ledger_in(db, "tuesday"), ledger_in(db, "wednesday")
    # The row may have another body by now, and the same one in a row that was not freed.
    mended = [structs.replace(row, digest="mended") for row in ROWS]
    assert set(tuesday.settled(mended, policy=PARK)) == {ROWS[0].key, ROWS[1].key}
    granted = [claim.row.key for claim in tuesday.claim(mended, policy=PARK) if claim.granted]
    assert sorted(granted) == sorted(row.key for row in ROWS[2:])
    assert not any(claim.granted for claim in wednesday.claim(mended, policy=PARK))
    # A refusal of a row that was never sent before is clear.
    tuesday.record({key: Outcome(state=State.REJECTED) for key in granted})
    assert [states(db)[row.key] for row in ROWS[2:]] == ["rejected"] * 4
    assert not any(claim.granted for claim in wednesday.claim(mended, policy=PARK))


def test_a_claim_of_a_free_row_that_was_not_sent_leaves_it_free(db, ledger_in, settlements_in):
    one_of_each(db, ledger_in)
    settlements_in(db).settle([decide(ROWS[3], "send")], by="ada")
    before = entries(db)
    tuesday = ledger_in(db, "tuesday")
    claims = tuesday.claim([ROWS[3]], policy=PARK)
    assert not claims[0].in_doubt
    tuesday.release(claims)
    assert entries(db)[ROWS[3].key]["state"] == "free"
    assert before[ROWS[3].key]["attempts"] == entries(db)[ROWS[3].key]["attempts"]


def test_an_answer_that_comes_after_a_settlement_counts(db, ledger_in):
    """The worker seemed dead, and was not."""
    ledger = ledger_in(db)
    ledger.claim(ROWS, policy=PARK)
    db.execute("UPDATE ledger SET state = 'free', in_doubt_since = NULL")
    ledger.record({ROWS[0].key: Outcome(state=State.COMMITTED), ROWS[1].key: Outcome(state=State.PARKED)})
    assert [states(db)[row.key] for row in ROWS[:3]] == ["committed", "parked", "free"]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("word", ["send", "give_up", "committed", "denied"])
def test_what_has_an_answer_is_not_decided_upon(lite, ledger_in, settlements_in, number, word):
    one_of_each(lite, ledger_in)
    settlements = settlements_in(lite)
    if (number, word) in ((0, "committed"), (1, "denied")):
        assert settlements.settle([decide(ROWS[number], word)], by="ada").already == 1
        return
    with pytest.raises(SettlementError, match="cannot be settled as"):
        settlements.settle([decide(ROWS[3], "send"), decide(ROWS[number], word)], by="ada")
    assert states(lite)[ROWS[3].key] == "parked"


def test_whatever_does_not_fit_is_named_and_nothing_is_settled(db, ledger_in, settlements_in):
    one_of_each(db, ledger_in)
    settlements = settlements_in(db)
    before = entries(db)
    wrong = [decide(ROWS[0], "give_up"), decide(ROWS[1], "accept"), decide(make_row("nowhere"), "send")]
    for key in ("", "x' OR '1'='1", "\0", "\ud800", "k" * 100_000, "é\n"):
        wrong.append(RowDecision(key=key, decision=Decision.COMMITTED))
    with pytest.raises(SettlementError, match="nothing was settled") as caught:
        settlements.settle([decide(ROWS[3], "send"), *wrong], by="ada")
    assert str(caught.value).startswith("9 decisions do not fit")
    for said in ("give_up", "lists no other body", make_row("nowhere").key, "is not in ledger"):
        assert said in str(caught.value)
    for decisions, by, said in (
        ([decide(ROWS[3], "send"), decide(ROWS[3], "committed")], "ada", "has two decisions"),
        ([decide(ROWS[3], "send", api_decision="ALLOWED")], "ada", "api_decision"),
        ([decide(ROWS[3], "send")], " ", "who has decided"),
    ):
        with pytest.raises(SettlementError, match=said):
            settlements.settle(decisions, by=by)
    assert entries(db) == before
    assert settlements.settle([], by="ada").count == 0


def test_notes_and_names_of_any_kind(db, ledger_in, settlements_in):
    one_of_each(db, ledger_in)
    hostile = "x\"'\\; DROP TABLE ledger; --\0\ud800 漢字 {{ 1 }}\n"
    settlements_in(db).settle([decide(ROWS[3], "send", note=hostile * 100, version=None)], by=f"ada {hostile}")
    by, settlement = columns(db, "settled_by", "settlement")[ROWS[3].key]
    assert by.startswith("ada x\"'")
    assert len(json.loads(settlement)["note"]) == 500


@pytest.mark.parametrize("state", ["'comitted'", "NULL", "''"])
def test_a_mistyped_state_is_listed_and_settled(db, ledger_in, settlements_in, state):
    one_of_each(db, ledger_in)
    db.execute(f"UPDATE ledger SET state = {state} WHERE idempotency_key = '{ROWS[3].key}'")
    settlements = settlements_in(db)
    [row] = settlements.list_open(Filter(kinds=["damaged"]))
    assert "is none of the ledger's" in row.reason
    assert settlements.settle([decide(ROWS[3], "committed", version=row.version)], by="ada").count == 1
    assert states(db)[ROWS[3].key] == "committed"


def test_a_row_of_another_version_is_not_touched(db, ledger_in, settlements_in):
    one_of_each(db, ledger_in)
    db.execute(f"UPDATE ledger SET ledger_format = 4 WHERE idempotency_key = '{ROWS[3].key}'")
    with pytest.raises(LedgerError, match="has format 4"):
        settlements_in(db).settle([decide(row, "send") for row in ROWS[2:]], by="ada")
    assert states(db)[ROWS[2].key] == "rejected"


# -- again, and at once --------------------------------------------------------------------------------------------------


def test_the_same_again_settles_nothing_twice(db, ledger_in, settlements_in):
    one_of_each(db, ledger_in)
    settlements = settlements_in(db)
    seen = versions(settlements)
    upon = [decide(row, "send", version=seen[row.key]) for row in ROWS[2:]]
    anyhow = [replace(decision, version=None) for decision in upon]
    assert settlements.settle(upon, by="ada", settlement_id="run-1").count == 4
    before = entries(db)
    for again in (upon, anyhow):
        result = settlements.settle(again, by="ada", settlement_id="run-1")
        assert (result.count, result.already, result.stale) == (0, 4, 0)
    assert entries(db) == before
    # One of them is sent, and its answer is lost.
    tuesday = ledger_in(db, "tuesday")
    tuesday.claim([ROWS[3]], policy=PARK)
    tuesday.record({ROWS[3].key: Outcome(state=State.PARKED)})
    for again in (upon, anyhow):
        result = settlements.settle(again, by="ada", settlement_id="run-1")
        assert (result.count, result.already) == (0, 4)
    assert states(db)[ROWS[3].key] == "parked"
    # Decided once more, upon what is there now.
    assert settlements.settle([decide(ROWS[3], "send")], by="ada", settlement_id="run-2").count == 1


def test_the_second_of_two_learns_of_the_first(db, ledger_in, settlements_in):
    one_of_each(db, ledger_in)
    ada, bob = settlements_in(db), settlements_in(db)
    seen = versions(bob)
    ada.settle([decide(row, "send", version=seen[row.key]) for row in ROWS[2:]], by="ada")
    result = bob.settle([decide(row, "committed", version=seen[row.key]) for row in ROWS[2:5]], by="bob")
    assert (result.count, result.contradicted, result.stale) == (0, 3, 0)
    assert "settled by ada at 20" in result.examples[0]
    assert bob.settle([decide(row, "send", version=seen[row.key]) for row in ROWS[2:5]], by="bob").already == 3
    assert columns(db, "settled_by")[ROWS[3].key] == ("ada",)


def test_a_row_that_has_moved_on_is_stale(db, ledger_in, settlements_in):
    one_of_each(db, ledger_in)
    settlements = settlements_in(db)
    seen = versions(settlements)
    tuesday = ledger_in(db, "tuesday")
    tuesday.claim([ROWS[4]], policy=RESEND)
    assert settlements.settle([decide(ROWS[4], "send", version=seen[ROWS[4].key])], by="ada").stale == 1
    tuesday.record({ROWS[4].key: Outcome(state=State.COMMITTED)})
    assert settlements.settle([decide(ROWS[4], "send", version=seen[ROWS[4].key])], by="ada").stale == 1
    assert settlements.settle([decide(ROWS[4], "committed", version=seen[ROWS[4].key])], by="ada").already == 1


def test_two_settle_at_once(db, ledger_in, settlements_in, monkeypatch):
    """Of each row, one of them has settled it, and the other one knows."""
    monkeypatch.setattr(settlement_module, "BATCH", 7)
    rows = make_rows(60)
    ledger = ledger_in(db)
    ledger.claim(rows, policy=PARK)
    ledger.record({row.key: Outcome(state=State.PARKED) for row in rows})
    people = {"ada": "send", "bob": "committed", "eve": "send"}
    upon = versions(settlements_in(db))
    ready, results, errors = threading.Barrier(len(people)), {}, []

    def work(name, settlements):
        order = rows if name == "ada" else rows[::-1]
        try:
            ready.wait(timeout=60)
            decisions = [decide(row, people[name], version=upon[row.key]) for row in order]
            results[name] = settlements.settle(decisions, by=name)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name, settlements_in(db))) for name in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert errors == []
    found = columns(db, "settled_by", "state")
    assert sum(result.count for result in results.values()) == 60
    for name, result in results.items():
        assert result.count == sum(by == name for by, _ in found.values())
        assert result.count + result.already + result.contradicted == 60
    assert results["bob"].already == 0
    assert all(state == {"send": "free", "committed": "committed"}[people[by]] for by, state in found.values())


@pytest.mark.parametrize("failure", ["early", "late", "unconfirmed"])
@pytest.mark.parametrize("at", range(4))
def test_a_database_that_fails_once(lite, ledger_in, no_pauses, monkeypatch, failure, at):
    monkeypatch.setattr(settlement_module, "BATCH", 2)
    one_of_each(lite, ledger_in)
    held = FailingDatabase(lite.hook())
    settlements = Settlements(database=held, table="ledger", changes_table="changes")
    held.failures = [None] * at + [failure]
    result = settlements.settle([decide(row, "send") for row in ROWS[2:]], by="ada")
    assert (result.settled, result.already, result.stale) == ({"send": 4}, 0, 0)
    held.close()


def test_an_end_between_two_transactions(db, ledger_in, settlements_in, no_pauses, monkeypatch):
    monkeypatch.setattr(settlement_module, "BATCH", 2)
    one_of_each(db, ledger_in)
    held = FailingDatabase(db.hook())
    settlements = Settlements(database=held, table="ledger", changes_table="changes")
    decisions = [decide(row, "send") for row in ROWS[2:]]
    # Two reads, one batch, and then nothing goes any more.
    held.failures = [None] * 3 + ["early"] * 4
    with pytest.raises(LandingError):
        settlements.settle(decisions, by="ada", settlement_id="run-1")
    held.close()
    assert sorted(states(db)[row.key] for row in ROWS[2:]).count("free") == 2
    result = settlements_in(db).settle(decisions, by="ada", settlement_id="run-1")
    assert (result.count, result.already, result.stale) == (2, 2, 0)


@pytest.mark.other_processes
@pytest.mark.parametrize("when", ["before the commit", "after the commit"])
def test_a_process_that_is_killed(db, settlements_in, when):
    # No connection of this process is open.
    with closing(FailingDatabase(db.hook())) as held:
        ledger = make_ledger(held, make_worker("monday"))
        ledger.prepare()
        one_of_each(db, lambda *_: ledger)
    keys = [row.key for row in ROWS[2:]]
    assert settle_in_a_process(db, keys, word="send", kill=when) == -signal.SIGKILL
    free = [states(db)[key] for key in keys].count("free")
    assert free == (0 if when == "before the commit" else 2)
    result = settlements_in(db).settle(
        [RowDecision(key=key, decision=Decision.SEND) for key in keys], by="ada", settlement_id="run-1"
    )
    assert (result.count, result.already) == (4 - free, free)


def test_a_task_that_sends_meanwhile(db, ledger_in, settlements_in):
    """A worker claims what was freed as soon as it sees it: no row is sent twice, and each settlement is one of a real state."""
    rows = make_rows(40)
    ledger = ledger_in(db)
    ledger.claim(rows, policy=PARK)
    ledger.record({row.key: Outcome(state=State.PARKED) for row in rows})
    worker, settlements = ledger_in(db, "tuesday"), settlements_in(db)
    sent, errors, done = [], [], threading.Event()

    def work():
        try:
            while True:
                last = done.is_set()
                granted = [claim.row.key for claim in worker.claim(rows, policy=PARK) if claim.granted]
                sent.extend(granted)
                worker.record({key: Outcome(state=State.COMMITTED) for key in granted})
                if last:
                    return
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    for at in range(0, 40, 5):
        settlements.settle([decide(row, "send") for row in rows[at : at + 5]], by="ada", settlement_id="run-1")
    done.set()
    thread.join(timeout=300)
    assert errors == []
    assert sorted(sent) == sorted(row.key for row in rows)
    assert set(states(db).values()) == {"committed"}


# -- changed rows --------------------------------------------------------------------------------------------------------


def test_a_heartbeat_after_the_check_keeps_the_row(lite, ledger_in, settlements_in, monkeypatch):
    one_of_each(lite, ledger_in)
    settlements = settlements_in(lite)
    check, version = settlements._check, versions(settlements)[ROWS[5].key]

    def check_and_beat(*args, **more):
        found = check(*args, **more)
        lite.execute("UPDATE ledger SET lease_until = 2 WHERE state = 'sending'")
        return found

    monkeypatch.setattr(settlements, "_check", check_and_beat)
    result = settlements.settle([decide(ROWS[5], "send", version=version)], by="ada")
    assert (result.count, result.stale, states(lite)[ROWS[5].key]) == (0, 1, "sending")


def test_a_changed_row_that_was_corrected_is_accepted(db, ledger_in, settlements_in):
    ledger = one_of_each(db, ledger_in)
    db.execute("""UPDATE ledger SET kept_members = '{"quantity":1}'""")
    changed = structs.replace(ROWS[0], digest="v2:new:path", members='{"quantity": "123456"}', kept='{"quantity":2}')
    ledger.list_changes([changed], table="changes", with_bodies=False)
    settlements = settlements_in(db)
    [row] = settlements.list_open(Filter(kinds=["changed"]))
    # It comes with one more body before the decision is carried out.
    ledger.list_changes([structs.replace(changed, digest="v2:newer:path")], table="changes", with_bodies=False)
    assert settlements.settle([decide(ROWS[0], "accept", version=row.version)], by="ada").stale == 1
    [row] = settlements.list_open(Filter(kinds=["changed"]))
    for _ in range(2):
        result = settlements.settle([decide(ROWS[0], "accept", version=row.version)], by="ada")
    assert result.already == 1
    assert columns(db, "state", "body_digest", "body_members", "kept_members")[ROWS[0].key] == (
        "committed",
        "v2:newer:path",
        '{"quantity": "123456"}',
        '{"quantity":2}',
    )
    assert settlements.list_open(Filter(kinds=["changed"])) == []
    assert settlements.settle([decide(ROWS[0], "accept")], by="bob").already == 1


def test_what_was_kept_of_a_former_body_is_not_taken_for_the_accepted_one(db, ledger_in, settlements_in):
    ledger = one_of_each(db, ledger_in)
    db.execute("""UPDATE ledger SET kept_members = '{"quantity":1}'""")
    changed = structs.replace(ROWS[0], digest="v2:new:path", kept='{"quantity":2}')
    ledger.list_changes([changed], table="changes", with_bodies=False)
    # An earlier version has listed it.
    db.execute("ALTER TABLE changes DROP COLUMN kept_members")
    settlements = settlements_in(db)
    [row] = settlements.list_open(Filter(kinds=["changed"]))
    assert settlements.settle([decide(ROWS[0], "accept", version=row.version)], by="ada").settled == {"accept": 1}
    kept = columns(db, "kept_members")
    assert (kept[ROWS[0].key], kept[ROWS[1].key]) == ((None,), ('{"quantity":1}',))
    # It gets the column when a row is listed again.
    ledger.list_changes([structs.replace(changed, digest="v2:newer:path")], table="changes", with_bodies=False)
    assert db.query("SELECT kept_members FROM changes") == [('{"quantity":2}',)]


# -- an older table ------------------------------------------------------------------------------------------------------

NEW = ("settled_by", "settled_at", "settlement", "kept_members")


@pytest.fixture
def older(db):
    """A ledger of an earlier version, with one row."""
    spec = replace(LEDGER, columns={name: type_ for name, type_ in LEDGER.columns.items() if name not in NEW})
    with closing(FailingDatabase(db.hook())) as held, held.transaction() as session:
        make_table(session, find_name("ledger", dialect=session.dialect), spec)
    db.execute("INSERT INTO ledger (idempotency_key, state) VALUES ('k', 'parked')")


def test_a_ledger_of_an_earlier_version_gets_the_columns(db, older, ledger_in, settlements_in):
    if db.name == "psycopg3":
        # Any number of workers may find it so at once.
        threads = [threading.Thread(target=lambda: settlements_in(db)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=300)
    settlements_in(db)
    assert set(NEW) <= set(db.types("ledger"))
    one_of_each(db, ledger_in)
    assert (
        settlements_in(db).settle([decide(ROWS[3], "send"), RowDecision(key="k", decision=Decision.COMMITTED)], by="ada").count
        == 2
    )


def test_a_ledger_of_an_earlier_version_that_is_somebody_elses(postgres, settlements_in):
    spec = replace(LEDGER, columns={name: type_ for name, type_ in LEDGER.columns.items() if name not in NEW})
    with closing(FailingDatabase(postgres.hook())) as held, held.transaction() as session:
        make_table(session, find_name("ledger", dialect=session.dialect), spec)
    role = f"clerk_{uuid.uuid4().hex}"
    postgres.execute(f"CREATE ROLE {role} LOGIN", f"GRANT SELECT, INSERT, UPDATE, DELETE ON ledger TO {role}")
    try:
        clerk = replace(postgres, connection={**postgres.connection, "login": role})
        with pytest.raises(LedgerError, match=r'Have its owner run: ALTER TABLE "ledger" ADD COLUMN "kept_members" text; ALTER'):
            settlements_in(clerk)
    finally:
        postgres.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_who_may_only_read_can_list(postgres, ledger_in):
    one_of_each(postgres, ledger_in)
    role = f"clerk_{uuid.uuid4().hex}"
    postgres.execute(f"CREATE ROLE {role} LOGIN", f"GRANT SELECT ON ledger TO {role}")
    try:
        clerk = replace(postgres, connection={**postgres.connection, "login": role})
        with closing(FailingDatabase(clerk.hook())) as held:
            settlements = Settlements(database=held, table="ledger", changes_table="changes")
            settlements.prepare(read_only=True)
            assert len(settlements.list_open()) == 4
            assert len(settlements.count_states()) == 6
            with pytest.raises(LedgerError, match="may not INSERT, UPDATE, DELETE in the table ledger"):
                settlements.prepare()
    finally:
        postgres.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_ledger_that_is_not_there_is_not_made(db, settlements_in):
    with pytest.raises(LedgerError, match="there is no table ledger"):
        settlements_in(db)
    assert not db.exists("ledger")
