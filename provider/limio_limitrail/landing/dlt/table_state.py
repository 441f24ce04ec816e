# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What is looked at before a pull: what the destination can, and what the table has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from limio_limitrail.bare_errors import raises_bare
from limio_limitrail.landing.dlt.errors import errors_of_dlt
from limio_limitrail.landing.dlt.target import DltTarget, database_kind, opened
from limio_limitrail.landing.sql.metadata import EXTRACTED_AT, RUN_ID
from limio_limitrail.landing.sql.model import LandingError, WriteMode


@raises_bare
def check_target(to: DltTarget, *, mode: WriteMode) -> None:
    """Refuse a destination that cannot do what a mode promises, before a pull. Connects to nothing.

    :raises LandingError: it cannot, or its driver is missing; or the table is one of dlt's own.
    """
    if to.table.lower().startswith("_dlt_"):
        raise LandingError(f"{to}: tables whose names begin with _dlt_ are dlt's own: load into a table of another name")
    from limio_limitrail.landing.dlt.exact_jobs import check_capabilities
    from limio_limitrail.landing.dlt.private_run import private_run

    with errors_of_dlt(f"while looking at dlt's destination of {to}", outcome="Nothing was pulled"), private_run(to.folder):
        check_capabilities(to.destination, mode=mode)
    if to.destination.destination_type.rpartition(".")[2] == "sqlalchemy":
        with errors_of_dlt(f"while looking at dlt's destination of {to}", outcome="Nothing was pulled"):
            _check_dialect(to, mode=mode)


def _check_dialect(to: DltTarget, *, mode: WriteMode) -> None:
    with opened(to, run_id="") as client:
        if client.sql_client.dialect_name == "sqlite":
            raise LandingError(
                "dlt's sqlalchemy destination makes a SQLite file of its own for each dataset, and two loads at once could "
                "double rows: use LimioToSqlOperator or LimitRailToSqlOperator, which load SQLite by themselves"
            )
        if database_kind(to, client) != "mysql":
            raise LandingError(
                f"dlt's sqlalchemy destination loads MySQL and MariaDB here, and not {client.sql_client.dialect_name}, for which "
                "it would store nested values as the text of a text: use a destination of the database's own, or "
                "LimioToSqlOperator or LimitRailToSqlOperator with its Airflow connection"
            )
        if mode is WriteMode.HISTORY:
            raise LandingError(
                "mode='history' into MySQL or MariaDB compares each row with each other one, which takes hours for a hundred "
                "thousand of them: use mode='merge', or 'append' and a view of the newest rows"
            )


@dataclass(frozen=True, kw_only=True)
class TableState:
    """What a table has.

    :param exists: whether it is there.
    :param rows: its rows.
    :param has_run: whether rows of the run are among them.
    :param newest_reached: whether a row is as new as was asked; ``None`` if that is not known.
    :param has_loaded: whether a row is from the pull that was asked for, or from an earlier one; likewise.
    """

    exists: bool
    rows: int = 0
    has_run: bool = False
    newest_reached: bool | None = None
    has_loaded: bool | None = None


@raises_bare
def table_state(
    to: DltTarget,
    *,
    run_id: str,
    time_column: str | None = None,
    reached: datetime | None = None,
    loaded_at: datetime | None = None,
) -> TableState:
    """Return what a table has.

    :param run_id: the run whose rows are looked for.
    :param time_column: the column whose newest value is compared.
    :param reached: with what.
    :param loaded_at: when the pull began whose rows, or earlier ones, are looked for; ``None`` for none.
    :raises LandingError: the warehouse cannot be asked.
    """
    from limio_limitrail.landing.dlt.table_lock import one_load_at_a_time

    step = f"while looking at {to}"
    with (
        errors_of_dlt(step, outcome="Nothing was pulled"),
        opened(to, run_id=run_id) as client,
        one_load_at_a_time(client, kind=database_kind(to, client), table=str(to)),
    ):
        exists, columns = client.get_storage_table(to.table)
        if not exists:
            return TableState(exists=False)
        sql = client.sql_client
        table, quote = sql.make_qualified_table_name(to.table), sql.escape_column_name

        def count(condition: str = "1 = 1", *values: object) -> int:
            return int(sql.execute_sql(f"SELECT count(*) FROM {table} WHERE {condition}", *values)[0][0])

        state = TableState(exists=True, rows=count())
        if RUN_ID in columns:
            state = replace(state, has_run=count(f"{quote(RUN_ID)} = %s", run_id) > 0)
        if loaded_at is not None and columns.get(EXTRACTED_AT, {}).get("data_type") == "timestamp":
            state = replace(state, has_loaded=count(f"{quote(EXTRACTED_AT)} <= %s", loaded_at) > 0)
        if time_column in columns and columns[time_column].get("data_type") == "timestamp":
            state = replace(state, newest_reached=count(f"{quote(time_column)} >= %s", reached) > 0)
        return state
