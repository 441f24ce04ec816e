# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Stop when rows are refused for a reason that is not about single rows."""

from __future__ import annotations

from collections import Counter

from limio_limitrail.usage.ledger.model import Outcome, PermanentUsageError, State, UsageRow
from limio_limitrail.usage.summary import MAX_DISTINCT, describe_outcome

MAX_UNEXPLAINED = 20
"""Rows in a row with the same status and no word of the API's own: a gateway or a proxy answers so, whatever the row."""

MAX_BEFORE_SUCCESS = 100
"""Rows in a row with the same refusal in the API's own words, where no row has succeeded yet."""

MAX_AFTER_SUCCESS = 1000
"""The same after a success: the path and the login are right then, and many rows of one account may come one after another."""


class RepeatedRefusalError(PermanentUsageError):
    """Many rows in a row were refused in the same way, without one success. What was not sent is free; no retry can mend it."""


class RepeatedRefusals:
    """Counts equal refusals between two successes.

    :param max_rejected: how many rows may be rejected; up to so many refusals in the API's own words never stop a task.
    """

    def __init__(self, *, max_rejected: int, table: str, label: str) -> None:
        self._max_rejected = max_rejected
        self._table = table
        self._label = label
        self._counts: Counter[tuple[int | None, str]] = Counter()
        self._examples: dict[tuple[int | None, str], str] = {}
        self._max_explained = MAX_BEFORE_SUCCESS

    def add(self, row: UsageRow, outcome: Outcome) -> RepeatedRefusalError | None:
        """Count an outcome, and return the error to stop with, if any."""
        if outcome.state in (State.COMMITTED, State.DENIED):
            self._counts.clear()
            self._examples.clear()
            self._max_explained = MAX_AFTER_SUCCESS
            return None
        # The refusal of a row that was in doubt is about that row alone: most likely its key is known.
        if outcome.state is not State.REJECTED:
            return None
        # The words of a gateway may differ from one answer to the next; the status is the same.
        explained = bool(outcome.error_code or outcome.resource_key or outcome.field)
        said = "" if outcome.http_status and not explained else describe_outcome(outcome)
        alike = (outcome.http_status, said)
        if alike not in self._examples and len(self._examples) >= MAX_DISTINCT:
            return None
        self._examples.setdefault(alike, str(row))
        self._counts[alike] += 1
        most = max(self._max_explained, self._max_rejected + 1) if explained else MAX_UNEXPLAINED
        if self._counts[alike] < most:
            return None
        return self._error(outcome, count=self._counts[alike], example=self._examples[alike], explained=explained)

    def _error(self, outcome: Outcome, *, count: int, example: str, explained: bool) -> RepeatedRefusalError:
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
            f"{self._label}: {count:,} rows in a row were refused in the same way, without one success: "
            f"{describe_outcome(outcome)}; for example {example}. {guess} "
            f"The refused rows stand in {self._table}; the rest was not sent and is free. "
            "Then run the task once with replay='rejected'"
        )
