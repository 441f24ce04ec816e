# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""``airflow limitrail ledger``: status, list and settle."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.cli.output import confirm, print_rows, say, shown_time
from limio_limitrail.cli.running import command, decided_by, ledger_of
from limio_limitrail.parameters import readers, times
from limio_limitrail.usage.conventions import OPERATIONS, find_operation
from limio_limitrail.usage.decision_lists import WORDS, decisions
from limio_limitrail.usage.ledger.open_rows import count_reasons
from limio_limitrail.usage.ledger.settlement import (
    CHANGED,
    KINDS,
    LISTED,
    Decision,
    Filter,
    OpenRow,
    RowDecision,
    Settlements,
    read_decision,
)
from limio_limitrail.usage.settling import describe, settle

if TYPE_CHECKING:
    from argparse import Namespace

_SHOWN = ("key", "row_key", "state", "reason", "since", "attempts", "dag_id", "run_id")
"""Of a row, in a table: the rest would not fit."""

_COMMAND = "airflow limitrail ledger"

_NEED_NOBODY = ("committed", "denied", "given_up", "free", "sending")
"""States whose rows need nobody, unless they are found otherwise."""

_MOST_LISTED = 10_000_000


@command
def status(args: Namespace) -> None:
    """Count the rows by operation and state."""
    with ledger_of(args, read_only=True) as settlements:
        wanted = _filter(args)
        counts = settlements.count_states(wanted)
        # Of the others, every row needs a person, and there may be many.
        found = settlements.list_open(replace(wanted, kinds=("sending", CHANGED)))
    need = Counter((row.operation, row.kind) for row in found)
    rows = [
        {
            "operation": count.operation,
            "state": count.state,
            "rows": count.rows,
            "need_a_person": need[count.operation, count.state] if count.state in _NEED_NOBODY else count.rows,
            "oldest": shown_time(count.since),
        }
        for count in counts
    ]
    for (operation, kind), number in sorted(need.items()):
        if kind == CHANGED:
            rows.append({"operation": operation, "state": kind, "rows": number, "need_a_person": number, "oldest": None})
    print_rows(rows, output=args.output)


@command
def list_rows(args: Namespace) -> None:
    """List the rows that need a person, the oldest first."""
    with ledger_of(args, read_only=True) as settlements:
        limit = readers.whole_number(least=1, most=_MOST_LISTED)("--limit", args.limit)
        found = settlements.list_open(replace(_filter(args), limit=limit + 1))
    rows = [_shown(row) for row in found[:limit]]
    if args.output in ("table", "plain"):
        rows = [{name: row[name] for name in _SHOWN} for row in rows]
    print_rows(rows, output=args.output)
    if len(found) > limit:
        say(f"There are more than {limit:,} rows: see {_COMMAND} status, or give --limit.")


@command
def settle_rows(args: Namespace) -> None:
    """Settle rows by their keys, those that a filter finds, or those of a file."""
    with ledger_of(args) as settlements:
        wanted = _decisions(args, settlements)
        if not wanted:
            say("There is nothing to settle.")
        summary = settle(settlements, wanted, by=decided_by(args))
    rows = [{"result": f"settled as {decision}", "rows": count} for decision, count in summary["settled_as"].items()]
    others = {name: count for name, count in summary.items() if name in ("already", "left", "stale", "contradicted")}
    rows += [{"result": result, "rows": count} for result, count in others.items() if count]
    print_rows(rows, output=args.output)
    for line in describe(summary):
        say(line)
    if summary["stale"] or summary["contradicted"]:
        raise SystemExit(2)


def _decisions(args: Namespace, settlements: Settlements) -> list[RowDecision]:
    """Return what the arguments ask for.

    :raises ParameterError: they do not say, or contradict each other.
    """
    filters = [name for name in ("state", "operation", "dag_id", "task_id", "run_id", "older_than") if getattr(args, name)]
    ways = {"keys": bool(args.key), "--from-file": bool(args.from_file), "a filter such as --state": bool(filters)}
    if sum(ways.values()) != 1:
        given = ", ".join(name for name, is_given in ways.items() if is_given) or "none of them"
        raise ParameterError(f"give the keys of rows, --from-file, or a filter such as --state parked; given: {given}")
    if args.version and len(args.key) != 1:
        raise ParameterError("--version is that of one row: give its key")
    if args.from_file:
        if args.decision:
            raise ParameterError("--decision is not for --from-file: each row of the file has its own")
        found = decisions("the file", _read(args.from_file)).rows
        return [replace(one, note=one.note or args.note) for one in found]
    decision = read_decision(args.decision or "")
    if decision is None:
        raise ParameterError(f"--decision must be one of {', '.join(WORDS)}, got {args.decision!r}")
    if args.key:
        return [RowDecision(key=key, decision=decision, version=args.version, note=args.note) for key in args.key]
    rows = settlements.list_open(_filter(args))
    # Who asks for refused rows does not think of these.
    doubts = [row for row in rows if row.kind == "rejected" and row.in_doubt]
    if doubts and decision is Decision.SEND:
        raise ParameterError(
            f"{len(doubts):,} of these rejected rows may have been carried out before they were refused, such as "
            f"{doubts[0].key}: look each one up, and settle it by its key"
        )
    _confirm(rows, decision=decision, yes=args.yes)
    return [RowDecision(key=row.key, decision=decision, version=row.version, note=args.note) for row in rows]


def _confirm(rows: Sequence[OpenRow], *, decision: Decision, yes: bool) -> None:
    """Show what is to be settled, and ask."""
    for operation, kind, reason, count in count_reasons(rows):
        say(f"{count:,} {kind} rows of {operation}: {reason}")
    if rows:
        confirm(
            f"Settle these {len(rows):,} rows as {decision}?",
            yes=yes,
            unattended=f"{len(rows):,} rows would be settled as {decision}: look at them",
        )


def _read(path: str) -> Any:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
        found = json.loads(text)
    except OSError as error:
        raise ParameterError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ParameterError(f"{path} is not JSON{where}") from None
    return [found] if isinstance(found, Mapping) and "key" in found else found


def _filter(args: Namespace) -> Filter:
    state, older_than = getattr(args, "state", None), getattr(args, "older_than", None)
    kinds = list(KINDS) if state is None else [word.strip().lower() for word in state.split(",") if word.strip()]
    # Of no state at all, there would be nothing to list and to settle.
    if unknown := [kind for kind in kinds or [state] if kind not in LISTED]:
        raise ParameterError(f"--state must be one of {', '.join(LISTED)}, or several with commas, got {unknown[0][:60]!r}")
    return Filter(
        kinds=kinds,
        # As the operator's parameter has it, or as the ledger has it.
        operation=find_operation(args.operation).name if args.operation in OPERATIONS else args.operation,
        dag_id=args.dag_id,
        task_id=args.task_id,
        run_id=args.run_id,
        older_than=None if not older_than else times.span()("--older-than", older_than).total_seconds(),
    )


def _shown(row: OpenRow) -> dict[str, Any]:
    found = asdict(row)
    found["state"] = found.pop("kind")
    return {**{name: found.pop(name) for name in ("key", "row_key", "state", "reason")}, **found, "since": shown_time(row.since)}
