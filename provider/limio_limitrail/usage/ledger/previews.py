# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The table of previews."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.session import Session
from limio_limitrail.usage.ledger.claims import Claim
from limio_limitrail.usage.ledger.model import Entry, Outcome, UsageRow, Worker
from limio_limitrail.usage.ledger.other_rows import LeftInDoubt
from limio_limitrail.usage.ledger.rules import Policy
from limio_limitrail.usage.ledger.sql import instant
from limio_limitrail.usage.ledger.table import (
    KEY,
    OUTCOME,
    WORKER,
    TableSpec,
    check_writable,
    find_name,
    prepare_table,
    replace_rows,
    table_exists,
    typed,
)
from limio_limitrail.usage.ledger.transactions import Transactions

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.persistent_connection import PersistentConnection

_WORKER = tuple(name for name in WORKER if name != "claim_id")
_OUTCOME = (*OUTCOME, "fees", "answer")
PREVIEW_COLUMNS = typed(KEY, "state", "row_key", *_OUTCOME, *_WORKER, "previewed_at")
PREVIEWS = TableSpec(columns=PREVIEW_COLUMNS, unfit="holds no previews", parameter="preview_table")


class Previews:
    """The ledger of previews: rows that change nothing need no claim, and may be sent any number of times."""

    def __init__(self, *, database: PersistentConnection, table: str, worker: Worker) -> None:
        self.table = table
        self._transactions = Transactions(database, table=table)
        self.worker = worker
        self._rows: dict[str, UsageRow] = {}
        self._granted = 0

    def prepare(self) -> None:
        """Create the table if it does not exist. One of that name that holds no previews raises a `LedgerError`."""
        prepare_table(self._transactions, self.table, PREVIEWS)

    def exists(self) -> bool:
        """Return whether the table exists. One of that name that holds no previews raises a `LedgerError`."""
        return table_exists(self._transactions, self.table, PREVIEWS)

    def check_run(self, *, policy: Policy) -> None:  # noqa: ARG002 - as of a `Ledger`
        """Check that a run could create and change the table as it must; raises a `LedgerError` if not."""
        check_writable(self._transactions, self.table, PREVIEWS)

    def settled(self, rows: Sequence[UsageRow], *, policy: Policy) -> dict[str, Entry]:  # noqa: ARG002 - as of a `Ledger`
        """Return nothing: every row is sent."""
        return {}

    def claim(self, rows: Sequence[UsageRow], *, policy: Policy) -> list[Claim]:
        """Grant every row, up to the policy's limit."""
        claims = []
        for row in rows:
            is_new = row.key not in self._rows
            left = is_new and policy.limit is not None and self._granted >= policy.limit
            if is_new and not left:
                self._granted += 1
                self._rows[row.key] = row
            claims.append(Claim(row=row, granted=not left, entry=None, left=left))
        return claims

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
            replace_rows(session, table, columns=PREVIEW_COLUMNS, rows=rows)

        self._transactions.run(write)
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
