# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The event loop that sends rows in a thread of its own, and the results that it returns."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limio_limitrail.usage.concurrency_limit import AdaptiveConcurrencyLimiter
from limio_limitrail.usage.interrupts import uptime
from limio_limitrail.usage.ledger.claims import Claim
from limio_limitrail.usage.ledger.model import Outcome, UsageRow, describe_outcome
from limio_limitrail.usage.ledger.rules import resolve
from limio_limitrail.usage.ledger.states import PermanentUsageError, State
from limio_limitrail.usage.summary import MAX_DISTINCT

if TYPE_CHECKING:
    from limio_limitrail.usage.sender import UsageSender

MAX_UNEXPLAINED = 20
"""Rows in a row with the same status and no word of the API's own: a gateway or a proxy answers so, whatever the row."""

MAX_BEFORE_SUCCESS = 100
"""Rows in a row with the same refusal in the API's own words, where no row has succeeded yet."""

MAX_AFTER_SUCCESS = 1000
"""The same after a success: the path and the login are right then, and many rows of one account may come one after another."""


class SendingStoppedError(Exception):
    """Raised by a wait between two tries when sending has stopped, or the claim has expired."""


@dataclass(frozen=True, kw_only=True)
class RateLimited:
    """The API has rate-limited a row (429): it is to be sent later, after so many seconds if the API asked for them."""

    retry_after: float | None
    cause: Exception


@dataclass(frozen=True, kw_only=True)
class Abort:
    """A row has certainly not been carried out, and the same reason will stop all others."""

    cause: Exception


@dataclass(frozen=True, kw_only=True)
class Uncertain:
    """A row without a clear answer; those that add up count together, whatever clear answers come in between."""

    outcome: Outcome
    cause: Exception
    adds_up: bool = False


class Provisional(Outcome, frozen=True, kw_only=True):
    """An outcome that is checked once more when it is written, in another thread; `recheck` returns None if it is unchanged."""

    recheck: Callable[[], Uncertain | None]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A row that was refused like so many before it that sending stops."""

    outcome: Outcome
    cause: Exception


class NotSent:
    """A row that was not sent."""


Result = Outcome | Uncertain | Refused | RateLimited | Abort
Wait = Callable[[float], Awaitable[None]]
"""Waits that many seconds; raises `SendingStoppedError` when sending has stopped, or the claim has expired."""

_JOIN_TIMEOUT = 1.0
"""Seconds in which a loop without requests in flight ends."""


class SendLoop:
    """Sends rows, as many at once as the API bears.

    One thread submits rows and takes results; another one runs an event loop that sends the rows. Rows and results cross threads
    in batches, to limit wake-ups.

    :param in_doubt: the state of a row whose sending failed with an unexpected error.
    :param most_doubts: stop after so many consecutive rows without a clear answer, or so many doubts that add up.
    """

    def __init__(
        self, *, sender: UsageSender, concurrency: int, in_doubt: State, most_doubts: int, refusals: RepeatedRefusals
    ) -> None:
        self._sender = sender
        self._concurrency = concurrency
        self._in_doubt = in_doubt
        self._most_doubts = most_doubts
        self._refusals = refusals
        self._doubts = self._cumulative_doubts = 0
        self._limiter = AdaptiveConcurrencyLimiter(concurrency)
        self._queue: deque[tuple[Claim, float]] = deque()
        self._results: deque[tuple[Claim, Result | NotSent]] = deque()
        self._has_results = threading.Event()
        self._running = threading.Event()
        self.has_stopped = False
        """True when nothing more is sent."""
        self._dismissed = False
        self._renewed_without_gap_since = float("inf")
        self._renewed_until = float("-inf")
        self._broken: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    @property
    def limit(self) -> int:
        """The current limit of requests in flight."""
        return self._limiter.limit

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()
        self._running.wait()

    def submit(self, claims: Iterable[Claim], *, valid_until: float) -> None:
        """Queue rows whose claims expire at a time in seconds of `uptime`."""
        self._queue.extend((claim, valid_until) for claim in claims)
        self._call_in_loop(self._wake_workers)

    def renew(self, *, valid_until: float) -> None:
        """Extend the claims that are still valid: their leases have been renewed."""
        now = uptime()
        if now > self._renewed_until:
            # The process or the database was suspended: others may have taken what was claimed before.
            self._renewed_without_gap_since = now
        self._renewed_until = valid_until

    def results(self, *, timeout: float) -> Iterator[tuple[Claim, Result | NotSent]]:
        """Return the results so far, waiting for the first batch; raise the error if the event loop has broken down."""
        if timeout:
            self._has_results.wait(timeout)
        self._has_results.clear()
        while self._results:
            yield self._results.popleft()
        if self._broken is not None:
            broken, self._broken = self._broken, None
            raise broken

    def stop_sending(self) -> None:
        """Send nothing more. Requests in flight go on; waits between two tries end. Thread-safe."""
        self.has_stopped = True
        self._call_in_loop(self._stop_waiting)

    def take_back(self) -> list[Claim]:
        """Return the rows that are still queued."""
        claims = []
        with suppress(IndexError):
            while True:
                claims.append(self._queue.popleft()[0])
        return claims

    def dismiss(self) -> None:
        """End the loop after the requests in flight."""
        self.stop_sending()
        self._dismissed = True
        self._call_in_loop(self._wake_workers)
        if self._limiter.in_flight == 0:
            self._thread.join(_JOIN_TIMEOUT)

    def _call_in_loop(self, step: Callable[[], None]) -> None:
        """Call a function in the event loop, if it is running."""
        if self._running.is_set():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(step)

    # -- in the event loop -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._run_workers())
        except Exception as error:  # noqa: BLE001 - raised where the results are waited for
            self._broken = error
        finally:
            self.has_stopped = True
            self._running.set()
            self._has_results.set()

    async def _run_workers(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop_event = asyncio.Event()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._running.set()
        if self.has_stopped:
            self._stop_waiting()
        try:
            await asyncio.gather(*(self._run_worker() for _ in range(self._concurrency)))
        finally:
            await self._sender.close()

    async def _run_worker(self) -> None:
        while (item := await self._next_claim()) is not None:
            claim, valid_until = item
            result = await self._send(claim, valid_until=valid_until)
            self._results.append((claim, result))
            # The other thread is woken for many results together, unless one is unusual or nothing is left.
            is_due = len(self._results) >= self._limiter.limit or not self._queue or not isinstance(result, Outcome)
            if is_due and not self._has_results.is_set():
                self._has_results.set()

    async def _next_claim(self) -> tuple[Claim, float] | None:
        """Wait for a row; return None when no more will come."""
        while True:
            # The other thread may take rows back at any time.
            with suppress(IndexError):
                return self._queue.popleft()
            if self._dismissed:
                return None
            idle = self._loop.create_future()
            self._idle.append(idle)
            await idle

    def _wake_workers(self) -> None:
        for _ in range(len(self._idle) if self._dismissed else min(len(self._idle), len(self._queue))):
            self._idle.popleft().set_result(None)

    def _stop_waiting(self) -> None:
        self._limiter.stop()
        self._stop_event.set()

    async def _send(self, claim: Claim, *, valid_until: float) -> Result | NotSent:
        if not await self._limiter.acquire():
            return NotSent()
        began = time.monotonic()
        result: Result | NotSent
        if self.has_stopped or uptime() > valid_until:
            # The process was suspended, and the lease may have ended.
            result = NotSent()
        else:

            async def wait(seconds: float) -> None:
                await self._wait(seconds)
                if not self._is_valid(valid_until):
                    raise SendingStoppedError

            try:
                result = await self._sender(claim.row, wait)
            except SendingStoppedError:
                result = NotSent()
            except Exception as error:  # noqa: BLE001 - whether the row was sent is not known
                outcome = Outcome(state=self._in_doubt, detail=f"{type(error).__name__} while it was sent")
                result = Uncertain(outcome=outcome, cause=error)
        match result:
            case Outcome():
                result = resolve(result, in_doubt=claim.in_doubt)
                self._doubts = 0
                self._limiter.answered(began=began)
                if (refused := self._refusals.add(claim.row, result)) is not None:
                    # At once, before the other thread knows: many more would be refused meanwhile.
                    self.stop_sending()
                    return Refused(outcome=result, cause=refused)
            case RateLimited():
                self._limiter.rate_limited(began=began, retry_after=result.retry_after)
            case Abort():
                # At once, likewise.
                self.stop_sending()
                self._limiter.unanswered()
            case Uncertain():
                self._doubts += 1
                self._cumulative_doubts += result.adds_up
                if max(self._doubts, self._cumulative_doubts) >= self._most_doubts:
                    # At once, likewise: the other thread counts the same doubts, and raises the error.
                    self.stop_sending()
                self._limiter.unanswered()
            case _:
                self._limiter.unanswered()
        return result

    def _is_valid(self, valid_until: float) -> bool:
        """Return whether a claim has been valid without a gap."""
        now = uptime()
        return now <= valid_until or (valid_until >= self._renewed_without_gap_since and now <= self._renewed_until)

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop_event.wait(), seconds)
        if self.has_stopped:
            raise SendingStoppedError


class RepeatedRefusalError(PermanentUsageError):
    """Many rows in a row were refused in the same way, without one success. What was not sent is free; no retry can mend it."""


class RepeatedRefusals:
    """Counts equal refusals between two successes. Up to `max_rejected` of them in the API's own words never stop a task."""

    def __init__(self, *, max_rejected: int, table: str, label: str) -> None:
        self._max_rejected = max_rejected
        self._table = table
        self._label = label
        self._counts: Counter[tuple[int | None, str]] = Counter()
        self._examples: dict[tuple[int | None, str], str] = {}
        self._max_explained = MAX_BEFORE_SUCCESS

    def add(self, row: UsageRow, outcome: Outcome) -> RepeatedRefusalError | None:
        """Count an outcome, and return the error to stop with, if any."""
        if outcome.state in (State.COMMITTED, State.DENIED):
            self._counts.clear()
            self._examples.clear()
            self._max_explained = MAX_AFTER_SUCCESS
            return None
        # The refusal of a row that was in doubt is about that row alone: most likely its key is known.
        if outcome.state is not State.REJECTED:
            return None
        # The words of a gateway may differ from one answer to the next; the status is the same.
        explained = bool(outcome.error_code or outcome.resource_key or outcome.field)
        said = "" if outcome.http_status and not explained else describe_outcome(outcome)
        alike = (outcome.http_status, said)
        if alike not in self._examples and len(self._examples) >= MAX_DISTINCT:
            return None
        self._examples.setdefault(alike, str(row))
        self._counts[alike] += 1
        most = max(self._max_explained, self._max_rejected + 1) if explained else MAX_UNEXPLAINED
        if self._counts[alike] < most:
            return None
        return self._error(outcome, count=self._counts[alike], example=self._examples[alike], explained=explained)

    def _error(self, outcome: Outcome, *, count: int, example: str, explained: bool) -> RepeatedRefusalError:
        if explained or outcome.http_status is None:
            guess = (
                "So many equal refusals look like something that is wrong for all rows: check the path, the tenant and the "
                "accounts, or allow more with max_rejected=."
            )
        else:
            guess = (
                "The answers have no errorCode, so they look like those of a gateway, a proxy or a wrong path: check the "
                "connection's host and paths, path=, and what stands between the worker and the API."
            )
        return RepeatedRefusalError(
            f"{self._label}: {count:,} rows in a row were refused in the same way, without one success: "
            f"{describe_outcome(outcome)}; for example {example}. {guess} "
            f"The refused rows stand in {self._table}; the rest was not sent and is free. "
            "Then run the task once with replay='rejected'"
        )
