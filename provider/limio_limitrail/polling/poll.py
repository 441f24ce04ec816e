# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One poll: its result, its time limit, its retries and backoff. The same on a worker and in a triggerer."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.api.errors import ApiError, CursorRefusedError, ProtocolError, RateLimitError, ServerError, TransportError
from limio_limitrail.api.retry import RetryLimits
from limio_limitrail.troubleshooting import ExplainedError

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient

NO_RETRIES = RetryLimits(attempts=1, bad_gateway_attempts=1, rate_limit_attempts=1, budget=math.inf)
"""The next poll is the retry: within a poll, each request is sent once (a refused token aside)."""

LONGEST_POLL = 1800.0
"""Seconds for one poll, with all the pages of a list; or the connection's total_timeout, for one response, if that is longer."""

MAX_BACKOFF = 8
"""A poll is delayed to at most so many times the poke interval, unless the API asks for longer."""

MAX_RETRY_AFTER = 86_400.0
"""Seconds of a Retry-After that count: a server whose clock is wrong by years must not end a wait for years."""

JITTER = 0.1
"""Share of the interval by which a poll comes earlier or later, so that many waits do not poll at once."""

PERMANENT = 10
"""A failure that is not transient delays the next poll as so many transient ones in a row do."""

EVENT_FORMAT = 1
"""The format of the event that the trigger of a wait sends to its task."""


def longest_poll(client: ApiClient) -> float:
    """Return the seconds that one poll may take."""
    return max(LONGEST_POLL, client.transport.timeouts.total)


class PollStatus(StrEnum):
    """Whether a condition is met."""

    FOUND = "found"
    FAILED = "failed"
    """It cannot be met any more."""
    NOT_YET = "not_yet"


class PollResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one poll.

    :param summary: what the poll found, in one clause.
    :param result: what goes to XCom if the condition is met: small, and without personal data.
    """

    status: PollStatus
    summary: str
    result: Mapping[str, Any] | None = None


class EventKind(StrEnum):
    """What the event of a wait's trigger says."""

    FOUND = "found"
    TIMEOUT = "timeout"
    NO_ANSWER = "no_answer"
    ENDED = "ended"


class NoAnswerError(ExplainedError):
    """Too many polls in a row failed with transient errors. A retry of the task may succeed."""

    @classmethod
    def after(cls, failures: int, error: Exception) -> NoAnswerError:
        """Make the error."""
        return cls(f"{failures} polls in a row failed. The last one: {error}")


class PollTimeoutError(Exception):
    """A poll did not get a slot, or did not end, in time. It may still be running in its thread."""


class PollFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A failed poll, and what follows from it.

    :param is_transient: the next poll may succeed without anybody's help.
    :param count: failures in a row, with this one.
    :param is_last: the policy allows no more of them.
    :param retry_after: seconds that the API asked to wait, at most `MAX_RETRY_AFTER`.
    :param pause: seconds until the next poll.
    """

    message: str
    is_transient: bool
    count: int
    is_last: bool
    retry_after: float | None
    pause: float


class PollPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When to poll again, and which failures to retry: those that count as "not yet".

    :param poke_interval: seconds between two polls.
    :param max_transient_failures: transient failures in a row to retry; by default any number.
    :param also_transient: further errors that are transient.
    """

    poke_interval: float
    max_transient_failures: float = math.inf
    also_transient: tuple[type[Exception], ...] = ()

    def is_transient(self, error: Exception) -> bool:
        """Return whether a failure may pass by itself: 429, 5xx, no response, no slot in time, or a lost cursor."""
        # A poll has one attempt. Exhausted retries are those of the token request, which the next poll sends again.
        passing = (PollTimeoutError, ServerError, RateLimitError, TransportError, CursorRefusedError)
        return isinstance(error, (*passing, *self.also_transient))

    def failed(self, error: Exception, *, failures: int) -> PollFailure:
        """Return what follows from a failure, after so many others in a row."""
        from limio_limitrail.api.redact import safe_error

        is_transient = self.is_transient(error)
        count = failures + 1 if is_transient else max(failures, PERMANENT)
        asked = error.retry_after if isinstance(error, ApiError) else None
        message = str(error) if isinstance(error, ApiError | ValueError | PollTimeoutError) else safe_error(error)
        message = message if message.endswith(".") else f"{message}."
        if asked is not None and asked > MAX_RETRY_AFTER:
            message += f" The API asked to wait {asked:.0f} s, of which at most {MAX_RETRY_AFTER:.0f} s are waited."
        retry_after = capped(asked)
        return PollFailure(
            message=message,
            is_transient=is_transient,
            count=count,
            is_last=not is_transient or count > self.max_transient_failures,
            retry_after=retry_after,
            pause=self.pause(failures=count, retry_after=retry_after),
        )

    def pause(self, *, failures: int = 0, retry_after: float | None = None) -> float:
        """Return the seconds until the next poll: the interval, with exponential backoff and jitter.

        :param retry_after: seconds that the API asked to wait; at most `MAX_RETRY_AFTER` of them count.
        """
        seconds = self.poke_interval * min(2.0 ** min(failures, 10), MAX_BACKOFF)
        seconds *= random.uniform(1 - JITTER, 1 + JITTER)  # nosec B311 # noqa: S311 - it spreads, it hides nothing
        return max(seconds, capped(retry_after) or 0.0)


def wait_policy(*, poke_interval: float, max_transient_failures: int) -> PollPolicy:
    """Return the policy of a wait whose first poll had an answer: what a proxy, a login or a maintenance page answers in the
    API's place passes as well."""
    return PollPolicy(poke_interval=poke_interval, max_transient_failures=max_transient_failures, also_transient=(ProtocolError,))


def capped(retry_after: float | None) -> float | None:
    """Return the seconds to wait if the API asked for some."""
    return None if retry_after is None else min(retry_after, MAX_RETRY_AFTER)


class WaitSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a trigger waits for.

    :param poke_interval: seconds between two polls.
    :param deadline: when to give up, in seconds since 1970: the same however often the trigger is moved or restarted.
    :param failures: failures in a row before this trigger was made.
    :param not_before: until when the API does not want to be asked, in seconds since 1970.
    """

    condition: dict[str, Any]
    poke_interval: float
    deadline: float
    max_transient_failures: int
    failures: int = 0
    not_before: float = 0.0


def event_of(kind: EventKind, message: str, **more: Any) -> dict[str, Any]:
    """Return the payload of a trigger's event."""
    return {"format": EVENT_FORMAT, "kind": str(kind), "message": message, **more}
