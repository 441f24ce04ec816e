# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The SQL of a load, from the staging table to the table itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE, Dialect, TableColumn, Update, all_of, any_of
from limio_limitrail.landing.sql.metadata import EXTRACTED_AT, RUN_ID
from limio_limitrail.landing.sql.names import TableName
from limio_limitrail.landing.sql.pair_slices import ROW, PairSlice, in_order
from limio_limitrail.landing.sql.plan import ColumnPlan, LoadPlan
from limio_limitrail.landing.sql.staged_rows import ORDER, SEQUENCE
from limio_limitrail.landing.timestamps import keys_of

_ORDERED_KINDS = frozenset({Kind.INTEGER, Kind.BIGINT, Kind.DOUBLE, Kind.TIMESTAMP, Kind.TEXT})
"""Kinds whose values can be ordered as times."""


@dataclass(frozen=True, kw_only=True)
class LoadStatements:
    """Builds the statements of one load.

    :param dialect: the database's SQL.
    :param plan: which column goes where.
    :param stage: the staging table's name.
    :param stage_schema: its schema; ``None`` for a temporary table.
    :param time: the time column, which says which of two rows is newer, if there is one.
    :param missing_time: the table's time column, if no row brings it.
    :param seen_later: the condition that a pull that began later may have seen a row ``t`` as it is; ``None`` if there is none.
    :param pair_slice: the pairs that statements are about; ``None`` for all of them.
    """

    dialect: Dialect
    plan: LoadPlan
    stage: str
    time: ColumnPlan | None
    missing_time: TableColumn | None = None
    seen_later: str | None = None
    stage_schema: str | None = None
    pair_slice: PairSlice | None = None

    @property
    def table(self) -> str:
        """The table's name as SQL."""
        return self.dialect.qualified(self.plan.table)

    @property
    def staged(self) -> str:
        """The staging table's name as SQL."""
        return self.dialect.qualified(TableName(schema=self.stage_schema, table=self.stage))

    def stage_columns(self) -> list[tuple[str, str]]:
        """Return the staging table's columns and their types."""
        columns = [(column.staged, self.dialect.stage_type(column.kind)) for column in self.plan.columns]
        if self.staged_times_are_keys:
            columns.append((ORDER, self.dialect.text_type))
        return [*columns, (SEQUENCE, self.dialect.integer_type)]

    def table_columns(self) -> list[tuple[str, str]]:
        """Return a new table's columns and their types."""
        columns = [(column.name, self.dialect.types[column.kind]) for column in self.plan.columns]
        return [*columns, *((column.name, self.dialect.types[column.kind]) for column in self.plan.metadata)]

    def add_column(self, *, name: str, type_: str) -> str:
        """Add a column to the table."""
        return f"ALTER TABLE {self.table} ADD COLUMN {self.dialect.quote(name)} {type_}"

    def keyless(self, column: ColumnPlan) -> str:
        """Count the staged rows without a value in a column of the key."""
        return f"SELECT count(*) FROM {self.staged} AS s WHERE s.{column.staged} IS NULL"

    def values_lost(self, column: ColumnPlan, *, custom_type: str) -> str:
        """Count the staged values that a column of a custom type would change."""
        value = f"s.{column.staged}"
        lost = self.dialect.custom_type_loses(value, column.kind, custom_type)
        return f"SELECT count(*) FROM {self.staged} AS s WHERE {value} IS NOT NULL AND {lost}"

    def drop_duplicates(self, keys: Sequence[ColumnPlan]) -> str:
        """Delete the staged rows that a newer one of the same key replaces; rows without a full key are no duplicates."""
        newest = [f"s.{SEQUENCE} DESC"]
        order = self._staged_time()
        if order is not None:
            newest = [f"CASE WHEN {order} IS NULL THEN 1 ELSE 0 END", f"{order} DESC", *newest]
        key = ", ".join(self.dialect.key(self._value(column), column.kind) for column in keys)
        full = all_of(f"s.{column.staged} IS NOT NULL" for column in keys)
        ranked = (
            f"SELECT s.{SEQUENCE}, row_number() OVER (PARTITION BY {key} ORDER BY {', '.join(newest)}) AS rank_in_key "
            f"FROM {self.staged} AS s WHERE {full}"
        )
        replaced = f"SELECT ranked.{SEQUENCE} FROM ({ranked}) AS ranked WHERE ranked.rank_in_key > 1"
        return f"DELETE FROM {self.staged} WHERE {SEQUENCE} IN ({replaced})"

    def key_violations(self, keys: Sequence[ColumnPlan]) -> str:
        """Count the keys of the table that more than one row has, and its rows without a full key."""
        key = ", ".join(self._table_key(column) for column in keys)
        full = all_of(f"{self._table_column(column.name)} IS NOT NULL" for column in keys)
        repeated = f"SELECT 1 FROM {self.table} AS t WHERE {full} GROUP BY {key} HAVING count(*) > 1"
        keyless = f"SELECT count(*) FROM {self.table} AS t WHERE NOT {full}"
        return f"SELECT (SELECT count(*) FROM ({repeated}) AS repeated), ({keyless})"

    def matches(self, keys: Sequence[ColumnPlan]) -> str:
        """Count the pairs of a staged row and a row of the table that share a key."""
        return f"SELECT count(*) FROM {self._pairs(keys)}"

    def differing(self, keys: Sequence[ColumnPlan]) -> str:
        """Count the rows of the table that differ from the staged one of their key."""
        return f"SELECT count(*) FROM {self.differing_pairs(keys)}"

    def differing_pairs(self, keys: Sequence[ColumnPlan]) -> str:
        """Name the rows of the table, as ``t``, that differ from the staged one of their key; for ``FROM``."""
        return f"{self._pairs(keys)} WHERE {self._any_differs(keys)}"

    def rows_of_run(self) -> str:
        """Name the table's rows of a run, as ``t``; for ``FROM``. Binds the run."""
        return f"{self.table} AS t WHERE {self._of_run()}"

    @property
    def staged_times_are_keys(self) -> bool:
        """Whether the staged times are texts, with their sort keys in `ORDER`."""
        return self.time is not None and self.time.kind is Kind.TEXT

    @property
    def compares_pulls_in_sql(self) -> bool:
        """Whether SQL can decide which of this pull and that of a row of the table is later."""
        extracted = self.plan.extracted_at
        return self.dialect.strict_types and (extracted is None or extracted.kind is Kind.TIMESTAMP)

    @property
    def compares_times_in_sql(self) -> bool:
        """Whether SQL can decide which of a staged row and a row of the table is newer."""
        if not self.compares_pulls_in_sql:
            return False
        if self.time is not None and self.time.custom_type is not None:
            return False
        return self._time_kind() is not Kind.TEXT

    def count_outdated(self, keys: Sequence[ColumnPlan]) -> str:
        """Count the pairs of a staged row and a row of the table with the same key, those in which the table's row stays if they
        differ, and those in which only the table's row has a time.

        Binds the instant of extraction.
        """
        _, current = self._times()
        timeless = f"{current} IS NOT NULL AND {self._staged_time() or 'NULL'} IS NULL" if current is not None else "1 = 0"
        # Without the comparison of all columns, which are too many for one count in Postgres.
        counted = [f"coalesce(sum(CASE WHEN {condition} THEN 1 ELSE 0 END), 0)" for condition in (self._stays(), timeless)]
        return f"SELECT count(*), {', '.join(counted)} FROM {self._pairs(keys)}"

    def drop_outdated(self, keys: Sequence[ColumnPlan]) -> str:
        """Delete the staged rows that differ from the table's row of their key, if that one stays.

        Binds the instant of extraction.
        """
        outdated = f"SELECT s.{SEQUENCE} FROM {self._pairs(keys)} WHERE {all_of([self._stays(), self._any_differs(keys)])}"
        return f"DELETE FROM {self.staged} WHERE {SEQUENCE} IN ({outdated})"

    def times_of_pairs(self, keys: Sequence[ColumnPlan], *, start: int, end: int) -> str:
        """Fetch the staged rows that differ from the table's row of their key: number, both times, the table's extraction, and
        1 or 0: whether a later pull may have seen that row.

        :param start: the first number of a staged row.
        :param end: one more than the last number.
        """
        incoming, current = self._times()
        extracted = self._table_column(EXTRACTED_AT)
        times = [self.dialect.legible(value or "NULL") for value in (incoming, current, extracted)]
        some = f"s.{SEQUENCE} >= {start} AND s.{SEQUENCE} < {end}"
        wanted = ", ".join([f"s.{SEQUENCE}", *times, self._is_seen_later])
        return f"SELECT {wanted} FROM {self._pairs(keys)} WHERE {all_of([some, self._any_differs(keys)])}"

    def update(self, keys: Sequence[ColumnPlan]) -> str | None:
        """Update the rows of the table that differ from the staged ones of their key; ``None`` if nothing could differ.

        Binds the values of the metadata columns that updates write.
        """
        assignments = self.assignments(keys)
        if not assignments:
            return None
        staged, pair = self.staged, self.same_key(keys)
        if (part := self.pair_slice) is not None:
            staged = f"(SELECT s.*, p.{ROW} FROM {self.staged} AS s JOIN {part.pairs} AS p ON {part.condition})"
            pair = f"t.rowid = s.{ROW}"
        return self.dialect.update(self.table, staged, assignments, all_of([pair, self._any_differs(keys)]))

    def assignments(self, keys: Sequence[ColumnPlan]) -> list[tuple[str, str]]:
        """Return each column that an update writes, with its value as SQL; none if nothing could differ.

        Binds the values of the metadata columns that updates write.
        """
        assignments = [(column.name, self._value(column)) for column in self.plan.columns if column not in keys]
        assignments += [(column.name, "NULL") for column in self.plan.missing_columns]
        if assignments:
            assignments += [(column.name, VALUE) for column in self.plan.updated_metadata]
        return [(self.dialect.quote(name), value) for name, value in assignments]

    def replaced(self, keys: Sequence[ColumnPlan], *, columns: Sequence[str]) -> str:
        """Insert the rows of the pairs as an update would leave them. Binds what `assignments` says.

        :param columns: the columns of the table as SQL that are not assigned.
        """
        assigned = dict(self.assignments(keys))
        names, values = (*assigned, *columns), (*assigned.values(), *(f"t.{name}" for name in columns))
        into = f"{self.dialect.insert_verb} INTO {self.table} ({', '.join(names)})"
        return f"{into} SELECT {', '.join(values)} FROM {self._pairs(keys)}"

    def insert(self) -> str:
        """Insert all staged rows. Binds the values of the metadata columns."""
        names = map(self.dialect.quote, self.plan.written_names)
        values = [self._value(column) for column in self.plan.columns]
        values += [VALUE] * len(self.plan.metadata)
        into = f"{self.dialect.insert_verb} INTO {self.table} ({', '.join(names)})"
        return f"{into} SELECT {', '.join(values)} FROM {self.staged} AS s"

    def insert_in_order(self, numbers: range | None = None) -> str:
        """Insert the staged rows in the order in which they came.

        :param numbers: the numbers of these rows; ``None`` for all.
        """
        return f"{self.insert()} {in_order(numbers)}"

    def insert_missing(self, keys: Sequence[ColumnPlan]) -> str:
        """Insert the staged rows whose key the table does not have, in the order in which they came."""
        if (part := self.pair_slice) is not None:
            found = f"SELECT 1 FROM {part.pairs} AS p WHERE p.{SEQUENCE} = s.{SEQUENCE} AND {part.within('p')}"
            return f"{self.insert()} WHERE {part.within('s')} AND NOT EXISTS ({found}) ORDER BY s.{SEQUENCE}"
        # SQLite makes an index for a join, and none for NOT EXISTS, which would read the whole table for each row.
        absent = f"{self._table_column(keys[0].name)} IS NULL"
        return f"{self.insert()} LEFT JOIN {self.table} AS t ON {self.same_key(keys)} WHERE {absent} ORDER BY s.{SEQUENCE}"

    def not_staged(self, keys: Sequence[ColumnPlan]) -> str:
        """Return the condition that no staged row has the key of a row ``t`` of the table."""
        return f"NOT EXISTS (SELECT 1 FROM {self.staged} AS s WHERE {self.same_key(keys)})"

    def count_rows(self, condition: str = "1 = 1") -> str:
        """Count the rows ``t`` of the table, and those that meet a condition."""
        return f"SELECT count(*), coalesce(sum(CASE WHEN {condition} THEN 1 ELSE 0 END), 0) FROM {self.table} AS t"

    def delete_run(self) -> str:
        """Delete the rows of a run. Binds the run."""
        return f"DELETE FROM {self.table} WHERE {self._of_run()}"

    def delete_all(self) -> str:
        """Delete all rows."""
        return f"DELETE FROM {self.table}"

    def has_rows_of_run(self) -> str:
        """Select 1 or 0: whether the table has rows of a run. Binds the run."""
        return self._exists(f" WHERE {self._of_run()}")

    def has_rows(self) -> str:
        """Select 1 or 0: whether the table has rows."""
        return self._exists("")

    def _exists(self, where: str) -> str:
        return f"SELECT CASE WHEN EXISTS (SELECT 1 FROM {self.table}{where}) THEN 1 ELSE 0 END"

    def _of_run(self) -> str:
        # A column with a collation without case would merge two runs into one.
        return f"{self.dialect.exact(self.dialect.quote(RUN_ID), Kind.TEXT)} = {VALUE}"

    def drop_stale(self, keys: Sequence[ColumnPlan], *, in_sql: bool) -> str:
        """Delete the staged rows whose key the table does not have, or has in a row of a later pull.

        :param in_sql: whether SQL can compare the times of pulls; if not, the later ones are not deleted. Binds the instant of
            extraction wherever there is a `VALUE`.
        """
        extracted = self._table_column(EXTRACTED_AT)
        later = [f"{extracted} > {VALUE}"] if in_sql else []
        if in_sql and self.seen_later is not None:
            # Not what this load has just written.
            later.append(all_of([self.seen_later, f"{extracted} IS NULL OR {extracted} <> {VALUE}"]))
        stale = any_of([f"{self._table_column(keys[0].name)} IS NULL", *later])
        rows = f"SELECT s.{SEQUENCE} FROM {self.staged} AS s LEFT JOIN {self.table} AS t ON {self.same_key(keys)} WHERE {stale}"
        return f"DELETE FROM {self.staged} WHERE {SEQUENCE} IN ({rows})"

    def pulls_of_pairs(self, keys: Sequence[ColumnPlan], *, start: int, end: int) -> str:
        """Fetch the numbers of staged rows, and of the table's row of their key the extraction and whether a later pull may have
        seen it; see `times_of_pairs`.
        """
        extracted = self.dialect.legible(self._table_column(EXTRACTED_AT))
        some = f"s.{SEQUENCE} >= {start} AND s.{SEQUENCE} < {end}"
        return f"SELECT s.{SEQUENCE}, {extracted}, {self._is_seen_later} FROM {self._pairs(keys)} WHERE {some}"

    def touch(self, keys: Sequence[ColumnPlan], *, changed: str) -> Update:
        """Update the metadata columns of the table's rows for some staged ones. Binds the values that updates write.

        :param changed: a table with the numbers of these.
        """
        assignments = [(self.dialect.quote(column.name), VALUE) for column in self.plan.updated_metadata]
        among = self._among(keys, changed=changed)
        return Update(table=self.plan.table, assignments=assignments, condition=among, source=self.staged)

    def count_untouched(self, keys: Sequence[ColumnPlan], *, changed: str) -> str:
        """Count the rows that `touch` updates and that are not of this run. Binds the run."""
        other = f"NOT ({self.dialect.exact(self._table_column(RUN_ID), Kind.TEXT)} = {VALUE})"
        among = self._among(keys, changed=changed)
        other = any_of([f"{self._table_column(RUN_ID)} IS NULL", other])
        return f"SELECT count(*) FROM {self.staged} AS s JOIN {self.table} AS t ON {among} WHERE {other}"

    def _among(self, keys: Sequence[ColumnPlan], *, changed: str) -> str:
        return all_of([self.same_key(keys), f"s.{SEQUENCE} IN (SELECT c.{SEQUENCE} FROM {self.dialect.quote(changed)} AS c)"])

    def _value(self, column: ColumnPlan, *, of: str = "s") -> str:
        """Return a staged column's value as the table stores it."""
        staged = f"{of}.{column.staged}"
        if column.custom_type is not None:
            return self.dialect.to_custom_type(staged, column.kind, column.custom_type)
        return self.dialect.stored(staged, column.kind)

    def pair_rows(self, keys: Sequence[ColumnPlan]) -> str:
        """Select the number of the staged row and the identifier of the table's row of all pairs."""
        return f"SELECT s.{SEQUENCE}, t.rowid AS {ROW} FROM {self._pairs(keys)}"

    def _pairs(self, keys: Sequence[ColumnPlan]) -> str:
        if (part := self.pair_slice) is not None:
            joined = f"{self.staged} AS s JOIN {part.pairs} AS p ON {part.condition}"
            return f"{joined} JOIN {self.table} AS t ON t.rowid = p.{ROW}"
        return f"{self.staged} AS s JOIN {self.table} AS t ON {self.same_key(keys)}"

    def _any_differs(self, keys: Sequence[ColumnPlan]) -> str:
        differs = [self._differs(column) for column in self.plan.columns if column not in keys]
        return any_of([*differs, *(f"{self._table_column(column.name)} IS NOT NULL" for column in self.plan.missing_columns)])

    def _time_kind(self) -> Kind | None:
        """Return the kind in which times are compared; ``None`` without a time column."""
        if self.time is not None:
            return self.time.kind if self.time.kind in _ORDERED_KINDS else None
        if self.missing_time is None:
            return None
        # A custom type is compared as text.
        kind = self.missing_time.kind or Kind.TEXT
        return kind if kind in _ORDERED_KINDS else None

    def _staged_time(self) -> str | None:
        """Return what orders the staged rows; ``None`` if they have no time."""
        if self.time is None or self.time.kind not in _ORDERED_KINDS:
            return None
        if self.staged_times_are_keys:
            return self.dialect.exact(f"s.{ORDER}", Kind.TEXT)
        return f"s.{self.time.staged}"

    def _times(self) -> tuple[str | None, str | None]:
        """Return the times of a staged row and of a row of the table."""
        if self._time_kind() is None:
            return None, None
        column = self.time if self.time is not None else self.missing_time
        return self._staged_time(), None if column is None else self._table_column(column.name)

    def is_after(self, when: datetime) -> tuple[str, datetime | str | None] | None:
        """Return the condition that a staged row's time is after another, and the value that it binds; None without times."""
        order = self._staged_time()
        if order is None or self.time is None or self.time.kind not in (Kind.TIMESTAMP, Kind.TEXT):
            return None
        return f"{order} > {VALUE}", keys_of([when.isoformat()])[0] if self.staged_times_are_keys else when

    @property
    def _is_seen_later(self) -> str:
        return "0" if self.seen_later is None else f"CASE WHEN {self.seen_later} THEN 1 ELSE 0 END"

    def _stays(self) -> str:
        """Return the condition that a row of the table is newer than the staged one, or as new and pulled or seen later."""
        later = f"t.{self.dialect.quote(EXTRACTED_AT)} > {VALUE}"
        if self.seen_later is not None:
            later = f"({later} OR {self.seen_later})"
        incoming, current = self._times()
        if current is None:
            return later
        if incoming is None:
            return f"{current} IS NOT NULL OR {later}"
        newer = f"{current} IS NOT NULL AND ({incoming} IS NULL OR {current} > {incoming})"
        return f"({newer}) OR (({current} = {incoming} OR ({current} IS NULL AND {incoming} IS NULL)) AND {later})"

    def same_key(self, keys: Sequence[ColumnPlan]) -> str:
        """Return the condition that a staged row ``s`` and a row ``t`` of the table have the same key."""
        return all_of(f"{self._table_key(column)} = {self.dialect.key(self._value(column), column.kind)}" for column in keys)

    def _table_key(self, column: ColumnPlan) -> str:
        return self.dialect.key(self._table_column(column.name), column.kind)

    def _table_column(self, name: str) -> str:
        return f"t.{self.dialect.quote(name)}"

    def _differs(self, column: ColumnPlan) -> str:
        current = self._table_column(column.name)
        if column.custom_type is not None:
            text = self.dialect.text_type
            return f"CAST({current} AS {text}) {self.dialect.distinct} CAST({self._value(column)} AS {text})"
        staged = f"s.{column.staged}"
        return f"{self.dialect.exact(current, column.kind)} {self.dialect.distinct} {self.dialect.exact(staged, column.kind)}"
