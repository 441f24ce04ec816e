# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Warnings of a reconciliation that is green: more differences than its ``warn_`` parameters allow, or nothing to compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from limio_limitrail.usage.degraded import DEGRADED, FAILED, OK, UsageWarning, make_warning
from limio_limitrail.usage.reconciliation.model import Kind
from limio_limitrail.usage.reconciliation.summary import DIFFERENCES, UsageReconciliationSummary, counts_of, find_excess

LIMITS = tuple(f"warn_{name}" for name in DIFFERENCES)
"""The operator's parameters that are a number of rows, or a share of them."""

WARNINGS = (*LIMITS, "warn_no_rows")
"""The operator's parameters that say when a green task is degraded."""


def add_warnings(summary: UsageReconciliationSummary, *, limits: Mapping[str, Any], failed: bool) -> None:
    """Put status and warnings into a summary.

    :param limits: the values of `WARNINGS`.
    """
    summary["warnings"] = list(_warnings(summary, limits=limits))
    summary["status"] = FAILED if failed else DEGRADED if summary["warnings"] else OK


def _warnings(summary: UsageReconciliationSummary, *, limits: Mapping[str, Any]) -> Iterator[UsageWarning]:
    for excess in find_excess(summary, limits={name: limits[name] for name in LIMITS}):
        yield make_warning(
            excess.name,
            message=str(excess),
            count=excess.count,
            limit=str(excess.limit.most),
            reasons=_reasons(summary, excess.name),
            query=_query(summary, excess.name),
            section="differences",
        )
    compared = sum(count for kind, count in counts_of(summary).items() if kind is not Kind.OUTSIDE)
    if limits["warn_no_rows"] and not compared:
        where = f"from {summary['since']} to {summary['until']}"
        yield make_warning(
            "no_rows",
            message=f"neither the ledger nor the list {summary['resource']} has anything {where} (warn_no_rows)",
            count=0,
            limit="0",
            query=f"SELECT * FROM {summary['table']} ORDER BY claimed_at DESC",  # nosec B608 # noqa: S608 - for people
            section="no-rows",
        )


def _reasons(summary: UsageReconciliationSummary, name: str) -> list[str]:
    found = [reason for kind in DIFFERENCES[name] for reason in summary["reasons"].get(kind, ())]
    if name == "uncertain":
        found += [f"no row was set free to be sent again: {reason}" for reason in summary["not_sent_because"]]
    return found


def _query(summary: UsageReconciliationSummary, name: str) -> str:
    kinds = ", ".join(f"'{kind}'" for kind in DIFFERENCES[name])
    query = summary["differences_query"] or ""
    return query.replace(" ORDER BY ", f" AND kind IN ({kinds}) ORDER BY ", 1)
