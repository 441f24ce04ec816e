# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a ledger holds after settlements, and a settlement in a process of its own, which is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from limio_limitrail.usage.ledger import settlement as settlement_module
from limio_limitrail.usage.ledger.settlement import Decision, RowDecision, Settlements
from tests.support.databases import Database
from tests.support.ledgers import FailingDatabase


def states(database: Database, table: str = "ledger") -> dict[str, str]:
    """Return the states by key."""
    return {key: state for key, (state,) in columns(database, "state", table=table).items()}


def columns(database: Database, *names: str, table: str = "ledger") -> dict[str, tuple[Any, ...]]:
    """Return some columns by key."""
    return {row[0]: row[1:] for row in database.query(f"SELECT idempotency_key, {', '.join(names)} FROM {table}")}


def settle_in_a_process(database: Database, keys: Sequence[str], *, word: str, kill: str) -> int:
    """Settle rows, two in a transaction, in a process that kills itself; return its exit code.

    :param kill: ``before the commit`` or ``after the commit`` of the first transaction.
    """
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            settlement_module.BATCH = 2
            settlements = Settlements(database=FailingDatabase(database.hook()), table="ledger", changes_table="changes")
            write, written = settlement_module.write_settlements, []

            def write_and_die(*args: Any, **more: Any) -> None:
                if kill == "after the commit" and written:
                    os.kill(os.getpid(), signal.SIGKILL)
                write(*args, **more)
                written.append(1)
                if kill == "before the commit":
                    os.kill(os.getpid(), signal.SIGKILL)

            settlement_module.write_settlements = write_and_die  # type: ignore[assignment]
            decisions = [RowDecision(key=key, decision=Decision(word)) for key in keys]
            settlements.settle(decisions, by="ada", settlement_id="run-1")
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
