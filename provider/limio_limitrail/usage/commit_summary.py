# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What came of the rows of a task, in numbers and in the reasons that were given."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from dataclasses import dataclass

from limio_limitrail.usage.ledger.digests import says_the_same
from limio_limitrail.usage.ledger.model import Entry, Outcome, State, UsageRow, Worker

MOST_REASONS = 5
"""Reasons that a message shows."""

MOST_LISTED = 50
"""Parked rows that are listed one by one."""

MOST_KEPT = 1000
"""Different reasons that are told apart; beyond that they count as others."""

REJECTED_BEFORE = "rejected before"
"""How messages call rows that were rejected in an earlier run, and were not sent in this one."""

_PARTICULARS = re.compile(r"['\"`][^'\"`]*['\"`]|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|\d+")


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why rows came to nothing.

    :param state: what they are: a state, or `REJECTED_BEFORE`.
    :param text: the reason, without what is particular to one row.
    :param count: how many.
    :param example: one of them.
    """

    state: str
    text: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.count:,} x {self.state}: {self.text}; for example {self.example}"


class CommitSummary:
    """Counts rows by what they are in the end, however and whenever they came to that.

    :param rows: how many there are, exact repetitions left out.
    :param worker: who counts: what other runs have left is counted apart where that matters.
    """

    def __init__(self, rows: int, *, worker: Worker) -> None:
        self.rows = rows
        self._worker = worker
        self.states: Counter[State] = Counter()
        self.decisions: Counter[str] = Counter()
        self.sent = 0
        self.settled_before = 0
        self.rejected_before = 0
        self.changed_rows = array("Q")
        self.changed_example: str | None = None
        self.parked: list[str] = []
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], str] = {}

    @property
    def changed(self) -> int:
        """Rows that were carried out before with another body; `changed_rows` has their numbers."""
        return len(self.changed_rows)

    @property
    def done(self) -> int:
        """Rows that are counted."""
        return sum(self.states.values()) + self.rejected_before

    def add(self, row: UsageRow, outcome: Outcome) -> None:
        """Count a row that was sent."""
        self.sent += 1
        self._count(row, outcome)

    def add_settled(self, row: UsageRow, entry: Entry) -> None:
        """Count a row that was not sent, because its entry stands."""
        self.settled_before += 1
        carried_out = entry.state in (State.COMMITTED, State.DENIED)
        if carried_out and not says_the_same(row.digest_like(entry.digest), entry.digest):
            self.changed_rows.append(row.number)
            self.changed_example = self.changed_example or str(row)
        if entry.state is State.REJECTED and not entry.worker.same_task_run(self._worker):
            self.rejected_before += 1
            self._note(row, REJECTED_BEFORE, describe(entry.outcome))
            return
        self._count(row, entry.outcome)

    def _count(self, row: UsageRow, outcome: Outcome) -> None:
        self.states[outcome.state] += 1
        if outcome.state in (State.COMMITTED, State.DENIED):
            self.decisions[outcome.decision or "(none)"] += 1
        if outcome.state is State.COMMITTED:
            return
        if outcome.state is State.PARKED and len(self.parked) < MOST_LISTED:
            self.parked.append(str(row))
        self._note(row, outcome.state, describe(outcome))

    def _note(self, row: UsageRow, state: str, text: str) -> None:
        reason = (state, text)
        if reason not in self._examples and len(self._examples) >= MOST_KEPT:
            reason = (state, "other reasons")
        self._reasons[reason] += 1
        self._examples.setdefault(reason, str(row))

    def reasons(self, *states: str) -> list[Reason]:
        """Give the most frequent reasons of the rows in some states."""
        found = [
            Reason(state=state, text=text, count=count, example=self._examples[state, text])
            for (state, text), count in self._reasons.most_common()
            if state in states
        ]
        return found[:MOST_REASONS]


def describe(outcome: Outcome) -> str:
    """Say why a row came to nothing, in the same words for all that came to nothing in the same way."""
    known = (
        ("status", outcome.http_status),
        ("decision", outcome.decision),
        ("errorCode", outcome.error_code),
        ("field", outcome.field),
    )
    parts = [f"{name} {value}" for name, value in known if value is not None]
    if outcome.detail:
        parts.append(_PARTICULARS.sub("…", outcome.detail))
    return ", ".join(parts) or "no reason was given"
