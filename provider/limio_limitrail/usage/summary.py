# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a task says of its rows in the end, and whether it has failed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limio_limitrail.troubleshooting import SETTLE_USAGE, ExplainedError, address_of
from limio_limitrail.usage.commit_summary import REJECTED_BEFORE, CommitSummary
from limio_limitrail.usage.ledger.left_in_doubt import LeftInDoubt
from limio_limitrail.usage.ledger.model import State
from limio_limitrail.usage.parameters import ErrorBudget

log = logging.getLogger("limio_limitrail.usage")

_TOLD = ("rows", "committed", "denied", "rejected", "rejected_before", "given_up", "parked", "unknown", "not_tried")


class UsageUnknownError(ExplainedError):
    """Whether some rows have been carried out is not known; another try of the task sends them again under their keys."""


class UsageFailedError(ExplainedError):
    """More rows were rejected, parked, changed or left in doubt than the task allows. All else has been carried out; no retry can
    mend it."""


def summarize(tally: CommitSummary, *, operation: str, table: str, duplicates: int, left: LeftInDoubt) -> dict[str, Any]:
    """Put a tally into a small summary.

    :param left: what stands in doubt besides the task's rows.
    """
    return {
        "operation": operation,
        "table": table,
        "rows": tally.rows,
        "duplicates": duplicates,
        "sent": tally.sent,
        "settled_before": tally.settled_before,
        "changed": tally.changed,
        "not_tried": tally.rows - tally.done,
        **{state.value: tally.states[state] for state in State if state is not State.SENDING},
        "rejected_before": tally.rejected_before,
        "left_in_doubt": left.count,
        "left_in_doubt_ages": dict(left.ages),
        "decisions": dict(tally.decisions.most_common(20)),
    }


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """How much may have gone wrong.

    :param rejected: how many rows may have been rejected in this run.
    :param parked: how many may have been parked.
    :param rejected_before: how many may have been rejected in earlier runs; none: any number.
    :param changed: how many may come with another body than the one that was carried out; none: any number.
    :param in_doubt: how many rows may stand in doubt besides the task's; none: any number.
    :param duplicates: how many may repeat others exactly; none: any number.
    """

    rejected: ErrorBudget
    parked: ErrorBudget
    rejected_before: ErrorBudget | None = None
    changed: ErrorBudget | None = None
    in_doubt: int | None = None
    duplicates: ErrorBudget | None = None


def judge(
    tally: CommitSummary, *, table: str, operation: str, allowed: Thresholds, left: LeftInDoubt, changes_table: str
) -> Exception | None:
    """Say whether the task has failed, and why.

    :param table: where the reasons stand.
    :param allowed: how much may have gone wrong.
    :param left: what stands in doubt besides the task's rows.
    """
    unknown = tally.states[State.UNKNOWN]
    if unknown:
        return UsageUnknownError(
            f"{operation}: whether {unknown:,} of {tally.rows:,} rows have been carried out is not known. "
            f"Another try of the task sends them again under the same keys. {_reasons(tally, State.UNKNOWN)}"
        )
    failures = []
    if allowed.rejected.exceeded_by(tally.states[State.REJECTED], of=tally.rows):
        failures.append(
            f"{tally.states[State.REJECTED]:,} of {tally.rows:,} rows were rejected ({allowed.rejected}). "
            f"Mend them and run the task once with replay='rejected'. {_reasons(tally, State.REJECTED)}"
        )
    if allowed.rejected_before is not None and allowed.rejected_before.exceeded_by(tally.rejected_before, of=tally.rows):
        failures.append(
            f"{tally.rejected_before:,} of {tally.rows:,} rows were rejected in earlier runs ({allowed.rejected_before}). "
            f"{_SETTLE_REJECTED}. {_reasons(tally, REJECTED_BEFORE)}"
        )
    if allowed.parked.exceeded_by(tally.states[State.PARKED], of=tally.rows):
        failures.append(
            f"{tally.states[State.PARKED]:,} of {tally.rows:,} rows are parked ({allowed.parked}): nobody knows whether they "
            f"have been carried out. Look each one up in the API; where it is there, set its state in the ledger to 'committed'; "
            f"send the rest with a run with replay='parked'. {_reasons(tally, State.PARKED)}"
        )
    if allowed.changed is not None and allowed.changed.exceeded_by(tally.changed, of=tally.rows):
        failures.append(
            f"{tally.changed:,} of {tally.rows:,} rows were carried out earlier with another body ({allowed.changed}), for "
            f"example {tally.changed_example}; they were not sent again. The table {changes_table} lists them and the members "
            f"that differ: correct each in the API, then settle it in the ledger "
            f"(see {address_of('changed-rows', page=SETTLE_USAGE)}). If two different things "
            "share their key columns, tell them apart with key_namespace=."
        )
    if allowed.in_doubt is not None and left.count > allowed.in_doubt:
        failures.append(f"{_describe(left, table=table)} (max_in_doubt={allowed.in_doubt}). {_settle_left(left)}.")
    if not failures:
        return None
    return UsageFailedError(
        f"{operation}: {' '.join(failures)} All other rows are done. The table {table} holds each row's reason."
    )


_SETTLE_REJECTED = (
    "Mend them and run the task once with replay='rejected'; set the state of those that are never to be sent to 'given_up'"
)


def _describe(left: LeftInDoubt, *, table: str) -> str:
    states = ", ".join(f"{count:,} {state}" for state, count in left.states.items())
    ages = ", ".join(f"{count:,} {age.replace('_', ' ')}" for age, count in left.ages.items() if count)
    return (
        f"Rows that are not among those of this task stand in doubt in {table}: {left.count:,} ({states}; {ages}), for example "
        f"{left.oldest}"
    )


def _settle_left(left: LeftInDoubt) -> str:
    return (
        "Whether they have been carried out is not known, and no task that lacks them touches them. Look each one up in the API "
        "and set its state to 'committed' where it is there, to 'given_up' where it is never to be sent, or run a task that has "
        f"it with replay='parked'. To see them: {left.query}"
    )


def _reasons(tally: CommitSummary, *states: str) -> str:
    return "The most frequent reasons: " + "; ".join(str(reason) for reason in tally.reasons(*states)) + "."


def tell_left(left: LeftInDoubt, *, operation: str, table: str) -> None:
    """Write what stands in doubt besides the task's rows into the task's log."""
    if left.count:
        log.warning("%s: %s. %s.", operation, _describe(left, table=table), _settle_left(left))


def tell(tally: CommitSummary, *, summary: Mapping[str, Any]) -> None:
    """Write what came of the rows into the task's log."""
    for reason in tally.reasons(State.DENIED, State.REJECTED, State.UNKNOWN, State.PARKED):
        log.warning("%s: %s", summary["operation"], reason)
    if tally.rejected_before:
        log.warning(
            "%s: %s rows were rejected in earlier runs and were not sent. %s.",
            summary["operation"],
            f"{tally.rejected_before:,}",
            _SETTLE_REJECTED,
        )
    for reason in tally.reasons(REJECTED_BEFORE):
        log.warning("%s: %s", summary["operation"], reason)
    for reason in tally.reasons(State.GIVEN_UP):
        log.info("%s: not sent, as somebody has decided: %s", summary["operation"], reason)
    if tally.parked:
        log.warning("%s: parked: %s", summary["operation"], "; ".join(tally.parked))
    if tally.changed:
        log.warning(
            "%s: %s rows were done earlier with another body, for example %s; they were not sent again.",
            summary["operation"],
            f"{tally.changed:,}",
            tally.changed_example,
        )
    log.info(
        "%s: of %s rows %s committed, %s denied, %s rejected, %s rejected in earlier runs, %s given up, %s parked, %s unknown, "
        "%s not tried; %s of them before; %d requests, %.1f s.",
        summary["operation"],
        *(f"{summary[name]:,}" for name in _TOLD),
        f"{summary['settled_before']:,}",
        summary["requests"],
        summary["seconds"],
    )
