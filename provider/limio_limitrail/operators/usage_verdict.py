# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a task says of its rows in the end, and whether it has failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.ledger.model import State
from limio_limitrail.ledger.tally import Tally


class UsageUnknownError(Exception):
    """Whether some rows have been carried out is not known; another try of the task sends them again under their keys."""


class UsageFailedError(Exception):
    """More rows were rejected or parked than the task allows. Everything else has been carried out; no retry can mend it."""


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
        if most is None or most < 0 or (isinstance(most, float) and most > 1):
            raise ParameterError(f"{name}={value!r} is neither a number of rows, such as 10, nor a share of them, such as 0.01")
        return cls(name=name, most=most)

    def exceeded_by(self, count: int, *, of: int) -> bool:
        """Tell whether so many rows are too many."""
        return count > (self.most * of if isinstance(self.most, float) else self.most)

    def __str__(self) -> str:
        return f"{self.name}={self.most}"


def summarize(tally: Tally, *, operation: str, table: str, duplicates: int) -> dict[str, Any]:
    """Put a tally into a small summary."""
    return {
        "operation": operation,
        "table": table,
        "rows": tally.rows,
        "duplicates": duplicates,
        "sent": tally.sent,
        "settled_before": tally.settled_before,
        "changed": tally.changed,
        **{state.value: tally.states[state] for state in State if state is not State.SENDING},
        "decisions": dict(tally.decisions.most_common(20)),
    }


def judge(tally: Tally, *, table: str, operation: str, rejected: Allowance, parked: Allowance) -> Exception | None:
    """Say whether the task has failed, and why.

    :param table: where the reasons stand.
    :param rejected: how many rows may have been rejected.
    :param parked: how many may have been parked.
    """
    unknown = tally.states[State.UNKNOWN]
    if unknown:
        return UsageUnknownError(
            f"{operation}: whether {unknown:,} of {tally.rows:,} rows have been carried out is not known. "
            f"Another try of the task sends them again under the same keys. {_reasons(tally, State.UNKNOWN)}"
        )
    failures = []
    if rejected.exceeded_by(tally.states[State.REJECTED], of=tally.rows):
        failures.append(
            f"{tally.states[State.REJECTED]:,} of {tally.rows:,} rows were rejected ({rejected}). "
            f"Mend them and run the task once with replay='rejected'. {_reasons(tally, State.REJECTED)}"
        )
    if parked.exceeded_by(tally.states[State.PARKED], of=tally.rows):
        failures.append(
            f"{tally.states[State.PARKED]:,} of {tally.rows:,} rows are parked ({parked}): nobody knows whether they have been "
            f"carried out. Look each one up in the API; where it is there, set its state in the ledger to 'committed'; send the "
            f"rest with a run with replay='parked'. {_reasons(tally, State.PARKED)}"
        )
    if not failures:
        return None
    return UsageFailedError(
        f"{operation}: {' '.join(failures)} All other rows are done. The table {table} holds each row's reason."
    )


def _reasons(tally: Tally, *states: State) -> str:
    return "The most frequent reasons: " + "; ".join(str(reason) for reason in tally.reasons(*states)) + "."
