# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The ledger of usage in the database of a SQL connection: for operators and the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from limio_limitrail.hooks import databases
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.usage.ledger.settlement import Settlements
from limio_limitrail.usage.settling import DUCKDB_WAIT, open_settlements


@contextmanager
def open_ledger(
    sql_conn_id: str,
    *,
    ledger_table: str,
    changes_table: str = "limitrail_usage_changes",
    read_only: bool = False,
    duckdb_wait: float = DUCKDB_WAIT,
) -> Iterator[Settlements]:
    """Open the ledger of a connection, to list and settle its rows.

    :param read_only: whether rows are listed only: the connection's user may then lack the privilege to change them.
    :param duckdb_wait: seconds to wait until another process closes a DuckDB file.
    :raises ParameterError: it is not a SQL connection.
    :raises LedgerError: there is no ledger.
    :raises LandingError: the database failed, here or while it is used. The message names the connection.
    """
    with naming_ledger_database(sql_conn_id):
        opened = open_settlements(
            databases.find_ledger_database(sql_conn_id),
            ledger_table=ledger_table,
            changes_table=changes_table,
            read_only=read_only,
            duckdb_wait=duckdb_wait,
        )
        with opened as settlements:
            yield settlements


@contextmanager
def naming_ledger_database(sql_conn_id: str) -> Iterator[None]:
    """Name the ledger's connection in errors of its database.

    :raises LandingError: the database failed.
    """
    try:
        yield
    except LandingError as error:
        raise LandingError(f"the ledger's database {sql_conn_id!r}: {error}") from error
