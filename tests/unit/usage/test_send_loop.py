# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The loop in its thread: what is given comes back, whatever happens in between."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from limio_limitrail.usage import send_loop as send_loop_module
from limio_limitrail.usage.interrupts import uptime
from limio_limitrail.usage.ledger.claims import Claim
from limio_limitrail.usage.ledger.model import Entry, Outcome
from limio_limitrail.usage.ledger.states import State
from limio_limitrail.usage.send_loop import (
    Abort,
    NotSent,
    RateLimited,
    RepeatedRefusals,
    SendingStoppedError,
    SendLoop,
    Uncertain,
)
from tests.support.ledgers import make_rows, make_worker

GOOD = Outcome(state=State.COMMITTED)
ENDS = 240.0


class Loop:
    """Sends rows as it is told, and sees how many at once."""

    def __init__(self, send=None) -> None:
        self.sent: list[int] = []
        self.closed: list[str] = []
        self.now = self.most = 0
        self._send = send

    async def __call__(self, row, wait):
        self.sent.append(row.number)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return GOOD if self._send is None else await self._send(row, wait)
        finally:
            self.now -= 1

    async def close(self) -> None:
        self.closed.append(threading.current_thread().name)


@pytest.fixture
def make_send_loop():
    made = []

    def make(sender, *, concurrency=4) -> SendLoop:
        refusals = RepeatedRefusals(max_rejected=0, table="ledger", label="usage")
        send_loop = SendLoop(sender=sender, concurrency=concurrency, in_doubt=State.PARKED, most_doubts=10, refusals=refusals)
        made.append(send_loop)
        made[-1].start()
        return made[-1]

    yield make
    for send_loop in made:
        send_loop.dismiss()
        send_loop._thread.join(ENDS)
        assert not send_loop._thread.is_alive()


def claims(count):
    return [Claim(row=row, granted=True, entry=None) for row in make_rows(count)]


def collect(send_loop, count):
    found, end = [], time.monotonic() + ENDS
    while len(found) < count:
        assert time.monotonic() < end
        found += send_loop.results(timeout=0.1)
    return {claim.row.number: result for claim, result in found}


def later():
    return uptime() + ENDS


def test_all_that_is_given_comes_back_and_never_too_many_are_under_way(make_send_loop):
    async def send(row, wait):
        await asyncio.sleep(0.001)
        return GOOD

    sender = Loop(send)
    send_loop = make_send_loop(sender, concurrency=8)
    send_loop.submit(claims(500), valid_until=later())
    assert set(collect(send_loop, 500)) == set(range(1, 501))
    assert sorted(sender.sent) == list(range(1, 501))
    assert sender.most == send_loop.limit == 8


def test_a_claim_that_is_too_old_is_not_used(make_send_loop):
    sender = Loop()
    send_loop = make_send_loop(sender)
    send_loop.submit(claims(3), valid_until=uptime() - 0.001)
    assert all(isinstance(result, NotSent) for result in collect(send_loop, 3).values())
    assert sender.sent == []


def test_a_claim_that_grows_too_old_during_a_pause_is_not_used(make_send_loop):
    async def send(row, wait):
        return RateLimited(retry_after=0.4, cause=RuntimeError("429")) if row.number == 1 else GOOD

    sender = Loop(send)
    send_loop = make_send_loop(sender, concurrency=1)
    send_loop.submit(claims(2), valid_until=uptime() + 0.2)
    found = collect(send_loop, 2)
    assert isinstance(found[1], RateLimited)
    assert isinstance(found[2], NotSent)
    assert sender.sent == [1]


def test_what_nobody_has_begun_with_can_be_taken_back(make_send_loop):
    async def send(row, wait):
        await asyncio.to_thread(release.wait, ENDS)
        return GOOD

    release, sender = threading.Event(), Loop(send)
    send_loop = make_send_loop(sender, concurrency=1)
    send_loop.submit(claims(10), valid_until=later())
    while not sender.sent:
        time.sleep(0.01)
    send_loop.stop_sending()
    back = {claim.row.number for claim in send_loop.take_back()}
    release.set()
    found = collect(send_loop, 10 - len(back))
    assert found[1] is GOOD
    assert set(found) | back == set(range(1, 11))
    assert sender.sent == [1]


def test_after_a_halt_nothing_more_leaves(make_send_loop):
    async def send(row, wait):
        return Abort(cause=RuntimeError("halt")) if row.number == 3 else GOOD

    sender = Loop(send)
    send_loop = make_send_loop(sender, concurrency=1)
    send_loop.submit(claims(100), valid_until=later())
    found = collect(send_loop, 100)
    assert send_loop.has_stopped
    assert sender.sent == [1, 2, 3]
    assert sum(isinstance(result, NotSent) for result in found.values()) == 97


@pytest.mark.parametrize("concurrency", [1, 4])
def test_after_ten_doubts_in_a_row_nothing_more_leaves(make_send_loop, concurrency):
    """Nobody takes in the results meanwhile."""

    async def send(row, wait):
        await asyncio.sleep(0.001)
        return GOOD if row.number == 5 else doubt

    doubt = Uncertain(outcome=Outcome(state=State.PARKED), cause=RuntimeError("no answer"))
    sender = Loop(send)
    send_loop = make_send_loop(sender, concurrency=concurrency)
    send_loop.submit(claims(100), valid_until=later())
    end = time.monotonic() + ENDS
    while not send_loop.has_stopped:
        assert time.monotonic() < end
        time.sleep(0.01)
    found = collect(send_loop, 100)
    assert 15 <= len(sender.sent) <= 15 + 2 * concurrency
    assert sum(isinstance(result, Uncertain) for result in found.values()) == len(sender.sent) - 1


def test_connections_are_closed_in_the_loop_when_all_is_over(make_send_loop):
    sender = Loop()
    send_loop = make_send_loop(sender)
    send_loop.submit(claims(5), valid_until=later())
    collect(send_loop, 5)
    assert sender.closed == []
    send_loop.dismiss()
    assert not send_loop._thread.is_alive()
    assert sender.closed == ["usage"]


def test_dismissed_it_does_not_wait_for_a_request_that_hangs(make_send_loop, monkeypatch):
    monkeypatch.setattr(send_loop_module, "_JOIN_TIMEOUT", ENDS)

    async def send(row, wait):
        await asyncio.to_thread(release.wait, ENDS)
        return GOOD

    release, sender = threading.Event(), Loop(send)
    send_loop = make_send_loop(sender)
    send_loop.submit(claims(1), valid_until=later())
    while not sender.sent:
        time.sleep(0.01)
    began = time.monotonic()
    send_loop.dismiss()
    assert time.monotonic() - began < ENDS / 2
    release.set()


def test_a_loop_that_breaks_down_is_told_once(make_send_loop, monkeypatch):
    async def broken(self):
        raise OSError("no more memory")

    monkeypatch.setattr(SendLoop, "_next_claim", broken)
    send_loop = make_send_loop(Loop())
    send_loop.submit(claims(2), valid_until=later())
    with pytest.raises(OSError, match="no more memory"):
        list(send_loop.results(timeout=ENDS))
    assert send_loop.has_stopped
    assert list(send_loop.results(timeout=0)) == []
    assert len(send_loop.take_back()) == 2
    send_loop.stop_sending()


def test_the_other_thread_is_woken_once_for_many_rows(make_send_loop, monkeypatch):
    async def send(row, wait):
        await asyncio.sleep(0.002)
        return GOOD

    send_loop = make_send_loop(Loop(send), concurrency=32)
    woken = 0
    send_loop.submit(claims(3000), valid_until=later())
    found = 0
    while found < 3000:
        found += len(list(send_loop.results(timeout=ENDS)))
        woken += 1
    assert woken < 3000 / 5


def test_a_row_out_of_the_ordinary_is_told_at_once(make_send_loop):
    """Others are still waiting, and only few results are there."""

    async def send(row, wait):
        if row.number == 1:
            return RateLimited(retry_after=0.0, cause=RuntimeError("429"))
        await asyncio.to_thread(release.wait, ENDS)
        return GOOD

    release = threading.Event()
    send_loop = make_send_loop(Loop(send), concurrency=16)
    send_loop._limiter._limit = 16.0
    send_loop.submit(claims(64), valid_until=later())
    began = time.monotonic()
    [(claim, result)] = send_loop.results(timeout=ENDS)
    assert claim.row.number == 1
    assert isinstance(result, RateLimited)
    assert time.monotonic() - began < ENDS / 2
    release.set()


@pytest.mark.parametrize("state", [None, *State])
def test_a_refusal_settles_only_rows_that_were_never_in_doubt(make_send_loop, state):
    refusal = Outcome(state=State.REJECTED, http_status=422, error_code="KEY_REUSED", detail="the key is known")

    async def send(row, wait):
        return refusal

    [claim] = claims(1)
    if state is not None:
        held = Outcome(state=state, detail="earlier")
        entry = Entry(state=state, worker=make_worker(), lease_until=0, digest="", attempts=1, outcome=held)
        claim = replace(claim, entry=entry)
    send_loop = make_send_loop(Loop(send))
    send_loop.submit([claim], valid_until=later())
    found = collect(send_loop, 1)[1]
    if state in (State.SENDING, State.UNKNOWN, State.PARKED):
        assert (found.state, found.http_status, found.error_code) == (State.PARKED, 422, "KEY_REUSED")
        assert "the key is known" in found.detail
    else:
        assert found is refusal


def test_rows_that_are_refused_while_in_doubt_do_not_stop_the_sending(make_send_loop):
    """The API is well, and its answers are clear."""

    async def send(row, wait):
        return Outcome(state=State.REJECTED, http_status=409)

    held = Entry(
        state=State.UNKNOWN, worker=make_worker(), lease_until=0, digest="", attempts=1, outcome=Outcome(state=State.UNKNOWN)
    )
    send_loop = make_send_loop(Loop(send), concurrency=1)
    send_loop.submit([replace(claim, entry=held) for claim in claims(40)], valid_until=later())
    assert {result.state for result in collect(send_loop, 40).values()} == {State.PARKED}
    assert not send_loop.has_stopped


@pytest.mark.parametrize(
    ("passes", "renewals", "goes_on"),
    [
        (50, [], True),
        (56, [], False),
        (100, [20, 40, 60, 80], True),
        (100, [20, 40], False),
        (100, [54, 99], True),
        # The process stood still for longer than a lease, and then renewed what others may have had by then.
        (100, [20, 90], False),
        (100, [60, 80], False),
        (100_000, [99_999], False),
    ],
)
def test_between_two_tries_a_claim_must_have_been_valid_without_a_gap(make_send_loop, monkeypatch, passes, renewals, goes_on):
    async def send(row, wait):
        for moment in renewals:
            clock.now = moment
            send_loop.renew(valid_until=moment + 55)
        clock.now = passes
        try:
            await wait(0)
        except SendingStoppedError:
            return Outcome(state=State.UNKNOWN)
        return GOOD

    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(send_loop_module, "uptime", lambda: clock.now)
    send_loop = make_send_loop(Loop(send))
    send_loop.submit(claims(1), valid_until=55.0)
    assert (collect(send_loop, 1)[1] is GOOD) == goes_on
