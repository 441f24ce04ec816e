# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Send rows, each once: claim them in the ledger, send them, record their outcomes.

This thread reads and writes the ledger; the thread of `send_loop` sends requests.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from limio_limitrail.usage.garbage import rare_collections
from limio_limitrail.usage.interrupts import defer_sigalrm, uptime
from limio_limitrail.usage.ledger.claims import Claim
from limio_limitrail.usage.ledger.leases import LEASE
from limio_limitrail.usage.ledger.model import Outcome, UsageRow
from limio_limitrail.usage.ledger.rules import Policy
from limio_limitrail.usage.ledger.states import StoppedError
from limio_limitrail.usage.ledger.transactions import UnwrittenError
from limio_limitrail.usage.send_loop import (
    Abort,
    NotSent,
    Provisional,
    RateLimited,
    Refused,
    RepeatedRefusals,
    Result,
    SendLoop,
    Uncertain,
)
from limio_limitrail.usage.sender import COPIES_ARRIVE_WITHIN, UsageSender
from limio_limitrail.usage.summary import OutcomeCounts

if TYPE_CHECKING:
    from limio_limitrail.usage.ledger.ledger import Ledger
    from limio_limitrail.usage.ledger.previews import Previews

log = logging.getLogger("limio_limitrail.usage.ledger")

WRITE_AFTER = 0.5
"""Seconds after which an outcome is written, however few there are."""

MOST_DOUBTS = 10
"""Stop after so many consecutive rows without a clear answer: the API is down, or does not answer as expected."""

LONGEST_REFUSAL = 600.0
"""Stop after so many seconds of nothing but rate limiting (429)."""

KILL_TIMEOUT = 3.0
"""Seconds to wait for requests in flight when the task is told to stop: Airflow kills it after five."""

ABORT_TIMEOUT = 90.0
"""Seconds to wait for requests in flight when sending stops for another reason."""

_UNSURE = 5.0
"""Seconds before the end of a lease in which nothing is sent any more: a request takes a moment to get there."""

_PROGRESS_EVERY = 5.0
_POLL_INTERVAL = 0.1
_ASK_OTHERS_EVERY = 1.0


def _valid_until() -> float:
    """Return until when rows may be sent whose claims are made or renewed now, in seconds of `uptime`."""
    return uptime() + LEASE - _UNSURE


class UsageCommitter:
    """Commits the rows of one try of a task. Up to `max_rejected` equal refusals in the API's own words do not stop it."""

    def __init__(
        self,
        *,
        ledger: Ledger | Previews,
        policy: Policy,
        sender: UsageSender,
        concurrency: int,
        batch_size: int,
        label: str,
        max_rejected: int = 0,
    ) -> None:
        self._ledger = ledger
        self._policy = policy
        self._batch_size = batch_size
        self._label = label
        self._in_doubt = policy.on_unknown.in_doubt
        self._send_loop = SendLoop(
            sender=sender,
            concurrency=concurrency,
            in_doubt=self._in_doubt,
            most_doubts=MOST_DOUBTS,
            refusals=RepeatedRefusals(max_rejected=max_rejected, table=ledger.table, label=label),
        )
        self._killed = False
        self._pending: deque[UsageRow] = deque()
        self._in_flight: dict[str, Claim] = {}
        self._claimed_by_others: list[UsageRow] = []
        self._logged_others = False
        self._limit_reached = False
        self._unwritten: dict[str, tuple[UsageRow, Outcome]] = {}
        self._oldest_unwritten = 0.0
        self._abort_cause: Exception | None = None
        self._doubts = self._cumulative_doubts = 0
        self._rate_limited_since: float | None = None
        self._unsent: list[Claim] = []
        self.counts = OutcomeCounts(0, worker=ledger.worker)
        self._began = self._logged_at = self._renewed_at = self._asked_others_at = time.monotonic()

    def stop(self) -> None:
        """Stop soon. Safe in a signal handler: it takes no lock, and the loop checks the flag ten times a second."""
        self._killed = True

    def run(self, rows: Iterable[UsageRow], *, total: int) -> OutcomeCounts:
        """Send what is to be sent, and return the counts of all rows.

        :param rows: rows with different keys.
        :raises StoppedError: `stop` was called.
        :raises Exception: the reason to stop early; outcomes are written, and rows that were not sent are free for another try.
        """
        self.counts = OutcomeCounts(total, worker=self._ledger.worker)
        with defer_sigalrm(self.stop), rare_collections():
            self._run(iter(rows))
        if self._abort_cause is not None:
            raise self._abort_cause
        return self.counts

    def _run(self, rows: Iterator[UsageRow]) -> None:
        self._send_loop.start()
        try:
            self._loop(rows)
            self._finish(ABORT_TIMEOUT)
        except BaseException:
            # Whatever it was (an interrupt, a lost database): outcomes are written if that is possible.
            with suppress(Exception):
                self._finish(KILL_TIMEOUT)
            raise
        finally:
            self._send_loop.dismiss()

    def _loop(self, rows: Iterator[UsageRow]) -> None:
        more = True
        while self._abort_cause is None and (more or self._pending or self._in_flight or self._claimed_by_others):
            if self._killed:
                self._finish(KILL_TIMEOUT)
                raise StoppedError(f"{self._label}: stopped after {self.counts.done:,} of {self.counts.rows:,} rows")
            if more and len(self._pending) < self._max_claimed():
                more = self._read_more(rows)
            if self._pending and len(self._in_flight) < self._max_in_flight():
                # Of those beyond the limit nothing is sent that could be left in doubt.
                most = self._batch_size if self._limit_reached else min(self._batch_size, self._max_claimed())
                self._claim([self._pending.popleft() for _ in range(min(most, len(self._pending)))])
            elif self._limit_reached and not (more or self._pending or self._in_flight):
                # Whatever becomes of the rows that others are sending, this run sends none of them.
                self._leave(self._claimed_by_others)
                self._claimed_by_others = []
            elif (
                not (more or self._pending)
                and self._claimed_by_others
                and time.monotonic() - self._asked_others_at > _ASK_OTHERS_EVERY
            ):
                self._asked_others_at = time.monotonic()
                most = min(self._batch_size, self._max_claimed())
                waiting, self._claimed_by_others = self._claimed_by_others[:most], self._claimed_by_others[most:]
                self._claim(waiting)
            busy = len(self._in_flight) >= self._max_in_flight() or not (more or self._pending)
            self._collect(_POLL_INTERVAL if busy else 0)
            self._write_if_due()
            self._renew_if_due()
            self._log_progress()

    def _read_more(self, rows: Iterator[UsageRow]) -> bool:
        """Read further rows, and count those that are settled; return False at the end."""
        further = list(islice(rows, self._batch_size))
        settled = self._ledger.settled(further, policy=self._policy) if further else {}
        for row in further:
            if row.key in settled:
                self.counts.add_settled(row, settled[row.key])
            else:
                self._pending.append(row)
        return bool(further)

    def _max_claimed(self) -> int:
        """Return how many rows to claim together: few, because a crash leaves all of them in doubt."""
        return 4 * self._send_loop.limit

    def _max_in_flight(self) -> int:
        """Return how many claimed rows keep the sender busy while the ledger is written."""
        return self._max_claimed() + self._lead()

    def _max_unwritten(self) -> int:
        """Return how many outcomes are written together, whatever their age."""
        return min(self._batch_size, 2 * self._max_claimed()) - self._lead()

    def _lead(self) -> int:
        """Return how many rows are claimed early; outcomes are written early by as many, so that no more rows are in doubt."""
        return min(self._max_claimed(), self._batch_size) // 2

    def _claim(self, rows: list[UsageRow], *, known: dict[str, Claim] | None = None) -> None:
        if not rows:
            return
        valid_until = _valid_until()
        granted = []
        for claim in self._ledger.claim(rows, policy=self._policy):
            if claim.granted:
                # A row that is claimed again keeps its first entry, unless another worker has written one in between.
                if claim.entry is None and known and claim.row.key in known:
                    claim = replace(claim, entry=known[claim.row.key].entry)
                self._in_flight[claim.row.key] = claim
                granted.append(claim)
            elif claim.left:
                self._leave([claim.row])
            elif claim.waits:
                if not self._logged_others:
                    self._logged_others = True
                    log.info("%s: another worker is sending some of these rows; they are checked again at the end.", self._label)
                self._claimed_by_others.append(claim.row)
            else:
                assert claim.entry is not None
                self.counts.add_settled(claim.row, claim.entry)
        self._send_loop.submit(granted, valid_until=valid_until)

    def _leave(self, rows: Collection[UsageRow]) -> None:
        """Count rows that are beyond the limit."""
        self._limit_reached = True
        self.counts.left_for_later += len(rows)

    def _collect(self, timeout: float) -> None:
        for claim, result in self._send_loop.results(timeout=timeout):
            self._handle(claim, result)

    def _handle(self, claim: Claim, result: Result | NotSent) -> None:
        match result:
            case Outcome():
                self._doubts = 0
                self._rate_limited_since = None
                self._add_outcome(claim, result)
            case Uncertain():
                self._add_outcome(claim, result.outcome)
                self._count_doubt(result)
            case Refused():
                self._add_outcome(claim, result.outcome)
                self._abort(result.cause)
            case RateLimited():
                self._rate_limited_since = self._rate_limited_since or time.monotonic()
                if time.monotonic() - self._rate_limited_since > LONGEST_REFUSAL:
                    self._abort(result.cause)
                self._claim_again(claim)
            case Abort():
                self._abort(result.cause)
                self._unsent.append(self._in_flight.pop(claim.row.key))
            case NotSent():
                self._claim_again(claim)

    def _claim_again(self, claim: Claim) -> None:
        del self._in_flight[claim.row.key]
        if self._send_loop.has_stopped:
            self._unsent.append(claim)
            return
        try:
            # Claimed again, because the claim may have expired in the meantime.
            self._claim([claim.row], known={claim.row.key: claim})
        except BaseException:
            self._unsent.append(claim)
            raise

    def _count_doubt(self, doubt: Uncertain) -> None:
        self._doubts += 1
        self._cumulative_doubts += doubt.adds_up
        if max(self._doubts, self._cumulative_doubts) >= MOST_DOUBTS:
            self._abort(doubt.cause)

    def _abort(self, cause: Exception) -> None:
        self._abort_cause = self._abort_cause or cause
        self._send_loop.stop_sending()

    def _add_outcome(self, claim: Claim, outcome: Outcome) -> None:
        if not self._unwritten:
            self._oldest_unwritten = time.monotonic()
        # In this order, because an interrupt may be raised between any two steps.
        self._unwritten[claim.row.key] = (claim.row, outcome)
        self._in_flight.pop(claim.row.key, None)

    def _write_if_due(self) -> None:
        if self._unwritten and (
            len(self._unwritten) >= self._max_unwritten()
            or time.monotonic() - self._oldest_unwritten > WRITE_AFTER
            or not self._in_flight
        ):
            self._write()

    def _write(self) -> None:
        provisional = {key: outcome for key, (_, outcome) in self._unwritten.items() if isinstance(outcome, Provisional)}
        if provisional and not self._in_flight:
            time.sleep(COPIES_ARRIVE_WITHIN)
        for key, outcome in provisional.items():
            if (doubt := outcome.recheck()) is not None:
                self._unwritten[key] = (self._unwritten[key][0], doubt.outcome)
                self._count_doubt(doubt)
        answered = self._unwritten
        try:
            self._ledger.record({key: outcome for key, (_, outcome) in answered.items()})
        except UnwrittenError as error:
            self._count_written(answered, but=error.keys)
            raise
        self._count_written(answered)

    def _count_written(self, answered: Mapping[str, tuple[UsageRow, Outcome]], *, but: Collection[str] = ()) -> None:
        self._unwritten = {key: answered[key] for key in but}
        for key, (row, outcome) in answered.items():
            if key not in but:
                self.counts.add(row, outcome)

    def _renew_if_due(self) -> None:
        """Send the heartbeat: extend the leases of the rows in flight."""
        if time.monotonic() - self._renewed_at > LEASE / 3:
            self._renewed_at = time.monotonic()
            valid_until = _valid_until()
            self._ledger.renew(list(self._in_flight))
            self._send_loop.renew(valid_until=valid_until)

    def _finish(self, timeout: float) -> None:
        """Stop sending, wait for requests in flight, write outcomes, and release claims that were not sent."""
        self._send_loop.stop_sending()
        for key in self._unwritten:
            self._in_flight.pop(key, None)
        for claim in self._send_loop.take_back():
            self._unsent.append(self._in_flight.pop(claim.row.key, claim))
        began = time.monotonic()
        while self._in_flight and time.monotonic() < began + (KILL_TIMEOUT if self._killed else timeout):
            self._collect(_POLL_INTERVAL)
            self._write_if_due()
            if timeout > KILL_TIMEOUT:
                self._renew_if_due()
        for claim in list(self._in_flight.values()):
            self._add_outcome(claim, Outcome(state=self._in_doubt, detail="the task was told to stop before an answer came"))
        try:
            self._write()
        except Exception:
            answers = [f"{row}: {outcome.state}" for row, outcome in self._unwritten.values()]
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

    def _log_progress(self) -> None:
        now = time.monotonic()
        if now - self._logged_at < _PROGRESS_EVERY:
            return
        self._logged_at = now
        rate = self.counts.done / max(now - self._began, 0.001)
        left = (self.counts.rows - self.counts.done) / rate if rate else 0.0
        counts = ", ".join(f"{count:,} {state}" for state, count in sorted(self.counts.states.items()))
        log.info(
            "%s: %s of %s rows (%s); %s rows/s, about %s left; %d at once.",
            self._label,
            f"{self.counts.done:,}",
            f"{self.counts.rows:,}",
            counts or "none yet",
            f"{rate:,.0f}",
            f"{left / 60:,.0f} min" if left >= 90 else f"{left:,.0f} s",
            self._send_loop.limit,
        )
