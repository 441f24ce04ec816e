# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Asset events of a task's outlets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import Context


def add_to_outlet_events(context: Context, *, outlets: Iterable[Any], summary: Mapping[str, Any]) -> None:
    """Put a summary into the asset event of each outlet."""
    from airflow.sdk import Asset

    for outlet in outlets:
        if isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra = dict(summary)
