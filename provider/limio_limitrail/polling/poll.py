# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One look at what is waited for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from limio_limitrail.api.retry import RetryLimits
from limio_limitrail.troubleshooting import ExplainedError

if TYPE_CHECKING:
    from limio_limitrail.api.client import ApiClient

ONE_TRY = RetryLimits(attempts=1, bad_gateway_attempts=1, rate_limit_attempts=1, budget=math.inf)
"""A look is made again at the next poll anyway: within one, nothing is tried twice (a refused token aside)."""

LONGEST_LOOK = 1800.0
"""Seconds for one look, with all the pages of a list; more where the connection's total_timeout, which is for one answer, is."""


def longest_look(client: ApiClient) -> float:
    """Return the seconds that one look may take."""
    return max(LONGEST_LOOK, client.transport.timeouts.total)


class PollStatus(StrEnum):
    """How things stand."""

    FOUND = "found"
    """What was waited for has come."""
    FAILED = "failed"
    """It cannot come any more."""
    NOT_YET = "not_yet"
    """It may come."""


@dataclass(frozen=True, kw_only=True)
class PollResult:
    """What a look has shown.

    :param standing: how things stand.
    :param what: what was seen, in one clause.
    :param result: what goes to XCom where it was found; small, and without anything that is nobody's business.
    """

    standing: PollStatus
    what: str
    result: Mapping[str, Any] | None = None


class EventKind(StrEnum):
    """What a trigger's event says."""

    FOUND = "found"
    TIMEOUT = "timeout"
    NO_ANSWER = "no_answer"
    ENDED = "ended"


class NoAnswerError(ExplainedError):
    """Too many looks in a row have failed in ways that may pass by themselves. A retry of the task may get through.

    :param failures: how many.
    :param last: the last failure.
    """

    def __init__(self, failures: int, last: Exception) -> None:
        super().__init__(f"{failures} looks in a row have failed. The last one: {last}")

    @classmethod
    def of(cls, message: str) -> NoAnswerError:
        """Make one of a message that a trigger has written."""
        error = cls.__new__(cls)
        Exception.__init__(error, message)
        return error


class Wait(Protocol):
    """Something to wait for."""

    def look(self, client: ApiClient) -> PollResult:
        """Look once.

        :raises ApiError: the request failed, or an answer breaks the contract.
        """

    def __str__(self) -> str:
        """Name what is waited for."""
