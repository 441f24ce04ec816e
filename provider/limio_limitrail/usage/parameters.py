# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read and check the parameters of a usage task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.parameters.given import as_native, plain, type_of, unfit
from limio_limitrail.parameters.times import span
from limio_limitrail.usage.ledger.states import RESEND_WITHIN, OnUnknown, State

if TYPE_CHECKING:
    from limio_limitrail.usage.ledger.rules import Policy

MAX_CONCURRENCY = 64
MAX_BATCH_SIZE = 1000
ON_UNKNOWN = tuple(word.value for word in OnUnknown)
REPLAYS = (State.REJECTED.value, State.PARKED.value)
ON_REKEYED = ("fail", "settle", "send")
CHANGES_HOLD = ("members", "bodies")

_TRIGGERED_BY_A_PERSON = frozenset({"manual", "operator_triggered"})


class ErrorBudget(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows may go wrong, as a parameter sets it: a number of rows, or a share of them such as ``"1%"``."""

    name: str
    most: int | str

    def exceeded_by(self, count: int, *, of: int) -> bool:
        """Return whether so many rows are too many."""
        return count > self._limit(of)

    def rows(self, *, of: int) -> int:
        """Return how many rows that is."""
        return int(self._limit(of))

    def _limit(self, of: int) -> Decimal | int:
        # Decimal, because 29% of 100 rows are 29, and a binary float makes it a little less.
        return self.most if isinstance(self.most, int) else Decimal(self.most[:-1]) * of / 100

    def __str__(self) -> str:
        return f"{self.name}={self.most}"


def rows(name: str, value: object) -> object:
    """Read rows: an iterable of mappings, or a text that is a list of them when it is written out.

    :raises ParameterError: it is neither. Each row is checked when it is read.
    """
    found = as_native(value) if isinstance(value, str) else value
    if isinstance(found, str | bytes | Mapping) or not isinstance(found, Iterable):
        raise ParameterError(f"{name} must be a list of mappings, one a row, got {type_of(value)}")
    return found


def slower_than(name: str, value: object) -> timedelta | str:
    """Read when a run is far slower: a span of time, or a share of the usual one such as ``"300%"``.

    :raises ParameterError: it is neither, or the share is not above 100%.
    """
    found = plain(value)
    if isinstance(found, str) and found.strip().endswith("%"):
        number = found.strip()[:-1].strip()
        if number.replace(".", "", 1).isdecimal() and len(number) <= 20 and Decimal(number) > 100:
            return f"{number}%"
        raise unfit(name, value, expected='a share of the usual time above 100%, such as "300%", or a span of time')
    try:
        return span(least=timedelta(microseconds=1))(name, value)
    except ParameterError as error:
        expected = 'a span of time (a timedelta, seconds, or a text such as PT1H), or a share of the usual one, such as "300%"'
        raise unfit(name, value, expected=expected) from error


def is_usual(run: Any, *, replay: str | None) -> bool:
    """Return whether a Dag run is one of those that are alike: not a backfill, and not a replay."""
    type_ = getattr(run, "run_type", None)
    return replay is None and getattr(type_, "value", type_) != "backfill"


def read_policy(
    *,
    on_unknown: str,
    replay: str | None,
    changes: bool,
    resend_within: timedelta = timedelta(seconds=RESEND_WITHIN),
    requested_at: int | None = None,
    limit: int | None = None,
) -> Policy:
    """Return what to do with rows that the ledger knows; those of an operation that changes nothing may be sent at any time."""
    from limio_limitrail.usage.ledger.rules import Policy

    return Policy(
        on_unknown=OnUnknown(on_unknown) if changes else OnUnknown.RESEND,
        replay=None if replay is None else State(replay),
        resend_within=resend_within.total_seconds(),
        requested_at=requested_at,
        limit=limit,
    )


def requested_at(run: Any) -> int | None:
    """Return when somebody requested a Dag run, in milliseconds since 1970; None if unknown."""
    # A run that waits in a queue was requested before it began; the date of a scheduled one may lie far in the past.
    type_ = getattr(run, "run_type", None)
    asked = getattr(run, "run_after", None) if getattr(type_, "value", type_) in _TRIGGERED_BY_A_PERSON else None
    moment = asked or getattr(run, "start_date", None)
    return None if moment is None else int(moment.timestamp() * 1000)


def one_of(**given: object) -> str:
    """Return which of several parameters was given.

    :raises ParameterError: none, or more than one.
    """
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise ParameterError(
            f"give exactly one of {', '.join(f'{name}=' for name in given)}; given: {', '.join(names) or 'none'}"
        )
    return names[0]
