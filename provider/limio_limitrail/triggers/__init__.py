# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Triggers: wait and watch without a worker. `new_events` is for the tasks of a Dag that a watch starts.

May import `hooks`, `polling` and what these may. Dag files import `limio` and `limitrail`, which are light; the poll loops
(`poll_loops`) are imported in a thread. Begin with `base` (waits) and `events` (watches).
"""

from limio_limitrail.polling import ChangeEvent, new_events

__all__ = ["ChangeEvent", "new_events"]
