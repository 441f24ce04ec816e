# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The event loop that talks to the API, in a thread of its own, and what it brings back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from limio_limitrail.usage.clock import uptime
from limio_limitrail.usage.concurrency_limit import AdaptiveConcurrencyLimiter
from limio_limitrail.usage.ledger.ledger import Claim
from limio_limitrail.usage.ledger.model import Outcome, State, UsageRow
from limio_limitrail.usage.ledger.rules import resolve
from limio_limitrail.usage.repeated_refusals import Refusals


class EndedError(Exception):
    """Raised out of a wait between two tries, when nothing more is to be sent, or not by this claim."""


@dataclass(frozen=True, kw_only=True)
class RateLimited:
    """The API has refused a row because there were too many: it is to be sent later.

    :param retry_after: seconds that the API asked to wait.
    :param cause: what it said.
    """

    retry_after: float | None
    cause: Exception


@dataclass(frozen=True, kw_only=True)
class Abort:
    """A row has certainly not been carried out, and no other will be for the same reason.

    :param cause: the reason.
    """

    cause: Exception


@dataclass(frozen=True, kw_only=True)
class Uncertain:
    """A row without a clear answer.

    :param outcome: how it stands in the ledger.
    :param cause: what happened.
    :param adds_up: whether such doubts count together, whatever clear answers come in between.
    """

    outcome: Outcome
    cause: Exception
    adds_up: bool = False


@dataclass(frozen=True, kw_only=True)
class Provisional(Outcome):
    """An outcome that is looked at once more when it is written down.

    :param recheck: says what becomes of it then; None where it stands. Called in another thread.
    """

    recheck: Callable[[], Uncertain | None] = field(compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A row that was refused like so many before it that no other is sent.

    :param outcome: how it stands in the ledger.
    :param cause: what to say of all of them.
    """

    outcome: Outcome
    cause: Exception


class NotSent:
    """A row that comes back without having been sent."""


Result = Outcome | Uncertain | Refused | RateLimited | Abort
Wait = Callable[[float], Awaitable[None]]
"""Waits that many seconds; raises `EndedError` when nothing more is to be sent, or not by this claim."""

_ENDS = 1.0
"""Seconds in which a loop without requests under way ends."""


class Sender(Protocol):
    """Sends rows, all in one event loop."""

    async def __call__(self, row: UsageRow, wait: Wait, /) -> Result:
        """Send a row.

        :param wait: waits between two tries; its `EndedError` may be let through where the row has certainly not been carried
            out.
        """

    async def close(self) -> None:
        """Close all connections."""


class SendLoop:
    """Sends rows, as many at once as the API bears.

    One thread gives rows and takes results; another one has an event loop, in which the rows are sent. They wake each other once
    for many rows.

    :param sender: sends rows.
    :param concurrency: the most requests at once.
    :param in_doubt: how a row stands whose sending broke in a way that nobody foresaw.
    :param most_doubts: so many rows in a row without a clear answer, or so many doubts that add up, and nothing more is sent.
    :param refusals: counts equal refusals, and says when nothing more is sent because of them.
    """

    def __init__(self, *, sender: Sender, concurrency: int, in_doubt: State, most_doubts: int, refusals: Refusals) -> None:
        self._sender = sender
        self._concurrency = concurrency
        self._in_doubt = in_doubt
        self._most_doubts = most_doubts
        self._refusals = refusals
        self._doubts = self._added_up = 0
        self._pace = AdaptiveConcurrencyLimiter(concurrency)
        self._todo: deque[tuple[Claim, float]] = deque()
        self._results: deque[tuple[Claim, Result | NotSent]] = deque()
        self._news = threading.Event()
        self._began = threading.Event()
        self._has_ended = False
        self._dismissed = False
        self._renewed_without_gap_since = float("inf")
        self._renewed_until = float("-inf")
        self._broken: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    @property
    def limit(self) -> int:
        """How many requests may be under way at once now."""
        return self._pace.limit

    @property
    def ended(self) -> bool:
        """True when nothing more is sent."""
        return self._has_ended

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        self._began.wait()

    def give(self, claims: Iterable[Claim], *, valid_until: float) -> None:
        """Hand rows over.

        :param valid_until: when the claims become too old to be used, in seconds of `uptime`.
        """
        self._todo.extend((claim, valid_until) for claim in claims)
        self._tell(self._rouse)

    def renew(self, *, valid_until: float) -> None:
        """Let claims be used for longer that were still valid: their leases have been renewed.

        :param valid_until: when they become too old after that.
        """
        now = uptime()
        if now > self._renewed_until:
            # The process stood still, or the database did: others may have taken what was claimed before.
            self._renewed_without_gap_since = now
        self._renewed_until = valid_until

    def results(self, *, policy: float) -> Iterator[tuple[Claim, Result | NotSent]]:
        """Give what has come back, waiting until it is worth while.

        :param policy: seconds.
        :raises Exception: the event loop has broken down.
        """
        if policy:
            self._news.wait(policy)
        self._news.clear()
        while self._results:
            yield self._results.popleft()
        if self._broken is not None:
            broken, self._broken = self._broken, None
            raise broken

    def end(self) -> None:
        """Send nothing more, from any thread. Requests under way go on; waits between two tries end."""
        self._has_ended = True
        self._tell(self._stop)

    def take_back(self) -> list[Claim]:
        """Give back what nobody has begun with: all may be waiting for answers."""
        claims = []
        with suppress(IndexError):
            while True:
                claims.append(self._todo.popleft()[0])
        return claims

    def dismiss(self) -> None:
        """Let the loop end after what is under way."""
        self.end()
        self._dismissed = True
        self._tell(self._rouse)
        if self._pace.under_way == 0:
            self._thread.join(_ENDS)

    def _tell(self, step: Callable[[], None]) -> None:
        """Have the loop do something, if it is there."""
        if self._began.is_set():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(step)

    # -- in the event loop -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._work_all())
        except Exception as error:  # noqa: BLE001 - raised where the results are waited for
            self._broken = error
        finally:
            self._has_ended = True
            self._began.set()
            self._news.set()

    async def _work_all(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._began.set()
        if self._has_ended:
            self._stop()
        try:
            await asyncio.gather(*(self._work() for _ in range(self._concurrency)))
        finally:
            await self._sender.close()

    async def _work(self) -> None:
        while (given := await self._next()) is not None:
            claim, valid_until = given
            result = await self._carry(claim, valid_until=valid_until)
            self._results.append((claim, result))
            # Whoever keeps the ledger is woken for many results together, unless one is out of the ordinary or nothing is left.
            if len(self._results) >= self._pace.limit or not self._todo or not isinstance(result, Outcome):
                self._news.set()

    async def _next(self) -> tuple[Claim, float] | None:
        """Wait for a row; none where no more will come."""
        while True:
            # The other thread may take rows back at any time.
            with suppress(IndexError):
                return self._todo.popleft()
            if self._dismissed:
                return None
            idle = self._loop.create_future()
            self._idle.append(idle)
            await idle

    def _rouse(self) -> None:
        for _ in range(len(self._idle) if self._dismissed else min(len(self._idle), len(self._todo))):
            self._idle.popleft().set_result(None)

    def _stop(self) -> None:
        self._pace.stop()
        self._ending.set()

    async def _carry(self, claim: Claim, *, valid_until: float) -> Result | NotSent:
        if not await self._pace.enter():
            return NotSent()
        began = time.monotonic()
        result: Result | NotSent
        if self._has_ended or uptime() > valid_until:
            # The process stood still: others may have taken this worker for dead.
            result = NotSent()
        else:

            async def wait(seconds: float) -> None:
                await self._wait(seconds)
                if not self._is_held(valid_until):
                    raise EndedError

            try:
                result = await self._sender(claim.row, wait)
            except EndedError:
                result = NotSent()
            except Exception as error:  # noqa: BLE001 - whether the row has left is not known, whatever it was
                outcome = Outcome(state=self._in_doubt, detail=f"{type(error).__name__} while it was sent")
                result = Uncertain(outcome=outcome, cause=error)
        match result:
            case Outcome():
                result = resolve(result, in_doubt=claim.in_doubt)
                self._doubts = 0
                self._pace.leave(began=began)
                if (refused := self._refusals.add(claim.row, result)) is not None:
                    # At once, as below.
                    self.end()
                    return Refused(outcome=result, cause=refused)
            case RateLimited():
                self._pace.refused(began=began, retry_after=result.retry_after)
            case Abort():
                # At once: until the thread with the ledger has heard of it, many more would be refused.
                self.end()
                self._pace.lost()
            case Uncertain():
                self._doubts += 1
                self._added_up += result.adds_up
                if max(self._doubts, self._added_up) >= self._most_doubts:
                    # At once, likewise: that thread counts the same doubts, and says why it gives up.
                    self.end()
                self._pace.lost()
            case _:
                self._pace.lost()
        return result

    def _is_held(self, valid_until: float) -> bool:
        """Say whether a claim has been valid without a gap."""
        now = uptime()
        return now <= valid_until or (valid_until >= self._renewed_without_gap_since and now <= self._renewed_until)

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)
        if self._has_ended:
            raise EndedError
