# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Tables in which loads keep what the rows of a table do not tell, such as ``_limio_scopes``.

A side table is in the schema of the tables that it is about, and changes in the transactions that change these. All its columns
are texts, the first of which is the name of the table that a row is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.sql.dialect import ISO_INSTANT, VALUE, all_of
from limio_limitrail.landing.sql.names import TableName

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.session import Session

_TABLE_NAME = "table_name"


def stored_instant(when: datetime) -> str:
    """Return a time as a side table stores it: texts of one length, whose order is that of the times."""
    return when.astimezone(UTC).strftime(ISO_INSTANT).rjust(len("2024-01-01T00:00:00.000000Z"), "0")


def read_instant(text: str) -> datetime:
    """Return the time of a text of `stored_instant`."""
    return datetime.fromisoformat(text)


@dataclass(frozen=True, kw_only=True)
class SideTable:
    """A kind of side table: one in each schema.

    :param name: its name.
    :param columns: its columns after the name of the table.
    """

    name: str
    columns: tuple[str, ...]

    def beside(self, session: Session, *, table: TableName) -> TableName:
        """Return the side table of a table."""
        return TableName(schema=session.located(table).schema, table=self.name)

    def exists(self, session: Session, *, table: TableName) -> bool:
        """Return whether the table's side table was created."""
        return session.exists(self.beside(session, table=table))

    def create(self, session: Session, *, table: TableName) -> None:
        """Create the table's side table, unless another load has done so."""
        side = self.beside(session, table=table)
        session.lock(side)
        if session.columns(side) is None:
            text = session.dialect.text_type
            session.create_table(table=side, columns=[(name, text) for name in (_TABLE_NAME, *self.columns)], key=())

    def read(
        self, session: Session, *, table: TableName, columns: Sequence[str], where: Mapping[str, str] | None = None
    ) -> list[tuple[Any, ...]]:
        """Return the rows about a table; none if there is no side table.

        :param columns: the columns that are read.
        :param where: column → the value that it must have.
        """
        if not self.exists(session, table=table):
            return []
        # Before its rows are read: two loads that both have read them would wait for each other.
        session.ensure_replica_identity(self.beside(session, table=table))
        condition, values = self._about(session, table=table, where=where or {})
        return session.query(f"SELECT {', '.join(columns)} FROM {self._qualified(session, table)} WHERE {condition}", *values)

    def forget(self, session: Session, *, table: TableName, where: Mapping[str, str] | None = None) -> None:
        """Delete rows about a table, all by default. The side table must exist."""
        condition, values = self._about(session, table=table, where=where or {})
        session.ensure_replica_identity(self.beside(session, table=table))
        session.execute(f"DELETE FROM {self._qualified(session, table)} WHERE {condition}", *values)

    def put(self, session: Session, *, table: TableName, key: Mapping[str, str], values: Mapping[str, str | None]) -> None:
        """Add or replace a row about a table. The side table must exist.

        :param key: column → value, of which there is one row at most.
        :param values: the other columns.
        """
        self.forget(session, table=table, where=key)
        row = {_TABLE_NAME: session.dialect.same_name(table.table), **key, **values}
        session.execute(
            f"INSERT INTO {self._qualified(session, table)} ({', '.join(row)}) VALUES ({', '.join([VALUE] * len(row))})",
            *row.values(),
        )

    def _about(self, session: Session, *, table: TableName, where: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
        wanted = {_TABLE_NAME: session.dialect.same_name(table.table), **where}
        return all_of(f"{column} = {VALUE}" for column in wanted), tuple(wanted.values())

    def _qualified(self, session: Session, table: TableName) -> str:
        return session.dialect.qualified(self.beside(session, table=table))
