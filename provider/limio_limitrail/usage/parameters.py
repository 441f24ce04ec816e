# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a user may choose of a usage task, read and checked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.parameters.given import as_native, is_nothing, plain, type_of, unfit
from limio_limitrail.parameters.readers import choice, mapping, text
from limio_limitrail.usage.ledger.model import OnUnknown, State
from limio_limitrail.usage.ledger.rules import RESEND_WITHIN, Policy

MOST_CONCURRENCY = 64
MOST_IN_A_BATCH = 1000
ON_UNKNOWN = tuple(word.value for word in OnUnknown)
REPLAYS = (State.REJECTED.value, State.PARKED.value)

_BY_SOMEBODY = frozenset({"manual", "operator_triggered"})
"""Types of Dag runs that are made when somebody asks for them."""
ON_REKEYED = ("fail", "settle", "send")
CHANGES_HOLD = ("members", "bodies")

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, kw_only=True)
class ErrorBudget:
    """How many rows may go wrong.

    :param name: the parameter that says so.
    :param most: a number of rows, or a share of them.
    """

    name: str
    most: int | float

    def exceeded_by(self, count: int, *, of: int) -> bool:
        """Tell whether so many rows are too many."""
        # A share as it is written: 0.29 of 100 rows are 29, and not a little less.
        return count > (Decimal(repr(self.most)) * of if isinstance(self.most, float) else self.most)

    def rows(self, *, of: int) -> int:
        """Return how many rows that is."""
        return int(Decimal(repr(self.most)) * of if isinstance(self.most, float) else self.most)

    def __str__(self) -> str:
        return f"{self.name}={self.most}"


def number_or_share(name: str, value: object) -> int | float:
    """Read how many rows may go wrong: a whole number is a count, a fraction from 0 to 1 a share.

    :raises ParameterError: it is neither.
    """
    found = plain(value)
    most: int | float | None = None
    if isinstance(found, str):
        try:
            most = int(found)
        except ValueError:
            found = _fraction(found)
    if isinstance(found, int) and not isinstance(found, bool):
        most = found
    elif isinstance(found, float | Decimal):
        most = float(found)
    if most is None or not (0 <= most < math.inf) or (isinstance(most, float) and most > 1):
        raise unfit(name, value, expected="a number of rows, such as 10, or a share of them, such as 0.01")
    return most


def _fraction(found: str) -> float | None:
    try:
        return float(found)
    except ValueError:
        return None


def decisions(name: str, value: object) -> dict[str, str]:
    """Read what further decisions mean.

    :raises ParameterError: one of them means neither of what a decision can.
    """
    meaning = choice(State.COMMITTED.value, State.DENIED.value)
    given = {} if is_nothing(plain(value)) else mapping(name, value)
    return {decision: meaning(f"{name}[{decision!r}]", item) for decision, item in given.items()}


def header(name: str, value: object) -> str:
    """Read the name of a header.

    :raises ParameterError: it is none.
    """
    found = text("the name of a header")(name, value)
    if not _HEADER.fullmatch(found):
        raise unfit(name, value, expected="the name of a header, such as Idempotency-Key")
    return found


def rows(name: str, value: object) -> object:
    """Read rows: whatever gives mappings one after another, or a text that is a list of them when it is written out.

    :raises ParameterError: they are none. Each row is looked at when its turn comes.
    """
    found = as_native(value) if isinstance(value, str) else value
    if isinstance(found, str | bytes | Mapping) or not isinstance(found, Iterable):
        raise ParameterError(f"{name} must be a list of mappings, one a row, got {type_of(value)}")
    return found


def read_policy(
    *,
    on_unknown: str,
    replay: str | None,
    changes: bool,
    resend_within: timedelta = timedelta(seconds=RESEND_WITHIN),
    asked_at: int | None = None,
) -> Policy:
    """Give what to do with rows that the ledger knows.

    :param changes: False where the operation changes nothing, so that asking again does no harm.
    :param resend_within: for how long after its first request a row in doubt may be sent again.
    :param asked_at: when the run was asked for, in milliseconds since 1970.
    """
    return Policy(
        on_unknown=OnUnknown(on_unknown) if changes else OnUnknown.RESEND,
        replay=None if replay is None else State(replay),
        resend_within=resend_within.total_seconds(),
        asked_at=asked_at,
    )


def asked_at(run: Any) -> int | None:
    """Return when somebody asked for a Dag run, in milliseconds since 1970; None where that is not known.

    :param run: the Dag run, as a task's context has it.
    """
    # One that waits in a queue was asked for before it began. That of a schedule is due at times that may be long past.
    type_ = getattr(run, "run_type", None)
    asked = getattr(run, "run_after", None) if getattr(type_, "value", type_) in _BY_SOMEBODY else None
    moment = asked or getattr(run, "start_date", None)
    return None if moment is None else int(moment.timestamp() * 1000)


def one_of(**given: object) -> str:
    """Tell which of several parameters was given.

    :raises ParameterError: none, or more than one.
    """
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise ParameterError(
            f"give exactly one of {', '.join(f'{name}=' for name in given)}; given: {', '.join(names) or 'none'}"
        )
    return names[0]
