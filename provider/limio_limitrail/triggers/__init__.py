# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Triggers: wait and watch without a worker. `new_events` is for the tasks of a Dag that a watch starts.

May import `hooks`, `polling` and what these may. Dag files import `limio` and `limitrail`, which are light; the poll loops
(`poll_loops`) are imported in a thread. Begin with `base` (waits) and `events` (watches).
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
