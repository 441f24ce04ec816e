# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows that the ledger knows already: under other keys, or with other bodies."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from limio_limitrail.troubleshooting import ExplainedError
from limio_limitrail.usage.ledger.ledger import Ledger
from limio_limitrail.usage.ledger.rekeyed_rows import Sender, fill_all_identities, find_rekeyed, refuse_rekeyed
from limio_limitrail.usage.ledger.row_identity import read_row_key, same_row

if TYPE_CHECKING:
    from limio_limitrail.usage.commit_summary import CommitSummary
    from limio_limitrail.usage.ledger.model import Worker
    from limio_limitrail.usage.ledger.previews import Previews
    from limio_limitrail.usage.row_buffer import RowBuffer

log = logging.getLogger("limio_limitrail.usage")


def check_same_rows(book: Ledger | Previews, *, row_buffer: RowBuffer, worker: Worker, on_rekeyed: str) -> int:
    """Look for rows that the ledger holds under other keys, before anything is sent.

    :param on_rekeyed: what to do with them: ``fail``, ``settle`` or ``send``.
    :returns: how many count as settled by what stands there.
    :raises RekeyedRowsError: there are some, and they are to fail the task.
    """
    if not isinstance(book, Ledger) or on_rekeyed == "send" or not row_buffer.total:
        return 0
    total = row_buffer.total - row_buffer.duplicates
    _warn_of_twins(row_buffer, operation=book.operation)
    fill_all_identities(book)
    sender = Sender(worker=worker, conn_id=book.conn_id, tenant=book.tenant, namespace=book.namespace, zone=book.default_zone())
    found = find_rekeyed(book, row_buffer, sender=sender, total=total)
    if found.keys and on_rekeyed == "fail":
        raise refuse_rekeyed(found, operation=book.operation, table=book.table, total=total)
    book.settle_elsewhere(found.keys)
    return len(found.keys)


def _warn_of_twins(row_buffer: RowBuffer, *, operation: str) -> None:
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
    book: Ledger | Previews, *, row_buffer: RowBuffer, tally: CommitSummary, table: str, with_bodies: bool, batch_size: int
) -> Exception | None:
    """List the rows that were carried out earlier with other bodies.

    :param table: where they are listed.
    :param with_bodies: whether their new bodies are listed, too.
    :param batch_size: how many are written in one transaction.
    :returns: the error, where they could not be listed.
    """
    if not isinstance(book, Ledger):
        return None
    try:
        for at in range(0, tally.changed, batch_size):
            rows = [row_buffer.row(number - 1) for number in tally.changed_rows[at : at + batch_size]]
            book.list_changes(rows, table=table, with_bodies=with_bodies)
    except Exception as error:  # noqa: BLE001 - raised by the caller when everything else is done
        why = error.what if isinstance(error, ExplainedError) else type(error).__name__
        log.warning("%s rows that came with another body could not be listed in %s: %s", f"{tally.changed:,}", table, why)
        return error
    return None
