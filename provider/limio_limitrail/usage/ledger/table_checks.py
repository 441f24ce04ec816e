# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a table of keys must be, whoever created it: its rows last, its keys are unique, and the user may change it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE
from limio_limitrail.usage.ledger.states import LedgerError

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.dialect import TableColumn
    from limio_limitrail.landing.sql.names import TableName
    from limio_limitrail.landing.sql.session import Session

_KEY_LENGTH = 36
"""Characters of a UUID."""

_TEXT = re.compile(r"(?:text|varchar|character varying)(?:\((\d+)\))?", re.IGNORECASE)
_PADDED = re.compile(r"(?:char|character|bpchar)(?:\((\d+)\))?", re.IGNORECASE)

_UNIQUE = {
    "Postgres": (
        "SELECT 1 FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid "
        "AND a.attnum = i.indkey[0] WHERE i.indrelid = to_regclass({qualified}) AND i.indisunique AND i.indimmediate "
        "AND i.indisvalid AND i.indnkeyatts = 1 AND i.indpred IS NULL AND lower(a.attname) = {key}"
    ),
    "DuckDB": (
        "SELECT 1 FROM duckdb_constraints() WHERE lower(table_name) = lower({table}) AND database_name = current_database() "
        "AND constraint_type IN ('PRIMARY KEY', 'UNIQUE') AND lower(array_to_string(constraint_column_names, ',')) = {key} "
        "UNION ALL SELECT 1 FROM duckdb_indexes() WHERE lower(table_name) = lower({table}) AND is_unique "
        "AND database_name = current_database() AND lower(regexp_replace(expressions, '[^A-Za-z0-9_,]', '', 'g')) = {key}"
    ),
    "SQLite": (
        'SELECT 1 FROM pragma_index_list({table}) AS list WHERE list."unique" AND NOT list.partial AND {key} = '
        "(SELECT lower(group_concat(part.name)) FROM pragma_index_info(list.name) AS part)"
    ),
}
"""Queries that find a unique key of the one column."""


def check_keeps_rows(session: Session, table: TableName) -> None:
    """Check that the table outlives a crash of its server.

    :raises LedgerError: it is unlogged.
    """
    if session.dialect.name != "Postgres":
        return
    name = session.dialect.qualified(table)
    if session.query(f"SELECT 1 FROM pg_catalog.pg_class WHERE oid = to_regclass({VALUE}) AND relpersistence = 'u'", name):
        raise LedgerError(
            f"the table {table} is unlogged: a crash of the server empties it, and what was sent would be sent again. "
            f"Nothing was sent. Have its owner run: ALTER TABLE {name} SET LOGGED"
        )


def check_texts(session: Session, table: TableName, *, columns: Sequence[TableColumn], key: str) -> None:
    """Check that the columns of texts return what was written.

    :param columns: the table's columns that are used.
    :raises LedgerError: one pads texts, or the key is no text, or too short a one.
    """
    if session.dialect.name not in ("Postgres", "DuckDB"):
        return
    for column in columns:
        is_key = column.name.lower() == key
        if (padded := _PADDED.fullmatch(column.type)) and not (is_key and int(padded[1] or 1) == _KEY_LENGTH):
            raise _unfit_type(table, column, what="which fills texts up with blanks")
        if not is_key or padded:
            continue
        found = _TEXT.fullmatch(column.type)
        if column.kind is not Kind.TEXT and found is None:
            raise _unfit_type(table, column, what="and keys are texts")
        if found and found[1] and int(found[1]) < _KEY_LENGTH:
            raise _unfit_type(table, column, what=f"and keys have {_KEY_LENGTH} characters")


def _unfit_type(table: TableName, column: TableColumn, *, what: str) -> LedgerError:
    return LedgerError(
        f"the table {table}: the type of its column {column.name!r} is {column.type}, {what}. Nothing was sent. Change it to text"
    )


def check_unique(session: Session, table: TableName, *, key: str) -> None:
    """Check that two rows cannot have the same key, where the database says so: else two workers would send the same row.

    :raises LedgerError: they can.
    """
    query = _UNIQUE.get(session.dialect.name)
    if query is None:
        return
    names = {"qualified": session.dialect.qualified(table), "table": table.table, "key": key}
    literals = {name: "'" + text.replace("'", "''") + "'" for name, text in names.items()}
    if not session.query(query.format(**literals)):
        quote = session.dialect.quote
        raise LedgerError(
            f"the table {table} may have the same key twice: its column {key!r} has no primary key or unique index of its own, "
            "as in a copy of a ledger. Nothing was sent. Have its owner run: "
            f"CREATE UNIQUE INDEX {quote(f'{table.table}_keys')} ON {session.dialect.qualified(table)} ({quote(key)})"
        )


def check_privileges(session: Session, table: TableName) -> None:
    """Check that Postgres grants the connection's user what is needed, before anything is sent."""
    if session.dialect.name != "Postgres":
        return
    name = session.dialect.qualified(table)
    lacking = session.query(
        f"SELECT may, current_user FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS may "
        f"WHERE NOT has_table_privilege(CAST(to_regclass({VALUE}) AS oid), may) AND (may = 'DELETE' OR EXISTS ("
        f"SELECT 1 FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass({VALUE}) AND attnum > 0 AND NOT attisdropped "
        f"AND NOT has_column_privilege(attrelid, attnum, may)))",
        name,
        name,
    )
    if lacking:
        rights = ", ".join(right for right, _ in lacking)
        raise LedgerError(
            f"the connection's user {lacking[0][1]!r} may not {rights} in the table {table}. Nothing was sent. "
            f"Have its owner run: GRANT {rights} ON {name} TO {session.dialect.quote(lacking[0][1])}"
        )


def check_owner(session: Session, table: TableName, *, lacking: Sequence[str]) -> None:
    """Check that the connection's user may add the columns that the table lacks."""
    if session.dialect.name != "Postgres":
        return
    name = session.dialect.qualified(table)
    found = session.query(
        f"SELECT pg_has_role(relowner, 'USAGE') FROM pg_catalog.pg_class WHERE oid = to_regclass({VALUE})", name
    )
    if found and not found[0][0]:
        raise LedgerError(
            f"the table {table} lacks columns of this version ({', '.join(lacking)}), and only its owner may add them: "
            "run the task once as the owner, or have the owner add them"
        )


def check_server(session: Session) -> None:
    """Check that the server takes changes."""
    if session.dialect.name == "Postgres" and session.query("SELECT current_setting('transaction_read_only')") == [("on",)]:
        raise LedgerError(
            "the database takes no changes: it is a standby server, or default_transaction_read_only is on for the connection's "
            "user or for the database"
        )
