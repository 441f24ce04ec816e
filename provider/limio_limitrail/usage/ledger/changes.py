# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The table of changed rows: those that were carried out, and have come again with another body since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.usage.ledger.digests import differing_members
from limio_limitrail.usage.ledger.model import UsageRow
from limio_limitrail.usage.ledger.sql import instant
from limio_limitrail.usage.ledger.table import KEY, Type, find_name, make_table

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.dialect import Session
    from limio_limitrail.usage.ledger.sql import Statements

_WORKER = ("dag_id", "task_id", "run_id", "map_index")

COLUMNS: dict[str, Type] = {
    KEY: Type.TEXT,
    "operation": Type.TEXT,
    "row_key": Type.TEXT,
    "members": Type.TEXT,
    "seen_at": Type.INSTANT,
    "finished_at": Type.INSTANT,
    **{name: Type.NUMBER if name == "map_index" else Type.TEXT for name in _WORKER},
    "body_digest": Type.TEXT,
    "body_members": Type.TEXT,
    "body": Type.TEXT,
}

PATH = "(path)"
"""Stands in the list of members where the request's path differs."""


def make_changes_table(session: Session, table: str) -> None:
    """Make the table where there is none.

    :raises LedgerError: there is a table of that name that holds no changed rows.
    """
    name = find_name(table, dialect=session.dialect)
    make_table(session, name, columns=COLUMNS, unfit="holds no changed rows", parameter="changes_table")


def write_changes(sql: Statements, rows: Sequence[UsageRow], *, operation: str, table: str, with_bodies: bool, now: int) -> None:
    """List rows in the place of what was listed of them before.

    :param rows: rows that were carried out with other bodies.
    :param operation: what was done with them.
    :param table: the table of changed rows.
    :param with_bodies: whether the new bodies are listed, too.
    :param now: the ledger's time, in milliseconds since 1970.
    """
    session, dialect = sql.session, sql.session.dialect
    quote = dialect.quote
    ledger, changes = (dialect.qualified(find_name(name, dialect=dialect)) for name in (sql.table, table))
    keys = [row.key for row in rows]
    among = f"{quote(KEY)} IN ({', '.join([VALUE] * len(keys))})"
    sent = dict(session.query(f"SELECT {quote(KEY)}, {quote('body_members')} FROM {ledger} WHERE {among}", *keys))
    session.execute(f"DELETE FROM {changes} WHERE {among}", *keys)
    names = [name for name in COLUMNS if name != "finished_at"]
    one = f"({', '.join(f'CAST({VALUE} AS {COLUMNS[name].of(dialect)})' for name in names)})"
    values: list[object] = []
    for row in rows:
        worker = [getattr(sql.worker, name) for name in _WORKER]
        body = row.body.decode() if with_bodies and row.body is not None else None
        members = _differing(row, sent.get(row.key))
        values += [row.key, operation, row.row_key, members, instant(now), *worker, row.digest, row.members, body]
    columns = ", ".join(quote(name) for name in names)
    session.execute(f"INSERT INTO {changes} ({columns}) VALUES {', '.join([one] * len(rows))}", *values)
    finished = f"SELECT l.{quote('finished_at')} FROM {ledger} AS l WHERE l.{quote(KEY)} = {changes}.{quote(KEY)}"
    session.execute(f"UPDATE {changes} SET {quote('finished_at')} = ({finished}) WHERE {among}", *keys)


def _differing(row: UsageRow, sent: Any) -> str | None:
    """Name the members that differ, as a JSON list; none where those of the request that was sent are not known."""
    differing = differing_members(row.members, sent)
    return None if differing is None else msgspec.json.encode(differing or [PATH]).decode()
