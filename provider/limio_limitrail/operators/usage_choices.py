# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a user may choose of a usage task, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.ledger.model import OnUnknown, State
from limio_limitrail.ledger.rules import Policy

MOST_CONCURRENCY = 64
MOST_IN_A_BATCH = 1000


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """How many rows may go wrong.

    :param name: the parameter that says so.
    :param most: a number of rows, or a share of them.
    """

    name: str
    most: int | float

    @classmethod
    def read(cls, name: str, value: object) -> Allowance:
        """Read a parameter, which may come out of a template: a whole number is a count, a fraction below 1 a share.

        :raises ParameterError: it is neither.
        """
        most: int | float | None = None
        if isinstance(value, int) and not isinstance(value, bool):
            most = value
        elif isinstance(value, float | str):
            try:
                most = int(value) if isinstance(value, str) else float(value)
            except ValueError:
                try:
                    most = float(value)
                except ValueError:
                    most = None
        if most is None or most < 0 or (isinstance(most, float) and not most <= 1):
            raise ParameterError(f"{name}={value!r} is neither a number of rows, such as 10, nor a share of them, such as 0.01")
        return cls(name=name, most=most)

    def exceeded_by(self, count: int, *, of: int) -> bool:
        """Tell whether so many rows are too many."""
        # A share as it is written: 0.29 of 100 rows are 29, and not a little less.
        return count > (Decimal(repr(self.most)) * of if isinstance(self.most, float) else self.most)

    def __str__(self) -> str:
        return f"{self.name}={self.most}"


def check_numbers(*, concurrency: int, batch_size: int) -> None:
    """Check how much may be done at once.

    :raises ParameterError: it is too much, or nothing.
    """
    if not 1 <= concurrency <= MOST_CONCURRENCY:
        raise ParameterError(f"concurrency={concurrency} is none from 1 to {MOST_CONCURRENCY}")
    if not 1 <= batch_size <= MOST_IN_A_BATCH:
        raise ParameterError(f"batch_size={batch_size} is none from 1 to {MOST_IN_A_BATCH}")


def read_policy(*, on_unknown: str, replay: str | None, changes: bool) -> Policy:
    """Read what to do with rows that the ledger knows.

    :param changes: False where the operation changes nothing, so that asking again does no harm.
    :raises ParameterError: it is none of what there is.
    """
    try:
        chosen = OnUnknown(on_unknown)
    except ValueError:
        raise ParameterError(f"on_unknown={on_unknown!r} is none of {', '.join(OnUnknown)}") from None
    if not changes:
        chosen = OnUnknown.RESEND
    # A template that gives nothing gives the text "None".
    if replay in (None, "", "None"):
        return Policy(on_unknown=chosen)
    if replay not in (State.REJECTED.value, State.PARKED.value):
        raise ParameterError(f"replay={replay!r} is neither 'rejected' nor 'parked'")
    return Policy(on_unknown=chosen, replay=State(replay))


def read_decisions(given: Mapping[str, str]) -> dict[str, State]:
    """Read what further decisions mean.

    :raises ParameterError: one of them means neither of what a decision can.
    """
    meanings = {State.COMMITTED.value: State.COMMITTED, State.DENIED.value: State.DENIED}
    for decision, meaning in given.items():
        if meaning not in meanings:
            raise ParameterError(f"decisions={{{decision!r}: {meaning!r}}}: a decision means {' or '.join(meanings)}")
    return {decision: meanings[meaning] for decision, meaning in given.items()}


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


def as_columns(name: str, value: str | Sequence[str]) -> tuple[str, ...]:
    """Read one column or several.

    :raises ParameterError: there is none.
    """
    columns = (value,) if isinstance(value, str) else tuple(value)
    if not columns or any(not isinstance(column, str) or not column for column in columns):
        raise ParameterError(f"{name}={value!r} names no columns")
    return columns
