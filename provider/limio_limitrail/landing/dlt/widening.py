# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Make a column of a warehouse's table wider, where it is known how: dlt changes no type of a column."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from limio_limitrail.landing.column_types import EXACT_IN_DOUBLE, Kind
from limio_limitrail.landing.sql.plan import ColumnPlan

log = logging.getLogger("limio_limitrail.landing.dlt")

_TYPES: Mapping[str, Mapping[Kind, str]] = {
    "duckdb": {Kind.DOUBLE: "DOUBLE", Kind.TEXT: "VARCHAR"},
    "mysql": {Kind.DOUBLE: "DOUBLE", Kind.TEXT: "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"},
    "postgres": {Kind.DOUBLE: "double precision", Kind.TEXT: "text"},
}

_INSTANTS: Mapping[str, str] = {
    "duckdb": "strftime({name}, '%Y-%m-%dT%H:%M:%S.%fZ')",
    "postgres": "to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
}


def can_widen(column: ColumnPlan, *, kind: str) -> bool:
    """Return whether a column can become as wide as its plan says, with all its values as they are.

    Doubles do not become text, because databases write them otherwise than this package does.

    :param kind: as for `table_lock.one_load_at_a_time`.
    """
    if kind == "mysql" and column.current not in (Kind.INTEGER, Kind.BIGINT):
        # MODIFY writes true as 1, and an instant without its zone.
        return False
    return column.kind in _TYPES.get(kind, {}) and column.current is not Kind.DOUBLE


def fits_double(sql: Any, *, table: str, column: str) -> bool:
    """Return whether a double holds all integers of a column.

    :param sql: dlt's SQL client.
    :param table: the table, as SQL.
    """
    name = sql.escape_column_name(column)
    beyond = f"{name} > {EXACT_IN_DOUBLE} OR {name} < -{EXACT_IN_DOUBLE}"
    return int(sql.execute_sql(f"SELECT count(*) FROM {table} WHERE {beyond}")[0][0]) == 0


def widen(sql: Any, *, table: str, column: ColumnPlan, kind: str) -> None:
    """Make a column wider, in a transaction of its own: no value changes, so that it does no harm if the load fails."""
    name = sql.escape_column_name(column.name)
    type_ = _TYPES[kind][column.kind]
    if kind == "mysql":
        change = f"MODIFY COLUMN {name} {type_}"
    else:
        using = _INSTANTS[kind].format(name=name) if column.current is Kind.TIMESTAMP else f"CAST({name} AS {type_})"
        change = f"ALTER COLUMN {name} TYPE {type_} USING {using}"
    sql.execute_sql(f"ALTER TABLE {table} {change}")
    log.info("%s: the column %r is %s now", table, column.name, type_)
