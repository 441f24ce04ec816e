# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The table of previews: what the API would decide. Nothing changes there, so nothing needs to be claimed."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.dialect import VALUE, Session
from limio_limitrail.usage.ledger.ledger import Claim
from limio_limitrail.usage.ledger.left_in_doubt import LeftInDoubt
from limio_limitrail.usage.ledger.model import Entry, Outcome, UsageRow, Worker
from limio_limitrail.usage.ledger.rules import Policy
from limio_limitrail.usage.ledger.sql import instant
from limio_limitrail.usage.ledger.table import KEY, OUTCOME, WORKER, Type, find_name, prepare_table
from limio_limitrail.usage.ledger.transactions import PAUSES, Transactions

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.persistent_connection import PersistentConnection

COLUMNS: dict[str, Type] = {
    KEY: Type.TEXT,
    "state": Type.TEXT,
    "row_key": Type.TEXT,
    **{name: Type.NUMBER if name == "http_status" else Type.TEXT for name in OUTCOME},
    "fees": Type.TEXT,
    "answer": Type.TEXT,
    **{name: Type.NUMBER if name in ("map_index", "try_number") else Type.TEXT for name in WORKER if name != "claim_id"},
    "previewed_at": Type.INSTANT,
}


class Previews:
    """Stands where a ledger does, for rows that may be sent any number of times.

    :param database: where the table is.
    :param table: the table; a row's newest preview replaces the one before.
    :param worker: who asks.
    """

    def __init__(self, *, database: PersistentConnection, table: str, worker: Worker) -> None:
        self.table = table
        self._transactions = Transactions(database, table=table)
        self.worker = worker
        self._rows: dict[str, UsageRow] = {}

    def prepare(self) -> None:
        """Make the table where there is none.

        :raises LedgerError: there is a table of that name that holds no previews.
        :raises LandingError: the database refused.
        """
        prepare_table(self._transactions, self.table, columns=COLUMNS, unfit="holds no previews", parameter="preview_table")

    def settled(self, rows: Sequence[UsageRow], *, policy: Policy) -> dict[str, Entry]:  # noqa: ARG002 - as a ledger is called
        """Have nothing that stands."""
        return {}

    def claim(self, rows: Sequence[UsageRow], *, policy: Policy) -> list[Claim]:  # noqa: ARG002 - as a ledger is called
        """Grant everything."""
        self._rows |= {row.key: row for row in rows}
        return [Claim(row=row, granted=True, entry=None) for row in rows]

    def record(self, outcomes: Mapping[str, Outcome]) -> None:
        """Write previews down in the place of older ones."""
        if not outcomes:
            return
        now = instant(int(time.time() * 1000))
        worker = {name: getattr(self.worker, name) for name in WORKER if name != "claim_id"}

        def write(session: Session) -> None:
            dialect = session.dialect
            table = dialect.qualified(find_name(self.table, dialect=dialect))
            keys = ", ".join([VALUE] * len(outcomes))
            session.execute(f"DELETE FROM {table} WHERE {dialect.quote(KEY)} IN ({keys})", *outcomes)
            names = ", ".join(dialect.quote(name) for name in COLUMNS)
            one = f"({', '.join(f'CAST({VALUE} AS {type_.of(dialect)})' for type_ in COLUMNS.values())})"
            values: list[object] = []
            for key, outcome in outcomes.items():
                values += [key, outcome.state.value, self._rows[key].row_key]
                values += [getattr(outcome, name) for name in OUTCOME]
                values += [outcome.fees, outcome.answer, *worker.values(), now]
            session.execute(f"INSERT INTO {table} ({names}) VALUES {', '.join([one] * len(outcomes))}", *values)

        self._transactions.run(write, pauses=PAUSES)
        # Only now: what could not be written is written down once more.
        for key in outcomes:
            del self._rows[key]

    def release(self, claims: Iterable[Claim]) -> None:
        """Have nothing to give back."""

    def renew(self, keys: Sequence[str]) -> None:
        """Have no lease to renew."""

    def left_in_doubt(self, among: Callable[[Sequence[str]], Collection[str]]) -> LeftInDoubt:  # noqa: ARG002 - likewise
        """Have nothing in doubt: a preview changes nothing."""
        return LeftInDoubt()
