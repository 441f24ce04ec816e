# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Change many rows of a DuckDB table, which keeps all that an UPDATE writes in memory until the transaction ends.

The new values are collected first, with the identifiers of their rows: a temporary table may go to the disk. If they are many,
copies of the rows with these values are inserted, and the rows deleted; else the rows are updated, with the memory for it.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.dialect import quoted
from limio_limitrail.landing.sql.duckdb_slices import DELETED_ROW, SLICE_SIZE
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.names import ascii_lower
from limio_limitrail.landing.sql.pair_slices import ROW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limio_limitrail.landing.sql.dialect import Update
    from limio_limitrail.landing.sql.duckdb import DuckSession

SMALL_UPDATE = 16 * 1024 * 1024
"""Bytes of memory up to which rows are updated without collecting their values."""

MOST_UPDATED = 256 * 1024 * 1024
"""Bytes of memory that the updates of a transaction may take together, where rows can be replaced by copies."""

_VALUE_BYTES = 40
"""Bytes for each value in an UPDATE's memory, as measured; a text also takes twice its length."""

_LIKELY_TEXT = 40
"""Bytes of a text that is not known yet."""


def update_rows(session: DuckSession, update: Update, values: Sequence[object]) -> int:
    """Change rows; return how many; see `Session.update_rows`."""
    columns = session.columns(update.table) or ()
    [(rows,)] = session.query(f"SELECT count(*) FROM {session.dialect.qualified(update.table)}")
    most = rows * len(update.assignments) * (_VALUE_BYTES + 2 * _LIKELY_TEXT) + 2 * session.staged_size
    # A column of the name would hide the identifiers of rows.
    if most <= SMALL_UPDATE or any(ascii_lower(column.name) == "rowid" for column in columns):
        return session.update_in_place(update, *values)
    types = {quoted(column.name): column.type for column in columns}
    changed = quoted(f"_limio_changed_{uuid.uuid4().hex}")
    new = [f"CAST({value} AS {types[name]}) AS v{at}" for at, (name, value) in enumerate(update.assignments)]
    source = "" if update.source is None else f", {update.source} AS s"
    table = session.dialect.qualified(update.table)
    session.execute(
        f"CREATE TEMPORARY TABLE {changed} AS SELECT t.rowid AS {ROW}, {', '.join(new)} FROM {table} AS t{source} "
        f"WHERE {update.condition}",
        *values,
    )
    texts = [
        f"coalesce(sum(strlen(CAST(v{at} AS VARCHAR))), 0)"
        for at, (name, _) in enumerate(update.assignments)
        if types[name] in ("VARCHAR", "JSON")
    ]
    counted = ["count(*)", f"count(DISTINCT {ROW})", " + ".join(texts) or "0"]
    [(wanted, different, size)] = session.query(f"SELECT {', '.join(counted)} FROM {changed}")
    if wanted != different:
        session.execute(f"DROP TABLE {changed}")
        return session.update_in_place(update, *values)
    memory = wanted * len(update.assignments) * _VALUE_BYTES + 2 * int(size)
    if session.may_replace_rows(update.table, memory=memory, most=MOST_UPDATED):
        others = [name for name in types if name not in dict(update.assignments)]
        slices = -(-memory // SLICE_SIZE)
        written = sum(
            _replace(session, update, changed=changed, others=others, first=first, last=last)
            for first, last in session.query(_bounds(changed, rows=-(-wanted // slices)))
        )
    else:
        session.settings.allow_changes(memory)
        assigned = [(name, f"s.v{at}") for at, (name, _) in enumerate(update.assignments)]
        written = session.execute(session.dialect.update(table, changed, assigned, f"t.rowid = s.{ROW}"))
    session.execute(f"DROP TABLE {changed}")
    if written != wanted:
        raise LandingError(f"{update.table}: {wanted} rows were to be changed and DuckDB counts {written}; nothing was written")
    return written


def _bounds(changed: str, *, rows: int) -> str:
    """Select the first and the last identifier of so many changed rows at a time."""
    numbered = f"SELECT {ROW}, (row_number() OVER (ORDER BY {ROW}) - 1) // {rows} AS number FROM {changed}"
    return f"SELECT min({ROW}), max({ROW}) FROM ({numbered}) GROUP BY number ORDER BY number"


def _replace(session: DuckSession, update: Update, *, changed: str, others: Sequence[str], first: int, last: int) -> int:
    """Insert copies of some rows with new values, and delete the rows; return how many."""
    table = session.dialect.qualified(update.table)
    names = [*(name for name, _ in update.assignments), *others]
    new = [*(f"s.v{at}" for at, _ in enumerate(update.assignments)), *(f"t.{name}" for name in others)]
    some = f"(SELECT * FROM {changed} WHERE {ROW} BETWEEN {first} AND {last}) AS s"
    inserted = session.execute(
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(new)} FROM {table} AS t JOIN {some} ON t.rowid = s.{ROW}"
    )
    deleted = session.execute(f"DELETE FROM {table} AS t USING {some} WHERE t.rowid = s.{ROW}")
    session.settings.allow_changes(deleted * DELETED_ROW)
    if inserted != deleted:
        raise LandingError(f"{update.table}: {inserted} rows were to replace {deleted}; nothing was written")
    return deleted
