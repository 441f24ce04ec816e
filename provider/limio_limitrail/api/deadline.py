# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How long an answer may take and how large it may be where nobody says, and when a request has to be over: with each of its
tries, and with the token that it may need first."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

DEFAULT_TOTAL_TIMEOUT = 300.0
"""Seconds for one answer: a page of the 6 MB that Limio documents as its largest may come at 20 kB/s."""

DEFAULT_MAX_RESPONSE = 256_000_000
"""Bytes of one answer, decoded: forty times what Limio documents as its largest."""

_DEADLINE: ContextVar[float] = ContextVar("limio_limitrail.deadline", default=math.inf)


@contextmanager
def deadline_in(seconds: float) -> Iterator[None]:
    """Set a deadline for what is done inside, unless one that is set already comes first.

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
