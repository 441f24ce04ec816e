# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Warnings of a commit that is green: what went worse than the task's ``warn_`` parameters allow, or than is usual."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from statistics import median
from typing import TYPE_CHECKING, Any

from limio_limitrail.usage import degraded
from limio_limitrail.usage.degraded import DEGRADED, FAILED, OK, UsageWarning, make_warning
from limio_limitrail.usage.ledger.run_history import PastRun
from limio_limitrail.usage.ledger.states import State
from limio_limitrail.usage.parameters import ErrorBudget

if TYPE_CHECKING:
    from limio_limitrail.usage.ledger.run_history import RunHistory
    from limio_limitrail.usage.summary import OutcomeCounts, UsageCommitSummary

log = logging.getLogger("limio_limitrail.usage")

WARNINGS = ("warn_rejected", "warn_parked", "warn_denied", "warn_changed", "warn_no_rows", "warn_fewer_rows", "warn_slower")
"""The operator's parameters that say when a green task is degraded; None: never."""

LEAST_RUNS = 3
"""Runs that make something usual."""

LEAST_DELAY = 5.0
"""Seconds: a run is not far slower if it takes less than so much longer than usual."""

_ANCHORS = {"no_rows": "no-rows", "fewer_rows": "fewer-rows", "slower": "far-slower"}
_MEANINGS = {
    "rejected": "were rejected",
    "parked": "are parked: nobody knows whether they have been carried out",
    "denied": "were denied: LimitRail has decided against them",
    "changed": "were carried out earlier with another body, and were not sent again",
}


@dataclass(frozen=True, kw_only=True)
class UsageQueries:
    """SQL for people: the rows of a run, those of one state, those that are parked whoever parked them, and changed rows."""

    table: str
    of_run: str
    of_changes: str
    operation: str | None

    def of(self, name: str) -> str:
        """Return the query that shows the rows of a warning."""
        if name == "changed":
            return self.of_changes
        if name == "parked" and self.operation is not None:
            # Most of them may be another run's.
            return f"SELECT * FROM {self.table} WHERE operation = '{self.operation}' AND state = 'parked' ORDER BY row_key"  # nosec B608 # noqa: S608 - for people
        if name in _MEANINGS:
            return self.of_run.replace(" ORDER BY", f" AND state = '{name}' ORDER BY", 1)
        return self.of_run


def add_warnings(
    summary: UsageCommitSummary,
    *,
    counts: OutcomeCounts,
    limits: Mapping[str, Any],
    queries: UsageQueries,
    failed: bool,
    history: RunHistory | None,
) -> None:
    """Put status and warnings into a summary, and store what the next runs are compared with. Never raises.

    :param limits: the values of `WARNINGS`.
    :param history: None if this run is not compared with others, and does not count as usual.
    """
    summary["status"] = FAILED if failed else OK
    try:
        whole = not failed and not counts.left_for_later
        earlier = history.earlier() if history is not None and whole else None
        found = list(_warnings_of_rows(counts, limits=limits, queries=queries))
        if not failed:
            found += _warnings_of_the_run(summary, limits=limits, queries=queries, earlier=earlier)
        summary["warnings"] = found
        if found and not failed:
            summary["status"] = DEGRADED
        if history is not None and whole:
            history.add(PastRun(run_id=history.run_id, rows=summary["rows"], sent=summary["sent"], seconds=summary["seconds"]))
    except Exception as error:  # noqa: BLE001 - the rows are done, whether anybody is warned or not
        log.warning("%s: its warnings could not be made (%s).", summary["operation"], type(error).__name__)


def log_warnings(summary: UsageCommitSummary) -> None:
    """Log each warning. Why rows were rejected, parked or denied is in the log already."""
    degraded.log_warnings(
        summary["warnings"], operation=summary["operation"], status=summary["status"], with_reasons_logged=_MEANINGS
    )


def _warnings_of_rows(counts: OutcomeCounts, *, limits: Mapping[str, Any], queries: UsageQueries) -> Iterator[UsageWarning]:
    found = {
        "rejected": counts.states[State.REJECTED],
        "parked": counts.states[State.PARKED],
        "denied": counts.states[State.DENIED] - counts.denied_before,
        "changed": counts.changed,
    }
    for name, count in found.items():
        most = limits[f"warn_{name}"]
        if most is None:
            continue
        limit = ErrorBudget(name=f"warn_{name}", most=most)
        if limit.exceeded_by(count, of=counts.tried):
            reasons = [str(reason) for reason in counts.reasons(name)]
            if name == "changed":
                reasons = [f"for example {counts.changed_example}"]
            message = f"{count:,} of {counts.tried:,} rows {_MEANINGS[name]} ({limit})"
            yield _warning(name, message=message, count=count, limit=str(most), reasons=reasons, queries=queries)


def _warnings_of_the_run(
    summary: UsageCommitSummary, *, limits: Mapping[str, Any], queries: UsageQueries, earlier: Sequence[PastRun] | None
) -> Iterator[UsageWarning]:
    rows, few, slow = summary["rows"], limits["warn_fewer_rows"], limits["warn_slower"]
    if not rows and limits["warn_no_rows"]:
        message = "the task had no rows at all (warn_no_rows)"
        yield _warning("no_rows", message=message, count=0, limit="0", queries=queries)
    elif isinstance(few, int):
        if rows < few:
            message = f"{rows:,} rows, fewer than {few:,} (warn_fewer_rows={few})"
            yield _warning("fewer_rows", message=message, count=rows, limit=str(few), queries=queries)
    elif few is not None and (usual := usual_rows(earlier or ())) is not None and rows < _share(few) * usual:
        message = f"{rows:,} rows, usually about {usual:,} (warn_fewer_rows={few})"
        last = ", ".join(f"{run.rows:,}" for run in (earlier or ())[:5])
        reasons = [f"the last runs had {last} rows"]
        yield _warning("fewer_rows", message=message, count=rows, limit=few, usual=usual, reasons=reasons, queries=queries)

    seconds = summary["seconds"]
    waits = [
        f"{summary['retries']:,} retries of requests" if summary["retries"] else "",
        f"{summary['waited']:,.0f} s waited between attempts" if summary["waited"] >= 1 else "",
        f"{summary['sent']:,} rows sent" if summary["sent"] else "",
    ]
    reasons = [text for text in waits if text]
    if isinstance(slow, timedelta):
        if seconds > slow.total_seconds():
            message = f"it took {seconds:,.0f} s (warn_slower={slow})"
            limit = f"{slow.total_seconds():g} s"
            yield _warning("slower", message=message, count=round(seconds), limit=limit, reasons=reasons, queries=queries)
    elif (
        slow is not None
        and (expected := usual_seconds(earlier or (), sent=summary["sent"])) is not None
        and seconds > max(float(_share(slow)) * expected, expected + LEAST_DELAY)
    ):
        message = f"it took {seconds:,.0f} s, usually about {expected:,.0f} s for so many rows (warn_slower={slow})"
        usual = round(expected)
        yield _warning("slower", message=message, count=round(seconds), limit=slow, usual=usual, reasons=reasons, queries=queries)


def usual_rows(earlier: Sequence[PastRun]) -> int | None:
    """Return the median of earlier runs' rows; None if there are too few. Runs without rows make nothing usual."""
    rows = [run.rows for run in earlier if run.rows]
    return int(median(rows)) if len(rows) >= LEAST_RUNS else None


def usual_seconds(earlier: Sequence[PastRun], *, sent: int) -> float | None:
    """Return how long earlier runs would have taken for so many rows; None if there are too few.

    More rows take longer in proportion. Fewer rows count as if they took as long: a run has costs of its own.
    """
    found = [run.seconds * max(1.0, sent / run.sent) for run in earlier if run.sent]
    return median(found) if len(found) >= LEAST_RUNS else None


def _share(percent: str) -> Decimal:
    return Decimal(percent[:-1]) / 100


def _warning(
    name: str,
    *,
    message: str,
    count: int,
    limit: str,
    queries: UsageQueries,
    usual: int | None = None,
    reasons: Sequence[str] = (),
) -> UsageWarning:
    return make_warning(
        name,
        message=message,
        count=count,
        limit=limit,
        usual=usual,
        reasons=reasons,
        query=queries.of(name),
        section=_ANCHORS.get(name, name),
    )
