# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Conditions to wait for, and changes to watch for: the same on a worker and in a triggerer. `new_events` is for Dags.

May import `api` and `parameters`, and nothing of Airflow.
Begin with `poll` and `conditions` (waits), then `changes`, `watermark` and `watch_state` (watches).
"""

from typing import TYPE_CHECKING

from limio_limitrail.lazy import lazy_names

if TYPE_CHECKING:
    from limio_limitrail.polling.events import ChangeEvent, new_events

__all__ = ["ChangeEvent", "new_events"]

__getattr__ = lazy_names(
    __name__,
    modules={
        "limio_limitrail.polling.events": ("ChangeEvent", "new_events"),
    },
)
