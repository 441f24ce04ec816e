# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A large merge into a DuckDB table in slices, because a join of all columns of all rows would have to be held, or spilled.

The pairs of a staged row and a row of the table are found by their keys alone. Each slice then compares some of the staged rows
with the table's rows of these pairs, which DuckDB finds by their identifiers, without reading the rest of the table.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.dialect import quoted
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.names import ascii_lower
from limio_limitrail.landing.sql.pair_slices import ROW, PairSlice
from limio_limitrail.landing.sql.staged_rows import SEQUENCE
from limio_limitrail.landing.sql.statements import LoadStatements

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.duckdb import DuckSession
    from limio_limitrail.landing.sql.plan import ColumnPlan
    from limio_limitrail.landing.sql.session import Session

SLICE_SIZE = 48 * 1024 * 1024
"""Bytes of staged rows in a slice."""

UPDATE_SIZE = 24 * 1024 * 1024
"""Bytes of staged rows that are merged without pairs and slices. An UPDATE takes two or three times as much memory."""

DELETED_ROW = 20
"""Bytes that DuckDB keeps in memory for a deleted row until the transaction ends."""

MOST_SCANS = 16
"""How often the table may be read from end to end, which each slice does if the table's rows are in another order."""


def pair_slices(
    session: Session, statements: LoadStatements, *, keys: Sequence[ColumnPlan], rows: int, size: int
) -> list[LoadStatements]:
    """Return the statements for each slice.

    :param rows: the staged rows.
    :param size: their bytes.
    """
    pairs = quoted(f"_limio_pairs_{uuid.uuid4().hex}")
    session.execute(f"CREATE TEMPORARY TABLE {pairs} AS {statements.pair_rows(keys)}")
    step = -(-rows // -(-size // SLICE_SIZE))
    spans = f"SELECT max({ROW}) - min({ROW}) + 1 AS span FROM {pairs} GROUP BY {SEQUENCE} // {step}"
    [(read, whole)] = session.query(f"SELECT coalesce(sum(span), 0), (SELECT count(*) FROM {statements.table}) FROM ({spans})")
    if read > MOST_SCANS * whole:
        step = -(-rows // MOST_SCANS)
    slices = (PairSlice(pairs=pairs, start=start, end=start + step) for start in range(0, rows, step))
    return [replace(statements, pair_slice=part) for part in slices]


def replace_pairs(
    session: DuckSession, part: LoadStatements, *, pair_slice: PairSlice, keys: Sequence[ColumnPlan], values: Sequence[object]
) -> int:
    """Insert the differing rows of a slice as they are now, and delete what they replace; return how many these were.

    DuckDB keeps all that an UPDATE has written in memory until the transaction ends, and what is inserted on its disk.

    :param values: those that an update binds.
    """
    changed = quoted(f"_limio_changed_{uuid.uuid4().hex}")
    session.execute(
        f"CREATE TEMPORARY TABLE {changed} AS SELECT s.{SEQUENCE}, t.rowid AS {ROW} FROM {part.differing_pairs(keys)}"
    )
    assigned = {ascii_lower(name) for name, _ in part.assignments(keys)}
    names = [quoted(column.name) for column in session.columns(part.plan.table) or ()]
    others = [name for name in names if ascii_lower(name) not in assigned]
    of_changed = replace(part, pair_slice=replace(pair_slice, pairs=changed))
    inserted = session.execute(of_changed.replaced(keys, columns=others), *values)
    deleted = session.execute(f"DELETE FROM {part.table} AS t USING {changed} AS p WHERE t.rowid = p.{ROW}")
    session.execute(f"DROP TABLE {changed}")
    session.settings.allow_changes(deleted * DELETED_ROW)
    if inserted != deleted:
        raise LandingError(f"{part.plan.table}: {inserted} rows were to replace {deleted}; nothing was written")
    return deleted
