# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What DuckDB says of its tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE, Equality, TableColumn, quoted
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.names import ascii_lower

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.names import TableName

# Types that compare values as equal only if their texts are, as long as a text is returned unchanged.
_EXACT_TYPES = frozenset(
    {"BIT", "BLOB", "BOOLEAN", "DATE", "DECIMAL", "DOUBLE", "ENUM", "JSON", "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE",
     "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP_S", "UUID", "VARCHAR", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT",
     "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
)  # fmt: skip
_CAPITALS, _SMALL = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"
_KINDS = {
    "BOOLEAN": Kind.BOOLEAN,
    "BIGINT": Kind.BIGINT,
    "DOUBLE": Kind.DOUBLE,
    "TIMESTAMP WITH TIME ZONE": Kind.TIMESTAMP,
    "VARCHAR": Kind.TEXT,
    "JSON": Kind.JSON,
}


class DuckCatalog:
    """Finds tables by name, as a statement of this connection would.

    :param query: runs a query with bound values, and returns its rows.
    """

    def __init__(self, query: Callable[..., list[tuple[Any, ...]]]) -> None:
        self._query = query
        self._found: set[TableName] = set()
        self._schemas: set[str] = set()

    def forget(self) -> None:
        """Look for every table anew: another transaction begins."""
        self._found.clear()
        self._schemas.clear()

    def note(self, statement: str) -> None:
        """Look for tables anew after a statement that takes one away, or its name."""
        if statement.startswith("DROP TABLE") or " RENAME TO " in statement:
            self._found.clear()

    def exists(self, table: TableName) -> bool:
        """Return whether there is such a table.

        :raises LandingError: the name belongs to something other than a table of this database.
        """
        # A load asks for the same tables again and again, and DuckDB takes milliseconds to answer.
        if table not in self._found and self._is_there(table):
            self._found.add(table)
        return table in self._found

    def _is_there(self, table: TableName) -> bool:
        # The views of information_schema and a table's columns take DuckDB several times as long.
        self._check_schema(table)
        found = self._query(
            f"SELECT temporary FROM duckdb_tables() WHERE {_lower('table_name')} = {VALUE} AND (temporary OR "
            f"database_name = current_database() AND {_is_in('schema_name')})",
            *_names(table),
        )
        # Temporary tables have a schema main of their own, which DuckDB searches first.
        if (True,) in found and (table.schema is None or ascii_lower(table.schema) == "main"):
            raise LandingError(
                f"{table} is a temporary table of the connection, which ends with it and hides a table of this name; choose "
                f"another name, or leave the temporary table out"
            )
        if (False,) in found:
            return True
        views = f"SELECT 1 FROM duckdb_views() WHERE database_name = current_database() AND {_is_at('view_name', 'schema_name')}"
        if self._query(views, *_names(table)):
            raise LandingError(f"{table} is a view; a pull can only be loaded into a table")
        return False

    def columns(self, table: TableName) -> tuple[TableColumn, ...] | None:
        """Return a table's columns; ``None`` if there is no such table.

        :raises LandingError: as `exists`.
        """
        if not self.exists(table):
            return None
        # The columns of one table: duckdb_columns() goes through those of all.
        described = self._query(
            f"SELECT name, type, dflt_value IS NULL FROM pragma_table_info({VALUE}) ORDER BY cid",
            ".".join(quoted(part) for part in (table.schema, table.table) if part is not None),
        )
        return tuple(
            TableColumn(name=name, type=type_, kind=_KINDS.get(type_), managed=bool(managed), equality=_equality(type_))
            for name, type_, managed in described
        )

    def _check_schema(self, table: TableName) -> None:
        """Refuse a name that a statement would resolve to another database."""
        if table.schema is None:
            return
        schema = ascii_lower(table.schema)
        if schema in self._schemas:
            return
        of_databases = f"SELECT 1 FROM duckdb_databases() WHERE {_lower('database_name')} = {VALUE}"
        of_schemas = (
            f"SELECT 1 FROM duckdb_schemas() WHERE database_name = current_database() AND {_lower('schema_name')} = {VALUE}"
        )
        if not self._query(of_schemas, schema):
            also = ""
            if self._query(of_databases, schema):
                also = f"; {table.schema!r} is a database: the connection's own needs no name, and no other can be loaded into"
            raise LandingError(f"{table}: there is no schema {table.schema!r}{also}; create it, or write the name of another")
        if self._query(of_databases, schema):
            raise LandingError(
                f"{table}: {table.schema!r} is both a schema and a database, and DuckDB cannot tell which is meant; rename one"
            )
        self._schemas.add(schema)

    def takes_copies(self, table: TableName) -> bool:
        """Return whether a row can be replaced by a copy with some other values.

        Not if an index or a constraint would see the row that the transaction has deleted, a trigger would see an insert, or the
        database computes a column.
        """
        at = _is_at("table_name", "schema_name")
        refusals = [
            ("duckdb_constraints()", "constraint_type NOT IN ('CHECK', 'NOT NULL')"),
            ("duckdb_indexes()", "true"),
            ("duckdb_tables()", "contains(upper(sql), 'GENERATED ALWAYS AS')"),
        ]
        # New in DuckDB 2.
        if self._query("SELECT 1 FROM duckdb_functions() WHERE function_name = 'duckdb_triggers'"):
            refusals.append(("duckdb_triggers()", "true"))
        return not any(
            self._query(f"SELECT 1 FROM {what} WHERE database_name = current_database() AND {at} AND {which}", *_names(table))
            for what, which in refusals
        )

    def indexes(self, table: TableName) -> list[str]:
        """Return the names of a table's indexes."""
        found = self._query(
            f"SELECT index_name FROM duckdb_indexes() WHERE database_name = current_database() "
            f"AND {_is_at('table_name', 'schema_name')}",
            *_names(table),
        )
        return [name for (name,) in found]


def _lower(expression: str) -> str:
    # DuckDB ignores the case of A to Z, and of no other letters.
    return f"translate({expression}, '{_CAPITALS}', '{_SMALL}')"


def _is_at(table: str, schema: str) -> str:
    """Return the condition that two columns of DuckDB's catalog name a table; binds what `_names` returns."""
    return f"{_lower(table)} = {VALUE} AND {_is_in(schema)}"


def _is_in(schema: str) -> str:
    return f"{_lower(schema)} = coalesce({VALUE}, {_lower('current_schema()')})"


def _names(table: TableName) -> tuple[str, str | None]:
    return ascii_lower(table.table), None if table.schema is None else ascii_lower(table.schema)


def _equality(type_: str) -> Equality:
    # Collations do not matter: keys are compared character by character, and indexes ignore collations.
    if type_ == "FLOAT":
        return Equality.NUMERIC
    name = type_.partition("(")[0]
    return Equality.EXACT if name in _EXACT_TYPES and not type_.endswith("]") else Equality.LOOSE
