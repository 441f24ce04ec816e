# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Asset events of a task's outlets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context


def takes_partitions() -> bool:
    """Return whether asset events have partition keys: since Airflow 3.3."""
    from airflow.sdk.execution_time.context import OutletEventAccessor

    return hasattr(OutletEventAccessor, "add_partitions")


def add_to_outlet_events(
    context: Context, *, outlets: Iterable[Any], summary: Mapping[str, Any], partitions: Sequence[str] = ()
) -> None:
    """Put a summary into the asset event of each outlet.

    :param partitions: partition keys, each of which becomes an event of its own.
    """
    from airflow.sdk import Asset

    for outlet in outlets:
        if isinstance(outlet, Asset):
            event = context["outlet_events"][outlet]
            event.extra = dict(summary)
            if partitions:
                event.add_partitions(list(partitions))


def suppress_outlet_events(task: BaseOperator) -> None:
    """Let a running task end without an event of any of its outlets.

    Airflow emits one for each outlet that the task has when it ends, and has no other way to leave it out.
    """
    task.outlets = []
