# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Checks of the staged rows before they go into the table: each has a key, and the table's own types lose no value."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.errors import DatabaseError
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.plan import check_key_column
from limio_limitrail.landing.sql.staged_rows import STORED_NUL

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.names import TableName
    from limio_limitrail.landing.sql.session import Session
    from limio_limitrail.landing.sql.statements import LoadStatements


def check_staged_keys(*, session: Session, statements: LoadStatements, primary_key: Sequence[str]) -> None:
    """Refuse rows without a whole key.

    :raises LandingError: a column of the key is not there, is of a type in which rows would get lost, or is empty in some row.
    """
    plan = statements.plan
    for key in primary_key:
        column = plan.column(key)
        if column is None:
            raise LandingError(
                f"{plan.table}: no row has the record key {key!r}, which the primary key names; nothing was written"
            )
        check_key_column(column, table=plan.table)
        [(missing,)] = session.query(statements.keyless(column))
        if missing:
            raise LandingError(
                f"{plan.table}: {missing} rows have no value in {column.name!r}, which belongs to the primary key; "
                f"nothing was written"
            )


def check_nul(forms: Collection[tuple[str, str]], *, table: TableName, primary_key: Sequence[str]) -> None:
    """Refuse keys that a replaced NUL character could make equal.

    :param forms: which forms of NUL each column of the key has; see `staged_rows.nul_forms`.
    :raises LandingError: a column has both.
    """
    if twice := [key for key in primary_key if {(key, "\0"), (key, STORED_NUL)} <= {*forms}]:
        raise LandingError(
            f"{table}: some values of {twice[0]!r}, which belongs to the primary key, have a NUL character, and others the six "
            f"characters {STORED_NUL} that replace it, so that two keys could become one; name other columns in primary_key=; "
            f"nothing was written"
        )


def check_custom_types(*, session: Session, statements: LoadStatements) -> None:
    """Refuse values that a column of a type that this package does not create would change.

    :raises LandingError: there are some, or the database cannot convert them.
    """
    dialect, plan = session.dialect, statements.plan
    for column in plan.columns:
        if column.custom_type is None:
            continue
        try:
            [(lost,)] = session.query(statements.values_lost(column, custom_type=column.custom_type))
            problem = f"the type would change {lost} of the values" if lost else ""
        except DatabaseError as refused:
            if not refused.cause.about_rows:
                raise
            problem = f"the database cannot convert one into the other ({refused.what})"
        if problem:
            types = dict.fromkeys((dialect.types[column.incoming], dialect.text_type))
            raise LandingError(
                f"{plan.table}: column {column.name!r} is {column.custom_type} and {column.incoming} comes: {problem}. "
                f"Change the column to {' or '.join(types)}, or rename it; nothing was written"
            )
