# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a reconciliation returns and logs, and the thresholds that fail it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from limio_limitrail.usage.ledger.states import PermanentUsageError
from limio_limitrail.usage.parameters import ErrorBudget
from limio_limitrail.usage.reconciliation.model import Kind
from limio_limitrail.usage.settling import UsageSettlementSummary, conflict

if TYPE_CHECKING:
    from limio_limitrail.usage.degraded import UsageWarning

log = logging.getLogger("limio_limitrail.usage")

DIFFERENCES: Mapping[str, tuple[Kind, ...]] = {
    "different": (Kind.DIFFERENT,),
    "only_ours": (Kind.ONLY_OURS,),
    "only_theirs": (Kind.ONLY_THEIRS,),
    "twice_there": (Kind.TWICE_THERE,),
    "unexpected_there": (Kind.UNEXPECTED_THERE,),
    "not_compared": (Kind.NOT_COMPARED, Kind.AMBIGUOUS),
    "uncertain": (Kind.UNCERTAIN_THERE, Kind.UNCERTAIN_MISSING),
}
"""What a reconciliation can be limited by, and the kinds that each counts."""

THRESHOLDS = {f"max_{name}": kinds for name, kinds in DIFFERENCES.items()}
"""The parameters that fail a reconciliation, and the kinds that they count."""

_MEANING = {
    Kind.DIFFERENT: "differ from the list's records",
    Kind.ONLY_OURS: "were carried out by the ledger, and the list lacks them",
    Kind.ONLY_THEIRS: "records of the list are not in the ledger",
    Kind.TWICE_THERE: "are more than once in the list",
    Kind.UNEXPECTED_THERE: "are in the list, although the ledger says that they were not carried out",
    Kind.NOT_COMPARED: "cannot be compared, because a value is missing",
    Kind.AMBIGUOUS: "share their values with others",
    Kind.UNCERTAIN_THERE: "are uncertain, and in the list",
    Kind.UNCERTAIN_MISSING: "are uncertain, and not in the list",
}


class UsageDifferencesError(PermanentUsageError):
    """The ledger and the API's list differ in more rows than allowed. The table of differences is written."""


class UsageReconciliationSummary(TypedDict):
    """What a reconciliation returns, and what its XCom holds, also when the task fails.

    The numbers from ``equal`` to ``in_flight`` are rows; ``only_theirs`` are records. ``uncertain_there`` and
    ``uncertain_missing`` are what they were before ``settlement``; ``not_sent_because`` says why no row became free.
    ``free_there`` is how many of ``unexpected_there`` were free, and are proposed to be committed.
    ``ledger_amount`` and ``list_amount`` are exact decimal texts; None if an amount of that side is not known, or ``amount=`` is
    not given. ``reasons`` has the five most frequent ones of each kind, before ``settlement``.
    """

    status: str
    warnings: list[UsageWarning]
    table: str
    differences_table: str | None
    totals_table: str | None
    operation: str
    resource: str
    since: str
    until: str
    ledger_rows: int
    list_records: int
    ledger_amount: str | None
    list_amount: str | None
    unknown_amounts: int
    equal: int
    absent: int
    different: int
    only_ours: int
    only_theirs: int
    twice_there: int
    unexpected_there: int
    ambiguous: int
    uncertain_there: int
    uncertain_missing: int
    not_compared: int
    not_listed_yet: int
    outside: int
    in_flight: int
    reasons: dict[str, list[str]]
    proposed: dict[str, int]
    free_there: int
    not_sent_because: list[str]
    settlement: UsageSettlementSummary | None
    differences_query: str | None
    seconds: float


def log_summary(summary: UsageReconciliationSummary) -> None:
    """Log what was found."""
    for level, line in describe(summary):
        log.log(level, "%s", line)


def describe(summary: UsageReconciliationSummary) -> Iterator[tuple[int, str]]:
    """Yield what was found in lines for people, each with its level in a log."""
    counts = counts_of(summary)
    records = f"{summary['list_records']:,} records of {summary['resource']}"
    sides = f"{summary['ledger_rows']:,} rows of {summary['table']}, {records}"
    yield logging.INFO, f"{sides} from {summary['since']} to {summary['until']}: {summary['equal']:,} are equal."
    if summary["absent"]:
        yield logging.INFO, f"{summary['absent']:,} were not carried out, and are not in the list."
    if summary["unknown_amounts"]:
        unknown = summary["unknown_amounts"]
        yield logging.WARNING, f"{unknown:,} amounts are not known or no numbers, so that their sums are not known either."
    if summary["ledger_amount"] is not None or summary["list_amount"] is not None:
        both = (summary[side] or "unknown" for side in ("ledger_amount", "list_amount"))
        yield logging.INFO, "The amounts sum up to {} in the ledger, and to {} in the list.".format(*both)
    for kind, meaning in _MEANING.items():
        if count := counts[kind]:
            yield logging.WARNING, f"{count:,} {meaning} ({kind})."
            for reason in summary["reasons"].get(kind, ()):
                yield logging.WARNING, f"{kind}: {reason}"
    if summary["not_listed_yet"]:
        yield logging.INFO, f"{summary['not_listed_yet']:,} rows need not be in the list yet: reconcile the range again."
    for decision, count in summary["proposed"].items():
        settled = "settled" if summary["settlement"] is not None else "not settled; they can be"
        yield logging.INFO, f"{count:,} rows: {settled} as {decision}."
    for reason in summary["not_sent_because"]:
        yield logging.WARNING, f"No row was set free to be sent again: {reason}."


def counts_of(summary: UsageReconciliationSummary) -> dict[Kind, int]:
    """Return the counts of a summary by kind."""
    return {kind: summary[kind.value] for kind in Kind}


@dataclass(frozen=True, kw_only=True)
class Excess:
    """More differences of a name of `DIFFERENCES` than a parameter allows.

    :param meaning: how many, and what they are, for people.
    """

    name: str
    count: int
    meaning: str
    limit: ErrorBudget

    def __str__(self) -> str:
        return f"{self.meaning} ({self.limit})"


def find_excess(summary: UsageReconciliationSummary, *, limits: Mapping[str, int | str | None]) -> Iterator[Excess]:
    """Yield where a reconciliation has more differences than allowed. What it has settled is none.

    :param limits: the values of parameters, such as `THRESHOLDS`; None: any number.
    """
    counts = counts_of(summary)
    settlement = summary["settlement"]
    settled = 0 if settlement is None else max(0, settlement["settled"] + settlement["already"] - summary["free_there"])
    of = max(summary["ledger_rows"], summary["list_records"])
    for parameter, most in limits.items():
        name = parameter.partition("_")[2]
        kinds = DIFFERENCES[name]
        is_settled = name == "uncertain" and settled > 0
        count = sum(counts[kind] for kind in kinds) - (settled if is_settled else 0)
        if most is None or not (limit := ErrorBudget(name=parameter, most=most)).exceeded_by(count, of=of):
            continue
        if is_settled:
            meaning = f"{count:,} are still uncertain"
        else:
            meaning = "; ".join(f"{counts[kind]:,} {_MEANING[kind]}" for kind in kinds if counts[kind])
        yield Excess(name=name, count=count, meaning=meaning, limit=limit)


def find_failure(
    summary: UsageReconciliationSummary, *, thresholds: Mapping[str, int | str | None]
) -> PermanentUsageError | None:
    """Return the error of a reconciliation that must not pass; None if it may.

    It is for rows that somebody else has settled otherwise meanwhile, else for more differences than allowed.

    :param thresholds: the values of `THRESHOLDS`.
    """
    settlement = summary["settlement"]
    if settlement is not None and (contradiction := conflict(settlement)) is not None:
        return contradiction
    problems = [str(excess) for excess in find_excess(summary, limits={name: thresholds[name] for name in THRESHOLDS})]
    if not problems:
        return None
    message = (
        f"the ledger and the list {summary['resource']} do not agree from {summary['since']} to {summary['until']}: "
        f"{'; '.join(problems)}"
    )
    if (table := summary["differences_table"]) is not None:
        message += f". {table} lists them: {summary['differences_query']}"
    return UsageDifferencesError(message)
