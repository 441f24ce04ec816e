# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The SQL of a load into a child table.

Aliases: ``t`` is the child table, ``s`` its staging table, and ``p`` the temporary table of parents: the key of each parent
that came, in the columns and kinds of the child table, and its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limio_limitrail.landing.sql.dialect import all_of, any_of
from limio_limitrail.landing.sql.plan import ColumnPlan
from limio_limitrail.landing.sql.staged_rows import SEQUENCE
from limio_limitrail.landing.sql.statements import LoadStatements

PARENT = "parent"
"""The staging table's column with the number of the row above: the parent, or the element that holds the list."""


@dataclass(frozen=True, kw_only=True)
class ChildStatements(LoadStatements):
    """Builds the statements of one load into a child table.

    :param parents: the name of the temporary table of parents.
    :param changed: the name of the temporary table with the numbers of those whose rows are replaced.
    """

    parents: str
    changed: str

    def stage_columns(self) -> list[tuple[str, str]]:
        """Return the staging table's columns and their types."""
        return [*super().stage_columns(), (PARENT, self.dialect.integer_type)]

    def parent_columns(self, root: Sequence[ColumnPlan]) -> list[tuple[str, str]]:
        """Return the columns of the temporary table of parents, and their types."""
        columns = [(column.staged, self.dialect.stage_type(column.kind)) for column in root]
        return [*columns, (SEQUENCE, self.dialect.integer_type)]

    def drop_orphans(self, *, above: str) -> str:
        """Delete the staged rows whose row above was dropped.

        :param above: the staging table of the rows above, as SQL.
        """
        orphans = f"SELECT s.{SEQUENCE} FROM {self.staged} AS s LEFT JOIN {above} AS a ON a.{SEQUENCE} = s.{PARENT} WHERE "
        return f"DELETE FROM {self.staged} WHERE {SEQUENCE} IN ({orphans}a.{SEQUENCE} IS NULL)"

    def drop_parents(self, *, root: str) -> str:
        """Delete the parents that were dropped from their staging table.

        :param root: that staging table, as SQL.
        """
        dropped = f"SELECT p.{SEQUENCE} FROM {self._parents} LEFT JOIN {root} AS a ON a.{SEQUENCE} = p.{SEQUENCE} WHERE "
        return f"DELETE FROM {self._quoted_parents} WHERE {SEQUENCE} IN ({dropped}a.{SEQUENCE} IS NULL)"

    def repeated(self, keys: Sequence[ColumnPlan]) -> str:
        """Count the keys that several elements of one list have."""
        key = ", ".join(self.dialect.exact(f"s.{column.staged}", column.kind) for column in keys)
        full = all_of(f"s.{column.staged} IS NOT NULL" for column in keys)
        groups = f"SELECT 1 FROM {self.staged} AS s WHERE {full} GROUP BY s.{PARENT}, {key} HAVING count(*) > 1"
        return f"SELECT count(*) FROM ({groups}) AS repeated"

    def find_changed(self, keys: Sequence[ColumnPlan], root: Sequence[ColumnPlan]) -> str:
        """Collect the parents whose rows in the table are not the staged ones.

        :param keys: the columns that identify a row.
        :param root: those of them that identify the parent.
        """
        stored = (
            f"SELECT p.{SEQUENCE} AS {SEQUENCE}, count({self._table_column(root[0].name)}) AS total FROM {self._parents} "
            f"LEFT JOIN {self.table} AS t ON {self._of_parent(root)} GROUP BY p.{SEQUENCE}"
        )
        came = (
            f"SELECT p.{SEQUENCE} AS {SEQUENCE}, count(s.{SEQUENCE}) AS total FROM {self._parents} "
            f"LEFT JOIN {self.staged} AS s ON {self._staged_of_parent(root)} GROUP BY p.{SEQUENCE}"
        )
        other_number = (
            f"SELECT stored.{SEQUENCE} FROM ({stored}) AS stored JOIN ({came}) AS came "
            f"ON stored.{SEQUENCE} = came.{SEQUENCE} WHERE stored.total <> came.total"
        )
        other_row = (
            f"SELECT p.{SEQUENCE} FROM {self.staged} AS s JOIN {self._parents} ON {self._staged_of_parent(root)} "
            f"LEFT JOIN {self.table} AS t ON {self.same_key(keys)} "
            f"WHERE {any_of([f'{self._table_column(keys[0].name)} IS NULL', self._any_differs(keys)])}"
        )
        return f"INSERT INTO {self.dialect.quote(self.changed)} ({SEQUENCE}) {other_number} UNION {other_row}"

    def delete_changed(self, root: Sequence[ColumnPlan]) -> str:
        """Delete the table's rows of the parents that changed."""
        columns = ", ".join(self.dialect.key(self.dialect.quote(column.name), column.kind) for column in root)
        keys = ", ".join(self.dialect.key(self._value(column, of="p"), column.kind) for column in root)
        # A subquery of its own, not EXISTS: SQLite would search the parents, which have no index, for each row of the table.
        return f"DELETE FROM {self.table} WHERE ({columns}) IN (SELECT {keys} FROM {self._changed_parents})"

    def insert_changed(self, root: Sequence[ColumnPlan]) -> str:
        """Insert the staged rows of the parents that changed, in the order in which they came."""
        rows = f"SELECT s.{SEQUENCE} FROM {self._changed_parents} JOIN {self.staged} AS s ON {self._staged_of_parent(root)}"
        return f"{self.insert()} WHERE s.{SEQUENCE} IN ({rows}) ORDER BY s.{SEQUENCE}"

    def count_changed(self, root: Sequence[ColumnPlan]) -> str:
        """Count the staged rows of the parents that changed."""
        return f"SELECT count(*) FROM {self._changed_parents} JOIN {self.staged} AS s ON {self._staged_of_parent(root)}"

    def rows_of_parents(self, root: Sequence[ColumnPlan]) -> str:
        """Count the table's rows of all parents that came."""
        return f"SELECT count(*) FROM {self.table} AS t JOIN {self._parents} ON {self._of_parent(root)}"

    def delete_of(self, columns: Mapping[str, str], *, table: str, condition: str) -> str:
        """Delete the rows of some parents.

        :param columns: the columns that repeat the parent's key, and what they are compared with, as SQL: a value of a row ``t``
            of the parents' table.
        :param table: that table, as SQL.
        :param condition: the condition on a row ``t``.
        """
        parents = f"SELECT {', '.join(columns.values())} FROM {table} AS t WHERE {condition}"
        return f"DELETE FROM {self.table} WHERE ({', '.join(columns)}) IN ({parents})"

    @property
    def _quoted_parents(self) -> str:
        return self.dialect.quote(self.parents)

    @property
    def _parents(self) -> str:
        return f"{self._quoted_parents} AS p"

    @property
    def _changed_parents(self) -> str:
        return f"{self._parents} JOIN {self.dialect.quote(self.changed)} AS c ON c.{SEQUENCE} = p.{SEQUENCE}"

    def _of_parent(self, root: Sequence[ColumnPlan]) -> str:
        return all_of(
            f"{self._table_key(column)} = {self.dialect.key(self._value(column, of='p'), column.kind)}" for column in root
        )

    def _staged_of_parent(self, root: Sequence[ColumnPlan]) -> str:
        def exact(alias: str, column: ColumnPlan) -> str:
            return self.dialect.exact(f"{alias}.{column.staged}", column.kind)

        return all_of(f"{exact('s', column)} = {exact('p', column)}" for column in root)
