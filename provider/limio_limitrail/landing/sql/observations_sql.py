# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The SQL of the two tables beside a history that hold what each run saw.

``<table>__runs`` has a row for each loaded run. ``<table>__seen`` has a row for each record, time of the record's own, and
unbroken series of runs of one pull that saw both: a record that comes unchanged every night costs one row, not one a night.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE, Dialect, all_of
from limio_limitrail.landing.sql.metadata import RUN_ID
from limio_limitrail.landing.sql.names import TableName, side_table
from limio_limitrail.landing.sql.plan import ColumnPlan

SERIES = ("_pull", "_full", "_version_time", "_first_seen", "_last_seen")
"""The columns of the table of what runs saw, beside those of the key."""


@dataclass(frozen=True, kw_only=True)
class ObservationTables:
    """The tables beside a history.

    A series whose ``_last_seen`` is null goes on: each later run of its pull has seen the record, too. Full scans and runs that
    ask for a part of the list have series of their own.

    :param dialect: the database's SQL.
    :param table: the history.
    :param keys: the columns of its primary key.
    :param full: whether the run read the whole list.
    """

    dialect: Dialect
    table: TableName
    keys: tuple[ColumnPlan, ...]
    full: bool

    @property
    def runs_name(self) -> TableName:
        """The table of runs."""
        return side_table(self.table, suffix="__runs")

    @property
    def seen_name(self) -> TableName:
        """The table of what they saw."""
        return side_table(self.table, suffix="__seen")

    @property
    def runs(self) -> str:
        """The table of runs as SQL."""
        return self.dialect.qualified(self.runs_name)

    @property
    def seen(self) -> str:
        """The table of what they saw as SQL."""
        return self.dialect.qualified(self.seen_name)

    def columns_of_runs(self) -> list[tuple[str, str]]:
        """Return the columns of the table of runs."""
        text, whole = self.dialect.text_type, self.dialect.integer_type
        started_at = ("_started_at", self.dialect.types[Kind.TIMESTAMP])
        return [("_pull", text), ("_full", whole), ("_judges", whole), started_at, (RUN_ID, text)]

    def columns_of_seen(self) -> list[tuple[str, str]]:
        """Return the columns of the table of what runs saw."""
        instants = [(name, self.dialect.types[Kind.TIMESTAMP]) for name in SERIES[2:]]
        pull = [(SERIES[0], self.dialect.text_type), (SERIES[1], self.dialect.integer_type)]
        return [*((column.name, self.key_type(column)) for column in self.keys), *pull, *instants]

    def key_type(self, column: ColumnPlan) -> str:
        """Return the type that a column of the key has in the history."""
        return column.custom_type or self.dialect.types[column.kind]

    def key_of_seen(self, column: ColumnPlan, *, alias: str = "k") -> str:
        """Return a column of the key as it is compared."""
        return self.dialect.key(f"{alias}.{self.dialect.quote(column.name)}", column.kind)

    def each_run(self, condition: str) -> str:
        """Return a join of the series ``k`` that meet a condition and each of their runs ``r``, as the right side of a JOIN."""
        return (
            f"{self.seen} AS k ON {condition} JOIN {self.runs} AS r ON r._pull = k._pull AND r._full = k._full "
            f"AND r._started_at >= k._first_seen AND (k._last_seen IS NULL OR r._started_at <= k._last_seen)"
        )

    def count_runs(self) -> str:
        """Count the runs of a pull at a time, and those after it. Binds time, time, pull."""
        counted = [f"coalesce(sum(CASE WHEN _started_at {sign} {VALUE} THEN 1 ELSE 0 END), 0)" for sign in ("=", ">")]
        return f"SELECT {', '.join(counted)} FROM {self.runs} WHERE {self._own()}"

    def add_run(self, *, judges: bool) -> str:
        """Add a run. Binds pull, time, run.

        :param judges: whether a record that it did not see is missing from then on.
        """
        names = f"_pull, _full, _judges, _started_at, {RUN_ID}"
        return f"INSERT INTO {self.runs} ({names}) VALUES ({VALUE}, {int(self.full)}, {int(judges)}, {VALUE}, {VALUE})"

    def let_judge(self) -> str:
        """Let a run judge that did not when it was loaded before. Binds pull, time."""
        return f"UPDATE {self.runs} SET _judges = 1 WHERE {self._own()} AND _started_at = {VALUE}"

    def previous_run(self) -> str:
        """Return the start of the run of a pull before a time. Binds pull, time."""
        return f"(SELECT max(o._started_at) FROM {self.runs} AS o WHERE {self._own('o.')} AND o._started_at < {VALUE})"

    def next_run(self) -> str:
        """Return the start of the run of a pull after a time. Binds pull, time."""
        return f"(SELECT min(o._started_at) FROM {self.runs} AS o WHERE {self._own('o.')} AND o._started_at > {VALUE})"

    def end_series(self, seen_now: str) -> str:
        """End the series that a run breaks. Binds pull, time of the run (previous), then pull, time, time.

        :param seen_now: selects what the run saw of a series ``k``.
        """
        return f"UPDATE {self.seen} AS k SET _last_seen = {self.previous_run()} WHERE {self._broken(seen_now)}"

    def resume_series(self, seen_now: str) -> str:
        """Begin the series again that a late run breaks, at the next run; call it before `end_series`. Binds the same."""
        keys = [self.dialect.quote(column.name) for column in self.keys]
        names = [*keys, *SERIES]
        values = [f"k.{name}" for name in (*keys, *SERIES[:3])]
        return (
            f"INSERT INTO {self.seen} ({', '.join(names)}) SELECT {', '.join(values)}, {self.next_run()}, k._last_seen "
            f"FROM {self.seen} AS k WHERE {self._broken(seen_now)}"
        )

    def add_series(self, *, values: Sequence[str], source: str, time: str, same: str, latest: bool) -> str:
        """Add what a run saw, where no series covers it.

        Binds pull and time of the run, the time again unless it is the latest, then pull, time, time.

        :param values: the values of the key.
        :param source: the table of what it saw, with its alias.
        :param time: the record's own time.
        :param same: the condition that a series ``k`` is of the same record and time.
        :param latest: whether the run is the latest of its pull.
        """
        names = [*(self.dialect.quote(column.name) for column in self.keys), *SERIES]
        last = "NULL" if latest else VALUE
        during = [f"k._first_seen <= {VALUE}", f"k._last_seen IS NULL OR k._last_seen >= {VALUE}"]
        covered = all_of([same, self._own("k."), *during])
        return (
            f"INSERT INTO {self.seen} ({', '.join(names)}) "
            f"SELECT {', '.join([*values, VALUE, str(int(self.full)), time, VALUE, last])} FROM {source} "
            f"WHERE NOT EXISTS (SELECT 1 FROM {self.seen} AS k WHERE {covered})"
        )

    def _broken(self, seen_now: str) -> str:
        during = [f"k._first_seen < {VALUE}", f"k._last_seen IS NULL OR k._last_seen > {VALUE}"]
        return all_of([self._own("k."), *during, f"NOT EXISTS ({seen_now})"])

    def _own(self, alias: str = "") -> str:
        return f"{alias}_pull = {VALUE} AND {alias}_full = {int(self.full)}"
