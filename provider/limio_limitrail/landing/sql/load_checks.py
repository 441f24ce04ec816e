# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Run the checks of a load on what it has written, within its transaction."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.contract import ContractError
from limio_limitrail.landing.sql.dialect import all_of
from limio_limitrail.landing.sql.errors import during
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.names import TableName, column_names

if TYPE_CHECKING:
    from limio_limitrail.landing.checks import Check
    from limio_limitrail.landing.sql.dialect import TableColumn
    from limio_limitrail.landing.sql.session import Session

log = logging.getLogger("limio_limitrail.landing.sql")

_MOST_NAMED = 8


def run_checks(checks: Sequence[Check], *, session: Session, table: TableName) -> None:
    """Run all checks on a table as it would be after the commit.

    A table that does not exist has no rows, and nothing else to check.

    :raises ContractError: some failed. The message names them, with numbers of rows and never a value of a row.
    :raises LandingError: a check cannot be run.
    """
    if not checks:
        return
    columns = session.columns(table)
    failed: list[str] = []
    for label, check in zip(_labels(checks), checks, strict=True):
        with during(f"while running the check {label!r} of {table}"):
            problem = _problem(check, label=label, session=session, table=table, columns=columns)
        if problem is not None:
            failed.append(f"{label!r} ({problem})")
    if failed:
        more = f" and {len(failed) - _MOST_NAMED} more" if len(failed) > _MOST_NAMED else ""
        raise ContractError(
            f"{table}: {len(failed)} of {len(checks)} checks failed: {', '.join(failed[:_MOST_NAMED])}{more}. Nothing was "
            f"written. A retry pulls the list again; if the rows are right, change the check"
        )
    log.info("%s: %d checks passed", table, len(checks))


def _labels(checks: Sequence[Check]) -> list[str]:
    """Return what messages call the checks: checks of one label get their numbers, too."""
    times = Counter(check.label for check in checks)
    return [check.label if times[check.label] == 1 else f"checks[{at}] {check.label}" for at, check in enumerate(checks)]


def _problem(
    check: Check, *, label: str, session: Session, table: TableName, columns: Sequence[TableColumn] | None
) -> str | None:
    """Return why a check fails; ``None`` if it passes."""
    name = session.dialect.qualified(table)
    if check.kind == "rows_between":
        [(rows,)] = session.query(f"SELECT count(*) FROM {name}") if columns is not None else [(0,)]
        if check.least is not None and rows < check.least:
            return f"the table has {rows} rows, and must have at least {check.least}"
        if check.most is not None and rows > check.most:
            return f"the table has {rows} rows, and must have at most {check.most}"
        return None
    if columns is None:
        return None
    if check.sql is not None:
        return _sql_problem(check.sql.replace("{table}", name), session=session, label=label)
    found = [_column(key, label=label, session=session, table=table, columns=columns) for key in check.columns]
    quoted = [session.dialect.quote(column.name) for column in found]
    if check.kind == "not_null":
        [(rows,)] = session.query(f"SELECT count(*) FROM {name} WHERE NOT {all_of(f'{one} IS NOT NULL' for one in quoted)}")
        return f"{rows} rows have no value" if rows else None
    # As keys are compared: character by character, whatever a column's collation.
    exact = [
        one if column.kind is None else session.dialect.exact(one, column.kind) for one, column in zip(quoted, found, strict=True)
    ]
    repeated = (
        f"SELECT count(*) AS same FROM {name} WHERE {all_of(f'{one} IS NOT NULL' for one in quoted)} "
        f"GROUP BY {', '.join(exact)} HAVING count(*) > 1"
    )
    [(groups, rows)] = session.query(f"SELECT count(*), coalesce(sum(same), 0) FROM ({repeated}) AS repeated")
    return f"{rows} rows share {groups} values" if groups else None


def _column(key: str, *, label: str, session: Session, table: TableName, columns: Sequence[TableColumn]) -> TableColumn:
    by_name = {column.name: column for column in columns}
    # A column of the table, such as _run_id, or that of a record key.
    names = {key: key} if key in by_name else column_names([key], existing=by_name, same=session.dialect.same_name)
    column = by_name.get(names[key])
    if column is None:
        raise LandingError(
            f"{table}: the check {label!r} names the column {key!r}, which the table does not have; nothing was written"
        )
    return column


def _sql_problem(sql: str, *, session: Session, label: str) -> str | None:
    # As a subquery it can be nothing but a query. On a line of its own, because it may end with a comment.
    with session.reading():
        rows = session.query(f"SELECT * FROM (\n{sql}\n) AS limio_check LIMIT 2")
    if len(rows) != 1 or len(rows[0]) != 1:
        columns = f" with {len(rows[0])} columns" if rows else ""
        count = "no row" if not rows else "one row" if len(rows) == 1 else "more than one row"
        raise LandingError(f"the check {label!r} must return one value, and returned {count}{columns}; nothing was written")
    [[value]] = rows
    if value is None:
        return "its query returned null"
    if not isinstance(value, bool | int | float | Decimal):
        raise LandingError(
            f"the check {label!r} must return a boolean or a number, and returned a {type(value).__name__}; nothing was written"
        )
    # Not a number is true in Python, and as little a result as null.
    return None if value and not math.isnan(value) else f"its query returned {str(value).lower()}"
