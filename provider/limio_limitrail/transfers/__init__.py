# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Operators that pull lists into files or tables.

May import `hooks`, `landing`, `parameters` and `observability`. Begin with `base`.
"""

from typing import TYPE_CHECKING

from limio_limitrail.lazy import lazy_names

if TYPE_CHECKING:
    from limio_limitrail.landing.checks import Check
    from limio_limitrail.transfers.child_tables import ChildTable

__all__ = ["Check", "ChildTable"]

__getattr__ = lazy_names(
    __name__,
    modules={
        "limio_limitrail.landing.checks": ("Check",),
        "limio_limitrail.transfers.child_tables": ("ChildTable",),
    },
)
