# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A batch with a real ledger and a scripted API: what is written when, what is given back, and that it always ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from functools import partial

import pytest

from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.usage import committer as committer_module
from limio_limitrail.usage import send_loop as send_loop_module
from limio_limitrail.usage.committer import StoppedError, UsageCommitter
from limio_limitrail.usage.interrupts import uptime
from limio_limitrail.usage.ledger import transactions as transactions_module
from limio_limitrail.usage.ledger.leases import LEASE
from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.states import State
from limio_limitrail.usage.send_loop import Abort, RateLimited, SendingStoppedError, Uncertain
from tests.support.databases import make_database
from tests.support.ledgers import PARK, RESEND, FailingDatabase, entries, make_ledger, make_rows, make_worker

GOOD = Outcome(state=State.COMMITTED, http_status=200, decision="ALLOWED")
DOUBT = Uncertain(outcome=Outcome(state=State.PARKED, detail="no answer"), cause=RuntimeError("no answer"))
ENDS = 240.0
"""Seconds within which everything here ends at all."""


class Script:
    """Answers row after row as it is told, each in a thread of its own, and remembers what was asked."""

    def __init__(self, answer) -> None:
        self.sent: list[int] = []
        self._answer = answer

    async def __call__(self, row, wait):
        loop = asyncio.get_running_loop()
        self.sent.append(row.number)

        def wait_there(seconds):
            asyncio.run_coroutine_threadsafe(wait(seconds), loop).result(ENDS)

        found = await in_a_thread(self._answer, row, wait_there) if callable(self._answer) else self._answer
        if isinstance(found, Exception):
            raise found
        return found

    async def close(self):
        pass


async def in_a_thread(call, *arguments):
    """Make a call in a thread that nobody waits for at the end."""
    loop, done = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def work():
        try:
            step = partial(done.set_result, call(*arguments))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            step = partial(done.set_exception, error)
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(step)

    threading.Thread(target=work, daemon=True).start()
    return await done


@pytest.fixture
def db(tmp_path, monkeypatch):
    monkeypatch.setattr(transactions_module, "PAUSES", (0.0, 0.0, 0.0))
    return make_database("sqlite", folder=tmp_path)


@pytest.fixture
def make_batch(db):
    """A maker of batches, each of a worker with a connection of its own."""
    with contextlib.ExitStack() as stack:

        def make(answer, run="run-1", *, policy=PARK, concurrency=4, batch_size=100, attempt=1):
            held = FailingDatabase(db.hook())
            stack.callback(held.close)
            ledger = make_ledger(held, make_worker(run, attempt=attempt))
            ledger.prepare()
            script = answer if isinstance(answer, Script) else Script(answer)
            made = UsageCommitter(
                ledger=ledger, policy=policy, sender=script, concurrency=concurrency, batch_size=batch_size, label="usage"
            )
            made.database, made.script, made.ledger = held, script, ledger
            return made

        yield make


def in_background(batch, rows):
    """Run a batch in a thread that also has its connection; give the thread and where its result will be."""
    found = {}

    def work():
        try:
            found["tally"] = batch.run(rows, total=len(rows))
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            found["error"] = error
        finally:
            batch.database.close()

    batch.database.close()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, found


def until(condition):
    """Wait until something is so."""
    end = time.monotonic() + ENDS
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def states(db):
    return {key: entry["state"] for key, entry in entries(db).items()}


def test_all_rows_are_sent_once_and_written(db, make_batch):
    rows = make_rows(150)
    batch = make_batch(GOOD)
    tally = batch.run(rows, total=150)
    assert sorted(batch.script.sent) == list(range(1, 151))
    assert (tally.sent, tally.done, tally.states[State.COMMITTED]) == (150, 150, 150)
    assert set(states(db).values()) == {"committed"}
    again = make_batch(GOOD, "run-2")
    tally = again.run(rows, total=150)
    assert again.script.sent == []
    assert (tally.sent, tally.settled_before, tally.done) == (0, 150, 150)


def test_no_rows_are_no_trouble(make_batch):
    assert make_batch(GOOD).run([], total=0).done == 0


def test_every_row_has_an_entry_when_it_is_sent(db, make_batch):
    def look(row, wait):
        reader = sqlite3.connect(db.connection["host"])
        with contextlib.closing(reader):
            found = reader.execute("SELECT state FROM ledger WHERE idempotency_key = ?", (row.key,)).fetchall()
        return GOOD if found == [("sending",)] else AssertionError(found)

    assert make_batch(look).run(make_rows(40), total=40).states[State.COMMITTED] == 40


def test_outcomes_are_written_though_others_hang(db, make_batch):
    release = threading.Event()
    batch = make_batch(lambda row, wait: (release.wait(ENDS), GOOD)[1] if row.number == 1 else GOOD)
    thread, found = in_background(batch, make_rows(6))
    until(lambda: list(states(db).values()).count("committed") == 5)
    assert thread.is_alive()
    release.set()
    thread.join(ENDS)
    assert found["tally"].done == 6


def test_a_row_that_was_refused_for_haste_is_sent_again_and_all_slow_down(db, make_batch):
    seen = set()

    def answer(row, wait):
        if row.number in (1, 2, 5) and row.number not in seen:
            seen.add(row.number)
            return RateLimited(retry_after=0.05, cause=RuntimeError("429"))
        return GOOD

    batch = make_batch(answer)
    refusals = []
    refused = batch._send_loop._limiter.rate_limited
    batch._send_loop._limiter.rate_limited = lambda **more: (refusals.append(more["retry_after"]), refused(**more))
    tally = batch.run(make_rows(8), total=8)
    assert tally.states[State.COMMITTED] == 8
    assert sorted(batch.script.sent) == [1, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8]
    assert refusals == [0.05] * 3


def test_nothing_but_refusals_ends_at_last_and_gives_everything_back(db, make_batch, monkeypatch):
    monkeypatch.setattr(committer_module, "LONGEST_REFUSAL", 0.2)
    batch = make_batch(RateLimited(retry_after=0.01, cause=RuntimeError("429 for ever")))
    with pytest.raises(RuntimeError, match="429 for ever"):
        batch.run(make_rows(20), total=20)
    assert states(db) == {}


def test_a_halt_sends_nothing_more_and_gives_the_rest_back(db, make_batch):
    batch = make_batch(
        lambda row, wait: Abort(cause=RuntimeError("no such scope")) if row.number == 3 else GOOD, concurrency=1, batch_size=5
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="no such scope"):
        batch.run(make_rows(50), total=50)
    assert batch.script.sent == [1, 2, 3]
    assert list(states(db).values()) == ["committed", "committed"]
    again = make_batch(GOOD, attempt=2)
    assert again.run(make_rows(50), total=50).states[State.COMMITTED] == 50
    assert sorted(again.script.sent) == list(range(3, 51))


def test_answers_under_way_at_a_halt_are_waited_for(db, make_batch):
    halted, both = threading.Event(), threading.Barrier(2)

    def answer(row, wait):
        both.wait(ENDS)
        if row.number == 1:
            halted.set()
            return Abort(cause=RuntimeError("halt"))
        halted.wait(ENDS)
        time.sleep(0.3)
        return GOOD

    batch = make_batch(answer, concurrency=2)
    rows = make_rows(30)
    with pytest.raises(RuntimeError, match="halt"):
        batch.run(rows, total=30)
    assert sorted(batch.script.sent) == [1, 2]
    assert states(db) == {rows[1].key: "committed"}


def test_a_wait_between_two_tries_ends_at_a_halt(db, make_batch):
    waiting = threading.Event()

    def answer(row, wait):
        if row.number == 1:
            waiting.wait(ENDS)
            return Abort(cause=RuntimeError("halt"))
        waiting.set()
        with pytest.raises(SendingStoppedError):
            wait(ENDS)
        raise SendingStoppedError

    batch = make_batch(answer, concurrency=2)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="halt"):
        batch.run(make_rows(10), total=10)
    assert time.monotonic() - began < ENDS / 2
    assert states(db) == {}


def test_ten_doubts_in_a_row_are_enough(db, make_batch):
    batch = make_batch(DOUBT, concurrency=1, batch_size=1)
    with pytest.raises(RuntimeError, match="no answer"):
        batch.run(make_rows(40), total=40)
    assert 10 <= len(batch.script.sent) <= 12
    assert set(states(db).values()) == {"parked"}
    assert len(states(db)) == len(batch.script.sent)


def test_nine_doubts_and_an_answer_are_not(db, make_batch):
    batch = make_batch(lambda row, wait: GOOD if row.number % 10 == 0 else DOUBT, concurrency=1)
    tally = batch.run(make_rows(40), total=40)
    assert (tally.states[State.COMMITTED], tally.states[State.PARKED]) == (4, 36)


@pytest.mark.parametrize(("policy", "state"), [(PARK, "parked"), (RESEND, "unknown")])
def test_an_error_that_nobody_foresaw_leaves_the_row_in_doubt(db, make_batch, policy, state):
    batch = make_batch(lambda row, wait: KeyError("secret") if row.number == 2 else GOOD, policy=policy)
    tally = batch.run(make_rows(3), total=3)
    assert tally.states[State(state)] == 1
    [entry] = [entry for entry in entries(db).values() if entry["state"] == state]
    assert entry["detail"] == "KeyError while it was sent"


def test_a_task_that_is_told_to_stop_has_written_all_before_airflow_kills_it():
    """Airflow kills it after five seconds, of which two are for the database and the end of the process."""
    assert committer_module.KILL_TIMEOUT <= 3.0


@pytest.mark.parametrize(("policy", "state"), [(PARK, "parked"), (RESEND, "unknown")])
def test_stop_ends_though_requests_hang(db, make_batch, monkeypatch, policy, state):
    monkeypatch.setattr(committer_module, "KILL_TIMEOUT", 0.5)
    hang = threading.Event()
    batch = make_batch(lambda row, wait: GOOD if row.number != 2 else (hang.wait(ENDS), GOOD)[1], policy=policy, concurrency=1)
    rows = make_rows(20)
    thread, found = in_background(batch, rows)
    until(lambda: 2 in batch.script.sent)
    batch.stop()
    thread.join(ENDS / 2)
    assert not thread.is_alive()
    hang.set()
    assert isinstance(found["error"], StoppedError)
    assert batch.script.sent == [1, 2]
    assert states(db) == {rows[0].key: "committed", rows[1].key: state}


def test_stop_before_the_beginning_sends_nothing(db, make_batch):
    batch = make_batch(GOOD)
    batch.stop()
    with pytest.raises(StoppedError):
        batch.run(make_rows(5), total=5)
    assert batch.script.sent == []
    assert states(db) == {}


def test_rows_of_another_worker_are_waited_for(db, make_batch, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(committer_module, "_ASK_OTHERS_EVERY", 0.05)
    rows = make_rows(6)
    other = make_batch(GOOD, "other")
    claims = other.ledger.claim(rows[:3], policy=PARK)
    batch = make_batch(GOOD)
    thread, found = in_background(batch, rows)
    until(lambda: list(states(db).values()).count("committed") == 3)
    assert thread.is_alive()
    other.ledger.record({rows[0].key: GOOD})
    other.ledger.release([claim for claim in claims if claim.row.number == 2])
    until(lambda: states(db).get(rows[1].key) == "committed")
    assert thread.is_alive()
    db.execute("UPDATE ledger SET lease_until = 1 WHERE state = 'sending'")
    thread.join(ENDS)
    assert found["tally"].states == {State.COMMITTED: 5, State.PARKED: 1}
    assert sorted(batch.script.sent) == [2, 4, 5, 6]
    assert caplog.text.count("another worker is sending some of these rows") == 1


def test_what_another_worker_left_in_doubt_is_not_forgotten_for_a_claim_that_grew_too_old(db, make_batch, monkeypatch):
    """This worker stood still after its claim: another one took its row, sent it, and got no answer."""
    [row] = make_rows(1)
    batch, other = make_batch(GOOD, policy=RESEND), make_batch(GOOD, "other", policy=RESEND)
    claim_ = batch.ledger.claim

    def claim(rows, *, policy):
        claims = claim_(rows, policy=policy)
        if other.script.sent:
            batch._send_loop.stop_sending()
            return claims
        db.execute("UPDATE ledger SET lease_until = 1")
        [taken] = other.ledger.claim([row], policy=RESEND)
        assert taken.granted
        other.script.sent.append(row.number)
        other.ledger.record({row.key: Outcome(state=State.UNKNOWN, detail="no answer")})
        monkeypatch.setattr(send_loop_module, "uptime", lambda: uptime() + LEASE)
        return claims

    batch.ledger.claim = claim
    batch.run([row], total=1)
    assert batch.script.sent == []
    assert states(db) == {row.key: "unknown"}


def test_a_row_in_doubt_whose_key_is_refused_is_parked_and_counted_so(db, make_batch):
    refused = Outcome(state=State.REJECTED, http_status=409, error_code="KEY_REUSED", detail="the key is known")
    rows = make_rows(30)
    first = make_batch(Uncertain(outcome=Outcome(state=State.UNKNOWN, detail="no answer"), cause=RuntimeError()), policy=RESEND)
    first.ledger.claim(rows[:15], policy=RESEND)
    first.ledger.record({row.key: Outcome(state=State.UNKNOWN, detail="no answer") for row in rows[:15]})
    batch = make_batch(refused, "next", policy=RESEND)
    tally = batch.run(rows, total=30)
    assert tally.states == {State.PARKED: 15, State.REJECTED: 15}
    found = entries(db)
    for number, row in enumerate(rows):
        entry = found[row.key]
        assert (entry["state"], entry["http_status"], entry["error_code"]) == (
            "parked" if number < 15 else "rejected", 409, "KEY_REUSED",
        )  # fmt: skip
        assert "the key is known" in entry["detail"]


def test_only_few_rows_are_claimed_at_once(db, make_batch):
    most = []
    batch = make_batch(None, concurrency=8, batch_size=7)

    def answer(row, wait):
        most.append((len(batch._in_flight), 4 * batch._send_loop.limit + 7))
        return GOOD

    batch.script._answer = answer
    batch.run(make_rows(300), total=300)
    # The limit may have changed since the claim, by one a request under way.
    assert all(claimed <= allowed + 4 * 8 for claimed, allowed in most)
    assert max(claimed for claimed, _ in most) < 100


@pytest.mark.sampled(2)
@pytest.mark.parametrize("batch_size", [1, 2, 7, 30, 50, 500])
def test_a_crash_leaves_few_rows_in_doubt_at_any_moment(db, make_batch, batch_size):
    concurrency = 4
    seen = []
    batch = make_batch(None, concurrency=concurrency, batch_size=batch_size)

    def answer(row, wait):
        seen.append(sum(state == "sending" for state in states(db).values()))
        return GOOD

    batch.script._answer = answer
    batch._send_loop._limiter._limit = float(concurrency)
    batch.run(make_rows(200), total=200)
    claim, written = min(batch_size, 4 * concurrency), min(batch_size, 8 * concurrency)
    assert max(seen) < 4 * concurrency + claim + written <= 16 * concurrency


def test_a_database_that_is_gone_at_the_end_names_the_rows_that_were_answered(db, make_batch, caplog):
    batch = make_batch(None)

    def answer(row, wait):
        batch.database.failures = ["early"] * 50
        return GOOD

    batch.script._answer = answer
    with caplog.at_level(logging.ERROR), pytest.raises(LandingError, match="away"):
        batch.run(make_rows(2), total=2)
    assert "outcomes could not be written into ledger" in caplog.text
    for number in batch.script.sent:
        assert f'row {number} {{"id": "{number}"}}: committed' in caplog.text
    batch.database.failures.clear()
    assert set(states(db).values()) == {"sending"}


def test_a_row_that_cannot_be_claimed_again_is_given_back(db, make_batch):
    batch = make_batch(None, concurrency=1)

    def answer(row, wait):
        if row.number == 1:
            # Its next claim fails for good; what comes after that works.
            batch.database.failures = ["early"] * 4
            return RateLimited(retry_after=0.0, cause=RuntimeError("429"))
        return GOOD

    batch.script._answer = answer
    with pytest.raises(LandingError, match="away"):
        batch.run(make_rows(1), total=1)
    assert states(db) == {}


def test_a_source_of_rows_that_breaks_loses_nothing(db, make_batch):
    def rows():
        yield from make_rows(3)
        raise OSError("the file is gone")

    batch = make_batch(GOOD, batch_size=2)
    with pytest.raises(OSError, match="the file is gone"):
        batch.run(rows(), total=10)
    assert len(batch.script.sent) == len(states(db))
    assert set(states(db).values()) <= {"committed"}
