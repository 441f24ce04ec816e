# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The table of changed rows: rows that were carried out, and came again with another body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.usage.ledger.digests import differing_members
from limio_limitrail.usage.ledger.model import UsageRow
from limio_limitrail.usage.ledger.sql import instant
from limio_limitrail.usage.ledger.table import KEY, TableSpec, find_name, make_table, replace_rows, typed

if TYPE_CHECKING:
    from limio_limitrail.usage.ledger.sql import LedgerStatements

_WORKER = ("dag_id", "task_id", "run_id", "map_index")

COLUMNS = typed(KEY, "operation", "row_key", "members", "seen_at", "finished_at", *_WORKER, "body_digest", "body_members", "body")

CHANGES = TableSpec(columns=COLUMNS, unfit="holds no changed rows", parameter="changes_table")

PATH = "(path)"
"""In the list of members: the request's path differs."""


def write_changes(
    sql: LedgerStatements, rows: Sequence[UsageRow], *, operation: str, table: str, with_bodies: bool, now: int
) -> None:
    """List rows in the table, which is created if it does not exist, and replace what was listed of them before.

    :param now: the ledger's time, in milliseconds since 1970.
    """
    session, dialect = sql.session, sql.session.dialect
    make_table(session, find_name(table, dialect=dialect), CHANGES)
    quote = dialect.quote
    ledger, changes = sql.qualified_table, dialect.qualified(find_name(table, dialect=dialect))
    keys = [row.key for row in rows]
    among = f"{quote(KEY)} IN ({', '.join([VALUE] * len(keys))})"
    sent = dict(session.query(f"SELECT {quote(KEY)}, {quote('body_members')} FROM {ledger} WHERE {among}", *keys))
    changed = []
    for row in rows:
        worker = [getattr(sql.worker, name) for name in _WORKER]
        body = row.body.decode() if with_bodies and row.body is not None else None
        members = _differing(row, sent.get(row.key))
        changed.append([row.key, operation, row.row_key, members, instant(now), None, *worker, row.digest, row.members, body])
    replace_rows(session, changes, columns=COLUMNS, rows=changed)
    finished = f"SELECT l.{quote('finished_at')} FROM {ledger} AS l WHERE l.{quote(KEY)} = {changes}.{quote(KEY)}"
    session.execute(f"UPDATE {changes} SET {quote('finished_at')} = ({finished}) WHERE {among}", *keys)


def _differing(row: UsageRow, sent: Any) -> str | None:
    """Return the names of the members that differ, as a JSON list; None if those of the request that was sent are not known."""
    differing = differing_members(row.members, sent)
    return None if differing is None else msgspec.json.encode(differing or [PATH]).decode()
