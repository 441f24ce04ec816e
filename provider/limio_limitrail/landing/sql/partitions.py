# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which partitions of a table a load touches: the values of one column in the rows that it inserts, updates or deletes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.timestamps import days_of

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.plan import LoadPlan
    from limio_limitrail.landing.sql.session import Session

log = logging.getLogger("limio_limitrail.landing.sql")

LONGEST_KEY = 250
"""Characters that Airflow keeps of a partition key."""

_WITHOUT_KEYS = frozenset({Kind.BOOLEAN, Kind.DOUBLE, Kind.JSON})


@dataclass(frozen=True, kw_only=True)
class Partitions:
    """How a table is divided into partitions.

    :param column: the record key whose values are the partitions. Of a time it is the day in UTC.
    :param most: the most partitions that a load may touch.
    """

    column: str
    most: int


class TouchedPartitions:
    """Collects the partitions of rows, before they change and after.

    :param plan: the table's columns as they are by now.
    :param partitions: ``None`` to collect nothing.
    """

    def __init__(self, *, session: Session, plan: LoadPlan, partitions: Partitions | None) -> None:
        self._session = session
        self._plan = plan
        self._partitions = partitions
        self._keys: set[str] = set()
        self._without = False
        self._expression = None if partitions is None else self._key_of(partitions.column)

    def note(self, rows: str, *values: object) -> None:
        """Collect the partitions of some rows of the table.

        :param rows: what follows ``FROM`` in SQL; the table is called ``t``.
        :param values: what it binds.
        :raises LandingError: the table has no such column, or a value can be no key.
        """
        if self._partitions is None:
            return
        if self._expression is None:
            column = self._partitions.column
            ignored = column in self._plan.ignored
            why = 'the table lacks, and new_columns="ignore" leaves out' if ignored else "neither the records nor the table have"
            raise LandingError(f"{self._plan.table}: partition_column names {column!r}, which {why}; nothing was written")
        found = self._session.query(f"SELECT DISTINCT {self._expression} FROM {rows}", *values)
        self._add(value for (value,) in found)

    @property
    def keys(self) -> tuple[str, ...]:
        """The partitions that were collected, in order.

        :raises LandingError: there are too many.
        """
        if self._partitions is None:
            return ()
        table, partitions = self._plan.table, self._partitions
        if len(self._keys) > partitions.most:
            raise LandingError(
                f"{table}: the load touches {len(self._keys)} partitions of {partitions.column!r}, and max_partitions is "
                f"{partitions.most}; nothing was written. Allow more for this run with max_partitions=, or load once without "
                f"partition_column="
            )
        if self._without:
            log.warning(
                "%s: rows without a value in %r were inserted, updated or deleted. They belong to no partition, and no asset "
                "event is about them",
                table,
                partitions.column,
            )
        return tuple(sorted(self._keys))

    def _key_of(self, key: str) -> str | None:
        """Return the SQL of a row's partition; ``None`` if there is no such column."""
        dialect = self._session.dialect
        column = self._plan.column(key)
        missing = self._plan.missing_column(key, same=dialect.same_name) if column is None else None
        if column is not None:
            name, kind = column.name, None if column.custom_type is not None else column.kind
        elif missing is not None:
            name, kind = missing.name, missing.kind
        else:
            return None
        if kind in _WITHOUT_KEYS:
            raise LandingError(
                f"{self._plan.table}: partition_column names {key!r}, which is {kind}. Partitions are made of times, dates, "
                f"texts and whole numbers; nothing was written"
            )
        value = f"t.{dialect.quote(name)}"
        if kind is Kind.TIMESTAMP and dialect.utc_day is not None:
            return dialect.utc_day(value)
        return value if kind is Kind.TEXT else dialect.legible(value)

    def _add(self, values: Iterable[Any]) -> None:
        texts = [None if value is None else str(value) for value in values]
        for text, day in zip(texts, days_of(texts), strict=True):
            if text is None or not text.strip():
                self._without = True
            elif len(day or text) > LONGEST_KEY:
                raise LandingError(
                    f"{self._plan.table}: a value of the partition_column is longer than the {LONGEST_KEY} characters that "
                    f"Airflow keeps of a partition key; nothing was written"
                )
            else:
                self._keys.add(day or text)
