# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The table of previews: what the API would decide."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.dialect import Session
from limio_limitrail.usage.ledger.ledger import Claim
from limio_limitrail.usage.ledger.left_in_doubt import LeftInDoubt
from limio_limitrail.usage.ledger.model import Entry, Outcome, UsageRow, Worker
from limio_limitrail.usage.ledger.rules import Policy
from limio_limitrail.usage.ledger.sql import instant
from limio_limitrail.usage.ledger.table import KEY, OUTCOME, WORKER, TableSpec, find_name, prepare_table, replace_rows, typed
from limio_limitrail.usage.ledger.transactions import PAUSES, Transactions

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.persistent_connection import PersistentConnection

_WORKER = tuple(name for name in WORKER if name != "claim_id")
_OUTCOME = (*OUTCOME, "fees", "answer")
COLUMNS = typed(KEY, "state", "row_key", *_OUTCOME, *_WORKER, "previewed_at")
PREVIEWS = TableSpec(columns=COLUMNS, unfit="holds no previews", parameter="preview_table")


class Previews:
    """The ledger of previews: rows that change nothing need no claim, and may be sent any number of times.

    :param table: the table of previews; a row's newest preview replaces the one before.
    """

    def __init__(self, *, database: PersistentConnection, table: str, worker: Worker) -> None:
        self.table = table
        self._transactions = Transactions(database, table=table)
        self.worker = worker
        self._rows: dict[str, UsageRow] = {}

    def prepare(self) -> None:
        """Create the table if it does not exist.

        :raises LedgerError: there is a table of that name that holds no previews.
        :raises LandingError: the database refused.
        """
        prepare_table(self._transactions, self.table, PREVIEWS)

    def settled(self, rows: Sequence[UsageRow], *, policy: Policy) -> dict[str, Entry]:  # noqa: ARG002 - as of a `Ledger`
        """Return nothing: every row is sent."""
        return {}

    def claim(self, rows: Sequence[UsageRow], *, policy: Policy) -> list[Claim]:  # noqa: ARG002 - as of a `Ledger`
        """Grant every row."""
        self._rows |= {row.key: row for row in rows}
        return [Claim(row=row, granted=True, entry=None) for row in rows]

    def record(self, outcomes: Mapping[str, Outcome]) -> None:
        """Write previews, and replace older ones of the same rows."""
        if not outcomes:
            return
        now = instant(int(time.time() * 1000))
        worker = [getattr(self.worker, name) for name in _WORKER]

        def write(session: Session) -> None:
            table = session.dialect.qualified(find_name(self.table, dialect=session.dialect))
            rows = [
                [key, outcome.state.value, self._rows[key].row_key, *(getattr(outcome, name) for name in _OUTCOME), *worker, now]
                for key, outcome in outcomes.items()
            ]
            replace_rows(session, table, columns=COLUMNS, rows=rows)

        self._transactions.run(write, pauses=PAUSES)
        # Only now: what could not be written is written again.
        for key in outcomes:
            del self._rows[key]

    def release(self, claims: Iterable[Claim]) -> None:
        """Do nothing: nothing was claimed in the table."""

    def renew(self, keys: Sequence[str]) -> None:
        """Do nothing: there are no leases."""

    def left_in_doubt(self, among: Callable[[Sequence[str]], Collection[str]]) -> LeftInDoubt:  # noqa: ARG002 - as of a `Ledger`
        """Return an empty count: a preview changes nothing."""
        return LeftInDoubt()
