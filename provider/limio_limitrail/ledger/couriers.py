# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The threads that talk to the API, and what they bring back."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from limio_limitrail.ledger.ledger import Claim
from limio_limitrail.ledger.model import Outcome, State, UsageRow
from limio_limitrail.ledger.pace import Pace


class EndedError(Exception):
    """Raised out of a wait between two tries, when nothing more is to be sent."""


@dataclass(frozen=True, kw_only=True)
class Slower:
    """The API has refused a row because there were too many: it is to be sent later.

    :param retry_after: seconds that the API asked to wait.
    :param cause: what it said.
    """

    retry_after: float | None
    cause: Exception


@dataclass(frozen=True, kw_only=True)
class Halt:
    """A row has certainly not been carried out, and no other will be for the same reason.

    :param cause: the reason.
    """

    cause: Exception


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """A row without a clear answer.

    :param outcome: how it stands in the ledger.
    :param cause: what happened.
    """

    outcome: Outcome
    cause: Exception


class Unsent:
    """A row that comes back without having been sent."""


Result = Outcome | Doubt | Slower | Halt
Send = Callable[[UsageRow, Callable[[float], None]], Result]
"""Sends a row, waiting between tries with the function that is given; that raises `EndedError`, which may be let through where
the row has certainly not been carried out."""


class Couriers:
    """Sends rows with as many threads as the API bears.

    :param send: sends one row; called by several threads.
    :param concurrency: the most requests at once.
    :param in_doubt: how a row stands whose sending broke in a way that nobody foresaw.
    """

    def __init__(self, *, send: Send, concurrency: int, in_doubt: State) -> None:
        self._send = send
        self._in_doubt = in_doubt
        self._pace = Pace(concurrency)
        self._todo: queue.SimpleQueue[tuple[Claim, float] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[Claim, Result | Unsent]] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._work, name=f"usage-{n}", daemon=True) for n in range(concurrency)]

    @property
    def limit(self) -> int:
        """How many requests may be under way at once now."""
        return self._pace.limit

    @property
    def ended(self) -> bool:
        """True when nothing more is sent."""
        return self._ended.is_set()

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def give(self, claim: Claim, *, valid_until: float) -> None:
        """Hand a row over.

        :param valid_until: when the claim becomes too old to be used, in seconds of the monotonic clock.
        """
        self._todo.put((claim, valid_until))

    def results(self, *, patience: float) -> Iterator[tuple[Claim, Result | Unsent]]:
        """Give what has come back, waiting for the first.

        :param patience: seconds.
        """
        with suppress(queue.Empty):
            yield self._results.get(timeout=patience) if patience else self._results.get_nowait()
            while True:
                yield self._results.get_nowait()

    def end(self) -> None:
        """Send nothing more, from any thread. Requests under way go on; waits between two tries end."""
        self._ended.set()
        self._pace.stop()

    def take_back(self) -> list[Claim]:
        """Give back what no thread has begun with: all of them may be waiting for answers."""
        claims = []
        with suppress(queue.Empty):
            while given := self._todo.get_nowait():
                claims.append(given[0])
        return claims

    def dismiss(self) -> None:
        """Let the threads end after what they are doing."""
        self.end()
        for _ in self._threads:
            self._todo.put(None)

    def _work(self) -> None:
        while (given := self._todo.get()) is not None:
            claim, valid_until = given
            if not self._pace.enter():
                self._results.put((claim, Unsent()))
                continue
            began = time.monotonic()
            result: Result | Unsent
            if began > valid_until:
                # The process stood still: others may have taken this worker for dead.
                result = Unsent()
            else:
                try:
                    result = self._send(claim.row, self._wait)
                except EndedError:
                    result = Unsent()
                except Exception as error:  # noqa: BLE001 - whether the row has left is not known, whatever it was
                    outcome = Outcome(state=self._in_doubt, detail=f"{type(error).__name__} while it was sent")
                    result = Doubt(outcome=outcome, cause=error)
            match result:
                case Slower():
                    self._pace.refused(began=began, retry_after=result.retry_after)
                case Outcome():
                    self._pace.leave(began=began)
                case Halt():
                    # At once: until the thread with the ledger has heard of it, many more would be refused.
                    self.end()
                    self._pace.lost()
                case _:
                    self._pace.lost()
            self._results.put((claim, result))

    def _wait(self, seconds: float) -> None:
        if self._ended.wait(seconds):
            raise EndedError
