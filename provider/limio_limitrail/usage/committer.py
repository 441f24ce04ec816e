# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Send rows, each once: claim, send, write down. One thread keeps the ledger, another one talks to the API."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Protocol

from limio_limitrail.usage.clock import uptime
from limio_limitrail.usage.commit_summary import CommitSummary
from limio_limitrail.usage.ledger.ledger import LEASE, Claim
from limio_limitrail.usage.ledger.left_in_doubt import LeftInDoubt
from limio_limitrail.usage.ledger.model import Entry, Outcome, StoppedError, UsageRow, Worker
from limio_limitrail.usage.ledger.rules import Policy
from limio_limitrail.usage.ledger.write_fallbacks import UnwrittenError
from limio_limitrail.usage.repeated_refusals import Refusals
from limio_limitrail.usage.send_loop import Abort, NotSent, Provisional, RateLimited, Refused, Result, Sender, SendLoop, Uncertain
from limio_limitrail.usage.signals import defer_sigalrm

log = logging.getLogger("limio_limitrail.usage.ledger")

WRITE_AFTER = 0.5
"""Seconds after which an outcome is written down, however few there are."""

MOST_DOUBTS = 10
"""So many rows in a row without a clear answer, and the rest is not tried: the API is not well, or not as expected."""

LONGEST_REFUSAL = 600.0
"""Seconds of nothing but 429 after which the task gives up."""

KILL_PATIENCE = 3.0
"""Seconds to wait for answers that are on their way when the task is told to stop: Airflow kills it after five."""

HALT_PATIENCE = 90.0
"""Seconds to wait for answers that are on their way when the rest is not sent for another reason."""

_SETTLES = 0.02
"""Seconds in which the last answers may turn out to be other rows'."""

_PROGRESS_EVERY = 5.0
_POLL = 0.1
_ASK_OTHERS_EVERY = 1.0


class Book(Protocol):
    """Where claims and outcomes go: a `Ledger`, or what stands in its place."""

    @property
    def table(self) -> str:
        """The table's name."""

    @property
    def worker(self) -> Worker:
        """Who sends."""

    def left_in_doubt(self, among: Callable[[Sequence[str]], Collection[str]]) -> LeftInDoubt:
        """Count what stands in doubt and is not among the rows of this task."""

    def settled(self, rows: Sequence[UsageRow], *, policy: Policy) -> dict[str, Entry]:
        """Give the entries of those rows that are not to be sent."""

    def claim(self, rows: Sequence[UsageRow], *, policy: Policy) -> list[Claim]:
        """Claim rows to send them."""

    def record(self, outcomes: Mapping[str, Outcome]) -> None:
        """Write down what came of them."""

    def release(self, claims: Iterable[Claim]) -> None:
        """Give up claims whose rows have not been sent."""

    def renew(self, keys: Sequence[str]) -> None:
        """Give a sign of life for rows that are still on their way."""


class UsageCommitter:
    """One try of a task at its rows.

    :param ledger: where claims and outcomes go.
    :param policy: what to do with rows that have an entry.
    :param sender: sends rows, in an event loop of its own.
    :param concurrency: the most requests at once.
    :param batch_size: the most rows that are claimed, or written down, in one transaction.
    :param label: what the rows are called in the log.
    :param allowed: how many rows may be rejected; so many do not stop it, unless it looks like something before the API.
    """

    def __init__(
        self,
        *,
        ledger: Book,
        policy: Policy,
        sender: Sender,
        concurrency: int,
        batch_size: int,
        label: str,
        allowed: int = 0,
    ) -> None:
        self._ledger = ledger
        self._policy = policy
        self._batch_size = batch_size
        self._label = label
        self._in_doubt = policy.on_unknown.in_doubt
        self._couriers = SendLoop(
            sender=sender,
            concurrency=concurrency,
            in_doubt=self._in_doubt,
            most_doubts=MOST_DOUBTS,
            refusals=Refusals(allowed=allowed, table=ledger.table, label=label),
        )
        self._killed = False
        self._next: deque[UsageRow] = deque()
        self._flying: dict[str, Claim] = {}
        self._waiting: list[UsageRow] = []
        self._told_of_others = False
        self._answered: dict[str, tuple[UsageRow, Outcome]] = {}
        self._oldest_answer = 0.0
        self._halt: Exception | None = None
        self._doubts = self._added_up = 0
        self._refused_since: float | None = None
        self._unsent: list[Claim] = []
        self.tally = CommitSummary(0, worker=ledger.worker)
        self._began = self._said = self._renewed = self._asked_others = time.monotonic()

    def stop(self) -> None:
        """Tell it to stop. A signal handler may call this, so it takes no lock: the loop looks ten times a second."""
        self._killed = True

    def run(self, rows: Iterable[UsageRow], *, total: int) -> CommitSummary:
        """Send what is to be sent, and give how all rows stand.

        :param rows: rows with different keys.
        :param total: how many there are.
        :raises StoppedError: it was told to stop.
        :raises Exception: what made it give up; what had an answer is written down, what was not sent is free for another try.
        """
        self.tally = CommitSummary(total, worker=self._ledger.worker)
        with defer_sigalrm(self.stop):
            self._run(iter(rows))
        if self._halt is not None:
            raise self._halt
        return self.tally

    def _run(self, rows: Iterator[UsageRow]) -> None:
        self._couriers.start()
        try:
            self._loop(rows)
            self._end(HALT_PATIENCE)
        except BaseException:
            # Whatever it was (an interrupt, a database that is gone): what has an answer is written down if it can be.
            with suppress(Exception):
                self._end(KILL_PATIENCE)
            raise
        finally:
            self._couriers.dismiss()

    def _loop(self, rows: Iterator[UsageRow]) -> None:
        more = True
        while self._halt is None and (more or self._next or self._flying or self._waiting):
            if self._killed:
                self._end(KILL_PATIENCE)
                raise StoppedError(f"{self._label}: told to stop after {self.tally.done:,} of {self.tally.rows:,} rows")
            if more and len(self._next) < self._room():
                more = self._read_on(rows)
            if self._next and len(self._flying) < self._enough():
                most = min(self._batch_size, self._room(), len(self._next))
                self._claim([self._next.popleft() for _ in range(most)])
            elif not (more or self._next) and self._waiting and time.monotonic() - self._asked_others > _ASK_OTHERS_EVERY:
                self._asked_others = time.monotonic()
                most = min(self._batch_size, self._room())
                waiting, self._waiting = self._waiting[:most], self._waiting[most:]
                self._claim(waiting)
            busy = len(self._flying) >= self._enough() or not (more or self._next)
            self._collect(_POLL if busy else 0)
            self._write_if_due()
            self._renew_if_due()
            self._say()

    def _read_on(self, rows: Iterator[UsageRow]) -> bool:
        """Take in further rows, and count those that stand already; False where there are no more."""
        further = list(islice(rows, self._batch_size))
        settled = self._ledger.settled(further, policy=self._policy) if further else {}
        for row in further:
            if row.key in settled:
                self.tally.add_settled(row, settled[row.key])
            else:
                self._next.append(row)
        return bool(further)

    def _room(self) -> int:
        """Give how many rows to claim together: few, because a crash leaves all of them in doubt."""
        return 4 * self._couriers.limit

    def _enough(self) -> int:
        """Give how many claimed rows on their way are enough: the sending is not to stand still while the ledger is kept."""
        return self._room() + self._ahead()

    def _many(self) -> int:
        """Give how many answers are written down together, whatever their age."""
        return min(self._batch_size, 2 * self._room()) - self._ahead()

    def _ahead(self) -> int:
        """Give how many rows earlier a claim is made; answers are written earlier by as many, so that no more are in doubt."""
        return min(self._room(), self._batch_size) // 2

    def _claim(self, rows: list[UsageRow], *, known: dict[str, Claim] | None = None) -> None:
        if not rows:
            return
        valid_until = uptime() + LEASE - 5.0
        granted = []
        for claim in self._ledger.claim(rows, policy=self._policy):
            if claim.granted:
                # Unless another worker has had it in between: what that one left is what the claim replaces.
                if claim.entry is None and known and claim.row.key in known:
                    claim = replace(claim, entry=known[claim.row.key].entry)
                self._flying[claim.row.key] = claim
                granted.append(claim)
            elif claim.waits:
                if not self._told_of_others:
                    self._told_of_others = True
                    log.info(
                        "%s: another worker is sending some of these rows; they are looked at again at the end.", self._label
                    )
                self._waiting.append(claim.row)
            else:
                assert claim.entry is not None
                self.tally.add_settled(claim.row, claim.entry)
        self._couriers.give(granted, valid_until=valid_until)

    def _collect(self, policy: float) -> None:
        """Take in what has come back, waiting a moment for the first."""
        for claim, result in self._couriers.results(policy=policy):
            self._take_in(claim, result)

    def _take_in(self, claim: Claim, result: Result | NotSent) -> None:
        match result:
            case Outcome():
                self._doubts = 0
                self._refused_since = None
                self._answer(claim, result)
            case Uncertain():
                self._answer(claim, result.outcome)
                self._count(result)
            case Refused():
                self._answer(claim, result.outcome)
                self._give_up(result.cause)
            case RateLimited():
                self._refused_since = self._refused_since or time.monotonic()
                if time.monotonic() - self._refused_since > LONGEST_REFUSAL:
                    self._give_up(result.cause)
                self._again(claim)
            case Abort():
                self._give_up(result.cause)
                self._unsent.append(self._flying.pop(claim.row.key))
            case NotSent():
                self._again(claim)

    def _again(self, claim: Claim) -> None:
        del self._flying[claim.row.key]
        if self._couriers.ended:
            self._unsent.append(claim)
            return
        try:
            # Claimed anew, because the claim may have become too old in the meantime.
            self._claim([claim.row], known={claim.row.key: claim})
        except BaseException:
            self._unsent.append(claim)
            raise

    def _count(self, doubt: Uncertain) -> None:
        self._doubts += 1
        self._added_up += doubt.adds_up
        if max(self._doubts, self._added_up) >= MOST_DOUBTS:
            self._give_up(doubt.cause)

    def _give_up(self, cause: Exception) -> None:
        self._halt = self._halt or cause
        self._couriers.end()

    def _answer(self, claim: Claim, outcome: Outcome) -> None:
        if not self._answered:
            self._oldest_answer = time.monotonic()
        # In this order, because an interrupt is raised anywhere.
        self._answered[claim.row.key] = (claim.row, outcome)
        self._flying.pop(claim.row.key, None)

    def _write_if_due(self) -> None:
        if self._answered and (
            len(self._answered) >= self._many() or time.monotonic() - self._oldest_answer > WRITE_AFTER or not self._flying
        ):
            self._write()

    def _write(self) -> None:
        provisional = {key: outcome for key, (_, outcome) in self._answered.items() if isinstance(outcome, Provisional)}
        if provisional and not self._flying:
            time.sleep(_SETTLES)
        for key, answered_so in provisional.items():
            if (doubt := answered_so.recheck()) is not None:
                self._answered[key] = (self._answered[key][0], doubt.outcome)
                self._count(doubt)
        answered = self._answered
        try:
            self._ledger.record({key: outcome for key, (_, outcome) in answered.items()})
        except UnwrittenError as error:
            self._written(answered, but=error.keys)
            raise
        self._written(answered)

    def _written(self, answered: Mapping[str, tuple[UsageRow, Outcome]], *, but: Collection[str] = ()) -> None:
        self._answered = {key: answered[key] for key in but}
        for key, (row, outcome) in answered.items():
            if key not in but:
                self.tally.add(row, outcome)

    def _renew_if_due(self) -> None:
        if time.monotonic() - self._renewed > LEASE / 3:
            self._renewed = time.monotonic()
            valid_until = uptime() + LEASE - 5.0
            self._ledger.renew(list(self._flying))
            self._couriers.renew(valid_until=valid_until)

    def _end(self, policy: float) -> None:
        """Send no more, take in the answers that are on their way, write down what is known, and give back what was not sent."""
        self._couriers.end()
        for key in self._answered:
            self._flying.pop(key, None)
        for claim in self._couriers.take_back():
            self._unsent.append(self._flying.pop(claim.row.key, claim))
        began = time.monotonic()
        while self._flying and time.monotonic() < began + (KILL_PATIENCE if self._killed else policy):
            self._collect(_POLL)
            self._write_if_due()
            if policy > KILL_PATIENCE:
                self._renew_if_due()
        if self._flying:
            for claim in list(self._flying.values()):
                self._answer(claim, Outcome(state=self._in_doubt, detail="the task was told to stop before an answer came"))
        try:
            self._write()
        except Exception:
            answers = [f"{row}: {outcome.state}" for row, outcome in self._answered.values()]
            log.exception(
                "%s: the API has answered %d rows whose outcomes could not be written into %s. They stand there as sending: %s%s",
                self._label,
                len(answers),
                self._ledger.table,
                "; ".join(answers[:50]),
                " ..." if len(answers) > 50 else "",
            )
            raise
        self._ledger.release(self._unsent)
        self._unsent = []

    def _say(self) -> None:
        now = time.monotonic()
        if now - self._said < _PROGRESS_EVERY:
            return
        self._said = now
        rate = self.tally.done / max(now - self._began, 0.001)
        left = (self.tally.rows - self.tally.done) / rate if rate else 0.0
        counts = ", ".join(f"{count:,} {state}" for state, count in sorted(self.tally.states.items()))
        log.info(
            "%s: %s of %s rows (%s); %s rows/s, about %s left; %d at once.",
            self._label,
            f"{self.tally.done:,}",
            f"{self.tally.rows:,}",
            counts or "none yet",
            f"{rate:,.0f}",
            f"{left / 60:,.0f} min" if left >= 90 else f"{left:,.0f} s",
            self._couriers.limit,
        )
