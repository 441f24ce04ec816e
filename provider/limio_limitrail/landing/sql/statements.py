# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The SQL of a load, from the temporary table of staged rows to the table itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE, Dialect, TableColumn, all_of, any_of
from limio_limitrail.landing.sql.model import EXTRACTED_AT, RUN_ID
from limio_limitrail.landing.sql.plan import Landed, Plan
from limio_limitrail.landing.sql.staged_rows import ORDER, SEQUENCE

_TELL_TIME = frozenset({Kind.INTEGER, Kind.BIGINT, Kind.DOUBLE, Kind.TIMESTAMP, Kind.TEXT})
"""Kinds of which one value can be newer than another."""


@dataclass(frozen=True, kw_only=True)
class Statements:
    """Writes the statements of one load.

    :param dialect: how the database writes things.
    :param plan: which column goes where.
    :param stage: the temporary table's name.
    :param time: the column that says which of two rows is newer, if any.
    :param lost_time: the same column as the table has it, where no row brings it.
    """

    dialect: Dialect
    plan: Plan
    stage: str
    time: Landed | None
    lost_time: TableColumn | None = None

    @property
    def table(self) -> str:
        """The table's name as SQL."""
        return self.dialect.qualified(self.plan.table)

    @property
    def staged(self) -> str:
        """The temporary table's name as SQL."""
        return self.dialect.quote(self.stage)

    def stage_columns(self) -> list[tuple[str, str]]:
        """Name the temporary table's columns and their types."""
        columns = [(column.staged, self.dialect.stage_type(column.kind)) for column in self.plan.columns]
        if self.staged_times_are_keys:
            columns.append((ORDER, self.dialect.text_type))
        return [*columns, (SEQUENCE, self.dialect.integer_type)]

    def table_columns(self) -> list[tuple[str, str]]:
        """Name a new table's columns and their types."""
        columns = [(column.name, self.dialect.types[column.kind]) for column in self.plan.columns]
        return [*columns, *((name, self.own_type(name)) for name in (EXTRACTED_AT, RUN_ID))]

    def own_type(self, name: str) -> str:
        """Give the type of one of the two own columns."""
        return self.dialect.instant_type if name == EXTRACTED_AT else self.dialect.text_type

    def add_column(self, *, name: str, type_: str) -> str:
        """Add a column to the table."""
        return f"ALTER TABLE {self.table} ADD COLUMN {self.dialect.quote(name)} {type_}"

    def keyless(self, column: Landed) -> str:
        """Count the staged rows without a value in a column of the key."""
        return f"SELECT count(*) FROM {self.staged} AS s WHERE s.{column.staged} IS NULL"

    def values_lost(self, column: Landed, *, foreign: str) -> str:
        """Count the staged values that a column of a foreign type would not give back."""
        value = f"s.{column.staged}"
        lost = self.dialect.foreign_loss(value, column.kind, foreign)
        return f"SELECT count(*) FROM {self.staged} AS s WHERE {value} IS NOT NULL AND {lost}"

    def drop_duplicates(self, keys: Sequence[Landed]) -> str:
        """Remove the staged rows that another of the same key supersedes; rows without a full key are nobody's duplicates."""
        newest = [f"s.{SEQUENCE} DESC"]
        order = self._staged_time()
        if order is not None:
            newest = [f"CASE WHEN {order} IS NULL THEN 1 ELSE 0 END", f"{order} DESC", *newest]
        key = ", ".join(self.dialect.key(self._value(column), column.kind) for column in keys)
        full = all_of(f"s.{column.staged} IS NOT NULL" for column in keys)
        ranked = (
            f"SELECT s.{SEQUENCE}, row_number() OVER (PARTITION BY {key} ORDER BY {', '.join(newest)}) AS place "
            f"FROM {self.staged} AS s WHERE {full}"
        )
        losers = f"SELECT ranked.{SEQUENCE} FROM ({ranked}) AS ranked WHERE ranked.place > 1"
        return f"DELETE FROM {self.staged} WHERE {SEQUENCE} IN ({losers})"

    def key_troubles(self, keys: Sequence[Landed]) -> str:
        """Count, in the table itself, the keys that more than one row has, and the rows without a full key."""
        key = ", ".join(self._held_key(column) for column in keys)
        full = all_of(f"t.{self.dialect.quote(column.name)} IS NOT NULL" for column in keys)
        repeated = f"SELECT 1 FROM {self.table} AS t WHERE {full} GROUP BY {key} HAVING count(*) > 1"
        keyless = f"SELECT count(*) FROM {self.table} AS t WHERE NOT {full}"
        return f"SELECT (SELECT count(*) FROM ({repeated}) AS repeated), ({keyless})"

    def matches(self, keys: Sequence[Landed]) -> str:
        """Count the pairs of a staged row and a row of the table that share a key."""
        return f"SELECT count(*) FROM {self._pairs(keys)}"

    def differing(self, keys: Sequence[Landed]) -> str:
        """Count the rows of the table that differ from the staged one of their key."""
        return f"SELECT count(*) FROM {self._pairs(keys)} WHERE {self._any_differs(keys)}"

    @property
    def staged_times_are_keys(self) -> bool:
        """Whether the staged times are texts, with what they sort by beside them."""
        return self.time is not None and self.time.kind is Kind.TEXT

    @property
    def compares_times_in_sql(self) -> bool:
        """Whether the database itself can tell which of a staged row and a row of the table is newer."""
        extracted = self.plan.extracted_at
        if not self.dialect.keeps_types or (extracted is not None and extracted.kind is not Kind.TIMESTAMP):
            return False
        if self.time is not None and self.time.foreign:
            return False
        return self._time_kind() is not Kind.TEXT

    def rivals(self, keys: Sequence[Landed]) -> str:
        """Count the pairs of a staged row and a row of the table that share a key, those of them in which the table's row has to
        stay if they differ, and those of these in which only the table's row says a time.

        Binds the instant of extraction.
        """
        _, held = self._times()
        timeless = f"{held} IS NOT NULL AND {self._staged_time() or 'NULL'} IS NULL" if held is not None else "1 = 0"
        # Whether they differ is not asked here: all columns of a wide table are more than Postgres counts over.
        counted = [f"coalesce(sum(CASE WHEN {condition} THEN 1 ELSE 0 END), 0)" for condition in (self._stays(), timeless)]
        return f"SELECT count(*), {', '.join(counted)} FROM {self._pairs(keys)}"

    def drop_outdated(self, keys: Sequence[Landed]) -> str:
        """Remove the staged rows that differ from the table's row of their key where that one has to stay.

        Binds the instant of extraction.
        """
        losers = f"SELECT s.{SEQUENCE} FROM {self._pairs(keys)} WHERE {all_of([self._stays(), self._any_differs(keys)])}"
        return f"DELETE FROM {self.staged} WHERE {SEQUENCE} IN ({losers})"

    def times_of_rivals(self, keys: Sequence[Landed], *, start: int, end: int) -> str:
        """Read of staged rows that differ from the table's row of their key: their number, both times, and the other's
        extraction.

        :param start: the first number of a staged row.
        :param end: the number behind the last one.
        """
        coming, held = self._times()
        extracted = f"t.{self.dialect.quote(EXTRACTED_AT)}"
        told = [self.dialect.legible(value or "NULL") for value in (coming, held, extracted)]
        some = f"s.{SEQUENCE} >= {start} AND s.{SEQUENCE} < {end}"
        return f"SELECT s.{SEQUENCE}, {', '.join(told)} FROM {self._pairs(keys)} WHERE {all_of([some, self._any_differs(keys)])}"

    def update(self, keys: Sequence[Landed]) -> str | None:
        """Replace the rows of the table that differ from the staged ones of their key; ``None`` if nothing could differ.

        Binds the instant of extraction and the run.
        """
        values = [column for column in self.plan.columns if column not in keys]
        missing_columns = [self.dialect.quote(column.name) for column in self.plan.missing_columns]
        if not values and not missing_columns:
            return None
        assignments = [(self.dialect.quote(column.name), self._value(column)) for column in values]
        assignments += [(name, "NULL") for name in missing_columns]
        assignments += [(self.dialect.quote(name), VALUE) for name in (EXTRACTED_AT, RUN_ID)]
        condition = all_of([self._same_key(keys), self._any_differs(keys)])
        return self.dialect.update(self.table, self.staged, assignments, condition)

    def insert(self) -> str:
        """Add all staged rows to the table. Binds the instant of extraction and the run."""
        names = [self.dialect.quote(column.name) for column in self.plan.columns]
        names += [self.dialect.quote(name) for name in (EXTRACTED_AT, RUN_ID)]
        values = [self._value(column) for column in self.plan.columns]
        values += [VALUE, VALUE]
        return f"{self.dialect.insert} INTO {self.table} ({', '.join(names)}) SELECT {', '.join(values)} FROM {self.staged} AS s"

    def insert_in_order(self) -> str:
        """Add all staged rows to the table, in the order in which they came."""
        return f"{self.insert()} ORDER BY s.{SEQUENCE}"

    def insert_missing(self, keys: Sequence[Landed]) -> str:
        """Add the staged rows whose key the table does not hold, in the order in which they came."""
        held = f"SELECT 1 FROM {self.table} AS t WHERE {self._same_key(keys)}"
        return f"{self.insert()} WHERE NOT EXISTS ({held}) ORDER BY s.{SEQUENCE}"

    def delete_run(self) -> str:
        """Remove the rows of a run. Binds the run."""
        return f"DELETE FROM {self.table} WHERE {self._of_run()}"

    def delete_all(self) -> str:
        """Remove all rows."""
        return f"DELETE FROM {self.table}"

    def left_of_run(self) -> str:
        """Tell by 1 or 0 whether the table has rows of a run. Binds the run."""
        return self._left(f" WHERE {self._of_run()}")

    def left_of_all(self) -> str:
        """Tell by 1 or 0 whether the table has rows."""
        return self._left("")

    def _left(self, where: str) -> str:
        return f"SELECT CASE WHEN EXISTS (SELECT 1 FROM {self.table}{where}) THEN 1 ELSE 0 END"

    def _of_run(self) -> str:
        # A column that disregards case takes two runs for one.
        return f"{self.dialect.exact(self.dialect.quote(RUN_ID), Kind.TEXT)} = {VALUE}"

    def _value(self, column: Landed) -> str:
        """Give a staged column's value as the table stores it."""
        staged = f"s.{column.staged}"
        if column.foreign and column.existing is not None:
            return self.dialect.foreign_value(staged, column.kind, column.existing.type)
        return self.dialect.stored(staged, column.kind)

    def _pairs(self, keys: Sequence[Landed]) -> str:
        return f"{self.staged} AS s JOIN {self.table} AS t ON {self._same_key(keys)}"

    def _any_differs(self, keys: Sequence[Landed]) -> str:
        differs = [self._differs(column) for column in self.plan.columns if column not in keys]
        return any_of([*differs, *(f"t.{self.dialect.quote(column.name)} IS NOT NULL" for column in self.plan.missing_columns)])

    def _time_kind(self) -> Kind | None:
        """Give the kind in which times are compared; ``None`` where there are none."""
        if self.time is not None:
            return self.time.kind if self.time.kind in _TELL_TIME else None
        if self.lost_time is None:
            return None
        # Of a type that this package does not make, the text is what can be read.
        kind = self.lost_time.kind or Kind.TEXT
        return kind if kind in _TELL_TIME else None

    def _staged_time(self) -> str | None:
        """Give what the staged rows are ordered by; ``None`` where they say no time."""
        if self.time is None or self.time.kind not in _TELL_TIME:
            return None
        if self.staged_times_are_keys:
            return self.dialect.exact(f"s.{ORDER}", Kind.TEXT)
        return f"s.{self.time.staged}"

    def _times(self) -> tuple[str | None, str | None]:
        """Give the times of a staged row and of a row of the table."""
        if self._time_kind() is None:
            return None, None
        held = self.time if self.time is not None else self.lost_time
        return self._staged_time(), None if held is None else f"t.{self.dialect.quote(held.name)}"

    def _stays(self) -> str:
        """Tell whether a row of the table is newer than the staged one, or as new and pulled later."""
        later = f"t.{self.dialect.quote(EXTRACTED_AT)} > {VALUE}"
        coming, held = self._times()
        if held is None:
            return later
        if coming is None:
            return f"{held} IS NOT NULL OR {later}"
        newer = f"{held} IS NOT NULL AND ({coming} IS NULL OR {held} > {coming})"
        return f"({newer}) OR (({held} = {coming} OR ({held} IS NULL AND {coming} IS NULL)) AND {later})"

    def _same_key(self, keys: Sequence[Landed]) -> str:
        return all_of(f"{self._held_key(column)} = {self.dialect.key(self._value(column), column.kind)}" for column in keys)

    def _held_key(self, column: Landed) -> str:
        return self.dialect.key(f"t.{self.dialect.quote(column.name)}", column.kind)

    def _differs(self, column: Landed) -> str:
        held = f"t.{self.dialect.quote(column.name)}"
        if column.foreign:
            text = self.dialect.text_type
            return self.dialect.distinct(f"CAST({held} AS {text})", f"CAST({self._value(column)} AS {text})")
        staged = f"s.{column.staged}"
        return self.dialect.distinct(self.dialect.exact(held, column.kind), self.dialect.exact(staged, column.kind))
