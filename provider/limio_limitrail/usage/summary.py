# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Count what came of a task's rows, log and return the numbers, and decide whether the task has failed."""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from limio_limitrail.troubleshooting import SETTLE_USAGE, ExplainedError, address_of
from limio_limitrail.usage.ledger.changes import same_content
from limio_limitrail.usage.ledger.model import Entry, Outcome, UsageRow, Worker, describe_outcome
from limio_limitrail.usage.ledger.other_rows import LeftInDoubt
from limio_limitrail.usage.ledger.states import PermanentUsageError, State
from limio_limitrail.usage.parameters import ErrorBudget

if TYPE_CHECKING:
    from limio_limitrail.usage.degraded import UsageWarning

log = logging.getLogger("limio_limitrail.usage")

MAX_REASONS = 5
"""Reasons that a message shows."""

MAX_LISTED = 50
"""Parked rows that are listed one by one."""

MAX_DISTINCT = 1000
"""Reasons that are counted apart; beyond that they count as others."""

REJECTED_BEFORE = "rejected before"
"""The state, in messages, of rows that an earlier run has sent and that this one has not."""


class UsageUnknownError(ExplainedError):
    """Whether some rows have been carried out is not known; another try of the task sends them again under their keys."""


class UsageFailedError(PermanentUsageError):
    """More rows were rejected, parked, changed or left in doubt than the task allows. All else has been carried out; no retry can
    mend it."""


class UsageCommitSummary(TypedDict):
    """What a commit of usage returns, and what its XCom holds, also when the task fails."""

    operation: str
    table: str
    status: str
    warnings: list[UsageWarning]
    rows: int
    duplicates: int
    sent: int
    settled_before: int
    changed: int
    not_tried: int
    left_for_later: int
    committed: int
    denied: int
    rejected: int
    unknown: int
    parked: int
    given_up: int
    rejected_before: int
    left_in_doubt: int
    left_in_doubt_ages: dict[str, int]
    decisions: dict[str, int]
    rekeyed: int
    requests: int
    retries: int
    tokens: int
    waited: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why rows were not committed, without what is particular to one row."""

    state: str
    text: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.count:,} x {self.state}: {self.text}; for example {self.example}"


class OutcomeCounts:
    """Counts rows, without exact duplicates, by their final state; what other runs than the worker's have rejected is apart."""

    def __init__(self, rows: int, *, worker: Worker) -> None:
        self.rows = rows
        self._worker = worker
        self.states: Counter[State] = Counter()
        self.decisions: Counter[str] = Counter()
        self.sent = 0
        self.settled_before = 0
        self.rejected_before = 0
        self.denied_before = 0
        self.left_for_later = 0
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

    @property
    def tried(self) -> int:
        """Rows without those that the limit leaves for a later run: thresholds are shares of them."""
        return self.rows - self.left_for_later

    def add(self, row: UsageRow, outcome: Outcome) -> None:
        """Count a row that was sent."""
        self.sent += 1
        self._count(row, outcome)

    def add_settled(self, row: UsageRow, entry: Entry) -> None:
        """Count a row that was not sent, because of its entry in the ledger."""
        self.settled_before += 1
        carried_out = entry.state in (State.COMMITTED, State.DENIED)
        if carried_out and not same_content(row.digest, entry.digest):
            self.changed_rows.append(row.number)
            self.changed_example = self.changed_example or str(row)
        if entry.state is State.REJECTED and not entry.worker.same_task_run(self._worker):
            self.rejected_before += 1
            self._note(row, REJECTED_BEFORE, describe_outcome(entry.outcome))
            return
        if entry.state is State.DENIED and not entry.worker.same_task_run(self._worker):
            self.denied_before += 1
        self._count(row, entry.outcome)

    def _count(self, row: UsageRow, outcome: Outcome) -> None:
        self.states[outcome.state] += 1
        if outcome.state in (State.COMMITTED, State.DENIED):
            self.decisions[outcome.decision or "(none)"] += 1
        if outcome.state is State.COMMITTED:
            return
        if outcome.state is State.PARKED and len(self.parked) < MAX_LISTED:
            self.parked.append(str(row))
        self._note(row, outcome.state, describe_outcome(outcome))

    def _note(self, row: UsageRow, state: str, text: str) -> None:
        reason = (state, text)
        if reason not in self._examples and len(self._examples) >= MAX_DISTINCT:
            reason = (state, "other reasons")
        self._reasons[reason] += 1
        self._examples.setdefault(reason, str(row))

    def reasons(self, *states: str) -> list[Reason]:
        """Return the most frequent reasons of the rows in some states."""
        found = [
            Reason(state=state, text=text, count=count, example=self._examples[state, text])
            for (state, text), count in self._reasons.most_common()
            if state in states
        ]
        return found[:MAX_REASONS]


def summarize(
    counts: OutcomeCounts,
    *,
    operation: str,
    table: str,
    duplicates: int,
    rekeyed: int,
    left: LeftInDoubt,
    requests: Mapping[str, float],
) -> UsageCommitSummary:
    """Return the summary of a task; `rekeyed` counts the rows that are settled by entries under other keys."""
    return {
        "operation": operation,
        "table": table,
        "status": "ok",
        "warnings": [],
        "rows": counts.rows,
        "duplicates": duplicates,
        "sent": counts.sent,
        "settled_before": counts.settled_before,
        "changed": counts.changed,
        "not_tried": counts.tried - counts.done,
        "left_for_later": counts.left_for_later,
        **{state.value: counts.states[state] for state in State if state not in (State.SENDING, State.FREE)},  # type: ignore[typeddict-item]
        "rejected_before": counts.rejected_before,
        "left_in_doubt": left.count,
        "left_in_doubt_ages": dict(left.ages),
        "decisions": dict(counts.decisions.most_common(20)),
        "rekeyed": rekeyed,
        **requests,
    }


THRESHOLDS = ("max_rejected", "max_parked", "max_rejected_before", "max_changed", "max_duplicates", "max_in_doubt")
"""The operator's parameters that say how many rows may go wrong; None: any number."""


def check_thresholds(
    counts: OutcomeCounts, *, table: str, operation: str, thresholds: Mapping[str, Any], left: LeftInDoubt, changes_table: str
) -> Exception | None:
    """Return the error that the task fails with; None if it has not failed.

    :param thresholds: the values of `THRESHOLDS`.
    """
    unknown = counts.states[State.UNKNOWN]
    if unknown:
        return UsageUnknownError(
            f"{operation}: whether {unknown:,} of {counts.tried:,} rows have been carried out is not known. "
            f"Another try of the task sends them again under the same keys. {_reasons(counts, State.UNKNOWN)}"
        )

    def exceeded(name: str, count: int) -> ErrorBudget | None:
        if thresholds[name] is None:
            return None
        budget = ErrorBudget(name=name, most=thresholds[name])
        return budget if budget.exceeded_by(count, of=counts.tried) else None

    failures = []
    if limit := exceeded("max_rejected", counts.states[State.REJECTED]):
        failures.append(
            f"{counts.states[State.REJECTED]:,} of {counts.tried:,} rows were rejected ({limit}). "
            f"Mend them and run the task once with replay='rejected'. {_reasons(counts, State.REJECTED)}"
        )
    if limit := exceeded("max_rejected_before", counts.rejected_before):
        failures.append(
            f"{counts.rejected_before:,} of {counts.tried:,} rows were rejected in earlier runs ({limit}). "
            f"{_SETTLE_REJECTED}. {_reasons(counts, REJECTED_BEFORE)}"
        )
    if limit := exceeded("max_parked", counts.states[State.PARKED]):
        failures.append(
            f"{counts.states[State.PARKED]:,} of {counts.tried:,} rows are parked ({limit}): nobody knows whether "
            f"they have been carried out. {settle_advice('parked')}. {_reasons(counts, State.PARKED)}"
        )
    if limit := exceeded("max_changed", counts.changed):
        failures.append(
            f"{counts.changed:,} of {counts.tried:,} rows were carried out earlier with another body ({limit}), for "
            f"example {counts.changed_example}; they were not sent again. The table {changes_table} lists them and the members "
            f"that differ: correct each in the API, then settle it with 'airflow limitrail ledger settle --state changed "
            f"--decision accept' (see {address_of('changed-rows', page=SETTLE_USAGE)}). If two different things "
            "share their key columns, tell them apart with key_namespace=."
        )
    if limit := exceeded("max_in_doubt", left.count):
        failures.append(f"{_describe(left, table=table)} ({limit}). {_settle_left(left)}.")
    if not failures:
        return None
    others = "All other rows that were tried" if counts.left_for_later else "All other rows"
    return UsageFailedError(f"{operation}: {' '.join(failures)} {others} are done. The table {table} holds each row's reason.")


_LOGGED = ("rows", "committed", "denied", "rejected", "rejected_before", "given_up", "parked", "unknown", "not_tried",
           "settled_before")  # fmt: skip

_SETTLE_REJECTED = (
    "Mend them and run the task once with replay='rejected'; settle those that are never to be sent with "
    "'airflow limitrail ledger settle --decision give_up'"
)


def settle_advice(kinds: str) -> str:
    """Return what a person does with rows that may have been carried out."""
    return (
        f"List them with 'airflow limitrail ledger list --state {kinds}', look each one up in the API, and settle it with "
        "'airflow limitrail ledger settle' or LimitRailSettleUsageOperator: committed if it is there; if not, send or give_up "
        f"(see {address_of('decisions', page=SETTLE_USAGE)})"
    )


def _describe(left: LeftInDoubt, *, table: str) -> str:
    states = ", ".join(f"{count:,} {state}" for state, count in left.states.items())
    ages = ", ".join(f"{count:,} {age.replace('_', ' ')}" for age, count in left.ages.items() if count)
    return (
        f"Rows that are not among those of this task are in doubt in {table}: {left.count:,} ({states}; {ages}), for example "
        f"{left.oldest}"
    )


def _settle_left(left: LeftInDoubt) -> str:
    return (
        "Whether they have been carried out is not known, and no task that lacks them touches them. "
        f"{settle_advice('sending,unknown,parked,damaged')}. To see them in SQL: {left.query}"
    )


def _reasons(counts: OutcomeCounts, *states: str) -> str:
    return "The most frequent reasons: " + "; ".join(str(reason) for reason in counts.reasons(*states)) + "."


def log_left_in_doubt(left: LeftInDoubt, *, operation: str, table: str) -> None:
    """Log the rows in doubt that are not among the task's rows."""
    if left.count:
        log.warning("%s: %s. %s.", operation, _describe(left, table=table), _settle_left(left))
    if left.free:
        log.warning(
            "%s: %s rows are free to be sent in %s, and not among those of this task. They wait for a task that has them: clear "
            "the task that had them last. 'airflow limitrail ledger list --state free' shows them.",
            operation,
            f"{left.free:,}",
            table,
        )


def log_summary(counts: OutcomeCounts, *, summary: UsageCommitSummary) -> None:
    """Log what came of the rows."""
    for reason in counts.reasons(State.DENIED, State.REJECTED, State.UNKNOWN, State.PARKED):
        log.warning("%s: %s", summary["operation"], reason)
    if counts.rejected_before:
        log.warning(
            "%s: %s rows were rejected in earlier runs and were not sent. %s.",
            summary["operation"],
            f"{counts.rejected_before:,}",
            _SETTLE_REJECTED,
        )
    for reason in counts.reasons(REJECTED_BEFORE):
        log.warning("%s: %s", summary["operation"], reason)
    for reason in counts.reasons(State.GIVEN_UP):
        log.info("%s: not sent, as somebody has decided: %s", summary["operation"], reason)
    if counts.parked:
        log.warning("%s: parked: %s", summary["operation"], "; ".join(counts.parked))
    if counts.changed:
        log.warning(
            "%s: %s rows were done earlier with another body, for example %s; they were not sent again.",
            summary["operation"],
            f"{counts.changed:,}",
            counts.changed_example,
        )
    if counts.left_for_later:
        log.warning(
            "%s: %s rows were left for later, because limit= allows no more in this run of the task. A later run that has them "
            "sends them; so does this one, if you clear the task without limit= or with a higher one. Outlets get no event.",
            summary["operation"],
            f"{counts.left_for_later:,}",
        )
    numbers: Mapping[str, object] = summary
    log.info(
        "%s: of %s rows %s committed, %s denied, %s rejected, %s rejected in earlier runs, %s given up, %s parked, %s unknown, "
        "%s not tried; %s of them before; %d requests, %.1f s.",
        summary["operation"],
        *(f"{numbers[name]:,}" for name in _LOGGED),
        summary["requests"],
        summary["seconds"],
    )


def ledger_query(*, table: str, worker: Worker) -> str:
    """Return the query that shows the entries which a task's run was the last to write."""
    about = {"dag_id": worker.dag_id, "task_id": worker.task_id, "run_id": worker.run_id}
    conditions = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in about.items()]
    if worker.map_index >= 0:
        conditions.append(f"map_index = {worker.map_index}")
    return f"SELECT * FROM {table} WHERE {' AND '.join(conditions)} ORDER BY state, row_key"  # nosec B608 # noqa: S608 - for people
