# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load into a table that does not exist yet, without a staging table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.errors import Cause, DatabaseError, during
from limio_limitrail.landing.sql.model import LandingError, LoadResult, PartSource, Target, WriteMode
from limio_limitrail.landing.sql.plan import ColumnPlan, LoadPlan, key_columns
from limio_limitrail.landing.sql.session import DirectLoadSession, Session
from limio_limitrail.landing.sql.statements import LoadStatements

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.early_rows import EarlyRows

log = logging.getLogger("limio_limitrail.landing.sql")


def load_directly(
    *,
    session: Session,
    statements: LoadStatements,
    target: Target,
    parts: Sequence[PartSource],
    progress: Callable[[int], None] | None,
    early: EarlyRows | None = None,
) -> LoadResult | None:
    """Write a pull into a new table; return ``None`` if it has to be staged, because of its database, the table, or its rows.

    Rows with equal or missing keys are staged: that decides which of them stays, or what the message is.

    :param early: the rows of parts that were copied while the pull went on; their table becomes the new one.
    """
    plan = statements.plan
    keys = key_columns(plan=plan, keys=target.primary_key)
    if plan.exists or not isinstance(session, DirectLoadSession) or (target.primary_key and keys is None):
        return None
    unique = keys if target.mode is WriteMode.MERGE and keys is not None else ()
    columns = statements.table_columns()
    try:
        with session.savepoint():
            rows = _adopt(early, plan=plan, parts=parts, progress=progress)
            if rows is None:
                rows = 0
                with during(f"while creating {plan.table}"):
                    session.create_table(table=plan.table, columns=columns, key=())
                with during(f"while copying rows into {plan.table}"):
                    for added in session.copy_into(plan, parts=parts):
                        rows += added
                        if progress is not None:
                            progress(rows)
            with during(f"while creating the primary key of {plan.table}"):
                keyed = session.add_primary_key(table=plan.table, columns=columns, key=[column.name for column in unique])
            if keys and not keyed:
                with during(f"while checking the keys of {plan.table}"):
                    _check_keys(session=session, statements=statements, keys=keys, required=bool(unique))
    except LandingError as refused:
        if isinstance(refused, DatabaseError) and not (refused.cause.about_rows or refused.cause in (Cause.LIMIT, Cause.MEMORY)):
            raise  # staging would fail, too; it only has more memory
        log.info("%s is new, and its rows cannot go straight into it (%s): they are staged first", plan.table, refused.what)
        return None
    return LoadResult(rows=rows, inserted=rows)


def _adopt(
    early: EarlyRows | None, *, plan: LoadPlan, parts: Sequence[PartSource], progress: Callable[[int], None] | None
) -> int | None:
    if early is None:
        return None
    from limio_limitrail.landing.sql.early_rows import adopt

    return adopt(early, plan=plan, parts=parts, progress=progress)


def _check_keys(*, session: Session, statements: LoadStatements, keys: Sequence[ColumnPlan], required: bool) -> None:
    [(repeated, keyless)] = session.query(statements.key_violations(keys))
    if repeated:
        raise LandingError(f"{repeated} keys come more than once")
    if keyless and required:
        raise LandingError(f"{keyless} rows have no key")
