# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Python's garbage collections while thousands of requests pass through a process that has all of Airflow in memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_YOUNG = 20_000
"""Objects that are made, and not freed, before Python looks for garbage among them; by default it is a few hundred."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Let Python collect garbage seldom, and not look again and again at what is in memory already.

    Each full collection looks at everything that Airflow has imported, while all threads stand still.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    if thresholds[0]:
        gc.set_threshold(max(_YOUNG, thresholds[0]), *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        # Also what was frozen before, by an executor that has forked this process: to ask whether anything was costs a walk over
        # all of it, a tenth of a second, and there is little left for the process to do.
        gc.unfreeze()
