# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whether the file that a database has open is still the one at its path: a file can be replaced while it is written."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DESCRIPTORS = "/dev/fd"


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one at the same path; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def has_open(path: Path) -> bool:
    """Return whether this process has the file at a path open; True where the system does not say."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        descriptors = os.listdir(_DESCRIPTORS)  # noqa: PTH208 - names are enough, and no paths are made
    except OSError:
        return True
    for descriptor in descriptors:
        # That of the listing itself is closed.
        with suppress(OSError):
            if os.path.samestat(os.fstat(int(descriptor)), there):
                return True
    return False
