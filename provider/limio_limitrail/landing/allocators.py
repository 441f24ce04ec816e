# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Allocators of a process that pulls and loads: their caches would hold more memory than the pull and the load use.

Pages, groups of rows and what a driver sends are blocks of up to some megabytes. A group is often freed by another thread than
the one that has allocated it: Arrow's own allocator, mimalloc, then keeps its memory until that thread allocates again, and
``release_unused`` only reaches what the calling thread has allocated. The system's allocator returns what any thread has freed,
but each thread would begin with a heap of its own.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

POOL = "ARROW_DEFAULT_MEMORY_POOL"
"""The environment variable by which Arrow chooses its allocator when it is loaded."""

HEAPS_LIMIT = "MALLOC_ARENA_MAX"
"""The environment variable by which glibc limits its heaps when a process starts."""

HEAPS = 2
"""Heaps of glibc that the threads share, of which there would be up to eight for each core."""

_M_ARENA_MAX = -8
"""That limit in glibc's ``malloc.h``."""


def keep_caches_small() -> None:
    """Make Arrow and glibc keep little freed memory in this process, unless its environment says what they do.

    Call it before Arrow is loaded, which otherwise continues to use the allocator that it has, apart from what Python asks for.
    """
    if POOL not in os.environ:
        os.environ[POOL] = "system"
        if "pyarrow" in sys.modules:
            import pyarrow as pa

            pa.set_memory_pool(pa.system_memory_pool())
    if HEAPS_LIMIT not in os.environ:
        # Other C libraries have no such function.
        with suppress(AttributeError, OSError, TypeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, HEAPS)
