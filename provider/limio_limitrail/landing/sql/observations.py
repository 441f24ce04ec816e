# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Keeps what each run saw of a history's records, in two tables beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.errors import during
from limio_limitrail.landing.sql.history_statements import TIME
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.observations_sql import SERIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limio_limitrail.landing.sql.dialect import Dialect, TableColumn
    from limio_limitrail.landing.sql.history_statements import HistoryStatements
    from limio_limitrail.landing.sql.model import Target
    from limio_limitrail.landing.sql.names import TableName
    from limio_limitrail.landing.sql.observations_sql import ObservationTables
    from limio_limitrail.landing.sql.plan import ColumnPlan
    from limio_limitrail.landing.sql.session import Session


def record_observations(*, session: Session, statements: HistoryStatements, target: Target, judges: bool, staged: int) -> None:
    """Add what a run saw, which is in the staging table; a run that is there already adds only what it did not see then.

    :param judges: whether a record that it did not see is missing from then on.
    :param staged: the staged rows.
    """
    tables = statements.observed
    pull, at = pull_of(target), target.extracted_at
    with during(f"while writing what the run saw into {tables.seen_name}"):
        [(there, later)] = session.query(tables.count_runs(), at, at, pull)
        # An empty pull has no column of the key.
        same = statements.same_series() if staged else "1 = 0"
        if there and judges:
            session.execute(tables.let_judge(), pull, at)
        if not there:
            session.execute(tables.add_run(judges=judges), pull, at, target.run_id)
            seen_now = f"SELECT 1 FROM {statements.staged} AS s WHERE {same}"
            if later:
                session.execute(tables.resume_series(seen_now), pull, at, pull, at, at)
            session.execute(tables.end_series(seen_now), pull, at, pull, at, at)
        if staged:
            add = tables.add_series(
                values=[statements.staged_value(column) for column in tables.keys],
                source=f"{statements.staged} AS s",
                time=f"s.{TIME}",
                same=same,
                latest=not later,
            )
            session.execute(add, pull, at, *((at,) if later else ()), pull, at, at)


def pull_of(target: Target) -> str:
    """Return what the runs of one list of one task have in common."""
    return "" if target.scope is None else target.scope.digest


def check_key_names(keys: Sequence[str], *, dialect: Dialect, table: TableName) -> None:
    """Refuse a primary key with a column of a name that the table of what runs saw has for itself.

    :raises LandingError: it has one.
    """
    own = {dialect.same_name(name) for name in SERIES}
    for key in keys:
        if dialect.same_name(key) in own:
            raise LandingError(
                f"{table}: the primary key names {key!r}, and a history needs a column of that name in the table beside it that "
                f"says what runs saw; give the value another name with nested_columns={{...}}, and name that one in "
                f"primary_key=; nothing was written"
            )


def prepare(*, session: Session, tables: ObservationTables, new: bool) -> None:
    """Create the tables, empty them for a history that is new, and widen the columns of the key as the history's were.

    :raises LandingError: the history was kept by another key.
    """
    for name, columns in ((tables.runs_name, tables.columns_of_runs()), (tables.seen_name, tables.columns_of_seen())):
        there = session.columns(name)
        if there is not None and not {"_pull"} <= {column.name for column in there}:
            raise LandingError(
                f"{tables.table}: there is a table {name} that is not this package's, and the history needs one of that name; "
                f"rename it; nothing was written"
            )
        if there is not None and new:
            session.execute(f"DROP TABLE {tables.dialect.qualified(name)}")
        if there is None or new:
            with during(f"while creating {name}"):
                session.create_table(table=name, columns=columns, key=())
        else:
            session.ensure_replica_identity(name)
    columns_there = {column.name: column for column in session.columns(tables.seen_name) or ()}
    if set(columns_there) != {name for name, _ in tables.columns_of_seen()}:
        raise LandingError(
            f"{tables.table}: the history was kept by another primary key (see the columns of {tables.seen_name}), and versions "
            f"of two keys cannot be told apart; give the same primary_key=, or another table; nothing was written"
        )
    for column in tables.keys:
        _fit(session=session, tables=tables, column=column, there=columns_there[column.name])


def _fit(*, session: Session, tables: ObservationTables, column: ColumnPlan, there: TableColumn) -> None:
    """Change the type of a column of the key to the one that it has in the history."""
    wanted = tables.key_type(column)
    if there.type == wanted or (there.kind is not None and tables.dialect.types[there.kind] == wanted):
        return
    if there.kind is None or column.custom_type is not None:
        raise LandingError(
            f"{tables.table}: column {column.name!r} is {wanted}, and in {tables.seen_name} it is {there.type}; change the type "
            f"of that one, too; nothing was written"
        )
    with during(f"while widening {tables.seen_name}.{column.name}"):
        session.widen(table=tables.seen_name, column=there, source=column.current or there.kind, to=column.kind)
