# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows that the ledger knows: under other keys, or with other bodies."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from limio_limitrail.troubleshooting import ExplainedError
from limio_limitrail.usage.ledger.ledger import Ledger
from limio_limitrail.usage.ledger.rekeyed_rows import find_rekeyed, refuse_rekeyed
from limio_limitrail.usage.ledger.row_identity import read_row_key, same_row

if TYPE_CHECKING:
    from limio_limitrail.usage.ledger.model import Worker
    from limio_limitrail.usage.ledger.previews import Previews
    from limio_limitrail.usage.row_buffer import RowBuffer
    from limio_limitrail.usage.summary import OutcomeCounts

log = logging.getLogger("limio_limitrail.usage")


def check_same_rows(ledger: Ledger | Previews, *, row_buffer: RowBuffer, worker: Worker, on_rekeyed: str) -> int:
    """Look for rows that the ledger holds under other keys, before anything is sent.

    :param on_rekeyed: what to do with them: ``fail``, ``settle`` or ``send``.
    :returns: how many count as settled by those entries.
    :raises RekeyedRowsError: there are some, and ``on_rekeyed`` is ``fail``.
    """
    if not isinstance(ledger, Ledger) or on_rekeyed == "send" or not row_buffer.total:
        return 0
    total = row_buffer.total - row_buffer.duplicates
    _warn_of_similar_rows(row_buffer, operation=ledger.operation)
    found = find_rekeyed(ledger, row_buffer, worker=worker, zone=ledger.default_zone(), total=total)
    if found.keys and on_rekeyed == "fail":
        raise refuse_rekeyed(found, operation=ledger.operation, table=ledger.table, total=total)
    ledger.settle_elsewhere(found.keys)
    return len(found.keys)


def _warn_of_similar_rows(row_buffer: RowBuffer, *, operation: str) -> None:
    """Warn of rows of one task that seem to be one row written in two ways; each is sent."""
    example, count = "", 0
    for one, other in row_buffer.alike():
        values = [read_row_key(row.row_key) for row in (one, other)]
        if values[0] is not None and values[1] is not None and same_row(values[0], values[1]):
            count += 1
            example = example or f"{one} and {other}"
    if count:
        log.warning(
            "%s: %s rows are written like others of this task but for types, blanks, zones or forms of letters, for example %s. "
            "They have different keys, and each is sent. If they are one row, write their key columns in one way in the query.",
            operation,
            f"{count:,}",
            example,
        )


def list_changes(
    ledger: Ledger | Previews, *, row_buffer: RowBuffer, counts: OutcomeCounts, table: str, with_bodies: bool, batch_size: int
) -> Exception | None:
    """List the rows that were carried out earlier with other bodies.

    :returns: the error, if they could not be listed.
    """
    if not isinstance(ledger, Ledger):
        return None
    try:
        for at in range(0, counts.changed, batch_size):
            rows = [row_buffer.row(number - 1) for number in counts.changed_rows[at : at + batch_size]]
            ledger.list_changes(rows, table=table, with_bodies=with_bodies)
    except Exception as error:  # noqa: BLE001 - the caller raises it in the end
        why = error.what if isinstance(error, ExplainedError) else type(error).__name__
        log.warning("%s rows that came with another body could not be listed in %s: %s", f"{counts.changed:,}", table, why)
        return error
    return None
