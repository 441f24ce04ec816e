# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""MySQL and MariaDB, which dlt loads through SQLAlchemy: types that keep each value, and merges that find keys by an index.

dlt would make columns of 65,535 bytes at most, in the character set of the database, write nested values as the text of a text,
take its own booleans for numbers when it comes again, and compare each staged row with each row of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlt.destinations.impl.sqlalchemy.type_mapper import MysqlVariantTypeMapper
from sqlalchemy.dialects import mysql

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.plan import ColumnPlan, LoadPlan

_CHARSET, _COLLATION = "utf8mb4", "utf8mb4_bin"

_UNFIT_FOR_NAMES = frozenset(":%`")
"""Characters in which SQLAlchemy and drivers see parameters or quotes, also within a name."""

_INDEX, _PREFIX = "limio_keys", 100
_TEXTS = frozenset({Kind.TEXT, Kind.JSON, Kind.NULL})


@dataclass(frozen=True, kw_only=True)
class KeyIndex:
    """The index of a stage by its keys.

    :param table: the stage's table.
    :param keys: the columns of the key, as they are planned.
    """

    table: str
    keys: Sequence[ColumnPlan]

    def create(self, sql: Any) -> None:
        """Create it, unless a killed try has.

        :param sql: dlt's SQL client, without a transaction.
        """
        schema, table = sql.fully_qualified_dataset_name(quote=False, staging=True), self.table
        where = f"table_schema = {literal(schema)} AND table_name = {literal(table)} AND index_name = '{_INDEX}'"
        if sql.execute_sql(f"SELECT 1 FROM information_schema.statistics WHERE {where} LIMIT 1"):
            return
        columns = ", ".join(
            sql.escape_column_name(key.name) + (f"({_PREFIX})" if key.kind in _TEXTS else "") for key in self.keys
        )
        sql.execute_sql(f"CREATE INDEX {_INDEX} ON {sql.get_qualified_table_names(table)[1]} ({columns})")


def check_names(plan: LoadPlan) -> None:
    """Refuse names of columns that dlt's statements cannot have.

    :raises LandingError: there is one.
    """
    for column in plan.columns:
        if _UNFIT_FOR_NAMES & set(column.name):
            raise LandingError(
                f"{plan.table}: the record key {column.key!r} has a colon, a percent sign or a backtick, which dlt's statements "
                "for MySQL and MariaDB cannot have in a column's name: leave it out with drop_columns=, and take it under "
                "another name with nested_columns=. Nothing was written; a retry with other parameters pulls again"
            )


def literal(text: str) -> str:
    """Write a text as a literal. dlt's is that of Postgres, and in a quoted one SQLAlchemy and drivers see parameters."""
    return f"X'{text.encode().hex()}'"


def same_bytes(one: str, other: str) -> str:
    """Return the condition that two values are the same: case, and spaces in the end, may not count in a comparison of texts.

    The first half is for indexes.
    """
    return f"({one} = {other} AND BINARY {one} = BINARY {other})"


def not_in(table: str, *, staged: str, keys: Sequence[str]) -> str:
    """Return the condition that a table has no row with the key of a staged one.

    The hashes are collected once. Texts would be read again for each row.

    :param table: the table, as SQL.
    :param staged: the staged one, likewise.
    :param keys: the columns of the key, quoted.
    """

    def digest(of: str) -> str:
        # The commas keep the values apart: they are no digits.
        parts = ", ',', ".join(f"hex({of}.{key})" for key in keys)
        return f"sha2(concat({parts}), 256)"

    present = " AND ".join(f"d.{key} IS NOT NULL" for key in keys)
    return f"{digest(staged)} NOT IN (SELECT {digest('d')} FROM {table} AS d WHERE {present})"


class ExactMysqlTypes(MysqlVariantTypeMapper):
    """The types of columns. A nested value is a text as it came: MySQL's own JSON would change numbers."""

    def db_type_from_text_type(self, column: Any, table: Any) -> Any:  # noqa: ARG002 - as dlt calls it
        """Return the type of texts."""
        return mysql.LONGTEXT(charset=_CHARSET, collation=_COLLATION)

    def db_type_from_json_type(self, column: Any, table: Any) -> Any:
        """Return the type of nested values."""
        return self.db_type_from_text_type(column, table)

    def from_destination_type(self, db_type: Any, precision: int | None = None, scale: int | None = None) -> Any:
        """Return dlt's type of a column."""
        if isinstance(db_type, mysql.TINYINT) and db_type.display_width == 1:
            return {"data_type": "bool"}
        return super().from_destination_type(db_type, precision, scale)
