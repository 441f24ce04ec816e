# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Airflow's state stores, as landing and watermarks use them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.errors import ParameterError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from limio_limitrail.landing.state import StateStore

PULL_KEY = "limio_limitrail.pull"
WATERMARK_KEY = "limio_limitrail.watermark"
FORMAT_VERSION = 1


class TaskStateStore:
    """A pull's state in the task's own state store (Airflow 3.3 and later), where the task's retries find it.

    :param accessor: ``context["task_state_store"]``.
    """

    def __init__(self, accessor: Any) -> None:
        self._accessor = accessor

    def load(self) -> Any:
        """Give what was saved last."""
        return self._accessor.get(PULL_KEY)

    def save(self, value: Any) -> None:
        """Keep a value."""
        self._accessor.set(PULL_KEY, value)

    def clear(self) -> None:
        """Forget it."""
        self._accessor.delete(PULL_KEY)


def task_state_store(context: Context) -> StateStore:
    """Give the task's state store, or a stand-in where Airflow has none."""
    from limio_limitrail.landing.state import NoStateStore

    accessor = context.get("task_state_store")
    return NoStateStore() if accessor is None else TaskStateStore(accessor)


class AssetWatermark:
    """A table's watermark in the state store of the task's outlet asset (Airflow 3.3 and later), kept across runs.

    :param accessor: the asset's state store.
    :param target: what the watermark is about; one asset can hold those of several mapped pulls.
    """

    def __init__(self, accessor: Any, *, target: str) -> None:
        self._accessor = accessor
        self._key = f"{WATERMARK_KEY}:{target}"

    def read(self) -> datetime | None:
        """Give the watermark; None before the first load.

        :raises ParameterError: what is stored was written by another version.
        """
        value = self._accessor.get(self._key)
        if value is None:
            return None
        if not isinstance(value, dict) or value.get("format_version") != FORMAT_VERSION:
            raise ParameterError(
                f"the watermark stored under {self._key!r} has a form that this version does not read; "
                "run once with full_refresh=True to set it anew"
            )
        return datetime.fromisoformat(value["watermark"])

    def move(self, watermark: datetime) -> None:
        """Move the watermark, after what it stands for is safe."""
        self._accessor.set(self._key, {"format_version": FORMAT_VERSION, "watermark": watermark.isoformat()})


def asset_watermark(context: Context, *, outlets: list[Any], target: str) -> AssetWatermark | None:
    """Give the watermark on the task's first outlet asset; None where Airflow has no asset state store.

    :raises ParameterError: the task has no asset among its outlets.
    """
    from airflow.sdk import Asset

    accessors = context.get("asset_state_store")
    if accessors is None:
        return None
    asset = next((outlet for outlet in outlets if isinstance(outlet, Asset)), None)
    if asset is None:
        raise ParameterError(
            "incremental=True keeps its watermark in the state store of the task's outlet asset, and the task has none: "
            'give it one, such as outlets=[Asset("warehouse/subscriptions")]'
        )
    return AssetWatermark(accessors[asset], target=target)
