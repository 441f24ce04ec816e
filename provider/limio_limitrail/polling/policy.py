# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How long until the next look, and which failures are borne."""

from __future__ import annotations

import random
from dataclasses import dataclass

from limio_limitrail.api.errors import CursorRefusedError, RateLimitError, ServerError, TransportError

MOST_BACKOFF = 8
"""A look is put off to at most so many times the usual interval, unless the API asks for longer."""

LONGEST_ASKED = 86_400.0
"""Seconds that an API is waited for at most, whatever it asks: a clock that is wrong by years must not end a wait for years."""

JITTER = 0.1
"""Share of the interval by which a look is put off or made earlier, so that many waits do not look at once."""


@dataclass(frozen=True, kw_only=True)
class PollPolicy:
    """How patiently something is waited for.

    :param interval: seconds from one look to the next.
    """

    interval: float

    def may_pass(self, error: Exception) -> bool:
        """Tell whether a failure counts as "not yet": 429, 5xx, no answer, and a place in a list that was lost."""
        # A look is one try: tries that are spent are those of the request for a token, which the next look makes anew.
        return isinstance(error, ServerError | RateLimitError | TransportError | CursorRefusedError)

    def pause(self, *, failures: int = 0, retry_after: float | None = None) -> float:
        """Give the seconds until the next look.

        :param failures: how many there have been in a row.
        :param retry_after: seconds that the API asked to wait; no more than `LONGEST_ASKED` of them count.
        """
        seconds = self.interval * min(2.0 ** min(failures, 10), MOST_BACKOFF)
        seconds *= random.uniform(1 - JITTER, 1 + JITTER)  # nosec B311 # noqa: S311 - it spreads, it hides nothing
        return max(seconds, capped(retry_after) or 0.0)


def capped(retry_after: float | None) -> float | None:
    """Return the seconds that are waited where the API asked for some."""
    return None if retry_after is None else min(retry_after, LONGEST_ASKED)


def cap_note(retry_after: float | None) -> str:
    """Return the sentence that says so where the API asked for longer; empty where it did not."""
    if retry_after is None or retry_after <= LONGEST_ASKED:
        return ""
    return f" The API asked to wait {retry_after:.0f} s, of which at most {LONGEST_ASKED:.0f} s are waited."
