# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Asset events of a task's outlets."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

log = logging.getLogger(__name__)


def takes_partitions() -> bool:
    """Return whether asset events have partition keys: since Airflow 3.3."""
    from airflow.sdk.execution_time.context import OutletEventAccessor

    return hasattr(OutletEventAccessor, "add_partitions")


def asset_outlets(outlets: Iterable[Any]) -> list[Any]:
    """Return the outlets that are assets, or references to assets by name or URI; an alias is neither."""
    from airflow.sdk import Asset
    from airflow.sdk.definitions.asset import AssetRef

    return [outlet for outlet in outlets if isinstance(outlet, Asset | AssetRef)]


def outlet_events(context: Context, *, outlets: Iterable[Any]) -> list[Any]:
    """Return the events of the outlets that are assets, or refer to one.

    A reference to an asset that no Dag has only causes a warning: Airflow sends no event for it.
    """
    from airflow.sdk.exceptions import AirflowRuntimeError

    events = []
    for outlet in asset_outlets(outlets):
        try:
            events.append(context["outlet_events"][outlet])
        except AirflowRuntimeError:
            log.warning("The outlet %r refers to an asset that no Dag has, and gets no event.", outlet)
    return events


def add_to_outlet_events(
    context: Context, *, outlets: Iterable[Any], summary: Mapping[str, Any], partitions: Sequence[str] = ()
) -> None:
    """Put a summary into the asset event of each outlet.

    :param partitions: partition keys, each of which becomes an event of its own.
    """
    for event in outlet_events(context, outlets=outlets):
        event.extra = dict(summary)
        if partitions:
            event.add_partitions(list(partitions))


def suppress_outlet_events(task: BaseOperator) -> None:
    """Let a running task end without an event of any of its outlets.

    Airflow emits one for each outlet that the task has when it ends, and has no other way to leave it out.
    """
    task.outlets = []
