# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows that an append or a replace must not take for older ones: those of a pull that began later, and of another mapped copy.

If Airflow loses sight of a task that goes on, on another machine, it starts the next try beside it: the first may load last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.metadata import EXTRACTED_AT, RUN_COLUMNS, RUN_ID
from limio_limitrail.landing.sql.model import LandingError, WriteMode
from limio_limitrail.landing.sql.outdated import sort_keys_of

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.model import Target
    from limio_limitrail.landing.sql.session import Session
    from limio_limitrail.landing.sql.statements import LoadStatements


class LatePullError(LandingError):
    """The table has rows of a pull that began later, which this one would remove. A retry pulls again."""


class MappedReplaceError(LandingError):
    """Two copies of a mapped task replace each other's rows."""

    permanent = True


def check_not_late(*, session: Session, statements: LoadStatements, target: Target) -> None:
    """Check that the rows that an append or a replace removes are not newer than those that it brings.

    :raises LatePullError: they are of a later try of the run, or in a replace of a later pull of the task.
    :raises MappedReplaceError: they are of another copy of the task, in the same Dag run.
    """
    plan = statements.plan
    missing = {column.name for column in plan.missing_metadata}
    if target.mode not in (WriteMode.APPEND, WriteMode.REPLACE) or not plan.exists or missing.intersection(RUN_COLUMNS):
        return
    quote, legible = session.dialect.quote, session.dialect.legible
    run = quote(RUN_ID)
    newest = f"SELECT {run}, {legible(f'max({quote(EXTRACTED_AT)})')} FROM"
    if target.mode is WriteMode.APPEND:
        found = session.query(f"{newest} {statements.rows_of_run()} GROUP BY {run}", target.run_id)
    else:
        found = session.query(f"{newest} {statements.table} GROUP BY {run}")
    own, *pulled = sort_keys_of([target.extracted_at.isoformat(), *(extracted for _, extracted in found)])
    for (run_id, _), began in zip(found, pulled, strict=True):
        if _is_other_copy(str(run_id), target=target):
            raise MappedReplaceError(
                f"{plan.table} has the rows of another copy of this mapped task in the same Dag run ({run_id}), and "
                "mode='replace' would remove them: merge or append, or give each copy a table of its own. Nothing was written"
            )
        if own is not None and began is not None and began > own and _is_of_task(str(run_id), target=target):
            raise LatePullError(
                f"{plan.table} has rows of a pull that began after this one ({run_id}), and {target.mode} would replace them by "
                "older ones. Most likely a later try or run of this task was faster. Nothing was written. If that one was a "
                "success, there is nothing to do; else a retry pulls again"
            )


def _is_of_task(run_id: str, *, target: Target) -> bool:
    task = None if target.scope is None else target.scope.task
    return run_id == target.run_id or (task is not None and run_id.startswith((f"{task}/", f"{task}[")))


def _is_other_copy(run_id: str, *, target: Target) -> bool:
    if target.scope is None or run_id == target.run_id:
        return False
    start = f"{target.scope.task}["
    run = target.run_id.removeprefix(start).partition("]/")[2]
    return target.run_id.startswith(start) and run_id.startswith(start) and run_id.removeprefix(start).partition("]/")[2] == run
