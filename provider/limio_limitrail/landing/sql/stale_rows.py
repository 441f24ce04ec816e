# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Drop the staged rows that are older than the table's row of the same key."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.arrow_tables import integer_array
from limio_limitrail.landing.sql.dialect import Session
from limio_limitrail.landing.sql.plan import ColumnPlan
from limio_limitrail.landing.sql.staged_rows import SEQUENCE
from limio_limitrail.landing.sql.statements import LoadStatements
from limio_limitrail.landing.timestamps import keys_of

if TYPE_CHECKING:
    from datetime import datetime

BATCH_ROWS = 100_000
"""Staged rows whose times are fetched at once, where SQL cannot compare times."""


@dataclass(frozen=True, kw_only=True)
class KeyMatches:
    """How many staged rows share their key with a row of the table.

    :param matches: pairs of a staged row and a row of the table.
    :param outdated: staged rows that differed from the table's row without being newer, and were dropped.
    :param timeless: those of them without a time, where the table's row has one.
    """

    matches: int
    outdated: int = 0
    timeless: int = 0


def drop_outdated(
    *, session: Session, statements: LoadStatements, keys: Sequence[ColumnPlan], extracted_at: datetime, rows: int
) -> KeyMatches:
    """Drop the staged rows that must not replace the table's row of their key.

    :param session: the load's session.
    :param statements: its statements; the table has all its columns.
    :param keys: the columns of the primary key.
    :param extracted_at: when the staged rows were pulled.
    :param rows: how many came, which bounds their numbers.
    """
    if not statements.compares_times_in_sql:
        return _by_fetched_times(session=session, statements=statements, keys=keys, extracted_at=extracted_at, rows=rows)
    [(matches, stay, timeless)] = session.query(statements.count_outdated(keys), extracted_at)
    outdated = session.execute(statements.drop_outdated(keys), extracted_at) if stay else 0
    return KeyMatches(matches=matches, outdated=outdated, timeless=timeless)


def _by_fetched_times(
    *, session: Session, statements: LoadStatements, keys: Sequence[ColumnPlan], extracted_at: datetime, rows: int
) -> KeyMatches:
    [(matches,)] = session.query(statements.matches(keys))
    outdated: list[int] = []
    timeless = 0
    [own] = keys_of([extracted_at.isoformat()])
    for start in range(0, rows if matches else 0, BATCH_ROWS):
        found = session.query(statements.times_of_pairs(keys, start=start, end=start + BATCH_ROWS))
        numbers, incoming, current, extracted = zip(*found, strict=True) if found else ((), (), (), ())
        times = list(incoming) if statements.staged_times_are_keys else _keys(incoming)
        for number, time, table_time, extracted_at_key in zip(numbers, times, _keys(current), _keys(extracted), strict=True):
            newer = table_time is not None and (time is None or table_time > time)
            later = extracted_at_key is not None and own is not None and extracted_at_key > own
            if newer or (table_time == time and later):
                outdated.append(number)
                timeless += newer and time is None
    if outdated:
        _drop(session=session, statements=statements, numbers=outdated)
    return KeyMatches(matches=matches, outdated=len(outdated), timeless=timeless)


def _keys(values: Sequence[Any]) -> list[str | None]:
    return keys_of([None if value is None else str(value) for value in values])


def _drop(*, session: Session, statements: LoadStatements, numbers: list[int]) -> None:
    import pyarrow as pa

    outdated_rows = f"_limio_outdated_{uuid.uuid4().hex}"
    session.create_stage(stage=outdated_rows, columns=[(SEQUENCE, session.dialect.integer_type)])
    session.fill(stage=outdated_rows, rows=pa.table({SEQUENCE: integer_array(numbers)}))
    session.analyze(stage=outdated_rows)
    session.execute(
        f"DELETE FROM {statements.staged} WHERE {SEQUENCE} IN (SELECT {SEQUENCE} FROM {session.dialect.quote(outdated_rows)})"
    )
