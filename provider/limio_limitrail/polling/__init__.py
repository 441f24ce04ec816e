# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Conditions to wait for, and changes to watch for: the same on a worker and in a triggerer. `new_events` is for Dags.

May import `api` and `parameters`, and nothing of Airflow.
Begin with `poll` and `conditions` (waits), then `changes`, `watermark` and `watch_state` (watches).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limio_limitrail.polling.events import ChangeEvent, new_events

__all__ = ["ChangeEvent", "new_events"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from limio_limitrail.polling import events  # later: no other module of this package needs it

    return getattr(events, name)
