# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whether the parts of a task are staged in its database while they are pulled, and what is left of them if the task fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import Context

    from limio_limitrail.landing.sql.run_staging import RunStaging
    from limio_limitrail.landing.sql.staging_table import StagingTarget
    from limio_limitrail.transfers.base import PullPlan

log = logging.getLogger(__name__)


def loads_early(load: str, *, hook: DbApiHook, conn_id: str) -> bool:
    """Return whether the finished parts are copied while the pull goes on.

    :param load: the task's parameter.
    :param conn_id: the database's connection, for messages.
    :raises ParameterError: the database cannot do what was asked for.
    """
    from limio_limitrail.api.errors import ParameterError
    from limio_limitrail.landing.sql.session import WhilePulling
    from limio_limitrail.landing.sql.sessions import session_class

    supported = session_class(hook).while_pulling(hook)
    if load == "while_pulling" and supported is WhilePulling.REFUSED:
        raise ParameterError(
            f"load='while_pulling' is for Postgres, and for a DuckDB file that nobody else needs during the pull; connection "
            f"{conn_id!r} is of another database, which is loaded after the pull: leave load out"
        )
    return load == "while_pulling" or (load == "auto" and supported is WhilePulling.BY_DEFAULT)


@contextmanager
def staged_while_pulling(
    plan: PullPlan, *, target: StagingTarget | None, conn_id: str, context: Context
) -> Iterator[RunStaging | None]:
    """Stage what is pulled within; if that fails, remove what was staged unless a retry can use it.

    :param target: what is staged; None if nothing is.
    :param conn_id: the database's connection.
    """
    if target is None:
        yield None
        return
    from limio_limitrail.hooks.databases import find_database
    from limio_limitrail.landing.column_parts import ColumnPart
    from limio_limitrail.landing.sql.run_staging import RunStaging

    staging = RunStaging(
        hook=lambda: find_database(conn_id),
        target=target,
        source=lambda part: ColumnPart(folder=plan.folder, part=part),
    )
    try:
        try:
            yield staging
        except BaseException as error:
            if _may_resume(plan, error, context=context):
                staging.stop()
            else:
                staging.discard()
            raise
        staging.clean_up()
    finally:
        staging.close()


def _may_resume(plan: PullPlan, error: BaseException, *, context: Context) -> bool:
    """Return whether a retry may resume from the parts."""
    if getattr(error, "permanent", False):
        return False
    ti = context["ti"]
    if ti.try_number > getattr(ti, "max_tries", ti.try_number):
        return False
    try:
        return plan.checkpoints.load() is not None
    except Exception as unknown:  # noqa: BLE001 - the task's own error counts
        log.debug("The checkpoint could not be read (%s).", type(unknown).__name__)
        return True
