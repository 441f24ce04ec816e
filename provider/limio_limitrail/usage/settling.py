# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Settle usage rows: what the operator and the command line share."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, TypedDict

from limio_limitrail.usage.ledger.settlement import RowDecision, SettlementResult, Settlements
from limio_limitrail.usage.ledger.states import PermanentUsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.providers.common.sql.hooks.sql import DbApiHook

log = logging.getLogger("limio_limitrail.usage")

DUCKDB_WAIT = 60.0
"""Seconds to wait until another process closes a DuckDB file."""

MAX_RUNS = 10
"""Runs with free rows that a log shows."""


class SettlementConflictError(PermanentUsageError):
    """Somebody else has settled some rows otherwise meanwhile. They stay as that one has decided; all others are settled."""


class RowsToSend(TypedDict):
    """Rows that are free to be sent, by the task that wrote them last."""

    dag_id: str
    task_id: str
    run_id: str
    rows: int


class UsageSettlementSummary(TypedDict):
    """What a settlement returns, and what its XCom holds, also when the task fails."""

    table: str
    decisions: int
    settled: int
    settled_as: dict[str, int]
    already: int
    left: int
    stale: int
    contradicted: int
    examples: list[str]
    to_send: list[RowsToSend]
    seconds: float


@contextmanager
def open_settlements(
    hook: DbApiHook, *, ledger_table: str, changes_table: str, read_only: bool = False, duckdb_wait: float = DUCKDB_WAIT
) -> Iterator[Settlements]:
    """Open a ledger to list and settle its rows.

    :param read_only: whether rows are listed only: the connection's user may then lack the privilege to change them.
    :param duckdb_wait: seconds to wait until another process closes a DuckDB file.
    :raises LedgerError: there is none.
    :raises LandingError: the database cannot be used.
    """
    from limio_limitrail.landing.sql.persistent_connection import PersistentConnection

    with closing(PersistentConnection(hook, duckdb_wait=duckdb_wait)) as database:
        settlements = Settlements(database=database, table=ledger_table, changes_table=changes_table)
        settlements.prepare(read_only=read_only)
        yield settlements


def settle(
    settlements: Settlements, decisions: Sequence[RowDecision], *, by: str, settlement_id: str | None = None
) -> UsageSettlementSummary:
    """Carry out decisions, log what came of them, and return a summary.

    :raises SettlementError: some fit no row; nothing was settled.
    """
    began = time.monotonic()
    result = settlements.settle(decisions, by=by, settlement_id=settlement_id)
    summary = summarize(result, table=settlements.table, decisions=len(decisions), seconds=time.monotonic() - began)
    for line in describe(summary):
        log.log(logging.WARNING if line.startswith(_WARNINGS) else logging.INFO, "%s", line)
    return summary


def summarize(result: SettlementResult, *, table: str, decisions: int, seconds: float) -> UsageSettlementSummary:
    """Return the summary of a settlement."""
    runs = sorted(result.to_send.items(), key=lambda item: (-item[1], item[0]))
    return {
        "table": table,
        "decisions": decisions,
        "settled": result.count,
        "settled_as": dict(result.settled),
        "already": result.already,
        "left": result.left,
        "stale": result.stale,
        "contradicted": result.contradicted,
        "examples": list(result.examples),
        "to_send": [
            {"dag_id": dag_id, "task_id": task_id, "run_id": run_id, "rows": rows} for (dag_id, task_id, run_id), rows in runs
        ],
        "seconds": seconds,
    }


_STALE = "No longer what was decided upon"
_CONTRADICTED = "Settled otherwise by somebody else"
_WARNINGS = (_STALE, _CONTRADICTED, "For example")


def describe(summary: UsageSettlementSummary) -> Iterator[str]:
    """Yield what came of decisions, and what to do next, in lines for people."""
    for decision, rows in summary["settled_as"].items():
        yield f"Settled as {decision}: {rows:,} rows in {summary['table']}."
    if summary["already"]:
        yield f"Settled so before: {summary['already']:,} rows."
    if summary["left"]:
        yield f"Left as they are: {summary['left']:,} rows."
    if summary["stale"]:
        yield f"{_STALE}: {summary['stale']:,} rows. They stay as they are; list the open rows and decide anew."
    if summary["contradicted"]:
        yield f"{_CONTRADICTED} meanwhile: {summary['contradicted']:,} rows. They stay so; agree with that person."
    for example in summary["examples"]:
        yield f"For example {example}."
    for run in summary["to_send"][:MAX_RUNS]:
        yield (
            f"Free to be sent: {run['rows']:,} rows. The next task that has them sends them: clear the task {run['task_id']} in "
            f"the run {run['run_id']} of the Dag {run['dag_id']}, or run another one with these rows."
        )


def conflict(summary: UsageSettlementSummary) -> SettlementConflictError | None:
    """Return the error for rows that somebody else has settled otherwise; None if there are none."""
    if not summary["contradicted"]:
        return None
    return SettlementConflictError(
        f"{summary['contradicted']:,} of {summary['decisions']:,} decisions were not carried out, because somebody else has "
        f"settled these rows of {summary['table']} otherwise meanwhile: {'; '.join(summary['examples'])}. All others are "
        "settled. Agree with that person, and settle them again if they are wrong"
    )


def settlement_query(*, table: str, by: str) -> str:
    """Return the query that shows what somebody has settled, the last first."""
    who = by.replace("'", "''")
    return f"SELECT * FROM {table} WHERE settled_by = '{who}' ORDER BY settled_at DESC, row_key"  # nosec B608 # noqa: S608 - for people
