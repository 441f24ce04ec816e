# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a table in a database has lost since it was loaded."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from limio_limitrail.landing.sql.table_checks import Loss, find_loss, newest_of_runs
from limio_limitrail.transfers.child_tables import missing_child_table
from limio_limitrail.transfers.incremental import TargetLoss

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from limio_limitrail.landing.child_lists import ChildList


def find_table_loss(
    database: DbApiHook,
    *,
    table: str,
    child_lists: tuple[ChildList, ...],
    time_column: str,
    is_whole: bool,
    watermark: datetime,
    loaded_at: datetime | None,
) -> TargetLoss | None:
    """Return what a table, or one of its child tables, has lost of the rows from before a watermark; None if nothing.

    :param is_whole: whether the table has the times of all records, as they came.
    :param loaded_at: when the last pull began that was loaded; None if that is not known.
    """
    compared = time_column if is_whole else None
    found = find_loss(database, table=table, time_column=compared, reached=watermark, loaded_at=loaded_at)
    if found is not None:
        return TargetLoss.of(
            found,
            table=table,
            watermark=watermark,
            loaded_at=loaded_at,
            newest=lambda: newest_of_runs(database, table=table, time_column=time_column),
        )
    lost = missing_child_table(child_lists, hook=database, table=table)
    if lost is None:
        return None
    what = f"the child table {lost} {Loss.MISSING}, and {table} was loaded up to {watermark.isoformat()}"
    return TargetLoss(what=what, kind=Loss.CHILD_MISSING)
