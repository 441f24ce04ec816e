# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a task says of its rows in the end, and whether it has failed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from limio_limitrail.ledger.model import State
from limio_limitrail.ledger.tally import Tally
from limio_limitrail.operators.usage_choices import Allowance
from limio_limitrail.troubleshooting import ExplainedError

log = logging.getLogger("limio_limitrail.usage")


class UsageUnknownError(ExplainedError):
    """Whether some rows have been carried out is not known; another try of the task sends them again under their keys."""


class UsageFailedError(ExplainedError):
    """More rows were rejected, parked or changed than the task allows. All else has been carried out; no retry can mend it."""


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
        "not_tried": tally.rows - tally.done,
        **{state.value: tally.states[state] for state in State if state is not State.SENDING},
        "decisions": dict(tally.decisions.most_common(20)),
    }


def judge(
    tally: Tally,
    *,
    table: str,
    operation: str,
    rejected: Allowance,
    parked: Allowance,
    changed: Allowance | None = None,
    changes_table: str = "",
) -> Exception | None:
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
    if changed is not None and changed.exceeded_by(tally.changed, of=tally.rows):
        failures.append(
            f"{tally.changed:,} of {tally.rows:,} rows were carried out earlier with another body ({changed}), for example "
            f"{tally.changed_example}; they were not sent again. The table {changes_table} lists them and the members that "
            f"differ: correct each in the API, and settle it as 'Changed rows' in docs/usage.md says. If two different things share "
            f"their key columns, tell them apart with key_namespace=."
        )
    if not failures:
        return None
    return UsageFailedError(
        f"{operation}: {' '.join(failures)} All other rows are done. The table {table} holds each row's reason."
    )


def _reasons(tally: Tally, *states: State) -> str:
    return "The most frequent reasons: " + "; ".join(str(reason) for reason in tally.reasons(*states)) + "."


def tell(tally: Tally, *, summary: Mapping[str, Any]) -> None:
    """Write what came of the rows into the task's log."""
    for reason in tally.reasons(State.DENIED, State.REJECTED, State.UNKNOWN, State.PARKED):
        log.warning("%s: %s", summary["operation"], reason)
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
        "%s: of %s rows %s committed, %s denied, %s rejected, %s parked, %s unknown, %s not tried; %s of them before; "
        "%d requests, %.1f s.",
        summary["operation"],
        *(f"{summary[name]:,}" for name in ("rows", "committed", "denied", "rejected", "parked", "unknown", "not_tried")),
        f"{summary['settled_before']:,}",
        summary["requests"],
        summary["seconds"],
    )
