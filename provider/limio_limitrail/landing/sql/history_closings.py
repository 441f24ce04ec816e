# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Closes the versions of records that a finished full scan no longer has, and opens new ones for records that come again."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.shrinking import shrunk
from limio_limitrail.landing.sql.dialect import VALUE, Update, all_of
from limio_limitrail.landing.sql.history_statements import STARTS, TIME, VALID_FROM, VALID_TO, Change, HistoryStatements
from limio_limitrail.landing.sql.metadata import RUN_ID
from limio_limitrail.landing.sql.missing_rows import example_keys
from limio_limitrail.landing.sql.model import LandingError, Target
from limio_limitrail.landing.sql.observations import pull_of
from limio_limitrail.landing.sql.staged_rows import SEQUENCE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limio_limitrail.landing.sql.partitions import TouchedPartitions
    from limio_limitrail.landing.sql.session import Session


@dataclass(frozen=True, kw_only=True)
class Closings:
    """The part of a load that judges which records a history no longer has.

    A record is missing at a time if each pull that saw it has read its whole list since without it.

    :param session: the transaction.
    :param statements: those of the load.
    :param target: the table, and the run.
    :param touched: collects the partitions of the versions that are closed or opened.
    """

    session: Session
    statements: HistoryStatements
    target: Target
    touched: TouchedPartitions

    def has_judged(self) -> bool:
        """Return whether any full scan has judged yet."""
        [(judged,)] = self.session.query(f"SELECT count(*) FROM {self.statements.observed.runs} WHERE _judges = 1")
        return bool(judged)

    def judged_runs(self) -> int:
        """Collect the full scans from this run on that judge, and return how many there are."""
        instant = self.session.dialect.types[Kind.TIMESTAMP]
        whole = self.session.dialect.integer_type
        key_types = [(name, self._key_type(at)) for at, name in enumerate(self._keys)]
        self.session.create_stage(stage=self._judged, columns=[("number", whole), ("judged_at", instant)])
        self.session.create_stage(stage=self._missing, columns=[*key_types, ("starts", instant), ("ends", instant)])
        followed = [("follows", instant), ("follows_end", instant), ("same", whole)]
        self.session.create_stage(stage=self._undone, columns=[*key_types, ("starts", instant), *followed])
        later = f"SELECT DISTINCT _started_at FROM {self.statements.observed.runs} WHERE _judges = 1 AND _started_at >= {VALUE}"
        return self.session.execute(
            f"INSERT INTO {self._judged} (number, judged_at) "
            f"SELECT row_number() OVER (ORDER BY d._started_at), d._started_at FROM ({later}) AS d",
            self.target.extracted_at,
        )

    def close(self, number: int, *, staged: int, guarded: bool) -> int:
        """Close the versions of the records that are missing at the time of a full scan; return how many there are.

        :param number: the scan: the first is 1.
        :param staged: the staged rows.
        :param guarded: whether the target's limit of missing rows holds.
        :raises ShrunkListError: more are missing than the target allows.
        """
        session, table = self.session, self.statements.table
        at = self._time_of(number)
        session.execute(f"DELETE FROM {self._missing}")
        keys = ", ".join(f"d.{name}" for name in self._keys)
        valid = f"t.{self._from} < {at} AND (t.{self._to} IS NULL OR t.{self._to} > {at})"
        missing = session.execute(
            f"INSERT INTO {self._missing} ({', '.join(self._keys)}, starts, ends) "
            f"SELECT {keys}, t.{self._from}, t.{self._to} FROM ({self._missing_keys(at)}) AS d JOIN {table} AS t "
            f"ON {self._is_of('d')} AND {valid}"
        )
        if not missing:
            return 0
        session.analyze(stage=self._missing)
        if guarded:
            self._guard(missing, staged=staged)
        self.touched.note(f"{table} AS t JOIN {self._missing} AS s ON {self._is_of('s')} AND t.{self._from} = s.starts")
        self._resume(at)
        condition = f"{self._is_of('s')} AND t.{self._from} = s.starts"
        update = Update(table=self.statements.plan.table, assignments=[(self._to, at)], condition=condition, source=self._missing)
        closed = session.update_rows(update)
        self._expect(closed, wanted=missing)
        return missing

    def undo(self, number: int) -> None:
        """Open the versions again that a later full scan has closed, where this run shows that another list had the record.

        :param number: the scan.
        """
        session, sql, table = self.session, self.statements, self.statements.table
        at = self._time_of(number)
        session.execute(f"DELETE FROM {self._undone}")
        keys = self._key_of("t")
        missing = all_of(f"{key} = d.{name}" for key, name in zip(keys, self._keys, strict=True))
        of_one = all_of(f"{n} = {t}" for n, t in zip(self._key_of("n"), keys, strict=True))
        next_start = f"(SELECT min(n.{self._from}) FROM {table} AS n WHERE {of_one} AND n.{self._from} >= {at})"
        closed = (
            f"SELECT {', '.join(f'{key} AS {name}' for key, name in zip(keys, self._keys, strict=True))}, "
            f"t.{self._from} AS starts, {next_start} AS follows FROM {table} AS t WHERE t.{self._to} = {at} "
            f"AND EXISTS (SELECT 1 FROM {sql.staged} AS s WHERE {sql.same_record()}) "
            f"AND NOT EXISTS (SELECT 1 FROM ({self._missing_keys(at)}) AS d WHERE {missing})"
        )
        names = [*(column.name for column in sql.plan.columns), *(column.name for column in sql.plan.missing_columns)]
        kinds: dict[str, Kind | None] = {column.name: column.kind for column in sql.plan.columns if column.custom_type is None}
        kinds.update({column.name: column.kind for column in sql.plan.missing_columns})
        same = all_of(
            f"NOT ({self._exact('t', name, kinds)} {session.dialect.distinct} {self._exact('n', name, kinds)})" for name in names
        )
        of_closed = all_of(f"{key} = c.{name}" for key, name in zip(keys, self._keys, strict=True))
        of_next = all_of(f"{key} = c.{name}" for key, name in zip(self._key_of("n"), self._keys, strict=True))
        session.execute(
            f"INSERT INTO {self._undone} ({', '.join(self._keys)}, starts, follows, follows_end, same) "
            f"SELECT {', '.join(f'c.{name}' for name in self._keys)}, c.starts, c.follows, n.{self._to}, "
            f"CASE WHEN n.{self._from} IS NOT NULL AND {same} THEN 1 ELSE 0 END FROM ({closed}) AS c "
            f"JOIN {table} AS t ON {of_closed} AND t.{self._from} = c.starts "
            f"LEFT JOIN {table} AS n ON {of_next} AND n.{self._from} = c.follows "
            f"WHERE c.follows IS NULL OR c.follows > {at}"
        )
        self.touched.note(f"{table} AS t JOIN {self._undone} AS s ON {self._is_of('s')}")
        copies = f"SELECT 1 FROM {self._undone} AS s WHERE {self._is_of('s')} AND s.same = 1 AND t.{self._from} = s.follows"
        session.execute(f"DELETE FROM {table} AS t WHERE EXISTS ({copies})")
        ends = "CASE WHEN s.same = 1 THEN s.follows_end ELSE s.follows END"
        condition = f"{self._is_of('s')} AND t.{self._from} = s.starts"
        session.update_rows(
            Update(table=sql.plan.table, assignments=[(self._to, ends)], condition=condition, source=self._undone)
        )

    def reopen(self) -> int:
        """Open new versions of the records that the run saw and that have none at its time; return how many there are."""
        session, sql, at = self.session, self.statements, self.target.extracted_at
        for name in (sql.changes, sql.versions, sql.places):
            session.execute(f"DELETE FROM {name}")
        valid = f"t.{self._from} <= {VALUE} AND (t.{self._to} IS NULL OR t.{self._to} > {VALUE})"
        newest = f"row_number() OVER (PARTITION BY {sql.staged_keys()} ORDER BY s.{STARTS} DESC)"
        closed = session.execute(
            f"INSERT INTO {sql.changes} ({SEQUENCE}, place) SELECT n.{SEQUENCE}, 0 FROM (SELECT s.{SEQUENCE}, {newest} AS nth "
            f"FROM {sql.staged} AS s WHERE s.{STARTS} <= {VALUE}) AS n JOIN {sql.staged} AS s ON s.{SEQUENCE} = n.{SEQUENCE} "
            f"WHERE n.nth = 1 AND s.{TIME} IS NOT NULL "
            f"AND NOT EXISTS (SELECT 1 FROM {sql.table} AS t WHERE {sql.same_record()} AND {valid})",
            at, at, at,
        )  # fmt: skip
        if not closed:
            return 0
        self.touched.note(sql.changed_records())
        session.execute(sql.find_versions(0))
        session.execute(sql.find_copies())
        before = f"(SELECT max(v.starts) FROM {sql.versions} AS v WHERE v.{SEQUENCE} = d.{SEQUENCE} AND v.starts < {VALUE})"
        follows = f"(SELECT min(v.starts) FROM {sql.versions} AS v WHERE v.{SEQUENCE} = d.{SEQUENCE} AND v.starts > {VALUE})"
        session.execute(
            f"INSERT INTO {sql.places} ({SEQUENCE}, change, cut, ends, follows, resumes) "
            f"SELECT f.{SEQUENCE}, CASE WHEN n.copied = 1 THEN '{Change.EXTEND}' ELSE '{Change.INSERT}' END, f.before, "
            f"f.follows, f.follows, NULL "
            f"FROM (SELECT d.{SEQUENCE}, {before} AS before, {follows} AS follows FROM {sql.changes} AS d) AS f "
            f"LEFT JOIN {sql.versions} AS n ON n.{SEQUENCE} = f.{SEQUENCE} AND n.starts = f.follows",
            at, at,
        )  # fmt: skip
        written = session.update_rows(sql.extend_to(VALUE), at, at, self.target.run_id)
        names = [*(column.name for column in sql.plan.columns), *(column.name for column in sql.plan.missing_columns)]
        values = [f"t.{session.dialect.quote(name)}" for name in names]
        written += session.execute(
            f"{sql.into(names)} SELECT {', '.join([*values, VALUE, 's.ends', VALUE, VALUE])} "
            f"FROM {sql.placed(Change.INSERT)} AS s JOIN {sql.table} AS t ON {sql.same_record()} AND t.{self._from} = s.cut",
            at, at, self.target.run_id,
        )  # fmt: skip
        self._expect(written, wanted=closed)
        return closed

    @cached_property
    def _judged(self) -> str:
        return f"_limio_judged_{uuid.uuid4().hex}"

    @cached_property
    def _missing(self) -> str:
        return f"_limio_missing_{uuid.uuid4().hex}"

    @cached_property
    def _undone(self) -> str:
        return f"_limio_undone_{uuid.uuid4().hex}"

    def _time_of(self, number: int) -> str:
        return f"(SELECT j.judged_at FROM {self._judged} AS j WHERE j.number = {number})"

    def _exact(self, alias: str, name: str, kinds: Mapping[str, Kind | None]) -> str:
        column = f"{alias}.{self.session.dialect.quote(name)}"
        kind = kinds.get(name)
        # A type that this package does not create is compared as text.
        text = f"CAST({column} AS {self.session.dialect.text_type})"
        return self.session.dialect.exact(text if kind is None else column, kind or Kind.TEXT)

    @property
    def _from(self) -> str:
        return self.session.dialect.quote(VALID_FROM)

    @property
    def _to(self) -> str:
        return self.session.dialect.quote(VALID_TO)

    @property
    def _keys(self) -> list[str]:
        return [f"key{at}" for at, _ in enumerate(self.statements.keys)]

    def _key_type(self, at: int) -> str:
        column = self.statements.keys[at]
        return self.session.dialect.text_type if column.kind is Kind.JSON else self.statements.observed.key_type(column)

    def _key_of(self, alias: str) -> list[str]:
        tables = self.statements.observed
        return [tables.key_of_seen(column, alias=alias) for column in tables.keys]

    def _is_of(self, alias: str) -> str:
        """Return the condition that a row ``t`` of the table has the key in a row of the temporary table."""
        return all_of(f"{key} = {alias}.{name}" for key, name in zip(self._key_of("t"), self._keys, strict=True))

    def _missing_keys(self, at: str) -> str:
        """Select the keys that are missing at a time: no run since the last full scan of each pull has seen them."""
        tables = self.statements.observed
        same = f"j._pull = p._pull AND j._judges = 1 AND j._started_at <= {at}"
        judged = f"SELECT max(j._started_at) FROM {tables.runs} AS j WHERE {same}"
        pulls = (
            f"SELECT p._pull, p._full, max(p._started_at) AS newest, ({judged}) AS judged FROM {tables.runs} AS p "
            f"WHERE p._started_at <= {at} GROUP BY p._pull, p._full"
        )
        last = "CASE WHEN k._last_seen IS NULL OR k._last_seen > a.newest THEN a.newest ELSE k._last_seen END"
        seen = f"max(CASE WHEN a.judged IS NULL OR {last} >= a.judged THEN 1 ELSE 0 END)"
        keys = self._key_of("k")
        named = ", ".join(f"{key} AS {name}" for key, name in zip(keys, self._keys, strict=True))
        return (
            f"SELECT {named} FROM {tables.seen} AS k JOIN ({pulls}) AS a ON a._pull = k._pull AND a._full = k._full "
            f"WHERE k._first_seen <= {at} GROUP BY {', '.join(keys)} HAVING {seen} = 0"
        )

    def _resume(self, at: str) -> None:
        """Insert the versions that are closed once more, from when a later run has seen the record again."""
        session, sql = self.session, self.statements
        tables = sql.observed
        same = all_of(f"{key} = m.{name}" for key, name in zip(self._key_of("k"), self._keys, strict=True))
        keys = [f"m.{name}" for name in self._keys]
        again = (
            f"SELECT {', '.join(keys)}, m.starts, m.ends, min(r._started_at) AS resumes FROM {self._missing} AS m "
            f"JOIN {tables.each_run(same)} WHERE r._started_at > {at} AND (m.ends IS NULL OR r._started_at < m.ends) "
            f"GROUP BY {', '.join(keys)}, m.starts, m.ends"
        )
        names = [*(column.name for column in sql.plan.columns), *(column.name for column in sql.plan.missing_columns)]
        values = [f"t.{session.dialect.quote(name)}" for name in names]
        run = f"(SELECT min(o.{RUN_ID}) FROM {tables.runs} AS o WHERE o._started_at = s.resumes)"
        session.execute(
            f"{sql.into(names)} SELECT {', '.join([*values, 's.resumes', 's.ends', 's.resumes', run])} "
            f"FROM ({again}) AS s JOIN {sql.table} AS t ON {self._is_of('s')} AND t.{self._from} = s.starts"
        )

    def _guard(self, missing: int, *, staged: int) -> None:
        guard = self.target.max_missing
        if guard is None:
            return
        # At the time of the run, before anything is closed.
        tables, at = self.statements.observed, self.target.extracted_at
        same = all_of(f"{k} = {t}" for k, t in zip(self._key_of("k"), self._key_of("t"), strict=True))
        before = f"SELECT 1 FROM {tables.seen} AS k WHERE {same} AND k._pull = {VALUE} AND k._first_seen < {VALUE}"
        valid = f"t.{self._from} < {VALUE} AND (t.{self._to} IS NULL OR t.{self._to} > {VALUE}) AND EXISTS ({before})"
        [(known,)] = self.session.query(
            f"SELECT count(*) FROM {self.statements.table} AS t WHERE {valid}", at, at, pull_of(self.target), at
        )
        known = max(int(known), missing)
        if not guard.refuses(missing=missing, known=known, empty=not staged):
            return
        gone = f"EXISTS (SELECT 1 FROM {self._missing} AS m WHERE {self._is_of('m')} AND m.starts = t.{self._from})"
        raise shrunk(
            str(self.statements.plan.table),
            missing=missing,
            known=known,
            guard=guard,
            keys=example_keys(
                session=self.session, statements=self.statements, primary_key=self.target.primary_key, condition=gone
            ),
            consequence="nothing was written",
        )

    def _expect(self, found: int, *, wanted: int) -> None:
        if found != wanted:
            raise LandingError(
                f"{self.statements.plan.table}: {wanted} versions were to be closed or opened and the database counts {found}. A "
                f"trigger or a rule of the table may prevent it; change it, or load into another table; nothing was written"
            )
