# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A primary key that the rows of a table do not have: none of them would be found, and each record would come a second time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.dialect import VALUE, any_of
from limio_limitrail.landing.sql.metadata import RUN_ID
from limio_limitrail.landing.sql.model import LandingError

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.model import Target
    from limio_limitrail.landing.sql.plan import ColumnPlan, LoadPlan
    from limio_limitrail.landing.sql.session import Session
    from limio_limitrail.landing.sql.statements import LoadStatements


class NewKeyError(LandingError):
    """Rows of a table have no value in a column of the primary key, so that a merge would add each record a second time."""

    permanent = True


def check_new_key(*, session: Session, statements: LoadStatements, target: Target) -> None:
    """Check before a merge that the rows of the table have what they are found by. A history remembers its key.

    :raises NewKeyError: the table has rows and not each column of the key, or the task's rows have nulls there.
    """
    plan = statements.plan
    if not plan.exists:
        return
    columns = [column for key in target.primary_key if (column := plan.column(key)) is not None]
    if any(column.existing is None for column in columns):
        [(filled,)] = session.query(statements.has_rows())
        if filled:
            check_columns(plan, keys=target.primary_key)
        return
    if target.scope is None or any(column.name == RUN_ID for column in plan.missing_metadata):
        return
    nullable = [column for column in columns if column.existing is not None and column.existing.nullable]
    # Rows of others may be of another list, with another key.
    if _has_keyless(session, statements, nullable, task=target.scope.task):
        empty = [column.name for column in nullable if _has_keyless(session, statements, [column], task=target.scope.task)]
        raise _new_key(plan, columns=empty)


def check_columns(plan: LoadPlan, *, keys: Sequence[str]) -> None:
    """Check that a table with rows has the columns of the primary key.

    :raises NewKeyError: it lacks one.
    """
    columns = [column for key in keys if (column := plan.column(key)) is not None]
    if new := [column.name for column in columns if column.existing is None]:
        raise _new_key(plan, columns=new)


def check_runs(plan: LoadPlan, *, keys: Sequence[str], runs: Iterable[str], task: str) -> None:
    """Check that a task has no rows without a value in a column of the primary key.

    :param runs: the runs that have such rows.
    :raises NewKeyError: some are the task's.
    """
    if any(run.startswith((f"{task}/", f"{task}[")) for run in runs):
        raise _new_key(plan, columns=[column.name for key in keys if (column := plan.column(key)) is not None])


def _new_key(plan: LoadPlan, *, columns: Sequence[str]) -> NewKeyError:
    named = " or ".join(map(repr, columns))
    return NewKeyError(
        f"{plan.table}: the table has rows without a value in {named}, which the primary key names: they were loaded with "
        f"another key, so that none of them would be found, and their records would come a second time; name their key in "
        f"primary_key=, or load into a new table; nothing was written"
    )


def _has_keyless(session: Session, statements: LoadStatements, columns: Sequence[ColumnPlan], *, task: str) -> bool:
    if not columns:
        return False
    dialect = session.dialect
    empty = any_of(f"{dialect.quote(column.name)} IS NULL" for column in columns)
    run_id = f"substr({dialect.exact(dialect.quote(RUN_ID), Kind.TEXT)}, 1, {len(task) + 1})"
    found = f"SELECT 1 FROM {statements.table} WHERE {empty} AND ({run_id} = {VALUE} OR {run_id} = {VALUE})"
    [(exists,)] = session.query(f"SELECT CASE WHEN EXISTS ({found}) THEN 1 ELSE 0 END", f"{task}/", f"{task}[")
    return bool(exists)
