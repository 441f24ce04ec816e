# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How dlt writes each mode: which rows of the table it deletes, and which of the staged ones it inserts.

All rows go through a stage of the run's own. Then one transaction deletes and inserts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from limio_limitrail.landing.dlt.versions import ROW_VERSION
from limio_limitrail.landing.sql.history_statements import VALID_FROM, VALID_TO
from limio_limitrail.landing.sql.metadata import EXTRACTED_AT, RUN_ID
from limio_limitrail.landing.sql.model import LandingError, WriteMode

APPEND = {"disposition": "append"}
"""The write disposition of rows that go straight into a table."""


def equal(one: str, other: str) -> str:
    """Return the condition that two values are equal."""
    return f"{one} = {other}"


def not_in(table: str, *, staged: str, keys: Sequence[str]) -> str:
    """Return the condition that a table has no row with the key of a staged one.

    :param table: the table, as SQL.
    :param staged: the staged one, likewise.
    :param keys: the columns of the key, quoted.
    """
    same_key = " AND ".join(f"d.{key} = {staged}.{key}" for key in keys)
    return f"NOT EXISTS (SELECT 1 FROM {table} AS d WHERE {same_key})"


@dataclass(frozen=True, kw_only=True)
class SqlWords:
    """How a database writes what the conditions need.

    :param quote: quotes a column's name.
    :param literal: writes a text as a literal.
    :param same: see `equal`.
    :param not_in: see `not_in`.
    """

    quote: Callable[[str], str]
    literal: Callable[[str], str]
    same: Callable[[str, str], str] = equal
    not_in: Callable[..., str] = not_in


def disposition(
    mode: WriteMode,
    *,
    table: str,
    staged: str,
    keys: Sequence[str],
    time: str | None,
    run_id: str,
    extracted_at: datetime,
    sql: SqlWords,
) -> dict[str, Any]:
    """Return dlt's write disposition of a mode.

    :param table: the table, as SQL.
    :param staged: the staged one, likewise.
    :param keys: the columns that identify a row.
    :param time: the column with the time of a row, if the table has one.
    :param run_id: the run.
    :param extracted_at: when it began: from then on its versions are valid.
    :param sql: how the database writes names, values and comparisons.
    :raises LandingError: the warehouse cannot be told so.
    """
    match mode:
        case WriteMode.MERGE:
            return {
                "disposition": "merge",
                "strategy": "delete-insert",
                "destination_scope": replaced_rows(keys=keys, time=time, sql=sql),
                "source_filter": _escaped(sql.not_in(table, staged=staged, keys=[sql.quote(key) for key in keys])),
            }
        case WriteMode.APPEND:
            return {
                "disposition": "merge",
                "strategy": "delete-insert",
                "destination_scope": _escaped(sql.same(sql.quote(RUN_ID), _one_line(sql.literal(run_id)))),
            }
        case WriteMode.REPLACE:
            return {"disposition": "replace"}
        case WriteMode.HISTORY:
            return {
                "disposition": "merge",
                "strategy": "scd2",
                "validity_column_names": [VALID_FROM, VALID_TO],
                "row_version_column_name": ROW_VERSION,
                "boundary_timestamp": extracted_at,
                "destination_scope": replaced_rows(keys=keys, time=time, sql=sql),
                "source_filter": _escaped(_not_current(table, keys=keys, quote=sql.quote)),
            }


def replaced_rows(*, keys: Sequence[str], time: str | None, sql: SqlWords) -> str:
    """Return the condition that a staged row replaces a row of the table: it has the same key, and the table's is not newer.

    The braces are dlt's: of the table, and of the stage.
    """
    same_key = " AND ".join(sql.same(f"s.{_escaped(sql.quote(key))}", f"{{table}}.{_escaped(sql.quote(key))}") for key in keys)
    extracted = sql.quote(EXTRACTED_AT)
    stays = f"{{table}}.{extracted} > s.{extracted}"
    if time is not None:
        name = _escaped(sql.quote(time))
        ours, theirs = f"s.{name}", f"{{table}}.{name}"
        newer = f"({theirs} IS NOT NULL AND ({ours} IS NULL OR {theirs} > {ours}))"
        as_new = f"({theirs} = {ours} OR ({theirs} IS NULL AND {ours} IS NULL))"
        stays = f"{newer} OR ({as_new} AND {stays})"
    return f"EXISTS (SELECT 1 FROM {{staging_table}} AS s WHERE {same_key} AND CASE WHEN {stays} THEN 0 ELSE 1 END = 1)"


def _not_current(table: str, *, keys: Sequence[str], quote: Callable[[str], str]) -> str:
    """Return the condition that a staged row has no current version in the table, or is that version.

    dlt evaluates it twice: before it ends versions, where those that come again must count, and after it, where only rows whose
    key has no current version any more are to be inserted. Names are bare, because dlt calls the stage differently there.
    """
    names = ", ".join(quote(key) for key in keys)
    key = names if len(keys) == 1 else f"({names})"
    current = f"FROM {table} WHERE {quote(VALID_TO)} IS NULL"
    version = quote(ROW_VERSION)
    return f"{key} NOT IN (SELECT {names} {current}) OR {version} IN (SELECT {version} {current})"


def _one_line(literal: str) -> str:
    if len(literal.splitlines()) > 1:
        raise LandingError("the id of the run has a line break, so that its rows cannot be found again: name the run otherwise")
    return literal


def _escaped(sql: str) -> str:
    """Return SQL in which dlt finds no placeholder."""
    return sql.replace("{", "{{").replace("}", "}}")
