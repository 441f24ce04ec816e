# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""``airflow limitrail ledger reconcile``: what a `LimitRailReconcileUsageOperator` does, without a Dag."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import islice
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.resource import Resource
from limio_limitrail.cli.output import confirm, print_rows, say
from limio_limitrail.cli.running import command, decided_by, ledger_of
from limio_limitrail.hooks.limitrail import LimitRailHook
from limio_limitrail.hooks.usage_reconciliation import UsageReconciliation
from limio_limitrail.operators.limitrail_reconcile import LimitRailReconcileUsageOperator
from limio_limitrail.parameters import readers
from limio_limitrail.parameters.declared import read_all
from limio_limitrail.usage import settling
from limio_limitrail.usage.reconciliation.model import Kind
from limio_limitrail.usage.reconciliation.summary import THRESHOLDS, counts_of, describe, find_failure
from limio_limitrail.usage.reconciliation.tables import describe_difference

if TYPE_CHECKING:
    from argparse import Namespace

    from limio_limitrail.usage.reconciliation.reconcile import ComparisonResult
    from limio_limitrail.usage.reconciliation.summary import UsageReconciliationSummary

DIFFER = 3
"""The exit code if there are more differences than allowed."""

_TASK = ("airflow limitrail ledger", "reconcile", -1)
"""Whose lines the tables replace: no Dag and no task has such a name."""

_OPTIONS = {
    "since": "--start",
    "until": "--end",
    "path_params": "--path-param",
    "query_params": "--query-param",
    **{
        name: f"--{name.replace('_', '-')}"
        for name in (
            *(
                "match",
                "compare",
                "amount",
                "mask_conn_id",
                "time_of",
                "margin",
                "resource",
                "operation",
                "scope",
                "page_size",
                "slice_size",
            ),
            *("concurrency", "listed_after", "retention", "max_sent", *THRESHOLDS),
        )
    },
}
"""The options that are parameters of the operator."""

_SHOWN = ("kind", "row_key", "state", "list_id", "members", "reason", "proposal")
"""Of a difference, in a table: the rest would not fit."""


@command
def reconcile(args: Namespace) -> None:
    """Compare a list with the ledger; with --settle, settle what is certain."""
    given = _read(args)
    limit = readers.whole_number(least=1)("--limit", args.limit)
    wanted = UsageReconciliation(
        **{field.name: given[field.name] for field in fields(UsageReconciliation) if field.name in given}, response=None
    )
    differences: list[dict[str, Any]] = []

    def look(result: ComparisonResult) -> None:
        if args.list:
            found = islice(result.differences(), limit + 1)
            differences.extend(describe_difference(one, operation=reconciliation.wanted.operation) for one in found)
        if args.settle:
            _confirm(result, yes=args.yes)

    hook = LimitRailHook(args.limitrail_conn_id, scope=given["scope"])
    with ledger_of(args, read_only=not args.settle) as settlements:
        tables = wanted.tables(settlements, differences_table=args.differences_table, totals_table=args.totals_table, task=_TASK)
        reconciliation = wanted.begin(hook=hook, settlements=settlements)
        summary = reconciliation.run(tables=tables, settles=args.settle, by=decided_by(args), on_compared=look)
    if args.list:
        shown = _SHOWN if args.output in ("table", "plain") else tuple(differences[0]) if differences else ()
        print_rows([{name: one[name] for name in shown} for one in differences[:limit]], output=args.output)
        if len(differences) > limit:
            say(f"There are more than {limit:,} differences: give --limit, or --differences-table for all of them.")
    else:
        print_rows(list(_counts(summary, given)), output=args.output)
    for _, line in describe(summary):
        say(line)
    if summary["settlement"] is not None:
        for line in settling.describe(summary["settlement"]):
            say(line)
    if (failure := find_failure(summary, thresholds=given)) is not None:
        say(str(failure))
        raise SystemExit(DIFFER)


def _read(args: Namespace) -> dict[str, Any]:
    """Return the operator's parameters, as the arguments give them.

    :raises ParameterError: some do not fit. The message names the options.
    """
    declared = LimitRailReconcileUsageOperator.parameters
    values = {option: getattr(args, option.removeprefix("--").replace("-", "_")) for option in _OPTIONS.values()}
    for option in ("--match", "--compare", "--amount", "--path-param", "--query-param"):
        values[option] = _pairs(option, values[option])
    values["--operation"] = str(values["--operation"]).removeprefix("usage.")
    values["--resource"] = _resource(values["--resource"])
    for name in THRESHOLDS:
        if values[_OPTIONS[name]] == "any":
            values[_OPTIONS[name]] = None
    found = read_all({option: declared[name] for name, option in _OPTIONS.items()}, values)
    return {name: found[option] for name, option in _OPTIONS.items()}


def _pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ParameterError(f"{option} must be NAME=VALUE, got {word[:100]!r}")
        if name in found:
            raise ParameterError(f"{option} names {name[:100]!r} twice")
        found[name] = value
    return found


def _resource(word: str) -> str | Resource:
    """Return the name of a list, or the `Resource` that an import path names."""
    module, dot, name = word.rpartition(".")
    if not dot:
        return word
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # noqa: BLE001 - a module may raise anything while it is imported
        raise ParameterError(f"--resource {word[:200]!r} cannot be imported: {type(error).__name__}") from None
    if not isinstance(found, Resource):
        raise ParameterError(f"--resource {word[:200]!r} is not a Resource")
    return found


def _confirm(result: ComparisonResult, *, yes: bool) -> None:
    """Show what is to be settled, and ask."""
    decisions = Counter(one.decision.value for one in result.decisions())
    if not decisions:
        return
    groups = ", ".join(f"{count:,} as {decision}" for decision, count in decisions.most_common())
    uncertain = result.counts[Kind.UNCERTAIN_THERE] + result.counts[Kind.UNCERTAIN_MISSING]
    say(f"Of {uncertain:,} uncertain rows, these are certain now: {groups}.")
    confirm(
        f"Settle these {decisions.total():,} rows?",
        yes=yes,
        unattended=f"{decisions.total():,} rows would be settled: look at them",
    )


def _counts(summary: UsageReconciliationSummary, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    limits = {kind: given[name] for name, kinds in THRESHOLDS.items() for kind in kinds}
    return [{"kind": kind.value, "count": count, "allowed": _limit(limits, kind)} for kind, count in counts_of(summary).items()]


def _limit(limits: Mapping[Kind, int | str | None], kind: Kind) -> int | str | None:
    if kind not in limits:
        return None
    return "any" if limits[kind] is None else limits[kind]
