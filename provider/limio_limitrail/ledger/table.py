# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The ledger's table: its columns, how it is made, and how its rows are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from limio_limitrail.landing.sql.dialect import Dialect, Session
from limio_limitrail.landing.sql.names import TableName, table_name
from limio_limitrail.ledger.model import Entry, LedgerError, Outcome, State, Worker


class Type(Enum):
    """What a column holds."""

    TEXT = "text"
    NUMBER = "number"
    INSTANT = "instant"

    def of(self, dialect: Dialect) -> str:
        """Give the type's name in a database."""
        return {
            Type.TEXT: dialect.text_type,
            Type.NUMBER: dialect.integer_type,
            Type.INSTANT: dialect.instant_type,
        }[self]


KEY = "idempotency_key"

COLUMNS: dict[str, Type] = {
    KEY: Type.TEXT,
    "state": Type.TEXT,
    "operation": Type.TEXT,
    "row_key": Type.TEXT,
    "http_status": Type.NUMBER,
    "decision": Type.TEXT,
    "reservation_id": Type.TEXT,
    "error_code": Type.TEXT,
    "resource_key": Type.TEXT,
    "trace_id": Type.TEXT,
    "field": Type.TEXT,
    "detail": Type.TEXT,
    "attempts": Type.NUMBER,
    "body_digest": Type.TEXT,
    "conn_id": Type.TEXT,
    "dag_id": Type.TEXT,
    "task_id": Type.TEXT,
    "run_id": Type.TEXT,
    "map_index": Type.NUMBER,
    "try_number": Type.NUMBER,
    "claim_id": Type.TEXT,
    "lease_until": Type.NUMBER,
    "claimed_at": Type.INSTANT,
    "finished_at": Type.INSTANT,
}

OUTCOME = ("http_status", "decision", "reservation_id", "error_code", "resource_key", "trace_id", "field", "detail")
WORKER = ("dag_id", "task_id", "run_id", "map_index", "try_number", "claim_id")
ENTRY = (KEY, "state", "lease_until", "body_digest", "attempts", *WORKER, *OUTCOME)


def read_entry(values: Sequence[Any]) -> tuple[str, Entry]:
    """Read what a query for the columns of `ENTRY` gave; the row's key comes first."""
    row = dict(zip(ENTRY, values, strict=True))
    try:
        state = State(row["state"])
    except ValueError:
        raise LedgerError(
            f"the ledger's row {row[KEY]} has the state {str(row['state'])[:40]!r}; correct it to one of {', '.join(State)}"
        ) from None
    return row[KEY], Entry(
        state=state,
        worker=Worker(**{name: row[name] for name in WORKER}),
        lease_until=int(row["lease_until"]),
        digest=row["body_digest"],
        attempts=int(row["attempts"]),
        outcome=Outcome(state=state, **{name: row[name] for name in OUTCOME}),
    )


def find_name(text: str, *, dialect: Dialect) -> TableName:
    """Read a table's name as the user wrote it.

    :raises LedgerError: it is none.
    """
    try:
        return table_name(text, fold=dialect.fold)
    except ValueError as wrong:
        raise LedgerError(str(wrong)) from None


def make_table(session: Session, table: TableName, *, columns: Mapping[str, Type], unfit: str, parameter: str) -> None:
    """Make a table with one row a key, where there is none.

    :param columns: its columns, the key first.
    :param unfit: what to say of a table of that name that lacks some, such as ``is no ledger``.
    :param parameter: the parameter that names it.
    :raises LedgerError: there is such a table.
    """
    dialect = session.dialect
    session.lock(table)
    found = session.columns(table)
    if found is None:
        described = [f"{dialect.quote(name)} {type_.of(dialect)}" for name, type_ in columns.items()]
        described[0] += " NOT NULL"
        described.append(f"PRIMARY KEY ({dialect.quote(KEY)})")
        session.execute(f"CREATE TABLE {dialect.qualified(table)} ({', '.join(described)})")
        return
    lacking = sorted(set(columns) - {column.name.lower() for column in found})
    if lacking:
        raise LedgerError(
            f"the table {table} {unfit} of this version: it lacks {', '.join(lacking)}. "
            f"Give another {parameter}=, or add the columns"
        )
