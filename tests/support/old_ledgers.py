# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Ledgers as former versions made them: the statements and the rows stand in files, so that no later version changes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.usage import Database

FORMATS = Path(__file__).parent.parent / "integration" / "ledger" / "formats"
KINDS = {"duckdb": "duckdb", "duck": "duckdb", "sqlite": "sqlite", "lite": "sqlite", "standard": "standard"}
"""The file of each database that the tests have; all others are Postgres."""


def old_table(database: str, *, table: str = "ledger", number: int = 1) -> str:
    """Give the statement by which a former version made a ledger.

    :param number: of its format.
    """
    text = (FORMATS / f"ledger_{number}_{KINDS.get(database, 'postgres')}.sql").read_text()
    return text.replace('"ledger"', f'"{table}"', 1).strip().rstrip(";")


def old_rows(number: int = 1) -> list[dict[str, Any]]:
    """Give a row in each state, as a former version wrote them.

    :param number: of its format.
    """
    found: list[dict[str, Any]] = json.loads((FORMATS / f"rows_{number}.json").read_text())
    return found


def old_insert(rows: list[dict[str, Any]], *, table: str = "ledger") -> str:
    """Give the statement that adds rows; it names the columns that they have."""
    names = ", ".join(f'"{name}"' for name in rows[0])
    values = ", ".join(f"({', '.join(_literal(value) for value in row.values())})" for row in rows)
    return f'INSERT INTO "{table}" ({names}) VALUES {values}'


def make_older(database: Database, *, table: str = "limitrail_usage_ledger") -> None:
    """Turn a ledger into what the first version would have left."""
    names = ", ".join(old_rows()[0])
    database.execute(
        f"CREATE TABLE kept AS SELECT * FROM {table}",
        f"DROP TABLE {table}",
        old_table(database.conn_id, table=table),
        f"INSERT INTO {table} ({names}) SELECT {names} FROM kept",
    )


def _literal(value: str | int | None) -> str:
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
