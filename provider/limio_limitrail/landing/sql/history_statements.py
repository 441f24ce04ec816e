# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The SQL of a load into a history: where each staged version belongs among those that the table has of its record."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from enum import StrEnum

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE, Update, all_of
from limio_limitrail.landing.sql.metadata import EXTRACTED_AT, RUN_ID
from limio_limitrail.landing.sql.observations_sql import ObservationTables
from limio_limitrail.landing.sql.pair_slices import in_order
from limio_limitrail.landing.sql.plan import ColumnPlan
from limio_limitrail.landing.sql.staged_rows import SEQUENCE
from limio_limitrail.landing.sql.statements import LoadStatements

VALID_FROM = "_valid_from"
"""The column with the time from which on a version was valid."""

VALID_TO = "_valid_to"
"""The column with the time until which it was valid; null for the current version."""

STARTS = "version_starts"
"""The staging table's column with the time from which on a version is valid."""

TIME = "version_time"
"""The staging table's column with the record's own time; null if it has none that can be read."""


class Change(StrEnum):
    """What a staged version that the table does not have does to it."""

    INSERT = "insert"
    REPLACE = "replace"
    """The table's version of the same time has other values, and was last seen earlier."""
    EXTEND = "extend"
    """The next version has the same values, and from now on starts earlier."""
    OUTDATED = "outdated"
    """The table's version of the same time has other values, and was last seen later."""


def _temporary(what: str) -> str:
    return f"_limio_{what}_{uuid.uuid4().hex}"


@dataclass(frozen=True, kw_only=True)
class HistoryStatements(LoadStatements):
    """Builds the statements of one load into a history.

    :param keys: the columns of the primary key.
    :param observed: the tables of what runs saw.
    :param changes: the temporary table of the staged rows that the table does not have, numbered by time within each key.
    :param versions: the temporary table of the versions that the table has of the records of one such number.
    :param places: the temporary table that says what happens to these rows.
    """

    keys: tuple[ColumnPlan, ...]
    observed: ObservationTables
    changes: str = field(default_factory=lambda: _temporary("changes"))
    versions: str = field(default_factory=lambda: _temporary("versions"))
    places: str = field(default_factory=lambda: _temporary("places"))

    def temporary_tables(self) -> dict[str, list[tuple[str, str]]]:
        """Return the columns of the temporary tables."""
        whole, text, instant = self.dialect.integer_type, self.dialect.text_type, self.dialect.types[Kind.TIMESTAMP]
        places = [("change", text), *((name, instant) for name in ("cut", "ends", "follows", "resumes"))]
        return {
            self.changes: [(SEQUENCE, whole), ("place", whole)],
            self.versions: [(SEQUENCE, whole), ("starts", instant), ("ends", instant), ("same", whole), ("copied", whole)],
            self.places: [(SEQUENCE, whole), *places],
        }

    def staged_key(self, column: ColumnPlan) -> str:
        """Return a staged column of the key as other tables compare it."""
        return self.dialect.key(self._value(column), column.kind)

    def staged_value(self, column: ColumnPlan) -> str:
        """Return a staged column as a table stores it."""
        return self._value(column)

    def same_record(self) -> str:
        """Return the condition that the rows ``s`` and ``t`` are of one record."""
        return self.same_key(self.keys)

    def same_series_key(self) -> str:
        """Return the condition that the staged row ``s`` and the series ``k`` are of one record."""
        return all_of(f"{self.observed.key_of_seen(column)} = {self.staged_key(column)}" for column in self.keys)

    def same_series(self) -> str:
        """Return the condition that they are of one record and one time of its own."""
        return all_of([self.same_series_key(), f"NOT (k._version_time {self.dialect.distinct} s.{TIME})"])

    def drop_repeated(self) -> str:
        """Delete the staged rows of which there is a newer one with the same key and start."""
        order = self._staged_time()
        newest = [] if order is None else [f"CASE WHEN {order} IS NULL THEN 1 ELSE 0 END", f"{order} DESC"]
        ranked = (
            f"SELECT s.{SEQUENCE}, row_number() OVER (PARTITION BY {self.staged_keys()}, s.{STARTS} "
            f"ORDER BY {', '.join([*newest, f's.{SEQUENCE} DESC'])}) AS rank_in_key FROM {self.staged} AS s"
        )
        replaced = f"SELECT ranked.{SEQUENCE} FROM ({ranked}) AS ranked WHERE ranked.rank_in_key > 1"
        return f"DELETE FROM {self.staged} WHERE {SEQUENCE} IN ({replaced})"

    def find_changes(self) -> str:
        """Collect the staged rows that differ from the version that the table has at their time."""
        valid = f"{self._from} <= s.{STARTS} AND ({self._to} IS NULL OR {self._to} > s.{STARTS})"
        same = f"SELECT 1 FROM {self.table} AS t WHERE {all_of([self.same_record(), valid, self._equal()])}"
        numbered = f"row_number() OVER (PARTITION BY {self.staged_keys()} ORDER BY s.{STARTS})"
        return (
            f"INSERT INTO {self.changes} ({SEQUENCE}, place) SELECT s.{SEQUENCE}, {numbered} FROM {self.staged} AS s "
            f"WHERE NOT EXISTS ({same})"
        )

    def changed_records(self) -> str:
        """Name all versions, as ``t``, of the records that have changes; for ``FROM``."""
        return (
            f"{self.changes} AS d JOIN {self.staged} AS s ON s.{SEQUENCE} = d.{SEQUENCE} JOIN {self.table} AS t "
            f"ON {self.same_record()}"
        )

    def last_place(self) -> str:
        """Select how many changed versions a record has at most."""
        return f"SELECT coalesce(max(place), 0) FROM {self.changes}"

    def find_versions(self, place: int) -> str:
        """Collect the versions that the table has of the records of some changes."""
        same = f"CASE WHEN {self._equal()} THEN 1 ELSE 0 END"
        return (
            f"INSERT INTO {self.versions} ({SEQUENCE}, starts, ends, same, copied) "
            f"SELECT s.{SEQUENCE}, {self._from}, {self._to}, {same}, 0 "
            f"FROM {self._changed(place)} JOIN {self.table} AS t ON {self.same_record()}"
        )

    def find_copies(self) -> str:
        """Mark the versions that are copies of the one before them: a record came again after it had been missing."""
        runs = self.observed.each_run(self.same_series_key())
        seen = f"SELECT 1 FROM {self.staged} AS s JOIN {runs} WHERE s.{SEQUENCE} = v.{SEQUENCE}"
        began = f"{seen} AND k._version_time = v.starts"
        observed = f"{seen} AND r._started_at = v.starts AND k._version_time IS"
        return (
            f"UPDATE {self.versions} AS v SET copied = 1 WHERE EXISTS ({observed} NOT NULL) AND NOT EXISTS ({observed} NULL) "
            f"AND NOT EXISTS ({began})"
        )

    def find_places(self, place: int) -> str:
        """Decide what happens to each of some changes. Binds the start of the run.

        ``cut`` is the start of the version that is valid at the time of the new one, and ends there; ``follows`` that of the
        next version; ``resumes`` when a run saw the version that is cut again.
        """
        covers = f"v.starts < s.{STARTS} AND (v.ends IS NULL OR v.ends > s.{STARTS})"
        around = (
            f"SELECT s.{SEQUENCE} AS {SEQUENCE}, s.{STARTS} AS starts, s.{TIME} AS own, "
            f"max(CASE WHEN v.starts = s.{STARTS} THEN 1 ELSE 0 END) AS there, max(CASE WHEN {covers} THEN v.starts END) AS cut, "
            f"max(CASE WHEN {covers} THEN v.ends END) AS cut_ends, "
            f"min(CASE WHEN v.starts > s.{STARTS} THEN v.starts END) AS follows "
            f"FROM {self._changed(place)} LEFT JOIN {self.versions} AS v ON v.{SEQUENCE} = s.{SEQUENCE} "
            f"GROUP BY s.{SEQUENCE}, s.{STARTS}, s.{TIME}"
        )
        later = (
            f"SELECT s.{SEQUENCE} AS {SEQUENCE}, "
            f"min(CASE WHEN k._version_time IS NULL AND r._started_at > s.{STARTS} THEN r._started_at END) AS resumes, "
            f"max(CASE WHEN k._version_time = s.{STARTS} AND r._started_at > {VALUE} THEN 1 ELSE 0 END) AS confirmed "
            f"FROM {self._changed(place)} JOIN {self.observed.each_run(self.same_series_key())} GROUP BY s.{SEQUENCE}"
        )
        resumes = "CASE WHEN a.cut IS NOT NULL AND (a.cut_ends IS NULL OR l.resumes < a.cut_ends) THEN l.resumes END"
        extends = (
            f"(n.same = 1 AND a.own IS NULL AND {resumes} IS NULL AND (a.cut IS NULL OR a.cut_ends = a.follows)) "
            f"OR (n.copied = 1 AND a.own IS NOT NULL AND a.cut IS NULL)"
        )
        change = (
            f"CASE WHEN a.there = 1 THEN CASE WHEN l.confirmed = 1 THEN '{Change.OUTDATED}' ELSE '{Change.REPLACE}' END "
            f"WHEN {extends} THEN '{Change.EXTEND}' ELSE '{Change.INSERT}' END"
        )
        ends = f"coalesce({resumes}, CASE WHEN a.cut IS NOT NULL THEN a.cut_ends ELSE a.follows END)"
        return (
            f"INSERT INTO {self.places} ({SEQUENCE}, change, cut, ends, follows, resumes) "
            f"SELECT a.{SEQUENCE}, {change}, a.cut, {ends}, a.follows, {resumes} FROM ({around}) AS a "
            f"LEFT JOIN ({later}) AS l ON l.{SEQUENCE} = a.{SEQUENCE} "
            f"LEFT JOIN {self.versions} AS n ON n.{SEQUENCE} = a.{SEQUENCE} AND n.starts = a.follows"
        )

    def count_places(self) -> str:
        """Count the changes of each kind, the versions that they cut, and those that resume."""
        return f"SELECT change, count(*), count(cut), count(resumes) FROM {self.places} GROUP BY change"

    def resume(self) -> str:
        """Insert the versions that are cut once more, from when a run saw them again."""
        names = [*(column.name for column in self.plan.columns), *(column.name for column in self.plan.missing_columns)]
        run = f"(SELECT min(r.{RUN_ID}) FROM {self.observed.runs} AS r WHERE r._started_at = s.resumes)"
        ends = f"(SELECT v.ends FROM {self.versions} AS v WHERE v.{SEQUENCE} = s.{SEQUENCE} AND v.starts = s.cut)"
        return (
            f"{self.into(names)} SELECT {', '.join([*map(self._table_column, names), 's.resumes', ends, 's.resumes', run])} "
            f"FROM {self.placed(Change.INSERT)} AS s JOIN {self.table} AS t ON {self.same_record()} AND {self._from} = s.cut "
            f"WHERE s.resumes IS NOT NULL"
        )

    def cut(self) -> Update:
        """End the versions into whose time others come."""
        to = self.dialect.quote(VALID_TO)
        return self._update(Change.INSERT, Change.EXTEND, assignments=[(to, f"s.{STARTS}")], starts="s.cut")

    def extend(self) -> Update:
        """Let the next versions start earlier. Binds the start of the run, and the run."""
        return self.extend_to(f"s.{STARTS}")

    def extend_to(self, start: str) -> Update:
        """Let the next versions start at a time. Binds what it binds, the start of the run, and the run."""
        assignments = [(self.dialect.quote(VALID_FROM), start), *self._run_assignments()]
        return self._update(Change.EXTEND, assignments=assignments, starts="s.follows")

    def replace(self) -> Update:
        """Update the values of versions of the same time. Binds the start of the run, and the run."""
        return self._update(Change.REPLACE, assignments=self._value_assignments(), starts=f"s.{STARTS}")

    def renew(self) -> Update:
        """Update the copies of the version before a new one to its values. Binds the start of the run, and the run."""
        between = (
            f"SELECT 1 FROM {self.versions} AS o WHERE o.{SEQUENCE} = v.{SEQUENCE} AND o.copied = 0 AND o.starts > p.{STARTS} "
            f"AND o.starts < v.starts"
        )
        copies = (
            f"(SELECT p.*, v.starts AS renewed FROM {self.placed(Change.INSERT, Change.REPLACE, Change.EXTEND)} AS p "
            f"JOIN {self.versions} AS v ON v.{SEQUENCE} = p.{SEQUENCE} WHERE p.{TIME} IS NOT NULL AND v.copied = 1 "
            f"AND v.starts > p.{STARTS} AND NOT EXISTS ({between}))"
        )
        condition = all_of([self.same_record(), f"{self._from} = s.renewed"])
        return Update(table=self.plan.table, assignments=self._value_assignments(), condition=condition, source=copies)

    def _value_assignments(self) -> list[tuple[str, str]]:
        columns = [column for column in self.plan.columns if column not in self.keys]
        assignments = [(self.dialect.quote(column.name), self._value(column)) for column in columns]
        assignments += [(self.dialect.quote(column.name), "NULL") for column in self.plan.missing_columns]
        return [*assignments, *self._run_assignments()]

    def insert_versions(self, numbers: range | None = None) -> str:
        """Insert the versions that are new. Binds the start of the run, and the run.

        :param numbers: the numbers of their staged rows; ``None`` for all.
        """
        values = [*map(self._value, self.plan.columns), f"s.{STARTS}", "s.ends", VALUE, VALUE]
        into = self.into([column.name for column in self.plan.columns])
        return f"{into} SELECT {', '.join(values)} FROM {self.placed(Change.INSERT)} AS s {in_order(numbers)}"

    @property
    def _from(self) -> str:
        return self._table_column(VALID_FROM)

    @property
    def _to(self) -> str:
        return self._table_column(VALID_TO)

    def _equal(self) -> str:
        return f"NOT ({self._any_differs(self.keys)})"

    def staged_keys(self) -> str:
        """Return the staged columns of the key."""
        return ", ".join(map(self.staged_key, self.keys))

    def _changed(self, place: int) -> str:
        some = f"SELECT {SEQUENCE} FROM {self.changes} WHERE place = {place}"
        return f"({some}) AS d JOIN {self.staged} AS s ON s.{SEQUENCE} = d.{SEQUENCE}"

    def placed(self, *changes: Change) -> str:
        """Return the staged rows of some changes, with their places, as a table."""
        some = ", ".join(f"'{change}'" for change in changes)
        return (
            f"(SELECT st.*, p.cut, p.ends, p.follows, p.resumes FROM {self.places} AS p JOIN {self.staged} AS st "
            f"ON st.{SEQUENCE} = p.{SEQUENCE} WHERE p.change IN ({some}))"
        )

    def into(self, names: list[str]) -> str:
        """Return the beginning of an INSERT of some columns, then those of a version."""
        columns = map(self.dialect.quote, [*names, VALID_FROM, VALID_TO, EXTRACTED_AT, RUN_ID])
        return f"{self.dialect.insert_verb} INTO {self.table} ({', '.join(columns)})"

    def _run_assignments(self) -> list[tuple[str, str]]:
        return [(self.dialect.quote(name), VALUE) for name in (EXTRACTED_AT, RUN_ID)]

    def _update(self, *changes: Change, assignments: list[tuple[str, str]], starts: str) -> Update:
        condition = all_of([self.same_record(), f"{self._from} = {starts}"])
        return Update(table=self.plan.table, assignments=assignments, condition=condition, source=self.placed(*changes))
