# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows that a list no longer has: which pulls tell, whose rows they are, and how many may be missing."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limio_limitrail.hooks.base import ApiHook
    from limio_limitrail.landing.shrinking import ShrinkGuard
    from limio_limitrail.landing.sql.dialect import Dialect
    from limio_limitrail.landing.sql.model import LoadResult, Scope
    from limio_limitrail.transfers.base import PullPlan, ResourcePullOperator

log = logging.getLogger("limio_limitrail.transfers")

DEFAULT_MAX_MISSING = "20%"


def is_full_scan(plan: PullPlan, *, query_params: Mapping[str, Any] | None) -> bool:
    """Return whether a pull reads the whole list, so that a record that does not come is not in it any more."""
    time_range = plan.time_range
    return time_range.since is None and time_range.until is None and not query_params


def check_on_missing(plan: PullPlan, *, task: ResourcePullOperator, on_missing: str, mode: str) -> None:
    """Refuse to mark or delete rows where no pull of the task can tell which are missing.

    :raises ParameterError: the mode, the resource, or a parameter does not fit.
    """
    if on_missing == "keep":
        return
    what = f"on_missing={on_missing!r}"
    if mode in ("append", "replace"):
        raise ParameterError(f"{what} needs a merge, and mode is {mode!r}: leave one of them out")
    time_filter = plan.resource.time_filter
    if time_filter is not None and time_filter.required:
        raise ParameterError(
            f"{what}: resource {plan.resource.name!r} is always asked for a range of time, so that no pull tells which rows are "
            "not there any more: leave on_missing out"
        )
    given = {"query_params": task.query_params, "since": task.since, "until": task.until, "slice_size": task.slice_size}
    if names := [name for name, value in given.items() if value]:
        raise ParameterError(
            f"{what} needs pulls of the whole list, and {' and '.join(names)} would leave records out: leave one of them out, or "
            "load the filtered list by a task of its own"
        )


def check_database(dialect: Dialect, *, on_missing: str, conn_id: str) -> None:
    """Refuse to mark or delete rows in a database in which loads into one table do not wait for each other.

    :raises ParameterError: it is such a database.
    """
    if on_missing != "keep" and not dialect.serializes_loads:
        raise ParameterError(
            f"on_missing={on_missing!r} works in DuckDB, Postgres and SQLite, where loads into one table wait for each other, "
            f"and not in the database of {conn_id!r}: leave it out"
        )


def scope_digest(plan: PullPlan, *, hook: ApiHook, path_params: Mapping[str, Any] | None) -> str:
    """Return the digest of a pull's scope: the tenant's list, by this task. Runs and mapped copies of the same list share it."""
    from limio_limitrail.api.query import CLIENT, TENANT, list_source

    run = plan.run
    owner = dict(hook.owner())
    if TENANT in owner:
        # A tenant has more than one client.
        owner.pop(CLIENT, None)
    source = list_source(plan.resource, path_params=path_params, owner=owner)
    identity = [hook.conn_type, {name: source[name] for name in (*sorted(owner), "list")}, run.dag_id, run.task_id]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def pull_scope(plan: PullPlan, *, hook: ApiHook, path_params: Mapping[str, Any] | None) -> Scope:
    """Return the scope of a pull into a table."""
    from limio_limitrail.landing.sql.model import Scope

    run, resource = plan.run, plan.resource
    task = f"{run.dag_id}/{run.task_id}"
    return Scope(
        digest=scope_digest(plan, hook=hook, path_params=path_params),
        text=f"{resource.name} ({resource.path_for(path_params)}) of {hook.base_url} by {task}",
        task=task,
        is_only_list=run.map_index < 0 and not resource.placeholders(),
    )


def shrink_guard(max_missing: int | str) -> ShrinkGuard:
    """Return the guard of a task."""
    from limio_limitrail.api.redact import safe_text
    from limio_limitrail.landing.shrinking import ShrinkGuard

    return ShrinkGuard(most=max_missing, show_key=safe_text)


def log_missing(result: LoadResult, *, table: str) -> None:
    """Log what a load did about rows that the list no longer has."""
    if not result.missing_checked:
        log.info(
            "It was not checked which rows of %s are missing: this run did not read the whole list, or a run that began "
            "later, or in the same second, is loaded already.",
            table,
        )
        return
    log.info(
        "Of the rows that this list had, %s were marked, %s deleted, and %s that were marked returned.",
        f"{result.marked:,}",
        f"{result.deleted:,}",
        f"{result.returned:,}",
    )
