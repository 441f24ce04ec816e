# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A load into a table that is not there yet: its rows go straight into it, without a temporary table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from limio_limitrail.landing.sql.dialect import Session
from limio_limitrail.landing.sql.errors import Cause, DatabaseError, during
from limio_limitrail.landing.sql.model import LandingError, LoadResult, PartSource, Target, WriteMode
from limio_limitrail.landing.sql.plan import Landed, Plan, key_columns
from limio_limitrail.landing.sql.statements import Statements

if TYPE_CHECKING:
    from datetime import datetime

    from limio_limitrail.landing.sql.names import TableName

log = logging.getLogger("limio_limitrail.landing.sql")


@dataclass(frozen=True, kw_only=True)
class DirectLoad:
    """What goes into a new table besides the rows of its parts.

    :param plan: which column goes where; none of them is there yet.
    :param extracted_at: the value of ``_extracted_at``.
    :param run_id: the value of ``_run_id``.
    """

    plan: Plan
    extracted_at: datetime
    run_id: str


@runtime_checkable
class FreshSession(Session, Protocol):
    """A transaction in a database that takes rows straight into a table, and can undo a part of what a transaction did."""

    def attempt(self) -> AbstractContextManager[None]:
        """Undo everything that is done within, where something is raised; to be entered before anything else was done."""
        ...

    def add_key(self, *, table: TableName, columns: Sequence[tuple[str, str]], key: Sequence[str]) -> bool:
        """Give the filled table its primary key; False where the database keeps none, and nothing has been looked at."""
        ...

    def pour(self, pour: DirectLoad, *, parts: Sequence[PartSource]) -> Iterator[int]:
        """Add the parts' rows to the new table; tell now and then how many more are in it."""
        ...


def load_fresh(
    *, session: Session, write: Statements, target: Target, parts: Sequence[PartSource], progress: Callable[[int], None] | None
) -> LoadResult | None:
    """Write a pull into a new table; ``None`` where it has to be staged, because of its database, the table, or its rows.

    Rows that share a key, or lack one, are left to the longer way: it decides which of them stays, or says what is wrong.
    """
    plan = write.plan
    keys = key_columns(plan=plan, keys=target.primary_key)
    if plan.exists or not isinstance(session, FreshSession) or (target.primary_key and keys is None):
        return None
    pour = DirectLoad(plan=plan, extracted_at=target.extracted_at, run_id=target.run_id)
    unique = keys if target.mode is WriteMode.MERGE and keys is not None else ()
    try:
        with session.attempt():
            with during(f"while creating {plan.table}"):
                session.create_table(table=plan.table, columns=write.table_columns(), key=())
            rows = 0
            with during(f"while copying rows into {plan.table}"):
                for more in session.pour(pour, parts=parts):
                    rows += more
                    if progress is not None:
                        progress(rows)
            with during(f"while creating the primary key of {plan.table}"):
                guarded = session.add_key(table=plan.table, columns=write.table_columns(), key=[column.name for column in unique])
            if keys and not guarded:
                _check_keys(session=session, write=write, keys=keys, needed=bool(unique))
    except LandingError as refused:
        if isinstance(refused, DatabaseError) and not (refused.cause.about_rows or refused.cause is Cause.LIMIT):
            raise  # a full disk is as full for the longer way, which has more memory only
        log.info("%s is new, and its rows cannot go straight into it (%s): they are staged first", plan.table, refused.what)
        return None
    return LoadResult(rows=rows, inserted=rows)


def _check_keys(*, session: Session, write: Statements, keys: Sequence[Landed], needed: bool) -> None:
    [(repeated, keyless)] = session.query(write.key_troubles(keys))
    if repeated:
        raise LandingError(f"{repeated} keys come more than once")
    if keyless and needed:
        raise LandingError(f"{keyless} rows have no key")
