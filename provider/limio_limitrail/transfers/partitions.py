# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The partitions that a load touches, from the load to the asset events of the task's outlets."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.redact import holds_secret
from limio_limitrail.assets.outlet_events import outlet_events, takes_partitions
from limio_limitrail.stored_formats import trouble

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger("limio_limitrail.transfers")

STORE_KEY = "limio_limitrail.partitions"
FORMAT_VERSION = 1


def check_partitions(context: Context, *, column: str, mode: str, outlets: Iterable[Any], dropped: Sequence[str]) -> None:
    """Check the task's parameters before the first request.

    :raises ParameterError: this Airflow has no partitions, or no event could have them.
    """
    if not takes_partitions():
        raise ParameterError("partition_column needs Airflow 3.3 or later, whose asset events have partition keys: leave it out")
    if not outlet_events(context, outlets=outlets):
        raise ParameterError(
            "partition_column puts partition keys into the event of the task's outlet asset, and the task has none: give it one, "
            'such as outlets=[Asset("warehouse/usage")]'
        )
    if mode == "replace":
        raise ParameterError("mode='replace' writes every partition in each run: leave partition_column out, or merge")
    if column in dropped:
        raise ParameterError(f"partition_column and drop_columns both name {column!r}: take it out of one of them")


class TouchedStore:
    """Keeps the touched partitions in the task's state store, so that a try that ends after its commit loses none.

    What a run has touched is kept with it: a run that is repeated sends the same keys again.

    :param context: the task's.
    :param about: the table and the column.
    """

    def __init__(self, context: Context, *, about: str) -> None:
        self._accessor: Any = context.get("task_state_store")
        self._about = about
        self._keys: tuple[str, ...] | None = None

    def keys(self) -> tuple[str, ...]:
        """Return what this run has touched; nothing if what is stored cannot be read, or is about something else."""
        if self._keys is None:
            self._keys = self._load()
        return self._keys

    def add(self, keys: Iterable[str]) -> None:
        """Add keys. Called before the commit: a key too many is harmless, and a missing one is not.

        :raises ParameterError: a key repeats a credential, which no event may hold.
        """

        before = self.keys()
        merged = tuple(sorted({*before, *keys}))
        if any(holds_secret(key) for key in merged):
            raise ParameterError(
                "a value of partition_column repeats a credential, and can be no partition key. Nothing was loaded: leave "
                "partition_column out, or name another"
            )
        self._keys = merged
        if self._accessor is not None and merged != before:
            self._accessor.set(STORE_KEY, {"format_version": FORMAT_VERSION, "about": self._about, "keys": list(merged)})

    def _load(self) -> tuple[str, ...]:
        value = None if self._accessor is None else self._accessor.get(STORE_KEY)
        if value is None:
            return ()
        damaged = not isinstance(value, dict) or not isinstance(value.get("keys"), list)
        if why := "is damaged" if damaged else trouble(value.get("format_version"), reads=FORMAT_VERSION):
            log.warning("The partitions that an earlier try of this run has touched are not sent again: what is stored %s.", why)
            return ()
        return tuple(map(str, value["keys"])) if value.get("about") == self._about else ()
