# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Notice that rows are refused for something that is not about single rows."""

from __future__ import annotations

from dataclasses import dataclass

from limio_limitrail.troubleshooting import ExplainedError
from limio_limitrail.usage.commit_summary import MOST_KEPT, describe
from limio_limitrail.usage.ledger.model import Outcome, State, UsageRow

MOST_UNEXPLAINED = 20
"""Rows in a row with the same status and no word of the API's own: a gateway or a proxy answers so, whatever the row."""

MOST_AT_FIRST = 100
"""Rows in a row with the same refusal in the API's own words, where no row has succeeded yet."""

MOST_LATER = 1000
"""The same after a success: the path and the login are right then, and many rows of one account may come one after another."""


class RepeatedRefusalError(ExplainedError):
    """Many rows in a row were refused in the same way, without one success. What was not sent is free; no retry can mend it."""


@dataclass
class _Run:
    """Rows in a row with the same refusal.

    :param example: the first of them.
    :param count: how many.
    """

    example: str
    count: int = 0


class Refusals:
    """Count equal refusals between two successes.

    :param allowed: the rejected rows that the user allows; so many with the API's own words never stop a task.
    :param table: where refused rows stand.
    :param label: what the rows are called in messages.
    """

    def __init__(self, *, allowed: int, table: str, label: str) -> None:
        self._allowed = allowed
        self._table = table
        self._label = label
        self._runs: dict[tuple[int | None, str], _Run] = {}
        self._most_explained = MOST_AT_FIRST

    def add(self, row: UsageRow, outcome: Outcome) -> RepeatedRefusalError | None:
        """Count an outcome, and return the error to stop with, if there is reason to stop.

        :param row: the row that was sent.
        :param outcome: what came of it.
        """
        if outcome.state in (State.COMMITTED, State.DENIED):
            self._runs.clear()
            self._most_explained = MOST_LATER
            return None
        # A row that was in doubt before stays so when it is refused: most likely its key is known, which is about that row alone.
        if outcome.state is not State.REJECTED:
            return None
        # What a gateway says may differ from one answer to the next: the status is what is the same.
        explained = bool(outcome.error_code or outcome.resource_key or outcome.field)
        said = "" if outcome.http_status and not explained else describe(outcome)
        alike = (outcome.http_status, said)
        if alike not in self._runs:
            if len(self._runs) >= MOST_KEPT:
                return None
            self._runs[alike] = _Run(example=str(row))
        run = self._runs[alike]
        run.count += 1
        most = max(self._most_explained, self._allowed + 1) if explained else MOST_UNEXPLAINED
        return self._error(run, outcome, explained=explained) if run.count >= most else None

    def _error(self, run: _Run, outcome: Outcome, *, explained: bool) -> RepeatedRefusalError:
        if explained or outcome.http_status is None:
            guess = (
                "So many equal refusals look like something that is wrong for all rows: check the path, the tenant and the "
                "accounts, or allow more with max_rejected=."
            )
        else:
            guess = (
                "The answers have no errorCode, so they look like those of a gateway, a proxy or a wrong path: check the "
                "connection's host and paths, path=, and what stands between the worker and the API."
            )
        return RepeatedRefusalError(
            f"{self._label}: {run.count:,} rows in a row were refused in the same way, without one success: {describe(outcome)}; "
            f"for example {run.example}. {guess} The refused rows stand in {self._table}; the rest was not sent and is free. "
            "Then run the task once with replay='rejected'"
        )
