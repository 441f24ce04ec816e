# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Airflow's execution_timeout, a signal that raises anywhere, leaves the ledger right."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

import pytest

from limio_limitrail.usage.committer import UsageCommitter
from limio_limitrail.usage.interrupts import defer_sigalrm
from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.states import State
from tests.support.databases import make_database
from tests.support.ledgers import PARK, FailingDatabase, entries, make_ledger, make_rows, make_worker

GOOD = Outcome(state=State.COMMITTED, http_status=200, decision="ALLOWED")


class TooLongError(BaseException):
    """Stands for Airflow's timeout, which no `except Exception` catches either."""


@contextlib.contextmanager
def alarm_after(seconds):
    """Raise after some seconds, as Airflow does, wherever the program is then."""

    def handler(number, frame):
        raise TooLongError

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Good:
    """Sends rows, to nobody."""

    def __init__(self):
        self.sent = set()

    async def __call__(self, row, wait):
        self.sent.add(row.key)
        await asyncio.sleep(0)
        return GOOD

    async def close(self):
        pass


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_whenever_it_comes_what_was_sent_is_written_and_nothing_else(tmp_path, kind):
    rows, interrupted = make_rows(3000), 0
    for number in range(40):
        folder = tmp_path / str(number)
        folder.mkdir()
        database = make_database(kind, folder=folder)
        sender = Good()
        with contextlib.closing(FailingDatabase(database.hook())) as held:
            ledger = make_ledger(held, make_worker())
            ledger.prepare()
            batch = UsageCommitter(ledger=ledger, policy=PARK, sender=sender, concurrency=4, batch_size=100, label="usage")
            try:
                with alarm_after(0.005 + number * 0.0031):
                    batch.run(rows, total=len(rows))
            except TooLongError:
                interrupted += 1
        found = entries(database)
        assert {entry["state"] for entry in found.values()} <= {"committed"}
        assert set(found) == sender.sent
        assert batch.counts.states[State.COMMITTED] == len(sender.sent)
    assert interrupted > 20


def run_into_the_alarm(block, **limits):
    """Run a block with an alarm in its midst, and give what came out of it and what the block had been told."""
    told = []
    try:
        with alarm_after(3600):
            with defer_sigalrm(lambda: told.append("told"), **limits):
                signal.raise_signal(signal.SIGALRM)
                block(told)
            told.append("the alarm was lost")
    except BaseException as error:  # noqa: BLE001 - looked at by the test
        return error, told
    return None, told


def test_the_alarm_comes_when_the_block_has_ended():
    error, told = run_into_the_alarm(lambda told: told.append("went on"))
    assert isinstance(error, TooLongError)
    assert told == ["told", "went on"]


def test_a_block_that_does_not_end_is_broken_off():
    error, told = run_into_the_alarm(lambda told: (time.sleep(30), told.append("went on")), at_most=0.1)
    assert isinstance(error, TooLongError)
    assert told == ["told"]


def test_an_error_of_the_block_is_told_as_the_reason():
    def block(told):
        raise ValueError("told to stop")

    error, _ = run_into_the_alarm(block)
    assert isinstance(error, TooLongError)
    assert isinstance(error.__context__, ValueError)


def test_without_an_alarm_nothing_changes():
    with alarm_after(30):
        handler = signal.getsignal(signal.SIGALRM)
        with defer_sigalrm(lambda: None):
            pass
        assert signal.getsignal(signal.SIGALRM) is handler
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    with pytest.raises(ValueError, match="its own"), defer_sigalrm(lambda: None):
        raise ValueError("its own")
