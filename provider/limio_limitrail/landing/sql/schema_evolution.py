# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Schema evolution: create a load's table, or add the columns that it lacks and widen those that do not hold what comes.

`plan` decides which; nothing is dropped or narrowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.errors import during

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.session import Session
    from limio_limitrail.landing.sql.statements import LoadStatements


def create_or_evolve(
    *, session: Session, statements: LoadStatements, unique: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Create the table, or add and widen its columns; return the columns added to and widened in an existing table.

    :param unique: the columns of the primary key of a new table; none: it has no primary key.
    """
    plan, types = statements.plan, session.dialect.types
    table = plan.table
    if not plan.exists:
        with during(f"while creating {table}"):
            session.create_table(table=table, columns=statements.table_columns(), key=unique)
        return (), ()
    added = [(column.name, types[column.kind]) for column in plan.columns if column.existing is None]
    added += [(column.name, types[column.kind]) for column in plan.missing_metadata]
    for name, type_ in added:
        with during(f"while adding {table}.{name}"):
            session.execute(statements.add_column(name=name, type_=type_))
    widened = []
    for column in plan.columns:
        if column.widens and column.existing is not None and column.current is not None:
            with during(f"while widening {table}.{column.name} to {types[column.kind]}"):
                session.widen(table=table, column=column.existing, source=column.current, to=column.kind)
            widened.append(column.name)
    return tuple(name for name, _ in added), tuple(widened)
