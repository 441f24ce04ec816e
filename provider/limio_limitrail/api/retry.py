# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Retries, backoff and deadlines: which failures are retried, after what wait, and how long a request may take in all."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import TypeVar

from limio_limitrail.api.errors import ApiError, RateLimitError, ServerError, TransportError

log = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_TOTAL_TIMEOUT = 300.0
"""Seconds for one response: a page of the 6 MB that Limio documents as its largest may come at 20 kB/s."""

DEFAULT_MAX_RESPONSE = 256_000_000
"""Bytes of one response, decoded: forty times what Limio documents as its largest."""

_DEADLINE: ContextVar[float] = ContextVar("limio_limitrail.deadline", default=math.inf)

_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?(\s*,\s*[0-9]+(\.[0-9]*)?)*")
"""Seconds in a Retry-After header; some servers send fractions, or the header twice."""

TRANSIENT_STATUSES = frozenset({502, 503, 504})
"""Server errors that a retry may not meet. 502 has a limit of its own: see `RetryLimits`."""


@contextmanager
def deadline_in(seconds: float) -> Iterator[None]:
    """Set a deadline for what is done inside; one that is set already and is earlier stays.

    :param seconds: from now on.
    """
    token = _DEADLINE.set(min(_DEADLINE.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def seconds_left() -> float:
    """Return the seconds until the deadline; infinite where there is none, negative where it has passed."""
    return _DEADLINE.get() - time.monotonic()


class Repeat(StrEnum):
    """Which failures of a request are retried."""

    ANY = "any"
    """All transient ones: for reads, and writes whose idempotency key the API honours."""
    IF_NOT_PROCESSED = "if_not_processed"
    """Only those that the API certainly has not acted on: 429, and requests that never reached it."""
    NONE = "none"
    """Nothing."""


@dataclass(frozen=True, kw_only=True)
class RetryLimits:
    """How often and how long one request is retried.

    :param attempts: attempts in all on connect errors, timeouts, broken bodies, 503 and 504.
    :param bad_gateway_attempts: attempts in all on 502, which Limio also answers for parameters that it cannot digest (Limio
        API documentation), so that more are seldom worth it.
    :param rate_limit_attempts: attempts in all on 429.
    :param budget: seconds that one request may take with all its attempts and waits. The running attempt is cut short; none
        begins with less than a tenth of the budget left, or 10 seconds where that is less.
    :param first_wait: seconds of the first wait; each further one may be twice as long.
    :param longest_wait: seconds of the longest wait where the API does not say how long.
    :param longest_retry_after: the longest Retry-After, in seconds, that is waited for. If the API asks for more, the request
        fails at once, so that the task can be rescheduled instead of holding a worker.
    """

    attempts: int = 5
    bad_gateway_attempts: int = 3
    rate_limit_attempts: int = 10
    budget: float = 600.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    longest_retry_after: float = 300.0

    @property
    def shortest_attempt(self) -> float:
        """Seconds that must be left for a further attempt: one that is cut short leaves a write in doubt, for nothing."""
        return min(self.budget / 10, 10.0)


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Return the seconds of a Retry-After header, never negative; None where there is no header or it cannot be read.

    :param value: the header: seconds, or an HTTP date.
    :param now: what a date is compared with; by default the clock.
    """
    if value is None:
        return None
    value = value.strip()
    if _SECONDS.fullmatch(value):
        # Sent twice, it comes as a list. Nobody waits so long that more than twelve digits made a difference.
        return max(float(one.strip().lstrip("0")[:12] or 0) for one in value.split(","))
    try:
        when = parsedate_to_datetime(value)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def is_transient(error: BaseException) -> bool:
    """Return whether a retry of the same request may succeed."""
    if isinstance(error, ApiError) and error.retries_exhausted:
        return False
    if isinstance(error, ServerError):
        return error.status in TRANSIENT_STATUSES
    return isinstance(error, RateLimitError | TransportError)


def is_not_processed(error: BaseException) -> bool:
    """Return whether a failure is transient and the API certainly has not acted on the request."""
    return (
        is_transient(error) and isinstance(error, ApiError) and (isinstance(error, RateLimitError) or not error.context.reached)
    )


def attempts_for(error: BaseException, limits: RetryLimits) -> int:
    """Return how many attempts in all an error of this kind is worth."""
    if isinstance(error, RateLimitError):
        return limits.rate_limit_attempts
    if isinstance(error, ApiError) and error.status == 502:
        return limits.bad_gateway_attempts
    return limits.attempts


def call_with_retries(
    call: Callable[[], T],
    *,
    limits: RetryLimits,
    repeat: Repeat = Repeat.ANY,
    sleep: Callable[[float], None] = time.sleep,
    on_retry: Callable[[float], None] = lambda _: None,
) -> T:
    """Make a call, and retry it as long as that can help.

    :param call: the call; it must be safe to repeat as far as `repeat` says.
    :param limits: how often and how long.
    :param repeat: which failures are retried.
    :param sleep: waits that many seconds.
    :param on_retry: called before each retry with the seconds until then.
    :raises ApiError: the last attempt's error, unchanged.
    """
    began, attempt = time.monotonic(), 0
    with deadline_in(limits.budget):
        while True:
            attempt += 1
            try:
                return call()
            except ApiError as error:
                wait = _next_wait(error, attempt=attempt, began=began, limits=limits, repeat=repeat)
                if wait is None:
                    raise
                on_retry(wait)
                log.warning("%s Trying again in %.1f s (try %d).", error, wait, attempt + 1)
            sleep(wait)


async def call_with_retries_async(
    call: Callable[[], Awaitable[T]],
    *,
    limits: RetryLimits,
    repeat: Repeat = Repeat.ANY,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    on_retry: Callable[[float], None] = lambda _: None,
) -> T:
    """Make a call, and retry it as long as that can help: `call_with_retries` for an event loop."""
    began, attempt = time.monotonic(), 0
    with deadline_in(limits.budget):
        while True:
            attempt += 1
            try:
                return await call()
            except ApiError as error:
                wait = _next_wait(error, attempt=attempt, began=began, limits=limits, repeat=repeat)
                if wait is None:
                    raise
                on_retry(wait)
                log.warning("%s Trying again in %.1f s (try %d).", error, wait, attempt + 1)
            await sleep(wait)


def _is_retryable(error: BaseException, *, repeat: Repeat) -> bool:
    match repeat:
        case Repeat.ANY:
            return is_transient(error)
        case Repeat.IF_NOT_PROCESSED:
            return is_not_processed(error)
        case Repeat.NONE:
            return False


def _next_wait(error: ApiError, *, attempt: int, began: float, limits: RetryLimits, repeat: Repeat) -> float | None:
    """Return the seconds to wait before the next attempt: full jitter over an exponential backoff, or what the API asked for.

    :param attempt: the number of the attempt that failed, from 1.
    :param began: when the first attempt began, in monotonic seconds.
    :returns: None where there is no further attempt.
    """
    if not _is_retryable(error, repeat=repeat):
        return None
    backoff = min(limits.first_wait * 2.0 ** min(attempt - 1, 64), limits.longest_wait)
    # A floor keeps full jitter from turning a wait into none at all.
    wait = limits.first_wait / 2 + random.uniform(0.0, backoff)  # nosec B311 # noqa: S311 - it only spreads the retries
    if (asked := error.retry_after) is not None:
        # Jitter is added: what the API asked for is a lower bound, and all of its clients got the same.
        wait = asked + random.uniform(0.0, 0.1 * asked + 0.1)  # nosec B311 # noqa: S311 - likewise
    ends = time.monotonic() - began + wait
    # An outer request's deadline counts as well: that of the read which needs the token that is requested here.
    too_late = ends > limits.budget - limits.shortest_attempt or wait > seconds_left()
    if attempt < attempts_for(error, limits) and not too_late and (asked is None or asked <= limits.longest_retry_after):
        return wait
    # A request for a token has its own retries: the request that needs the token must not repeat them all.
    error.retries_exhausted = True
    return None
