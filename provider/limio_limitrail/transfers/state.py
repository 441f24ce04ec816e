# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Airflow's state stores, as landing and watermarks use them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.formats import UNREADABLE, instant, maybe, text, trouble

if TYPE_CHECKING:
    from airflow.sdk import Context

    from limio_limitrail.landing.state import StateStore

log = logging.getLogger(__name__)

PULL_KEY = "limio_limitrail.pull"
WATERMARK_KEY = "limio_limitrail.watermark"
FORMAT_VERSION = 1
REMEMBERED_RUNS = 400
"""Runs whose start is remembered, at some fifty bytes each."""


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


def mark_of(run: str) -> str:
    """Give the short mark under which a run is remembered."""
    return hashlib.sha256(run.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a table has come.

    :param watermark: up to when it is complete; None before the first load.
    :param starts: where recent runs began, by their marks. A run that is made again begins where it began: from the watermark,
        which it moved itself, it would find less than it put into its own rows or folder the first time.
    """

    watermark: datetime | None = None
    starts: Mapping[str, datetime | None] = field(default_factory=dict)


class AssetWatermark:
    """A table's watermark in the state store of the task's outlet asset (Airflow 3.3 and later), kept across runs.

    :param accessor: the asset's state store.
    :param target: what the watermark is about; one asset can hold those of several mapped pulls.
    """

    def __init__(self, accessor: Any, *, target: str) -> None:
        self._accessor = accessor
        self._key = f"{WATERMARK_KEY}:{target}"

    def read(self) -> Progress:
        """Give the watermark, and where recent runs began.

        :raises ParameterError: what is stored was written by a newer version, or is damaged.
        """
        value = self._accessor.get(self._key)
        if value is None:
            return Progress()
        if not isinstance(value, Mapping):
            raise self._unreadable(f"is damaged ({type(value).__name__})")
        if (why := trouble(value.get("format_version"), reads=FORMAT_VERSION)) is not None:
            raise self._unreadable(why)
        try:
            return Progress(
                watermark=maybe(instant, value["watermark"]),
                # Its first version did not remember where runs began.
                starts={text(mark): maybe(instant, since) for mark, since in value.get("starts", ())},
            )
        except UNREADABLE as error:
            raise self._unreadable(f"is damaged ({type(error).__name__}: {error})") from None

    def _unreadable(self, why: str) -> ParameterError:
        return ParameterError(
            f"the watermark stored under {self._key!r} {why}. Run the version that has written it, or run once with "
            "full_refresh=True to set it anew"
        )

    def move(self, reached: datetime | None, *, run: str, since: datetime | None) -> datetime | None:
        """Move the watermark, after what it stands for is safe, but never back; give where it stands.

        :param reached: up to when the table is complete; None where nothing newer came.
        :param run: the pull that got there.
        :param since: where that pull began.
        """
        try:
            before = self.read()
        except ParameterError as error:
            # Only a full refresh comes this far, and pulls that read the whole list anyway.
            log.warning("The watermark is set anew: %s", error.what)
            before = Progress()
        watermark = max((time for time in (before.watermark, reached) if time is not None), default=None)
        starts = {**before.starts, mark_of(run): since}
        self._accessor.set(
            self._key,
            {
                "format_version": FORMAT_VERSION,
                "watermark": _text(watermark),
                # A list, because not every store keeps the order of an object's members.
                "starts": [[mark, _text(start)] for mark, start in starts.items()][-REMEMBERED_RUNS:],
            },
        )
        return watermark


def _text(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat()


def asset_watermark(context: Context, *, outlets: list[Any], target: str) -> AssetWatermark | None:
    """Give the watermark on the task's first outlet asset; None where Airflow has no asset state store.

    :raises ParameterError: the task has no asset among its outlets.
    """
    from airflow.sdk import Asset

    accessors: Any = context.get("asset_state_store")
    if accessors is None and context.get("task_state_store") is None:
        return None
    # Airflow leaves the store out of the context of a task that has no asset.
    asset = next((outlet for outlet in outlets if isinstance(outlet, Asset)), None) if accessors is not None else None
    if asset is None:
        raise ParameterError(
            "incremental=True keeps its watermark in the state store of the task's outlet asset, and the task has none: "
            'give it one, such as outlets=[Asset("warehouse/subscriptions")]'
        )
    return AssetWatermark(accessors[asset], target=target)
