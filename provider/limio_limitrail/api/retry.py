# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What is tried again, when, and for how long."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from limio_limitrail.api.deadline import deadline_in, seconds_left
from limio_limitrail.api.errors import ApiError, RateLimitError, ServerError, TransportError

if TYPE_CHECKING:
    from tenacity import RetryCallState

log = logging.getLogger(__name__)

T = TypeVar("T")

_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?(\s*,\s*[0-9]+(\.[0-9]*)?)*")
"""What a Retry-After header should hold, and what servers make of it."""

TRANSIENT_STATUSES = frozenset({502, 503, 504})
"""Server errors that another try may not meet. 502 has a bound of its own: see `RetryLimits`."""


class Repeat(StrEnum):
    """Which failures of a request may be followed by another try."""

    ANY = "any"
    """Whatever may pass by itself: reads, and writes whose idempotency key the API honours."""
    UNDONE = "undone"
    """Only what the API certainly has not acted on: 429, and requests that never reached it."""
    NONE = "none"
    """Nothing."""


@dataclass(frozen=True, kw_only=True)
class RetryLimits:
    """How patient one request is.

    :param attempts: tries in all on connect errors, timeouts, broken bodies, 503 and 504.
    :param bad_gateway_attempts: tries in all on 502, which Limio also answers for parameters that it cannot digest (Limio
        API documentation), so that more tries are seldom worth it.
    :param rate_limit_attempts: tries in all on 429.
    :param budget: seconds that one request may take with all its tries and waits. A try under way is cut short; none begins
        with less than a tenth of the budget left, or 10 seconds where that is less.
    :param first_wait: seconds of the first wait; each further one may be twice as long.
    :param longest_wait: seconds of the longest wait where the API does not say how long.
    :param longest_retry_after: seconds of Retry-After that are waited for here. Told to wait longer, the request gives up at
        once, so that the task can be rescheduled instead of holding a worker.
    """

    attempts: int = 5
    bad_gateway_attempts: int = 3
    rate_limit_attempts: int = 10
    budget: float = 600.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    longest_retry_after: float = 300.0

    @property
    def one_try(self) -> bool:
        """Whether nothing is tried again."""
        return self.attempts == self.bad_gateway_attempts == self.rate_limit_attempts == 1

    @property
    def shortest_try(self) -> float:
        """Seconds without which no further try begins: one that is cut short leaves a write in doubt, for nothing."""
        return min(self.budget / 10, 10.0)


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Read a Retry-After header: seconds, or an HTTP date.

    :param value: the header's text.
    :param now: what a date is compared with; the clock where it is left out.
    :returns: seconds to wait, never negative; none where there is no header or it cannot be read.
    """
    if value is None:
        return None
    value = value.strip()
    if _SECONDS.fullmatch(value):
        # Named twice, it comes as a list. Nobody waits for so long that more than twelve digits made a difference.
        return max(float(one.strip().lstrip("0")[:12] or 0) for one in value.split(","))
    try:
        when = parsedate_to_datetime(value)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def is_transient(error: BaseException) -> bool:
    """Tell whether another try of the same request may end otherwise."""
    if isinstance(error, ApiError) and error.retries_exhausted:
        return False
    if isinstance(error, ServerError):
        return error.status in TRANSIENT_STATUSES
    return isinstance(error, RateLimitError | TransportError)


def is_undone(error: BaseException) -> bool:
    """Tell whether a failure passes by itself and certainly left nothing done."""
    return (
        is_transient(error) and isinstance(error, ApiError) and (isinstance(error, RateLimitError) or not error.failure.reached)
    )


def attempts_for(error: BaseException, limits: RetryLimits) -> int:
    """Give the tries in all that an error of this kind is worth."""
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
    """Make a call, and make it again as long as that can help.

    :param call: the call; it must be safe to repeat as far as `repeat` says.
    :param limits: how often and how long.
    :param repeat: after which failures.
    :param sleep: waits that many seconds.
    :param on_retry: told before each further try, with the seconds until then.
    :raises ApiError: the last try's error, unchanged.
    """
    began = time.monotonic()
    with deadline_in(limits.budget):
        try:
            return call()
        except ApiError as error:
            if not _goes_on(error, limits=limits, repeat=repeat):
                raise
            rules = _rules(limits=limits, repeat=repeat, on_retry=on_retry, spent=time.monotonic() - began)
            calls = _after(error, call)
        from tenacity import Retrying

        return Retrying(sleep=sleep, **rules)(calls)


async def call_with_retries_async(
    call: Callable[[], Awaitable[T]],
    *,
    limits: RetryLimits,
    repeat: Repeat = Repeat.ANY,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    on_retry: Callable[[float], None] = lambda _: None,
) -> T:
    """Make a call, and make it again as long as that can help: `call_with_retries` for an event loop."""
    began = time.monotonic()
    with deadline_in(limits.budget):
        try:
            return await call()
        except ApiError as error:
            if not _goes_on(error, limits=limits, repeat=repeat):
                raise
            rules = _rules(limits=limits, repeat=repeat, on_retry=on_retry, spent=time.monotonic() - began)
            calls = _after(error, call)
        from tenacity import AsyncRetrying

        async def again() -> T:
            return await calls()

        return await AsyncRetrying(sleep=sleep, **rules)(again)


def _goes_on(error: ApiError, *, limits: RetryLimits, repeat: Repeat) -> bool:
    """Tell whether a first try that ended so is followed by another one."""
    passes = _passes(error, repeat=repeat)
    if limits.one_try and repeat is not Repeat.NONE:
        error.retries_exhausted = error.retries_exhausted or passes
        return False
    return passes


def _passes(error: BaseException, *, repeat: Repeat) -> bool:
    match repeat:
        case Repeat.ANY:
            return is_transient(error)
        case Repeat.UNDONE:
            return is_undone(error)
        case Repeat.NONE:
            return False


def _after(first: ApiError, call: Callable[[], T]) -> Callable[[], T]:
    """Give a call that begins with the first try's failure: nearly all calls succeed at once, and need no more than that."""
    failures = [first]

    def again() -> T:
        if failures:
            raise failures.pop()
        return call()

    return again


def _rules(*, limits: RetryLimits, repeat: Repeat, on_retry: Callable[[float], None], spent: float) -> dict[str, Any]:
    """Say what is tried again, when, and for how long.

    :param spent: seconds that the first try took.
    """
    from tenacity import retry_if_exception, wait_random_exponential

    backoff = wait_random_exponential(multiplier=limits.first_wait, max=limits.longest_wait)

    def error_of(state: RetryCallState) -> BaseException:
        error = state.outcome.exception() if state.outcome else None
        assert error is not None
        return error

    def wait(state: RetryCallState) -> float:
        error = error_of(state)
        # A floor keeps full jitter from turning a wait into none at all.
        seconds = limits.first_wait / 2 + backoff(state)
        if isinstance(error, ApiError) and error.retry_after is not None:
            # The jitter comes on top: what the API asked for is a lower bound, and all of its clients were told the same.
            return error.retry_after + random.uniform(0.0, 0.1 * error.retry_after + 0.1)  # nosec B311 # noqa: S311 - it spreads only
        return seconds

    def stop(state: RetryCallState) -> bool:
        error = error_of(state)
        if not is_last(state, error):
            return False
        if isinstance(error, ApiError):
            # A request for a token is tried again by itself: the request that needs the token must not repeat all of its tries.
            error.retries_exhausted = True
        return True

    def is_last(state: RetryCallState, error: BaseException) -> bool:
        if state.attempt_number >= attempts_for(error, limits):
            return True
        asked = error.retry_after if isinstance(error, ApiError) else None
        if asked is not None and asked > limits.longest_retry_after:
            return True
        over = spent + (state.seconds_since_start or 0.0) + state.upcoming_sleep
        # An outer request's budget counts as well: that of the read which needs the token that is asked for here.
        return over > limits.budget - limits.shortest_try or state.upcoming_sleep > seconds_left()

    def before_sleep(state: RetryCallState) -> None:
        on_retry(state.upcoming_sleep)
        log.warning("%s Trying again in %.1f s (try %d).", error_of(state), state.upcoming_sleep, state.attempt_number + 1)

    return {
        "retry": retry_if_exception(partial(_passes, repeat=repeat)),
        "wait": wait,
        "stop": stop,
        "before_sleep": before_sleep,
        "reraise": True,
    }
