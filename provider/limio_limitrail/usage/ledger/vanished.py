# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Entries of claimed rows that are no longer in the table, as after a failover to a server that lagged behind."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limio_limitrail.usage.ledger.model import UsageRow
    from limio_limitrail.usage.ledger.sql import LedgerStatements

log = logging.getLogger("limio_limitrail.usage.ledger")


def add_vanished(
    sql: LedgerStatements,
    keys: Collection[str],
    *,
    claimed: Mapping[str, UsageRow],
    about: Mapping[str, Any],
    now: int,
    lease_until: int,
) -> list[UsageRow]:
    """Add the entries of those rows again that have none; return the rows.

    :param claimed: the rows that the worker has claimed, by key.
    """
    there = sql.entries(list(keys))
    vanished = [claimed[key] for key in sorted(keys) if key not in there and key in claimed]
    if vanished:
        sql.insert(vanished, about=about, now=now, lease_until=lease_until)
    return vanished


def log_vanished(rows: Sequence[UsageRow], *, table: str) -> None:
    """Log the rows whose entries had vanished."""
    if rows:
        log.warning(
            "%d rows that this task had recorded were no longer in the table %s, such as %s, and are added again. Others may be "
            "missing that were settled shortly before, and would then be sent once more. Look whether somebody deletes rows, or "
            "whether the database has failed over to a server that lagged behind.",
            len(rows),
            table,
            rows[0],
        )
