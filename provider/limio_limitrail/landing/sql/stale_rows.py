# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which of the rows that come are older than the row of their key that the table holds."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.arrow_tables import integer_array
from limio_limitrail.landing.sql.dialect import Session
from limio_limitrail.landing.sql.plan import Landed
from limio_limitrail.landing.sql.staged_rows import SEQUENCE
from limio_limitrail.landing.sql.statements import Statements
from limio_limitrail.landing.timestamps import keys_of

if TYPE_CHECKING:
    from datetime import datetime

BATCH_ROWS = 100_000
"""Staged rows whose rivals in the table are fetched at a time, where times have to be read to be compared."""


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """How the staged rows stand to the rows of the table that share their keys.

    :param matches: pairs of a staged row and a row of the table.
    :param outdated: staged rows that differ from the table's row, are not newer, and are no longer staged.
    :param timeless: those of them that say no time, where the table's row does.
    """

    matches: int
    outdated: int = 0
    timeless: int = 0


def drop_outdated(*, session: Session, write: Statements, keys: Sequence[Landed], extracted_at: datetime, rows: int) -> Rivals:
    """Take the staged rows out that must not replace the table's row of their key.

    :param session: the load's session.
    :param write: its statements; the table has all its columns.
    :param keys: the columns of the primary key.
    :param extracted_at: when the staged rows were pulled.
    :param rows: how many came, which bounds their numbers.
    """
    if not write.compares_times_in_sql:
        return _by_reading(session=session, write=write, keys=keys, extracted_at=extracted_at, rows=rows)
    [(matches, stay, timeless)] = session.query(write.rivals(keys), extracted_at)
    outdated = session.execute(write.drop_outdated(keys), extracted_at) if stay else 0
    return Rivals(matches=matches, outdated=outdated, timeless=timeless)


def _by_reading(*, session: Session, write: Statements, keys: Sequence[Landed], extracted_at: datetime, rows: int) -> Rivals:
    [(matches,)] = session.query(write.matches(keys))
    outdated: list[int] = []
    timeless = 0
    [own] = keys_of([extracted_at.isoformat()])
    for start in range(0, rows if matches else 0, BATCH_ROWS):
        found = session.query(write.times_of_rivals(keys, start=start, end=start + BATCH_ROWS))
        numbers, coming, held, extracted = zip(*found, strict=True) if found else ((), (), (), ())
        times = list(coming) if write.staged_times_are_keys else _keys(coming)
        for number, comes, stands, taken in zip(numbers, times, _keys(held), _keys(extracted), strict=True):
            newer = stands is not None and (comes is None or stands > comes)
            if newer or (stands == comes and taken is not None and own is not None and taken > own):
                outdated.append(number)
                timeless += newer and comes is None
    if outdated:
        _drop(session=session, write=write, numbers=outdated)
    return Rivals(matches=matches, outdated=len(outdated), timeless=timeless)


def _keys(values: Sequence[Any]) -> list[str | None]:
    return keys_of([None if value is None else str(value) for value in values])


def _drop(*, session: Session, write: Statements, numbers: list[int]) -> None:
    import pyarrow as pa

    losers = f"_limio_outdated_{uuid.uuid4().hex}"
    session.create_stage(stage=losers, columns=[(SEQUENCE, session.dialect.integer_type)])
    session.fill(stage=losers, rows=pa.table({SEQUENCE: integer_array(numbers)}))
    session.ready(stage=losers)
    session.execute(f"DELETE FROM {write.staged} WHERE {SEQUENCE} IN (SELECT {SEQUENCE} FROM {session.dialect.quote(losers)})")
