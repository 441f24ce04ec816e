# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Drop the staged rows that must not replace the table's row of their key, because that one is newer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.arrow_tables import integer_array
from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.landing.sql.staged_rows import SEQUENCE
from limio_limitrail.landing.timestamps import keys_of

if TYPE_CHECKING:
    from datetime import datetime

    from limio_limitrail.landing.sql.plan import ColumnPlan
    from limio_limitrail.landing.sql.session import Session
    from limio_limitrail.landing.sql.statements import LoadStatements

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
    outdated: int
    timeless: int


def drop_outdated(
    *,
    session: Session,
    statements: LoadStatements,
    slices: Sequence[LoadStatements],
    keys: Sequence[ColumnPlan],
    rows: int,
    extracted_at: datetime,
) -> KeyMatches:
    """Drop the staged rows that differ from the table's row of their key without being newer.

    :param slices: the statements for some of the pairs at a time.
    :param rows: one more than the largest number of a staged row.
    :param extracted_at: when the pull was made.
    """
    if not statements.compares_times_in_sql:
        return _drop_by_fetched_times(session=session, sql=statements, keys=keys, rows=rows, extracted_at=extracted_at)
    [(matches, stay, timeless)] = session.query(statements.count_outdated(keys), extracted_at)
    outdated = sum(session.execute(part.drop_outdated(keys), extracted_at) for part in slices) if stay else 0
    return KeyMatches(matches=matches, outdated=outdated, timeless=timeless)


def _drop_by_fetched_times(
    *, session: Session, sql: LoadStatements, keys: Sequence[ColumnPlan], rows: int, extracted_at: datetime
) -> KeyMatches:
    [(matches,)] = session.query(sql.matches(keys))
    outdated: list[int] = []
    timeless = 0
    [own] = keys_of([extracted_at.isoformat()])
    for start in range(0, rows if matches else 0, BATCH_ROWS):
        found = session.query(sql.times_of_pairs(keys, start=start, end=start + BATCH_ROWS))
        numbers, incoming, current, extracted, seen = zip(*found, strict=True) if found else ((), (), (), (), ())
        times = list(incoming) if sql.staged_times_are_keys else sort_keys_of(incoming)
        table_times, pulls = sort_keys_of(current), sort_keys_of(extracted)
        for number, time, table_time, pulled, seen_later in zip(numbers, times, table_times, pulls, seen, strict=True):
            newer = table_time is not None and (time is None or table_time > time)
            later = seen_later or (pulled is not None and own is not None and pulled > own)
            if newer or (table_time == time and later):
                outdated.append(number)
                timeless += newer and time is None
    if outdated:
        dropped = session.staged_values({SEQUENCE: integer_array(outdated)}, types=[session.dialect.integer_type])
        session.execute(f"DELETE FROM {sql.staged} WHERE {SEQUENCE} IN (SELECT {SEQUENCE} FROM {dropped})")
    return KeyMatches(matches=matches, outdated=len(outdated), timeless=timeless)


def drop_stale(*, session: Session, statements: LoadStatements, keys: Sequence[ColumnPlan], extracted_at: datetime) -> None:
    """Drop the staged rows that a merge did not write although the table may have nothing newer of their key.

    A row with the same values may be of a later pull, or seen by one, and a row that must not come back is not in the table. The
    child rows of all of them stay as they are.

    :param extracted_at: when the pull was made.
    """
    if statements.compares_pulls_in_sql:
        statement = statements.drop_stale(keys, in_sql=True)
        session.execute(statement, *[extracted_at] * statement.count(VALUE))
        return
    session.execute(statements.drop_stale(keys, in_sql=False))
    [own] = keys_of([extracted_at.isoformat()])
    [(end,)] = session.query(f"SELECT coalesce(max({SEQUENCE}), -1) + 1 FROM {statements.staged}")
    for start in range(0, end, BATCH_ROWS):
        found = session.query(statements.pulls_of_pairs(keys, start=start, end=start + BATCH_ROWS))
        pulls = sort_keys_of([pulled for _, pulled, _ in found])
        later = [
            row
            for (row, _, seen_later), pull in zip(found, pulls, strict=True)
            if (pull is not None and own is not None and pull > own) or (seen_later and pull != own)
        ]
        if later:
            dropped = session.staged_values({SEQUENCE: integer_array(later)}, types=[session.dialect.integer_type])
            session.execute(f"DELETE FROM {statements.staged} WHERE {SEQUENCE} IN (SELECT {SEQUENCE} FROM {dropped})")


def sort_keys_of(values: Sequence[Any]) -> list[str | None]:
    """Return the sort keys of times as a database returns them."""
    return keys_of([None if value is None else str(value) for value in values])
