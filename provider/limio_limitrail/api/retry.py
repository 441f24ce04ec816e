# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Retries, backoff and deadlines: which failures are retried, after what wait, and how long a request may take in all."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from limio_limitrail.api.errors import ApiError, RateLimitError, ServerError, TransportError
from limio_limitrail.lazy import lazy_pattern

if TYPE_CHECKING:
    from tenacity import RetryCallState

log = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_TOTAL_TIMEOUT = 300.0
"""Seconds for one response: a page of the 6 MB that Limio documents as its largest may come at 20 kB/s."""

DEFAULT_MAX_RESPONSE = 256_000_000
"""Bytes of one response, decoded: forty times what Limio documents as its largest."""

_DEADLINE: ContextVar[float] = ContextVar("limio_limitrail.deadline", default=math.inf)

_SECONDS = lazy_pattern(r"[0-9]+(\.[0-9]*)?(\s*,\s*[0-9]+(\.[0-9]*)?)*")
"""Seconds in a Retry-After header; some servers send fractions, or the header twice."""

TRANSIENT_STATUSES = frozenset({502, 503, 504})
"""Server errors that a retry may not meet. 502 has a limit of its own: see `RetryLimits`."""


class deadline_in:  # noqa: N801 - it is used like a function
    """Set a deadline, in seconds from now, for what is done inside; an earlier one that is set already stays.

    It is entered for each request, so it is no generator.
    """

    __slots__ = ("_seconds", "_token")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._token = _DEADLINE.set(min(_DEADLINE.get(), time.monotonic() + self._seconds))

    def __exit__(self, *_: object) -> None:
        _DEADLINE.reset(self._token)


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


class RetryLimits(msgspec.Struct, frozen=True, kw_only=True):
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
    def is_single_attempt(self) -> bool:
        """Whether nothing is retried."""
        return self.attempts == self.bad_gateway_attempts == self.rate_limit_attempts == 1

    @property
    def shortest_attempt(self) -> float:
        """Seconds that must be left for a further attempt: one that is cut short leaves a write in doubt, for nothing."""
        return min(self.budget / 10, 10.0)


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Return the seconds of a Retry-After header, never negative; None where there is no header or it cannot be read.

    :param value: the header: seconds, or an HTTP date.
    :param now: what a date is compared with: the response's own ``Date``, because the API's clock may differ; by default the
        worker's clock.
    """
    if value is None:
        return None
    value = value.strip()
    if _SECONDS.fullmatch(value):
        # Sent twice, it comes as a list. Nobody waits so long that more than twelve digits made a difference.
        return max(float(one.strip().lstrip("0")[:12] or 0) for one in value.split(","))
    when = parse_http_date(value)
    return None if when is None else max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def parse_http_date(value: str | None) -> datetime | None:
    """Return the instant of a header that holds an HTTP date; None where there is no header or it cannot be read."""
    try:
        when = parsedate_to_datetime(value or "")
        return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
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
    :param on_retry: called before each retry with the seconds until then.
    :raises ApiError: the last attempt's error, unchanged.
    """
    began = time.monotonic()
    with deadline_in(limits.budget):
        try:
            return call()
        except ApiError as error:
            policy = _policy_after(error, limits=limits, repeat=repeat, on_retry=on_retry, spent=time.monotonic() - began)
            if policy is None:
                raise
            resume = _resume_after(error, call)
        from tenacity import Retrying

        return Retrying(sleep=sleep, **policy)(resume)


async def call_with_retries_async(
    call: Callable[[], Awaitable[T]],
    *,
    limits: RetryLimits,
    repeat: Repeat = Repeat.ANY,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    on_retry: Callable[[float], None] = lambda _: None,
) -> T:
    """Make a call, and retry it as long as that can help: `call_with_retries` for an event loop."""
    began = time.monotonic()
    with deadline_in(limits.budget):
        try:
            return await call()
        except ApiError as error:
            policy = _policy_after(error, limits=limits, repeat=repeat, on_retry=on_retry, spent=time.monotonic() - began)
            if policy is None:
                raise
            resume = _resume_after(error, call)
        from tenacity import AsyncRetrying

        async def again() -> T:
            return await resume()

        return await AsyncRetrying(sleep=sleep, **policy)(again)


def _is_retryable(error: BaseException, *, repeat: Repeat) -> bool:
    if repeat is Repeat.ANY:
        return is_transient(error)
    return repeat is Repeat.IF_NOT_PROCESSED and is_not_processed(error)


def _resume_after(first: ApiError, call: Callable[[], T]) -> Callable[[], T]:
    """Return a call whose first attempt raises `first`: nearly all calls succeed at once, and need no tenacity."""
    failures = [first]

    def again() -> T:
        if failures:
            raise failures.pop()
        return call()

    return again


def _policy_after(
    first: ApiError, *, limits: RetryLimits, repeat: Repeat, on_retry: Callable[[float], None], spent: float
) -> dict[str, Any] | None:
    """Return tenacity's parameters after a first attempt that took so many seconds; None where it is not retried."""
    retryable = _is_retryable(first, repeat=repeat)
    if limits.is_single_attempt and repeat is not Repeat.NONE:
        first.retries_exhausted = first.retries_exhausted or retryable
        return None
    if not retryable:
        return None
    from tenacity import retry_if_exception, wait_random_exponential

    backoff = wait_random_exponential(multiplier=limits.first_wait, max=limits.longest_wait)

    def error_of(state: RetryCallState) -> ApiError:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, ApiError)  # nothing else is retried
        return error

    def wait(state: RetryCallState) -> float:
        asked = error_of(state).retry_after
        # No time at all, or one that has passed, is none that the API asks for.
        if not asked:
            # A floor keeps full jitter from turning a wait into none at all.
            return limits.first_wait / 2 + backoff(state)
        # Jitter is added: what the API asked for is a lower bound, and all of its clients got the same.
        return asked + random.uniform(0.0, 0.1 * asked + 0.1)  # nosec B311 # noqa: S311 - it spreads only

    def stop(state: RetryCallState) -> bool:
        error = error_of(state)
        asked = error.retry_after
        over = spent + (state.seconds_since_start or 0.0) + state.upcoming_sleep
        is_last = (
            state.attempt_number >= attempts_for(error, limits)
            or (asked is not None and asked > limits.longest_retry_after)
            or over > limits.budget - limits.shortest_attempt
            # An outer request's budget counts as well: that of the read which needs the token that is requested here.
            or state.upcoming_sleep > seconds_left()
        )
        # A request for a token has its own retries: the request that needs the token must not repeat them all.
        error.retries_exhausted = error.retries_exhausted or is_last
        return is_last

    def before_sleep(state: RetryCallState) -> None:
        on_retry(state.upcoming_sleep)
        log.warning("%s Trying again in %.1f s (try %d).", error_of(state), state.upcoming_sleep, state.attempt_number + 1)

    return {
        "retry": retry_if_exception(partial(_is_retryable, repeat=repeat)),
        "wait": wait,
        "stop": stop,
        "before_sleep": before_sleep,
        "reraise": True,
    }
